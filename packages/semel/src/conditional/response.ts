// What a precondition makes of a request, as a response: 304, 204, and problem details (RFC 9457) for
// 400, 412 and 428.

import { STATUS_CODES } from "node:http";
import { assertKnownOptions } from "../options.ts";
import type { PreconditionField, Verdict } from "./preconditions.ts";

/**
 * A whole response, for `res.writeHead(status, headers).end(body)` and for
 * `new Response(body, { status, headers })`.
 */
export interface PreconditionResponse {
  status: number;
  /** Names in lower case. */
  headers: Record<string, string>;
  /** `null` where the status allows no body. */
  body: string | null;
}

/** Options of {@link preconditionResponse}. */
export interface PreconditionResponseOptions {
  /**
   * The headers of the 200 response that would have been sent. Of these a 304 keeps `cache-control`,
   * `content-location`, `date`, `etag`, `expires` and `vary`, and `last-modified` where there is no
   * `etag` (RFC 9110 §15.4.5); the 204 of what had been applied already keeps `etag` and
   * `last-modified`; problems keep none.
   * @default none
   */
  readonly headers?: Readonly<Record<string, string | undefined>> | undefined;
  /** An address for people, sent as `Link: <…>; rel="describedby"` with problems. */
  readonly documentation?: string | undefined;
}

const KEPT_BY_304 = ["cache-control", "content-location", "date", "etag", "expires", "vary"];
const KEPT_BY_204 = ["etag", "last-modified"];
const OPTIONS = ["headers", "documentation"] as const;

/** As people write them. */
const NAMES: Record<PreconditionField, string> = {
  "if-match": "If-Match",
  "if-unmodified-since": "If-Unmodified-Since",
  "if-none-match": "If-None-Match",
  "if-modified-since": "If-Modified-Since",
};

/**
 * The response to a request that is not to be performed.
 *
 * | verdict | status | code |
 * | --- | --- | --- |
 * | `not-modified` | 304 | |
 * | `already-applied` | 204 | |
 * | `malformed` | 400 | `precondition-invalid` |
 * | `failed` | 412 | `precondition-failed` |
 * | `required` | 428 | `precondition-required` |
 *
 * Problems carry `retry: "new-key"`: whoever sends the request again has to change it first.
 *
 * @param verdict what `evaluatePreconditions()` found
 * @throws {InvalidOption} for an unknown option
 * @example
 * const { status, headers, body } = preconditionResponse(verdict, { headers: { etag: '"7"' } });
 * response.writeHead(status, headers).end(body);
 */
export function preconditionResponse(
  verdict: Exclude<Verdict, { kind: "proceed" }>,
  options: PreconditionResponseOptions = {},
): PreconditionResponse {
  assertKnownOptions(options, OPTIONS, "preconditionResponse()");
  switch (verdict.kind) {
    case "not-modified": {
      const headers = kept(options, KEPT_BY_304);
      const dated = "etag" in headers ? {} : kept(options, ["last-modified"]);
      return { status: 304, headers: { ...headers, ...dated }, body: null };
    }
    case "already-applied":
      return { status: 204, headers: kept(options, KEPT_BY_204), body: null };
    case "malformed": {
      const detail = `${NAMES[verdict.field]} cannot be read: ${verdict.reason}`;
      return problem(400, "precondition-invalid", detail, options);
    }
    case "failed":
      return problem(412, "precondition-failed", failure(verdict.field), options);
    case "required":
      return problem(
        428,
        "precondition-required",
        "This request must be conditional: send If-Match with the ETag that you read, or If-None-Match: * to create",
        options,
      );
  }
}

function failure(field: PreconditionField): string {
  if (field === "if-none-match") {
    return "If-None-Match failed: there is a representation that it excludes. Read it before you write";
  }
  return `${NAMES[field]} failed: it was changed or removed since you read it, or never was. Read it again before you write`;
}

function problem(
  status: number,
  code: string,
  detail: string,
  { documentation }: PreconditionResponseOptions,
): PreconditionResponse {
  const title = STATUS_CODES[status];
  const members = { type: `urn:semel:error:${code}`, title, status, detail, code };
  const headers: Record<string, string> = {
    "content-type": "application/problem+json",
    "cache-control": "no-store",
  };
  if (documentation !== undefined) headers["link"] = `<${documentation}>; rel="describedby"`;
  return { status, headers, body: JSON.stringify({ ...members, retry: "new-key" }) };
}

function kept(
  { headers = {} }: PreconditionResponseOptions,
  names: readonly string[],
): Record<string, string> {
  const chosen: Record<string, string> = {};
  for (const [name, value] of Object.entries(headers)) {
    const lower = name.toLowerCase();
    if (value !== undefined && names.includes(lower)) chosen[lower] = value;
  }
  return chosen;
}
