// HTTP-17: the order of RFC 9110 §13.2.2, as a table.

import { describe, expect, test } from "vitest";
import {
  evaluatePreconditions,
  type PreconditionOptions,
  preconditionResponse,
  type Validators,
  type Verdict,
} from "../../src/conditional/index.ts";

const THEN = new Date("2026-03-01T12:00:00.900Z");
const SAME = "Sun, 01 Mar 2026 12:00:00 GMT";
const BEFORE = "Sun, 01 Mar 2026 11:59:59 GMT";
const AFTER = "Sun, 01 Mar 2026 12:00:01 GMT";

const STRONG: Validators = { etag: '"v2"', lastModified: THEN };
const WEAK: Validators = { etag: 'W/"v2"', lastModified: THEN };
const DATED: Validators = { lastModified: THEN };
const BARE: Validators = {};
const ABSENT = undefined;

type Fields = Record<string, string>;
const evaluate = (
  method: string,
  headers: Fields,
  current: Validators | null | undefined,
  options?: PreconditionOptions,
) => evaluatePreconditions({ method, headers }, current, options);

/** The status that a verdict comes to; 200 is to perform it. */
function statusOf(verdict: Verdict): number {
  return verdict.kind === "proceed" ? 200 : preconditionResponse(verdict).status;
}

const match = (value: string): Fields => ({ "if-match": value });
const none = (value: string): Fields => ({ "if-none-match": value });
const unmodified = (value: string): Fields => ({ "if-unmodified-since": value });
const modified = (value: string): Fields => ({ "if-modified-since": value });

/** Fields, what is there, and the status for GET and for PUT. */
const TABLE: [
  step: string,
  fields: Fields,
  current: Validators | undefined,
  get: number,
  put: number,
][] = [
  ["no condition", {}, STRONG, 200, 200],
  ["no condition", {}, ABSENT, 200, 200],
  // Step 1: If-Match, by strong comparison.
  ["1: the tag is there", match('"v2"'), STRONG, 200, 200],
  ["1: the tag is in the list", match('"v1", "a,b" , "v2"'), STRONG, 200, 200],
  ["1: another tag", match('"v1"'), STRONG, 412, 412],
  ["1: a weak tag never matches", match('W/"v2"'), STRONG, 412, 412],
  ["1: a weak representation never matches", match('"v2"'), WEAK, 412, 412],
  ["1: both weak do not match", match('W/"v2"'), WEAK, 412, 412],
  ["1: any, and there is one", match("*"), STRONG, 200, 200],
  ["1: any, and there is one without a tag", match("*"), BARE, 200, 200],
  ["1: any, and there is none", match("*"), ABSENT, 412, 412],
  ["1: a tag, and there is none", match('"v2"'), ABSENT, 412, 412],
  ["1: a tag, and the representation has none", match('"v2"'), DATED, 412, 412],
  ["1: upper and lower case differ", match('"V2"'), STRONG, 412, 412],
  ["1: malformed", match("v2"), STRONG, 400, 400],
  ["1: malformed beside a match", match('"v2", v3'), STRONG, 400, 400],
  ["1: empty", match(""), STRONG, 400, 400],
  // Step 2: If-Unmodified-Since, without If-Match.
  ["2: the same second", unmodified(SAME), STRONG, 200, 200],
  ["2: modified before", unmodified(AFTER), STRONG, 200, 200],
  ["2: modified since", unmodified(BEFORE), STRONG, 412, 412],
  ["2: no date to compare with", unmodified(BEFORE), BARE, 200, 200],
  ["2: nothing there", unmodified(BEFORE), ABSENT, 200, 200],
  ["2: an invalid date is ignored", unmodified("yesterday"), STRONG, 200, 200],
  ["2: a list of dates is ignored", unmodified(`${BEFORE}, ${BEFORE}`), STRONG, 200, 200],
  ["1 before 2: If-Match decides", { ...match('"v2"'), ...unmodified(BEFORE) }, STRONG, 200, 200],
  ["1 before 2: If-Match decides", { ...match('"v1"'), ...unmodified(AFTER) }, STRONG, 412, 412],
  // Step 3: If-None-Match, by weak comparison.
  ["3: the tag is there", none('"v2"'), STRONG, 304, 412],
  ["3: the weak tag is there", none('W/"v2"'), STRONG, 304, 412],
  ["3: the tag of a weak representation", none('"v2"'), WEAK, 304, 412],
  ["3: the tag is in the list", none('"a,b","v2"'), STRONG, 304, 412],
  ["3: other tags", none('"v1", W/"v3"'), STRONG, 200, 200],
  ["3: any, and there is one", none("*"), STRONG, 304, 412],
  ["3: any, and there is one without a tag", none("*"), BARE, 304, 412],
  ["3: any, and there is none", none("*"), ABSENT, 200, 200],
  ["3: a tag, and there is none", none('"v2"'), ABSENT, 200, 200],
  ["3: malformed guards a write and no read", none("v2"), STRONG, 200, 400],
  ["3: empty guards a write and no read", none(" , "), STRONG, 200, 400],
  ["1 and 3: both are true", { ...match('"v2"'), ...none('"v1"') }, STRONG, 200, 200],
  ["1 before 3: 412 wins over 304", { ...match('"v1"'), ...none('"v2"') }, STRONG, 412, 412],
  ["1, then 3", { ...match('"v2"'), ...none('"v2"') }, STRONG, 304, 412],
  ["2, then 3", { ...unmodified(SAME), ...none('"v2"') }, STRONG, 304, 412],
  ["2 before 3", { ...unmodified(BEFORE), ...none('"v2"') }, STRONG, 412, 412],
  // Step 4: If-Modified-Since, without If-None-Match, for reads.
  ["4: the same second", modified(SAME), STRONG, 304, 200],
  ["4: not since", modified(AFTER), STRONG, 304, 200],
  ["4: since", modified(BEFORE), STRONG, 200, 200],
  ["4: an invalid date is ignored", modified("0"), STRONG, 200, 200],
  ["4: no date to compare with", modified(AFTER), BARE, 200, 200],
  ["4: nothing there", modified(AFTER), ABSENT, 200, 200],
  ["3 before 4: If-None-Match decides", { ...none('"v1"'), ...modified(AFTER) }, STRONG, 200, 200],
  ["3 before 4: If-None-Match decides", { ...none('"v2"'), ...modified(BEFORE) }, STRONG, 304, 412],
  ["3 before 4, malformed", { ...none("v2"), ...modified(AFTER) }, STRONG, 200, 400],
  ["1, then 4", { ...match('"v2"'), ...modified(SAME) }, STRONG, 304, 200],
  ["2, then 4", { ...unmodified(SAME), ...modified(SAME) }, STRONG, 304, 200],
];

