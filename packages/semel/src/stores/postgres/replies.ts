// What the rows of the store's statements mean.

import { RecordUnreadable } from "../../errors.ts";
import type { BeginAnswer, Claim, RecordId, SqlExecutor, StoredRecord } from "../../store.ts";
import {
  answerTo,
  CRASH_POLICY_CODES,
  plainBytes,
  type RecordRow,
  type SqlInteger,
  storedRecord,
} from "../sql-record.ts";
import { neverSettled } from "./schema.ts";
import type { PostgresStatements } from "./statements.ts";

/** How often a claim is asked for that others overtake each time. */
const CLAIM_TRIES_MAX = 20;

export type Query = SqlExecutor["query"];

/** A row of the `begin` statement, which answers many claims. */
type BegunRow =
  /** Five lines for each: id, attempt, milliseconds left, bytes of the result, fingerprint. */
  | { kind: "completed"; answers: string; results: Uint8Array }
  /** The ids of what was acquired for the first time, a line each; `null`: the whole batch was. */
  | { kind: "acquired"; answers: string | null }
  /** JSON of {@link Found}. */
  | { kind: "found"; answers: string; results: Uint8Array | null };

/** What the whole of the statement has found for one claim, or done. */
interface Found
  extends Omit<RecordRow, "scope" | "key" | "created" | "updated" | "age" | "state" | "result"> {
  acquired: boolean;
  late: boolean;
  /** `null` when the snapshot had no live record. */
  state: SqlInteger | null;
  /** How many of the results it has; `null` when none came along. */
  bytes: number | null;
}

/** A begin as answered, or what remains to be done for its answer. */
export type BeginReply =
  | BeginAnswer
  /** Lapsed, and not to be taken over: it is to be held. */
  | { kind: "lapsed"; record: StoredRecord }
  /** Completed, with a result too large to have come along. */
  | { kind: "large" }
  /** Others were faster since the statement's snapshot. */
  | { kind: "overtaken" };

/** Rows of the user's client, whose types it decides. */
export function rowsOf<Row>(result: { rows: readonly Record<string, unknown>[] }): readonly Row[] {
  return result.rows as readonly unknown[] as readonly Row[];
}

/** A row as the record that it is: Postgres writes identifiers with hyphens. */
export function recordOf(row: RecordRow): StoredRecord {
  return storedRecord(withPlainIds(row));
}

export function withPlainIds<Row extends { id: string; owner: string }>(row: Row): Row {
  return { ...row, id: plainId(row.id), owner: plainId(row.owner) };
}

export function plainId(uuid: string): string {
  return uuid.replaceAll("-", "");
}

/** What the rows of the `begin` statement answer to its claims, in their order. */
export function repliesTo(
  claims: readonly Claim[],
  result: { rows: readonly Record<string, unknown>[] },
): (BeginReply | RecordUnreadable)[] {
  const replies = new Map<RecordId, (claim: Claim) => BeginReply>();
  // In their order: what was answered on the way to the whole of a batch may come again.
  for (const row of rowsOf<BegunRow>(result)) {
    switch (row.kind) {
      case "completed":
        addCompleted(replies, row.answers.split("\n"), row.results);
        break;
      case "acquired":
        if (row.answers === null) return claims.map(acquiredAnew);
        for (const id of row.answers.split("\n")) replies.set(plainId(id), acquiredAnew);
        break;
      case "found":
        addFound(replies, JSON.parse(row.answers) as Found[], row.results);
    }
  }
  return claims.map((claim) => {
    try {
      return replies.get(claim.id)?.(claim) ?? { kind: "overtaken" };
    } catch (error) {
      if (error instanceof RecordUnreadable) return error;
      throw error;
    }
  });
}

type Replies = Map<RecordId, (claim: Claim) => BeginReply>;

function acquiredAnew(): BeginReply {
  return { kind: "acquired", attempt: 1, probe: false };
}

