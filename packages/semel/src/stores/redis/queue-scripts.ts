// The Lua scripts of the Redis store's queue (EN-7, EN-8). An item is a hash in the slot of its
// operation's record: what is written often in one field, its payload and its error in others. What a
// shard's scripts keep beside the items, by kind:
//
//   line:<kind>:<operation>   what waits of one operation, by place; the first ones have their turn
//   turns:<kind>              what has its turn, by when it is due
//   due:<kind>:<name>         the same, of one name
//   items:<kind>:waiting      all that waits, and
//   items:<kind>:dead         what is dead and kept, by creation
//   items:<kind>:done         what is done, and
//   items:<kind>:fading       what is dead for a while, by the end of its life
//
// KEYS: one key of each shard that is asked, of whichever kind, from which the others are made.

import { REPLY_BYTES_MAX, type RedisScript, script } from "./lua.ts";

/** The numbers that items keep for their states. */
export const ITEM_STATES = { waiting: 0, done: 1, dead: 2 } as const;
/** The first byte of every item. */
export const ITEM_FORMAT = 1;
/** What items hold before their names: see `packing` of the field `m`. */
export const ITEM_NAMES_AT = 87;

/**
 * An item in Lua is a table of what its field `m` holds:
 *
 *   0 format   1 kind   2 state   3 place (4)   7 started (4)   11 finished (4)   15 owner (16)
 *   31 created (6)   37 due or 0 (6)   43 end of life or 0 (6)   49 operation (32)
 *   81 length of the name (2)   83 of the scope (2)   85 of the key (2)   87 these three, as UTF-8
 */
const ITEMS = `
local WAITING, GONE, DEAD = ${ITEM_STATES.waiting}, ${ITEM_STATES.done}, ${ITEM_STATES.dead}
local NOBODY = string.rep('\\0', 16)

local function shardOf(key)
  return sub(key, 1, string.find(key, '}', 1, true))
end

local function decode(text)
  if #text < ${ITEM_NAMES_AT} then return nil end
  local format, kind, s, place, started, finished, holder, made, due, ends, operation, n, sc, k =
    unpack('>BBBI4I4I4c16I6I6I6c32I2I2I2', text)
  if format ~= ${ITEM_FORMAT} then return nil end
  return {
    kind = kind, state = s, place = place, started = started, finished = finished, owner = holder,
    created = made, due = due, expires = ends, operation = operation,
    name = sub(text, ${ITEM_NAMES_AT + 1}, ${ITEM_NAMES_AT} + n), names = sub(text, 82)
  }
end

local function encode(item)
  return pack('>BBBI4I4I4c16I6I6I6', ${ITEM_FORMAT}, item.kind, item.state, item.place, item.started,
    item.finished, item.owner, item.created, item.due, item.expires)
    .. item.operation .. item.names
end

-- The item and true; nil and true for one that cannot be read, nil and false where there is none.
local function find(shard, id)
  local text = redis.pcall('HGET', shard .. 'item:' .. id, 'm')
  if not text then return nil, false end
  local item = type(text) == 'string' and decode(text) or nil
  if item and item.expires ~= 0 and item.expires <= now then return nil, false end
  return item, true
end

local function write(shard, id, item)
  redis.call('HSET', shard .. 'item:' .. id, 'm', encode(item))
end

local function listOf(shard, item)
  local name = 'waiting'
  if item.state == GONE then name = 'done'
  elseif item.state == DEAD then name = item.expires == 0 and 'dead' or 'fading' end
  return shard .. 'items:' .. item.kind .. ':' .. name
end

local function enlist(shard, id, item)
  local score = item.expires == 0 and item.created or item.expires
  redis.call('ZADD', listOf(shard, item), digits(score), id)
end

-- Makes an item that has its turn, or has it no longer, be found or not.
local function offer(shard, id, item)
  redis.call('ZADD', shard .. 'turns:' .. item.kind, digits(item.due), id)
  redis.call('ZADD', shard .. 'due:' .. item.kind .. ':' .. item.name, digits(item.due), id)
end

local function withdraw(shard, id, item)
  redis.call('ZREM', shard .. 'turns:' .. item.kind, id)
  redis.call('ZREM', shard .. 'due:' .. item.kind .. ':' .. item.name, id)
end

-- Where it has its turn, it is now due at another time.
local function postpone(shard, id, item)
  redis.call('ZADD', shard .. 'turns:' .. item.kind, 'XX', digits(item.due), id)
  redis.call('ZADD', shard .. 'due:' .. item.kind .. ':' .. item.name, 'XX', digits(item.due), id)
end

local function lineOf(shard, item)
  return shard .. 'line:' .. item.kind .. ':' .. item.operation
end

local function firstPlace(line)
  return tonumber(redis.call('ZRANGE', line, 0, 0, 'WITHSCORES')[2])
end

local function atPlace(shard, line, place, act)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', line, place, place)) do
    local item = find(shard, id)
    if item then act(shard, id, item) end
  end
end

local function join(shard, id, item)
  local line = lineOf(shard, item)
  local first = firstPlace(line)
  if first and item.place < first then atPlace(shard, line, first, withdraw) end
  redis.call('ZADD', line, digits(item.place), id)
  if not first or item.place <= first then offer(shard, id, item) end
end

local function leave(shard, id, item)
  local line = lineOf(shard, item)
  redis.call('ZREM', line, id)
  withdraw(shard, id, item)
  local first = firstPlace(line)
  if first and first > item.place then atPlace(shard, line, first, offer) end
end

local function isClaimed(item)
  return item.owner ~= NOBODY and item.due > now
end

local function isClaimedBy(item, started, claimant)
  return item.state == WAITING and item.started == started and item.owner == claimant
end
`;

