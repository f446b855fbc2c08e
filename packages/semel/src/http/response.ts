// Responses as results: which are stored, which of their headers, and how they become bytes.
//
//   bytes = length of the head (4, big endian) · head as JSON [status, name, value, …] · body
//
// In the head, a number in the place of a name and its value stands for one of `COMMON_FIELDS`.

import { roomFor, type StoredResult } from "../engine/envelope.ts";
import { InvalidOption, RecordUnreadable } from "../errors.ts";
import { shown } from "../options.ts";

/** A whole response. */
export interface HttpResponse {
  status: number;
  /** Names in lower case; a name may repeat. */
  headers: readonly (readonly [name: string, value: string])[];
  body: Uint8Array;
}

/** Calls back for every name, in their order: with its value, or with all that it has. */
export function eachField(
  headers: HttpResponse["headers"],
  call: (name: string, value: string | string[]) => void,
): void {
  for (let at = 0; at < headers.length; at++) {
    const [name, value] = headers[at]!;
    let [isFirst, isOnly] = [true, true];
    // There are few: to look through them takes less than to note what was seen.
    for (let other = 0; other < headers.length; other++) {
      if (other === at || headers[other]![0] !== name) continue;
      isOnly = false;
      if (other < at) isFirst = false;
    }
    if (!isFirst) continue;
    call(name, isOnly ? value : headers.filter(([one]) => one === name).map(([, one]) => one));
  }
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

/** Which response headers are stored, in more detail. */
export interface StoredHeaders {
  /** Beside the usual ones, or `"*"`. */
  allow?: "*" | readonly string[] | undefined;
  /** Not even of the usual ones. */
  deny?: readonly string[] | undefined;
  /**
   * Stores and replays `Access-Control-*`: for a proxy, behind which the middleware that sets them does
   * not run for replays. @default false
   */
  cors?: boolean | undefined;
}

/**
 * The rule for stored response headers.
 *
 * @param rules names beside the usual ones, or `"*"` for all that may be stored; names that are not
 * @throws {InvalidOption} for a header that must never be replayed
 */
export function headerFilter({
  allow = [],
  deny = [],
  cors = false,
}: StoredHeaders): (name: string) => boolean {
  const denied = new Set(lowerCase(deny, "storedHeaders.deny"));
  const extra = allow === "*" ? [] : lowerCase(allow, "storedHeaders");
  const forbidden = extra.find((name) => isNeverStored(name));
  if (forbidden !== undefined) {
    throw new InvalidOption(`\`storedHeaders\` holds "${forbidden}", which is never replayed`);
  }
  const allowed = new Set([...STORED_HEADERS, ...extra]);
  return (name) => {
    if (denied.has(name)) return false;
    if (isCors(name)) return cors;
    return allow === "*" ? !isNeverStored(name) : allowed.has(name);
  };
}

function lowerCase(names: unknown, option: string): string[] {
  if (!Array.isArray(names)) {
    throw new InvalidOption(`\`${option}\` must be a list of header names`);
  }
  return names.map((name) => {
    const lower = String(name).toLowerCase();
    if (FIELD_NAME.test(lower)) return lower;
    throw new InvalidOption(`\`${option}\` holds ${shown(name)}, which is no name of a header`);
  });
}

function isCors(name: string): boolean {
  return name.startsWith("access-control-");
}

function isNeverStored(name: string): boolean {
  return NEVER_STORED.has(name) || isCors(name);
}

/** A response as it was made: text becomes bytes where they are written. */
export interface MadeResponse extends Omit<HttpResponse, "body"> {
  body: string | Uint8Array;
}

/** What is kept of a response; `whole` is false when its body was too large to collect. */
export function storedResponse(
  response: MadeResponse,
  whole: boolean,
  storesHeader: (name: string) => boolean,
): { result: StoredResult; remnantBytes: number } {
  const head = headOf(response, storesHeader);
  const body = whole ? response.body : EMPTY;
  const remnantBytes = LENGTH_BYTES + head.length;
  const bodyBytes = typeof body === "string" ? Buffer.byteLength(body) : body.byteLength;
  const result = roomFor("http", !whole, remnantBytes + bodyBytes);
  const { bytes } = result;
  bytes.writeUInt32BE(head.length);
  bytes.set(head, LENGTH_BYTES);
  if (typeof body === "string") bytes.write(body, remnantBytes);
  else bytes.set(body, remnantBytes);
  return { result, remnantBytes };
}

/** Most answers of a server have the head of the one before, and to compare is quicker than to write. */
let lastHead: { of: MadeResponse; storesHeader: unknown; bytes: Uint8Array } | undefined;

function headOf(response: MadeResponse, storesHeader: (name: string) => boolean): Uint8Array {
  if (lastHead?.storesHeader === storesHeader && haveSameHead(lastHead.of, response)) {
    return lastHead.bytes;
  }
  const { status, headers } = response;
  const fields: (number | string)[] = [status];
  for (const [name, value] of headers) {
    if (storesHeader(name)) fields.push(...shortened(name, value));
  }
  const bytes = Buffer.from(JSON.stringify(fields));
  lastHead = { of: { status, headers, body: EMPTY }, storesHeader, bytes };
  return bytes;
}

function haveSameHead(one: MadeResponse, other: MadeResponse): boolean {
  if (one.status !== other.status || one.headers.length !== other.headers.length) return false;
  for (let index = 0; index < one.headers.length; index++) {
    const [name, value] = one.headers[index]!;
    const field = other.headers[index]!;
    if (field[0] !== name || field[1] !== value) return false;
  }
  return true;
}

const LENGTH_BYTES = 4;

/** Half of a small record, where they are written out. Records name them by place: append only. */
const COMMON_FIELDS: readonly (readonly [name: string, value: string])[] = [
  ["content-type", "application/json"],
  ["content-type", "application/json; charset=utf-8"],
  ["content-type", "application/problem+json"],
  ["content-type", "application/problem+json; charset=utf-8"],
  ["content-type", "application/octet-stream"],
  ["content-type", "text/html; charset=utf-8"],
  ["content-type", "text/plain; charset=utf-8"],
  ["content-type", "text/plain;charset=UTF-8"],
  ["cache-control", "no-store"],
  ["cache-control", "no-cache"],
  ["vary", "Origin"],
  ["vary", "Accept-Encoding"],
];
const COMMON_PLACES = new Map(COMMON_FIELDS.map((field, place) => [field.join(": "), place]));

function shortened(name: string, value: string): [number] | [string, string] {
  const place = COMMON_PLACES.get(`${name}: ${value}`);
  return place === undefined ? [name, value] : [place];
}

const EMPTY = new Uint8Array(0);

/**
 * A response as the result of an operation that somebody resolves by hand.
 *
 * @param response status (200 by default), headers and body
 * @throws {InvalidOption} for a status, or a header, that could not be sent
 * @example
 * const result = httpResult({ status: 201, body: Buffer.from('{"paid":true}') });
 * await idempotency.resolve({ key, scope }, { outcome: "applied", result });
 */
export function httpResult(response: Partial<HttpResponse>): StoredResult {
  const { status = 200, body = EMPTY } = response;
  const headers = (response.headers ?? []).map(
    ([name, value]) => [name.toLowerCase(), value] as const,
  );
  const bad = headers.find(([name, value]) => !isSendable(name, value));
  if (bad) throw new InvalidOption(`\`headers\` holds ${shown(bad[0])}, which HTTP cannot send`);
  if (!isFinalStatus(status)) {
    throw new InvalidOption(
      `\`status\` must be a whole number from 200 to 999, got ${shown(status)}`,
    );
  }
  return storedResponse({ status, headers, body }, true, (name) => !isNeverStored(name)).result;
}

/** RFC 9110 §5.1 and §5.5, the latter as Node has it. */
const FIELD_NAME = /^[!#$%&'*+\-.^_`|~0-9a-z]+$/;
const FIELD_VALUE = /^[\t\x20-\x7e\x80-\xff]*$/;

function isSendable(name: string, value: unknown): value is string {
  return FIELD_NAME.test(name) && typeof value === "string" && FIELD_VALUE.test(value);
}

function isFinalStatus(status: unknown): status is number {
  return Number.isInteger(status) && (status as number) >= 200 && (status as number) <= 999;
}

/** A response out of a record. */
export interface KeptResponse extends HttpResponse {
  /** Its `Access-Control-*` headers, which only a route that asks for them replays. */
  cors: HttpResponse["headers"];
}

/** Results come out of the cache again and again; their bytes never change. */
const DECODED = Symbol("semel.decoded");

type Decoded = StoredResult & { [DECODED]?: KeptResponse };

/**
 * The response in a stored result.
 *
 * @throws {RecordUnreadable} when it is damaged
 */
export function responseOf(result: Decoded): KeptResponse {
  const response = result[DECODED] ?? decode(result.bytes);
  if (Object.isExtensible(result)) result[DECODED] = response;
  return response;
}

function decode(bytes: Uint8Array): KeptResponse {
  try {
    const buffer =
      bytes instanceof Buffer
        ? bytes
        : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const bodyAt = LENGTH_BYTES + buffer.readUInt32BE();
    if (bodyAt > buffer.length) throw new Error("bad head");
    const { status, headers, cors } = headIn(buffer.toString("utf8", LENGTH_BYTES, bodyAt));
    return { status, headers, body: buffer.subarray(bodyAt), cors };
  } catch (cause) {
    throw new RecordUnreadable("A stored response cannot be decoded: the record is damaged", {
      cause,
    });
  }
}

type Head = Omit<KeptResponse, "body">;

/** As with {@link lastHead}, most have the head of the one before. */
let lastRead: { text: string; head: Head } | undefined;

function headIn(text: string): Head {
  if (lastRead?.text === text) return lastRead.head;
  const [status, ...fields] = JSON.parse(text);
  if (!isFinalStatus(status)) throw new Error("bad head");
  const kept = fieldsOf(fields);
  const headers = kept.filter(([name]) => !isCors(name));
  const cors = kept.length === headers.length ? [] : kept.filter(([name]) => isCors(name));
  lastRead = { text, head: { status, headers, cors } };
  return lastRead.head;
}

function fieldsOf(head: readonly unknown[]): HttpResponse["headers"] {
  const headers: (readonly [string, string])[] = [];
  for (let i = 0; i < head.length; i++) {
    const item = head[i];
    const field = typeof item === "number" ? COMMON_FIELDS[item] : writtenOut(item, head[++i]);
    if (field === undefined) throw new Error("bad field");
    headers.push(field);
  }
  return headers;
}

/** What was never stored is not sent either, whoever wrote it into the record. */
function writtenOut(item: unknown, value: unknown): readonly [string, string] | undefined {
  if (typeof item !== "string") return undefined;
  const name = item.toLowerCase();
  const isKept = isCors(name) || !isNeverStored(name);
  return isSendable(name, value) && isKept ? [name, value] : undefined;
}
