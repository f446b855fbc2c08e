// What an error of `mysql2` means. The server's errors have a number (dev.mysql.com/doc/mysql-errors,
// mariadb.com/kb/en/mariadb-error-codes), those of the connection a `code`, those of the pool neither.

import {
  isSemelError,
  type SemelError,
  StoreFull,
  StoreUnavailable,
  StoreUnusable,
} from "../../errors.ts";
import { isOfOthers } from "../transactions.ts";

/** What one error number says about the store. */
type Meaning =
  | "contended"
  | "full"
  | "lost"
  | "not-migrated"
  | "no-database"
  | "permission"
  | "read-only"
  | "refused"
  | "unusable";

const MEANINGS: ReadonlyMap<number, Meaning> = new Map<number, Meaning>([
  [1213, "contended"], // ER_LOCK_DEADLOCK
  [1205, "contended"], // ER_LOCK_WAIT_TIMEOUT
  [1020, "contended"], // ER_CHECKREAD: MariaDB with innodb_snapshot_isolation
  [1021, "full"], // ER_DISK_FULL
  [1114, "full"], // ER_RECORD_FILE_FULL: the table or its disk
  [1118, "full"], // ER_TOO_BIG_ROWSIZE: the redo log is too small for the result
  [1153, "full"], // ER_NET_PACKET_TOO_LARGE
  [1053, "lost"], // ER_SERVER_SHUTDOWN
  [1077, "lost"], // ER_NORMAL_SHUTDOWN
  [1317, "lost"], // ER_QUERY_INTERRUPTED
  [1927, "lost"], // ER_CONNECTION_KILLED
  [4031, "lost"], // ER_CLIENT_INTERACTION_TIMEOUT
  [1054, "not-migrated"], // ER_BAD_FIELD_ERROR
  [1146, "not-migrated"], // ER_NO_SUCH_TABLE
  [1046, "no-database"], // ER_NO_DB_ERROR
  [1049, "no-database"], // ER_BAD_DB_ERROR
  [1044, "permission"], // ER_DBACCESS_DENIED_ERROR
  [1045, "permission"], // ER_ACCESS_DENIED_ERROR
  [1142, "permission"], // ER_TABLEACCESS_DENIED_ERROR
  [1143, "permission"], // ER_COLUMNACCESS_DENIED_ERROR
  [1227, "permission"], // ER_SPECIFIC_ACCESS_DENIED_ERROR
  [1698, "permission"], // ER_ACCESS_DENIED_NO_PASSWORD_ERROR
  [1290, "read-only"], // ER_OPTION_PREVENTS_STATEMENT
  [1792, "read-only"], // ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION
  [1836, "read-only"], // ER_READ_ONLY_MODE
  [1048, "refused"], // ER_BAD_NULL_ERROR
  [1062, "refused"], // ER_DUP_ENTRY
  [1264, "refused"], // ER_WARN_DATA_OUT_OF_RANGE
  [1366, "refused"], // ER_TRUNCATED_WRONG_VALUE_FOR_FIELD
  [1406, "refused"], // ER_DATA_TOO_LONG
  [1644, "refused"], // ER_SIGNAL_EXCEPTION: a trigger of the user's
  [3819, "refused"], // ER_CHECK_CONSTRAINT_VIOLATED
  [4025, "refused"], // ER_CONSTRAINT_FAILED (MariaDB)
  [1064, "unusable"], // ER_PARSE_ERROR
  [1175, "unusable"], // ER_UPDATE_WITHOUT_KEY_IN_SAFE_MODE
  [1665, "unusable"], // ER_BINLOG_STMT_MODE_AND_ROW_ENGINE
]);

const LOST_CODES: readonly unknown[] = [
  "PROTOCOL_CONNECTION_LOST",
  "PROTOCOL_SEQUENCE_TIMEOUT",
  "ECONNRESET",
  "ECONNREFUSED",
  "ECONNABORTED",
  "EPIPE",
  "ETIMEDOUT",
  "ENOENT",
];

interface DriverError {
  errno?: unknown;
  code?: unknown;
  message?: unknown;
  fatal?: unknown;
}