/**
 * Keeps items of one operation; KEYS[1] is its record. ARGV from 3: "1" when fenced by an attempt, its
 * number and owner; when they are due; for each item its id, operation, kind, place, name, scope, key
 * and payload.
 */
const add = queueScript(
  `
if ARGV[3] == '1' then
  local text = look(KEYS[1])
  if text and not state then return {now, UNREADABLE} end
  if not text or state ~= RUNNING or attempt ~= tonumber(ARGV[4]) or owner ~= ARGV[5] then
    return {now, NO}
  end
end
local shard, due = shardOf(KEYS[1]), now + tonumber(ARGV[6])
for n = 7, #ARGV, 8 do
  local id = ARGV[n]
  local item, isThere = find(shard, id)
  if not isThere then
    local name, scope, key = ARGV[n + 4], ARGV[n + 5], ARGV[n + 6]
    item = {
      kind = tonumber(ARGV[n + 2]), state = WAITING, place = tonumber(ARGV[n + 3]), started = 0,
      finished = 0, owner = NOBODY, created = now, due = due, expires = 0, operation = ARGV[n + 1],
      name = name, names = pack('>I2I2I2', #name, #scope, #key) .. name .. scope .. key
    }
    redis.call('DEL', shard .. 'item:' .. id)
    redis.call('HSET', shard .. 'item:' .. id, 'm', encode(item), 'p', ARGV[n + 7])
    redis.call('ZREM', shard .. 'items:' .. item.kind .. ':done', id)
    redis.call('ZREM', shard .. 'items:' .. item.kind .. ':fading', id)
    enlist(shard, id, item)
    join(shard, id, item)
  end
end
return {now, DONE}
`,
  true,
);

/** What is due in the shards given, longest due first: pairs of a time and an id, by shard. */
const DUE = `
-- Of each name so many; the second value is a time up to which none is missing, if there is one.
local function dueIn(shard, kind, names, most)
  local found, horizon = {}, nil
  local first = redis.call('ZRANGEBYSCORE', shard .. 'turns:' .. kind, '-inf', digits(now), 'LIMIT', 0, 1)
  if #first == 0 then return found end
  for n = names, #ARGV do
    local places = redis.call('ZRANGEBYSCORE', shard .. 'due:' .. kind .. ':' .. ARGV[n], '-inf',
      digits(now), 'WITHSCORES', 'LIMIT', 0, most)
    for p = 1, #places, 2 do
      found[#found + 1] = {shard = shard, id = places[p], due = tonumber(places[p + 1])}
    end
    if #places == 2 * most then
      local last = tonumber(places[#places])
      if not horizon or last < horizon then horizon = last end
    end
  end
  return found, horizon
end

local function byDue(one, other)
  if one.due ~= other.due then return one.due < other.due end
  return one.id < other.id
end
`;

/**
 * Claims from the shards given. ARGV from 3: the kind, how many at most, for how long, the owner, the
 * names. Answers with the items, whole.
 */
