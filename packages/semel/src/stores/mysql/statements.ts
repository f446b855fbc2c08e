// The SQL of the MySQL store: a transition is one statement, which tests state, attempt and owner
// where it writes (SM-17). Values stand in it as literals of hexadecimal digits and numbers, which
// mean the same whatever character set, SQL mode or driver option a session has.

import { InvalidOption } from "../../errors.ts";
import type {
  AttemptToken,
  CrashPolicy,
  Ending,
  JournalEntry,
  RecordId,
  RecordState,
  Renewal,
  Resolution,
  UnusedAttempt,
} from "../../store.ts";
import { CRASH_POLICY_CODES, RECORD_FORMAT, STATE_CODES } from "../sql-record.ts";
import { type MysqlTables, nameLiteral } from "./schema.ts";

const { running: RUNNING, completed: COMPLETED, held: HELD, open: OPEN, void: VOID } = STATE_CODES;
const { rerun: RERUN } = CRASH_POLICY_CODES;

/**
 * The server's own clock in milliseconds (SM-19), the same throughout a statement. In UTC, because a
 * session's time zone has an hour that comes twice.
 */
export const NOW =
  "(TIMESTAMPDIFF(MICROSECOND, TIMESTAMP'1970-01-01 00:00:00', UTC_TIMESTAMP(3)) DIV 1000)";
const EXPIRED = `r.expires_at <= ${NOW}`;
const LIVE = `(r.expires_at IS NULL OR r.expires_at > ${NOW})`;
const LAPSED = `(r.state = ${RUNNING} AND r.lease_until <= ${NOW})`;
/** What counts as held besides what is: lapsed, under a policy that asks before it reruns. */
const LAPSED_HELD = `(${LAPSED} AND r.on_crash <> ${RERUN})`;
/**
 * A record that this version may write to: a newer version's is left alone (SM-23b), but for its
 * expiry, which means the same in every format.
 */
const WRITABLE = `r.format = ${RECORD_FORMAT} AND ${LIVE}`;
/** Of an attempt whose number and owner are still to be tested: it may write. */
export const RUNNABLE = `${WRITABLE} AND r.state = ${RUNNING}`;
/** Read by `recordRow()`. Whether there is a result costs nothing; to read it may. */
const COLUMNS = `LOWER(HEX(r.id)) AS id, r.scope, r.\`key\`, r.fingerprint, r.format, r.state, r.attempt,
  r.crashes, LOWER(HEX(r.owner)) AS owner, r.on_crash AS policy, r.lease_until - ${NOW} AS lease,
  r.reason, r.created_at AS created, r.updated_at AS updated, ${NOW} - r.created_at AS age,
  r.expires_at - ${NOW} AS expires, r.result IS NOT NULL AS finished, r.receipt`;
/** What a row has besides its result and journal, at most: a row must fit a packet to be read. */
const ROW_BYTES_MAX = 65_536;
/** Read besides, where they are asked for: both may be large. */
const PARTS = {
  head: "NULL AS result, NULL AS journal",
  replay: "r.result, NULL AS journal",
  // Only a completed record has both, and nothing runs again to need its journal.
  whole: `r.result, IF(r.state = ${COMPLETED} AND LENGTH(r.result) + LENGTH(r.journal)
    + ${ROW_BYTES_MAX} > @@max_allowed_packet, NULL, r.journal) AS journal`,
} as const;

/** What becomes of a record: the columns that a transition writes. */
export interface NextState {
  id: RecordId;
  fingerprint: string;
  state: RecordState;
  attempt: number;
  crashes: number;
  owner: string;
  onCrash: CrashPolicy;
  leaseMs: number | null;
  /** `null`: kept until resolved. */
  lifeMs: number | null;
  reason: string | null;
}

/** A record that was not there. */
export interface NewRecord extends NextState {
  scope: string;
  key: string;
  result: Uint8Array | null;
}

/** A record that was there, as it was seen, and what becomes of it if it still is so. */
export interface Transition extends NextState {
  from: "expired" | "open" | "held" | "lapsed" | "own";
  seen: { attempt: number; owner: string };
  /** Whether it is a change of state, which has a time. */
  isChange: boolean;
}

