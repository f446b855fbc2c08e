// The Lua scripts that list, count and sweep what the Redis store keeps, from its indexes.

import { script, TIME_MAX } from "./lua.ts";

/** Live records without their results, which may be large. */
export const glance = script(`
local answers = {now}
for i = 1, count do
  local text = redis.pcall('GETRANGE', KEYS[i], 0, 47)
  if type(text) ~= 'string' then
    text = UNREADABLE
  elseif #text == 48 then
    local f, s, k = unpack('>BI2I2', text, 44)
    local isCompleted = byte(text, 22) == COMPLETED
    text = call('GETRANGE', KEYS[i], 0, isCompleted and 47 + f + s + k or -1)
    parse(text)
    if state and expires ~= 0 and expires <= now then text = NO end
  elseif text == '' then
    text = NO
  end
  answers[i + 1] = text
end
return answers
`);

/**
 * Forgets the places of records whose end has come (they have gone by themselves), in the index
 * given: at most as many as ARGV[2] says. The server's own time decides.
 */
export const sweep = script(`
-- No more than fits a call of Lua's.
local left, removed = math.min(tonumber(items), 5000), 0
for _, range in pairs(RANGE) do
  if left > 0 then
    local gone = call('ZRANGEBYSCORE', KEYS[1], range, range + now, 'LIMIT', 0, left)
    if #gone > 0 then removed = removed + call('ZREM', KEYS[1], spread(gone)) end
    left = left - #gone
  end
end
return {now, removed}
`);

/** Forgets the places of records that are running or held no more, because they ended unseen. */
export const prune = script(`
local answers = {now}
for i = 1, count do
  local id = sub(items, 16 * i - 15, 16 * i)
  local text = look(KEYS[i])
  answers[i + 1] = NO
  if not text and call('ZREM', KEYS[count + 1], id) == 1 then answers[i + 1] = DONE end
end
return answers
`);

/** How many records of each finished state are live, in the index given. */
export const tally = script(`
local answers = {now, 0, 0, 0}
for n, s in ipairs({COMPLETED, OPEN, VOID}) do
  answers[n + 1] = call('ZCOUNT', KEYS[1], '(' .. digits(RANGE[s] + now), RANGE[s] + ${TIME_MAX})
end
return answers
`);

/**
 * Places in the index given, highest first: at most ARGV[2], in the range that begins at ARGV[4], with
 * scores up to ARGV[3] and, among those with that very score, only ids below ARGV[5]. What has ended is
 * left out.
 */
export const page = script(`
local limit, max, min, bound = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5]
if min ~= '0' then min = '(' .. digits(tonumber(min) + now) end
local found, offset, more = {}, 0, true
while more do
  local part = call('ZRANGE', KEYS[1], max, min, 'BYSCORE', 'REV', 'LIMIT', offset, limit, 'WITHSCORES')
  for n = 1, #part, 2 do
    if #found < 2 * limit and (tonumber(part[n + 1]) < max or part[n] < bound) then
      found[#found + 1] = part[n]
      found[#found + 1] = part[n + 1]
    end
  end
  offset = offset + limit
  more = #part == 2 * limit and #found < 2 * limit
end
return {now, found}
`);
