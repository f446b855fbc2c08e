// What is checked: an address and one operation of it, in terms of HTTP alone.

import type { HeaderLine } from "./exchange.ts";

export interface Target {
  url: URL;
  method: string;
  /** Sent with every request. */
  headers: readonly HeaderLine[];
  body: Buffer;
  /** Another payload of the same operation. */
  otherBody: Buffer | undefined;
  /** The name of the header that carries the key. */
  keyHeader: string;
  /** Where effects are counted, and by which part of the answer. */
  count: { url: URL; pointer: string } | undefined;
  /** Replaces the header of that name: another caller. */
  otherAuth: HeaderLine | undefined;
  /** An unsafe method, of the same address, that is another operation. */
  otherMethod: string | undefined;
  /** An address at which the operation takes a second or longer. */
  slow: URL | undefined;
  /** An address at which the operation fails with 5xx. */
  fail: URL | undefined;
  /** Whether the API says that it demands keys. */
  isRequired: boolean;
  /** How many duplicates are sent at once. */
  duplicates: number;
  /** For each answer. */
  timeoutMs: number;
  /** What keys are made of. */
  seed: string;
}

/** Headers by which callers prove who they are. */
const CREDENTIALS = new Set(["authorization", "cookie", "proxy-authorization", "x-api-key"]);

/** Whether a header says who calls: the usual ones, and the one that `--other-auth` replaces. */
export function isCredential({ otherAuth }: Target, [name]: HeaderLine): boolean {
  const lower = name.toLowerCase();
  return CREDENTIALS.has(lower) || lower === otherAuth?.[0].toLowerCase();
}

/** A key as it is written in its header (RFC 9651 §4.1.6). */
export function spell(key: string, spelling: "quoted" | "bare"): string {
  return spelling === "bare" ? key : `"${key.replace(/["\\]/g, "\\$&")}"`;
}