function meaningOf(error: unknown): Meaning | undefined {
  if (typeof error !== "object" || error === null) return undefined;
  const { errno, code, message, fatal } = error as DriverError;
  if (LOST_CODES.includes(code)) return "lost";
  // A command for a connection that has been lost before has neither.
  if (typeof errno !== "number") return fatal === true ? "lost" : undefined;
  // ER_GET_ERRNO and ER_ERROR_ON_WRITE name the operating system's ENOSPC within their text.
  if ([3, 1026, 1030].includes(errno) && /\b28\b/.test(String(message))) return "full";
  return MEANINGS.get(errno);
}

/** A column that was to be added is there (ER_DUP_FIELDNAME), whoever wrapped that. */
export function isThereAlready(error: unknown): boolean {
  const { errno, cause } = (error ?? {}) as DriverError & { cause?: DriverError };
  return (errno ?? cause?.errno) === 1060;
}

/** The statement was undone because others had its rows: the same may succeed later. */
export function isContended(error: unknown): boolean {
  return meaningOf(error) === "contended";
}

/**
 * The server said so, and its connection can serve others. One to a server that takes no writes is
 * better made anew: after a failover it leads to the primary.
 */
export function isAnswered(error: unknown): boolean {
  const meaning = meaningOf(error);
  const { errno } = (error ?? {}) as DriverError;
  return typeof errno === "number" && meaning !== "lost" && meaning !== "read-only";
}

/** The statement was undone because of one of its items: the others may succeed without it. */
export function isOfItem(error: unknown): boolean {
  if (!isSemelError(error)) return false;
  return error.code === "store-full" || meaningOf(error.cause) === "refused";
}

/** The connection is gone or there was none, or a statement lost a deadlock, whoever wrapped that. */
export function isRetryable(error: unknown): boolean {
  for (let depth = 0, inner = error; inner instanceof Error && depth < 8; depth++) {
    const meaning = meaningOf(inner);
    if (meaning === "contended" || (meaning === "lost" && !isOfOthers(inner))) return true;
    const { driverError, cause } = inner as { driverError?: unknown; cause?: unknown };
    inner = driverError ?? cause;
  }
  return false;
}

/** The error of the contract that says what to do about a driver's; the driver's is its cause. */
export function storeError(error: unknown): SemelError {
  if (isSemelError(error)) return error;
  const options = { cause: error };
  const message = error instanceof Error ? error.message : String(error);
  if (message === "Pool is closed.") {
    return new StoreUnusable(
      "The MySQL pool was ended; end it after `idempotency.close()` has resolved",
      options,
    );
  }
  switch (meaningOf(error)) {
    case "contended":
      return new StoreUnavailable(
        "Other transactions kept the MySQL rows locked for longer than `lockTimeout`",
        options,
      );
    case "full":
      return new StoreFull(`The MySQL server has no room for the record: ${message}`, options);
    case "not-migrated":
      return new StoreUnusable(
        `The MySQL database lacks what this version keeps (${message}); call \`await store.migrate()\`, or run \`semel migrate\``,
        options,
      );
    case "no-database":
      return new StoreUnusable(
        `The MySQL pool names no database that exists (${message}); set \`database\` where the pool is made`,
        options,
      );
    case "permission":
      return new StoreUnusable(
        `The MySQL user lacks a permission (${message}); it needs SELECT, INSERT, UPDATE and DELETE on Semel's tables, and CREATE and ALTER to migrate`,
        options,
      );
    case "read-only":
      return new StoreUnusable(
        `The MySQL server is read-only (${message}); let the pool connect to the primary`,
        options,
      );
    case "refused":
      return new StoreUnusable(`The MySQL database refused a record: ${message}`, options);
    case "unusable":
      return new StoreUnusable(`The MySQL server refused a statement: ${message}`, options);
    case "lost":
      return new StoreUnavailable(`The MySQL server cannot be reached: ${message}`, options);
    case undefined:
      return new StoreUnavailable(`The MySQL server failed: ${message}`, options);
  }
}
