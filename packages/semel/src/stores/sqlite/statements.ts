// The SQL of the SQLite store: a transition is one statement, which tests state, attempt and owner
// where it writes (SM-17). Parameters are anonymous, the only kind that all drivers share, and
// stand in the order in which `../sqlite.ts` passes them.

import type { RecordState } from "../../store.ts";
import { CRASH_POLICY_CODES, RECORD_FORMAT, STATE_CODES } from "../sql-record.ts";
import type { SqliteTables } from "./schema.ts";

const { running: RUNNING, completed: COMPLETED, held: HELD, open: OPEN, void: VOID } = STATE_CODES;
const { hold: HOLD, rerun: RERUN } = CRASH_POLICY_CODES;

/**
 * SQLite's own clock in milliseconds (SM-19), the same throughout a statement. Rounded, because
 * a Julian day is a double whose last digits wander by some hundredths of a millisecond.
 */
export const NOW = "CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)";
const LIVE = `(expires_at IS NULL OR expires_at > ${NOW})`;
const LAPSED = `(state = ${RUNNING} AND lease_until <= ${NOW})`;
/** What counts as held besides what is: lapsed, under a policy that asks before it reruns. */
const LAPSED_HELD = `(${LAPSED} AND on_crash <> ${RERUN})`;
/** The very condition of the partial index, which SQLite uses only where it reads it again. */
const ACTIVE = `state IN (${RUNNING}, ${HELD})`;
/**
 * A record that this version may write to: a newer version's is left alone (SM-23b), but for its
 * expiry, which means the same in every format.
 */
const WRITABLE = `format = ${RECORD_FORMAT} AND ${LIVE}`;
/** SM-17. */
export const OWNED = `id = unhex(?) AND ${WRITABLE} AND state = ${RUNNING} AND attempt = ? AND owner = unhex(?)`;

/** Read by `storedRecord()`. Whether there is a result costs nothing; to read it may. */
const COLUMNS = `position, lower(hex(id)) AS id, scope, key,
  fingerprint, format, state, attempt, crashes, lower(hex(owner)) AS owner,
  on_crash AS policy, lease_until - ${NOW} AS lease, reason, created_at AS created,
  updated_at AS updated, expires_at - ${NOW} AS expires, result IS NOT NULL AS finished,
  ${NOW} - created_at AS age`;

const CLAIM_COLUMNS = `id, scope, key, fingerprint, format, state, attempt, crashes, owner,
  on_crash, lease_until, created_at, updated_at, expires_at`;
const CLAIM_ROW = `unhex(?), ?, ?, ?, ${RECORD_FORMAT}, ${RUNNING}, 1, 0, unhex(?),
  ?, ${NOW} + ?, ${NOW}, ${NOW}, ${NOW} + ?`;

export type SqliteStatements = ReturnType<typeof statementsFor>;

