// What makes two payloads the same, against those who would make different ones look alike, and
// against payloads made to cost (HTTP-5, HTTP-10).

import { gunzipSync, gzipSync } from "node:zlib";
import { afterEach, describe, expect, test } from "vitest";
import type { HttpOptions } from "../../src/http/options.ts";
import { ADAPTERS, closeAll, PARSED, type Setup, serve } from "./applications.ts";
import { code, lastRequest, only, type RawAnswer } from "./raw.ts";

afterEach(closeAll);

type Fingerprint = HttpOptions<never>["fingerprint"];

const fingerprinted = (fingerprint: Fingerprint): Setup => ({
  http: () => ({ ...(fingerprint && { fingerprint }), maxBodyBytes: 4 * 2 ** 20 }),
});

const send = (port: number, body: string, type = "application/json", more: string[] = []) =>
  only(port, lastRequest(["Idempotency-Key: k", `Content-Type: ${type}`, ...more], body));

const state = (answer: RawAnswer) =>
  answer.lines.find(([name]) => name === "idempotency-status")?.[1];

const deep = (levels: number, inside: string) =>
  `${'{"a":['.repeat(levels)}${inside}${"]}".repeat(levels)}`;

interface Comparison {
  what: string;
  fingerprint: Fingerprint;
  type?: string;
  first: string;
  same?: readonly string[];
  other?: readonly string[];
}

/** 1 MB that would be 1 GB. */
const bomb = gzipSync(Buffer.alloc(2 ** 30)).toString("latin1");

const FORM = "application/x-www-form-urlencoded";

