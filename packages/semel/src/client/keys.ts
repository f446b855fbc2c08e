// Keys: made at random, of the request, or by the caller; and how they are written in the header.

import { InvalidOption, KeyInvalid } from "../errors.ts";

const KEY = /^[\x20-\x7e]{1,255}$/;
/** What may stand in a header without quotes, and what servers take for one key. */
const BARE = /^[\x21\x23-\x2b\x2d-\x7e]+$/;
const QUOTED = /^"((?:[^"\\]|\\["\\])*)"$/;

/**
 * Checks a key that the caller gave: 1 to 255 printable ASCII characters, as servers ask for.
 *
 * @throws {KeyInvalid}
 */
export function assertClientKey(key: unknown): asserts key is string {
  if (typeof key === "string" && KEY.test(key)) return;
  const got = typeof key === "string" ? JSON.stringify(key.slice(0, 40)) : typeof key;
  throw new KeyInvalid(
    `A key must be a string of 1 to 255 printable ASCII characters, got ${got}. Nothing was sent`,
  );
}

/**
 * A key as the header's value.
 *
 * @param syntax `"string"`: an RFC 9651 String (§4.1.6), in quotes; `"bare"`: as it is
 * @throws {KeyInvalid} when it cannot be written bare
 */
export function headerValue(key: string, syntax: "string" | "bare"): string {
  if (syntax === "string") return `"${key.replace(/["\\]/g, "\\$&")}"`;
  if (BARE.test(key)) return key;
  throw new KeyInvalid(
    `The key ${JSON.stringify(key)} has spaces, commas or quotes, which need \`syntax: "string"\`. Nothing was sent`,
  );
}

/** The key in a header that the caller wrote. */
export function keyOfHeader(value: string): string {
  return QUOTED.exec(value)?.[1]?.replace(/\\(["\\])/g, "$1") ?? value;
}

/** A UUID with the time in front (RFC 9562 §5.7), from which servers can tell how old it is. */
export function uuidV7(nowMs: number): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  // 48 bits: too many for bitwise operators.
  for (let index = 5, rest = Math.floor(nowMs); index >= 0; index--) {
    bytes[index] = rest % 256;
    rest = Math.floor(rest / 256);
  }
  return uuid(bytes, 7);
}

/** A random UUID (RFC 9562 §5.4). `crypto.randomUUID` is missing on pages without TLS. */
export function uuidV4(): string {
  return uuid(crypto.getRandomValues(new Uint8Array(16)), 4);
}

function uuid(bytes: Uint8Array, version: number): string {
  bytes[6] = (bytes[6]! & 0x0f) | (version << 4);
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  return hexadecimal(bytes).replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/** What makes a request the same request. */
export interface RequestIdentity {
  method: string;
  url: string;
  contentType: string;
  body: Uint8Array;
}

/**
 * SHA-256 over length-framed method, URL, media type and body, in hexadecimal.
 *
 * @throws {InvalidOption} where the platform has no `crypto.subtle`
 */
export async function requestDigest(request: RequestIdentity): Promise<string> {
  if (!globalThis.crypto?.subtle) {
    throw new InvalidOption(
      '`storage` and `key: "hash"` need `crypto.subtle`, which browsers have on https:// and localhost only',
    );
  }
  const { method, url, contentType, body } = request;
  const mediaType = contentType.split(";", 1)[0]!.trim().toLowerCase();
  const head = [method, url.split("#", 1)[0]!, mediaType]
    .map((part) => `${part.length}:${part}`)
    .join("");
  const headBytes = new TextEncoder().encode(head);
  const framed = new Uint8Array(headBytes.byteLength + body.byteLength);
  framed.set(headBytes);
  framed.set(body, headBytes.byteLength);
  return hexadecimal(new Uint8Array(await crypto.subtle.digest("SHA-256", framed)));
}

function hexadecimal(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
