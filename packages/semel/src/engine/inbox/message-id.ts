// Which key a message is remembered by.

import { hash } from "node:crypto";
import { InvalidOption } from "../../errors.ts";
import { canonicalForm } from "../../fingerprint.ts";
import { KEY_LENGTH_MAX } from "../../key.ts";
import { assertOneOf } from "../../options.ts";
import type { InboxMessage } from "./inbox.ts";

/** What to do with a message that has no id. */
export type WithoutId = "refuse" | "hash" | ((message: InboxMessage) => string | undefined);

const HASHED = "sha256:";
const PRINTABLE_ASCII = /^[\x20-\x7e]+$/;

/**
 * The key of a message: its id where that can be a key, otherwise the SHA-256 of the id.
 *
 * @returns `undefined` when it has no id, and none can be made
 */
export function keyOf(message: InboxMessage, withoutId: WithoutId): string | undefined {
  const { id, payload } = message;
  if (id) return keyOfId(id);
  if (typeof withoutId === "function") {
    const made = withoutId(message);
    return made ? keyOfId(made) : undefined;
  }
  // Without a payload there is nothing that tells two messages apart.
  if (withoutId === "refuse" || payload === undefined) return undefined;
  return hashed(`payload:${canonicalForm(payload)}`);
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
