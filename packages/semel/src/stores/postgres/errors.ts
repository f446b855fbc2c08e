// What an error of Postgres or of its drivers means, and what to do about it.

import {
  isSemelError,
  type SemelError,
  StoreFull,
  StoreUnavailable,
  StoreUnusable,
} from "../../errors.ts";
import { isOfOthers } from "../transactions.ts";

const LOCK_TIMEOUT = "55P03";
/** What a function of the store fails with where a record is in the way. */
export const STALE = "SEMEL";
/** And where the transaction is another one than it was told. */
export const ENDED = "SEME0";

/**
 * The contract's error for whatever a driver rejects with, which is kept as its cause. Codes are
 * those of Postgres (SQLSTATE), of the system, or of postgres.js.
 */
export function storeError(error: unknown): SemelError {
  if (isSemelError(error)) return error;
  const options = { cause: error };
  const message = error instanceof Error ? error.message : String(error);
  if (isClosed(error)) {
    return new StoreUnusable(
      "The Postgres client was closed; keep it open until `idempotency.close()` has resolved",
      options,
    );
  }
  const code = codeOf(error);
  if (code === ENDED) return endedByHandler(options);
  if (isAborted(error)) return nothingCommitted(error);
  const remedy = REMEDIES[code] ?? REMEDIES[code.slice(0, 2)];
  if (remedy !== undefined) return new StoreUnusable(`${remedy} (${message})`, options);
  if (code === "53100") {
    return new StoreFull("The Postgres server cannot grow: its disk is full", options);
  }
  if (code.startsWith("54")) {
    return new StoreFull(`The record is larger than Postgres allows: ${message}`, options);
  }
  if (code === LOCK_TIMEOUT) {
    const held = "Another transaction that is still open has this record; ask again";
    return new StoreUnavailable(held, options);
  }
  if (isOfItem(error)) {
    return new StoreUnusable(`Postgres refused the record: ${message}`, options);
  }
  return new StoreUnavailable(`Postgres could not be asked: ${message}`, options);
}

/** What an administrator has to do, by code or by the code's class. */
const REMEDIES: Record<string, string> = {
  "42P01":
    "The Postgres tables are not there; call `await store.migrate()`, or run `semel migrate`",
  "42703":
    "The Postgres tables lack what this version keeps; call `await store.migrate()`, or run `semel migrate`",
  "42501":
    "The Postgres role lacks a permission; grant it SELECT, INSERT, UPDATE and DELETE on the tables; to migrate it must own them, and have CREATE on their schema",
  "25006":
    "The Postgres server takes no writes: it is a replica, or `default_transaction_read_only` is on; give Semel a client of the primary",
  "3F000": "The Postgres schema does not exist; create it, or name another",
  "3D000": "The Postgres database does not exist; create it, or name another",
  "28": "Postgres refused to let the client in; check its role and password",
  "42": "Postgres refused a statement",
  "0A": "Postgres does not support a statement; Semel needs version 12 or newer",
  XX001: "The Postgres database is damaged; restore it from a backup",
  XX002: "An index of the Postgres database is damaged; rebuild it with REINDEX",
};

/** A record was to be written into a transaction that is no longer the one that Semel began. */
export function endedByHandler(options?: ErrorOptions): StoreUnusable {
  return new StoreUnusable(
    "The handler's transaction was ended before its result was recorded, by a statement that commits or rolls back, such as those of a query builder's own transactions; leave the end to Semel, and use savepoints",
    options,
  );
}

/** The handler went on after a statement had failed, and Postgres then rolls back. */
export function nothingCommitted(cause?: unknown): StoreUnusable {
  return new StoreUnusable(
    "Nothing was committed: a statement of the transaction had failed, and its error was caught; let it through, or use a savepoint",
    { cause },
  );
}

/** A statement of the transaction had failed: it takes no more, and will be rolled back. */
export function isAborted(error: unknown): boolean {
  return codeOf(error) === "25P02";
}

export function isStale(error: unknown): boolean {
  return codeOf(error) === STALE;
}

/** A constraint or a trigger (classes 23 and P0), which may be one of the user's that was deferred. */
export function isOfConstraint(error: unknown): boolean {
  return /^(23|P0)/.test(codeOf(error));
}

/** The same again may succeed: nothing was written, because others were in the way. */
export function isConflict(error: unknown): boolean {
  const code = codeOf(error);
  return code === "40001" || code === "40P01";
}

export function isMissingTable(error: unknown): boolean {
  return codeOf(error) === "42P01";
}

/** A function that was there is there no more. */
export function isMissingFunction(error: unknown): boolean {
  return codeOf(error) === "42883";
}

/**
 * The database does not take a definition: not supported (class 0A), not understood or not allowed
 * (42), or made by another at the same moment (23, XX000).
 */
export function isRefusal(error: unknown): boolean {
  return /^(0A|42|23|XX000)/.test(codeOf(error));
}

/** Whether a transaction that failed with it may be tried again from its start. */
export function isRetryable(error: unknown): boolean {
  if (isConflict(error)) return true;
  return (
    !isOfOthers(error) && !isClosed(error) && (isConnectionLost(codeOf(error)) || isBrokenPg(error))
  );
}

function isConnectionLost(code: string): boolean {
  return (
    code.startsWith("08") ||
    // Shut down by an administrator, crashed, or starting up.
    ["57P01", "57P02", "57P03"].includes(code) ||
    ["ECONNRESET", "ECONNREFUSED", "ECONNABORTED", "EPIPE", "ETIMEDOUT", "ENOENT"].includes(code) ||
    ["CONNECTION_CLOSED", "CONNECTION_DESTROYED", "CONNECT_TIMEOUT"].includes(code)
  );
}

/** `pg` gives its own errors no codes. */
function isBrokenPg(error: unknown): boolean {
  return (
    error instanceof Error &&
    /^(Connection terminated|timeout exceeded when trying to connect|Client has encountered a connection error)/.test(
      error.message,
    )
  );
}

function isClosed(error: unknown): boolean {
  if (codeOf(error) === "CONNECTION_ENDED") return true;
  return error instanceof Error && error.message.includes("after calling end on the pool");
}

/**
 * One item of a batch is to blame, and no other need fail with it: a value that its column does not
 * take (class 22), a constraint or trigger (23, P0), a size (54), a record that another transaction
 * has, or a value that the driver cannot send.
 */
export function isOfItem(error: unknown): boolean {
  const code = codeOf(error);
  if (/^(22|23|54|P0)/.test(code) || code === LOCK_TIMEOUT) return true;
  return error instanceof RangeError || error instanceof TypeError;
}

function codeOf(error: unknown): string {
  const code = (error as { code?: unknown } | null | undefined)?.code;
  return typeof code === "string" ? code : "";
}
