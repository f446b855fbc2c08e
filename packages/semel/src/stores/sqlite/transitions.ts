// The transitions that may also be part of a transaction of the user's (EN-5). Each is a generator
// that yields statements and goes on with their results, so that the store runs it in one go on
// its own connection, and within a transaction an executor runs it statement by statement.

import { StoreUnavailable } from "../../errors.ts";
import type {
  AttemptToken,
  BeginAnswer,
  Claim,
  Ending,
  JournalEntry,
  RecordId,
  SettleAnswer,
  SqlExecutor,
  SqlResult,
  StoredRecord,
} from "../../store.ts";
import {
  answerTo,
  CRASH_POLICY_CODES,
  type RecordRow,
  STATE_CODES,
  storedRecord,
} from "../sql-record.ts";
import { blob, type SqliteConnection, type SqliteInteger, type SqliteValue } from "./connection.ts";
import type { SqliteStatements } from "./statements.ts";

interface Step {
  sql: string;
  parameters: readonly SqliteValue[];
  /** Whether it returns rows; drivers have a method for each. */
  reads: boolean;
}

export type Transition<Answer> = Generator<Step, Answer, SqlResult>;

/** Runs a transition in one go. */
export function perform<Answer>(
  connection: SqliteConnection,
  transition: Transition<Answer>,
): Answer {
  let step = transition.next();
  while (!step.done) {
    const { sql, parameters, reads } = step.value;
    step = transition.next(
      reads
        ? { rows: connection.rows(sql, ...parameters), changes: 0 }
        : { rows: [], changes: connection.run(sql, ...parameters) },
    );
  }
  return step.value;
}

/** Runs a transition in a transaction that somebody opened. */
export async function performOn<Answer>(
  executor: SqlExecutor,
  transition: Transition<Answer>,
): Promise<Answer> {
  let step = transition.next();
  while (!step.done) {
    step = transition.next(await executor.query(step.value.sql, step.value.parameters));
  }
  return step.value;
}

interface ClaimRow {
  attempt: SqliteInteger;
  crashes: SqliteInteger;
  policy: SqliteInteger;
}

/** SM-1, the most of what a store is asked: at once, without the generators that a transition is made of. */
export function claimedNew(
  connection: SqliteConnection,
  { claimNew }: SqliteStatements,
  claim: Claim,
): BeginAnswer | undefined {
  if (claim.refuseLate || connection.run(claimNew, ...claimRow(claim)) === 0) return undefined;
  return { kind: "acquired", attempt: 1, probe: false };
}

/** The parameters of a claim's row. */
function claimRow(claim: Claim): SqliteValue[] {
  const { id, scope, key, fingerprint, owner, onCrash, leaseMs, lapsedRetentionMs } = claim;
  const lifeMs = lapsedRetentionMs === null ? null : leaseMs + lapsedRetentionMs;
  return [id, scope, key, fingerprint, owner, CRASH_POLICY_CODES[onCrash], leaseMs, lifeMs];
}

/** SM-1 to SM-7, where no answer was read before. */
export function* claimed(statements: SqliteStatements, claim: Claim): Transition<BeginAnswer> {
  const { id, refuseLate } = claim;
  const [acquired] = yield* rows<ClaimRow>(
    refuseLate ? statements.claimUnlessLate : statements.claim,
    ...claimRow(claim),
    ...(refuseLate ? [refuseLate.sentAt, refuseLate.ageMaxMs, id] : []),
    claim.attemptsMax,
  );
  if (acquired !== undefined) {
    const isProbe = Number(acquired.policy) === CRASH_POLICY_CODES.probe;
    const probe = isProbe && Number(acquired.crashes) > 0;
    return { kind: "acquired", attempt: Number(acquired.attempt), probe };
  }
  const record = yield* found(statements, id);
  if (record !== undefined) {
    return answerTo(claim, record) ?? (yield* lapsedHeld(statements, claim, record));
  }
  if ((yield* changes(statements.forgetExpired, id)) > 0) return yield* claimed(statements, claim);
  if (refuseLate !== undefined) return { kind: "late" };
  throw clockWentBack();
}

/** SM-4, SM-23a: a lapsed record that may not be taken over. */
function* lapsedHeld(
  { holdLapsed }: SqliteStatements,
  { id, heldRetentionMs }: Claim,
  { attempt, owner, onCrash }: StoredRecord,
): Transition<BeginAnswer> {
  const reason = onCrash === "hold" ? "lease-lapsed" : "attempts-exhausted";
  const held = yield* changes(holdLapsed, reason, heldRetentionMs, id, attempt, owner);
  if (held === 0) throw clockWentBack();
  return { kind: "held", attempt, reason };
}

const STATE_AFTER = {
  complete: STATE_CODES.completed,
  release: STATE_CODES.open,
  hold: STATE_CODES.held,
} as const;

