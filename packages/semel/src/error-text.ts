// The text of an error as every store can keep it.

/**
 * Without NUL and lone surrogates, which databases refuse: an error may say anything, and one that
 * cannot be written must not fail what is written along with it.
 */
export function writableError(error: string): string {
  return error.toWellFormed().replaceAll("\0", "\ufffd");
}
