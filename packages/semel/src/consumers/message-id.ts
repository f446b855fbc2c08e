// Ids that are bytes: what is not text must not become it, or different ids would look the same.

const BYTES = "bytes:";
/** U+FFFD, which decoders put where bytes were no text. */
const REPLACED = "\ufffd";

/**
 * The id of a message whose broker carries it as bytes: their text, or where they are none, the bytes
 * in hexadecimal.
 *
 * @returns `""` when there is none
 */
export function idOfBytes(given: Uint8Array | string | undefined): string {
  if (!(given instanceof Uint8Array)) return given ?? "";
  const bytes = Buffer.from(given);
  const text = bytes.toString();
  // What already looks like bytes is named by them as well, so that no id can take another one's name.
  return isAmbiguous(text) || text.startsWith(BYTES) ? BYTES + bytes.toString("hex") : text;
}

/** Whether an id may be what became of several, which were no text or have no UTF-8. */
export function isAmbiguous(id: string): boolean {
  return id.includes(REPLACED) || !id.isWellFormed();
}
