// The SQL of the Postgres store: a transition is one statement, which tests state, attempt and owner
// where it writes (SM-17), over a batch whose columns are arrays. `statement_timestamp()` is its
// clock (SM-19): unlike `now()`, it moves on in a transaction that a caller opened.

import type { RecordState } from "../../store.ts";
import { CRASH_POLICY_CODES, RECORD_FORMAT, STATE_CODES } from "../sql-record.ts";
import { isNotMarked } from "./client.ts";
import { completeMany, reopen } from "./complete-many.ts";
import type { PostgresTables } from "./schema.ts";

const { running: RUNNING, completed: COMPLETED, held: HELD, open: OPEN, void: VOID } = STATE_CODES;
const { hold: HOLD, rerun: RERUN, probe: PROBE } = CRASH_POLICY_CODES;
const STATES_ALL = Object.values(STATE_CODES).join();

/** Larger results and journals travel alone: a batch of them might not fit in memory. */
export const BYTES_TOGETHER = 65_536;

export const NOW = "statement_timestamp()";
const LIVE = `(r.expires_at IS NULL OR r.expires_at > ${NOW})`;
const EXPIRED = `r.expires_at <= ${NOW}`;
/**
 * Not `r.state = …`: where statistics know of none that run, the planner would look for them in the
 * index by state rather than for the record by its key. For the same reason no expiry is compared
 * but within `OR` or `coalesce`, except by the sweeper.
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
/** Of an attempt whose number and owner are still to be tested: it may write. */
export const RUNNABLE = `${WRITABLE} AND ${RUNS}`;

export const after = (ms: string) => `${NOW} + ${ms} * interval '1 ms'`;
/** Rounded up, so that what has not come yet is never 0. `date_part`, because `extract` is slow. */
export const remaining = (time: string) => `ceil(date_part('epoch', ${time} - ${NOW}) * 1000)`;
export const epochMs = (time: string) => `round(date_part('epoch', ${time}) * 1000)`;

/** What a begin is answered from. */
const ANSWER_COLUMNS = `r.fingerprint, r.format, r.state, r.attempt, r.crashes, r.owner,
  r.on_crash AS policy, ${remaining("r.lease_until")} AS lease, r.reason,
  ${remaining("r.expires_at")} AS expires, r.result IS NOT NULL AS finished`;
/** Read by `storedRecord()`. */
const COLUMNS = `r.id, r.scope, r.key, ${epochMs("r.created_at")} AS created,
  ${epochMs("r.updated_at")} AS updated,
  round(date_part('epoch', ${NOW} - r.created_at) * 1000) AS age, ${ANSWER_COLUMNS}`;

/** Alone in its batch, or small. What is left out is asked for again, by itself. */
const bytesOf = (column: "result" | "journal", isAlone: string) =>
  `CASE WHEN ${isAlone} OR octet_length(r.${column}) <= ${BYTES_TOGETHER} THEN r.${column} END AS ${column}`;

/**
 * ST-11a: what was answered survives a crash of the server, whatever its default. Stronger settings
 * are left as they are.
 */
const IS_WEAK = "current_setting('synchronous_commit') IN ('off', 'local', 'remote_write')";
const DURABLE = `CASE WHEN ${IS_WEAK} THEN set_config('synchronous_commit', 'on', true) END`;
/** The same for the body of a function, as expressions, which are evaluated without a query. */
export const settingsOf = (lockTimeout: string | undefined) => `setting := ${DURABLE};
  ${lockTimeout === undefined ? "" : `setting := set_config('lock_timeout', ${lockTimeout}, true);`}`;
/** What holds for the transaction of a write. Its rows are made from this, so that it comes first. */
export const SESSION = `session AS (SELECT ${DURABLE})`;
/**
 * The same for what shares a statement, or its turn, with others: it may not wait for long. Somebody's
 * open transaction that has one of the records would hold up all of them. Without a time it waits,
 * as it has to in a caller's transaction.
 */
export const sharedSession = (lockTimeout: string) =>
  `session AS (SELECT ${DURABLE},
    CASE WHEN ${lockTimeout}::text IS NOT NULL
      THEN set_config('lock_timeout', ${lockTimeout}, true) END)`;

/** The columns of what is asked for, with their types: the first parameters of a statement, in order. */
interface Columns {
  /** What tells one from another. */
  readonly own: Readonly<Record<string, string>>;
  /** What is mostly the same for a whole batch, and is then sent and unpacked once. */
  readonly common: Readonly<Record<string, string>>;
}