function addCompleted(replies: Replies, lines: readonly string[], results: Uint8Array): void {
  let start = 0;
  for (let at = 0; at < lines.length; at += 5) {
    const [attempt, expiresInMs] = [Number(lines[at + 1]), Number(lines[at + 2])];
    const end = start + Number(lines[at + 3]);
    const fingerprint = lines[at + 4]!;
    const bytes = results.subarray(start, end);
    start = end;
    replies.set(plainId(lines[at]!), (claim) =>
      fingerprint === claim.fingerprint
        ? { kind: "done", attempt, result: plainBytes(bytes), expiresInMs }
        : { kind: "mismatch", fingerprint },
    );
  }
}

function addFound(replies: Replies, all: readonly Found[], results: Uint8Array | null): void {
  let start = 0;
  for (const found of all) {
    const end = start + (found.bytes ?? 0);
    const result = found.bytes === null || results === null ? null : results.subarray(start, end);
    start = end;
    replies.set(plainId(found.id), (claim) => replyTo(claim, found, result));
  }
}

function replyTo(claim: Claim, found: Found, result: Uint8Array | null): BeginReply {
  const { acquired, late, state, owner, bytes: _, ...rest } = found;
  if (acquired) {
    const probe = rest.policy === CRASH_POLICY_CODES.probe && Number(rest.crashes) > 0;
    return { kind: "acquired", attempt: Number(rest.attempt), probe };
  }
  if (state === null) return { kind: late ? "late" : "overtaken" };
  const { id, scope, key } = claim;
  const times = { created: 0, updated: 0, age: 0 };
  const record = storedRecord({
    ...{ ...rest, ...times, id, scope, key, state, owner: plainId(owner), result },
  });
  if (isLarge(record) && record.fingerprint === claim.fingerprint) return { kind: "large" };
  const answer = answerTo(claim, record);
  if (answer !== undefined) return answer;
  return mayBeTaken(claim, record) ? { kind: "overtaken" } : { kind: "lapsed", record };
}

/** A row of the `find` statement. */
export interface FoundRow extends RecordRow {
  journaled: boolean;
}

/** Whether its journal was left out. */
export function isJournalLarge({ journaled, journal }: FoundRow): boolean {
  return journaled && journal === null;
}

/** Whether its result was left out. */
export function isLarge({ state, result }: StoredRecord): boolean {
  return state === "completed" && result === null;
}

/** Of a record that no answer was found for: open, or lapsed. */
function mayBeTaken(claim: Claim, { state, owner, onCrash, crashes }: StoredRecord): boolean {
  if (state === "open" || owner === claim.owner) return true;
  return onCrash !== "hold" && crashes + 1 < claim.attemptsMax;
}

/** Asks again until nobody is faster, and does what an answer needs besides. */
export async function begun(
  claim: Claim,
  first: BeginReply,
  ask: () => Promise<BeginReply>,
  query: Query,
  { holdLapsed, look }: PostgresStatements,
): Promise<BeginAnswer> {
  let reply = first;
  for (let tries = 1; ; tries++) {
    switch (reply.kind) {
      case "overtaken":
        break;
      case "large": {
        const [row] = rowsOf<RecordRow>(await query(look, [claim.id]));
        const answer = row && answerTo(claim, recordOf(row));
        if (answer) return answer;
        break;
      }
      case "lapsed": {
        // SM-4, SM-23a. Attempt, owner and the lapse are tested again where it is written.
        const { attempt, owner, onCrash } = reply.record;
        const reason = onCrash === "hold" ? "lease-lapsed" : "attempts-exhausted";
        const parameters = [claim.id, attempt, owner, reason, claim.heldRetentionMs];
        const { changes } = await query(holdLapsed, parameters);
        if (changes > 0) return { kind: "held", attempt, reason };
        break;
      }
      default:
        return reply;
    }
    if (tries === CLAIM_TRIES_MAX) throw neverSettled();
    reply = await ask();
  }
}