describe("the order of preconditions (HTTP-17, RFC 9110 §13.2.2)", () => {
  test.each(TABLE)("%s: %j against %j", (_step, fields, current, get, put) => {
    expect(statusOf(evaluate("GET", fields, current))).toBe(get);
    expect(statusOf(evaluate("HEAD", fields, current))).toBe(get);
    for (const method of ["PUT", "PATCH", "POST", "DELETE"]) {
      const isGone = method === "DELETE" && current === ABSENT && put === 412;
      expect(statusOf(evaluate(method, fields, current)), method).toBe(isGone ? 204 : put);
    }
    for (const method of ["OPTIONS", "TRACE", "CONNECT"]) {
      expect(statusOf(evaluate(method, fields, current)), method).toBe(200);
    }
    expect(evaluate("GET", fields, current ?? null)).toEqual(evaluate("GET", fields, current));
  });

  test("a verdict names the field that decided", () => {
    expect(evaluate("PUT", match('"v1"'), STRONG)).toEqual({ kind: "failed", field: "if-match" });
    const since = { kind: "failed", field: "if-unmodified-since" };
    expect(evaluate("PUT", unmodified(BEFORE), STRONG)).toEqual(since);
    expect(evaluate("PUT", none("*"), STRONG)).toEqual({ kind: "failed", field: "if-none-match" });
    const unchanged = { kind: "not-modified", field: "if-modified-since" };
    expect(evaluate("GET", modified(SAME), STRONG)).toEqual(unchanged);
  });
});

