// Keys, scopes, and the ids made of them.

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  assertKey,
  assertScope,
  KEY_LENGTH_MAX,
  recordId,
  SCOPE_LENGTH_MAX,
  scopeOf,
} from "../src/key.ts";

describe("the id of a record", () => {
  test("is 32 hexadecimal digits, the same for the same scope and key", () => {
    expect(recordId("tenant", "order-42")).toBe(recordId("tenant", "order-42"));
    expect(recordId("tenant", "order-42")).toMatch(/^[0-9a-f]{32}$/);
    // First half of SHA-256 of "6:tenantorder-42": it must not change between releases.
    expect(recordId("tenant", "order-42")).toBe("a818d5e8508f4dbe4b0e3ce1747df421");
  });

  test("differs for two pairs that differ, however their parts are cut", () => {
    const part = fc.string({
      unit: fc.constantFrom("a", ":", "1", "2", "0", "\u00e9"),
      maxLength: 4,
    });
    fc.assert(
      fc.property(part, part, part, part, (scope, key, otherScope, otherKey) => {
        const isSame = scope === otherScope && key === otherKey;
        expect(recordId(scope, key) === recordId(otherScope, otherKey)).toBe(isSame);
      }),
      { numRuns: 5_000 },
    );
    for (const text of ["abcdef", "1:a1:b", "0:", "12:3"]) {
      const cuts = Array.from({ length: text.length + 1 }, (_, at) =>
        recordId(text.slice(0, at), text.slice(at)),
      );
      expect(new Set(cuts).size).toBe(cuts.length);
    }
  });
});

describe("keys (SPEC \u00a711)", () => {
  test("have 1 to 255 printable ASCII characters", () => {
    for (const key of ["a", " ", "~", "x".repeat(KEY_LENGTH_MAX)])
      expect(() => assertKey(key)).not.toThrow();
    for (const key of [
      "",
      "x".repeat(KEY_LENGTH_MAX + 1),
      "\x1f",
      "\x7f",
      "\u00e9",
      "a\0",
      "a\n",
    ]) {
      expect(() => assertKey(key)).toThrow(expect.objectContaining({ code: "key-invalid" }));
    }
    for (const key of [undefined, null, 5, {}, ["a"]]) {
      expect(() => assertKey(key)).toThrow(/must be a string/);
    }
  });
});

describe("scopes", () => {
  test("are well-formed text of at most 1,024 units, and may be empty", () => {
    for (const scope of ["", "\u00e9", "x".repeat(SCOPE_LENGTH_MAX)]) {
      expect(() => assertScope(scope)).not.toThrow();
    }
    for (const scope of ["x".repeat(SCOPE_LENGTH_MAX + 1), "\ud800", undefined, null, 5]) {
      expect(() => assertScope(scope)).toThrow(expect.objectContaining({ code: "scope-missing" }));
    }
  });

  test("may be left out, and not forgotten: one that is undefined or null is no scope (HTTP-4)", () => {
    expect(scopeOf({})).toBe("");
    expect(scopeOf({ scope: "" })).toBe("");
    for (const scope of [undefined, null, 5, "\ud800"] as string[]) {
      expect(() => scopeOf({ scope })).toThrow(expect.objectContaining({ code: "scope-missing" }));
    }
  });
});
