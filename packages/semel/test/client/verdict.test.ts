// What an answer means for a client (CL-2), for every status and every code of the library.

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  expiresInMs,
  isRetryable,
  problemOf,
  retryAfterMs,
  settlementOf,
} from "../../src/client/verdict.ts";
import { ERROR_CODES, type ErrorCode, SemelError } from "../../src/errors.ts";
import { problemResponse } from "../../src/http/problem.ts";
import { isStoredByDefault } from "../../src/http/response.ts";

const NOW = Date.UTC(2026, 10, 22, 6, 0, 0);

function answer(status: number, headers: Record<string, string> = {}, problem?: string) {
  return {
    status,
    headers: new Headers(headers),
    problem: problem === undefined ? undefined : problemOf(problem),
  };
}

/** The answer that Semel's own HTTP layer gives for a code. */
function refusal(code: ErrorCode) {
  const { status, headers, body } = problemResponse(new SemelError(code, "m"), {
    documentation: undefined,
  });
  return answer(
    status,
    Object.fromEntries(headers) as Record<string, string>,
    Buffer.from(body as Uint8Array).toString(),
  );
}

describe("whether to send again (CL-2)", () => {
  test("408, 425, 429 and the server errors that pass, no other status", () => {
    const retried = Array.from({ length: 500 }, (_, index) => index + 100).filter((status) =>
      isRetryable(answer(status)),
    );
    const permanent = new Set([501, 505, 506, 508, 510, 511]);
    const passing = Array.from({ length: 100 }, (_, index) => index + 500).filter(
      (status) => !permanent.has(status),
    );
    expect(retried).toEqual([408, 425, 429, ...passing]);
  });

  test("409 only when the problem says that the same key may be used", () => {
    expect(isRetryable(answer(409))).toBe(false);
    expect(isRetryable(answer(409, {}, '{"retry":"same-key"}'))).toBe(true);
    expect(isRetryable(answer(409, {}, '{"retry":"whenever"}'))).toBe(false);
    expect(isRetryable(answer(409, {}, "not JSON"))).toBe(false);
    expect(isRetryable(answer(409, {}, "null"))).toBe(false);
  });

  test.each(["new-key", "never"])(
    "never when the problem says %s, whatever the status",
    (retry) => {
      fc.assert(
        fc.property(fc.integer({ min: 100, max: 599 }), (status) => {
          expect(isRetryable(answer(status, {}, JSON.stringify({ retry })))).toBe(false);
        }),
      );
    },
  );

  test.each(Object.entries(ERROR_CODES))("the refusal %s follows its advice, %s", (code, retry) => {
    const refused = refusal(code as ErrorCode);
    // The statuses of these two codes are not in CL-2's list.
    const isListed = refused.status === 409 || refused.status >= 500;
    expect(isRetryable(refused)).toBe(retry === "same-key" && isListed);
  });

  test.each([
    { "idempotency-status": "executed" },
    { "idempotency-status": "replayed" },
    { "idempotency-status": "unknown" },
    { "idempotent-replayed": "true" },
  ])("a stored or held 500 stays what it is, so it is final: %o", (headers) => {
    expect(isRetryable(answer(500, headers as Record<string, string>))).toBe(false);
  });

  test.each(["released", "unrecorded", "in-progress"])("a 500 that is %s is not", (status) => {
    expect(isRetryable(answer(500, { "idempotency-status": status }))).toBe(true);
  });
});

describe("what has become of the operation", () => {
  test("a verdict settles it exactly where servers store answers by default (HTTP-12)", () => {
    for (let status = 200; status < 600; status++) {
      const settlement = settlementOf(answer(status));
      expect(settlement, String(status)).toBe(isStoredByDefault(status) ? "answered" : "open");
    }
  });

  test.each(Object.entries(ERROR_CODES))(
    "the refusal %s (%s) leaves the key in use unless it is proof",
    (code) => {
      const settlement = settlementOf(refusal(code as ErrorCode));
      const expected: Partial<Record<ErrorCode, string>> = {
        "operation-void": "unused",
        "key-invalid": "unused",
        "key-missing": "unused",
        "operation-failed": "answered",
        "result-not-stored": "answered",
      };
      expect(settlement).toBe(expected[code as ErrorCode] ?? "open");
    },
  );

  test("what was released, is held or runs still is open, whatever the status", () => {
    for (const status of ["released", "unknown", "in-progress", "mismatch"]) {
      expect(settlementOf(answer(201, { "idempotency-status": status }))).toBe("open");
    }
    expect(settlementOf(answer(201, { "idempotency-status": "unrecorded" }))).toBe("answered");
    expect(settlementOf(answer(500, { "idempotency-status": "executed" }))).toBe("answered");
  });
});

describe("Retry-After (RFC 9110 §10.2.3)", () => {
  const after = (value: string, date?: string) =>
    retryAfterMs(new Headers({ "retry-after": value, ...(date && { date }) }), NOW);

  test("seconds", () => {
    expect(after("0")).toBe(0);
    expect(after(" 120 ")).toBe(120_000);
  });

  test.each([
    ["IMF-fixdate", "Sun, 22 Nov 2026 06:00:05 GMT"],
    ["RFC 850", "Sunday, 22-Nov-26 06:00:05 GMT"],
    ["asctime", "Sun Nov 22 06:00:05 2026"],
  ])("a date as %s", (_form, value) => {
    expect(after(value)).toBe(5_000);
  });

  test("a date counts from the server's own, so that a wrong clock here does no harm", () => {
    expect(after("Sun, 22 Nov 2099 06:00:05 GMT", "Sun, 22 Nov 2099 06:00:00 GMT")).toBe(5_000);
  });

  test("a date that has passed means now", () => {
    expect(after("Sun, 22 Nov 2020 06:00:05 GMT")).toBe(0);
  });

  test.each(["", "soon", "-1", "1.5", "Sun, 99 Foo 2026 06:00:05 GMT"])(
    "%j is ignored",
    (value) => {
      expect(after(value)).toBeUndefined();
    },
  );

  test("absent", () => {
    expect(retryAfterMs(new Headers(), NOW)).toBeUndefined();
    expect(expiresInMs(new Headers(), NOW)).toBeUndefined();
  });
});
