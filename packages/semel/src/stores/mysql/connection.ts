// The user's own pool of connections, asked one statement at a time: each is a transaction of its
// own, no session keeps anything, and a statement that lost a deadlock is sent again.

import { setTimeout as delay } from "node:timers/promises";
import { StoreUnavailable, StoreUnusable } from "../../errors.ts";
import type { SqlExecutor } from "../../store.ts";
import { isAnswered, isContended, storeError } from "./errors.ts";

/** A statement as Semel sends it; the options undo what a pool may be set to. */
export interface MysqlQuery {
  sql: string;
  rowsAsArray: boolean;
  nestTables: boolean;
  namedPlaceholders: boolean;
  typeCast: boolean;
}

/** What Semel needs of a connection that `mysql2/promise` hands out. */
export interface MysqlConnection {
  query(query: MysqlQuery, values?: unknown[]): Promise<readonly [unknown, unknown]>;
  release(): void;
  destroy(): void;
}

/** What Semel needs of a pool: that of `mysql2/promise` has this shape. */
export interface MysqlPool<Connection extends MysqlConnection = MysqlConnection> {
  query(query: MysqlQuery): Promise<readonly [unknown, unknown]>;
  getConnection(): Promise<Connection>;
}

/** A pool of `mysql2` without `/promise`. */
export interface MysqlCallbackPool<Connection extends MysqlConnection = MysqlConnection> {
  promise(): MysqlPool<Connection>;
}

/** Runs statements, in a transaction each or within one that somebody opened. */
export interface StatementRunner {
  rows<Row>(sql: string): Promise<readonly Row[]>;
  /** @returns how many rows were changed, or only found where the client counts those */
  change(sql: string): Promise<number>;
}

/** How the answer to a write reads in `mysql2`. */
interface ResultHeader {
  affectedRows: number;
  serverStatus?: number;
}

/** A bit of `serverStatus`: a transaction is open. */
const SERVER_STATUS_IN_TRANS = 1;
const PAUSE_MS_MAX = 100;

/** A statement for a connection, whatever the pool is set to. */
export function queryOf(sql: string): MysqlQuery {
  return { sql, rowsAsArray: false, nestTables: false, namedPlaceholders: false, typeCast: true };
}

export class MysqlStatements implements StatementRunner {
  readonly #pool: MysqlPool;
  readonly #queryTimeoutMs: number;
  readonly #lockTimeoutMs: number;

  constructor(pool: MysqlPool, options: { queryTimeoutMs: number; lockTimeoutMs: number }) {
    this.#pool = pool;
    this.#queryTimeoutMs = options.queryTimeoutMs;
    this.#lockTimeoutMs = options.lockTimeoutMs;
  }

  async rows<Row>(sql: string): Promise<readonly Row[]> {
    return (await this.#patiently(sql)) as Row[];
  }

  async change(sql: string): Promise<number> {
    const header = (await this.#patiently(sql)) as ResultHeader;
    if ((header.serverStatus ?? 0) & SERVER_STATUS_IN_TRANS) throw transactionLeftOpen();
    return header.affectedRows;
  }

  /**
   * Sends a statement, and sends it again while it loses deadlocks, until `lockTimeout`: the server
   * has undone it as a whole each time.
   *
   * @throws {SemelError} the contract's error for whatever the driver throws
   */
  async #patiently(sql: string): Promise<unknown> {
    const since = performance.now();
    for (let pauseMs = 5; ; pauseMs = Math.min(2 * pauseMs, PAUSE_MS_MAX)) {
      try {
        return await this.#once(sql);
      } catch (error) {
        const isOver = performance.now() - since >= this.#lockTimeoutMs;
        if (isOver || !isContended(error)) throw storeError(error);
      }
      // This timer keeps the process alive, unlike others, because a caller awaits the answer; it
      // is short and bounded. The jitter keeps processes from meeting again.
      await delay(Math.random() * pauseMs);
    }
  }

  /** A connection that stays silent is given up: the pool would keep it, and wait for it for ever. */
  async #once(sql: string): Promise<unknown> {
    const since = performance.now();
    const connection = await connectionOf(this.#pool, this.#queryTimeoutMs);
    let isUsable = true;
    try {
      const leftMs = Math.max(1, this.#queryTimeoutMs - (performance.now() - since));
      const [result] = await within(connection.query(queryOf(sql)), leftMs);
      return result;
    } catch (error) {
      isUsable = isAnswered(error);
      throw error;
    } finally {
      if (isUsable) connection.release();
      else connection.destroy();
    }
  }
}

/**
 * A connection of the pool; one that comes too late goes back to it.
 *
 * @throws {StoreUnavailable}
 */
export async function connectionOf<Connection extends MysqlConnection>(
  pool: MysqlPool<Connection>,
  timeoutMs: number,
): Promise<Connection> {
  const connecting = pool.getConnection();
  try {
    return await within(connecting, timeoutMs);
  } catch (error) {
    connecting.then(
      (connection) => connection.release(),
      () => {},
    );
    throw error;
  }
}

/** Statements within a transaction that somebody opened; errors are the executor's own. */
export function statementsOf(executor: SqlExecutor): StatementRunner {
  return {
    rows: async <Row>(sql: string) => (await executor.query(sql, [])).rows as readonly Row[],
    change: async (sql) => (await executor.query(sql, [])).changes,
  };
}

/** Whether a transaction is open on a connection. */
export async function isInTransaction(
  connection: MysqlConnection,
  timeoutMs: number,
): Promise<boolean> {
  const [header] = await within(connection.query(queryOf("DO 0")), timeoutMs);
  return ((header as ResultHeader).serverStatus ?? 0) % 2 === SERVER_STATUS_IN_TRANS;
}

/** An executor on a connection; a statement without an answer in time is given up. */
export function executorOn(connection: MysqlConnection, timeoutMs: number): SqlExecutor {
  return {
    dialect: "mysql",
    async query(sql, parameters) {
      const asked = connection.query(queryOf(sql), [...parameters]);
      const [result] = await within(asked, timeoutMs);
      if (Array.isArray(result)) return { rows: result, changes: 0 };
      return { rows: [], changes: (result as ResultHeader).affectedRows };
    },
  };
}

/**
 * The promise's outcome, unless it takes too long: then nobody knows what becomes of the statement.
 *
 * @throws {StoreUnavailable}
 */
export function within<Result>(promise: Promise<Result>, timeoutMs: number): Promise<Result> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      reject(
        new StoreUnavailable(`The MySQL server did not answer within ${timeoutMs} ms`, {
          cause: new Error("`queryTimeout` has passed"),
        }),
      );
    }, timeoutMs);
    timer.unref();
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

function transactionLeftOpen(): StoreUnusable {
  const message =
    "A connection of the MySQL pool is inside a transaction, so that what was written may yet be undone; leave `autocommit` on, and roll back or commit before you release a connection";
  return new StoreUnusable(message, { cause: new Error("SERVER_STATUS_IN_TRANS is set") });
}
