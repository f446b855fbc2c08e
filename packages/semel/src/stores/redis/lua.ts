// What the Lua scripts of the Redis store have in common: how records are read and written there, and
// what answers mean.
//
// KEYS: the records of the batch, then the index that lists them. ARGV[1]: how many records; ARGV[2]:
// the items, packed as `packing.ts` does; ARGV[3]: "1" to publish. The answer is the server's time and
// one value for each item. Lua's numbers are doubles: times and scores stay below 2^53.

import { createHash } from "node:crypto";
import { JOURNAL_SUFFIX } from "./keyspace.ts";
import { JOURNALED } from "./packing.ts";

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

/** So many records, which may be of any size, are in the server's memory at once for a script. */
const READ_TOGETHER = 16;

/** A reply grows by no more items from here on, so that large replays keep no other client waiting. */
export const REPLY_BYTES_MAX = 1_048_576;

/**
 * Common to all. What steps have done is in a key of its own, and a flag of the record says that it is
 * there: what an earlier record of that name left is never taken for its own. The key of a journal is
 * not among KEYS, because few records have one; it is in their slot.
 *
 * A record is read through `look()`, which gives its text and sets the fields below,
 * or gives nothing when it is absent or expired; `state` is nil for one that cannot be read, which no
 * script overwrites (SM-23b).
 */
const PRELUDE = `
local call, spread = redis.call, unpack
local pack, unpack, sub, byte = struct.pack, struct.unpack, string.sub, string.byte
local RUNNING, COMPLETED, HELD, OPEN, VOID = 1, 2, 3, 4, 5
local HOLD, RERUN, PROBE = 0, 1, 2
local RANGE = {
  [COMPLETED] = ${FINISHED_SCORES.completed},
  [OPEN] = ${FINISHED_SCORES.open},
  [VOID] = ${FINISHED_SCORES.void}
}
local DONE, NO, UNREADABLE, AGAIN = ${CODES.done}, ${CODES.no}, ${CODES.unreadable}, ${CODES.again}
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local count, items, at = tonumber(ARGV[1]), ARGV[2], 1

local state, policy, attempt, crashes, owner, created, updated, expires, namesEnd
local isJournaled = false

-- As Redis reads numbers. It writes those that it is given with 17 digits, which takes longer.
local function digits(number)
  return string.format('%.0f', number)
end

local function parse(text)
  state = nil
  if #text < 48 then return end
  local format, a, o, s, changed, ends, made, p, c, f, sc, k = unpack('>BI4c16BI6I6I6BI2BI2I2', text)
  namesEnd = 48 + f + sc + k
  isJournaled = p >= ${JOURNALED}
  if isJournaled then p = p - ${JOURNALED} end
  if format ~= 1 or s < RUNNING or s > VOID or p > PROBE or #text < namesEnd then return end
  if s == RUNNING and #text ~= namesEnd + 6 then return end
  state, policy, attempt, crashes, owner, created, updated, expires = s, p, a, c, o, made, changed, ends
end

local function examine(text)
  if not text then return nil end
  if type(text) ~= 'string' then
    state = nil
    return UNREADABLE
  end
  parse(text)
  if state and expires ~= 0 and expires <= now then return nil end
  return text
end

local function look(key)
  return examine(redis.pcall('GET', key))
end

-- The texts of a batch's records, asked for in turn, and read some at a time: a call takes longer than
-- what it reads. Nothing is also what it gives for something that is no record; who minds looks again.
local texts, before, read = {}, 0, 0
local function textOf(i)
  if i > read then
    before, read = read, math.min(read + ${READ_TOGETHER}, count)
    texts = call('MGET', spread(KEYS, before + 1, read))
  end
  return texts[i - before]
end

-- A journal lives as long as its record, and nobody needs it once that is completed or void.
local function keepJournal(journal)
  if state == COMPLETED or state == VOID then
    call('DEL', journal)
    isJournaled = false
  elseif expires == 0 then call('PERSIST', journal)
  else call('PEXPIREAT', journal, digits(expires)) end
end

local function save(key, names, tail)
  if isJournaled then keepJournal(key .. '${JOURNAL_SUFFIX}') end
  local flagged = isJournaled and policy + ${JOURNALED} or policy
  local text = pack('>BI4c16BI6I6I6BI2',
    1, attempt, owner, state, updated, expires, created, flagged, crashes) .. names .. tail
  if expires == 0 then call('SET', key, text)
  else call('SET', key, text, 'PXAT', digits(expires)) end
  return text
end

-- What is running or held is found by its creation, what is finished by its end. A batch's places are
-- written together, which takes a fraction of the time.
local places, placed = {}, 0
local function list(id)
  local range = RANGE[state]
  places[placed + 1], places[placed + 2] = digits(range and range + expires or created), id
  placed = placed + 2
end
local function writePlaces()
  if placed > 0 then call('ZADD', KEYS[count + 1], spread(places)) end
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

export function script(body: string, isKept = false): RedisScript {
  const source = (PRELUDE + body).trim();
  return { source, sha: createHash("sha1").update(source).digest("hex"), isKept };
}
