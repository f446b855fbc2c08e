// Two callers, or two keys, never share a record, however alike they are made to look (HTTP-4).

import { afterEach, describe, expect, test } from "vitest";
import { ADAPTERS, closeAll, serve } from "./applications.ts";
import { code, lastRequest, line, only } from "./raw.ts";

afterEach(closeAll);

/** Pairs of scope and key, of which no two are the same operation. `Account` and the key as bytes. */
const DISTINCT: readonly (readonly [account: string, key: string])[] = [
  ["a:b", "c"],
  ["a", "b:c"],
  ["a", ":b:c"],
  ["a:", "b:c"],
  ["1", "1:a"],
  ["11", ":a"],
  ["11:1", "a"],
  ["A", "k"],
  ["a", "k"],
  ["a", "K"],
  ["a%20", "k"],
  ["a%2520", "k"],
  ["a", "%6b"],
  ["a", "%6B"],
  ["a\\0", "k"],
  ["a%00", "k"],
  ["a", "k%00"],
  // `é` as one character and as two, in the bytes of UTF-8; and what Latin-1 makes of the first.
  ["caf\xc3\xa9", "k"],
  ["cafe\xcc\x81", "k"],
  ["caf\xe9", "k"],
  ["a\xa0", "k"],
  ["\xa0a", "k"],
  // A Cyrillic letter that looks like an `a`.
  ["\xd0\xb0", "k"],
  ["__proto__", "k"],
  ["constructor", "k"],
  ["toString", "k"],
  ["a", "__proto__"],
  ["a", "constructor"],
  ["a", "hasOwnProperty"],
  ["a", '" k"'],
  ["a", '"k "'],
  ["a", '"k;v=1"'],
  ["s".repeat(1_024), "k"],
  [`${"s".repeat(1_023)}t`, "k"],
  ["a", "k".repeat(255)],
  ["a", `${"k".repeat(254)}l`],
];

/** Spellings that are the same operation as `a` and `k`. */
const SAME: readonly (readonly [account: string, key: string])[] = [
  ["a", '"k"'],
  ["a", "\t k \t"],
  ["  a\t", "k"],
  ["a", '"k";v=1'],
];

const REFUSED: readonly (readonly [string, account: string, key: string, status: number])[] = [
  ["an account of 1,025 characters", "s".repeat(1_025), "k", 401],
  ["an empty account", "", "k", 401],
  ["an empty key", "a", "", 400],
  ["an empty String as a key", "a", '""', 400],
  ["a key of 256 characters", "a", "k".repeat(256), 400],
  ["a key beyond ASCII", "a", "caf\xc3\xa9", 400],
  ["a key in another normal form", "a", "cafe\xcc\x81", 400],
  ["a key with a no-break space around", "a", "\xa0k\xa0", 400],
];

for (const [name, serving] of Object.entries(ADAPTERS)) {
  describe(`${name}: scopes and keys`, () => {
    const serveAccounts = () =>
      serve(serving, {
        http: (field) => ({ scope: (request) => field(request, "x-account") }),
      });
    const ask = (port: number, [who, key]: readonly [string, string]) =>
      only(port, lastRequest([`X-Account: ${who}`, `Idempotency-Key: ${key}`], ""));

    test("HTTP-4: pairs that look alike are operations of their own", async () => {
      const { port, runs, store } = await serveAccounts();
      for (const [index, pair] of DISTINCT.entries()) {
        const answer = await ask(port, pair);
        expect([answer.status, answer.body], String(pair)).toEqual([200, `{"run":${index + 1}}`]);
      }
      for (const [index, pair] of DISTINCT.entries()) {
        const answer = await ask(port, pair);
        expect(answer.body, String(pair)).toBe(`{"run":${index + 1}}`);
        expect(line(answer, "idempotent-replayed")).toBe("true");
      }
      expect(runs()).toBe(DISTINCT.length);
      expect((await store.list({ limit: 100 })).records).toHaveLength(DISTINCT.length);
    });

    test("HTTP-1: spellings of one pair are one operation", async () => {
      const { port, runs } = await serveAccounts();
      for (const pair of [["a", "k"] as const, ...SAME]) {
        expect((await ask(port, pair)).body, String(pair)).toBe('{"run":1}');
      }
      expect(runs()).toBe(1);
    });

    test("HTTP-4: what is no scope, or no key, is refused and leaves no record", async () => {
      const { port, runs, store } = await serveAccounts();
      for (const [what, who, key, status] of REFUSED) {
        const answer = await ask(port, [who, key]);
        expect(answer.status, what).toBe(status);
        expect(code(answer), what).toBe(status === 401 ? "scope-missing" : "key-invalid");
        for (const secret of [who, key]) {
          if (secret.length > 3) expect(answer.body, what).not.toContain(secret);
        }
      }
      expect(runs()).toBe(0);
      expect((await store.list({ limit: 10 })).records).toEqual([]);
    });

    test("a scope that holds NUL, or half a character, is refused, and a key from elsewhere too", async () => {
      const values = { nul: "a\0", half: "a\ud800", fine: "a\u{1f600}" } as Record<string, string>;
      const { port, runs } = await serve(serving, {
        http: (field) => ({
          scope: (request) => values[field(request, "x-account") ?? ""],
          key: (request) => values[field(request, "x-key") ?? ""] ?? "k",
        }),
      });
      const asked = (lines: string[]) => only(port, lastRequest(lines, ""));
      for (const bad of ["nul", "half"]) {
        expect(code(await asked([`X-Account: ${bad}`]))).toBe("scope-missing");
        expect(code(await asked(["X-Account: fine", `X-Key: ${bad}`]))).toBe("key-invalid");
      }
      expect(code(await asked(["X-Account: fine", "X-Key: fine"]))).toBe("key-invalid");
      expect(runs()).toBe(0);
      expect((await asked(["X-Account: fine"])).status).toBe(200);
    });
  });
}
