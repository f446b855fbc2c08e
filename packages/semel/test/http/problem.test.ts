// Refusals tell by status, code and advice what a client may do (HTTP-11).

import { expect, test } from "vitest";
import { ERROR_CODES, type ErrorCode, OperationBusy, SemelError } from "../../src/errors.ts";
import { problemResponse } from "../../src/http/problem.ts";

function problemOf(code: ErrorCode, documentation?: string, nothingRan = false) {
  const error = new SemelError(code, "said by the driver: /var/run/secret.sock");
  const response = problemResponse(error, { documentation, nothingRan });
  return {
    ...response,
    fields: Object.fromEntries(response.headers),
    problem: JSON.parse(Buffer.from(response.body).toString()),
  };
}

const CODES = Object.keys(ERROR_CODES) as ErrorCode[];

test("every code has a problem of RFC 9457 with its advice, and is never cached", () => {
  for (const code of CODES) {
    const { status, fields, problem } = problemOf(code);
    expect(status).toBeGreaterThanOrEqual(400);
    expect(problem).toMatchObject({
      type: `urn:semel:error:${code}`,
      status,
      code,
      retry: ERROR_CODES[code],
    });
    expect(problem.title).toEqual(expect.any(String));
    expect(fields).toMatchObject({
      "content-type": "application/problem+json",
      "cache-control": "no-store",
    });
  }
});

test("errors that concern the operator say nothing of their cause", () => {
  for (const code of CODES) {
    const { status, problem } = problemOf(code);
    if (status === 503) expect(problem.detail).not.toContain("secret");
  }
  expect(problemOf("outcome-unknown").problem.detail).not.toContain("secret");
  expect(problemOf("record-unreadable").problem.detail).not.toContain("secret");
});

test("that nothing ran is said where it is certain, and of a store's failure not otherwise", () => {
  for (const code of CODES) {
    const { detail } = problemOf(code).problem;
    const { detail: certain } = problemOf(code, undefined, true).problem;
    const isOfStore = code.startsWith("store-") || code === "record-unreadable";
    expect(certain, code).toMatch(isOfStore ? /; nothing ran$/ : detail);
    if (isOfStore) expect(detail, code).toMatch(/may have been applied$/);
    if (isOfStore) expect(certain + detail, code).not.toContain("secret");
  }
});

test("a request in progress is told to come again, and nothing of options of the library", () => {
  const response = problemResponse(new OperationBusy(5), { documentation: undefined });
  const { detail } = JSON.parse(Buffer.from(response.body).toString());
  expect(detail).toMatch(/with the same key$/);
  expect(detail).not.toContain("wait");
});

test("Retry-After is there where waiting helps, in whole seconds", () => {
  for (const code of CODES) {
    const { status, fields } = problemOf(code);
    const helps = ERROR_CODES[code] === "same-key" && (status === 409 || status === 503);
    expect(fields["retry-after"], code).toBe(helps ? "1" : undefined);
  }
});

test("documentation is linked, and further members are added", () => {
  expect(problemOf("key-invalid", "https://example.com/a").fields["link"]).toBe(
    '<https://example.com/a>; rel="describedby"',
  );
  const response = problemResponse(new OperationBusy(5), {
    documentation: undefined,
    members: { originalStatus: 201 },
  });
  expect(JSON.parse(Buffer.from(response.body).toString())).toMatchObject({ originalStatus: 201 });
});