/** Bodies as bytes, one character each. */
const COMPARISONS: readonly Comparison[] = [
  {
    what: "numbers count as they are written",
    fingerprint: "json",
    first: '{"n":9007199254740993}',
    same: ['{ "n" : 9007199254740993 }'],
    other: ['{"n":9007199254740992}', '{"n":9007199254740993.0}', '{"n":"9007199254740993"}'],
  },
  {
    what: "1, 1.0, 1e0 and 10e-1 are told apart",
    fingerprint: "json",
    first: '{"n":1}',
    other: ['{"n":1.0}', '{"n":1e0}', '{"n":10e-1}', '{"n":"1"}', '{"n":true}', '{"n":[1]}'],
  },
  {
    what: "100 and 1e2 are told apart",
    fingerprint: "json",
    first: '{"n":1e2}',
    same: ['{"n":1e2 }'],
    other: ['{"n":100}', '{"n":1E2}', '{"n":1e+2}'],
  },
  {
    what: "0 and -0 are told apart",
    fingerprint: "json",
    first: '{"n":-0}',
    same: ['{"n":-0\n}'],
    other: ['{"n":0}', '{"n":-0.0}', '{"n":0.0}'],
  },
  {
    what: "numbers beyond a double are told apart",
    fingerprint: "json",
    first: `{"n":1${"0".repeat(400)}}`,
    other: [`{"n":2${"0".repeat(400)}}`, `{"n":1${"0".repeat(401)}}`, '{"n":1e400}', '{"n":null}'],
  },
  {
    what: "of a name that repeats the last counts, as for JSON.parse",
    fingerprint: "json",
    first: '{"a":1,"a":2}',
    same: ['{"a":2}', '{"a":3,"a":2}'],
    other: ['{"a":1}', '{"a":2,"a":1}', '{"a":[1,2]}'],
  },
  {
    what: "names of JavaScript's own are names like others",
    fingerprint: "json",
    first: '{"__proto__":{"x":1},"constructor":1}',
    same: ['{"constructor":1,"__proto__":{"x":1}}', '{"\\u005f_proto__":{"x":1},"constructor":1}'],
    other: [
      '{"__proto__":{"x":2},"constructor":1}',
      '{"constructor":1}',
      '{"__proto__":null,"constructor":1}',
      '{"x":1,"constructor":1}',
      '{"__proto__":{"x":1}}',
      '{"__proto__":{"x":1},"constructor":1,"toJSON":1}',
    ],
  },
  {
    what: "half a character counts by the bytes",
    fingerprint: "json",
    first: '{"a":"\\ud800"}',
    same: ['{"a":"\\ud800"}'],
    other: ['{"a":"\\ud801"}', '{"a":"\\ufffd"}', '{"a": "\\ud800"}', '{"a":"\xef\xbf\xbd"}'],
  },
  {
    what: "bytes that are no text count by themselves",
    fingerprint: "json",
    first: '{"a":"\xff"}',
    same: ['{"a":"\xff"}'],
    other: ['{"a":"\xfe"}', '{"a":"\xef\xbf\xbd"}', '{"a": "\xff"}', '{"a":"\xc0\xaf"}'],
  },
  {
    what: "a byte order mark is no JSON, and counts",
    fingerprint: "json",
    first: '{"a":1}',
    other: ['\xef\xbb\xbf{"a":1}', '\xfe\xff{"a":1}', '\xef\xbb\xbf\xef\xbb\xbf{"a":1}'],
  },
  {
    what: "Unicode is not normalised",
    fingerprint: "json",
    first: '{"a":"\xc3\xa9"}',
    same: ['{"a":"\\u00e9"}'],
    other: ['{"a":"e\xcc\x81"}', '{"a":"\xc3\x89"}', '{"\xc3\xa9":"\xc3\xa9"}'],
  },
  {
    what: "10,000 levels count by the bytes",
    fingerprint: "json",
    first: deep(10_000, "1"),
    same: [deep(10_000, "1")],
    other: [deep(10_000, "2"), deep(10_001, "1"), deep(10_000, " 1")],
  },
  {
    what: "pointers to names of JavaScript's own find what was sent, and nothing else",
    fingerprint: { include: ["/__proto__/x", "/constructor", "/a/0", "/toString"] },
    first: '{"__proto__":{"x":1},"a":[1]}',
    same: ['{"a":[1,2],"__proto__":{"x":1,"y":2},"b":3}', '{"a":{"0":1},"__proto__":{"x":1}}'],
    other: [
      '{"__proto__":{"x":2},"a":[1]}',
      '{"a":[1]}',
      '{"x":1,"a":[1]}',
      '{"__proto__":{"x":1},"constructor":null,"a":[1]}',
      '{"__proto__":{"x":1},"a":[2]}',
    ],
  },
  {
    what: "pointers to names of JavaScript's own leave out what was sent, and nothing else",
    fingerprint: { exclude: ["/__proto__/x", "/constructor"] },
    first: '{"__proto__":{"x":1,"y":1},"constructor":1,"n":1}',
    same: [
      '{"n":1,"constructor":{"z":1},"__proto__":{"y":1,"x":2}}',
      '{"n":1,"__proto__":{"y":1}}',
    ],
    other: [
      '{"__proto__":{"x":1,"y":2},"constructor":1,"n":1}',
      '{"constructor":1,"n":1}',
      '{"__proto__":{"x":1,"y":1},"constructor":1,"n":2}',
    ],
  },
  {
    what: "what is no JSON counts whole where pointers choose",
    fingerprint: { include: ["/amount"] },
    first: '{"amount":5',
    same: ['{"amount":5'],
    other: ['{"amount":6', '{"amount":5}', "", '{"amount":"\xff"}', '{"amount":"\xfe"}'],
  },
  {
    what: "another media type counts whole where pointers choose",
    fingerprint: { include: ["/amount"] },
    type: "text/plain",
    first: '{"amount":5}',
    same: ['{"amount":5}'],
    other: ['{"amount":6}', '{"amount":5} ', ""],
  },
  {
    what: "another media type counts whole where pointers leave out",
    fingerprint: { exclude: ["/amount"] },
    type: "text/plain",
    first: '{"amount":5}',
    other: ['{"amount":6}', ""],
  },
  {
    what: "a lone value counts whole where pointers choose",
    fingerprint: { include: ["/amount"] },
    first: "5",
    same: ["5"],
    other: ["6", '"5"', "null", "{}", "[]"],
  },
  {
    what: "fields of a form that are no text count",
    fingerprint: { include: ["/amount"] },
    type: FORM,
    first: "amount=%ff&at=1",
    same: ["amount=%ff&at=1"],
    other: ["amount=%fe&at=1", "amount=\xff&at=1", "amount=%EF%BF%BD&at=1", "amount=%FF%FE&at=1"],
  },
  {
    what: "a form's names of JavaScript's own are names like others",
    fingerprint: { include: ["/__proto__", "/constructor"] },
    type: FORM,
    first: "__proto__=1&at=1",
    same: ["at=2&__proto__=1", "%5F_proto__=1"],
    other: ["at=1", "__proto__=2&at=1", "constructor=1&at=1", "__proto__=1&__proto__=1"],
  },
];