const CLAIM: Columns = {
  own: { id: "uuid", key: "text", fingerprint: "text", owner: "uuid" },
  common: {
    scope: "text",
    on_crash: "smallint",
    lease_ms: "float8",
    life_ms: "float8",
    attempts_max: "float8",
    late_ms: "float8",
  },
};
const ENDING: Columns = {
  own: { id: "uuid", owner: "uuid", result_start: "integer", result_bytes: "integer" },
  common: { attempt: "integer", state: "smallint", reason: "text", retention_ms: "float8" },
};
const ENTRY: Columns = {
  own: { id: "uuid", owner: "uuid", bytes_start: "integer", bytes_length: "integer" },
  common: { attempt: "integer" },
};
const RENEWAL: Columns = {
  own: { id: "uuid", owner: "uuid" },
  common: { attempt: "integer", lease_ms: "float8", life_ms: "float8" },
};

/**
 * The types that a function takes them as. What most batches of replays have no need of stays text
 * until a statement reads it: to unpack the arrays costs more than to find the records.
 */
const calledWith = ({ own, common }: Columns) => [
  "uuid[]",
  ...Object.keys(own).slice(1).fill("text"),
  ...Object.values(common).map((type) => `${type}[]`),
];
/** The types of the parameters of the functions. */
export const BEGIN_PARAMETERS = [...calledWith(CLAIM), "boolean", "text"];
export const SETTLE_PARAMETERS = [...calledWith(ENDING), "bytea", "text"];
export const COMPLETE_PARAMETERS =
  "uuid text text text uuid smallint bytea float8 float8 float8".split(" ");
/**
 * The columns of a begin's rows, of which there are three at most, however many it answers: to pass on
 * rows and columns one by one costs a database and a driver more than to find them.
 */
export const BEGIN_COLUMNS = "kind text, answers text, results bytea";

/**
 * How many are asked for. One by itself is bound as plain values, which Postgres plans in half the
 * time, and for which a prepared plan is as good as a fresh one.
 */
export type HowMany = "one" | "many";
/** `called`: many, in a function, which has seen to the settings and whose plan is made once. */
type Form = HowMany | "called";

/**
 * Where a statement reads what is asked for.
 *
 * @param only the columns that are needed: Postgres unpacks all that are named
 */
function sourceOf(
  name: string,
  { own, common }: Columns,
  form: Form,
  only: readonly string[] = Object.keys({ ...own, ...common }),
): string {
  const types = { ...own, ...common };
  const all = Object.keys(types);
  const number = (column: string) => `$${all.indexOf(column) + 1}`;
  if (form === "one") {
    const values = only.map((column) => `${number(column)}::${types[column]} AS ${column}`);
    return `(SELECT ${values}) AS ${name}`;
  }
  const given = only.map((column) => `${number(column)}::${types[column]}[]`);
  const values = only.map((column, index) =>
    column in common
      ? `CASE WHEN cardinality(${given[index]}) = 1 THEN (${given[index]})[1] ELSE each.${column} END AS ${column}`
      : `each.${column}`,
  );
  return `(SELECT ${values} FROM unnest(${given}) AS each (${only})) AS ${name}`;
}

/**
 * Besides the join with what is asked for: a plan that is made once, perhaps while the table is small,
 * must read it by its key for good.
 */