const FROM_CODES = { expired: 0, open: 1, held: 2, lapsed: 3, own: 4 } as const;

/** How a look keeps others from changing what it saw, until its transaction ends. */
export type Lock = "" | "LOCK IN SHARE MODE";

export type MysqlSql = ReturnType<typeof statementsFor>;

/** Every statement of the store, for its tables. */
export function statementsFor(tables: MysqlTables) {
  const { records } = tables;
  return {
    /** Records by id, expired ones too. */
    find: (ids: readonly RecordId[], part: keyof typeof PARTS, lock: Lock = "") =>
      `SELECT ${COLUMNS}, ${PARTS[part]}
        FROM ${records} AS r WHERE r.id IN (${ids.map(hexadecimal)}) ${lock}`,

    /** As `find` for a replay; a row without a record tells the time of the server where there is none. */
    findTimed: (ids: readonly RecordId[], lock: Lock) =>
      `SELECT clock.instant, ${COLUMNS}, ${PARTS.replay}
        FROM (SELECT ${NOW} AS instant) AS clock
        LEFT JOIN ${records} AS r ON r.id IN (${ids.map(hexadecimal)}) ${lock}`,

    /** SM-1: those that are absent; the others are left as they are. */
    insert: (rows: readonly NewRecord[]) =>
      `INSERT IGNORE INTO ${records} (id, scope, \`key\`, fingerprint, format, state, attempt, crashes,
        owner, on_crash, lease_until, reason, created_at, updated_at, expires_at, result)
      VALUES ${rows.map(newRow)}`,

    /** SM-4, SM-6, SM-16: those that are still as they were seen, in whatever matters. */
    change: (transitions: readonly Transition[]) =>
      `UPDATE ${table(transitions.map(transitionItem))} STRAIGHT_JOIN ${records} AS r ON r.id = item.id
      SET r.format = ${RECORD_FORMAT}, r.fingerprint = item.fingerprint, r.state = item.target,
        r.attempt = item.attempt, r.crashes = item.crashes, r.owner = item.owner,
        r.on_crash = item.policy, r.lease_until = ${NOW} + item.lease, r.reason = item.reason,
        r.result = NULL, r.expires_at = ${NOW} + item.life,
        r.journal = IF(item.was = ${FROM_CODES.expired}, NULL, r.journal),
        r.created_at = IF(item.was = ${FROM_CODES.expired}, ${NOW}, r.created_at),
        r.updated_at = IF(item.changes, ${NOW}, r.updated_at)
      WHERE (item.was = ${FROM_CODES.expired} AND ${EXPIRED})
        OR (r.attempt = item.seenattempt AND r.owner = item.seenowner AND ${WRITABLE} AND (
          (item.was = ${FROM_CODES.open} AND r.state = ${OPEN})
          OR (item.was = ${FROM_CODES.held} AND r.state = ${HELD})
          OR (item.was = ${FROM_CODES.lapsed} AND ${LAPSED})
          OR (item.was = ${FROM_CODES.own} AND r.state = ${RUNNING})))`,

    /** SM-8 to SM-10. The receipt tells afterwards which of many this very statement wrote. */
    settle: (endings: readonly Ending[], receipt: number) =>
      `UPDATE ${records} AS r FORCE INDEX (PRIMARY)
      SET r.result = ${each(endings, (ending) => bytes(resultOf(ending)))},
        r.reason = ${each(endings, (ending) => text(ending.kind === "hold" ? ending.reason : null))},
        r.state = ${each(endings, ({ kind }) => ENDING_STATES[kind])}, r.lease_until = NULL,
        r.updated_at = ${NOW}, r.receipt = ${integer(receipt)},
        r.expires_at = ${NOW} + ${each(endings, ({ retentionMs }) => integer(retentionMs))}
      WHERE ${areOwned(endings)}`,

    giveBack: (unused: UnusedAttempt) =>
      `UPDATE ${records} AS r FORCE INDEX (PRIMARY)
      SET r.state = ${OPEN}, r.attempt = r.attempt - 1, r.lease_until = NULL, r.updated_at = ${NOW},
        r.expires_at = ${NOW} + ${integer(unused.retentionMs)}
      WHERE ${areOwned([unused])}`,

    /**
     * SM-14. `CONCAT` gives NULL, and no error, for what is longer than a packet: an entry for which
     * there is no room is therefore refused like one of a stranger.
     */
    append: (entries: readonly JournalEntry[], receipt: number) =>
      `UPDATE ${records} AS r FORCE INDEX (PRIMARY)
      SET r.journal = CONCAT(COALESCE(r.journal, x''), ${each(entries, (entry) => bytes(entry.bytes))}),
        r.receipt = ${integer(receipt)}
      WHERE ${areOwned(entries)}
        AND COALESCE(LENGTH(r.journal), 0) + ${each(entries, (entry) => entry.bytes.byteLength)}
          + ${ROW_BYTES_MAX} <= @@max_allowed_packet`,

    /** SM-11. */
    renew: (renewals: readonly Renewal[]) =>
      `UPDATE ${records} AS r FORCE INDEX (PRIMARY)
      SET r.lease_until = ${NOW} + ${each(renewals, ({ leaseMs }) => integer(leaseMs))},
        r.expires_at = ${NOW} + ${each(renewals, (renewal) => integer(lifeMs(renewal)))}
      WHERE ${areOwned(renewals)}`,

    /** EN-5: the claim and its completion, where a record stands in the way that gives way. */
    completeOver: (record: NewRecord, attemptsMax: number) =>
      `UPDATE ${records} AS r
      SET r.attempt = IF(${EXPIRED}, 1, r.attempt + 1),
        r.crashes = IF(${EXPIRED}, 0, r.crashes + (r.state = ${RUNNING})),
        r.on_crash = IF(${EXPIRED} OR r.state = ${OPEN}, ${CRASH_POLICY_CODES[record.onCrash]}, r.on_crash),
        r.created_at = IF(${EXPIRED}, ${NOW}, r.created_at), r.format = ${RECORD_FORMAT},
        r.fingerprint = ${text(record.fingerprint)}, r.owner = ${hexadecimal(record.owner)},
        r.lease_until = NULL, r.reason = NULL, r.result = ${bytes(record.result)}, r.journal = NULL,
        r.state = ${COMPLETED}, r.updated_at = ${NOW}, r.expires_at = ${NOW} + ${integer(record.lifeMs)}
      WHERE r.id = ${hexadecimal(record.id)} AND (${EXPIRED}
        OR (${WRITABLE} AND r.fingerprint = ${text(record.fingerprint)} AND (r.state = ${OPEN}
          OR (${LAPSED} AND r.on_crash = ${RERUN} AND r.crashes + 1 < ${integer(attemptsMax)}))))`,

    /** What was completed in a transaction that goes on without it. */
    reopen: (tokens: readonly AttemptToken[], retentionMs: number) =>
      `UPDATE ${records} AS r FORCE INDEX (PRIMARY)
      SET r.state = ${OPEN}, r.result = NULL, r.updated_at = ${NOW},
        r.expires_at = ${NOW} + ${integer(retentionMs)}
      WHERE ${areTheirs(tokens)} AND r.state = ${COMPLETED}`,

    resolve: (resolution: Resolution) =>
      `UPDATE ${records} AS r
      SET r.result = ${resolution.kind === "complete" ? bytes(resolution.result) : "NULL"},
        r.reason = NULL, r.updated_at = ${NOW}, r.expires_at = ${NOW} + ${integer(resolution.retentionMs)},
        r.lease_until = NULL, r.state = ${resolution.kind === "complete" ? COMPLETED : OPEN}
      WHERE r.id = ${hexadecimal(resolution.id)} AND ${WRITABLE} AND (r.state = ${HELD} OR ${LAPSED_HELD})`,

    /** A damaged record may be deleted: it is the only way to be rid of it. */
    delete: (id: RecordId) =>
      `DELETE r FROM ${records} AS r
      WHERE r.id = ${hexadecimal(id)} AND r.format <= ${RECORD_FORMAT} AND ${LIVE}
        AND (r.state <> ${RUNNING} OR ${LAPSED})`,

    /** Takes no lock, so that sweepers and claims do not wait for each other. */
    findExpired: (limit: number) =>
      [...Object.values(STATE_CODES).map((code) => `= ${code}`), `> ${VOID}`]
        .map(
          (states) => `(SELECT LOWER(HEX(r.id)) AS id FROM ${records} AS r FORCE INDEX (state)
        WHERE r.state ${states} AND ${EXPIRED} LIMIT ${integer(limit)})`,
        )
        .join(" UNION ALL ")
        .concat(` LIMIT ${integer(limit)}`),

    forgetExpired: (ids: readonly RecordId[]) =>
      `DELETE r FROM ${records} AS r WHERE r.id IN (${ids.map(hexadecimal)}) AND ${EXPIRED}`,

    list: (query: ListFilter) => list(records, query),

    countByState: countByState(records),

    bytes: `SELECT data_length + index_length AS bytes FROM information_schema.tables
      WHERE table_schema = DATABASE() AND table_name = ${nameLiteral(tables.recordsName)}`,
  };
}

