// The default codec: what goes in comes out, and nothing else goes in.

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { isolated, jsonCodec } from "../src/codec.ts";

const plain = fc.anything({
  withBigInt: true,
  withDate: true,
  withMap: true,
  withSet: true,
  withTypedArray: true,
  withSparseArray: true,
  withNullPrototype: true,
  withObjectString: true,
});

describe("the default codec (EN-2)", () => {
  test("gives back an equal value for every value that it takes", () => {
    fc.assert(
      fc.property(plain, (value) => {
        fc.pre(!holdsProto(value));
        expect(jsonCodec.decode(jsonCodec.encode(value))).toStrictEqual(value);
      }),
      { numRuns: 2_000 },
    );
  });

  test("gives back views of any offset and type, with their own bytes only", () => {
    type ViewClass = new (memory: ArrayBuffer, offset: number, length: number) => ArrayBufferView;
    const types: ViewClass[] = [
      Int8Array,
      Uint8ClampedArray,
      Uint16Array,
      Float32Array,
      BigInt64Array,
      DataView,
    ];
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 64, maxLength: 64 }),
        fc.constantFrom(...types),
        fc.nat(3),
        fc.nat(3),
        (memory, View, offset, length) => {
          const view = new View(memory.buffer as ArrayBuffer, offset * 8, length);
          const back = jsonCodec.decode(jsonCodec.encode(view)) as ArrayBufferView;
          expect(back.constructor).toBe(View);
          expect(bytes(back)).toEqual(bytes(view));
          expect(back.buffer.byteLength).toBe(view.byteLength);
        },
      ),
    );
  });

  test("gives back a Buffer as a Buffer, with memory of its own", () => {
    for (const buffer of [Buffer.from("text"), Buffer.alloc(0), Buffer.from([0xff, 0])]) {
      const [back] = jsonCodec.decode(jsonCodec.encode([buffer])) as [Buffer];
      expect(back).toStrictEqual(buffer);
      expect(Buffer.isBuffer(back)).toBe(true);
      expect(String(back)).toBe(String(buffer));
      expect(back.buffer.byteLength).toBe(buffer.byteLength);
    }
  });

  test("reads a Buffer as it was written before it had a tag: as a Uint8Array", () => {
    const back = jsonCodec.decode(Buffer.from('[["Bytes",1],"AQI="]'));
    expect(back).toStrictEqual(Uint8Array.of(1, 2));
  });

  test("gives back what the built-in class of an instance holds", () => {
    class Rows extends Array<number> {
      readonly count = 2;
    }
    const values: [object, object][] = [
      [Rows.of(1, 2), [1, 2]],
      [new (class extends Map<string, number> {})([["a", 1]]), new Map([["a", 1]])],
      [new (class extends Set<number> {})([1]), new Set([1])],
      [new (class extends Date {})(0), new Date(0)],
      [new (class extends Uint8Array {})([1]), Uint8Array.of(1)],
    ];
    for (const [value, plain] of values) {
      expect(jsonCodec.decode(jsonCodec.encode(value))).toStrictEqual(plain);
    }
  });

  test("writes what later versions have to read", () => {
    const text = (value: unknown) => Buffer.from(jsonCodec.encode(value)).toString();
    expect(text({ a: 1n, at: new Date(0) })).toBe(
      '[{"a":1,"at":2},["BigInt","1"],["Date","1970-01-01T00:00:00.000Z"]]',
    );
    expect(text(Uint8Array.of(1, 2))).toBe('[["Bytes",1],"AQI="]');
    expect(text(Buffer.from([1, 2]))).toBe('[["Buffer",1],"AQI="]');
    expect(text(Buffer.alloc(0))).toBe('[["Buffer",1],"="]');
    expect(text(new Uint8Array(0))).toBe('[["Bytes",1],"="]');
  });

  class Money {}
  test.each([
    ["a function", { list: [{ ok: 1 }, () => {}] }, "a function, at `value.list[1]`"],
    ["a function by itself", () => {}, "a function, at `value`"],
    ["a symbol", [Symbol("s")], "a Symbol primitive, at `value[0]`"],
    ["a promise", { at: Promise.resolve() }, "a promise, at `value.at`: await it first"],
    ["a key that is a symbol", { [Symbol("s")]: 1 }, "objects with symbolic keys, at `value`"],
    ["an error", new RangeError("x"), "an instance of RangeError, at `value`: store"],
    [
      "an instance of a class",
      new Map([["k", { total: new Money() }]]),
      'an instance of Money, at `value.get("k").total`: store what is needed of it as a plain object',
    ],
    ["an instance of a class without a name", [new (class {})()], "an instance of a class, at"],
  ])("says where %s is, which it cannot store, and what to do", (_, value, why) => {
    expect(() => jsonCodec.encode(value)).toThrow(`it holds ${why}`);
  });

  test("refuses text that is not UTF-8", () => {
    expect(() => jsonCodec.decode(Uint8Array.of(0x22, 0xff, 0x22))).toThrow();
  });
});

test("an isolated codec shares no memory with values or stored bytes", () => {
  const shared = Buffer.from("one");
  const codec = isolated({ encode: () => shared, decode: (stored) => stored });
  const encoded = codec.encode("any");
  shared.write("two");
  expect(Buffer.from(encoded).toString()).toBe("one");
  const decoded = codec.decode(encoded) as Uint8Array;
  decoded[0] = 0;
  expect(Buffer.from(encoded).toString()).toBe("one");
  expect(isolated(jsonCodec)).toBe(jsonCodec);
});

function bytes({ buffer, byteOffset, byteLength }: ArrayBufferView): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength).slice();
}

/** devalue refuses a key `__proto__`, wherever it is. */
function holdsProto(value: unknown): boolean {
  try {
    jsonCodec.encode(value);
    return false;
  } catch (error) {
    expect((error as Error).message).toContain("__proto__");
    return true;
  }
}