const among = (form: Form) => (form === "called" ? "AND r.id = ANY ($1::uuid[])" : "");
const beginsWith = (form: Form, session: string) => (form === "called" ? "" : `${session}, `);

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
    /** @param functions an SQL condition, for which see `functions.ts` */
    version: (functions: string) => `SELECT max(version) AS version,
      pg_is_in_recovery() AS replica, ${functions} AS functions FROM ${tables.schema}`,

    /** Whether a journal was left out, `journaled` tells, as `finished` does of a result. */
    find: `SELECT ${COLUMNS}, ${bytesOf("result", "$2::boolean")},
        ${bytesOf("journal", "$2::boolean")}, r.journal IS NOT NULL AS journaled
      FROM ${records} AS r WHERE r.id = ANY ($1::uuid[]) AND ${LIVE}`,

    /** One record, with its result and without its journal. */
    look: `SELECT ${COLUMNS}, r.result FROM ${records} AS r WHERE r.id = $1::uuid AND ${LIVE}`,

    begin: begin(records, "one"),
    beginMany: begin(records, "many"),
    beginCalled: begin(records, "called"),
    replays: replays(records),
    insertNew: insertNew(records),

    holdLapsed: `UPDATE ${records} AS r
      SET state = ${HELD}, reason = $4, lease_until = NULL, updated_at = ${NOW},
        expires_at = ${after("$5::float8")}
      WHERE r.id = $1::uuid AND ${WRITABLE} AND r.attempt = $2 AND r.owner = $3::uuid AND ${LAPSED}`,

    settle: `WITH ${sharedSession("$10")}, done AS (${settle(records, "one")})${answer}`,
    settleMany: `WITH ${sharedSession("$10")}, done AS (${settle(records, "many")})${answer}`,
    settleCalled: settle(records, "called"),
    /** Announces an array of ids. */
    announce: (ids: string) =>
      `PERFORM pg_notify(${literal(tables.channel)}, array_to_string(${ids}, ','))`,

    giveBack: `WITH ${SESSION}, done AS (
        UPDATE ${records} AS r
        SET state = ${OPEN}, attempt = r.attempt - 1, lease_until = NULL, updated_at = ${NOW},
          expires_at = ${after("$4::float8")}
        FROM session
        WHERE r.id = $1::uuid AND ${WRITABLE} AND ${RUNS} AND r.attempt = $2 AND r.owner = $3::uuid
        RETURNING r.id
      )${answer}`,

    append: append(records, "one"),
    /** The same, unless the transaction is another one than that with this mark. */
    appendMarked: append(records, "one", `AND NOT coalesce(${isNotMarked("$8::text")}, false)`),
    appendMany: append(records, "many"),

    renew: renew(records, "one"),
    renewMany: renew(records, "many"),

    complete: complete(records, answer),
    completeMany: completeMany(records, SESSION, NOW),
    reopen: reopen(records, NOW),
    completeCalled: complete(records, " SELECT count(*) INTO answered FROM done"),
    completeNew: `${completed(records)}
      WHERE NOT ${late("$10::float8")}
      ON CONFLICT (id) DO NOTHING`,

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
function begin(records: string, form: Form): string {
  const claim = (...only: string[]) => sourceOf("claim", CLAIM, form, only);
  const notMine = form === "called" ? "claim.id <> ALL (mine)" : "true";
  return `WITH ${beginsWith(form, sharedSession("$12"))}found AS (
      SELECT r.id, ${ANSWER_COLUMNS}, ${bytesOf("result", "$11::boolean")},
        ${claimable("claim", "claim.attempts_max")} AS claimable
      FROM ${claim("id", "fingerprint", "owner", "attempts_max")}
        JOIN ${records} AS r ON r.id = claim.id
      WHERE ${LIVE} ${among(form)}
    ), taken AS (
      ${running(records)}
      FROM ${beginsWith(form, "session")}${sourceOf("claim", CLAIM, form)} LEFT JOIN found ON found.id = claim.id
      WHERE ${notMine}
        AND CASE WHEN found.id IS NULL THEN NOT ${late("claim.late_ms")} ELSE found.claimable END
      ORDER BY claim.id -- so that batches lock in one order and cannot deadlock
      ON CONFLICT (id) DO UPDATE
      SET state = excluded.state, owner = excluded.owner, format = excluded.format,
        fingerprint = excluded.fingerprint, lease_until = excluded.lease_until,
        expires_at = excluded.expires_at, result = NULL, reason = NULL,
        ${anew("attempt", `r.attempt + (r.state = ${OPEN} OR r.owner <> excluded.owner)::integer`)},
        ${anew("crashes", `r.crashes + (r.state = ${RUNNING} AND r.owner <> excluded.owner)::integer`)},
        ${anew("on_crash", `CASE WHEN r.state = ${OPEN} THEN excluded.on_crash ELSE r.on_crash END`)},
        ${anew("journal", "r.journal")},
        ${anew("created_at", "r.created_at")},
        ${anew("updated_at", `CASE WHEN r.state = ${OPEN} THEN excluded.updated_at ELSE r.updated_at END`)}
      WHERE ${EXPIRED} OR (${LIVE} AND ${claimable(
        "excluded",
        `(SELECT claim.attempts_max FROM ${claim("id", "attempts_max")} WHERE claim.id = excluded.id)`,
      )})
      RETURNING r.id, r.attempt, r.crashes, r.on_crash
    )
    SELECT 'found'::text AS kind, json_agg(json_build_object(
        'id', claim.id, 'acquired', taken.id IS NOT NULL, 'late', ${late("claim.late_ms")},
        'fingerprint', found.fingerprint, 'format', found.format, 'state', found.state,
        'attempt', coalesce(taken.attempt, found.attempt),
        'crashes', coalesce(taken.crashes, found.crashes), 'owner', found.owner,
        'policy', coalesce(taken.on_crash, found.policy), 'lease', found.lease,
        'reason', found.reason, 'expires', found.expires, 'finished', found.finished,
        'bytes', octet_length(found.result)))::text AS answers,
      string_agg(found.result, '') AS results
    FROM ${claim("id", "late_ms")} LEFT JOIN taken ON taken.id = claim.id LEFT JOIN found ON found.id = claim.id
    WHERE ${notMine}`;
}