describe("If-Range (HTTP-17, RFC 9110 §13.1.5)", () => {
  const range = { range: "bytes=0-9" };
  test.each<[string, string, Fields, Validators | undefined, boolean]>([
    ["a range without a condition", "GET", range, STRONG, false],
    ["a strong tag that matches", "GET", { ...range, "if-range": '"v2"' }, STRONG, false],
    ["another tag", "GET", { ...range, "if-range": '"v1"' }, STRONG, true],
    ["a weak tag", "GET", { ...range, "if-range": 'W/"v2"' }, STRONG, true],
    ["a weak representation", "GET", { ...range, "if-range": '"v2"' }, WEAK, true],
    ["a date, even the right one", "GET", { ...range, "if-range": SAME }, STRONG, true],
    ["a list", "GET", { ...range, "if-range": '"v2", "v1"' }, STRONG, true],
    ["no representation", "GET", { ...range, "if-range": '"v2"' }, ABSENT, true],
    ["no range", "GET", { "if-range": '"v1"' }, STRONG, false],
    ["no GET", "HEAD", { ...range, "if-range": '"v1"' }, STRONG, false],
  ])("%s", (_case, method, headers, current, ignoreRange) => {
    expect(evaluate(method, headers, current)).toEqual({ kind: "proceed", ignoreRange });
  });
});

describe("required preconditions (HTTP-17, RFC 6585 §3)", () => {
  const required = { required: true };
  test.each<[string, Fields, Validators | undefined, number]>([
    ["none", {}, STRONG, 428],
    ["none, and nothing there", {}, ABSENT, 428],
    ["If-Match", match('"v2"'), STRONG, 200],
    ["If-Match that fails", match('"v1"'), STRONG, 412],
    ["If-None-Match: *", none("*"), ABSENT, 200],
    ["a date is too coarse where there is a tag", unmodified(SAME), STRONG, 428],
    ["a date that fails is not overlooked", unmodified(BEFORE), STRONG, 412],
    ["a date where there is nothing better", unmodified(SAME), DATED, 200],
    ["a date that is ignored", unmodified("yesterday"), DATED, 428],
    ["a date and nothing there", unmodified(SAME), ABSENT, 428],
    ["If-Modified-Since, which is for reads", modified(SAME), STRONG, 428],
    ["malformed", match("v2"), STRONG, 400],
  ])("%s", (_case, headers, current, status) => {
    for (const method of ["PUT", "PATCH", "POST"]) {
      expect(statusOf(evaluate(method, headers, current, required)), method).toBe(status);
    }
    expect(statusOf(evaluate("GET", {}, current, required))).toBe(200);
    expect(statusOf(evaluate("OPTIONS", {}, current, required))).toBe(200);
  });
});

describe("what has been applied already (HTTP-17, RFC 9110 §13.1.1)", () => {
  test("a DELETE of what is gone has", () => {
    const applied = { kind: "already-applied", field: "if-match" };
    expect(evaluate("DELETE", match('"v1"'), ABSENT)).toEqual(applied);
    expect(evaluate("DELETE", match("*"), null)).toEqual(applied);
    expect(statusOf(evaluate("DELETE", match('"v1"'), STRONG))).toBe(412);
    // Without a condition it is the handler's, as it is at its first time.
    expect(evaluate("DELETE", {}, ABSENT).kind).toBe("proceed");
    expect(evaluate("DELETE", {}, ABSENT, { required: true }).kind).toBe("required");
  });

  test("a write has when the application says so, and is asked only after its condition failed", () => {
    let asked = 0;
    const alreadyApplied = () => {
      asked += 1;
      return true;
    };
    const put = (headers: Fields) => evaluate("PUT", headers, STRONG, { alreadyApplied }).kind;
    expect(put(match('"v2"'))).toBe("proceed");
    expect(evaluate("GET", match('"v1"'), STRONG, { alreadyApplied }).kind).toBe("failed");
    expect(asked).toBe(0);
    expect(put(match('"v1"'))).toBe("already-applied");
    expect(put(unmodified(BEFORE))).toBe("already-applied");
    expect(asked).toBe(2);
    // §13.1.2 has no such allowance.
    expect(put(none("*"))).toBe("failed");
    expect(asked).toBe(2);
    const refusal = { alreadyApplied: () => false };
    expect(evaluate("PUT", match('"v1"'), STRONG, refusal).kind).toBe("failed");
  });
});

