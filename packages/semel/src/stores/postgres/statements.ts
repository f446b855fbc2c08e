// The SQL of the Postgres store: a transition is one statement, which tests state, attempt and owner
// where it writes (SM-17), over a batch whose columns are arrays. `statement_timestamp()` is its
// clock (SM-19): unlike `now()`, it moves on in a transaction that a caller opened.

import type { RecordState } from "../../store.ts";
import { CRASH_POLICY_CODES, RECORD_FORMAT, STATE_CODES } from "../sql-record.ts";
import type { PostgresTables } from "./schema.ts";

const { running: RUNNING, completed: COMPLETED, held: HELD, open: OPEN, void: VOID } = STATE_CODES;
const { hold: HOLD, rerun: RERUN } = CRASH_POLICY_CODES;
const STATES_ALL = Object.values(STATE_CODES).join();

/** Larger results travel alone: a batch of them might not fit in memory. */
export const RESULT_BYTES_TOGETHER = 65_536;

const NOW = "statement_timestamp()";
const LIVE = `(r.expires_at IS NULL OR r.expires_at > ${NOW})`;
const EXPIRED = `r.expires_at <= ${NOW}`;
/**
 * Not `r.state = …`: where statistics know of none that run, the planner would look for them in the
 * index by state rather than for the record by its key.
 */
const RUNS = `r.state + 0 = ${RUNNING}`;
const LAPSED = `(${RUNS} AND r.lease_until <= ${NOW})`;
/** What counts as held besides what is: lapsed, under a policy that asks before it reruns. */
const LAPSED_HELD = `(${LAPSED} AND r.on_crash <> ${RERUN})`;
/**
 * A record that this version may write to: a newer version's is left alone (SM-23b), but for its
 * expiry, which means the same in every format.
 */
const WRITABLE = `r.format = ${RECORD_FORMAT} AND ${LIVE}`;

const after = (ms: string) => `${NOW} + ${ms} * interval '1 ms'`;
/** Rounded up, so that what has not come yet is never 0. `date_part`, because `extract` is slow. */
const remaining = (time: string) => `ceil(date_part('epoch', ${time} - ${NOW}) * 1000)`;
const epochMs = (time: string) => `round(date_part('epoch', ${time}) * 1000)`;

/** What a begin is answered from. */
const ANSWER_COLUMNS = `r.fingerprint, r.format, r.state, r.attempt, r.crashes, r.owner,
  r.on_crash AS policy, ${remaining("r.lease_until")} AS lease, r.reason,
  ${remaining("r.expires_at")} AS expires, r.result IS NOT NULL AS finished`;
/** Read by `storedRecord()`. */
const COLUMNS = `r.id, r.scope, r.key, ${epochMs("r.created_at")} AS created,
  ${epochMs("r.updated_at")} AS updated, ${ANSWER_COLUMNS}`;

/** A result alone in its batch, or small. What is left out is asked for again, by itself. */
const resultOf = (isAlone: string) =>
  `CASE WHEN ${isAlone} OR octet_length(r.result) <= ${RESULT_BYTES_TOGETHER} THEN r.result END AS result`;

/**
 * ST-11a: what was answered survives a crash of the server, whatever its default. Stronger settings
 * are left as they are.
 */
const DURABLE = `CASE WHEN current_setting('synchronous_commit') IN ('off', 'local', 'remote_write')
  THEN set_config('synchronous_commit', 'on', true) END`;
/** What holds for the transaction of a write. Its rows are made from this, so that it comes first. */
const SESSION = `session AS (SELECT ${DURABLE})`;
/**
 * The same for what shares a statement, or its turn, with others: it may not wait for long. Somebody's
 * open transaction that has one of the records would hold up all of them. Without a time it waits,
 * as it has to in a caller's transaction.
 */
