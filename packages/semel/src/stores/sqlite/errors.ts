// What a SQLite driver's error means. Drivers agree on SQLite's result codes and on nothing else:
// `node:sqlite` has them in `errcode`, libsql in `rawCode`, better-sqlite3 by name in `code`.

import {
  isSemelError,
  type SemelError,
  StoreFull,
  StoreUnavailable,
  StoreUnusable,
} from "../../errors.ts";

/** Primary result codes (sqlite.org/rescode.html) that mean something to a store. */
const RESULT_CODES: Record<number, string> = {
  1: "SQLITE_ERROR",
  5: "SQLITE_BUSY",
  6: "SQLITE_LOCKED",
  7: "SQLITE_NOMEM",
  8: "SQLITE_READONLY",
  9: "SQLITE_INTERRUPT",
  10: "SQLITE_IOERR",
  11: "SQLITE_CORRUPT",
  13: "SQLITE_FULL",
  14: "SQLITE_CANTOPEN",
  15: "SQLITE_PROTOCOL",
  18: "SQLITE_TOOBIG",
  19: "SQLITE_CONSTRAINT",
  20: "SQLITE_MISMATCH",
  25: "SQLITE_RANGE",
  26: "SQLITE_NOTADB",
};

const STATEMENT_CODES = [
  "SQLITE_ERROR",
  "SQLITE_CONSTRAINT",
  "SQLITE_MISMATCH",
  "SQLITE_RANGE",
  "SQLITE_TOOBIG",
];

/** Another connection has what this one needs: the same call may succeed later. */
export function isBusy(error: unknown): boolean {
  const code = resultCode(error);
  return code === "SQLITE_BUSY" || code === "SQLITE_LOCKED" || code === "SQLITE_PROTOCOL";
}

/** For want of room; SQLite has rolled back, so nothing was written. */
export function isFull(error: unknown): boolean {
  return resultCode(error) === "SQLITE_FULL";
}

/**
 * Undoes no more than its own statement, so that a transaction may go on after it: a refusal of
 * what was asked, by SQLite, by the driver (a value it cannot bind), or by the store itself.
 */
export function isOfStatement(error: unknown): boolean {
  if (isSemelError(error)) return !(error instanceof StoreUnusable);
  const code = resultCode(error);
  if (code === undefined) return !isClosed(error);
  return STATEMENT_CODES.includes(code);
}

/** The error of the contract that says what to do about a driver's; the driver's is its cause. */
export function storeError(error: unknown): SemelError {
  if (isSemelError(error)) return error;
  const options = { cause: error };
  const message = error instanceof Error ? error.message : String(error);
  if (isClosed(error)) {
    return new StoreUnusable(
      "The SQLite database was closed; keep it open until `idempotency.close()` has resolved",
      options,
    );
  }
  switch (resultCode(error)) {
    case "SQLITE_BUSY":
    case "SQLITE_LOCKED":
    case "SQLITE_PROTOCOL":
      return new StoreUnavailable(
        "Other connections kept the SQLite database locked for longer than `busyTimeout`",
        options,
      );
    case "SQLITE_FULL":
      return new StoreFull("The SQLite database cannot grow: its disk or quota is full", options);
    case "SQLITE_TOOBIG":
      return new StoreFull("The record is larger than SQLite allows", options);
    case "SQLITE_READONLY":
      return new StoreUnusable(
        "The SQLite database is read-only; open it for writing, and let the process write its file and its folder",
        options,
      );
    case "SQLITE_CANTOPEN":
      return new StoreUnusable(
        "The SQLite database cannot be opened; check that its folder exists and that the process may write there",
        options,
      );
    case "SQLITE_NOTADB":
      return new StoreUnusable(
        "The file is not a SQLite database, or it is encrypted and the connection has no key; check the path and the key",
        options,
      );
    case "SQLITE_CORRUPT":
      return new StoreUnusable(
        "The SQLite database is damaged; restore it from a backup (`PRAGMA integrity_check` tells more)",
        options,
      );
    case "SQLITE_ERROR":
      return new StoreUnusable(remedyFor(message), options);
    case "SQLITE_CONSTRAINT":
    case "SQLITE_MISMATCH":
      return new StoreUnusable(`The SQLite database refused a record: ${message}`, options);
    default:
      return new StoreUnavailable(`The SQLite database failed: ${message}`, options);
  }
}

export function closedError(): StoreUnusable {
  return storeError(new Error("The database connection is not open")) as StoreUnusable;
}

function remedyFor(message: string): string {
  if (/(within a|inside a) transaction/.test(message)) {
    return "The connection is inside a transaction of its own; give Semel a connection that nothing else uses";
  }
  if (/no such (table|column)/.test(message)) {
    return `The SQLite database lacks what this version keeps (${message}); call \`await store.migrate()\`, or run \`semel migrate\``;
  }
  return `The SQLite database refused a statement: ${message}`;
}

function isClosed(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  return (
    ("code" in error && error.code === "ERR_INVALID_STATE") ||
    error.message.includes("database connection is not open")
  );
}

function resultCode(error: unknown): string | undefined {
  if (typeof error !== "object" || error === null) return undefined;
  const { errcode, rawCode, code } = error as Record<"errcode" | "rawCode" | "code", unknown>;
  const extended = errcode ?? rawCode;
  // The low byte of an extended code is the primary one.
  if (typeof extended === "number") return RESULT_CODES[extended & 0xff] ?? "SQLITE_UNKNOWN";
  return typeof code === "string" ? /^SQLITE_[A-Z]+/.exec(code)?.[0] : undefined;
}
