// The Lua scripts of the Redis store, one for each transition: an atomic step on the server that tests
// state, attempt and owner where it writes (SM-17). Claims and endings have theirs in `advance-script.ts`.

import { JOURNAL_SUFFIX } from "./keyspace.ts";
import { REPLY_BYTES_MAX, script } from "./lua.ts";

/** SM-14. A journal that is gone before its record is a record that cannot be read. */
export const append = script(
  `
local function add(key, text, bytes)
  local journal = key .. '${JOURNAL_SUFFIX}'
  if isJournaled then
    local length = redis.pcall('STRLEN', journal)
    if type(length) ~= 'number' or length == 0 then return UNREADABLE end
    call('APPEND', journal, bytes)
  else
    call('SET', journal, bytes)
    isJournaled = true
    save(key, sub(text, 44, namesEnd), sub(text, namesEnd + 1))
  end
  return DONE
end

local answers = {now}
for i = 1, count do
  local holder, number, length, bytesAt = unpack('>c16dI4', items, at)
  at = bytesAt + length
  local text = look(KEYS[i])
  if not text then
    answers[i + 1] = NO
  elseif not state then
    answers[i + 1] = UNREADABLE
  elseif state == RUNNING and attempt == number and owner == holder then
    answers[i + 1] = add(KEYS[i], text, sub(items, bytesAt, at - 1))
  else
    answers[i + 1] = NO
  end
end
return answers
`,
  true,
);

/** For an attempt that never ran: the number is the next one's again. */
export const giveBack = script(
  `
local id, holder, number, retention = unpack('>c16c16dd', items, at)
local text = look(KEYS[1])
if not text then return {now, NO} end
if not state then return {now, UNREADABLE} end
if state ~= RUNNING or attempt ~= number or owner ~= holder then return {now, NO} end
state, attempt, updated, expires = OPEN, attempt - 1, now, after(now, retention)
save(KEYS[1], sub(text, 44, namesEnd), '')
list(id)
writePlaces()
if ARGV[3] == '1' then call('PUBLISH', KEYS[1], '') end
return {now, DONE}
`,
  true,
);

/** SM-11. */
export const renew = script(`
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

/** Live records, whole: one that has a journal as a list of the two. */
export const read = script(`
local answers, bytes = {now}, 0
for i = 1, count do
  local answer = AGAIN
  if bytes < ${REPLY_BYTES_MAX} then answer = look(KEYS[i]) or NO end
  if type(answer) == 'string' then
    bytes = bytes + #answer
    if state and isJournaled then
      local journal = redis.pcall('GET', KEYS[i] .. '${JOURNAL_SUFFIX}')
      if type(journal) == 'string' then
        bytes = bytes + #journal
        answer = {answer, journal}
      else
        answer = UNREADABLE
      end
    end
  end
  answers[i + 1] = answer
end
return answers
`);

/** SM-12. What is refused is answered with the record. */
export const resolve = script(
  `
local id, nextState, retention, length, tailAt = unpack('>c16BdI4', items, at)
local text = look(KEYS[1])
if not text then return {now, NO} end
if state == HELD or (state and policy ~= RERUN and isLapsed(text)) then
  state, updated, expires = nextState, now, after(now, retention)
  save(KEYS[1], sub(text, 44, namesEnd), sub(items, tailAt, tailAt + length - 1))
  list(id)
  writePlaces()
  if ARGV[3] == '1' then call('PUBLISH', KEYS[1], '') end
  return {now, DONE}
end
return {now, text}
`,
  true,
);

/** SM-13. What is not voided now is answered with the record. */
export const void_ = script(
  `
local id, retention, namesAt = unpack('>c16d', items, at)
local text, names = look(KEYS[1]), nil
if not text then
  policy, attempt, crashes, owner, created = HOLD, 0, 0, string.rep('\\0', 16), now
  isJournaled = false
  names = sub(items, namesAt)
elseif state == OPEN or state == HELD or (state and isLapsed(text)) then
  names = sub(text, 44, namesEnd)
else
  return {now, text}
end
state, updated, expires = VOID, now, after(now, retention)
save(KEYS[1], names, '')
list(id)
writePlaces()
if ARGV[3] == '1' then call('PUBLISH', KEYS[1], '') end
return {now, DONE}
`,
  true,
);

/** A damaged record may be deleted, which is the only way to be rid of it; a newer one may not. */
export const forget = script(
  `
local id = sub(items, 1, 16)
local text = look(KEYS[1])
if state and state == RUNNING and text and not isLapsed(text) then return {now, text} end
if type(text) == 'string' and (byte(text, 1) or 0) > 1 then return {now, text} end
call('DEL', KEYS[1], KEYS[1] .. '${JOURNAL_SUFFIX}')
call('ZREM', KEYS[2], id)
if ARGV[3] == '1' then call('PUBLISH', KEYS[1], '') end
return {now, text and DONE or NO}
`,
  true,
);
