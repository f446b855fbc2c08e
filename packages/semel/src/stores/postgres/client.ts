// The user's own Postgres client, with what differs between `pg` and postgres.js evened out. Types are
// structural: nothing here imports a driver.

import { createHash } from "node:crypto";
import { setImmediate as nextTurn } from "node:timers/promises";
import { StoreUnavailable } from "../../errors.ts";
import { assertMethods } from "../../options.ts";
import type { SqlExecutor, SqlResult, SqlValue } from "../../store.ts";
import { noteOthers } from "../transactions.ts";
import { endedByHandler, isAborted, nothingCommitted } from "./errors.ts";

/** What Semel needs of a client that `pg.Pool` hands out. */
export interface PgPoolClient {
  query(query: PgQuery | string): Promise<PgResult>;
  on(event: "error" | "end" | "notification", listener: (event: PgEvent) => void): unknown;
  removeListener(event: string, listener: (event: PgEvent) => void): unknown;
  release(error?: Error | boolean): void;
}

/** What a client of `pg` says of an error or a notification. */
export interface PgEvent {
  readonly message?: string;
  readonly payload?: string | undefined;
}

export interface PgQuery {
  text: string;
  values?: SqlValue[];
  name?: string;
}

export interface PgResult {
  rows: Record<string, unknown>[];
  rowCount: number | null;
  command: string;
}

/** What Semel needs of a pool of `pg`: `new pg.Pool()` has this shape. */
export interface PgPool {
  query(query: PgQuery | string): Promise<PgResult>;
  connect(): Promise<PgPoolClient>;
  readonly options?: { readonly max?: number | undefined };
}

/** What Semel needs of a transaction of postgres.js. */
export interface PostgresJsTransaction {
  unsafe(
    query: string,
    parameters?: (string | number | null)[],
    options?: { prepare?: boolean },
  ): PromiseLike<PostgresJsRows>;
}

/** What Semel needs of postgres.js: what `postgres()` returns has this shape. */
export interface PostgresJs extends PostgresJsTransaction {
  begin<Answer>(work: (transaction: PostgresJsTransaction) => Promise<Answer>): Promise<unknown>;
  listen(
    channel: string,
    onNotify: (payload: string) => void,
    onListen?: () => void,
  ): PromiseLike<{ unlisten(): Promise<unknown> }>;
  readonly options: { readonly max: number };
}

export interface PostgresJsRows extends Iterable<unknown> {
  readonly count: number;
}

/** What a handler of `transaction()` is given: the driver's own client within the transaction. */
export type TransactionOf<Client> = Client extends {
  // `begin` and `connect` are overloaded in the drivers' types, and both overloads have to be named.
  begin: {
    (work: (transaction: infer Transaction) => infer _One): unknown;
    (options: string, work: (transaction: infer _Other) => infer _Two): unknown;
  };
}
  ? Transaction
  : Client extends {
        connect: { (): Promise<infer Transaction>; (callback: infer _Callback): unknown };
      }
    ? Transaction
    : Client extends { connect(): Promise<infer Transaction> }
      ? Transaction
      : unknown;

/** Where notifications of a channel come from. */
export interface Listener {
  onNotify(payload: string): void;
  /** The connection is there, or is there again: what was sent before may have been missed. */
  onListen(): void;
  /** The connection is lost, and will not come back by itself. */
  onLost(): void;
}

/** On a transaction that the client began. */
export interface TransactionExecutor extends SqlExecutor {
  /** What {@link MARK} is set to in it, and nowhere else. */
  readonly mark: string;
  /**
   * Sends a statement without parameters and the COMMIT in one message, where the driver can. Should
   * the statement fail, nothing is committed.
   */
  commitWith?(sql: string): Promise<void>;
}

/**
 * A setting that is local to a transaction, and gone once that has ended: what tells Semel's own from
 * one that a handler began after it.
 */
const MARK = "semel.transaction";

let transactionsBegun = 0;

/** An SQL condition: whether this is another transaction than that with this mark, if it is one. */
export function isNotMarked(mark: string): string {
  return `${mark} <> coalesce(current_setting('${MARK}', true), '')`;
}

function marking(mark: string): string {
  return `SET LOCAL ${MARK} TO '${mark}'`;
}

/** Asks for the mark of the transaction that is open. */
const MARK_ASKED = `SELECT current_setting('${MARK}', true) AS mark`;

