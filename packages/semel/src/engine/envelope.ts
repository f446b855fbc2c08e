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
}

const FORMAT = 1;
const KINDS: readonly ResultKind[] = ["value", "http", "failure"];
const OMITTED = 0x10;
const COMPRESSED = 0x20;
const HEAD_BYTES = 2;
/** Below this, compressing costs more than it saves. */
const COMPRESS_FROM_BYTES = 4096;
/** A stored result is bounded when written; this bounds what reading a damaged one can cost. */
const INFLATED_BYTES_MAX = 2 ** 30;

const deflate = promisify<Uint8Array, object, Buffer>(deflateRaw);
const inflate = promisify<Uint8Array, object, Buffer>(inflateRaw);

/** Puts a result into its envelope, compressed where that helps. */
export async function seal({ kind, omitted, bytes }: StoredResult): Promise<Uint8Array> {
  const flags = KINDS.indexOf(kind) | (omitted ? OMITTED : 0);
  if (bytes.byteLength >= COMPRESS_FROM_BYTES) {
    const compressed = await deflate(bytes, { level: constants.Z_BEST_SPEED });
    if (compressed.byteLength < bytes.byteLength * 0.9) {
      return framed(flags | COMPRESSED, compressed);
    }
  }
  return framed(flags, bytes);
}

/**
 * Takes a result out of its envelope.
 *
 * @throws {RecordUnreadable} when it is damaged, or was written by a newer version
 */
export async function open(envelope: Uint8Array): Promise<StoredResult> {
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
  const body = envelope.subarray(HEAD_BYTES);
  const bytes = (head & COMPRESSED) === 0 ? body : await inflated(body);
  return { kind, omitted: (head & OMITTED) !== 0, bytes };
}

async function inflated(body: Uint8Array): Promise<Uint8Array> {
  try {
    return await inflate(body, { maxOutputLength: INFLATED_BYTES_MAX });
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
