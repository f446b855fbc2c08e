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
 * The default codec: what JSON has, and `Date`, `RegExp`, `URL`, `bigint`, `Map`, `Set`, `Buffer`, typed
 * arrays, `undefined`, `NaN`, infinities, repeated and cyclic references. A replay's value is of the same
 * type and equal.
 *
 * Of an instance of a class that extends `Array`, `Map`, `Set`, `Date` or `Uint8Array`, such as a result
 * of `postgres`, what the built-in class holds comes back, as an instance of that: what the class adds is
 * lost. Other instances of classes are refused, as are functions, symbols and promises, because a replay
 * could not be the same value.
 *
 * @example jsonCodec.decode(jsonCodec.encode({ at: new Date(0), pdf: Buffer.from("%PDF") }));
 */
export const jsonCodec: Codec = {
  encode(value) {
    try {
      return Buffer.from(stringify(value, REDUCERS));
    } catch (cause) {
      if (!(cause instanceof DevalueError)) throw cause;
      const [what, remedy] = refusalOf(cause);
      throw new TypeError(`it holds ${what}, at \`value${cause.path}\`${remedy}`, { cause });
    }
  },
  decode: (bytes) => parse(decoder.decode(bytes), REVIVERS),
};

/** How values that devalue does not know, or would not keep as they are, are written. The first that fits. */
const REDUCERS = { Buffer: encodeBuffer, Bytes: encodeBytes, View: ownView };
const REVIVERS = {
  Buffer: decodeBuffer,
  Bytes: decodeBytes,
  View: ([view]: [ArrayBufferView]) => view,
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

/** What cannot be stored, and what to do about it: devalue names no class. */
function refusalOf({ value, message }: DevalueError): [what: string, remedy: string] {
  if (typeof value?.then === "function") return ["a promise", ": await it first"];
  if (typeof value === "object" && message.endsWith("non-POJOs")) {
    const name = value.constructor?.name || "a class";
    return [`an instance of ${name}`, ": store what is needed of it as a plain object"];
  }
  const what = message.replace("Cannot stringify ", "").replace("POJOs", "objects");
  return [what, ""];
}

function encodeBuffer(value: unknown): string | false {
  return Buffer.isBuffer(value) && encodeBytes(value);
}

/** Not of the pool that small buffers share. */
function decodeBuffer(text: string): Buffer {
  return Buffer.from(decodeBytes(text).buffer);
}

function encodeBytes(value: unknown): string | false {
  return value instanceof Uint8Array ? Buffer.from(value).toString("base64") || "=" : false;
}

function decodeBytes(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(Buffer.from(text, "base64"));
}

/** devalue would store the whole buffer behind a view, and with it what belongs to others. */
function ownView(value: unknown): [ArrayBufferView] | false {
  if (!ArrayBuffer.isView(value) || value.byteLength === value.buffer.byteLength) return false;
  const { buffer, byteOffset, byteLength } = value;
  const View = value.constructor as new (buffer: ArrayBufferLike) => ArrayBufferView;
  return [new View(buffer.slice(byteOffset, byteOffset + byteLength))];
}
