// The Lua scripts of the Redis store: one per transition, each over many records at once. A script is
// one atomic step on the server, and tests state, attempt and owner where it writes (SM-17).
//
// KEYS: the records of the batch, then the indexes of their shards. ARGV[1]: how many records; ARGV[2]:
// the items, packed as `packing.ts` does; ARGV[3]: "1" to publish. The answer is the server's time and
// one value for each item. Lua's numbers are doubles: times and scores stay below 2^53.

import { createHash } from "node:crypto";

/** A script, and the digest that a server knows it by. */
export interface RedisScript {
  readonly source: string;
  readonly sha: string;
  /** Whether what it does to records must not be lost (`wait`). */
  readonly isKept: boolean;
}

/** What a script answers for an item instead of a record. `begin` answers from 2: see there. */
export const CODES = {
  done: 1,
  no: 0,
  /** This version cannot read the record, or what is there is no record. */
  unreadable: -1,
  /** The reply was long enough already: to be asked again. */
  again: -2,
} as const;

/** Where the scores of finished records begin; what is running or held has the range from 0. */
export const FINISHED_SCORES = {
  completed: 2 ** 45,
  open: 2 * 2 ** 45,
  void: 3 * 2 ** 45,
} as const;

/** The longest time that fits a range of scores: the year 3084. */
export const TIME_MAX = 2 ** 45 - 1;

/** A reply grows by no more items from here on, so that large replays keep no other client waiting. */
const REPLY_BYTES_MAX = 1_048_576;

/**
 * Common to all. A record is read through `look()`, which gives its text and sets the fields below,
 * or gives nothing when it is absent or expired; `state` is nil for one that cannot be read, which no
 * script overwrites (SM-23b).
 */
const PRELUDE = `
local spread = unpack
local pack, unpack, sub, byte = struct.pack, struct.unpack, string.sub, string.byte
local RUNNING, COMPLETED, HELD, OPEN, VOID = 1, 2, 3, 4, 5
local HOLD, RERUN, PROBE = 0, 1, 2
local RANGE = {
  [COMPLETED] = ${FINISHED_SCORES.completed},
  [OPEN] = ${FINISHED_SCORES.open},
  [VOID] = ${FINISHED_SCORES.void}
}
local DONE, NO, UNREADABLE, AGAIN = ${CODES.done}, ${CODES.no}, ${CODES.unreadable}, ${CODES.again}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local count, items, at = tonumber(ARGV[1]), ARGV[2], 1

local state, policy, attempt, crashes, owner, created, updated, expires, namesEnd

local function parse(text)
  state = nil
  if #text < 48 then return end
  local format, s, p, a, c, o, made, changed, ends, f, sc, k = unpack('>BBBI4I2c16I6I6I6BI2I2', text)
  namesEnd = 48 + f + sc + k
  if format ~= 1 or s < RUNNING or s > VOID or p > PROBE or #text < namesEnd then return end
  if s == RUNNING and #text ~= namesEnd + 6 then return end
  state, policy, attempt, crashes, owner, created, updated, expires = s, p, a, c, o, made, changed, ends
end

local function look(key)
  local text = redis.pcall('GET', key)
  if not text then return nil end
  if type(text) ~= 'string' then
    state = nil
    return UNREADABLE
  end
  parse(text)
  if state and expires ~= 0 and expires <= now then return nil end
  return text
end

local function save(key, names, tail)
  local text = pack('>BBBI4I2c16I6I6I6', 1, state, policy, attempt, crashes, owner, created, updated, expires)
    .. names .. tail
  if expires == 0 then redis.call('SET', key, text)
  else redis.call('SET', key, text, 'PXAT', expires) end
  return text
end

-- What is running or held is found by its creation, what is finished by its end.
local function list(index, id)
  local range = RANGE[state]
  redis.call('ZADD', KEYS[count + index], range and range + expires or created, id)
end

-- The end of a retention; a negative one has none.
local function after(from, retention)
  if retention < 0 then return 0 end
  return from + retention
end

local function isLapsed(text)
  return state == RUNNING and unpack('>I6', text, #text - 5) <= now
end
`;

