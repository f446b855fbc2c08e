// The user's own SQLite connection, with what differs between drivers evened out, and with patience
// for the locks of other processes.

import { setTimeout as delay } from "node:timers/promises";
import { StoreUnavailable } from "../../errors.ts";
import { closedError, isBusy, isFull, isOfStatement, storeError } from "./errors.ts";

export type SqliteValue = string | number | null | Uint8Array;

export interface SqliteStatement {
  run(...parameters: SqliteValue[]): { changes: number | bigint };
  all(...parameters: SqliteValue[]): unknown[];
}

/**
 * What Semel needs of a SQLite client. `DatabaseSync` of `node:sqlite`, `libsql` and
 * `better-sqlite3` have this shape.
 */
export interface SqliteDatabase {
  exec(sql: string): unknown;
  prepare(sql: string): SqliteStatement;
}

/** A whole number as read: a `bigint` where the connection was opened to read them so. */
export type SqliteInteger = number | bigint;

/**
 * How long SQLite itself may wait for a lock. It blocks the event loop, and it is unfair between
 * processes; the rest of the patience is asynchronous.
 */
const BLOCKING_WAIT_MS = 5;
const PAUSE_MS_MAX = 25;

/** A view of memory that exists: `node:sqlite` in Node 22 takes an empty array without any for NULL. */
const EMPTY_BLOB = new Uint8Array(1).subarray(1);

/** Bytes as a parameter. */
export function blob(bytes: Uint8Array): Uint8Array {
  return bytes.byteLength === 0 ? EMPTY_BLOB : bytes;
}

export class SqliteConnection {
  readonly #database: SqliteDatabase;
  readonly #synchronous: "full" | "normal";
  readonly #busyTimeoutMs: number;
  readonly #statements = new Map<string, SqliteStatement>();

  constructor(
    database: SqliteDatabase,
    options: { synchronous: "full" | "normal"; busyTimeoutMs: number },
  ) {
    this.#database = database;
    this.#synchronous = options.synchronous;
    this.#busyTimeoutMs = options.busyTimeoutMs;
  }

  /** What a connection has to be told, because the database does not remember it. */
  configure(): void {
    this.exec(`PRAGMA busy_timeout = ${BLOCKING_WAIT_MS}`);
    this.exec(`PRAGMA synchronous = ${this.#synchronous}`);
  }

  /** The path of the database's file; empty when it is in memory. */
  file(): string {
    const [main] = this.rows<{ file: string | null }>(
      "SELECT file FROM pragma_database_list WHERE name = 'main'",
    );
    return main?.file ?? "";
  }

  exec(sql: string): void {
    this.#database.exec(sql);
  }

  /** Runs a statement that returns no rows. @returns how many rows it changed */
  run(sql: string, ...parameters: SqliteValue[]): number {
    return Number(this.#statement(sql).run(...parameters).changes);
  }

  /** Every row: a statement that stops at its first would, in libsql, stay open and keep its lock. */
  rows<Row>(sql: string, ...parameters: SqliteValue[]): Row[] {
    return this.#statement(sql).all(...parameters) as Row[];
  }

  #statement(sql: string): SqliteStatement {
    // libsql and better-sqlite3 have `open`; in libsql, prepared statements outlive the connection.
    if ((this.#database as { open?: unknown }).open === false) throw closedError();
    let statement = this.#statements.get(sql);
    if (statement === undefined) {
      statement = this.#database.prepare(sql);
      this.#statements.set(sql, statement);
    }
    return statement;
  }

  /**
   * Runs work in one transaction, which takes the write lock at once: a lock taken halfway could
   * only fail, because what was read before it may be outdated.
   */
  transaction<Result>(work: () => Result): Result {
    this.exec("BEGIN IMMEDIATE");
    let result: Result;
    try {
      result = work();
    } catch (error) {
      this.rollback();
      throw error;
    }
    try {
      this.exec("COMMIT");
    } catch (error) {
      this.rollback();
      if (isBusy(error) || isFull(error)) throw error;
      throw new StoreUnavailable("The SQLite database failed to commit; the outcome is unknown", {
        cause: error,
      });
    }
    return result;
  }

  /** Never throws. */
  rollback(): void {
    try {
      this.exec("ROLLBACK");
    } catch {
      // SQLite has already rolled back by itself, or the connection is gone, and with it the
      // transaction. The error that brought us here says why.
    }
  }

  /** Whether an error within a transaction left that transaction as it was before the statement. */
  survives(error: unknown): boolean {
    return isOfStatement(error) && this.isInTransaction();
  }

  /** Drivers do not agree on how to ask: a `BEGIN` is refused inside a transaction. */
  isInTransaction(): boolean {
    try {
      this.exec("BEGIN");
    } catch {
      return true;
    }
    this.exec("ROLLBACK");
    return false;
  }

  /**
   * Does work, again and again while other connections hold the locks it needs, until
   * `busyTimeout`. The event loop is free in between.
   *
   * @param since when the wait began, by `performance.now()`
   * @throws {SemelError} the contract's error for whatever the driver throws
   */
  async patiently<Result>(work: () => Result, since = performance.now()): Promise<Result> {
    for (let pauseMs = 2; ; pauseMs = Math.min(2 * pauseMs, PAUSE_MS_MAX)) {
      try {
        return work();
      } catch (error) {
        const isOver = performance.now() - since >= this.#busyTimeoutMs;
        if (isOver || !isBusy(error)) throw storeError(error);
      }
      // This timer keeps the process alive, unlike others, because a caller awaits the answer; it
      // is short and bounded. The jitter keeps processes from retrying in step.
      await delay(Math.random() * pauseMs);
    }
  }
}