/** A client, whichever driver it is of. */
export interface PostgresClient {
  /** How many connections it may have; `undefined` when it does not say. */
  readonly connectionsMax: number | undefined;
  query(sql: string, parameters?: readonly SqlValue[]): Promise<SqlResult>;
  /** Runs statements without parameters as one transaction. */
  script(sql: string): Promise<void>;
  transaction<Answer>(
    work: (transaction: unknown, executor: TransactionExecutor) => Promise<Answer>,
  ): Promise<Answer>;
  /** Receives notifications until the function that it gives is called. */
  listen(channel: string, listener: Listener): Promise<() => Promise<void>>;
}

/**
 * @param prepare whether statements may be prepared by name, and so outlive their transaction
 * @throws {InvalidOption} when it is neither of the two
 */
export function postgresClient(client: PgPool | PostgresJs, prepare: boolean): PostgresClient {
  const isPostgresJs = typeof (client as { unsafe?: unknown } | null)?.unsafe === "function";
  if (isPostgresJs) {
    assertMethods(client, "sql", ["unsafe", "begin", "listen"]);
    return new PostgresJsClient(client as PostgresJs, prepare);
  }
  assertMethods(client, "pool", ["query", "connect"]);
  return new PgClient(client as PgPool, prepare);
}

class PgClient implements PostgresClient {
  readonly #pool: PgPool;
  readonly #named: boolean;
  readonly #names = new Map<string, string>();

  constructor(pool: PgPool, named: boolean) {
    this.#pool = pool;
    this.#named = named;
  }

  get connectionsMax(): number | undefined {
    return this.#pool.options?.max;
  }

