// What is asked of `run()` and its kin, checked.

import { InvalidOption } from "../errors.ts";
import type { FingerprintSelection } from "../fingerprint.ts";
import { assertKnownOptions, assertMethods } from "../options.ts";
import { OPERATION_OPTIONS, type OperationOptions } from "./policy.ts";

/** A request to run an operation once. */
export interface RunRequest<Payload = unknown, Value = unknown> extends OperationOptions<Value> {
  /** The caller's name for the operation: 1 to 255 printable ASCII characters. */
  key: string;
  /**
   * Who the key belongs to; two scopes never see each other's records. One that is there and `undefined`
   * is refused (`ScopeMissing`). @default "" when left out: one space of keys for everybody
   */
  scope?: string;
  /** What the key stands for: the same key with another payload is refused. */
  payload?: Payload | undefined;
  /** Which parts of the payload count. @default all */
  fingerprint?: FingerprintSelection<Payload> | undefined;
  /** When the request was first sent, for `refuseLate`. @default the time in a UUIDv7 key */
  firstSentAt?: Date | number | undefined;
  /** Ends the caller's wait; an attempt that has begun goes on to its end (SM-23). */
  signal?: AbortSignal | undefined;
}

const RUN_OPTIONS = [
  ...OPERATION_OPTIONS,
  "key",
  "scope",
  "payload",
  "fingerprint",
  "firstSentAt",
  "signal",
];
const UUID_V7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/i;
const SIGNAL_METHODS = ["addEventListener", "removeEventListener", "throwIfAborted"];

/** @throws {InvalidOption} */
export function assertRunRequest<Payload, Value>(
  request: RunRequest<Payload, Value>,
  where: string,
  handler: unknown,
): void {
  assertKnownOptions(request, RUN_OPTIONS, where);
  if (typeof handler !== "function") throw new InvalidOption(`${where} takes a handler function`);
  const { signal } = request;
  if (signal !== undefined) assertMethods(signal, "signal", SIGNAL_METHODS);
}

/** When a request was first sent: what it says, or the time in a UUIDv7 (RFC 9562 §5.7). */
export function firstSent(key: string, said: Date | number | undefined): number | undefined {
  if (said === undefined) {
    return UUID_V7.test(key) ? Number.parseInt(key.slice(0, 8) + key.slice(9, 13), 16) : undefined;
  }
  const sentAt = said instanceof Date ? said.getTime() : said;
  if (Number.isFinite(sentAt)) return sentAt;
  throw new InvalidOption("`firstSentAt` must be a Date, or milliseconds since the Unix epoch");
}
