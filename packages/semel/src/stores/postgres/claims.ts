// What goes into the `begin` statement for a batch of claims, and what its rows mean.

import { RecordUnreadable } from "../../errors.ts";
import type {
  BeginAnswer,
  Claim,
  Ending,
  Renewal,
  SqlExecutor,
  SqlValue,
  StoredRecord,
} from "../../store.ts";
import {
  answerTo,
  CRASH_POLICY_CODES,
  type RecordRow,
  type SqlInteger,
  STATE_CODES,
  storedRecord,
} from "../sql-record.ts";
import { neverSettled } from "./schema.ts";
import type { PostgresStatements } from "./statements.ts";

/** How often a claim is asked for that others overtake each time. */
const CLAIM_TRIES_MAX = 20;

/** Waits for other transactions no longer than this; a caller's transaction, for as long as it takes. */
type LockTimeout = string | null;

export type Query = SqlExecutor["query"];

/** A row of the `begin` statement: of the record, what an answer is made of. */
interface BegunRow
  extends Omit<RecordRow, "id" | "scope" | "key" | "created" | "updated" | "state"> {
  acquired: boolean;
  late: boolean;
  /** `null` when the snapshot had no live record. */
  state: SqlInteger | null;
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

/** The parameters of `begin`, and of `beginMany` for more than one. */
export function beginParameters(claims: readonly Claim[], lockTimeout: LockTimeout): SqlValue[] {
  return [
    ...columnsOf(claims, [
      ({ id }) => id,
      ({ scope }) => scope,
      ({ key }) => key,
      ({ fingerprint }) => fingerprint,
      ({ owner }) => owner,
      ({ onCrash }) => CRASH_POLICY_CODES[onCrash],
      ({ leaseMs }) => leaseMs,
      lifeMsOf,
      ({ attemptsMax }) => attemptsMax,
      lateMsOf,
    ]),
    claims.length === 1,
    lockTimeout,
  ];
}

/** The parameters of `settle`: the results in one piece, and where in it each begins, from 1. */
export function settleParameters(endings: readonly Ending[], lockTimeout: LockTimeout): SqlValue[] {
  const state = { complete: "completed", release: "open", hold: "held" } as const;
  const results = endings.map((ending) => (ending.kind === "complete" ? ending.result : null));
  let start = 1;
  const starts = results.map((result) => {
    const own = start;
    start += result?.byteLength ?? 0;
    return result && own;
  });
  return [
    ...columnsOf(endings, [
      ({ id }) => id,
      ({ attempt }) => attempt,
      ({ owner }) => owner,
      ({ kind }) => STATE_CODES[state[kind]],
      (_, index) => starts[index]!,
      (_, index) => results[index]?.byteLength ?? null,
      (ending) => (ending.kind === "hold" ? ending.reason : null),
      ({ retentionMs }) => retentionMs,
    ]),
    Buffer.concat(results.filter((result) => result !== null)),
    lockTimeout,
  ];
}

export function renewParameters(
  renewals: readonly Renewal[],
  lockTimeout: LockTimeout,
): SqlValue[] {
  return [
    ...columnsOf(renewals, [
      ({ id }) => id,
      ({ attempt }) => attempt,
      ({ owner }) => owner,
      ({ leaseMs }) => leaseMs,
      lifeMsOf,
    ]),
    lockTimeout,
  ];
}

export function completeParameters(
  claim: Claim,
  result: Uint8Array,
  retentionMs: number,
): SqlValue[] {
  return [
    ...[claim.id, claim.scope, claim.key, claim.fingerprint, claim.owner],
    ...[CRASH_POLICY_CODES[claim.onCrash], asBuffer(result), retentionMs, claim.attemptsMax],
    lateMsOf(claim),
  ];
}

function lifeMsOf({ leaseMs, lapsedRetentionMs }: Claim | Renewal): number | null {
  return lapsedRetentionMs === null ? null : leaseMs + lapsedRetentionMs;
}

function lateMsOf({ refuseLate }: Claim): number | null {
  return refuseLate ? refuseLate.sentAt + refuseLate.ageMaxMs : null;
}

/** Drivers disagree about a plain `Uint8Array`. */
export function asBuffer({ buffer, byteOffset, byteLength }: Uint8Array): Buffer {
  return Buffer.from(buffer, byteOffset, byteLength);
}

/** A parameter for each column: its value for one item, an array of its values for many. */
function columnsOf<Item>(
  items: readonly Item[],
  columns: readonly ((item: Item, index: number) => string | number | null)[],
): SqlValue[] {
  const values = columns.map((column) => items.map(column));
  return items.length === 1 ? values.map(([value]) => value!) : values.map(arrayOf);
}

/** An array as Postgres writes it, which every driver passes on unchanged. */
export function arrayOf(values: readonly (string | number | null)[]): string {
  const element = (value: string | number | null) =>
    typeof value === "string" ? `"${value.replace(/["\\]/g, "\\$&")}"` : (value ?? "NULL");
  return `{${values.map(element).join()}}`;
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
  const rows = rowsOf<BegunRow>(result);
  return claims.map((claim, index) => {
    try {
      return replyTo(claim, rows[index]!);
    } catch (error) {
      if (error instanceof RecordUnreadable) return error;
      throw error;
    }
  });
}

function replyTo(claim: Claim, row: BegunRow): BeginReply {
  if (row.acquired) {
    const probe = Number(row.policy) === CRASH_POLICY_CODES.probe && Number(row.crashes) > 0;
    return { kind: "acquired", attempt: Number(row.attempt), probe };
  }
  const { state, owner } = row;
  if (state === null) return { kind: row.late ? "late" : "overtaken" };
  const { id, scope, key } = claim;
  // Written out: to spread an object costs more than the whole rest of an answer.
  const record = storedRecord({
    id,
    scope,
    key,
    fingerprint: row.fingerprint,
    format: row.format,
    state,
    attempt: row.attempt,
    crashes: row.crashes,
    owner: plainId(owner),
    policy: row.policy,
    lease: row.lease,
    reason: row.reason,
    created: 0,
    updated: 0,
    expires: row.expires,
    finished: row.finished,
    result: row.result,
  });
  if (isLarge(record) && record.fingerprint === claim.fingerprint) return { kind: "large" };
  const answer = answerTo(claim, record);
  if (answer !== undefined) return answer;
  return mayBeTaken(claim, record) ? { kind: "overtaken" } : { kind: "lapsed", record };
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

/** Asks until nobody is faster, and does what an answer needs besides. */
export async function begun(
  claim: Claim,
  ask: () => Promise<BeginReply>,
  query: Query,
  { holdLapsed, find }: PostgresStatements,
): Promise<BeginAnswer> {
  for (let tries = 0; tries < CLAIM_TRIES_MAX; tries++) {
    const reply = await ask();
    switch (reply.kind) {
      case "overtaken":
        break;
      case "large": {
        const [row] = rowsOf<RecordRow>(await query(find, [arrayOf([claim.id]), true]));
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
  }
  throw neverSettled();
}
