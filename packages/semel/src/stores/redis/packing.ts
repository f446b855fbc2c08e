// The binary forms that the Redis store and its scripts share: the record, which is one string, and
// the items of a batch. Numbers are big-endian; `I6` in a script is 48 bits.
//
//   0 format   1 state   2 crash policy   3 attempt (4)   7 crashes (2)   9 owner (16)
//   25 created (6)   31 changed (6)   37 end of life or 0 (6)
//   43 length of the fingerprint   44 of the scope (2)   46 of the key (2)   48 these three, as UTF-8
//   then, by state: the lease's end (6) while running, the result, or the reason

import { RecordUnreadable } from "../../errors.ts";
import type {
  Claim,
  CrashPolicy,
  Ending,
  RecordId,
  RecordState,
  Renewal,
  Resolution,
  StoredRecord,
  VoidRequest,
} from "../../store.ts";

/** The first byte of every record; another is not this version's to read (SM-23b). */
export const RECORD_FORMAT = 1;

const STATES: readonly (RecordState | undefined)[] = [
  undefined,
  "running",
  "completed",
  "held",
  "open",
  "void",
];
const STATE_CODES = { running: 1, completed: 2, held: 3, open: 4, void: 5 } as const;
const CRASH_POLICIES: readonly CrashPolicy[] = ["hold", "rerun", "probe"];

const NAMES_AT = 48;
const LEASE_BYTES = 6;
/** Two of them from today stay within what an index counts to. */
const LENGTH_MS_MAX = 2 ** 43;
const HEXADECIMAL = /^[0-9a-f]{32}$/;

/** What items of all kinds are made of. */
interface Packable {
  id: string;
  owner?: string;
  fingerprint?: string;
  scope?: string;
  key?: string;
  leaseMs?: number;
  retentionMs?: number | null;
  lapsedRetentionMs?: number | null;
  heldRetentionMs?: number | null;
}

/**
 * Refuses what has no place in the binary form, so that it fails alone and not with its batch.
 *
 * @throws {RangeError}
 */
export function assertPackable(item: Packable): void {
  const { id, owner = id, fingerprint = "", scope = "", key = "" } = item;
  if (!HEXADECIMAL.test(id)) throw new RangeError("`id` must be 32 hexadecimal digits");
  if (!HEXADECIMAL.test(owner)) throw new RangeError("`owner` must be 32 hexadecimal digits");
  if (Buffer.byteLength(fingerprint) > 255) {
    throw new RangeError("`fingerprint` must have at most 255 bytes");
  }
  if (Buffer.byteLength(scope) > 65_535)
    throw new RangeError("`scope` is longer than 65,535 bytes");
  if (Buffer.byteLength(key) > 65_535) throw new RangeError("`key` is longer than 65,535 bytes");
  for (const name of ["leaseMs", "retentionMs", "lapsedRetentionMs", "heldRetentionMs"] as const) {
    const ms = item[name] ?? 0;
    if (!Number.isInteger(ms) || ms < 0 || ms > LENGTH_MS_MAX) {
      throw new RangeError(`\`${name}\` must be whole milliseconds up to ${LENGTH_MS_MAX}`);
    }
  }
}

/** A number for each item: which index, of those passed with its batch, its record has. */
export type IndexNumber = number;

export function packClaim(claim: Claim, index: IndexNumber): Buffer {
  const { id, owner, fingerprint, scope, key, refuseLate } = claim;
  const names = namesBytes(fingerprint, scope, key);
  const packed = Buffer.allocUnsafe(83 + names);
  packed.write(id, 0, "hex");
  packed.write(owner, 16, "hex");
  packed[32] = CRASH_POLICIES.indexOf(claim.onCrash);
  packed.writeUInt16BE(index, 33);
  packed.writeDoubleBE(claim.leaseMs, 35);
  packed.writeDoubleBE(claim.attemptsMax, 43);
  packed.writeDoubleBE(claim.lapsedRetentionMs ?? -1, 51);
  packed.writeDoubleBE(claim.heldRetentionMs ?? -1, 59);
  packed.writeDoubleBE(refuseLate?.sentAt ?? 0, 67);
  packed.writeDoubleBE(refuseLate?.ageMaxMs ?? -1, 75);
  writeNames(packed, 83, fingerprint, scope, key);
  return packed;
}

const ENDED_STATES = { complete: "completed", release: "open", hold: "held" } as const;

export function packEnding(ending: Ending, index: IndexNumber): Buffer {
  const tail = tailOf(ending);
  const packed = Buffer.allocUnsafe(55 + tail.byteLength);
  packed.write(ending.id, 0, "hex");
  packed.write(ending.owner, 16, "hex");
  packed.writeDoubleBE(ending.attempt, 32);
  packed.writeUInt16BE(index, 40);
  packed[42] = STATE_CODES[ENDED_STATES[ending.kind]];
  packed.writeDoubleBE(ending.retentionMs ?? -1, 43);
  packed.writeUInt32BE(tail.byteLength, 51);
  packed.set(tail, 55);
  return packed;
}

function tailOf(ending: Ending): Uint8Array {
  switch (ending.kind) {
    case "complete":
      return ending.result;
    case "release":
      return new Uint8Array();
    case "hold":
      return Buffer.from(ending.reason);
  }
}

