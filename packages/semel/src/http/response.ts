// Responses as results: which are stored, which of their headers, and how they become bytes.
//
//   bytes = length of the head (4, big endian) · head as JSON [status, name, value, …] · body

import type { StoredResult } from "../engine/envelope.ts";
import { InvalidOption, RecordUnreadable } from "../errors.ts";

/** A whole response. */
export interface HttpResponse {
  status: number;
  /** Names in lower case; a name may repeat. */
  headers: readonly (readonly [name: string, value: string])[];
  body: Uint8Array;
}

/** Answers that say nothing lasting about the request (HTTP-12). */
const PASSING_4XX = new Set([401, 403, 408, 409, 421, 423, 425, 429]);

/** 2xx, 3xx and the 4xx that are a verdict on the request. */
export function isStoredByDefault(status: number): boolean {
  return status >= 200 && status < 500 && !PASSING_4XX.has(status);
}

const STORED_HEADERS = [
  "accept-patch",
  "accept-ranges",
  "cache-control",
  "content-disposition",
  "content-encoding",
  "content-language",
  "content-location",
  "content-range",
  "content-type",
  "deprecation",
  "digest",
  "content-digest",
  "repr-digest",
  "etag",
  "expires",
  "last-modified",
  "link",
  "location",
  "pragma",
  "preference-applied",
  "retry-after",
  "sunset",
  "vary",
  "warning",
];

/** Bound to one connection, one moment or one credential (HTTP-13; RFC 9110 §7.6.1). */
const NEVER_STORED = new Set([
  "authentication-info",
  "authorization",
  "clear-site-data",
  "connection",
  "content-length",
  "date",
  "idempotency-expires",
  "idempotency-status",
  "idempotent-replayed",
  "keep-alive",
  "proxy-authenticate",
  "proxy-authentication-info",
  "proxy-authorization",
  "proxy-connection",
  "set-cookie",
  "set-cookie2",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
  "www-authenticate",
]);

/**
 * The allow-list of stored response headers.
 *
 * @param extra names beside the usual ones, or `"*"` for all that may be stored
 * @throws {InvalidOption} for a header that must never be replayed
 */
export function headerFilter(extra: "*" | readonly string[]): (name: string) => boolean {
  if (extra === "*") return (name) => !isNeverStored(name);
  if (!Array.isArray(extra)) {
    throw new InvalidOption('`storedHeaders` must be a list of header names, or "*"');
  }
  const names = extra.map((name) => String(name).toLowerCase());
  const forbidden = names.find(isNeverStored);
  if (forbidden !== undefined) {
    throw new InvalidOption(`\`storedHeaders\` holds "${forbidden}", which is never replayed`);
  }
  const allowed = new Set([...STORED_HEADERS, ...names]);
  return (name) => allowed.has(name);
}

function isNeverStored(name: string): boolean {
  return NEVER_STORED.has(name) || name.startsWith("access-control-");
}

/** What is kept of a response; `whole` is false when its body was too large to collect. */
export function storedResponse(
  response: HttpResponse,
  whole: boolean,
  storesHeader: (name: string) => boolean,
): { result: StoredResult; remnant: Uint8Array } {
  const fields: (number | string)[] = [response.status];
  for (const [name, value] of response.headers) if (storesHeader(name)) fields.push(name, value);
  const head = Buffer.from(JSON.stringify(fields));
  const remnant = framed(head, EMPTY);
  const bytes = whole ? framed(head, response.body) : remnant;
  return { result: { kind: "http", omitted: !whole, bytes }, remnant };
}

const EMPTY = new Uint8Array(0);

/**
 * A response as the result of an operation that somebody resolves by hand.
 *
 * @param response status (200 by default), headers and body
 * @example
 * const result = httpResult({ status: 201, body: Buffer.from('{"paid":true}') });
 * await idempotency.resolve({ key, scope }, { outcome: "applied", result });
 */
export function httpResult(response: Partial<HttpResponse>): StoredResult {
  const { status = 200, headers = [], body = EMPTY } = response;
  return storedResponse({ status, headers, body }, true, (name) => !isNeverStored(name)).result;
}

function framed(head: Uint8Array, body: Uint8Array): Uint8Array {
  const bytes = Buffer.allocUnsafe(4 + head.byteLength + body.byteLength);
  bytes.writeUInt32BE(head.byteLength);
  bytes.set(head, 4);
  bytes.set(body, 4 + head.byteLength);
  return bytes;
}

/** Results come out of the cache again and again; their bytes never change. */
const decoded = new WeakMap<StoredResult, HttpResponse>();

/**
 * The response in a stored result.
 *
 * @throws {RecordUnreadable} when it is damaged
 */
export function responseOf(result: StoredResult): HttpResponse {
  let response = decoded.get(result);
  if (response === undefined) {
    response = decode(result.bytes);
    decoded.set(result, response);
  }
  return response;
}

function decode(bytes: Uint8Array): HttpResponse {
  try {
    const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const bodyAt = 4 + buffer.readUInt32BE();
    const [status, ...fields] = JSON.parse(buffer.toString("utf8", 4, bodyAt));
    if (!Number.isInteger(status) || bodyAt > buffer.length) throw new Error("bad head");
    const headers: [string, string][] = [];
    for (let i = 0; i < fields.length; i += 2) headers.push([fields[i], fields[i + 1]]);
    return { status, headers, body: buffer.subarray(bodyAt) };
  } catch (cause) {
    throw new RecordUnreadable("A stored response cannot be decoded: the record is damaged", {
      cause,
    });
  }
}
