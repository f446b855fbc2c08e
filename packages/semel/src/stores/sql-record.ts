// What the SQL stores share: how states and policies are kept as small numbers, and how a row
// becomes the record that the contract speaks of.

import { RecordUnreadable } from "../errors.ts";
import type { BeginAnswer, Claim, CrashPolicy, RecordState, StoredRecord } from "../store.ts";

/** Written into every record; a record with another is not this version's to read (SM-23b). */
export const RECORD_FORMAT = 1;

/** A record's state as stored. SQLite keeps 0 and 1 in no bytes at all. */
export const STATE_CODES = {
  running: 0,
  completed: 1,
  held: 2,
  open: 3,
  void: 4,
} as const satisfies Record<RecordState, number>;

/** A record's crash policy as stored. */
export const CRASH_POLICY_CODES = {
  hold: 0,
  rerun: 1,
  probe: 2,
} as const satisfies Record<CrashPolicy, number>;

/** States by their codes. */
export const STATES: ReadonlyMap<number, RecordState> = new Map(
  Object.entries(STATE_CODES).map(([state, code]) => [code, state as RecordState]),
);
const CRASH_POLICIES = new Map<number, CrashPolicy>(
  Object.entries(CRASH_POLICY_CODES).map(([policy, code]) => [code, policy as CrashPolicy]),
);

/** A whole number as read: drivers give large ones as a `bigint` or in digits. */
export type SqlInteger = number | bigint | string;

/**
 * What a store selects of a record. Names are single words, so that a client which renames columns
 * to its language's taste leaves them alone.
 */
export interface RecordRow {
  /** 32 hexadecimal digits. */
  id: string;
  scope: string;
  key: string;
  fingerprint: string;
  format: SqlInteger;
  state: SqlInteger;
  attempt: SqlInteger;
  crashes: SqlInteger;
  /** 32 hexadecimal digits. */
  owner: string;
  policy: SqlInteger;
  /** What remains of the lease, in milliseconds. */
  lease: SqlInteger | null;
  reason: string | null;
  /** This and `updated`: milliseconds since the Unix epoch. */
  created: SqlInteger;
  updated: SqlInteger;
  /** What remains of the record's life, in milliseconds. */
  expires: SqlInteger | null;
  /** Whether there is a result, which a listing does not select. */
  finished: SqlInteger | boolean;
  result: Uint8Array | ArrayBuffer | null;
  /** Not selected by a listing. */
  journal?: Uint8Array | ArrayBuffer | null;
  /** Time since it was created, in milliseconds. */
  age: SqlInteger;
}

/**
 * Reads a row.
 *
 * @throws {RecordUnreadable} when it was written by a newer version, or is damaged (SM-23b)
 */
export function storedRecord(row: RecordRow): StoredRecord {
  const id = row.id;
  const format = Number(row.format);
  if (format > RECORD_FORMAT) {
    throw new RecordUnreadable(
      `Record ${id} has format ${format}, newer than the ${RECORD_FORMAT} that this version of Semel reads; upgrade Semel`,
    );
  }
  const record = {
    id,
    scope: row.scope,
    key: row.key,
    fingerprint: row.fingerprint,
    state: STATES.get(Number(row.state)),
    attempt: Number(row.attempt),
    owner: row.owner,
    onCrash: CRASH_POLICIES.get(Number(row.policy)),
    crashes: Number(row.crashes),
    leaseRemainingMs: integer(row.lease),
    result: bytes(row.result),
    reason: row.reason,
    journal: bytes(row.journal ?? null),
    ageMs: Number(row.age),
    createdAt: Number(row.created),
    updatedAt: Number(row.updated),
    expiresInMs: integer(row.expires),
  };
  const damage = damageOf(record, format, Boolean(row.finished));
  if (damage !== undefined) {
    throw new RecordUnreadable(`Record ${id} is damaged: ${damage}`);
  }
  return record as StoredRecord;
}

interface Decoded extends Omit<StoredRecord, "state" | "onCrash"> {
  state: RecordState | undefined;
  onCrash: CrashPolicy | undefined;
}

/** What no version of Semel would have written. */
function damageOf(record: Decoded, format: number, hasResult: boolean): string | undefined {
  const { state } = record;
  if (format !== RECORD_FORMAT) return `there is no format ${format}`;
  if (state === undefined) return "its state is unknown";
  if (record.onCrash === undefined) return "its crash policy is unknown";
  if (record.owner.length !== 32) return "its owner is not 16 bytes";
  if (record.attempt < 0 || record.crashes < 0) return "it counts below zero";
  if ((state === "running") !== (record.leaseRemainingMs !== null)) {
    return "it must have a lease exactly while it runs";
  }
  if ((state === "completed") !== hasResult) return "it must have a result exactly when completed";
  if ((state === "held") !== (record.reason !== null))
    return "it must have a reason exactly when held";
  if (record.expiresInMs === null && state !== "running" && state !== "held") {
    return "it must have an end of its life";
  }
  return undefined;
}

export function integer(value: SqlInteger | null): number | null {
  return value === null ? null : Number(value);
}

export function bytes(value: Uint8Array | ArrayBuffer | null): Uint8Array | null {
  return value === null ? null : plainBytes(value);
}

/** A plain `Uint8Array` of its own memory, whether the driver gives that, a `Buffer` or an `ArrayBuffer`. */
export function plainBytes(value: Uint8Array | ArrayBuffer): Uint8Array {
  return value.constructor === Uint8Array ? value : new Uint8Array(value);
}

/** For listings: leaves a damaged record out, so that it does not hide the others. */
export function readableRecord(row: RecordRow): StoredRecord[] {
  try {
    return [storedRecord(row)];
  } catch (error) {
    if (error instanceof RecordUnreadable) return [];
    throw error;
  }
}

/** What a begin is told without a write, in the order of SM-2; nothing when it may need one. */
export function answerTo(claim: Claim, record: StoredRecord | undefined): BeginAnswer | undefined {
  if (record === undefined) return undefined;
  const { state, attempt, fingerprint } = record;
  const isBlankTombstone = state === "void" && fingerprint === "";
  if (fingerprint !== claim.fingerprint && !isBlankTombstone) {
    return { kind: "mismatch", fingerprint };
  }
  switch (state) {
    case "completed":
      return { kind: "done", attempt, result: record.result!, expiresInMs: record.expiresInMs! };
    case "held":
      return { kind: "held", attempt, reason: record.reason! };
    case "void":
      return { kind: "void" };
    case "open":
      return undefined;
    case "running": {
      const leaseRemainingMs = record.leaseRemainingMs!;
      if (record.owner === claim.owner || leaseRemainingMs <= 0) return undefined;
      return { kind: "busy", attempt, leaseRemainingMs };
    }
  }
}
