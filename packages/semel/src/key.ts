// The caller's name for an operation: its bounds, and the fixed-size id made of scope and key.

import { hash } from "node:crypto";
import { KeyInvalid, ScopeMissing } from "./errors.ts";
import type { QueueKind, RecordId } from "./store.ts";

export const KEY_LENGTH_MAX = 255;
/** Long enough for any account name or token digest; keeps what stores index bounded. */
export const SCOPE_LENGTH_MAX = 1024;

const PRINTABLE_ASCII = /^[\x20-\x7e]+$/;

/**
 * Checks a key: 1 to 255 printable ASCII characters (SPEC §11).
 *
 * @throws {KeyInvalid}
 */
export function assertKey(key: unknown): asserts key is string {
  if (typeof key !== "string") throw new KeyInvalid(`A key must be a string, got ${typeof key}`);
  if (key.length === 0) throw new KeyInvalid("A key must not be empty");
  if (key.length > KEY_LENGTH_MAX) {
    throw new KeyInvalid(`A key may have ${KEY_LENGTH_MAX} characters, this one has ${key.length}`);
  }
  if (!PRINTABLE_ASCII.test(key)) {
    throw new KeyInvalid("A key may contain printable ASCII characters only (0x20 to 0x7e)");
  }
}

/**
 * Checks a scope: a well-formed string of at most 1,024 UTF-16 units without NUL. It may be empty.
 *
 * @throws {ScopeMissing} when it is not a string, too long, holds a lone surrogate (two such
 * strings would share one UTF-8 form, and so one record), or a NUL, which databases cannot keep
 */
export function assertScope(scope: unknown): asserts scope is string {
  if (typeof scope !== "string") {
    throw new ScopeMissing(
      `A scope must be a string, got ${scope === null ? "null" : typeof scope}`,
    );
  }
  if (scope.length > SCOPE_LENGTH_MAX) {
    throw new ScopeMissing(`A scope may have ${SCOPE_LENGTH_MAX} characters, got ${scope.length}`);
  }
  if (!scope.isWellFormed() || scope.includes("\0")) {
    throw new ScopeMissing("A scope must be well-formed Unicode without NUL characters");
  }
}

/**
 * The scope that a caller names: `""` where it names none. One that is there and undefined is not left
 * out: two tenants whose id is missing by mistake must not get each other's results.
 *
 * @throws {ScopeMissing} also for whatever {@link assertScope} refuses
 */
export function scopeOf(named: { scope?: string | undefined }): string {
  if (!("scope" in named)) return "";
  const { scope } = named;
  if (scope === undefined || scope === null) {
    throw new ScopeMissing(
      `\`scope\` is ${scope}, so it is not known whose key this is, and nothing ran; leave it out only where all callers share one space of keys`,
    );
  }
  assertScope(scope);
  return scope;
}

/** In a request of an inbox, whose scope is its own. */
export const OWN_SCOPE = Symbol("semel.own-scope");

/** What the scopes of inboxes and of durable operations begin with. */
const RESERVED = /^(?:inbox|operation)\/\d+:/;

/**
 * Callers, whose scopes may be names that others choose, must not name the records of messages.
 *
 * @throws {ScopeMissing}
 */
export function assertNotReserved(scope: string): void {
  if (!RESERVED.test(scope)) return;
  throw new ScopeMissing(
    `The scope "${scope}" is one of Semel's own: those of inboxes and durable operations begin so. Nothing ran; put something before it`,
  );
}

/**
 * The record's id: the first 16 bytes of SHA-256 over the length-framed scope and key, in
 * hexadecimal. Framing keeps `("a:b", "c")` and `("a", "b:c")` apart.
 */
export function recordId(scope: string, key: string): RecordId {
  return hash("sha256", `${scope.length}:${scope}${key}`, "hex").slice(0, 32);
}

/**
 * The id of an item of a queue: eight digits of its operation's, which say where it is kept, and 24 of
 * SHA-256 over what makes it itself within the operation.
 */
export function queueItemId(operation: RecordId, kind: QueueKind, label: string): string {
  return (
    operation.slice(0, 8) + hash("sha256", `${operation}:${kind}:${label}`, "hex").slice(0, 24)
  );
}