export function packRenewal({ owner, attempt, leaseMs, lapsedRetentionMs }: Renewal): Buffer {
  const packed = Buffer.allocUnsafe(40);
  packed.write(owner, 0, "hex");
  packed.writeDoubleBE(attempt, 16);
  packed.writeDoubleBE(leaseMs, 24);
  packed.writeDoubleBE(lapsedRetentionMs ?? -1, 32);
  return packed;
}

export function packResolution(resolution: Resolution, index: IndexNumber): Buffer {
  const isComplete = resolution.kind === "complete";
  const result = isComplete ? resolution.result : new Uint8Array();
  const packed = Buffer.allocUnsafe(31 + result.byteLength);
  packed.write(resolution.id, 0, "hex");
  packed.writeUInt16BE(index, 16);
  packed[18] = isComplete ? STATE_CODES.completed : STATE_CODES.open;
  packed.writeDoubleBE(resolution.retentionMs, 19);
  packed.writeUInt32BE(result.byteLength, 27);
  packed.set(result, 31);
  return packed;
}

export function packVoid({ id, scope, key, retentionMs }: VoidRequest, index: IndexNumber): Buffer {
  const packed = Buffer.allocUnsafe(26 + namesBytes("", scope, key));
  packed.write(id, 0, "hex");
  packed.writeUInt16BE(index, 16);
  packed.writeDoubleBE(retentionMs, 18);
  writeNames(packed, 26, "", scope, key);
  return packed;
}

/** What scripts need to find a record's place in its index. */
export function packPlace({ id }: { readonly id: RecordId }, index: IndexNumber): Buffer {
  const packed = Buffer.allocUnsafe(18);
  packed.write(id, 0, "hex");
  packed.writeUInt16BE(index, 16);
  return packed;
}

function namesBytes(fingerprint: string, scope: string, key: string): number {
  return 5 + Buffer.byteLength(fingerprint) + Buffer.byteLength(scope) + Buffer.byteLength(key);
}

function writeNames(
  into: Buffer,
  at: number,
  fingerprint: string,
  scope: string,
  key: string,
): void {
  const fingerprintBytes = into.write(fingerprint, at + 5);
  const scopeBytes = into.write(scope, at + 5 + fingerprintBytes);
  const keyBytes = into.write(key, at + 5 + fingerprintBytes + scopeBytes);
  into[at] = fingerprintBytes;
  into.writeUInt16BE(scopeBytes, at + 1);
  into.writeUInt16BE(keyBytes, at + 3);
}

/**
 * Reads a record.
 *
 * @param now the server's time, in milliseconds since the Unix epoch
 * @param without `"result"`: the bytes were read without the result that they may have
 * @throws {RecordUnreadable} when it was written by a newer version, or is damaged (SM-23b)
 */
export function unpackRecord(
  id: RecordId,
  bytes: Buffer,
  now: number,
  without?: "result",
): StoredRecord {
  const format = bytes[0];
  if (format !== undefined && format > RECORD_FORMAT) {
    throw new RecordUnreadable(
      `Record ${id} has format ${format}, newer than the ${RECORD_FORMAT} that this version of Semel reads; upgrade Semel`,
    );
  }
  if (bytes.byteLength < NAMES_AT) throw damaged(id, "it is too short");
  if (format !== RECORD_FORMAT) throw damaged(id, `there is no format ${format}`);
  const state = STATES[bytes[1]!];
  if (state === undefined) throw damaged(id, "its state is unknown");
  const onCrash = CRASH_POLICIES[bytes[2]!];
  if (onCrash === undefined) throw damaged(id, "its crash policy is unknown");
  const scopeAt = NAMES_AT + bytes[43]!;
  const keyAt = scopeAt + bytes.readUInt16BE(44);
  const tailAt = keyAt + bytes.readUInt16BE(46);
  if (bytes.byteLength < tailAt) throw damaged(id, "its names are cut off");
  if (state === "running" && bytes.byteLength !== tailAt + LEASE_BYTES) {
    throw damaged(id, "it must have a lease exactly while it runs");
  }
  const expiresAt = bytes.readUIntBE(37, 6);
  return {
    id,
    scope: bytes.toString("utf8", scopeAt, keyAt),
    key: bytes.toString("utf8", keyAt, tailAt),
    fingerprint: bytes.toString("utf8", NAMES_AT, scopeAt),
    state,
    attempt: bytes.readUInt32BE(3),
    owner: bytes.toString("hex", 9, 25),
    onCrash,
    crashes: bytes.readUInt16BE(7),
    leaseRemainingMs: state === "running" ? bytes.readUIntBE(tailAt, 6) - now : null,
    // A copy of its own: the driver's buffer may hold a whole reply.
    result:
      state === "completed" && without === undefined
        ? new Uint8Array(bytes.subarray(tailAt))
        : null,
    reason: state === "held" ? bytes.toString("utf8", tailAt) : null,
    createdAt: bytes.readUIntBE(25, 6),
    updatedAt: bytes.readUIntBE(31, 6),
    expiresInMs: expiresAt === 0 ? null : expiresAt - now,
  };
}

function damaged(id: RecordId, how: string): RecordUnreadable {
  return new RecordUnreadable(`Record ${id} is damaged: ${how}`);
}