const sharedSession = (lockTimeout: string) =>
  `session AS (SELECT ${DURABLE},
    CASE WHEN ${lockTimeout}::text IS NOT NULL
      THEN set_config('lock_timeout', ${lockTimeout}, true) END)`;

/** The columns of what is asked for, with their types: the first parameters of a statement. */
type Columns = Readonly<Record<string, string>>;

const CLAIM: Columns = {
  id: "uuid",
  scope: "text",
  key: "text",
  fingerprint: "text",
  owner: "uuid",
  on_crash: "smallint",
  lease_ms: "float8",
  life_ms: "float8",
  attempts_max: "float8",
  late_ms: "float8",
};
const ENDING: Columns = {
  id: "uuid",
  attempt: "integer",
  owner: "uuid",
  state: "smallint",
  result_start: "integer",
  result_bytes: "integer",
  reason: "text",
  retention_ms: "float8",
};
const RENEWAL: Columns = {
  id: "uuid",
  attempt: "integer",
  owner: "uuid",
  lease_ms: "float8",
  life_ms: "float8",
};

/**
 * How many are asked for. One by itself is bound as plain values, which Postgres plans in half the
 * time, and for which a prepared plan is as good as a fresh one.
 */
type HowMany = "one" | "many";

/**
 * Where a statement reads what is asked for.
 *
 * @param only the columns that are needed: Postgres unpacks all that are named
 */
function sourceOf(
  name: string,
  columns: Columns,
  howMany: HowMany,
  only: readonly string[] = Object.keys(columns),
): string {
  const all = Object.keys(columns);
  const parameter = (column: string) => `$${all.indexOf(column) + 1}::${columns[column]}`;
  if (howMany === "one") {
    return `(SELECT ${only.map((column) => `${parameter(column)} AS ${column}`)}) AS ${name}`;
  }
  return `unnest(${only.map((column) => `${parameter(column)}[]`)}) AS ${name} (${only})`;
}

export type PostgresStatements = ReturnType<typeof statementsFor>;

/** Every statement of the store, for its tables. */
export function statementsFor(tables: PostgresTables, notifies: boolean) {
  const { records } = tables;
  const literal = (text: string) => `'${text.replaceAll("'", "''")}'`;
  // One notification for a batch: each of them holds a lock that all commits of a database share.
  const answer = notifies
    ? `, announced AS (SELECT pg_notify(${literal(tables.channel)}, string_agg(id::text, ','))
        FROM done HAVING count(*) > 0)
      SELECT done.id FROM done CROSS JOIN announced`
    : "SELECT done.id FROM done";

  return {
    version: `SELECT max(version) AS version, pg_is_in_recovery() AS replica FROM ${tables.schema}`,

    find: `SELECT ${COLUMNS}, ${resultOf("$2::boolean")} FROM ${records} AS r
      WHERE r.id = ANY ($1::uuid[]) AND ${LIVE}`,

    begin: begin(records, "one"),
    beginMany: begin(records, "many"),

    holdLapsed: `UPDATE ${records} AS r
      SET state = ${HELD}, reason = $4, lease_until = NULL, updated_at = ${NOW},
        expires_at = ${after("$5::float8")}
      WHERE r.id = $1::uuid AND ${WRITABLE} AND r.attempt = $2 AND r.owner = $3::uuid AND ${LAPSED}`,

    settle: settle(records, "one", answer),
    settleMany: settle(records, "many", answer),

    renew: renew(records, "one"),
    renewMany: renew(records, "many"),

    complete: complete(records, answer),

    resolve: `WITH ${SESSION}, done AS (
        UPDATE ${records} AS r
        SET state = $2, result = $3::bytea, reason = NULL, lease_until = NULL, updated_at = ${NOW},
          expires_at = ${after("$4::float8")}
        FROM session
        WHERE r.id = $1::uuid AND ${WRITABLE} AND (r.state = ${HELD} OR ${LAPSED_HELD})
        RETURNING r.id
      )${answer}`,

    void: `WITH ${SESSION}, done AS (
        INSERT INTO ${records} AS r (id, scope, key, fingerprint, format, state, attempt, crashes,
          owner, on_crash, created_at, updated_at, expires_at)
        SELECT $1::uuid, $2::text, $3::text, '', ${RECORD_FORMAT}, ${VOID}, 0, 0,
          '00000000-0000-0000-0000-000000000000'::uuid, ${HOLD}, ${NOW}, ${NOW},
          ${after("$4::float8")} FROM session
        ON CONFLICT (id) DO UPDATE
        SET state = ${VOID}, reason = NULL, lease_until = NULL, updated_at = excluded.updated_at,
          expires_at = excluded.expires_at
        WHERE ${WRITABLE} AND (r.state IN (${OPEN}, ${HELD}) OR ${LAPSED})
        RETURNING r.id
      )${answer}`,

    forgetExpired: `DELETE FROM ${records} AS r WHERE r.id = $1::uuid AND ${EXPIRED}`,

    /** A damaged record may be deleted: it is the only way to be rid of it. */
    delete: `DELETE FROM ${records} AS r
      WHERE r.id = $1::uuid AND r.format <= ${RECORD_FORMAT}
        AND (NOT ${LIVE} OR r.state <> ${RUNNING} OR ${LAPSED})
      RETURNING NOT ${LIVE} AS expired`,

    /** ST-9: each sweeper takes what no other holds, and finds it by the index alone. */
    sweep: `DELETE FROM ${records} AS r
      WHERE r.id = ANY (ARRAY(
          SELECT r.id FROM ${records} AS r WHERE r.state IN (${STATES_ALL}) AND ${EXPIRED}
          LIMIT $1 FOR UPDATE SKIP LOCKED))
        AND ${EXPIRED}`,

    list: (state: RecordState | undefined) => list(records, state),

    countByState: countByState(records),

    bytes: `SELECT pg_total_relation_size(${literal(records)}::regclass) AS bytes`,
  };
}

