// Fingerprints: order and form do not matter, content does (EN-1, SM-2).

import canonicalize from "canonicalize";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { canonicalForm } from "../src/canonical-form.ts";
import { fingerprinter, isComparable, labelled } from "../src/fingerprint.ts";

/** An equal value whose objects have their keys in another order. */
function shuffled(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(shuffled);
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value).reverse();
  return Object.fromEntries(entries.map(([name, item]) => [name, shuffled(item)]));
}

describe("the canonical form (RFC 8785)", () => {
  test("does not depend on the order of keys", () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        expect(canonicalForm(shuffled(value))).toBe(canonicalForm(value));
      }),
      { numRuns: 1_000 },
    );
  });

  test("is the same for a payload and for what JSON makes of it", () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        expect(canonicalForm(JSON.parse(JSON.stringify(value)))).toBe(canonicalForm(value));
      }),
    );
    const payload = {
      at: new Date(0),
      drop: undefined,
      list: [undefined],
      url: new URL("http://a/b"),
    };
    expect(canonicalForm(JSON.parse(JSON.stringify(payload)))).toBe(canonicalForm(payload));
  });

  test("is what another implementation of RFC 8785 makes of it", () => {
    const name = fc.oneof(fc.string(), fc.string({ unit: "binary" }), fc.nat().map(String));
    const { value } = fc.letrec((tie) => ({
      value: fc.oneof(
        { maxDepth: 4 },
        fc.oneof(
          fc.string({ unit: "binary" }),
          fc.double({ noNaN: true, noDefaultInfinity: true }),
        ),
        fc.constantFrom(true, false, null, 0, -0, 1e21, 5e-324, 2 ** 53),
        fc.array(tie("value"), { maxLength: 5 }),
        fc.dictionary(name, tie("value"), { maxKeys: 8 }),
      ),
    }));
    fc.assert(
      fc.property(value, (value) => {
        expect(canonicalForm(value)).toBe(canonicalize(value));
      }),
      { numRuns: 2_000 },
    );
    expect(canonicalForm({ 10: 1, 9: 2, "!": 3, a: 4, "\u20ac": 5, "\r": 6 })).toBe(
      '{"\\r":6,"!":3,"10":1,"9":2,"a":4,"\u20ac":5}',
    );
  });

  test("has holes as JSON has them: what has one more is another payload", () => {
    // biome-ignore lint/suspicious/noSparseArray: that is what is tested
    expect([[,], [, 1], [1, ,]].map(canonicalForm)).toEqual(["[null]", "[null,1]", "[1,null]"]);
  });

  test("is that of RFC 8785 for JSON, but for names that would look like a tag", () => {
    expect(canonicalForm({ b: [1e21, -0, "\u20ac"], a: { $ref: "#" } })).toBe(
      '{"a":{"$ref":"#"},"b":[1e+21,0,"\u20ac"]}',
    );
  });

  test("differs for payloads that JSON tells apart", () => {
    fc.assert(
      fc.property(fc.jsonValue(), fc.jsonValue(), (one, other) => {
        const equal = JSON.stringify(sorted(one)) === JSON.stringify(sorted(other));
        expect(canonicalForm(one) === canonicalForm(other)).toBe(equal);
      }),
      { numRuns: 2_000 },
    );
  });

  test("differs for what JSON would confuse", () => {
    const forms = [
      undefined,
      null,
      "",
      5,
      5n,
      "5",
      { $bigint: "5" },
      { $$bigint: "5" },
      { $$$bigint: "5" },
      Uint8Array.of(5),
      { $bytes: "BQ==" },
      new Map([["a", 1]]),
      { $map: [["a", 1]] },
      { a: 1 },
      [["a", 1]],
      new Set(["a"]),
      { $set: ["a"] },
      ["a"],
      {},
      [],
      JSON.parse('{"__proto__":1}'),
    ].map(canonicalForm);
    expect(new Set(forms).size).toBe(forms.length);
  });

  test("is refused for what would look like something else", () => {
    class Secret {
      #amount = 5;
      get amount() {
        return this.#amount;
      }
    }
    const cycle: { self?: unknown } = {};
    cycle.self = cycle;
    let deep: unknown = 1;
    for (let n = 0; n < 201; n++) deep = [deep];
    const REFUSED = {
      NaN: Number.NaN,
      infinity: Number.POSITIVE_INFINITY,
      "a function": () => {},
      "a symbol": Symbol("s"),
      "a lone surrogate": "\ud800",
      "a lone surrogate in a name": { "\ud800": 1 },
      "a cycle": cycle,
      "a payload too deep": deep,
      "a promise": Promise.resolve(5),
      "an error": new Error("5"),
      "a regular expression": /5/,
      "query parameters": new URLSearchParams("a=5"),
      headers: new Headers({ a: "5" }),
      "an array buffer": Uint8Array.of(5).buffer,
      "numbers in an array of another type": Float64Array.of(5),
      "a boxed number": Object(5),
      "an instance that hides its content": new Secret(),
    };
    for (const [name, value] of Object.entries(REFUSED)) {
      for (const payload of [value, { in: [value] }]) {
        expect(() => canonicalForm(payload), name).toThrow(
          expect.objectContaining({ code: "payload-invalid", retry: "never" }),
        );
      }
    }
  });

  test("counts what an instance of a class shows", () => {
    class Order {
      readonly amount: number;
      constructor(amount: number) {
        this.amount = amount;
      }
    }
    expect(canonicalForm(new Order(5))).toBe(canonicalForm({ amount: 5 }));
  });

  test("of a payload as deep as is allowed exists", () => {
    let deep: unknown = 1;
    for (let n = 0; n < 200; n++) deep = [deep];
    expect(canonicalForm(deep)).toHaveLength(401);
  });
});