export interface ListFilter {
  scope: string | undefined;
  state: RecordState | undefined;
  olderThanMs: number | undefined;
  /** Where the page before ended. */
  before: { created: number; id: RecordId } | undefined;
  limit: number;
}

function list(records: string, { scope, state, olderThanMs, before, limit }: ListFilter): string {
  const isActive = state === "running" || state === "held";
  const wanted = [LIVE, isIn(state)];
  if (scope !== undefined) wanted.push(`r.scope = ${text(scope)}`);
  if (olderThanMs !== undefined) wanted.push(`r.created_at <= ${NOW} - ${integer(olderThanMs)}`);
  if (before !== undefined) {
    const created = integer(before.created);
    wanted.push(`r.created_at <= ${created}`);
    wanted.push(`(r.created_at < ${created} OR r.id < ${hexadecimal(before.id)})`);
  }
  return `SELECT ${COLUMNS}, ${PARTS.head}
    FROM ${records} AS r FORCE INDEX (${isActive ? "state" : "created"})
    WHERE ${wanted.join(" AND ")}
    ORDER BY r.created_at DESC, r.id DESC LIMIT ${integer(limit)}`;
}

function isIn(state: RecordState | undefined): string {
  switch (state) {
    case undefined:
      return "TRUE";
    case "running":
      return `r.state = ${RUNNING} AND NOT ${LAPSED_HELD}`;
    case "held":
      return `r.state IN (${RUNNING}, ${HELD}) AND (r.state = ${HELD} OR ${LAPSED_HELD})`;
    default:
      return `r.state = ${STATE_CODES[state]}`;
  }
}

