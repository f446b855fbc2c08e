// How a handler's value becomes bytes and back.

import { DevalueError, parse, stringify } from "devalue";

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
  encode(value) {
    try {
      return Buffer.from(stringify(value, { Bytes: encodeBytes, View: ownView }));
    } catch (cause) {
      if (!(cause instanceof DevalueError) || !cause.path) throw cause;
      throw new TypeError(`${cause.message}, at \`value${cause.path}\``, { cause });
    }
  },
  decode: (bytes) => parse(decoder.decode(bytes), { Bytes: decodeBytes, View: ([view]) => view }),
};

/**
 * A codec whose bytes are nobody else's: what a caller does to a value, or a codec to a buffer that
 * it uses again, cannot reach a stored or cached result. The default codec is so by itself.
 */
export function isolated(codec: Codec): Codec {
  if (codec === jsonCodec) return codec;
  return {
    encode(value) {
      const bytes = codec.encode(value);
      if (bytes instanceof Uint8Array) return new Uint8Array(bytes);
      throw new TypeError(`\`codec.encode\` must return a Uint8Array, it returned ${typeof bytes}`);
    },
    decode: (bytes) => codec.decode(new Uint8Array(bytes)),
  };
}

function encodeBytes(value: unknown): string | false {
  return value instanceof Uint8Array ? Buffer.from(value).toString("base64") || "=" : false;
}

function decodeBytes(text: string): Uint8Array {
  return Uint8Array.from(Buffer.from(text, "base64"));
}

/** devalue would store the whole buffer behind a view, and with it what belongs to others. */
function ownView(value: unknown): [ArrayBufferView] | false {
  if (!ArrayBuffer.isView(value) || value.byteLength === value.buffer.byteLength) return false;
  const { buffer, byteOffset, byteLength } = value;
  const View = value.constructor as new (buffer: ArrayBufferLike) => ArrayBufferView;
  return [new View(buffer.slice(byteOffset, byteOffset + byteLength))];
}