  async query(sql: string, parameters: readonly SqlValue[] = []): Promise<SqlResult> {
    return resultOf(await this.#pool.query(this.#queryOf(sql, parameters)));
  }

  /** Without values it is sent as a simple query, whose statements share a transaction. */
  async script(sql: string): Promise<void> {
    await this.#pool.query(sql);
  }

  async transaction<Answer>(
    work: (transaction: unknown, executor: TransactionExecutor) => Promise<Answer>,
  ): Promise<Answer> {
    const client = await this.#pool.connect();
    let isBroken = false;
    const onError = () => {
      isBroken = true;
      return false;
    };
    // A connection that breaks while it is idle says so by an event, which ends a process that
    // does not listen.
    client.on("error", onError);
    let isOver = false;
    const mark = String(++transactionsBegun);
    const executor: TransactionExecutor = {
      dialect: "postgres",
      mark,
      query: async (sql, parameters) =>
        resultOf(await client.query(this.#queryOf(sql, parameters))),
      async commitWith(sql) {
        isOver = true;
        await commit(client, `${sql};COMMIT`);
      },
    };
    try {
      await client.query(`BEGIN;${marking(mark)}`);
      const answer = await work(client, executor);
      if (!isOver) assertMark(await commit(client, `${MARK_ASKED};COMMIT`), mark);
      return answer;
    } catch (error) {
      // After a failed COMMIT there is nothing left to roll back, and this does nothing.
      const isWell = await client.query("ROLLBACK").then(() => true, onError);
      if (isWell) noteOthers(error);
      throw error;
    } finally {
      client.removeListener("error", onError);
      client.release(isBroken);
    }
  }

  async listen(channel: string, { onNotify, onListen, onLost }: Listener) {
    const client = await this.#pool.connect();
    let isLost = false;
    const onEnd = () => {
      isLost = true;
      onLost();
    };
    const onNotification = ({ payload }: PgEvent) => onNotify(payload ?? "");
    const forget = () => {
      client.removeListener("error", onEnd);
      client.removeListener("end", onEnd);
      client.removeListener("notification", onNotification);
    };
    client.on("error", onEnd);
    client.on("end", onEnd);
    client.on("notification", onNotification);
    try {
      await client.query(`LISTEN ${quoted(channel)}`);
    } catch (error) {
      forget();
      client.release(true);
      throw error;
    }
    onListen();
    return async () => {
      // Whoever gets this connection next must not be told what it did not ask for.
      const isClean =
        !isLost &&
        (await client.query("UNLISTEN *").then(
          () => true,
          () => false,
        ));
      forget();
      client.release(!isClean);
    };
  }

  #queryOf(text: string, parameters: readonly SqlValue[]): PgQuery {
    const values = [...parameters];
    if (!this.#named) return { text, values };
    let name = this.#names.get(text);
    if (name === undefined) {
      name = `semel_${createHash("sha256").update(text).digest("hex").slice(0, 24)}`;
      this.#names.set(text, name);
    }
    return { text, values, name };
  }
}

class PostgresJsClient implements PostgresClient {
  readonly #sql: PostgresJs;
  readonly #options: { prepare: boolean };

  constructor(sql: PostgresJs, prepare: boolean) {
    this.#sql = sql;
    this.#options = { prepare };
  }

  get connectionsMax(): number | undefined {
    return this.#sql.options?.max;
  }

  query(sql: string, parameters: readonly SqlValue[] = []): Promise<SqlResult> {
    return this.#queryOn(this.#sql, sql, parameters);
  }

  async script(sql: string): Promise<void> {
    await this.#sql.unsafe(sql);
  }

  async transaction<Answer>(
    work: (transaction: unknown, executor: TransactionExecutor) => Promise<Answer>,
  ): Promise<Answer> {
    // The driver ends the transaction when its connection is lost, but not the work. A statement on
    // that connection, even its own ROLLBACK, would then throw where nobody catches it, and end the
    // process: so that no more are sent, and work that outlives its transaction never ends for it.
    let isLost = false;
    const mark = String(++transactionsBegun);
    let marked: Promise<SqlResult> | undefined;
    let failure: { error: unknown } | undefined;
    const noted = (error: unknown): never => {
      failure = { error };
      throw error;
    };
    const answered = this.#sql.begin(async (transaction) => {
      // Not waited for: the driver sends one behind the other.
      this.#queryOn(transaction, marking(mark), []).catch(ignore);
      const executor: TransactionExecutor = {
        dialect: "postgres",
        mark,
        query: async (sql, parameters) => {
          if (isLost) throw new ConnectionLost();
          try {
            return await this.#queryOn(transaction, sql, parameters);
          } catch (error) {
            await nextTurn(); // by when a lost connection is known as such
            throw error;
          }
        },
      };
      try {
        // In an object, because postgres.js takes an array for a list of queries.
        const made = { answer: await work(transaction, executor).catch(noted) };
        marked = this.#queryOn(transaction, MARK_ASKED, []);
        marked.catch(ignore);
        return made;
      } finally {
        await nextTurn();
        if (isLost) await new Promise(() => {});
      }
    });
    try {
      const { answer } = (await answered) as { answer: Answer };
      assertMark(await asked(marked!), mark);
      return answer;
    } catch (error) {
      // The driver has rolled back for it; a lost connection it tells of by itself.
      if (failure?.error === error) noteOthers(error);
      throw error;
    } finally {
      isLost = true;
    }
  }

  /** It has a connection of its own for this, and reconnects by itself. */
  async listen(channel: string, { onNotify, onListen }: Listener) {
    const { unlisten } = await this.#sql.listen(channel, onNotify, onListen);
    return async () => {
      await unlisten();
    };
  }

  async #queryOn(
    sql: PostgresJsTransaction,
    text: string,
    parameters: readonly SqlValue[],
  ): Promise<SqlResult> {
    const rows = await sql.unsafe(text, [...parameters] as string[], this.#options);
    return { rows: [...rows] as Record<string, unknown>[], changes: rows.count };
  }
}

/**
 * @param sql of which the last statement is a COMMIT
 * @returns what the first one answered
 */
async function commit(client: PgPoolClient, sql: string): Promise<PgResult | undefined> {
  const result: PgResult | PgResult[] = await asked(client.query(sql)).catch((error: unknown) => {
    throw isTimeout(error) ? new CommitUnanswered(error) : error;
  });
  const results = Array.isArray(result) ? result : [result];
  if (results.at(-1)?.command === "ROLLBACK") throw nothingCommitted();
  return results[0];
}

/** Says of a transaction that takes no more statements what became of it. */
async function asked<Answer>(answer: Promise<Answer>): Promise<Answer> {
  try {
    return await answer;
  } catch (error) {
    throw isAborted(error) ? nothingCommitted(error) : error;
  }
}

/** @throws when that transaction was ended by somebody else, and this is another, or none */
function assertMark(result: Pick<SqlResult, "rows"> | undefined, mark: string): void {
  if (result?.rows[0]?.["mark"] !== mark) throw endedByHandler();
}

function ignore(): void {}

/** The server is silent, and whether it committed only the record tells. */
class CommitUnanswered extends StoreUnavailable {
  constructor(cause: unknown) {
    super("Postgres did not answer a COMMIT within the `query_timeout` of the pool", { cause });
  }
}

/** Of `pg`'s own; it has no code. */
function isTimeout(error: unknown): boolean {
  return error instanceof Error && error.message === "Query read timeout";
}

/** As postgres.js says it. */
class ConnectionLost extends Error {
  readonly code = "CONNECTION_CLOSED";
  constructor() {
    super("The connection of this transaction was lost");
  }
}

function resultOf({ rows, rowCount }: PgResult): SqlResult {
  return { rows, changes: rowCount ?? 0 };
}

/** A name as an SQL identifier, whatever it is made of. */
export function quoted(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}
