// How a handler's value becomes bytes and back.

import { parse, stringify } from "devalue";

/** Turns values into bytes and back. `decode(encode(value))` must equal `value`. */
export interface Codec {
  /** @throws when the value cannot be stored; the message should say which part and why */
  encode(value: unknown): Uint8Array;
  decode(bytes: Uint8Array): unknown;
}

const decoder = new TextDecoder("utf-8", { fatal: true });

/**
 * The default codec: JSON with `Date`, `bigint`, `Uint8Array`, `Map`, `Set`, `undefined`, `NaN`,
 * infinities, repeated and cyclic references. Functions, symbols and instances of classes are
 * refused, because a replay could not be the same value. Any `Uint8Array`, a `Buffer` too, comes
 * back as a `Uint8Array`.
 */
export const jsonCodec: Codec = {
  encode: (value) => Buffer.from(stringify(value, { Bytes: encodeBytes })),
  decode: (bytes) => parse(decoder.decode(bytes), { Bytes: decodeBytes }),
};

// devalue would store the whole buffer behind a view, which for a pooled `Buffer` is other data.
function encodeBytes(value: unknown): string | false {
  return value instanceof Uint8Array ? Buffer.from(value).toString("base64") || "=" : false;
}

function decodeBytes(text: string): Uint8Array {
  return Uint8Array.from(Buffer.from(text, "base64"));
}
