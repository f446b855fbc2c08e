// Transactions of other libraries as a `SqlExecutor`, for `idempotency.within()`. Types are
// structural, so that none of those libraries is needed to use another.

import { InvalidOption } from "../errors.ts";
import type { SqlExecutor, SqlResult, SqlValue } from "../store.ts";
import { readsRows } from "../stores/sqlite/executor.ts";
import { pieces, questionMarks } from "./placeholders.ts";

export { fromSqlite } from "../stores/sqlite/executor.ts";

type Dialect = SqlExecutor["dialect"];
type Row = Record<string, unknown>;

/** A client of `pg`, between `BEGIN` and `COMMIT`. */
export interface PgTransaction {
  query(sql: string, parameters: unknown[]): Promise<{ rows: Row[]; rowCount: number | null }>;
}

/**
 * An executor on a client of `pg` that a transaction is open on; a pool is none.
 *
 * @example
 * await client.query("BEGIN");
 * await idempotency.within(fromPg(client), { key }, () => insertOrder(client));
 * await client.query("COMMIT");
 */
export function fromPg(client: PgTransaction): SqlExecutor {
  const query = async (sql: string, parameters: SqlValue[]) => {
    const { rows, rowCount } = await client.query(sql, parameters);
    return { rows, changes: rowCount ?? 0 };
  };
  return executor("postgres", query, "totalCount" in client);
}

/** The `sql` that postgres.js hands to the function of `sql.begin()`. */
export interface PostgresJsTransaction {
  unsafe(
    sql: string,
    parameters?: (string | number | null)[],
  ): PromiseLike<Iterable<unknown> & { readonly count: number }>;
}

/**
 * An executor on a transaction of postgres.js.
 *
 * @example await sql.begin((tx) => idempotency.within(fromPostgresJs(tx), { key }, () => insertOrder(tx)));
 */
export function fromPostgresJs(transaction: PostgresJsTransaction): SqlExecutor {
  const query = async (sql: string, parameters: SqlValue[]) => {
    // Bytes, dates and booleans are recognised, whatever the types say.
    const result = await transaction.unsafe(sql, parameters as (string | number | null)[]);
    return { rows: [...result] as Row[], changes: result.count };
  };
  return executor("postgres", query, "begin" in transaction);
}

/** A connection of `mysql2/promise`, between `BEGIN` and `COMMIT`. */
export interface Mysql2Transaction {
  query(
    query: {
      sql: string;
      rowsAsArray: boolean;
      nestTables: boolean;
      namedPlaceholders: boolean;
    },
    parameters: unknown[],
  ): Promise<readonly [unknown, unknown]>;
}

/**
 * An executor on a connection of `mysql2/promise` that a transaction is open on.
 *
 * @example
 * await connection.beginTransaction();
 * await idempotency.within(fromMysql2(connection), { key }, () => insertOrder(connection));
 * await connection.commit();
 */
export function fromMysql2(connection: Mysql2Transaction): SqlExecutor {
  const ask = async (sql: string, parameters: SqlValue[]) => {
    const query = { sql, rowsAsArray: false, nestTables: false, namedPlaceholders: false };
    const [result] = await connection.query(query, parameters);
    return resultOf(result);
  };
  return executor("mysql", ask, "getConnection" in connection);
}

/** A `Transaction` of Kysely. */
export interface KyselyTransaction {
  withoutPlugins(): {
    executeQuery(query: {
      sql: string;
      parameters: readonly unknown[];
      query: { kind: "RawNode"; sqlFragments: readonly string[]; parameters: readonly never[] };
      queryId: { queryId: string };
    }): Promise<{ rows: unknown[]; numAffectedRows?: bigint }>;
  };
}

/**
 * An executor on a transaction of Kysely. Its plugins do not see the statements.
 *
 * @example
 * await db.transaction().execute((trx) =>
 *   idempotency.within(fromKysely(trx, "postgres"), { key }, () => insertOrder(trx)),
 * );
 */