/** SM-1 to SM-7. An acquired attempt is answered as twice its number, plus 1 when it is a probe. */
const begin = script(
  `
local function acquire(key, names, claimant, lease, lapsed)
  state, owner, expires = RUNNING, claimant, after(now + lease, lapsed)
  save(key, names, pack('>I6', now + lease))
  if policy == PROBE and crashes > 0 then return attempt * 2 + 1 end
  return attempt * 2
end

local function claim(key)
  local id, claimant, onCrash, index, lease, attemptsMax, lapsed, held, sentAt, ageMax, f, s, k, namesAt
  id, claimant, onCrash, index, lease, attemptsMax, lapsed, held, sentAt, ageMax, f, s, k, namesAt =
    unpack('>c16c16BI2ddddddBI2I2', items, at)
  at = namesAt + f + s + k
  local text = look(key)
  if not text then
    if ageMax >= 0 and now - sentAt > ageMax then return NO end
    policy, attempt, crashes, created, updated = onCrash, 1, 0, now, now
    local answer = acquire(key, sub(items, namesAt - 5, at - 1), claimant, lease, lapsed)
    list(index, id)
    return answer
  end
  if not state then return text end
  local fingerprint = sub(text, 49, 48 + byte(text, 44))
  if fingerprint ~= sub(items, namesAt, namesAt + f - 1) then return text end
  local names = sub(text, 44, namesEnd)
  if state == OPEN then
    policy, attempt, updated = onCrash, attempt + 1, now
    local answer = acquire(key, names, claimant, lease, lapsed)
    list(index, id)
    return answer
  end
  if state ~= RUNNING then return text end
  if owner == claimant then return acquire(key, names, claimant, lease, lapsed) end
  if not isLapsed(text) then return text end
  if policy == HOLD or crashes + 1 >= attemptsMax then
    state, updated, expires = HELD, now, after(now, held)
    return save(key, names, policy == HOLD and 'lease-lapsed' or 'attempts-exhausted')
  end
  attempt, crashes = attempt + 1, crashes + 1
  return acquire(key, names, claimant, lease, lapsed)
end

local answers, bytes = {now}, 0
for i = 1, count do
  local answer = AGAIN
  if bytes < ${REPLY_BYTES_MAX} then answer = claim(KEYS[i]) end
  if type(answer) == 'string' then bytes = bytes + #answer end
  answers[i + 1] = answer
end
return answers
`,
  true,
);

/** SM-8 to SM-10. */
const settle = script(
  `
local answers = {now}
for i = 1, count do
  local id, holder, number, index, nextState, retention, length, tailAt =
    unpack('>c16c16dI2BdI4', items, at)
  at = tailAt + length
  local text = look(KEYS[i])
  if not text then
    answers[i + 1] = NO
  elseif not state then
    answers[i + 1] = UNREADABLE
  elseif state == RUNNING and attempt == number and owner == holder then
    state, updated, expires = nextState, now, after(now, retention)
    save(KEYS[i], sub(text, 44, namesEnd), sub(items, tailAt, at - 1))
    if state ~= HELD then list(index, id) end
    if ARGV[3] == '1' then redis.call('PUBLISH', KEYS[i], '') end
    answers[i + 1] = DONE
  else
    answers[i + 1] = NO
  end
end
return answers
`,
  true,
);

/** SM-11. */
const renew = script(`
local answers = {now}
for i = 1, count do
  local holder, number, lease, lapsed
  holder, number, lease, lapsed, at = unpack('>c16ddd', items, at)
  local text = look(KEYS[i])
  if not text then
    answers[i + 1] = NO
  elseif not state then
    answers[i + 1] = UNREADABLE
  elseif state == RUNNING and attempt == number and owner == holder then
    expires = after(now + lease, lapsed)
    save(KEYS[i], sub(text, 44, namesEnd), pack('>I6', now + lease))
    answers[i + 1] = DONE
  else
    answers[i + 1] = NO
  end
end
return answers
`);

/** Live records, whole. */
const read = script(`
local answers, bytes = {now}, 0
for i = 1, count do
  local answer = AGAIN
  if bytes < ${REPLY_BYTES_MAX} then answer = look(KEYS[i]) or NO end
  if type(answer) == 'string' then bytes = bytes + #answer end
  answers[i + 1] = answer
end
return answers
`);

/** Live records without their results, which may be large. */
const glance = script(`
local answers = {now}
for i = 1, count do
  local text = redis.pcall('GETRANGE', KEYS[i], 0, 47)
  if type(text) ~= 'string' then
    text = UNREADABLE
  elseif #text == 48 then
    local f, s, k = unpack('>BI2I2', text, 44)
    local isCompleted = byte(text, 2) == COMPLETED
    text = redis.call('GETRANGE', KEYS[i], 0, isCompleted and 47 + f + s + k or -1)
    parse(text)
    if state and expires ~= 0 and expires <= now then text = NO end
  elseif text == '' then
    text = NO
  end
  answers[i + 1] = text
end
return answers
`);