/** In an upsert: an expired record begins anew, as if it had not been there. */
const anew = (column: string, otherwise: string) =>
  `${column} = CASE WHEN ${EXPIRED} THEN excluded.${column} ELSE ${otherwise} END`;

/**
 * SM-1 to SM-7 for a batch of claims, in one statement.
 *
 * What is found by the statement's snapshot and may not be claimed is its answer, and is not touched:
 * even a refused `DO UPDATE` would lock the row and so write. Everything else is claimed by the
 * upsert, which decides on the row as it is then. A claim that it refuses was overtaken after the
 * snapshot, and comes back as neither `acquired` nor answered: the caller asks again.
 */
function begin(records: string, howMany: HowMany): string {
  const claim = (...only: string[]) => sourceOf("claim", CLAIM, howMany, only);
  return `WITH ${sharedSession("$12")}, found AS (
      SELECT r.id, ${ANSWER_COLUMNS}, ${resultOf("$11::boolean")},
        ${claimable("claim", "claim.attempts_max")} AS claimable
      FROM ${claim("id", "fingerprint", "owner", "attempts_max")}
        JOIN ${records} AS r ON r.id = claim.id
      WHERE ${LIVE}
    ), taken AS (
      INSERT INTO ${records} AS r (id, scope, key, fingerprint, format, state, attempt, crashes,
        owner, on_crash, lease_until, created_at, updated_at, expires_at)
      SELECT claim.id, claim.scope, claim.key, claim.fingerprint, ${RECORD_FORMAT}, ${RUNNING}, 1, 0,
        claim.owner, claim.on_crash, ${after("claim.lease_ms")}, ${NOW}, ${NOW},
        ${after("claim.life_ms")}
      FROM session, ${sourceOf("claim", CLAIM, howMany)} LEFT JOIN found ON found.id = claim.id
      WHERE CASE WHEN found.id IS NULL THEN NOT ${late("claim.late_ms")} ELSE found.claimable END
      ORDER BY claim.id -- so that batches lock in one order and cannot deadlock
      ON CONFLICT (id) DO UPDATE
      SET state = excluded.state, owner = excluded.owner, format = excluded.format,
        fingerprint = excluded.fingerprint, lease_until = excluded.lease_until,
        expires_at = excluded.expires_at, result = NULL, reason = NULL,
        ${anew("attempt", `r.attempt + (r.state = ${OPEN} OR r.owner <> excluded.owner)::integer`)},
        ${anew("crashes", `r.crashes + (r.state = ${RUNNING} AND r.owner <> excluded.owner)::integer`)},
        ${anew("on_crash", `CASE WHEN r.state = ${OPEN} THEN excluded.on_crash ELSE r.on_crash END`)},
        ${anew("created_at", "r.created_at")},
        ${anew("updated_at", `CASE WHEN r.state = ${OPEN} THEN excluded.updated_at ELSE r.updated_at END`)}
      WHERE ${EXPIRED} OR (${LIVE} AND ${claimable(
        "excluded",
        `(SELECT claim.attempts_max FROM ${claim("id", "attempts_max")} WHERE claim.id = excluded.id)`,
      )})
      RETURNING r.id, r.attempt, r.crashes, r.on_crash
    )
    SELECT taken.id IS NOT NULL AS acquired, ${late("claim.late_ms")} AS late, found.fingerprint,
      found.format, found.state, coalesce(taken.attempt, found.attempt) AS attempt,
      coalesce(taken.crashes, found.crashes) AS crashes, found.owner,
      coalesce(taken.on_crash, found.policy) AS policy, found.lease, found.reason, found.expires,
      found.finished, found.result
    FROM ${claim("id", "late_ms")} LEFT JOIN taken ON taken.id = claim.id LEFT JOIN found ON found.id = claim.id
    ORDER BY claim.id -- as the batch is, so that rows need no name`;
}