describe("selections", () => {
  const payload = { amount: 5, meta: { id: "x", "a/b": 1, "~": 2 }, list: [{ id: 1 }, { id: 2 }] };
  const same = (selection: Parameters<typeof fingerprinter>[0], other: unknown) =>
    fingerprinter(selection)(payload) === fingerprinter(selection)(other);

  test("exclude what does not count, and leave the payload as it is", () => {
    const before = structuredClone(payload);
    const exclude = ["/meta/id", "/list/0/id", "/absent/too", "/meta/a~1b", "/meta/~0"];
    const other = {
      amount: 5,
      meta: { id: "y", "a/b": 9, "~": 9 },
      list: [{ id: 9 }, { id: 2 }],
    };
    expect(same({ exclude }, other)).toBe(true);
    expect(same({ exclude }, { ...other, amount: 6 })).toBe(false);
    expect(same({ exclude }, { ...other, list: [{ id: 9 }, { id: 3 }] })).toBe(false);
    expect(payload).toEqual(before);
  });

  test("exclude a place in a list without moving what follows", () => {
    expect(same({ exclude: ["/list/0"] }, { ...payload, list: [null, { id: 2 }] })).toBe(true);
    expect(same({ exclude: ["/list/0"] }, { ...payload, list: [{ id: 2 }] })).toBe(false);
  });

  test("include what counts; absent, null and present are three", () => {
    const include = ["/amount", "/meta/id"];
    expect(same({ include }, { amount: 5, meta: { id: "x" }, more: 1 })).toBe(true);
    expect(same({ include }, { amount: 5, meta: { id: "y" } })).toBe(false);
    const digest = fingerprinter({ include: ["/a"] });
    expect(new Set([digest({}), digest({ a: null }), digest({ a: [] }), digest(null)]).size).toBe(
      3,
    );
  });

  test("never look at what is inherited", () => {
    const digest = fingerprinter({ include: ["/constructor", "/length"] });
    expect(digest({})).toBe(digest(Object.create({ length: 1 })));
  });

  test("by a function that returns a promise are refused, not confused", () => {
    expect(() => fingerprinter(async () => 1)(5)).toThrow("Promise");
  });

  test("have labels of their own, within what stores take", () => {
    const one = fingerprinter({ include: ["/amount"] })(payload);
    const other = fingerprinter({ exclude: ["/amount"] })(payload);
    const all = fingerprinter()(payload);
    const chosen = fingerprinter(() => 1)(payload);
    expect(isComparable(one, other) || isComparable(one, all) || isComparable(all, chosen)).toBe(
      false,
    );
    expect(isComparable(one, fingerprinter({ include: ["/amount"] })({}))).toBe(true);
    expect(isComparable(labelled("v1", "a"), labelled("v1", "b"))).toBe(true);
    for (const fingerprint of [one, other, all, chosen])
      expect(fingerprint.length).toBeLessThan(128);
  });
});

test("the fingerprint of a payload is stable from release to release", () => {
  // SHA-256 of `{"amount":5,"currency":"EUR"}`, in base64url.
  expect(fingerprinter()({ currency: "EUR", amount: 5 })).toBe(
    labelled("v1", '{"amount":5,"currency":"EUR"}'),
  );
  expect(fingerprinter()(undefined)).toBe("v1:47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU");
});

/** Keys in order, and minus zero as what JSON makes of it. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value).sort(([one], [other]) => (one < other ? -1 : 1));
  return entries.map(([name, item]) => ["name", name, sorted(item)]).concat([["object"]]);
}
