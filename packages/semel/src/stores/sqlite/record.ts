// A row of the SQLite store as the record that the contract speaks of.

import { RecordUnreadable } from "../../errors.ts";
import type { CrashPolicy, RecordState, StoredRecord } from "../../store.ts";
import type { SqliteInteger } from "./connection.ts";
import { CRASH_POLICY_CODES, RECORD_FORMAT, STATE_CODES } from "./schema.ts";

/** States by their codes. */
export const STATES: ReadonlyMap<number, RecordState> = new Map(
  Object.entries(STATE_CODES).map(([state, code]) => [code, state as RecordState]),
);
const CRASH_POLICIES = new Map<number, CrashPolicy>(
  Object.entries(CRASH_POLICY_CODES).map(([policy, code]) => [code, policy as CrashPolicy]),
);

/** The columns that `statements.ts` selects of a record. */
export interface RecordRow {
  position: SqliteInteger;
  id: string;
  scope: string;
  key: string;
  fingerprint: string;
  format: SqliteInteger;
  state: SqliteInteger;
  attempt: SqliteInteger;
  crashes: SqliteInteger;
  owner: string;
  on_crash: SqliteInteger;
  lease_ms: SqliteInteger | null;
  reason: string | null;
  created_at: SqliteInteger;
  updated_at: SqliteInteger;
  expires_ms: SqliteInteger | null;
  has_result: SqliteInteger;
  result: Uint8Array | ArrayBuffer | null;
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
    onCrash: CRASH_POLICIES.get(Number(row.on_crash)),
    crashes: Number(row.crashes),
    leaseRemainingMs: integer(row.lease_ms),
    result: bytes(row.result),
    reason: row.reason,
    createdAt: Number(row.created_at),
    updatedAt: Number(row.updated_at),
    expiresInMs: integer(row.expires_ms),
  };
  const damage = damageOf(record, format, Boolean(row.has_result));
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

function integer(value: SqliteInteger | null): number | null {
  return value === null ? null : Number(value);
}

/** A plain `Uint8Array` of its own memory, whether the driver gives that, a `Buffer` or an `ArrayBuffer`. */
function bytes(value: Uint8Array | ArrayBuffer | null): Uint8Array | null {
  if (value === null) return null;
  return value.constructor === Uint8Array ? value : new Uint8Array(value);
}
