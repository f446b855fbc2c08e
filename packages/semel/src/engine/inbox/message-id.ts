// Which key a message is remembered by.

import { hash } from "node:crypto";
import { canonicalForm } from "../../canonical-form.ts";
import { InvalidOption, KeyInvalid, PayloadInvalid } from "../../errors.ts";
import type { Fingerprinter } from "../../fingerprint.ts";
import { KEY_LENGTH_MAX } from "../../key.ts";
import { assertOneOf } from "../../options.ts";
import { messageOf } from "../execution.ts";
import type { InboxMessage } from "./inbox.ts";

/** What to do with a message that has no id. */
export type WithoutId = "refuse" | "hash" | ((message: InboxMessage) => string | undefined);

const HASHED = "sha256:";
const PRINTABLE_ASCII = /^[\x20-\x7e]+$/;

/** Why nothing can be remembered of a message: nothing names it, or its payload cannot be compared. */
export type Unidentified = KeyInvalid | PayloadInvalid;

/** What is remembered of a message. */
export type Identity =
  | { key: string; fingerprint: string }
  | { key?: undefined; error: Unidentified };

/** What is remembered of a message. Never throws, since a message of a batch must not harm the others. */
export function identityOf(
  message: InboxMessage,
  withoutId: WithoutId,
  fingerprintOf: Fingerprinter,
): Identity {
  const key = keyOf(message, withoutId);
  if (typeof key !== "string") return { error: key };
  const fingerprint = orInvalid(() => fingerprintOf(message.payload));
  return typeof fingerprint === "string" ? { key, fingerprint } : { error: fingerprint };
}

/** The key of a message: its id where that can be a key, otherwise the SHA-256 of the id. */
export function keyOf(message: InboxMessage, withoutId: WithoutId): string | Unidentified {
  const { id, payload } = message;
  if (id) return keyOfId(id);
  if (typeof withoutId === "function") return madeKey(message, withoutId);
  // Without a payload there is nothing that tells two messages apart.
  if (withoutId === "refuse" || payload === undefined) return nameless();
  return orInvalid(() => hashed(`payload:${canonicalForm(payload)}`));
}

function orInvalid(digest: () => string): string | PayloadInvalid {
  try {
    return digest();
  } catch (error) {
    if (error instanceof PayloadInvalid) return error;
    throw error;
  }
}

function madeKey(message: InboxMessage, make: Exclude<WithoutId, string>): string | KeyInvalid {
  let made: unknown;
  try {
    made = make(message);
  } catch (cause) {
    return new KeyInvalid(`\`withoutId\` could not name the message: ${messageOf(cause)}`, {
      cause,
    });
  }
  if (!made) return nameless();
  if (typeof made === "string") return keyOfId(made);
  return new KeyInvalid(`\`withoutId\` must name a message by a string, got ${typeof made}`);
}

function nameless(): KeyInvalid {
  return new KeyInvalid(
    "The message has no id, so that its redelivery could not be recognised; let its publisher set one, or set `withoutId`",
  );
}

/** The key of an id. */
export function keyOfId(id: string): string {
  // What already looks hashed is hashed as well, so that no id can take another one's key.
  const isKey = id.length <= KEY_LENGTH_MAX && PRINTABLE_ASCII.test(id) && !id.startsWith(HASHED);
  return isKey ? id : hashed(`id:${id}`);
}

/** @throws {InvalidOption} */
export function assertWithoutId(value: unknown): void {
  if (typeof value !== "function") assertOneOf(value, ["refuse", "hash"], "withoutId");
}

/** @throws {InvalidOption} when it is not a string: `42` and `"42"` would be one message. */
export function assertId(id: unknown): void {
  if (id === undefined || typeof id === "string") return;
  throw new InvalidOption(
    `A message's \`id\` must be a string, got ${id === null ? "null" : typeof id}`,
  );
}

function hashed(text: string): string {
  return HASHED + hash("sha256", text, "base64url");
}
