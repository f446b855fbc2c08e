// What an answer means for a client: whether to send the request again, when, and whether its
// operation is settled.

import type { Retry } from "../errors.ts";

/** The members of a problem (RFC 9457) that tell what to do next. */
export interface Problem {
  code: string | undefined;
  retry: Retry | undefined;
}

/** An answer, as far as it tells what to do next. */
export interface Answer {
  status: number;
  headers: Headers;
  problem: Problem | undefined;
}

const RETRYABLE_4XX = new Set([408, 425, 429]);
/** Statuses of the server's kind that no repetition changes: what it cannot do, and loops. */
const PERMANENT_5XX = new Set([501, 505, 506, 508, 510, 511]);
/** 4xx that are no verdict on the request, which servers do not store (HTTP-12). */
const NO_VERDICT = new Set([401, 403, 408, 409, 421, 423, 425, 429]);

/** Whether the same request may get another answer later (CL-2). */
export function isRetryable({ status, headers, problem }: Answer): boolean {
  if (problem?.retry === "new-key" || problem?.retry === "never") return false;
  // What is stored stays as it is, and what is held runs no more, whatever its status.
  if (isStored(headers) || headers.get("idempotency-status") === "unknown") return false;
  if (status === 409) return problem?.retry === "same-key";
  return RETRYABLE_4XX.has(status) || (status >= 500 && !PERMANENT_5XX.has(status));
}

/** What has become of an operation by a final answer. */
export type Settlement =
  /** Its outcome is known. */
  | "answered"
  /** The server says that it never runs under this key. */
  | "unused"
  /** It may have run or not, or may run yet: the key is still needed. */
  | "open";

/** What a final answer says of its operation. */
export function settlementOf({ status, headers, problem }: Answer): Settlement {
  if (isStored(headers)) return "answered";
  // Whatever ran first under a reused key is still unknown to this caller.
  if (problem?.retry === "new-key") return problem.code === "key-reused" ? "open" : "unused";
  if (problem?.retry) return "open";
  const said = headers.get("idempotency-status");
  if (said !== null && said !== "unrecorded") return "open";
  return status >= 200 && status < 500 && !NO_VERDICT.has(status) ? "answered" : "open";
}

function isStored(headers: Headers): boolean {
  const said = headers.get("idempotency-status");
  if (said === "executed" || said === "replayed") return true;
  return headers.get("idempotent-replayed") === "true";
}

/**
 * The milliseconds that `Retry-After` asks for, in seconds or as an HTTP date (RFC 9110 §10.2.3). A
 * date is taken against the server's own `Date`, as the clocks of clients are often wrong.
 *
 * @param nowMs since the Unix epoch
 * @returns `undefined` when it is absent or malformed
 */
export function retryAfterMs(headers: Headers, nowMs: number): number | undefined {
  const value = headers.get("retry-after")?.trim();
  if (value === undefined) return undefined;
  if (/^\d+$/.test(value)) return Number(value) * 1_000;
  return fromNowMs(value, headers, nowMs);
}

/** The milliseconds until the server forgets the key (`Idempotency-Expires`). */
export function expiresInMs(headers: Headers, nowMs: number): number | undefined {
  const value = headers.get("idempotency-expires");
  return value === null ? undefined : fromNowMs(value, headers, nowMs);
}

function fromNowMs(date: string, headers: Headers, nowMs: number): number | undefined {
  const atMs = httpDateMs(date);
  if (atMs === undefined) return undefined;
  return Math.max(0, atMs - (httpDateMs(headers.get("date") ?? "") ?? nowMs));
}

/** The three forms of RFC 9110 §5.6.7. */
function httpDateMs(value: string): number | undefined {
  if (!/^(Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,? .*\d\d:\d\d:\d\d/.test(value)) return undefined;
  // The form of asctime() names no zone, and means UTC.
  const ms = Date.parse(value.endsWith("GMT") ? value : `${value} GMT`);
  return Number.isNaN(ms) ? undefined : ms;
}

/**
 * Reads a problem's members.
 *
 * @param text the body of an answer that calls itself `application/problem+json`
 * @returns `undefined` when it is none
 */
export function problemOf(text: string): Problem | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof value !== "object" || value === null) return undefined;
  const { code, retry } = value as Record<string, unknown>;
  return {
    code: typeof code === "string" ? code : undefined,
    retry: retry === "same-key" || retry === "new-key" || retry === "never" ? retry : undefined,
  };
}
