// What answers must look like, said once.

import assert from "node:assert/strict";
import { ERROR_CODES, type ErrorCode } from "../../errors.ts";
import { ANSWERS, type AnswerRoute } from "./catalogue.ts";
import { field, json, type Reply } from "./client.ts";

const HTTP_DATE = /^[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT$/;
/** A retention of 24 hours, give or take the length of a test. */
const DAY_MS = 86_400_000;

export interface ProblemExpectation {
  status: number;
  code: ErrorCode;
  /** `Idempotency-Status`; absent where there is no operation to speak of. */
  state?: string;
  /** Whether `Retry-After` is there: whole seconds, at least 1. */
  retryAfter?: boolean;
}

/** HTTP-11: a refusal tells by its status, code and advice what to do. */
export function assertProblem(reply: Reply, expected: ProblemExpectation): Record<string, unknown> {
  assert.equal(field(reply, "content-type"), "application/problem+json", reply.body.toString());
  const problem = json(reply);
  assert.equal(problem["code"], expected.code, reply.body.toString());
  assert.equal(reply.status, expected.status);
  assert.equal(problem["status"], expected.status);
  assert.equal(problem["retry"], ERROR_CODES[expected.code]);
  assert.equal(problem["type"], `urn:semel:error:${expected.code}`);
  assert.equal(typeof problem["title"], "string");
  assert.equal(typeof problem["detail"], "string");
  assert.equal(field(reply, "cache-control"), "no-store");
  assert.equal(field(reply, "idempotency-status"), expected.state);
  assert.equal(field(reply, "idempotent-replayed"), undefined);
  const retryAfter = field(reply, "retry-after");
  if (expected.retryAfter) assert.match(retryAfter ?? "", /^[1-9]\d*$/);
  else assert.equal(retryAfter, undefined);
  return problem;
}

/** An answer of a handler that ran and was recorded. */
export function assertExecuted(reply: Reply): void {
  assert.equal(field(reply, "idempotency-status"), "executed");
  assert.equal(field(reply, "idempotent-replayed"), undefined);
  assertExpires(reply);
}

/** HTTP-13: the same status, bytes and stored headers, marked as a replay. */
export function assertReplayOf(replay: Reply, first: Reply): void {
  assert.equal(field(replay, "idempotency-status"), "replayed", replay.body.toString());
  assert.equal(field(replay, "idempotent-replayed"), "true");
  assertExpires(replay);
  assert.equal(replay.status, first.status);
  assert.ok(replay.body.equals(first.body), "the replay's bytes differ");
  for (const name of ["content-type", "location", "content-encoding", "etag", "cache-control"]) {
    assert.deepEqual(replay.headers[name], first.headers[name], name);
  }
}

function assertExpires(reply: Reply): void {
  const expires = field(reply, "idempotency-expires") ?? "";
  assert.match(expires, HTTP_DATE);
  const inMs = Date.parse(expires) - Date.now();
  assert.ok(inMs > 0 && inMs <= DAY_MS + 1_000, `the key ends in ${inMs} ms`);
}

/** The answer of a route that only answers. */
export function assertAnswer(reply: Reply, route: AnswerRoute): void {
  const expected: {
    status: number;
    body?: string | Uint8Array;
    type?: string;
    location?: string;
    encoding?: string;
  } = ANSWERS[route];
  assert.equal(reply.status, expected.status);
  if (expected.body !== undefined) {
    assert.deepEqual(reply.body, Buffer.from(expected.body as Uint8Array));
  }
  if (expected.type !== undefined) {
    assert.equal(field(reply, "content-type")?.split(";")[0], expected.type);
  }
  assert.equal(field(reply, "location"), expected.location);
  assert.equal(field(reply, "content-encoding"), expected.encoding);
}

/** A 500 of a handler that failed; its form is the framework's own. */
export function assertReleasedFailure(reply: Reply): void {
  assert.equal(reply.status, 500);
  assert.notEqual(field(reply, "idempotency-status"), "executed");
  assert.equal(field(reply, "idempotent-replayed"), undefined);
}
