// Header fields on their way through: what belongs to one connection stays behind (RFC 9110 §7.6.1),
// what the gateway says of the client is added, the rest passes as it was written.

import type { IncomingMessage } from "node:http";

const HOP_BY_HOP = new Set([
  "connection",
  "keep-alive",
  "proxy-authenticate",
  "proxy-authorization",
  "proxy-connection",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
]);

/** Framed anew, or said by the gateway itself. */
const REWRITTEN = new Set(["content-length", "expect", "host", "via", "x-forwarded-for"]);

/** What `Connection` must not take off: the message's meaning, or ours, hangs on it. */
const GUARDED = new Set([
  "authorization",
  "content-encoding",
  "content-length",
  "content-type",
  "cookie",
  "host",
  "idempotency-key",
  "repeatability-first-sent",
]);

/** Said by the gateway alone. */
const ATTEMPT = "idempotency-attempt";
const FORWARDED = new Set([
  "forwarded",
  "x-forwarded-for",
  "x-forwarded-host",
  "x-forwarded-port",
  "x-forwarded-proto",
  "x-real-ip",
]);

const NONE: readonly string[] = [];

/** Every field line of a name in lower case; `headers` would join them, or keep the first. */
export function fieldLines(rawHeaders: readonly string[], name: string): readonly string[] {
  let lines: string[] | undefined;
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
    const field = rawHeaders[i]!;
    if (field.length !== name.length || field.toLowerCase() !== name) continue;
    if (lines === undefined) lines = [rawHeaders[i + 1]!];
    else lines.push(rawHeaders[i + 1]!);
  }
  return lines ?? NONE;
}

/** The tokens of `Connection`, in lower case. */
export function connectionTokens(rawHeaders: readonly string[]): readonly string[] {
  const lines = fieldLines(rawHeaders, "connection");
  if (lines.length === 0) return NONE;
  return lines.flatMap((line) => line.split(",")).map((token) => token.trim().toLowerCase());
}

/** How a request's headers are made. */
export interface RequestHeading {
  /** Host and port of the upstream, as its `Host`. */
  host: string;
  /** The host that the client asked for. */
  clientHost: string | undefined;
  trustForwarded: boolean;
  /** Headers that decide whose key it is. */
  scopeHeaders: readonly string[];
  /** The number of the attempt, when the request is an operation. */
  attempt: number | undefined;
}

/** The upstream's request headers, without those that frame a body. */
export function requestHeaders(request: IncomingMessage, heading: RequestHeading): string[] {
  const { rawHeaders } = request;
  const headers = ["Host", heading.host];
  const named = connectionTokens(rawHeaders);
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
    const name = rawHeaders[i]!.toLowerCase();
    if (HOP_BY_HOP.has(name) || REWRITTEN.has(name)) continue;
    if (named.includes(name) && !isGuarded(name, heading)) continue;
    if (isSpoofed(name, heading)) continue;
    headers.push(rawHeaders[i]!, rawHeaders[i + 1]!);
  }
  const told = heading.trustForwarded ? rawHeaders : NONE;
  const address = request.socket.remoteAddress ?? "unknown";
  headers.push("X-Forwarded-For", appended(told, "x-forwarded-for", address));
  if (fieldLines(told, "x-forwarded-proto").length === 0) headers.push("X-Forwarded-Proto", "http");
  if (heading.clientHost !== undefined && fieldLines(told, "x-forwarded-host").length === 0) {
    headers.push("X-Forwarded-Host", heading.clientHost);
  }
  headers.push("Via", appended(rawHeaders, "via", `${request.httpVersion} semel`));
  if (heading.attempt !== undefined) headers.push("Idempotency-Attempt", String(heading.attempt));
  return headers;
}

function appended(rawHeaders: readonly string[], name: string, last: string): string {
  const lines = fieldLines(rawHeaders, name);
  return lines.length === 0 ? last : `${lines.join(", ")}, ${last}`;
}

function isGuarded(name: string, { scopeHeaders }: RequestHeading): boolean {
  return GUARDED.has(name) || scopeHeaders.includes(name);
}

/**
 * What the gateway alone may say. Underscores too: servers with CGI-like variables take them for
 * dashes.
 */
function isSpoofed(name: string, heading: RequestHeading): boolean {
  const dashed = name.includes("_") ? name.replaceAll("_", "-") : name;
  if (dashed === ATTEMPT) return true;
  if (FORWARDED.has(dashed)) return !heading.trustForwarded || dashed !== name;
  return dashed !== name && isGuarded(dashed, heading);
}

/** The client's response headers. */
export function responseHeaders({ rawHeaders }: IncomingMessage): string[] {
  const headers: string[] = [];
  const named = connectionTokens(rawHeaders);
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
    const name = rawHeaders[i]!.toLowerCase();
    if (HOP_BY_HOP.has(name) || (named.includes(name) && !GUARDED.has(name))) continue;
    headers.push(rawHeaders[i]!, rawHeaders[i + 1]!);
  }
  return headers;
}