const claim = queueScript(`
${DUE}
local kind, limit, lease, claimant = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]

local function firstDue(most)
  local found, horizon = {}, nil
  for i = 1, #KEYS do
    local own, ends = dueIn(shardOf(KEYS[i]), kind, 7, most)
    for _, place in ipairs(own) do found[#found + 1] = place end
    if ends and (not horizon or ends < horizon) then horizon = ends end
  end
  table.sort(found, byDue)
  local sure = 0
  while sure < math.min(limit, #found) and (not horizon or found[sure + 1].due <= horizon) do
    sure = sure + 1
  end
  if horizon and sure < limit and most < limit then return firstDue(math.min(limit, most * 4)) end
  return found
end

local answers, bytes = {now}, 0
for _, place in ipairs(firstDue(math.min(limit, math.ceil(2 * limit / #KEYS) + 4))) do
  if #answers > limit or bytes > ${REPLY_BYTES_MAX} then break end
  local shard, id = place.shard, place.id
  local item, isThere = find(shard, id)
  if item then
    item.started, item.owner, item.due = item.started + 1, claimant, now + lease
    write(shard, id, item)
    postpone(shard, id, item)
    local parts = redis.call('HMGET', shard .. 'item:' .. id, 'm', 'p', 'e')
    bytes = bytes + #parts[1] + #(parts[2] or '') + #(parts[3] or '')
    answers[#answers + 1] = {id, parts[1], parts[2], parts[3]}
  elseif isThere then
    -- Of a newer version, which knows what to do with it; out of the others' way for a while.
    redis.call('ZADD', shard .. 'turns:' .. kind, digits(now + lease), id)
    for n = 7, #ARGV do
      redis.call('ZADD', shard .. 'due:' .. kind .. ':' .. ARGV[n], 'XX', digits(now + lease), id)
    end
  end
end
return answers
`);

/** The times of what is due in one shard: ARGV from 3: the kind, how many at most, -, -, the names. */
const peek = queueScript(`
${DUE}
local found = dueIn(shardOf(KEYS[1]), ARGV[3], 7, tonumber(ARGV[4]))
table.sort(found, byDue)
local answers = {now}
for n = 1, math.min(#found, tonumber(ARGV[4])) do answers[n + 1] = found[n].due end
return answers
`);

/** ARGV from 3: how long; for each token the number of its shard's key, its id, started and owner. */
const renew = queueScript(`
local answers = {now}
for n = 4, #ARGV, 4 do
  local shard, id = shardOf(KEYS[tonumber(ARGV[n])]), ARGV[n + 1]
  local item = find(shard, id)
  if item and isClaimedBy(item, tonumber(ARGV[n + 2]), ARGV[n + 3]) then
    item.due = now + tonumber(ARGV[3])
    write(shard, id, item)
    postpone(shard, id, item)
    answers[#answers + 1] = DONE
  else
    answers[#answers + 1] = NO
  end
end
return answers
`);

/**
 * ARGV from 3: for each ending the number of its shard's key, its id, started and owner; its state, the
 * time to the next attempt or to the end of its life (-1: none), "1" with an error, the error.
 */
const finish = queueScript(
  `
local function finishItem(shard, id, item, nextState, ms, hasFailed)
  item.owner = NOBODY
  -- What is handed on counts as not claimed.
  if nextState == WAITING and not hasFailed then item.started = item.started - 1
  else item.finished = item.finished + 1 end
  if nextState == WAITING then
    item.due = now + ms
    write(shard, id, item)
    postpone(shard, id, item)
    return
  end
  redis.call('ZREM', listOf(shard, item), id)
  leave(shard, id, item)
  item.state, item.due, item.expires = nextState, 0, after(now, ms)
  write(shard, id, item)
  enlist(shard, id, item)
  if item.expires ~= 0 then redis.call('PEXPIREAT', shard .. 'item:' .. id, digits(item.expires)) end
end

local answers = {now}
for n = 3, #ARGV, 8 do
  local shard, id = shardOf(KEYS[tonumber(ARGV[n])]), ARGV[n + 1]
  local item = find(shard, id)
  if item and isClaimedBy(item, tonumber(ARGV[n + 2]), ARGV[n + 3]) then
    local hasFailed = ARGV[n + 6] == '1'
    if hasFailed then redis.call('HSET', shard .. 'item:' .. id, 'e', ARGV[n + 7]) end
    finishItem(shard, id, item, tonumber(ARGV[n + 4]), tonumber(ARGV[n + 5]), hasFailed)
    answers[#answers + 1] = DONE
  else
    answers[#answers + 1] = NO
  end
end
return answers
`,
  true,
);

/** ARGV from 3: "1" with payloads; for each item the number of its shard's key, and its id. */
const read = queueScript(`
local answers = {now}
for n = 4, #ARGV, 2 do
  local shard, id = shardOf(KEYS[tonumber(ARGV[n])]), ARGV[n + 1]
  local item, isThere = find(shard, id)
  local key = shard .. 'item:' .. id
  if item and ARGV[3] == '1' then
    local parts = redis.call('HMGET', key, 'm', 'p', 'e')
    answers[#answers + 1] = {id, parts[1], parts[2], parts[3]}
  elseif item then
    local parts = redis.call('HMGET', key, 'm', 'e')
    answers[#answers + 1] = {id, parts[1], '', parts[2]}
  else
    answers[#answers + 1] = isThere and UNREADABLE or NO
  end
end
return answers
`);