/** Whether a live record may be taken by a claim: open, its own, or lapsed and not to be held. */
function claimable(claim: string, attemptsMax: string): string {
  return `r.format = ${RECORD_FORMAT} AND r.fingerprint = ${claim}.fingerprint
    AND (r.state = ${OPEN} OR (r.state = ${RUNNING} AND (r.owner = ${claim}.owner
      OR (${LAPSED} AND r.on_crash <> ${HOLD} AND r.crashes + 1 < ${attemptsMax}))))`;
}

/** EN-11: whether a request that counts only until then comes too late. */
function late(epochMs: string): string {
  return `coalesce(${NOW} > timestamptz 'epoch' + ${epochMs} * interval '1 ms', false)`;
}

/** SM-8 to SM-10. The results come in one piece, of which each ending has its part. */
function settle(records: string, howMany: HowMany, answer: string): string {
  return `WITH ${sharedSession("$10")}, done AS (
      UPDATE ${records} AS r
      SET state = ending.state, reason = ending.reason, lease_until = NULL, updated_at = ${NOW},
        expires_at = ${after("ending.retention_ms")},
        result = substring($9::bytea FROM ending.result_start FOR ending.result_bytes)
      FROM session, ${sourceOf("ending", ENDING, howMany)}
      WHERE r.id = ending.id AND ${WRITABLE} AND ${RUNS}
        AND r.attempt = ending.attempt AND r.owner = ending.owner
      RETURNING r.id
    )${answer}`;
}

/** SM-11. */
function renew(records: string, howMany: HowMany): string {
  return `WITH ${sharedSession("$6")}
    UPDATE ${records} AS r
    SET lease_until = ${after("renewal.lease_ms")}, expires_at = ${after("renewal.life_ms")}
    FROM session, ${sourceOf("renewal", RENEWAL, howMany)}
    WHERE r.id = renewal.id AND ${WRITABLE} AND ${RUNS}
      AND r.attempt = renewal.attempt AND r.owner = renewal.owner
    RETURNING r.id`;
}