/** SM-12. What is refused is answered with the record. */
const resolve = script(
  `
local id, index, nextState, retention, length, tailAt = unpack('>c16I2BdI4', items, at)
local text = look(KEYS[1])
if not text then return {now, NO} end
if state == HELD or (state and policy ~= RERUN and isLapsed(text)) then
  state, updated, expires = nextState, now, after(now, retention)
  save(KEYS[1], sub(text, 44, namesEnd), sub(items, tailAt, tailAt + length - 1))
  list(index, id)
  if ARGV[3] == '1' then redis.call('PUBLISH', KEYS[1], '') end
  return {now, DONE}
end
return {now, text}
`,
  true,
);

/** SM-13. What is not voided now is answered with the record. */
const void_ = script(
  `
local id, index, retention, namesAt = unpack('>c16I2d', items, at)
local text, names = look(KEYS[1]), nil
if not text then
  policy, attempt, crashes, owner, created = HOLD, 0, 0, string.rep('\\0', 16), now
  names = sub(items, namesAt)
elseif state == OPEN or state == HELD or (state and isLapsed(text)) then
  names = sub(text, 44, namesEnd)
else
  return {now, text}
end
state, updated, expires = VOID, now, after(now, retention)
save(KEYS[1], names, '')
list(index, id)
if ARGV[3] == '1' then redis.call('PUBLISH', KEYS[1], '') end
return {now, DONE}
`,
  true,
);

/** A damaged record may be deleted, which is the only way to be rid of it; a newer one may not. */
const forget = script(
  `
local id, index = unpack('>c16I2', items, at)
local text = look(KEYS[1])
if state and state == RUNNING and text and not isLapsed(text) then return {now, text} end
if type(text) == 'string' and (byte(text, 1) or 0) > 1 then return {now, text} end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[count + index], id)
if ARGV[3] == '1' then redis.call('PUBLISH', KEYS[1], '') end
return {now, text and DONE or NO}
`,
  true,
);

/**
 * Forgets the places of records whose end has come (they have gone by themselves), in all indexes
 * given: at most as many as ARGV[2] says. The server's own time decides.
 */
const sweep = script(`
-- No more than fits a call of Lua's.
local left, removed = math.min(tonumber(items), 5000), 0
for i = 1, #KEYS do
  for _, range in pairs(RANGE) do
    if left > 0 then
      local gone = redis.call('ZRANGEBYSCORE', KEYS[i], range, range + now, 'LIMIT', 0, left)
      if #gone > 0 then removed = removed + redis.call('ZREM', KEYS[i], spread(gone)) end
      left = left - #gone
    end
  end
end
return {now, removed}
`);

/** Forgets the places of records that are running or held no more, because they ended unseen. */
const prune = script(`
local answers = {now}
for i = 1, count do
  local id, index
  id, index, at = unpack('>c16I2', items, at)
  local text = look(KEYS[i])
  answers[i + 1] = NO
  if not text and redis.call('ZREM', KEYS[count + index], id) == 1 then answers[i + 1] = DONE end
end
return answers
`);

/** How many records of each finished state are live, in all indexes given. */
const tally = script(`
local answers = {now, 0, 0, 0}
for i = 1, #KEYS do
  for n, s in ipairs({COMPLETED, OPEN, VOID}) do
    local ended = '(' .. string.format('%.0f', RANGE[s] + now)
    answers[n + 1] = answers[n + 1] + redis.call('ZCOUNT', KEYS[i], ended, RANGE[s] + ${TIME_MAX})
  end
end
return answers
`);

/**
 * Places in the indexes given, highest first: of each at most ARGV[2], in the range that begins at
 * ARGV[4], with scores up to ARGV[3] and, among those with that very score, only ids below ARGV[5].
 * What has ended is left out. One list for each index.
 */
const page = script(`
local limit, max, min, bound = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5]
if min ~= '0' then min = '(' .. string.format('%.0f', tonumber(min) + now) end
local answers = {now}
for i = 1, #KEYS do
  local places, offset, more = {}, 0, true
  while more do
    local found = redis.call('ZRANGE', KEYS[i], max, min, 'BYSCORE', 'REV',
      'LIMIT', offset, limit, 'WITHSCORES')
    for n = 1, #found, 2 do
      if #places < 2 * limit and (tonumber(found[n + 1]) < max or found[n] < bound) then
        places[#places + 1] = found[n]
        places[#places + 1] = found[n + 1]
      end
    end
    offset = offset + limit
    more = #found == 2 * limit and #places < 2 * limit
  end
  answers[i + 1] = places
end
return answers
`);

export const SCRIPTS = {
  begin,
  settle,
  renew,
  read,
  glance,
  resolve,
  void: void_,
  forget,
  sweep,
  prune,
  tally,
  page,
};

function script(body: string, isKept = false): RedisScript {
  const source = (PRELUDE + body).trim();
  return { source, sha: createHash("sha1").update(source).digest("hex"), isKept };
}