/** ARGV[3]: the id. */
const revive = queueScript(
  `
local shard, id = shardOf(KEYS[1]), ARGV[3]
local item = find(shard, id)
if not item or item.state == GONE or isClaimed(item) then return {now, NO} end
local wasDead, list = item.state == DEAD, listOf(shard, item)
item.state, item.started, item.finished, item.owner, item.due, item.expires =
  WAITING, 0, 0, NOBODY, now, 0
write(shard, id, item)
if wasDead then
  redis.call('PERSIST', shard .. 'item:' .. id)
  redis.call('ZREM', list, id)
  enlist(shard, id, item)
  join(shard, id, item)
else
  postpone(shard, id, item)
end
return {now, DONE}
`,
  true,
);

/** ARGV[3]: the id. */
const remove = queueScript(
  `
local shard, id = shardOf(KEYS[1]), ARGV[3]
local item = find(shard, id)
if not item or isClaimed(item) then return {now, NO} end
redis.call('ZREM', listOf(shard, item), id)
if item.state == WAITING then leave(shard, id, item) end
redis.call('DEL', shard .. 'item:' .. id)
return {now, DONE}
`,
  true,
);

/**
 * Places in lists, highest first. ARGV from 3: how many of each at most, the highest score, below which
 * id among those with that very score, the lists' names. One list for each.
 */
const page = queueScript(`
local limit, max, bound = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local answers = {now}
for i = 1, #KEYS do
  for n = 6, #ARGV do
    local places, offset, more = {}, 0, true
    while more do
      local found = redis.call('ZREVRANGEBYSCORE', shardOf(KEYS[i]) .. ARGV[n], digits(max), '-inf',
        'WITHSCORES', 'LIMIT', offset, limit)
      for p = 1, #found, 2 do
        if #places < 2 * limit and (tonumber(found[p + 1]) < max or found[p] < bound) then
          places[#places + 1] = found[p]
          places[#places + 1] = found[p + 1]
        end
      end
      offset = offset + limit
      more = #found == 2 * limit and #places < 2 * limit
    end
    answers[#answers + 1] = places
  end
end
return answers
`);

/** For each kind: how many wait, are done, are dead; and when the first is due (-1: none waits). */
const tally = queueScript(`
local answers = {now}
for kind = 0, 1 do
  local waiting, gone, dead, first = 0, 0, 0, -1
  for i = 1, #KEYS do
    local shard = shardOf(KEYS[i])
    local lists = shard .. 'items:' .. kind .. ':'
    local live = '(' .. digits(now)
    waiting = waiting + redis.call('ZCARD', lists .. 'waiting')
    gone = gone + redis.call('ZCOUNT', lists .. 'done', live, '+inf')
    dead = dead + redis.call('ZCARD', lists .. 'dead')
      + redis.call('ZCOUNT', lists .. 'fading', live, '+inf')
    local due = tonumber(redis.call('ZRANGE', shard .. 'turns:' .. kind, 0, 0, 'WITHSCORES')[2])
    if due and (first < 0 or due < first) then first = due end
  end
  for _, number in ipairs({waiting, gone, dead, first}) do answers[#answers + 1] = number end
end
return answers
`);

/** Forgets the places of items whose end has come (they have gone by themselves): at most ARGV[3]. */
const sweep = queueScript(`
-- No more than fits a call of Lua's.
local left, removed = math.min(tonumber(ARGV[3]), 5000), 0
for i = 1, #KEYS do
  for _, name in ipairs({'0:done', '1:done', '0:fading', '1:fading'}) do
    if left > 0 then
      local list = shardOf(KEYS[i]) .. 'items:' .. name
      local gone = redis.call('ZRANGEBYSCORE', list, '-inf', digits(now), 'LIMIT', 0, left)
      if #gone > 0 then removed = removed + redis.call('ZREM', list, spread(gone)) end
      left = left - #gone
    end
  end
end
return {now, removed}
`);

export const QUEUE_SCRIPTS = {
  add,
  claim,
  peek,
  renew,
  finish,
  read,
  revive,
  remove,
  page,
  tally,
  sweep,
};

function queueScript(body: string, isKept = false): RedisScript {
  return script(ITEMS + body, isKept);
}