/** EN-5: claim and completion in one. The upsert waits for a transaction that has the same key. */
function complete(records: string, answer: string): string {
  return `WITH ${SESSION}, done AS (
      INSERT INTO ${records} AS r (id, scope, key, fingerprint, owner, on_crash, result, format,
        state, attempt, crashes, created_at, updated_at, expires_at)
      SELECT $1::uuid, $2::text, $3::text, $4::text, $5::uuid, $6::smallint, $7::bytea,
        ${RECORD_FORMAT}, ${COMPLETED}, 1, 0, ${NOW}, ${NOW}, ${after("$8::float8")}
      FROM session
      WHERE NOT ${late("$10::float8")}
        OR EXISTS (SELECT 1 FROM ${records} AS r WHERE r.id = $1::uuid AND ${LIVE})
      ON CONFLICT (id) DO UPDATE
      SET state = excluded.state, owner = excluded.owner, format = excluded.format,
        fingerprint = excluded.fingerprint, lease_until = NULL, updated_at = excluded.updated_at,
        expires_at = excluded.expires_at, result = excluded.result, reason = NULL,
        ${anew("attempt", "r.attempt + 1")},
        ${anew("crashes", `r.crashes + (r.state = ${RUNNING})::integer`)},
        ${anew("on_crash", `CASE WHEN r.state = ${OPEN} THEN excluded.on_crash ELSE r.on_crash END`)},
        ${anew("created_at", "r.created_at")}
      WHERE ${EXPIRED} OR (${WRITABLE} AND r.fingerprint = excluded.fingerprint
        AND (r.state = ${OPEN}
          OR (${LAPSED} AND r.on_crash = ${RERUN} AND r.crashes + 1 < $9::float8)))
      RETURNING r.id
    )${answer}`;
}

/** Reads the index alone for what is finished, and the rows of what is running or held. */
function countByState(records: string): string {
  const held = `CASE WHEN r.state = ${HELD} THEN r.updated_at ELSE r.lease_until END`;
  return `SELECT r.state, count(*) AS records, NULL::float8 AS oldest FROM ${records} AS r
    WHERE r.state IN (${COMPLETED}, ${OPEN}, ${VOID}) AND r.expires_at > ${NOW} GROUP BY r.state
    UNION ALL
    SELECT CASE WHEN ${LAPSED_HELD} THEN ${HELD} ELSE r.state END, count(*),
      max(-${remaining(held)})
    FROM ${records} AS r WHERE r.state IN (${RUNNING}, ${HELD}) AND ${LIVE} GROUP BY 1`;
}

/** A cursor is the creation, in microseconds, and the id of the last record of a page. */
function list(records: string, state: RecordState | undefined): string {
  const microsecond = "interval '1 microsecond'";
  return `SELECT ${COLUMNS}, NULL::bytea AS result,
      (extract(epoch FROM r.created_at) * 1000000)::bigint AS position
    FROM ${records} AS r
    WHERE (r.created_at, r.id) < (
        coalesce(timestamptz 'epoch' + $1::float8 * ${microsecond}, 'infinity'),
        coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
      AND ($3::text IS NULL OR r.scope = $3)
      AND r.created_at <= coalesce(${NOW} - $4::float8 * interval '1 ms', 'infinity')
      AND ${LIVE} AND ${isIn(state)}
    ORDER BY r.created_at DESC, r.id DESC LIMIT $5`;
}

function isIn(state: RecordState | undefined): string {
  switch (state) {
    case undefined:
      return "true";
    case "running":
      return `r.state = ${RUNNING} AND NOT ${LAPSED_HELD}`;
    case "held":
      return `r.state IN (${RUNNING}, ${HELD}) AND (r.state = ${HELD} OR ${LAPSED_HELD})`;
    default:
      return `r.state = ${STATE_CODES[state]}`;
  }
}