/** Every statement of the store, for its tables. */
export function statementsFor(tables: SqliteTables) {
  const { records } = tables;
  return {
    find: `SELECT ${COLUMNS}, result, journal FROM ${records} WHERE id = unhex(?) AND ${LIVE}`,

    /** Which of some ids have a row, expired or not. */
    present: `SELECT lower(hex(id)) AS id FROM ${records}
      WHERE id IN (SELECT unhex(value) FROM json_each(?))`,

    /**
     * SM-1. Where there is no row it is all that a claim takes, for half of what the statement below
     * takes; where there is one, nothing is written.
     */
    claimNew: `INSERT INTO ${records} (${CLAIM_COLUMNS}) VALUES (${CLAIM_ROW})
      ON CONFLICT (id) DO NOTHING`,

    claim: claim(records, (row) => `VALUES (${row})`),

    /** EN-11: an absent record is begun only if the request is not late. */
    claimUnlessLate: claim(
      records,
      (row) =>
        `SELECT ${row} WHERE ${NOW} - ? <= ? OR EXISTS (SELECT 1 FROM ${records} WHERE id = unhex(?))`,
    ),

    holdLapsed: `UPDATE ${records}
      SET state = ${HELD}, reason = ?, lease_until = NULL, updated_at = ${NOW},
        expires_at = ${NOW} + ?
      WHERE ${OWNED} AND ${LAPSED}`,

    settle: `UPDATE ${records}
      SET state = ?, result = ?, reason = ?, lease_until = NULL, updated_at = ${NOW},
        expires_at = ${NOW} + ?
      WHERE ${OWNED}`,

    giveBack: `UPDATE ${records}
      SET state = ${OPEN}, attempt = attempt - 1, lease_until = NULL, updated_at = ${NOW},
        expires_at = ${NOW} + ?
      WHERE ${OWNED}`,

    /** Claim and completion at once, for a transaction that has done the work before (EN-5). */
    complete: `INSERT INTO ${records} (id, scope, key, fingerprint, format, state, attempt, crashes,
        owner, on_crash, created_at, updated_at, expires_at, result)
      VALUES (unhex(?), ?, ?, ?, ${RECORD_FORMAT}, ${COMPLETED}, 1, 0,
        unhex(?), ?, ${NOW}, ${NOW}, ${NOW} + ?, ?)
      ON CONFLICT (id) DO UPDATE
      SET state = ${COMPLETED}, result = excluded.result, owner = excluded.owner,
        on_crash = excluded.on_crash, attempt = attempt + 1,
        crashes = crashes + (state = ${RUNNING}), lease_until = NULL,
        updated_at = excluded.updated_at, expires_at = excluded.expires_at
      WHERE ${WRITABLE} AND fingerprint = excluded.fingerprint
        AND (state = ${OPEN} OR (${LAPSED} AND on_crash = ${RERUN} AND crashes + 1 < ?))`,

    /** The same for many, those that are absent. */
    completeMany: `INSERT INTO ${records} (id, scope, key, fingerprint, format, state, attempt, crashes,
        owner, on_crash, created_at, updated_at, expires_at, result)
      SELECT unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3, ${RECORD_FORMAT}, ${COMPLETED}, 1, 0,
        unhex(value ->> 4), value ->> 5, ${NOW}, ${NOW}, ${NOW} + ?, unhex(value ->> 6)
      FROM json_each(?) WHERE true
      ON CONFLICT (id) DO NOTHING
      RETURNING lower(hex(id)) AS id`,

    findMany: `SELECT ${COLUMNS}, result, NULL AS journal FROM ${records}
      WHERE id IN (SELECT unhex(value) FROM json_each(?)) AND ${LIVE}`,

    reopen: `UPDATE ${records}
      SET state = ${OPEN}, result = NULL, updated_at = ${NOW}, expires_at = ${NOW} + ?
      WHERE (id, owner, attempt) IN (
          SELECT unhex(value ->> 0), unhex(value ->> 1), value ->> 2 FROM json_each(?))
        AND state = ${COMPLETED}`,

    /** SM-14. Bytes put after bytes are bytes, where SQLite is told so. */
    append: `UPDATE ${records} SET journal = CAST(coalesce(journal, zeroblob(0)) || ? AS BLOB)
      WHERE ${OWNED}`,

    renew: `UPDATE ${records} SET lease_until = ${NOW} + ?, expires_at = ${NOW} + ? WHERE ${OWNED}`,

    resolve: `UPDATE ${records}
      SET state = ?, result = ?, reason = NULL, lease_until = NULL, updated_at = ${NOW},
        expires_at = ${NOW} + ?
      WHERE id = unhex(?) AND ${WRITABLE} AND (state = ${HELD} OR ${LAPSED_HELD})`,

    void: `INSERT INTO ${records} (id, scope, key, fingerprint, format, state, attempt, crashes,
        owner, on_crash, created_at, updated_at, expires_at)
      VALUES (unhex(?), ?, ?, '', ${RECORD_FORMAT}, ${VOID}, 0, 0,
        zeroblob(16), ${HOLD}, ${NOW}, ${NOW}, ${NOW} + ?)
      ON CONFLICT (id) DO UPDATE
      SET state = ${VOID}, reason = NULL, lease_until = NULL, updated_at = excluded.updated_at,
        expires_at = excluded.expires_at
      WHERE ${WRITABLE} AND (state IN (${OPEN}, ${HELD}) OR ${LAPSED})`,

    /** A damaged record may be deleted: it is the only way to be rid of it. */
    delete: `DELETE FROM ${records}
      WHERE id = unhex(?) AND format <= ${RECORD_FORMAT}
        AND (NOT ${LIVE} OR state <> ${RUNNING} OR ${LAPSED})
      RETURNING NOT ${LIVE} AS expired`,

    forgetExpired: `DELETE FROM ${records} WHERE id = unhex(?) AND expires_at <= ${NOW}`,

    sweep: `DELETE FROM ${records} WHERE position IN (
      SELECT position FROM ${records} WHERE expires_at <= ${NOW} ORDER BY expires_at LIMIT ?)`,

    list: (state: RecordState | undefined) => list(tables, state),

    countByState: countByState(tables),

    bytes: `SELECT (page_count - freelist_count) * page_size AS bytes
      FROM pragma_page_count, pragma_freelist_count, pragma_page_size`,
  };
}