/** What a claim is as a record. */
function running(records: string): string {
  return `INSERT INTO ${records} AS r (id, scope, key, fingerprint, format, state, attempt, crashes,
        owner, on_crash, lease_until, created_at, updated_at, expires_at)
      SELECT claim.id, claim.scope, claim.key, claim.fingerprint, ${RECORD_FORMAT}, ${RUNNING}, 1, 0,
        claim.owner, claim.on_crash, ${after("claim.lease_ms")}, ${NOW}, ${NOW},
        ${after("claim.life_ms")}`;
}

/**
 * SM-1 for those of a batch that are absent; others are not touched, and gives the ids of the former.
 * In the order of the batch, so that batches cannot deadlock.
 */
function insertNew(records: string): string {
  return `${running(records)}
      FROM ${sourceOf("claim", CLAIM, "called")}
      WHERE NOT ${late("claim.late_ms")}
      ON CONFLICT (id) DO NOTHING
      RETURNING r.id`;
}

/**
 * SM-5 for those of a batch that are completed, and about which there is nothing else to say: their
 * number, what answers them in five lines each, and their results, one after the other. What is
 * completed stays so.
 */
function replays(records: string): string {
  const answer = `concat_ws(E'\\n', r.id, r.attempt, ${remaining("r.expires_at")},
      octet_length(r.result), r.fingerprint)`;
  return `SELECT count(*), string_agg(${answer}, E'\\n'), string_agg(r.result, '')
    FROM ${records} AS r
    WHERE r.id = ANY ($1::uuid[]) AND coalesce(r.expires_at > ${NOW}, false) AND r.state + 0 = ${COMPLETED}
      AND r.format = ${RECORD_FORMAT} AND r.lease_until IS NULL AND r.reason IS NULL
      AND r.on_crash BETWEEN ${HOLD} AND ${PROBE} AND r.attempt >= 0 AND r.crashes >= 0
      AND strpos(r.fingerprint, E'\\n') = 0 AND r.result IS NOT NULL
      AND ($11 OR octet_length(r.result) <= ${BYTES_TOGETHER})`;
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
function settle(records: string, form: Form): string {
  return `UPDATE ${records} AS r
      SET state = ending.state, reason = ending.reason, lease_until = NULL, updated_at = ${NOW},
        expires_at = ${after("ending.retention_ms")},
        result = substring($9::bytea FROM ending.result_start FOR ending.result_bytes)
      FROM ${beginsWith(form, "session")}${sourceOf("ending", ENDING, form)}
      WHERE r.id = ending.id ${among(form)} AND ${WRITABLE} AND ${RUNS}
        AND r.attempt = ending.attempt AND r.owner = ending.owner
      RETURNING r.id`;
}

/** SM-14. As with results, the entries come in one piece. */
function append(records: string, howMany: HowMany, where = ""): string {
  return `WITH ${sharedSession("$7")}
    UPDATE ${records} AS r
    SET journal = coalesce(r.journal, '')
      || substring($6::bytea FROM entry.bytes_start FOR entry.bytes_length)
    FROM session, ${sourceOf("entry", ENTRY, howMany)}
    WHERE r.id = entry.id AND ${WRITABLE} AND ${RUNS}
      AND r.attempt = entry.attempt AND r.owner = entry.owner ${where}
    RETURNING r.id`;
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
      ${completed(records)}
      FROM session
      WHERE NOT ${late("$10::float8")}
        OR EXISTS (SELECT 1 FROM ${records} AS r WHERE r.id = $1::uuid AND ${LIVE})
      ON CONFLICT (id) DO UPDATE
      SET state = excluded.state, owner = excluded.owner, format = excluded.format,
        fingerprint = excluded.fingerprint, lease_until = NULL, updated_at = excluded.updated_at,
        expires_at = excluded.expires_at, result = excluded.result, reason = NULL, journal = NULL,
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

/** What a claim is as a record when it has ended. */
function completed(records: string): string {
  return `INSERT INTO ${records} AS r (id, scope, key, fingerprint, owner, on_crash, result, format,
        state, attempt, crashes, created_at, updated_at, expires_at)
      SELECT $1::uuid, $2::text, $3::text, $4::text, $5::uuid, $6::smallint, $7::bytea,
        ${RECORD_FORMAT}, ${COMPLETED}, 1, 0, ${NOW}, ${NOW}, ${after("$8::float8")}`;
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