export function fromKysely(transaction: KyselyTransaction, dialect: Dialect): SqlExecutor {
  return executor(dialect, async (sql, parameters) => {
    const query = { kind: "RawNode", sqlFragments: [sql], parameters: [] } as const;
    const { rows, numAffectedRows } = await transaction
      .withoutPlugins()
      .executeQuery({ sql, parameters, query, queryId: { queryId: "semel" } });
    return { rows: rows as Row[], changes: Number(numAffectedRows ?? rows.length) };
  });
}

/** A transaction of Drizzle on Postgres or MySQL. */
export interface DrizzleTransaction<Query> {
  execute(query: Query): PromiseLike<unknown>;
}

/** A transaction of Drizzle on SQLite, with a synchronous or an asynchronous driver. */
export interface DrizzleSqliteTransaction<Query> {
  all(query: Query): unknown;
  run(query: Query): unknown;
}

/** The `sql` of `drizzle-orm`. */
export type DrizzleSql<Query> = (texts: TemplateStringsArray, ...values: unknown[]) => Query;

/**
 * An executor on a transaction of Drizzle.
 *
 * @param sql the `sql` of `drizzle-orm`
 * @example
 * await db.transaction((tx) =>
 *   idempotency.within(fromDrizzle(tx, sql, "postgres"), { key }, () => insertOrder(tx)),
 * );
 */
export function fromDrizzle<Query>(
  transaction: DrizzleTransaction<Query>,
  sql: DrizzleSql<Query>,
  dialect: "postgres" | "mysql",
): SqlExecutor;
export function fromDrizzle<Query>(
  transaction: DrizzleSqliteTransaction<Query>,
  sql: DrizzleSql<Query>,
  dialect: "sqlite",
): SqlExecutor;
export function fromDrizzle<Query>(
  transaction: DrizzleTransaction<Query> | DrizzleSqliteTransaction<Query>,
  sql: DrizzleSql<Query>,
  dialect: Dialect,
): SqlExecutor {
  return executor(dialect, async (text, parameters) => {
    const parts = pieces(dialect, text, parameters);
    const query = sql(Object.assign(parts.texts, { raw: parts.texts }), ...parts.parameters);
    if ("execute" in transaction) {
      const result = await transaction.execute(query);
      // `mysql2` answers with rows, or what it did, and a description of the columns.
      return resultOf(dialect === "mysql" ? (result as unknown[])[0] : result);
    }
    return resultOf(await (readsRows(text) ? transaction.all(query) : transaction.run(query)));
  });
}

/** The client that Prisma hands to the function of an interactive `$transaction()`. */
export interface PrismaTransaction {
  $queryRawUnsafe(sql: string, ...parameters: unknown[]): PromiseLike<unknown>;
  $executeRawUnsafe(sql: string, ...parameters: unknown[]): PromiseLike<number>;
}

/**
 * An executor on an interactive transaction of Prisma.
 *
 * @example
 * await prisma.$transaction((tx) =>
 *   idempotency.within(fromPrisma(tx, "postgres"), { key }, () => insertOrder(tx)),
 * );
 */
export function fromPrisma(transaction: PrismaTransaction, dialect: Dialect): SqlExecutor {
  return executor(dialect, async (sql, parameters) => {
    if (readsRows(sql)) return resultOf(await transaction.$queryRawUnsafe(sql, ...parameters));
    return { rows: [], changes: await transaction.$executeRawUnsafe(sql, ...parameters) };
  });
}

/** The `EntityManager` that TypeORM hands to the function of `transaction()`. */
export interface TypeOrmTransaction {
  readonly queryRunner?:
    | {
        query(
          sql: string,
          parameters: unknown[],
          useStructuredResult: true,
        ): Promise<{ records?: unknown[]; affected?: number | null }>;
      }
    | undefined;
}

/**
 * An executor on a transaction of TypeORM.
 *
 * @throws {InvalidOption} for a manager that is in no transaction
 * @example
 * await dataSource.transaction((manager) =>
 *   idempotency.within(fromTypeOrm(manager, "postgres"), { key }, () => manager.save(order)),
 * );
 */
