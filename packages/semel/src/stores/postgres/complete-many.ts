// Claims and completions of many operations in one statement, in a transaction that somebody opened
// (MSG-1): what is absent is inserted as completed, everything else stays as it is and is looked at.

import type { AttemptToken, BeginAnswer, Claim, SqlValue } from "../../store.ts";
import {
  answerTo,
  CRASH_POLICY_CODES,
  RECORD_FORMAT,
  type RecordRow,
  STATE_CODES,
} from "../sql-record.ts";
import { arrayOf, asBuffer, columnsOf, ownerOf } from "./parameters.ts";
import { isLarge, plainId, type Query, recordOf, rowsOf } from "./replies.ts";
import type { PostgresStatements } from "./statements.ts";

const { completed: COMPLETED, open: OPEN } = STATE_CODES;
const ACQUIRED = { kind: "acquired", attempt: 1, probe: false } as const;

/**
 * Inserts what is absent, and answers with their ids; with NULL where that is all. `DO NOTHING`, because a refused update would lock, and so write, a row. What
 * all have in common, as the marks of a batch have most, comes once.
 *
 * @param session sees to the settings of the transaction
 * @param now the statement's time
 */
export function completeMany(records: string, session: string, now: string): string {
  return `WITH ${session}, inserted AS (
    INSERT INTO ${records} (id, scope, key, fingerprint, owner, on_crash, result, format, state,
      attempt, crashes, created_at, updated_at, expires_at)
    SELECT claim.id, coalesce(claim.scope, ($5::text[])[1]), claim.key, claim.fingerprint, claim.owner,
      coalesce(claim.on_crash, ($6::smallint[])[1]), coalesce(claim.result, ($7::bytea[])[1]),
      ${RECORD_FORMAT}, ${COMPLETED}, 1, 0, ${now}, ${now}, ${now} + $8::float8 * interval '1 ms'
    FROM session, unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::smallint[],
      $7::bytea[])
      AS claim (id, key, fingerprint, owner, scope, on_crash, result)
    ON CONFLICT (id) DO NOTHING
    RETURNING id
  )
  SELECT CASE WHEN count(*) < cardinality($1::uuid[]) THEN coalesce(string_agg(id::text, ','), '') END
    AS ids FROM inserted`;
}

export function reopen(records: string, now: string): string {
  return `UPDATE ${records} AS r
    SET state = ${OPEN}, result = NULL, updated_at = ${now},
      expires_at = ${now} + $4::float8 * interval '1 ms'
    FROM unnest($1::uuid[], $2::uuid[], $3::integer[]) AS token (id, owner, attempt)
    WHERE r.id = token.id AND r.owner = token.owner AND r.attempt = token.attempt
      AND r.state = ${COMPLETED}`;
}

/** The parameters of {@link completeMany}. */
function completeManyParameters(
  claims: readonly Claim[],
  results: readonly Uint8Array[],
  retentionMs: number,
): SqlValue[] {
  return [
    ...columnsOf(claims, "many", {
      own: [({ id }) => id, ({ key }) => key, ({ fingerprint }) => fingerprint, ownerOf],
      common: [({ scope }) => scope, ({ onCrash }) => CRASH_POLICY_CODES[onCrash]],
    }),
    literalsOf(results),
    retentionMs,
  ];
}

/** An array of bytes; of one where all are the same. */
function literalsOf(results: readonly Uint8Array[]): string {
  const [first] = results;
  const isCommon = results.every((result) => result === first);
  const own = isCommon ? results.slice(0, 1) : results;
  return `{${own.map((result) => `"\\\\x${asBuffer(result).toString("hex")}"`).join()}}`;
}

/** The parameters of {@link reopen}. */
export function reopenParameters(tokens: readonly AttemptToken[], retentionMs: number): SqlValue[] {
  return [
    arrayOf(tokens.map(({ id }) => id)),
    arrayOf(tokens.map(({ owner }) => owner)),
    arrayOf(tokens.map(({ attempt }) => attempt)),
    retentionMs,
  ];
}

/**
 * Completes what is absent, and answers for the rest.
 *
 * @param alone for what can neither be inserted nor answered for
 */
export async function completedTogether(
  claims: readonly Claim[],
  results: readonly Uint8Array[],
  retentionMs: number,
  query: Query,
  sql: PostgresStatements,
  alone: (claim: Claim, result: Uint8Array) => Promise<BeginAnswer>,
): Promise<BeginAnswer[]> {
  const inserted = await query(
    sql.completeMany,
    completeManyParameters(claims, results, retentionMs),
  );
  const { ids } = rowsOf<{ ids: string | null }>(inserted)[0]!;
  // Most batches are new altogether.
  if (ids === null) return claims.map(() => ACQUIRED);
  const fresh = new Set(ids.split(",").map(plainId));
  const others = claims.filter(({ id }) => !fresh.has(id));
  const found = new Map<string, RecordRow>();
  if (others.length > 0) {
    const rows = await query(sql.find, [arrayOf(others.map(({ id }) => id)), false]);
    for (const row of rowsOf<RecordRow>(rows)) found.set(plainId(row.id), row);
  }
  const answers: BeginAnswer[] = [];
  for (const [index, claim] of claims.entries()) {
    const row = found.get(claim.id);
    const record = row && recordOf(row);
    const answer = fresh.has(claim.id)
      ? ACQUIRED
      : record && !isLarge(record) && answerTo(claim, record);
    answers.push(answer || (await alone(claim, results[index]!)));
  }
  return answers;
}