/**
 * SM-1, SM-4, SM-6 and the caller's own resent claim (SM-16) in one statement, which returns the
 * row if the caller holds the lease now. An expired row is left alone, because its place in the
 * listing has to go with it.
 */
function claim(records: string, source: (row: string) => string): string {
  const isOwn = "owner = excluded.owner";
  return `INSERT INTO ${records} (${CLAIM_COLUMNS})
    ${source(CLAIM_ROW)}
    ON CONFLICT (id) DO UPDATE
    SET state = ${RUNNING}, owner = excluded.owner, lease_until = excluded.lease_until,
      expires_at = excluded.expires_at,
      attempt = attempt + (state = ${OPEN} OR NOT ${isOwn}),
      crashes = crashes + (state = ${RUNNING} AND NOT ${isOwn}),
      on_crash = iif(state = ${OPEN}, excluded.on_crash, on_crash),
      updated_at = iif(state = ${OPEN}, excluded.updated_at, updated_at)
    WHERE ${WRITABLE} AND fingerprint = excluded.fingerprint
      AND (state = ${OPEN} OR (state = ${RUNNING} AND (${isOwn}
        OR (${LAPSED} AND on_crash <> ${HOLD} AND crashes + 1 < ?))))
    RETURNING attempt, crashes, on_crash AS policy`;
}

function list({ records, active }: SqliteTables, state: RecordState | undefined): string {
  const isActive = state === "running" || state === "held";
  // An absent filter is NULL, and a comparison with it is not false.
  return `SELECT ${COLUMNS}, NULL AS result FROM ${records} ${isActive ? `INDEXED BY ${active}` : ""}
    WHERE position < coalesce(?, 9223372036854775807) AND (scope = ?) IS NOT FALSE
      AND (${NOW} - created_at >= ?) IS NOT FALSE AND ${LIVE} AND ${isIn(state)}
    ORDER BY position DESC LIMIT ?`;
}

function isIn(state: RecordState | undefined): string {
  switch (state) {
    case undefined:
      return "true";
    case "running":
      return `${ACTIVE} AND state = ${RUNNING} AND NOT ${LAPSED_HELD}`;
    case "held":
      return `${ACTIVE} AND (state = ${HELD} OR ${LAPSED_HELD})`;
    default:
      return `state = ${STATE_CODES[state]}`;
  }
}

/** Reads the two indexes alone, and the rows of what is running or held. */
function countByState({ records, active, expiry }: SqliteTables): string {
  return `SELECT state, count(*) AS records, NULL AS oldest_ms
    FROM ${records} INDEXED BY ${expiry}
    WHERE expires_at > ${NOW} AND NOT ${ACTIVE} GROUP BY state
    UNION ALL
    SELECT iif(${LAPSED_HELD}, ${HELD}, state) AS counted, count(*),
      max(${NOW} - iif(state = ${HELD}, updated_at, lease_until))
    FROM ${records} INDEXED BY ${active}
    WHERE ${ACTIVE} AND ${LIVE} GROUP BY counted`;
}
