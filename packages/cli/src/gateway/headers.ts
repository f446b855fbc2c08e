// Header fields on their way through: what belongs to one connection stays behind (RFC 9110 §7.6.1),
// what the gateway says of the client is added, the rest passes as it was written.

import type { IncomingMessage } from "node:http";

type Field = readonly [name: string, value: string];

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

/** Every field line of a name in lower case; `headers` would join them, or keep the first. */
export function fieldLines(rawHeaders: readonly string[], name: string): string[] {
  const lines: string[] = [];
  for (const [field, value] of fields(rawHeaders)) {
    if (field.length === name.length && field.toLowerCase() === name) lines.push(value);
  }
  return lines;
}

function* fields(rawHeaders: readonly string[]): Generator<Field> {
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) yield [rawHeaders[i]!, rawHeaders[i + 1]!];
}

/** The tokens of `Connection`, in lower case. */
export function connectionTokens(rawHeaders: readonly string[]): string[] {
  return fieldLines(rawHeaders, "connection")
    .flatMap((line) => line.split(","))
    .map((token) => token.trim().toLowerCase());
}

function endToEnd(rawHeaders: readonly string[], guarded: ReadonlySet<string>): Field[] {
  const named = new Set(connectionTokens(rawHeaders));
  return [...fields(rawHeaders)].filter(([field]) => {
    const name = field.toLowerCase();
    return !HOP_BY_HOP.has(name) && (guarded.has(name) || !named.has(name));
  });
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
  const guarded = new Set([...GUARDED, ...heading.scopeHeaders]);
  const headers = ["Host", heading.host];
  for (const [field, value] of endToEnd(request.rawHeaders, guarded)) {
    const name = field.toLowerCase();
    if (name === "host" || name === "content-length" || name === "expect") continue;
    if (isSpoofed(name, heading, guarded)) continue;
    // Rewritten below.
    if (name === "x-forwarded-for" || name === "via") continue;
    headers.push(field, value);
  }
  const told = heading.trustForwarded ? request.rawHeaders : [];
  const path = [...fieldLines(told, "x-forwarded-for"), request.socket.remoteAddress ?? "unknown"];
  headers.push("X-Forwarded-For", path.join(", "));
  if (fieldLines(told, "x-forwarded-proto").length === 0) headers.push("X-Forwarded-Proto", "http");
  if (heading.clientHost !== undefined && fieldLines(told, "x-forwarded-host").length === 0) {
    headers.push("X-Forwarded-Host", heading.clientHost);
  }
  const via = [...fieldLines(request.rawHeaders, "via"), `${request.httpVersion} semel`];
  headers.push("Via", via.join(", "));
  if (heading.attempt !== undefined) headers.push("Idempotency-Attempt", String(heading.attempt));
  return headers;
}

/**
 * What the gateway alone may say. Underscores too: servers with CGI-like variables take them for
 * dashes.
 */
function isSpoofed(name: string, heading: RequestHeading, guarded: ReadonlySet<string>): boolean {
  const dashed = name.replaceAll("_", "-");
  if (dashed === ATTEMPT) return true;
  if (FORWARDED.has(dashed)) return !heading.trustForwarded || dashed !== name;
  return dashed !== name && guarded.has(dashed);
}

/** The client's response headers. */
export function responseHeaders(answer: IncomingMessage): string[] {
  return endToEnd(answer.rawHeaders, GUARDED).flat();
}
