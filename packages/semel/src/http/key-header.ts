// Reads `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): an RFC 9651 String, or the bare
// value that most clients send; both spell the same key (HTTP-1).

import { parseItem } from "structured-headers";
import { KeyInvalid } from "../errors.ts";
import { assertKey } from "../key.ts";

/** A bare key. No comma: a proxy may join repeated lines with one, and they must not pass as a key. */
const BARE = /^[\x21\x23-\x2b\x2d-\x7e]+$/;

/** RFC 9110 §5.6.3; not `trim()`, which takes more than HTTP calls whitespace. */
const OUTER_WHITESPACE = /^[ \t]+|[ \t]+$/g;

/**
 * The key in the header's field lines.
 *
 * @param lines every field line of that name, as received
 * @param headerName for the message
 * @param strict accepts an RFC 9651 String only
 * @returns `undefined` when the header is absent
 * @throws {KeyInvalid} when it is empty, over-long, repeated or malformed
 */
export function keyFromHeader(
  lines: readonly string[],
  headerName: string,
  strict: boolean,
): string | undefined {
  if (lines.length === 0) return undefined;
  if (lines.length > 1)
    throw new KeyInvalid(`${headerName} must be sent once, got ${lines.length}`);
  const value = lines[0]!.replace(OUTER_WHITESPACE, "");
  const key = value.startsWith('"') || strict ? quoted(value, headerName) : bare(value, headerName);
  assertKey(key);
  return key;
}

function bare(value: string, headerName: string): string {
  if (value === "") throw new KeyInvalid(`${headerName} is empty`);
  if (BARE.test(value)) return value;
  throw new KeyInvalid(
    `${headerName} is malformed: send one key, without spaces or commas, or as a quoted String ("…", RFC 9651 §3.3.3)`,
  );
}

function quoted(value: string, headerName: string): string {
  try {
    const [item] = parseItem(value);
    if (typeof item === "string") return item;
  } catch {
    // Said below, whatever it was.
  }
  throw new KeyInvalid(`${headerName} is malformed: it must be one String ("…", RFC 9651 §3.3.3)`);
}
