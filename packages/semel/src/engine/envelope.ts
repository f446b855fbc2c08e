// What a store keeps as the result of an operation: two bytes that say what follows, then the bytes.
// Stores never look inside.
//
//   byte 0   format of the envelope, 1
//   byte 1   kind (low 4 bits), 0x10 result omitted, 0x20 compressed (raw DEFLATE, RFC 1951)

import { promisify } from "node:util";
import { constants, deflateRaw, inflateRaw } from "node:zlib";
import { RecordUnreadable } from "../errors.ts";

/** A value of `run()`, an HTTP response, or the failure of a handler. */
export type ResultKind = "value" | "http" | "failure";

/** A finished attempt's result, out of its envelope. Its bytes are never changed. */
export interface StoredResult {
  kind: ResultKind;
  /** The result was larger than `maxResultBytes`; what is left of it is in `bytes` (ST-10). */
  omitted: boolean;
  bytes: Uint8Array;
  /** The same bytes in their envelope, where they were written into one. */
  envelope?: Uint8Array;
}

const FORMAT = 1;
const KINDS: readonly ResultKind[] = ["value", "http", "failure"];
const OMITTED = 0x10;
const COMPRESSED = 0x20;
const HEAD_BYTES = 2;
/** Below this, compressing costs more than it saves. */
const COMPRESS_FROM_BYTES = 4096;
/**
 * A stored result is bounded when written; this bounds what reading a damaged one can cost. Another
 * process may have a larger bound than this one.
 */
const INFLATED_BYTES_MIN = 64 * 2 ** 20;

const deflate = promisify<Uint8Array, object, Buffer>(deflateRaw);
const inflate = promisify<Uint8Array, object, Buffer>(inflateRaw);

/** A result whose bytes are yet to be written: into an envelope, so that sealing copies nothing. */
export function roomFor(kind: ResultKind, omitted: boolean, length: number): RoomyResult {
  const envelope = Buffer.allocUnsafe(HEAD_BYTES + length);
  envelope[0] = FORMAT;
  envelope[1] = flagsOf(kind, omitted);
  return { kind, omitted, bytes: envelope.subarray(HEAD_BYTES), envelope };
}

/** {@link roomFor} something. */
export interface RoomyResult extends StoredResult {
  bytes: Room;
}

/** What is used of a `Buffer`, without its name: applications need not have the types of Node. */
export interface Room extends Uint8Array {
  write(text: string, offset: number): number;
  writeUInt32BE(value: number): number;
}

/** Puts a result into its envelope, compressed where that helps; a small one at once. */
export function seal(result: StoredResult): Uint8Array | Promise<Uint8Array> {
  const { kind, omitted, bytes, envelope } = result;
  const flags = flagsOf(kind, omitted);
  if (bytes.byteLength >= COMPRESS_FROM_BYTES) return compressed(flags, bytes);
  return envelope ?? framed(flags, bytes);
}

function flagsOf(kind: ResultKind, omitted: boolean): number {
  return KINDS.indexOf(kind) | (omitted ? OMITTED : 0);
}

async function compressed(flags: number, bytes: Uint8Array): Promise<Uint8Array> {
  const deflated = await deflate(bytes, { level: constants.Z_BEST_SPEED });
  const helps = deflated.byteLength < bytes.byteLength * 0.9;
  return helps ? framed(flags | COMPRESSED, deflated) : framed(flags, bytes);
}

/**
 * Takes a result out of its envelope; one that is not compressed at once.
 *
 * @param resultBytesMax the bound of this process for results, where it may be a large one
 * @throws {RecordUnreadable} when it is damaged, or was written by a newer version
 */
export function open(
  envelope: Uint8Array,
  resultBytesMax = 0,
): StoredResult | Promise<StoredResult> {
  const [format, head] = envelope;
  if (format === undefined || head === undefined) {
    throw new RecordUnreadable("A stored result is empty: the record is damaged");
  }
  if (format !== FORMAT) {
    throw new RecordUnreadable(
      `A stored result has format ${format}, this version reads ${FORMAT}: it was written by a newer version of Semel, or it is damaged`,
    );
  }
  const kind = KINDS[head & 0x0f];
  if (kind === undefined || (head & ~(0x0f | OMITTED | COMPRESSED)) !== 0) {
    throw new RecordUnreadable(`A stored result is of an unknown kind (0x${head.toString(16)})`);
  }
  const omitted = (head & OMITTED) !== 0;
  const bytes = envelope.subarray(HEAD_BYTES);
  if ((head & COMPRESSED) === 0) return { kind, omitted, bytes };
  return inflated(bytes, resultBytesMax).then((bytes) => ({ kind, omitted, bytes }));
}

async function inflated(body: Uint8Array, resultBytesMax: number): Promise<Uint8Array> {
  try {
    return await inflate(body, { maxOutputLength: Math.max(INFLATED_BYTES_MIN, resultBytesMax) });
  } catch (error) {
    throw new RecordUnreadable("A stored result does not decompress: the record is damaged", {
      cause: error,
    });
  }
}

function framed(flags: number, bytes: Uint8Array): Uint8Array {
  const envelope = Buffer.allocUnsafe(HEAD_BYTES + bytes.byteLength);
  envelope[0] = FORMAT;
  envelope[1] = flags;
  envelope.set(bytes, HEAD_BYTES);
  return envelope;
}
