// The Lua script of claims and endings, which a busy process has many of in the same turn: a command
// costs as much as a few of them do. Most are of operations without trouble: these take a short way.

import { REPLY_BYTES_MAX, script } from "./lua.ts";
import { ADVANCES } from "./packing.ts";

/** What items of a kind have in common, and what it comes to now; ends as a record and as Redis has them. */
const TERMS = `
local function termsOf(read)
  local terms = {}
  local number = byte(items, at)
  at = at + 1
  for n = 1, number do terms[n] = read() end
  return terms
end

local claimTerms = termsOf(function()
  local lease, attemptsMax, lapsed, held
  lease, attemptsMax, lapsed, held, at = unpack('>dddd', items, at)
  local ends = after(now + lease, lapsed)
  return {
    attemptsMax = attemptsMax, held = held, ends = ends, pxat = ends ~= 0 and digits(ends),
    stamp = pack('>BI6I6I6', RUNNING, now, ends, now), deadline = pack('>I6', now + lease)
  }
end)

local endingTerms = termsOf(function()
  local next, retention
  next, retention, at = unpack('>Bd', items, at)
  local ends = after(now, retention)
  return {
    state = next, ends = ends, pxat = ends ~= 0 and digits(ends),
    stamp = pack('>BI6I6', next, now, ends), place = RANGE[next] and digits(RANGE[next] + ends)
  }
end)
`;

/** SM-1 to SM-7. */
const CLAIM = `
local place = digits(now)

local function acquire(key, names, claimant, t)
  state, owner, expires = RUNNING, claimant, t.ends
  save(key, names, t.deadline)
  if policy == PROBE and crashes > 0 then return attempt * 2 + 1 end
  return attempt * 2
end

-- Where nothing is, not even what is no record. What an item brings is the record but for its times.
local function create(key, t, from)
  local text = sub(items, from + 16, from + 36) .. t.stamp .. sub(items, from + 37, at - 1) .. t.deadline
  local isWritten
  if t.pxat then isWritten = call('SET', key, text, 'NX', 'PXAT', t.pxat)
  else isWritten = call('SET', key, text, 'NX') end
  if not isWritten then return UNREADABLE end
  places[placed + 1], places[placed + 2] = place, sub(items, from, from + 15)
  placed = placed + 2
  return 2
end

-- In the place of a record that has ended, and that Redis has not removed.
local function replace(key, t, from, claimant, onCrash, names)
  policy, attempt, crashes, created, updated, isJournaled = onCrash, 1, 0, now, now, false
  local answer = acquire(key, names, claimant, t)
  list(sub(items, from, from + 15))
  return answer
end

local function decide(key, text, t, from)
  local id, fence, onCrash, _, f = unpack('>c16c21BI2B', items, from)
  local claimant = sub(fence, 6)
  local live = examine(text)
  if not live then return replace(key, t, from, claimant, onCrash, sub(items, from + 40, at - 1)) end
  if not state then return text end
  if sub(text, 49, 48 + byte(text, 44)) ~= sub(items, from + 45, from + 44 + f) then return text end
  local names = sub(text, 44, namesEnd)
  if state == OPEN then
    policy, attempt, updated = onCrash, attempt + 1, now
    local answer = acquire(key, names, claimant, t)
    list(id)
    return answer
  end
  if state ~= RUNNING then return text end
  if owner == claimant then return acquire(key, names, claimant, t) end
  if not isLapsed(text) then return text end
  if policy == HOLD or crashes + 1 >= t.attemptsMax then
    state, updated, expires = HELD, now, after(now, t.held)
    return save(key, names, policy == HOLD and 'lease-lapsed' or 'attempts-exhausted')
  end
  attempt, crashes = attempt + 1, crashes + 1
  return acquire(key, names, claimant, t)
end

local function claim(key, text, t, from, isTimed)
  -- What is completed is answered as it is, whatever was claimed.
  if text and #text > 48 and byte(text, 1) == 1 and byte(text, 22) == COMPLETED
    and unpack('>I6', text, 29) > now then return text end
  if isTimed then
    local sentAt, ageMax, next = unpack('>dd', items, from)
    if now - sentAt > ageMax and not examine(text) then return NO end
    from = next
  end
  if text then return decide(key, text, t, from) end
  return create(key, t, from)
end
`;

/** SM-8 to SM-10. */
const END = `
-- Of a running record that is whole and has no journal.
local function isPlain(text)
  if #text < 54 then return false end
  local s, _, ends, _, p, _, f, sc, k = unpack('>BI6I6I6BI2BI2I2', text, 22)
  return s == RUNNING and (ends == 0 or ends > now) and p <= PROBE and #text == 54 + f + sc + k
end

local function write(key, text, fence, t, tail)
  if isPlain(text) then
    local ended = fence .. t.stamp .. sub(text, 35, -7) .. tail
    if t.pxat then call('SET', key, ended, 'PXAT', t.pxat) else call('SET', key, ended) end
    return DONE
  end
  if not examine(text) then return NO end
  if not state then return UNREADABLE end
  if state ~= RUNNING then return NO end
  state, updated, expires = t.state, now, t.ends
  save(key, sub(text, 44, namesEnd), tail)
  return DONE
end

-- The text of another record, or of none that this version reads.
local function refuse(text)
  if examine(text) and not state then return UNREADABLE end
  return NO
end

local function finish(key, text, t, from)
  local fence = text and sub(text, 1, 21)
  if not text or fence ~= sub(items, from + 16, from + 36) then
    return refuse(text or redis.pcall('GET', key))
  end
  local answer = write(key, text, fence, t, sub(items, from + 37, at - 1))
  if answer == DONE then
    if t.place then
      places[placed + 1], places[placed + 2] = t.place, sub(items, from, from + 15)
      placed = placed + 2
    end
    if ARGV[3] == '1' then call('PUBLISH', key, '') end
  end
  return answer
end
`;

/** An attempt that a claim acquired is answered as twice its number, plus 1 when it is a probe. */
export const advance = script(
  `${TERMS}${CLAIM}${END}
local answers, bytes = {now}, 0
for i = 1, count do
  local answer = AGAIN
  if bytes < ${REPLY_BYTES_MAX} then
    local kind, term, length, from = unpack('>BBI4', items, at)
    at = from + length
    if kind == ${ADVANCES.ending} then answer = finish(KEYS[i], textOf(i), endingTerms[term], from)
    else
      answer = claim(KEYS[i], textOf(i), claimTerms[term], from, kind == ${ADVANCES.timedClaim})
      if type(answer) == 'string' then bytes = bytes + #answer end
    end
  end
  answers[i + 1] = answer
end
writePlaces()
return answers
`,
  true,
);