export function fromTypeOrm(manager: TypeOrmTransaction, dialect: Dialect): SqlExecutor {
  const { queryRunner } = manager;
  if (!queryRunner) {
    throw new InvalidOption(
      "fromTypeOrm() takes the manager that `dataSource.transaction()` hands to its function; this one is in no transaction",
    );
  }
  return executor(dialect, async (sql, parameters) => {
    const { records = [], affected } = await queryRunner.query(sql, parameters, true);
    return { rows: records as Row[], changes: affected ?? records.length };
  });
}

/** A transaction of Knex. */
export interface KnexTransaction {
  raw(sql: string, parameters: never): PromiseLike<unknown>;
  readonly client: { readonly dialect?: string; readonly driverName?: string };
}

const KNEX_DIALECTS: Record<string, Dialect> = {
  pg: "postgres",
  pgnative: "postgres",
  cockroachdb: "postgres",
  mysql: "mysql",
  mysql2: "mysql",
  "better-sqlite3": "sqlite",
};

/**
 * An executor on a transaction of Knex, with its `pg`, `mysql2` or `better-sqlite3` driver.
 *
 * @throws {InvalidOption} for another driver
 * @example
 * await knex.transaction((trx) =>
 *   idempotency.within(fromKnex(trx), { key }, () => trx("orders").insert(order)),
 * );
 */
export function fromKnex(transaction: KnexTransaction): SqlExecutor {
  const { driverName = "" } = transaction.client;
  const dialect = KNEX_DIALECTS[driverName];
  if (dialect === undefined) {
    throw new InvalidOption(
      `fromKnex() does not know Knex's driver "${driverName}"; it knows ${Object.keys(KNEX_DIALECTS).join(", ")}`,
    );
  }
  return executor(dialect, async (text, given) => {
    const { sql, parameters } = questionMarks(dialect, text, given);
    const result = await transaction.raw(sql, parameters as never);
    return resultOf(dialect === "mysql" ? (result as unknown[])[0] : result);
  });
}

/** The `EntityManager` that MikroORM hands to the function of `em.transactional()`. */
export interface MikroOrmTransaction {
  getTransactionContext(): unknown;
}

/**
 * An executor on a transaction of MikroORM 6, whose transactions are Knex's.
 *
 * @throws {InvalidOption} for a manager that is in no transaction
 * @example
 * await orm.em.fork().transactional((em) =>
 *   idempotency.within(fromMikroOrm(em), { key }, () => void em.persist(order)),
 * );
 */
export function fromMikroOrm(manager: MikroOrmTransaction): SqlExecutor {
  const transaction = manager.getTransactionContext() as KnexTransaction | undefined;
  if (transaction) return fromKnex(transaction);
  throw new InvalidOption(
    "fromMikroOrm() takes the manager that `em.transactional()` hands to its function; this one is in no transaction",
  );
}

function executor(
  dialect: Dialect,
  query: (sql: string, parameters: SqlValue[]) => Promise<SqlResult>,
  isPooled = false,
): SqlExecutor {
  return {
    dialect,
    isPooled,
    query: (sql, parameters) => query(sql, parameters.map(asDriversTakeIt)),
  };
}

/** `mysql2` takes bytes for an object, unless they are a `Buffer`. */
function asDriversTakeIt(value: SqlValue): SqlValue {
  if (!(value instanceof Uint8Array)) return value;
  return Buffer.from(value.buffer, value.byteOffset, value.byteLength);
}

/** The answer of a driver: an array of rows, or an object that says what it did. */
function resultOf(answer: unknown): SqlResult {
  if (Array.isArray(answer)) {
    const { count = answer.length } = answer as { count?: number };
    return { rows: answer as Row[], changes: count };
  }
  const said = (answer ?? {}) as Record<string, unknown>;
  const rows = (said["rows"] ?? []) as Row[];
  const changes =
    said["rowCount"] ?? said["affectedRows"] ?? said["rowsAffected"] ?? said["changes"];
  return { rows, changes: Number(changes ?? rows.length) };
}