/** Reads one index alone, and the rows of what is running or held. */
function countByState(records: string): string {
  return `SELECT r.state AS state, COUNT(*) AS records, NULL AS oldest
    FROM ${records} AS r FORCE INDEX (state)
    WHERE r.state IN (${COMPLETED}, ${OPEN}, ${VOID}) AND r.expires_at > ${NOW} GROUP BY r.state
    UNION ALL
    SELECT IF(${LAPSED_HELD}, ${HELD}, r.state) AS counted, COUNT(*),
      MAX(${NOW} - IF(r.state = ${HELD}, r.updated_at, r.lease_until))
    FROM ${records} AS r FORCE INDEX (state)
    WHERE r.state IN (${RUNNING}, ${HELD}) AND ${LIVE} GROUP BY counted`;
}

function newRow(record: NewRecord): string {
  return `(${[
    hexadecimal(record.id),
    text(record.scope),
    text(record.key),
    text(record.fingerprint),
    RECORD_FORMAT,
    STATE_CODES[record.state],
    integer(record.attempt),
    integer(record.crashes),
    hexadecimal(record.owner),
    CRASH_POLICY_CODES[record.onCrash],
    record.leaseMs === null ? "NULL" : `${NOW} + ${integer(record.leaseMs)}`,
    text(record.reason),
    NOW,
    NOW,
    record.lifeMs === null ? "NULL" : `${NOW} + ${integer(record.lifeMs)}`,
    bytes(record.result),
  ]})`;
}

