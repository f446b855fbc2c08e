// The binary forms that the Redis store and its scripts share: the record, which is one string, and
// the items of a batch, one behind the other. Numbers are big-endian; `I6` in a script is 48 bits.
//
//   0 format   1 attempt (4)   5 owner (16): the fencing token, compared as one
//   21 state   22 changed (6)   28 end of life or 0 (6): what ends an attempt writes these
//   34 created (6)   40 crash policy, plus 4 with a journal   41 crashes (2)
//   43 length of the fingerprint   44 of the scope (2)   46 of the key (2)   48 these three, as UTF-8
//   then, by state: the lease's end (6) while running, the result, or the reason

import { RecordUnreadable } from "../../errors.ts";
import type {
  BeginAnswer,
  Claim,
  CrashPolicy,
  Ending,
  JournalEntry,
  RecordId,
  RecordState,
  Renewal,
  Resolution,
  StoredRecord,
  UnusedAttempt,
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

/** What an item is that takes an operation further. */
export const ADVANCES = { claim: 0, timedClaim: 1, ending: 2 } as const;

/** Added to the crash policy of a record that has a journal. */
export const JOURNALED = 4;

const NOTHING = new Uint8Array();

const ID_BYTES = 16;
/** Before each item that takes an operation further. */
const ITEM_HEAD_BYTES = 6;
/** Of such an item with the terms that it may bring, besides what varies. */
const ADVANCE_BYTES_MAX = 99;
const NO_DIGIT = 255;
const NAMES_AT = 48;
const LEASE_BYTES = 6;
/** Two of them from today stay within what an index counts to. */
const LENGTH_MS_MAX = 2 ** 43;
const ATTEMPT_MAX = 2 ** 32 - 1;

/**
 * Refuse what has no place in the binary form, so that it fails alone and not with its batch. The digits
 * of ids and owners are looked at where they are packed.
 *
 * @throws {RangeError}
 */
export function assertClaim(claim: Claim): void {
  assertBytes("fingerprint", claim.fingerprint, 255);
  assertNames(claim);
  assertMs("leaseMs", claim.leaseMs);
  assertMs("lapsedRetentionMs", claim.lapsedRetentionMs);
  assertMs("heldRetentionMs", claim.heldRetentionMs);
}

export function assertEnding(ending: Ending): void {
  assertAttempt(ending.attempt);
  assertMs("retentionMs", ending.retentionMs);
}

export function assertEntry({ id, attempt }: JournalEntry): void {
  assertId({ id });
  assertAttempt(attempt);
}

export function assertUnused(unused: UnusedAttempt): void {
  assertAttempt(unused.attempt);
  assertMs("retentionMs", unused.retentionMs);
}

export function assertRenewal(renewal: Renewal): void {
  assertEntry({ ...renewal, bytes: NOTHING });
  assertMs("leaseMs", renewal.leaseMs);
  assertMs("lapsedRetentionMs", renewal.lapsedRetentionMs);
}

export function assertResolution(resolution: Resolution): void {
  assertMs("retentionMs", resolution.retentionMs);
}

export function assertVoid(request: VoidRequest): void {
  assertNames(request);
  assertMs("retentionMs", request.retentionMs);
}

export function assertId({ id }: { readonly id: RecordId }): void {
  writeHexadecimal(Buffer.allocUnsafe(ID_BYTES), 0, id);
}

function assertNames({ scope, key }: { scope: string; key: string }): void {
  assertBytes("scope", scope, 65_535);
  assertBytes("key", key, 65_535);
}

/** Most are so short that they need not be measured. */
function assertBytes(name: string, text: string, bytesMax: number): void {
  if (3 * text.length <= bytesMax || Buffer.byteLength(text) <= bytesMax) return;
  throw new RangeError(`\`${name}\` is longer than ${bytesMax} bytes`);
}

function assertAttempt(attempt: number): void {
  if (Number.isInteger(attempt) && attempt >= 0 && attempt <= ATTEMPT_MAX) return;
  throw new RangeError(`\`attempt\` must be a whole number up to ${ATTEMPT_MAX}`);
}

function assertMs(name: string, ms: number | null): void {
  if (ms === null || (Number.isInteger(ms) && ms >= 0 && ms <= LENGTH_MS_MAX)) return;
  throw new RangeError(`\`${name}\` must be whole milliseconds up to ${LENGTH_MS_MAX}`);
}

/** By the code of a digit, its value; what is no digit is more than any. */
const DIGITS = new Uint8Array(65_536).fill(NO_DIGIT);
for (let value = 0; value < 16; value++) DIGITS[value.toString(16).charCodeAt(0)] = value;

/**
 * Writes an id or an owner, and makes sure of it, in half the time that the two would take.
 *
 * @returns where it ends
 */
function writeHexadecimal(into: Buffer, start: number, text: string): number {
  const isWhole = text.length === 2 * ID_BYTES;
  let [at, seen] = [start, 0];
  for (let from = 0; isWhole && from < 2 * ID_BYTES; from += 2) {
    const high = DIGITS[text.charCodeAt(from)]!;
    const low = DIGITS[text.charCodeAt(from + 1)]!;
    seen |= high | low;
    into[at++] = (high << 4) | low;
  }
  if (isWhole && seen < NO_DIGIT) return at;
  throw new RangeError("`id` and `owner` must be 32 lowercase hexadecimal digits");
}

/**
 * What items of a batch have in common, such as durations, is sent once: the first item of each kind,
 * and for every item the number of its kind, from 1.
 */
class Kinds<Item> {
  readonly firsts: Item[] = [];
  readonly #isSame: (one: Item, other: Item) => boolean;

  constructor(isSame: (one: Item, other: Item) => boolean) {
    this.#isSame = isSame;
  }

  numberOf(item: Item): number {
    const at = this.firsts.findIndex((first) => this.#isSame(first, item));
    return at < 0 ? this.firsts.push(item) : at + 1;
  }
}

function isSameTerm(one: Claim, other: Claim): boolean {
  return (
    one.leaseMs === other.leaseMs &&
    one.attemptsMax === other.attemptsMax &&
    one.lapsedRetentionMs === other.lapsedRetentionMs &&
    one.heldRetentionMs === other.heldRetentionMs
  );
}

function isSameEnd(one: Ending, other: Ending): boolean {
  return one.kind === other.kind && one.retentionMs === other.retentionMs;
}

/** What takes an operation further. */
export type Advance = Claim | Ending;

export function isEnding(item: Advance): item is Ending {
  return "kind" in item;
}

/** The kinds, and then the items: each with what it is, its kind, and how many bytes follow. */
export function packAdvances(items: readonly Advance[]): Buffer {
  const [claims, endings] = [new Kinds(isSameTerm), new Kinds(isSameEnd)];
  let bytesMax = 2;
  const numbers = items.map((item) => {
    bytesMax += ADVANCE_BYTES_MAX + advanceBytes(item);
    return isEnding(item) ? endings.numberOf(item) : claims.numberOf(item);
  });
  const packed = Buffer.allocUnsafe(bytesMax);
  let at = writeTerms(packed, claims.firsts, endings.firsts);
  for (let n = 0; n < items.length; n++) {
    const item = items[n]!;
    const start = at;
    packed[start + 1] = numbers[n]!;
    at = isEnding(item) ? writeEnding(packed, start, item) : writeClaim(packed, start, item);
    packed.writeUInt32BE(at - start - ITEM_HEAD_BYTES, start + 2);
  }
  return packed.subarray(0, at);
}

/** How many bytes it takes at most, of those that vary. */
export function advanceBytes(item: Advance): number {
  if (isEnding(item))
    return item.kind === "complete" ? item.result.byteLength : 3 * reasonOf(item).length;
  return 3 * (item.fingerprint.length + item.scope.length + item.key.length);
}

function writeTerms(into: Buffer, claims: readonly Claim[], endings: readonly Ending[]): number {
  let at = into.writeUInt8(claims.length, 0);
  for (const { leaseMs, attemptsMax, lapsedRetentionMs, heldRetentionMs } of claims) {
    at = into.writeDoubleBE(leaseMs, at);
    at = into.writeDoubleBE(attemptsMax, at);
    at = into.writeDoubleBE(lapsedRetentionMs ?? -1, at);
    at = into.writeDoubleBE(heldRetentionMs ?? -1, at);
  }
  at = into.writeUInt8(endings.length, at);
  for (const { kind, retentionMs } of endings) {
    at = into.writeUInt8(STATE_CODES[ENDED_STATES[kind]], at);
    at = into.writeDoubleBE(retentionMs ?? -1, at);
  }
  return at;
}

/** It brings the record that it makes where there is none, but for the times. */
function writeClaim(into: Buffer, start: number, claim: Claim): number {
  const { id, owner, fingerprint, scope, key, onCrash, refuseLate } = claim;
  let at = start + ITEM_HEAD_BYTES;
  into[start] = refuseLate ? ADVANCES.timedClaim : ADVANCES.claim;
  if (refuseLate) {
    at = into.writeDoubleBE(refuseLate.sentAt, at);
    at = into.writeDoubleBE(refuseLate.ageMaxMs, at);
  }
  at = writeHexadecimal(into, at, id);
  at = writeToken(into, at, 1, owner);
  into[at++] = CRASH_POLICIES.indexOf(onCrash);
  into[at++] = 0;
  into[at++] = 0;
  return writeNames(into, at, fingerprint, scope, key);
}

const ENDED_STATES = { complete: "completed", release: "open", hold: "held" } as const;

function writeEnding(into: Buffer, start: number, ending: Ending): number {
  into[start] = ADVANCES.ending;
  let at = writeHexadecimal(into, start + ITEM_HEAD_BYTES, ending.id);
  at = writeToken(into, at, ending.attempt, ending.owner);
  if (ending.kind !== "complete") return at + into.write(reasonOf(ending), at);
  into.set(ending.result, at);
  return at + ending.result.byteLength;
}

function reasonOf(ending: Ending): string {
  return ending.kind === "hold" ? ending.reason : "";
}

/** What a record of this version begins with while it runs this attempt. */
function writeToken(into: Buffer, at: number, attempt: number, owner: string): number {
  into[at] = RECORD_FORMAT;
  return writeHexadecimal(into, into.writeUInt32BE(attempt, at + 1), owner);
}

export function packEntries(entries: readonly JournalEntry[]): Buffer {
  return Buffer.concat(entries.map(packEntry));
}

function packEntry({ owner, attempt, bytes }: JournalEntry): Buffer {
  const packed = Buffer.allocUnsafe(28 + bytes.byteLength);
  writeHexadecimal(packed, 0, owner);
  packed.writeDoubleBE(attempt, 16);
  packed.writeUInt32BE(bytes.byteLength, 24);
  packed.set(bytes, 28);
  return packed;
}

export function packRenewals(renewals: readonly Renewal[]): Buffer {
  const packed = Buffer.allocUnsafe(40 * renewals.length);
  let at = 0;
  for (const { owner, attempt, leaseMs, lapsedRetentionMs } of renewals) {
    at = writeHexadecimal(packed, at, owner);
    at = packed.writeDoubleBE(attempt, at);
    at = packed.writeDoubleBE(leaseMs, at);
    at = packed.writeDoubleBE(lapsedRetentionMs ?? -1, at);
  }
  return packed;
}

/** One alone: that a claim came to nothing is rare. */
export function packUnused([unused]: readonly UnusedAttempt[]): Buffer {
  const { id, owner, attempt, retentionMs } = unused!;
  const packed = Buffer.allocUnsafe(48);
  writeHexadecimal(packed, 0, id);
  writeHexadecimal(packed, 16, owner);
  packed.writeDoubleBE(attempt, 32);
  packed.writeDoubleBE(retentionMs, 40);
  return packed;
}

/** One alone: who decides about records does so one by one. */
export function packResolution([resolution]: readonly [Resolution]): Buffer {
  const isComplete = resolution.kind === "complete";
  const result = isComplete ? resolution.result : NOTHING;
  const packed = Buffer.allocUnsafe(29 + result.byteLength);
  writeHexadecimal(packed, 0, resolution.id);
  packed[16] = isComplete ? STATE_CODES.completed : STATE_CODES.open;
  packed.writeDoubleBE(resolution.retentionMs, 17);
  packed.writeUInt32BE(result.byteLength, 25);
  packed.set(result, 29);
  return packed;
}

export function packVoid([{ id, scope, key, retentionMs }]: readonly [VoidRequest]): Buffer {
  const packed = Buffer.allocUnsafe(24 + namesBytesMax("", scope, key));
  writeHexadecimal(packed, 0, id);
  packed.writeDoubleBE(retentionMs, 16);
  return packed.subarray(0, writeNames(packed, 24, "", scope, key));
}

/** What scripts need to find records' places in their index. */
export function packPlaces(places: readonly { readonly id: RecordId }[]): Buffer {
  const packed = Buffer.allocUnsafe(ID_BYTES * places.length);
  for (const [n, { id }] of places.entries()) writeHexadecimal(packed, ID_BYTES * n, id);
  return packed;
}

function namesBytesMax(fingerprint: string, scope: string, key: string): number {
  return 5 + 3 * (fingerprint.length + scope.length + key.length);
}

function writeNames(
  into: Buffer,
  at: number,
  fingerprint: string,
  scope: string,
  key: string,
): number {
  const names = fingerprint + scope + key;
  const bytes = into.write(names, at + 5);
  // Most are ASCII, and need not be measured one by one.
  const bytesOf = (name: string) =>
    bytes === names.length ? name.length : Buffer.byteLength(name);
  into[at] = bytesOf(fingerprint);
  into.writeUInt16BE(bytesOf(scope), at + 1);
  into.writeUInt16BE(bytesOf(key), at + 3);
  return at + 5 + bytes;
}

/**
 * Reads a record, without its journal.
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
  const state = STATES[bytes[21]!];
  if (state === undefined) throw damaged(id, "its state is unknown");
  const policy = bytes[40]!;
  const onCrash = CRASH_POLICIES[policy >= JOURNALED ? policy - JOURNALED : policy];
  if (onCrash === undefined) throw damaged(id, "its crash policy is unknown");
  const scopeAt = NAMES_AT + bytes[43]!;
  const keyAt = scopeAt + bytes.readUInt16BE(44);
  const tailAt = keyAt + bytes.readUInt16BE(46);
  if (bytes.byteLength < tailAt) throw damaged(id, "its names are cut off");
  if (state === "running" && bytes.byteLength !== tailAt + LEASE_BYTES) {
    throw damaged(id, "it must have a lease exactly while it runs");
  }
  const createdAt = bytes.readUIntBE(34, 6);
  const expiresAt = bytes.readUIntBE(28, 6);
  return {
    id,
    scope: bytes.toString("utf8", scopeAt, keyAt),
    key: bytes.toString("utf8", keyAt, tailAt),
    fingerprint: bytes.toString("utf8", NAMES_AT, scopeAt),
    state,
    attempt: bytes.readUInt32BE(1),
    owner: bytes.toString("hex", 5, 21),
    onCrash,
    crashes: bytes.readUInt16BE(41),
    leaseRemainingMs: state === "running" ? bytes.readUIntBE(tailAt, 6) - now : null,
    result: state === "completed" && without === undefined ? copyOf(bytes, tailAt) : null,
    reason: state === "held" ? bytes.toString("utf8", tailAt) : null,
    journal: null,
    ageMs: now - createdAt,
    createdAt,
    updatedAt: bytes.readUIntBE(22, 6),
    expiresInMs: expiresAt === 0 ? null : expiresAt - now,
  };
}

/**
 * What a completed record answers to a claim with its fingerprint, the short way, as most replays go;
 * `undefined` for any other bytes.
 */
export function unpackDone(
  bytes: Buffer,
  now: number,
  fingerprint: string,
): Extract<BeginAnswer, { kind: "done" }> | undefined {
  if (bytes.byteLength < NAMES_AT || bytes[0] !== RECORD_FORMAT) return undefined;
  if (bytes[21] !== STATE_CODES.completed) return undefined;
  const scopeAt = NAMES_AT + bytes[43]!;
  const tailAt = scopeAt + bytes.readUInt16BE(44) + bytes.readUInt16BE(46);
  if (bytes.byteLength < tailAt) return undefined;
  if (bytes.toString("latin1", NAMES_AT, scopeAt) !== fingerprint) return undefined;
  return {
    kind: "done",
    attempt: bytes.readUInt32BE(1),
    result: copyOf(bytes, tailAt),
    expiresInMs: bytes.readUIntBE(28, 6) - now,
  };
}

/**
 * What there is from a place on, as a copy: the driver's buffer may hold a whole reply. Small ones share
 * memory with their likes, which takes a fifth of the time that memory of their own would.
 */
export function copyOf(bytes: Buffer, from: number): Uint8Array {
  const copy = Buffer.allocUnsafe(bytes.byteLength - from);
  bytes.copy(copy, 0, from);
  return copy;
}

function damaged(id: RecordId, how: string): RecordUnreadable {
  return new RecordUnreadable(`Record ${id} is damaged: ${how}`);
}