describe("where header fields come from (HTTP-17)", () => {
  test("Headers, Node's objects, and objects of any case are read alike, repeated lines as one list", () => {
    const headers = new Headers([
      ["If-Match", '"v1"'],
      ["if-match", '"v2"'],
    ]);
    const sources = [
      headers,
      { "if-match": '"v1", "v2"' },
      { "if-match": ['"v1"', '"v2"'] },
      { "If-Match": '"v1"', "if-match": '"v2"', "if-none-match": undefined },
    ];
    for (const source of sources) {
      const proceed = { kind: "proceed", ignoreRange: false };
      expect(evaluatePreconditions({ method: "PUT", headers: source }, STRONG)).toEqual(proceed);
      const other = { etag: '"v3"' };
      const request = { method: "put", headers: source };
      expect(evaluatePreconditions(request, other).kind).toBe("failed");
    }
    expect(evaluatePreconditions(new Request("http://h/", { headers }), STRONG).kind).toBe(
      "proceed",
    );
  });

  test("repeated lines that do not fit together are malformed and not the first of them", () => {
    const headers = { "if-none-match": ["*", '"v1"'] };
    expect(evaluatePreconditions({ method: "PUT", headers }, ABSENT).kind).toBe("malformed");
  });
});

describe("what the application gets wrong (HTTP-17)", () => {
  test("is refused by name", () => {
    const call = (current: unknown, options?: object) => () =>
      evaluate("PUT", {}, current as Validators, options as PreconditionOptions);
    expect(call({ etag: "v2" })).toThrow(/make one with etag\(version\)/);
    expect(call({ eTag: '"v2"' })).toThrow(/did you mean `etag`/);
    expect(call({ lastModified: new Date("no") })).toThrow(/valid date/);
    expect(call(STRONG, { require: true })).toThrow(/did you mean `required`/);
    const verdict = { kind: "required" } as const;
    expect(() => preconditionResponse(verdict, { header: {} } as never)).toThrow(/`headers`/);
  });
});

describe("responses (HTTP-17, HTTP-11)", () => {
  const headers = {
    ETag: '"v2"',
    "Last-Modified": SAME,
    "Cache-Control": "max-age=60",
    Vary: "Accept",
    Expires: AFTER,
    "Content-Location": "/d/1",
    Date: SAME,
    "Content-Type": "text/plain",
    "Content-Length": "5",
    "Set-Cookie": "a=b",
    "x-absent": undefined,
  };

  test("304 keeps what §15.4.5 asks for and nothing else, and has no body", () => {
    const verdict = { kind: "not-modified", field: "if-none-match" } as const;
    expect(preconditionResponse(verdict, { headers })).toEqual({
      status: 304,
      headers: {
        etag: '"v2"',
        "cache-control": "max-age=60",
        vary: "Accept",
        expires: AFTER,
        "content-location": "/d/1",
        date: SAME,
      },
      body: null,
    });
    const dated = preconditionResponse(verdict, { headers: { "Last-Modified": SAME } });
    expect(dated.headers).toEqual({ "last-modified": SAME });
    const { status, headers: kept, body } = preconditionResponse(verdict);
    expect(new Response(body, { status, headers: kept }).status).toBe(304);
  });

  test("204 says which representation is there", () => {
    const verdict = { kind: "already-applied", field: "if-match" } as const;
    expect(preconditionResponse(verdict, { headers })).toEqual({
      status: 204,
      headers: { etag: '"v2"', "last-modified": SAME },
      body: null,
    });
  });

  test.each<[Exclude<Verdict, { kind: "proceed" }>, number, string, string, RegExp]>([
    [
      { kind: "failed", field: "if-match" },
      412,
      "Precondition Failed",
      "precondition-failed",
      /If-Match failed/,
    ],
    [
      { kind: "failed", field: "if-none-match" },
      412,
      "Precondition Failed",
      "precondition-failed",
      /If-None-Match failed/,
    ],
    [
      { kind: "required" },
      428,
      "Precondition Required",
      "precondition-required",
      /send If-Match .* or If-None-Match: \*/,
    ],
    [
      { kind: "malformed", field: "if-match", reason: "why" },
      400,
      "Bad Request",
      "precondition-invalid",
      /^If-Match cannot be read: why$/,
    ],
  ])("%j is a problem", (verdict, status, title, code, detail) => {
    const documentation = "https://api.example/docs";
    const response = preconditionResponse(verdict, { headers, documentation });
    expect(response.status).toBe(status);
    expect(response.headers).toEqual({
      "content-type": "application/problem+json",
      "cache-control": "no-store",
      link: '<https://api.example/docs>; rel="describedby"',
    });
    expect(JSON.parse(response.body!)).toEqual({
      type: `urn:semel:error:${code}`,
      title,
      status,
      detail: expect.stringMatching(detail),
      code,
      retry: "new-key",
    });
  });
});