function transitionItem(transition: Transition): Item {
  return {
    id: hexadecimal(transition.id),
    was: FROM_CODES[transition.from],
    seenattempt: integer(transition.seen.attempt),
    seenowner: hexadecimal(transition.seen.owner),
    fingerprint: text(transition.fingerprint),
    target: STATE_CODES[transition.state],
    attempt: integer(transition.attempt),
    crashes: integer(transition.crashes),
    owner: hexadecimal(transition.owner),
    policy: CRASH_POLICY_CODES[transition.onCrash],
    lease: integer(transition.leaseMs),
    life: integer(transition.lifeMs),
    reason: text(transition.reason),
    changes: Number(transition.isChange),
  };
}

const ENDING_STATES = { complete: COMPLETED, release: OPEN, hold: HELD } as const;

function resultOf(ending: Ending): Uint8Array | null {
  return ending.kind === "complete" ? ending.result : null;
}

function lifeMs({ leaseMs, lapsedRetentionMs }: Renewal): number | null {
  return lapsedRetentionMs === null ? null : leaseMs + lapsedRetentionMs;
}

/** SM-17, for each by itself. */
function areOwned(tokens: readonly AttemptToken[]): string {
  return `${areTheirs(tokens)}
        AND r.state = ${RUNNING} AND ${WRITABLE}`;
}

function areTheirs(tokens: readonly AttemptToken[]): string {
  const owned = tokens.map(
    ({ id, attempt, owner }) => `(${hexadecimal(id)}, ${integer(attempt)}, ${hexadecimal(owner)})`,
  );
  return `r.id IN (${tokens.map(({ id }) => hexadecimal(id))}) AND (r.id, r.attempt, r.owner) IN (${owned})`;
}

/** A value that each row has for itself, or all have in common. */
export function each<Item extends { id: RecordId }>(
  items: readonly Item[],
  literalOf: (item: Item) => string | number,
  alias = "r",
): string {
  const literals = items.map((item) => String(literalOf(item)));
  if (literals.every((literal) => literal === literals[0])) return literals[0]!;
  const cases = items.map(({ id }, n) => `WHEN ${hexadecimal(id)} THEN ${literals[n]}`);
  return `CASE ${alias}.id ${cases.join(" ")} END`;
}

/** Literals by the names of their columns. */
export type Item = Record<string, string | number>;

/**
 * A batch as a table, in its order: every version of every server can read this form. For short
 * values only: MariaDB keeps the last 16 bits of the length of what stands in one of several rows.
 */
export function table(items: readonly Item[]): string {
  const [first, ...others] = items;
  const named = Object.entries(first!).map(([column, value]) => `${value} AS ${column}`);
  const rows = [named, ...others.map((item) => Object.values(item))];
  return `(SELECT ${rows.join(" UNION ALL SELECT ")}) AS item`;
}

const HEXADECIMAL = /^[0-9a-f]{32}$/;

/** An id or an owner. */
export function hexadecimal(digits: string): string {
  if (HEXADECIMAL.test(digits)) return `x'${digits}'`;
  throw new InvalidOption("An id and an owner must be 32 lowercase hexadecimal digits");
}

export function text(value: string | null): string {
  return value === null ? "NULL" : `x'${Buffer.from(value).toString("hex")}'`;
}

export function bytes(value: Uint8Array | null): string {
  if (value === null) return "NULL";
  return `x'${Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString("hex")}'`;
}

export function integer(value: number | null): string {
  if (value === null) return "NULL";
  if (Number.isSafeInteger(value)) return String(value);
  throw new InvalidOption(`A time or a count must be a whole number, got ${value}`);
}
