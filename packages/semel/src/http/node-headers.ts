// The headers of a `node:http` response: read, put back, added to; and responses that no handler made.

import { type ServerResponse, validateHeaderValue } from "node:http";
import { inspect } from "node:util";
import { exposedHeaders } from "./cors.ts";
import { isHttp2 } from "./node-body.ts";
import { eachField, type HttpResponse } from "./response.ts";

/** What says something about one body (RFC 9110 §8, RFC 9530), unlike `Content-Security-Policy`. */
const OF_A_BODY = new Set([
  "content-type",
  "content-length",
  "content-encoding",
  "content-language",
  "content-location",
  "content-range",
  "content-disposition",
  "content-digest",
  "repr-digest",
  "content-md5",
  "digest",
  "etag",
  "last-modified",
  "trailer",
  "transfer-encoding",
]);

/** Breaks an answer off, so that nobody takes what has left for a whole one. */
export function breakOff(response: ServerResponse, error?: Error): void {
  const { req } = response;
  if (!isHttp2(req)) {
    response.destroy(error);
    return;
  }
  // Without an error the stream would end as if it were whole. With one, Node emits it on the request.
  req.on("error", () => {});
  req.stream?.destroy(error ?? new Error("The response was broken off"));
}

/** The reason phrase that was chosen for a response, if one was; HTTP/2 has none (RFC 9113 §8.3.2). */
export function reasonOf(response: ServerResponse): string {
  return hasReason(response) ? (response.statusMessage ?? "") : "";
}

export function setReason(response: ServerResponse, reason: string): void {
  if (hasReason(response)) response.statusMessage = reason;
}

function hasReason({ req }: ServerResponse): boolean {
  return !isHttp2(req);
}

/**
 * Refuses a reason phrase as Node does, and as early: what cannot be sent must not become a result.
 *
 * @throws {TypeError} having taken it off, so that the failure can be answered
 */
export function assertSendableReason(response: ServerResponse): void {
  const reason = reasonOf(response);
  if (reason === "") return;
  try {
    validateHeaderValue("statusMessage", reason);
  } catch (error) {
    setReason(response, "");
    throw error;
  }
}

const BEYOND_ASCII = /[\x80-\xff]/;

/**
 * Whether a head must leave with bytes: with a text, Node writes it in the text's encoding, UTF-8,
 * instead of the Latin-1 that header values are made of, and its replay would be another.
 */
export function isBeyondAscii(headers: HttpResponse["headers"]): boolean {
  for (const [, value] of headers) if (BEYOND_ASCII.test(value)) return true;
  return false;
}

/** Sends a response that no handler made. */
export function sendResponse(
  response: ServerResponse,
  { status, headers, body }: HttpResponse,
): void {
  for (const name of response.getHeaderNames()) {
    // What the application's own middleware set stays; what describes another body does not.
    if (OF_A_BODY.has(name)) response.removeHeader(name);
  }
  response.statusCode = status;
  setReason(response, "");
  eachField(headers, (name, value) => response.setHeader(name, value));
  addHeaders(response, []);
  response.end(body);
}

export function addHeaders(response: ServerResponse, headers: HttpResponse["headers"]): void {
  for (const [name, value] of headers) response.setHeader(name, value);
  const exposed = exposedHeaders((name) => response.getHeader(name));
  if (exposed !== undefined) response.setHeader("access-control-expose-headers", exposed);
}

export function headersOf(response: ServerResponse): [string, string][] {
  const fields: [string, string][] = [];
  for (const name of response.getHeaderNames()) {
    const value = response.getHeader(name);
    if (typeof value === "string") fields.push([name, value]);
    else if (Array.isArray(value)) for (const item of value) fields.push([name, String(item)]);
    else if (value !== undefined) fields.push([name, String(value)]);
  }
  return fields;
}

export function restoreHeaders(response: ServerResponse, headers: HttpResponse["headers"]): void {
  if (hasHeaders(response, headers)) return;
  const wanted = new Map<string, string[]>();
  for (const [name, value] of headers) {
    const values = wanted.get(name);
    if (values) values.push(value);
    else wanted.set(name, [value]);
  }
  for (const name of response.getHeaderNames()) {
    if (!wanted.has(name)) response.removeHeader(name);
  }
  for (const [name, values] of wanted) {
    const current = response.getHeader(name);
    if (String(current) === values.join(",")) continue;
    response.setHeader(name, values.length === 1 ? values[0]! : values);
  }
}

/** Whether nothing was touched, which is nearly always. */
function hasHeaders(response: ServerResponse, headers: HttpResponse["headers"]): boolean {
  const names = response.getHeaderNames();
  if (names.length !== headers.length) return false;
  return headers.every(
    ([name, value], i) => names[i] === name && response.getHeader(name) === value,
  );
}

/**
 * Sets the headers of a list, which is one of names and values in turn, or of pairs; as `writeHead` of Node
 * takes them. A value can be a list itself.
 *
 * @throws {TypeError} for a name without a value
 */
export function setHeaderPairs(response: ServerResponse, list: readonly unknown[]): void {
  const names = new Set<string>();
  for (const [name, value] of pairsOf(list)) {
    const field = String(name).toLowerCase();
    if (names.has(field)) response.appendHeader(name, value);
    else response.setHeader(name, value);
    names.add(field);
  }
}

type Pair = readonly [name: string, value: string | string[]];

function pairsOf(list: readonly unknown[]): readonly Pair[] {
  if (Array.isArray(list[0])) return list as readonly Pair[];
  if (list.length % 2 !== 0) {
    const error = new TypeError(`The argument 'headers' is invalid. Received ${inspect(list)}`);
    throw Object.assign(error, { code: "ERR_INVALID_ARG_VALUE" });
  }
  const pairs: Pair[] = [];
  for (let i = 0; i < list.length; i += 2) pairs.push([list[i], list[i + 1]] as unknown as Pair);
  return pairs;
}
