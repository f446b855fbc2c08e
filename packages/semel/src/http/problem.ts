// Refusals as RFC 9457 problem details, which tell the client whether to reuse or rotate its key
// (HTTP-11).

import { STATUS_CODES } from "node:http";
import type { ErrorCode, SemelError } from "../errors.ts";
import type { HttpResponse } from "./response.ts";

const STATUS: Record<ErrorCode, number> = {
  "operation-in-progress": 409,
  "key-reused": 422,
  "outcome-unknown": 409,
  "operation-void": 409,
  "key-expired": 412,
  "attempt-superseded": 409,
  "store-unavailable": 503,
  "store-full": 503,
  "store-unusable": 503,
  "record-unreadable": 500,
  "key-invalid": 400,
  "key-missing": 400,
  "scope-missing": 401,
  "body-too-large": 413,
  "body-incomplete": 400,
  "payload-invalid": 400,
  "result-not-stored": 409,
  "not-serializable": 500,
  "operation-failed": 500,
  "not-applied": 500,
  "step-invalid": 500,
  "steps-diverged": 500,
  "effect-invalid": 500,
  "no-answer": 504,
  "option-invalid": 500,
  closed: 503,
};

/** `Idempotency-Status` of a refusal; codes that are not here have no operation to speak of. */
const STATUS_FIELD: Partial<Record<ErrorCode, string>> = {
  "operation-in-progress": "in-progress",
  "key-reused": "mismatch",
  "outcome-unknown": "unknown",
  "operation-void": "void",
  "key-expired": "expired",
  "result-not-stored": "replayed",
  "operation-failed": "replayed",
  "attempt-superseded": "in-progress",
};

/** Where the error's own words are for the operator, or for whoever calls the library: no paths, no options. */
const PUBLIC_DETAIL: Partial<Record<ErrorCode, string>> = {
  "operation-in-progress":
    "A request with this key is still being handled; send the same request again later, with the same key",
  "outcome-unknown":
    "The outcome of this operation is unknown; it will not run again until it is resolved. Do not retry with a new key",
  "steps-diverged":
    "The outcome of this operation is unknown; it will not run again until it is resolved. Do not retry with a new key",
  "operation-failed": "The operation failed; its failure is its result",
  closed: "The server is shutting down; nothing ran",
};

/** The same for what the store may fail with before a request runs, and when it has run already. */
const STORE_DETAIL: Partial<Record<ErrorCode, string>> = {
  "store-unavailable": "Keys cannot be looked up at the moment",
  "store-full": "Keys cannot be recorded at the moment",
  "store-unusable": "Keys cannot be looked up at the moment",
  "record-unreadable": "The record of this key cannot be read",
};

/** Further members and the address of the documentation. */
export interface ProblemOptions {
  documentation: string | undefined;
  /** Whether it is certain that the request was not carried out. @default false */
  nothingRan?: boolean;
  /** Overrides the status that belongs to the code. */
  status?: number | undefined;
  members?: Record<string, unknown> | undefined;
}

/** The response that refuses a request. */
export function problemResponse(error: SemelError, options: ProblemOptions): HttpResponse {
  const { code, retry } = error;
  const status = options.status ?? STATUS[code];
  const { documentation } = options;
  const problem = {
    type: `urn:semel:error:${code}`,
    title: STATUS_CODES[status] ?? "Error",
    status,
    detail: detailOf(error, options.nothingRan ?? false),
    code,
    retry,
    ...options.members,
  };
  const headers: [string, string][] = [
    ["content-type", "application/problem+json"],
    ["cache-control", "no-store"],
  ];
  const statusField = STATUS_FIELD[code];
  if (statusField) headers.push(["idempotency-status", statusField]);
  if (documentation) headers.push(["link", `<${documentation}>; rel="describedby"`]);
  const retryAfterS = retryAfter(error, status);
  if (retryAfterS !== undefined) headers.push(["retry-after", String(retryAfterS)]);
  return { status, headers, body: Buffer.from(JSON.stringify(problem)) };
}

function detailOf({ code, message }: SemelError, nothingRan: boolean): string {
  const ofStore = STORE_DETAIL[code];
  if (ofStore === undefined) return PUBLIC_DETAIL[code] ?? message;
  if (nothingRan) return `${ofStore}; nothing ran`;
  return "What became of this request could not be recorded; it may have been applied";
}

/**
 * Whole seconds, at least 1 (HTTP-6). Not what is left of the lease: that is renewed while the
 * attempt runs, and most attempts end long before.
 */
function retryAfter(error: SemelError, status: number): number | undefined {
  return error.retry === "same-key" && (status === 409 || status === 503) ? 1 : undefined;
}