/** The parameters of an attempt's end. */
function endRow(ending: Ending): SqliteValue[] {
  const { id, attempt, owner, kind, retentionMs } = ending;
  const result = kind === "complete" ? blob(ending.result) : null;
  const reason = kind === "hold" ? ending.reason : null;
  return [STATE_AFTER[kind], result, reason, retentionMs, id, attempt, owner];
}

/** {@link settled} at once, as {@link claimedNew} is. */
export function settledAtOnce(
  connection: SqliteConnection,
  statements: SqliteStatements,
  ending: Ending,
): SettleAnswer {
  if (connection.run(statements.settle, ...endRow(ending)) > 0) return { kind: "settled" };
  return perform(connection, stale(statements, ending));
}

/** SM-8 to SM-10. */
export function* settled(statements: SqliteStatements, ending: Ending): Transition<SettleAnswer> {
  const count = yield* changes(statements.settle, ...endRow(ending));
  return count > 0 ? { kind: "settled" } : yield* stale(statements, ending);
}

/** SM-14. */
export function* appended(
  statements: SqliteStatements,
  { id, attempt, owner, bytes }: JournalEntry,
): Transition<SettleAnswer> {
  const count = yield* changes(statements.append, blob(bytes), id, attempt, owner);
  return count > 0 ? { kind: "settled" } : yield* stale(statements, { id });
}

/** Claim and completion at once. */
export function* completed(
  statements: SqliteStatements,
  claim: Claim,
  result: Uint8Array,
  retentionMs: number,
): Transition<SettleAnswer> {
  const { id, scope, key, fingerprint, owner, onCrash, attemptsMax } = claim;
  const inserted = yield* changes(
    statements.complete,
    ...[id, scope, key, fingerprint, owner, CRASH_POLICY_CODES[onCrash], retentionMs, blob(result)],
    attemptsMax,
  );
  if (inserted > 0) return { kind: "settled" };
  const isExpired = (yield* changes(statements.forgetExpired, id)) > 0;
  if (isExpired) return yield* completed(statements, claim, result, retentionMs);
  return yield* stale(statements, claim);
}

/** Claims and completions of those that are absent, and answers for the others as far as one can be given. */
export function* completedTogether(
  statements: SqliteStatements,
  claims: readonly Claim[],
  results: readonly Uint8Array[],
  retentionMs: number,
): Transition<(BeginAnswer | undefined)[]> {
  const rowsOf = claims.map(({ id, scope, key, fingerprint, owner, onCrash }, index) => {
    const result = Buffer.from(results[index]!).toString("hex");
    return [id, scope, key, fingerprint, owner, CRASH_POLICY_CODES[onCrash], result];
  });
  const { completeMany, findMany } = statements;
  const inserted = yield* rows<{ id: string }>(completeMany, retentionMs, JSON.stringify(rowsOf));
  const fresh = new Set(inserted.map(({ id }) => id));
  const others = claims.filter(({ id }) => !fresh.has(id)).map(({ id }) => id);
  const found = others.length > 0 ? yield* rows<RecordRow>(findMany, JSON.stringify(others)) : [];
  const records = new Map(found.map((row) => [row.id, row]));
  return claims.map((claim) => {
    if (fresh.has(claim.id)) return { kind: "acquired", attempt: 1, probe: false };
    const row = records.get(claim.id);
    return answerTo(claim, row && storedRecord(row));
  });
}

/** What was completed in a transaction that goes on without it. */
export function* reopened(
  { reopen }: SqliteStatements,
  tokens: readonly AttemptToken[],
  retentionMs: number,
): Transition<void> {
  const named = tokens.map(({ id, owner, attempt }) => [id, owner, attempt]);
  yield* changes(reopen, retentionMs, JSON.stringify(named));
}

/** @throws {RecordUnreadable} when nobody can tell whose the record is */
export function* stale(
  statements: SqliteStatements,
  { id }: Pick<AttemptToken, "id">,
): Transition<{ kind: "stale" }> {
  yield* found(statements, id);
  return { kind: "stale" };
}

/** The live record. */
export function* found(
  { find }: SqliteStatements,
  id: RecordId,
): Transition<StoredRecord | undefined> {
  const [row] = yield* rows<RecordRow>(find, id);
  return row && storedRecord(row);
}

export function* rows<Row>(sql: string, ...parameters: SqliteValue[]): Transition<readonly Row[]> {
  return (yield { sql, parameters, reads: true }).rows as readonly Row[];
}

export function* changes(sql: string, ...parameters: SqliteValue[]): Transition<number> {
  return (yield { sql, parameters, reads: false }).changes;
}

/** Two statements of one transaction disagree about the time; asking again settles it. */
export function clockWentBack(): StoreUnavailable {
  return new StoreUnavailable("The clock was set back while a record changed hands; ask again");
}
