// How a key is read from its header's field lines (HTTP-1).

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { KeyInvalid } from "../../src/errors.ts";
import { keyFromHeader } from "../../src/http/key-header.ts";

const NAME = "Idempotency-Key";
const lenient = (...lines: string[]) => keyFromHeader(lines, NAME, false);
const strict = (...lines: string[]) => keyFromHeader(lines, NAME, true);

describe("the key in its header", () => {
  test("is absent when there is no field line", () => {
    expect(lenient()).toBeUndefined();
    expect(strict()).toBeUndefined();
  });

  test("is the same bare and as a String", () => {
    fc.assert(
      fc.property(fc.stringMatching(/^[\x21\x23-\x2b\x2d-\x5b\x5d-\x7e]{1,255}$/), (key) => {
        expect(lenient(key)).toBe(key);
        expect(lenient(`"${key}"`)).toBe(key);
        expect(strict(`"${key}"`)).toBe(key);
        expect(() => strict(key)).toThrow(KeyInvalid);
      }),
    );
  });

  test("may be any printable ASCII as a String, with quotes and backslashes escaped", () => {
    fc.assert(
      fc.property(fc.stringMatching(/^[\x20-\x7e]{1,255}$/), (key) => {
        const escaped = key.replace(/["\\]/g, (character) => `\\${character}`);
        expect(lenient(`"${escaped}"`)).toBe(key);
      }),
    );
  });

  test("never passes when lines were repeated, whoever joined them", () => {
    fc.assert(
      fc.property(fc.stringMatching(/^[a-z]{1,9}$/), fc.stringMatching(/^[a-z]{1,9}$/), (a, b) => {
        for (const [one, other] of [
          [a, b],
          [`"${a}"`, `"${b}"`],
          [a, `"${b}"`],
          [`"${a}"`, b],
        ] as const) {
          expect(() => lenient(one, other)).toThrow(KeyInvalid);
          expect(() => lenient(`${one}, ${other}`)).toThrow(KeyInvalid);
          expect(() => lenient(`${one},${other}`)).toThrow(KeyInvalid);
        }
      }),
    );
  });

  test("is refused or within its bounds, whatever bytes come, and nothing else is thrown", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 300 }), fc.boolean(), (line, isStrict) => {
        try {
          expect(keyFromHeader([line], NAME, isStrict)).toMatch(/^[\x20-\x7e]{1,255}$/);
        } catch (error) {
          expect(error).toBeInstanceOf(KeyInvalid);
        }
      }),
      { numRuns: 2_000 },
    );
  });

  test("has spaces and tabs around it removed, and no other whitespace", () => {
    expect(lenient(" \tk\t ")).toBe("k");
    for (const line of ["\u00a0k", "k\u3000", "\u0085k", "k\v"]) {
      expect(() => lenient(line)).toThrow(KeyInvalid);
    }
  });

  test("may carry parameters as a String, which do not count", () => {
    expect(strict('"k";a=1;b="x";c')).toBe("k");
    expect(() => lenient("k;a=1")).not.toThrow();
    expect(lenient("k;a=1")).toBe("k;a=1");
  });
});