for (const [name, serving] of Object.entries(ADAPTERS)) {
  describe(`${name}: payloads`, () => {
    for (const { what, fingerprint, type, first, same = [], other = [] } of COMPARISONS) {
      test(`HTTP-5: ${what}`, async () => {
        const { port, runs } = await serve(serving, fingerprinted(fingerprint));
        const original = await send(port, first, type);
        expect([original.status, state(original)]).toEqual([200, "executed"]);
        for (const body of other) {
          const answer = await send(port, body, type);
          expect([answer.status, state(answer)], shown(body)).toEqual([422, "mismatch"]);
        }
        for (const body of same) {
          const answer = await send(port, body, type);
          expect([answer.status, state(answer)], shown(body)).toEqual([200, "replayed"]);
        }
        expect(runs()).toBe(1);
      });
    }

    test("HTTP-5: a selected part without a canonical form is 400, and nothing runs", async () => {
      const { port, runs } = await serve(serving, fingerprinted({ exclude: ["/at"] }));
      for (const body of ['{"a":"\\ud800"}', deep(10_000, "1")]) {
        const answer = await send(port, body);
        expect([answer.status, code(answer)]).toEqual([400, "payload-invalid"]);
        expect(answer.body.length, "the payload is not sent back").toBeLessThan(500);
      }
      expect(runs()).toBe(0);
    });

    test("HTTP-5: what is compressed counts as it came, and is not inflated", async () => {
      expect(bomb.length).toBeGreaterThan(2 ** 20 - 2 ** 15);
      const encoded = ["Content-Encoding: gzip"];
      for (const fingerprint of ["bytes", "json", { include: ["/a"] }] as const) {
        const { port, runs } = await serve(serving, fingerprinted(fingerprint));
        const before = process.memoryUsage.rss();
        for (const status of ["executed", "replayed"]) {
          const answer = await send(port, bomb, "application/json", encoded);
          expect([answer.status, state(answer)]).toEqual([200, status]);
        }
        expect(process.memoryUsage.rss() - before, "bytes more in memory").toBeLessThan(2 ** 28);
        const truncated = await send(port, bomb.slice(0, -1), "application/json", encoded);
        expect(truncated.status).toBe(422);
        expect(runs()).toBe(1);
      }
    });

    test("HTTP-10: a bound on bodies is one on the bytes that come", async () => {
      const { port, runs } = await serve(serving, { http: () => ({ maxBodyBytes: 1_000 }) });
      const zipped = gzipSync(Buffer.alloc(100_000));
      expect(gunzipSync(zipped)).toHaveLength(100_000);
      const answer = await send(port, zipped.toString("latin1"), "text/plain", [
        "Content-Encoding: gzip",
      ]);
      expect(answer.status).toBe(200);
      expect((await send(port, "x".repeat(1_001))).status).toBe(413);
      expect(runs()).toBe(1);
    });
  });
}

/** Comparisons that hold as well where only the parsed body is left. */
const AFTER_PARSING: readonly Comparison[] = [
  {
    what: "names of JavaScript's own are names like others",
    fingerprint: "json",
    first: '{"__proto__":{"x":1},"constructor":1}',
    same: ['{"constructor":1,"__proto__":{"x":1}}'],
    other: ['{"__proto__":{"x":2},"constructor":1}', '{"constructor":1}'],
  },
  {
    what: "numbers that a double cannot tell apart are one, as they are for the handler",
    fingerprint: "json",
    first: '{"n":9007199254740993}',
    same: ['{"n":9007199254740992}', '{"n":9007199254740992.0}'],
    other: ['{"n":9007199254740994}', '{"n":"9007199254740993"}'],
  },
  {
    what: "a lone value counts whole where pointers choose",
    fingerprint: { include: ["/amount"] },
    first: "5",
    same: [" 5"],
    other: ["6", '"5"', "null"],
  },
];

for (const [name, serving] of Object.entries(PARSED)) {
  describe(`${name}: payloads`, () => {
    for (const { what, fingerprint, first, same = [], other = [] } of AFTER_PARSING) {
      test(`HTTP-5: ${what}`, async () => {
        const { port, runs } = await serve(serving, fingerprinted(fingerprint));
        expect(state(await send(port, first))).toBe("executed");
        for (const body of other) expect((await send(port, body)).status, shown(body)).toBe(422);
        for (const body of same)
          expect(state(await send(port, body)), shown(body)).toBe("replayed");
        expect(runs()).toBe(1);
      });
    }

    test("HTTP-5: a body without a canonical form is 400, and nothing runs", async () => {
      const { port, runs } = await serve(serving, fingerprinted("json"));
      for (const body of ['{"a":"\\ud800"}', deep(10_000, "1")]) {
        const answer = await send(port, body);
        expect([answer.status, code(answer)]).toEqual([400, "payload-invalid"]);
      }
      expect(runs()).toBe(0);
    });
  });
}

function shown(body: string): string {
  return JSON.stringify(body.length > 100 ? `${body.slice(0, 100)}…` : body);
}
