// Every library whose transactions `within()` can join, with its real client on its real server.

import { MikroORM } from "@mikro-orm/postgresql";
import { sql as drizzleSql } from "drizzle-orm";
import { drizzle as drizzleMysql } from "drizzle-orm/mysql2";
import { drizzle as drizzlePg } from "drizzle-orm/node-postgres";
import { drizzle as drizzlePostgresJs } from "drizzle-orm/postgres-js";
import { drizzle as drizzleSqlite } from "drizzle-orm/sqlite-proxy";
import createKnex, { type Knex } from "knex";
import {
  CamelCasePlugin,
  Kysely,
  sql as kyselySql,
  MysqlDialect,
  PostgresDialect,
  SqliteDialect,
} from "kysely";
import Libsql from "libsql";
import { createPool as createCallbackPool } from "mysql2";
import { createPool } from "mysql2/promise";
import pg from "pg";
import postgres from "postgres";
import { DataSource } from "typeorm";
import {
  fromDrizzle,
  fromKnex,
  fromKysely,
  fromMikroOrm,
  fromMysql2,
  fromPg,
  fromPostgresJs,
  fromPrisma,
  fromSqlite,
  fromTypeOrm,
  type SqlExecutor,
} from "../../src/sql/index.ts";
import {
  type Backend,
  mysqlBackend,
  pgBackend,
  type Stage,
  sqliteBackends,
} from "../engine/transaction-backends.ts";

/** A transaction of the library's, as its user sees it. */
export interface Joined {
  executor: SqlExecutor;
  insert(sku: string): Promise<unknown>;
}

export interface OpenLibrary {
  /** Commits when the work resolves and rolls back when it rejects, as the library does it. */
  transaction<Value>(work: (joined: Joined) => Promise<Value>): Promise<Value>;
  end(): Promise<unknown>;
}

export interface Library {
  name: string;
  backend: Backend;
  open(stage: Stage): Promise<OpenLibrary> | OpenLibrary;
}

const sqliteBackend = sqliteBackends[0]!;
/** SKUs of the tests are letters, digits and spaces. */
const insertion = ({ address }: Stage, sku: string) =>
  `INSERT INTO ${address.table}_orders (sku) VALUES ('${sku}')`;

async function committed<Value>(
  send: (sql: string) => unknown,
  begin: string,
  work: () => Promise<Value>,
): Promise<Value> {
  await send(begin);
  try {
    const value = await work();
    await send("COMMIT");
    return value;
  } catch (error) {
    await send("ROLLBACK");
    throw error;
  }
}

function openPg(stage: Stage, executorOf: (client: pg.PoolClient) => SqlExecutor): OpenLibrary {
  const pool = new pg.Pool({ connectionString: stage.address.url });
  return {
    transaction: async (work) => {
      const client = await pool.connect();
      const insert = (sku: string) => client.query(insertion(stage, sku));
      const joined = { executor: executorOf(client), insert };
      return committed(
        (text) => client.query(text),
        "BEGIN",
        () => work(joined),
      ).finally(() => client.release());
    },
    end: () => pool.end(),
  };
}

/** An object of the shape that Prisma documents for raw queries in interactive transactions. */
function prismaShaped(client: pg.PoolClient) {
  return {
    $queryRawUnsafe: async (sql: string, ...values: unknown[]) =>
      (await client.query(sql, values)).rows,
    $executeRawUnsafe: async (sql: string, ...values: unknown[]) =>
      (await client.query(sql, values)).rowCount ?? 0,
  };
}

function openMysql2({ address, ...rest }: Stage): OpenLibrary {
  const pool = createPool({ uri: address.url, rowsAsArray: true, namedPlaceholders: true });
  return {
    transaction: async (work) => {
      const connection = await pool.getConnection();
      const insert = (sku: string) => connection.query(insertion({ address, ...rest }, sku));
      const joined = { executor: fromMysql2(connection), insert };
      return committed(
        (sql) => connection.query(sql),
        "START TRANSACTION",
        () => work(joined),
      ).finally(() => connection.release());
    },
    end: () => pool.end(),
  };
}

function openPostgresJs(stage: Stage): OpenLibrary {
  const client = postgres(stage.address.url, { transform: postgres.camel });
  return {
    transaction: async (work) => {
      const answer = await client.begin(async (tx) => {
        const insert = async (sku: string) => tx.unsafe(insertion(stage, sku));
        return { value: await work({ executor: fromPostgresJs(tx), insert }) };
      });
      return (answer as { value: Awaited<ReturnType<typeof work>> }).value;
    },
    end: () => client.end(),
  };
}

function openSqlite(stage: Stage): OpenLibrary {
  const databases: { close(): unknown }[] = [];
  return {
    transaction: async (work) => {
      const database = new Libsql(stage.address.url);
      databases.push(database);
      database.exec("PRAGMA busy_timeout = 2000");
      const insert = async (sku: string) => database.exec(insertion(stage, sku));
      const joined = { executor: fromSqlite(database), insert };
      return committed(
        (sql) => database.exec(sql),
        "BEGIN IMMEDIATE",
        () => work(joined),
      );
    },
    end: async () => {
      for (const database of databases) database.close();
    },
  };
}

function openKysely(stage: Stage, dialect: SqlExecutor["dialect"]): OpenLibrary {
  const { url } = stage.address;
  const database = new Libsql(dialect === "sqlite" ? url : ":memory:");
  const dialects = {
    postgres: () => new PostgresDialect({ pool: new pg.Pool({ connectionString: url }) }),
    mysql: () => new MysqlDialect({ pool: createCallbackPool({ uri: url }) }),
    // libsql has the shape of better-sqlite3.
    sqlite: () => new SqliteDialect({ database: database as never }),
  };
  const db = new Kysely<object>({
    dialect: dialects[dialect](),
    plugins: [new CamelCasePlugin()],
  });
  return {
    transaction: (work) =>
      db.transaction().execute((trx) => {
        const insert = (sku: string) => kyselySql.raw(insertion(stage, sku)).execute(trx);
        return work({ executor: fromKysely(trx, dialect), insert });
      }),
    end: () => db.destroy(),
  };
}

function openDrizzlePg(stage: Stage): OpenLibrary {
  const pool = new pg.Pool({ connectionString: stage.address.url });
  const db = drizzlePg(pool);
  return {
    transaction: (work) =>
      db.transaction((tx) =>
        work({
          executor: fromDrizzle(tx, drizzleSql, "postgres"),
          insert: async (sku) => tx.execute(drizzleSql.raw(insertion(stage, sku))),
        }),
      ),
    end: () => pool.end(),
  };
}

function openDrizzlePostgresJs(stage: Stage): OpenLibrary {
  const client = postgres(stage.address.url);
  const db = drizzlePostgresJs(client);
  return {
    transaction: (work) =>
      db.transaction((tx) =>
        work({
          executor: fromDrizzle(tx, drizzleSql, "postgres"),
          insert: async (sku) => tx.execute(drizzleSql.raw(insertion(stage, sku))),
        }),
      ),
    end: () => client.end(),
  };
}

function openDrizzleMysql(stage: Stage): OpenLibrary {
  const pool = createPool({ uri: stage.address.url });
  const db = drizzleMysql(pool);
  return {
    transaction: (work) =>
      db.transaction((tx) =>
        work({
          executor: fromDrizzle(tx, drizzleSql, "mysql"),
          insert: async (sku) => tx.execute(drizzleSql.raw(insertion(stage, sku))),
        }),
      ),
    end: () => pool.end(),
  };
}

function openDrizzleSqlite(stage: Stage): OpenLibrary {
  const databases: { close(): unknown }[] = [];
  return {
    transaction: async (work) => {
      const database = new Libsql(stage.address.url);
      databases.push(database);
      database.exec("PRAGMA busy_timeout = 2000");
      const db = drizzleSqlite(async (sql, parameters, method) => {
        const statement = database.prepare(sql);
        if (method !== "run") return { rows: statement.all(...parameters) };
        return { rows: [], ...statement.run(...parameters) };
      });
      const insert = (sku: string) => db.run(drizzleSql.raw(insertion(stage, sku)));
      const joined = { executor: fromDrizzle(db, drizzleSql, "sqlite"), insert };
      return committed(
        (sql) => database.exec(sql),
        "BEGIN IMMEDIATE",
        () => work(joined),
      );
    },
    end: async () => {
      for (const database of databases) database.close();
    },
  };
}

async function openTypeOrm(stage: Stage, type: "postgres" | "mysql"): Promise<OpenLibrary> {
  const source = await new DataSource({ type, url: stage.address.url }).initialize();
  return {
    transaction: (work) =>
      source.transaction((manager) =>
        work({
          executor: fromTypeOrm(manager, type),
          insert: (sku) => manager.query(insertion(stage, sku)),
        }),
      ),
    end: () => source.destroy(),
  };
}

function openKnex(stage: Stage, client: "pg" | "mysql2"): OpenLibrary {
  const knex = createKnex({
    client,
    connection: stage.address.url,
    postProcessResponse: inCamelCase,
  });
  return {
    transaction: (work) =>
      knex.transaction((trx: Knex.Transaction) =>
        work({
          executor: fromKnex(trx),
          insert: async (sku) => trx.raw(insertion(stage, sku)),
        }),
      ),
    end: () => knex.destroy(),
  };
}

/** As those set it who want names in camel case; Knex shows it raw answers too. */
function inCamelCase(answer: unknown): unknown {
  if (Array.isArray(answer)) return answer.map(inCamelCase);
  if (typeof answer !== "object" || answer === null) return answer;
  const { rows } = answer as { rows?: unknown[] };
  if (rows !== undefined) return Object.assign(answer, { rows: inCamelCase(rows) });
  if (Object.getPrototypeOf(answer) !== Object.prototype) return answer;
  const camel = (name: string) => name.replace(/_([a-z])/g, (_, letter) => letter.toUpperCase());
  return Object.fromEntries(Object.entries(answer).map(([name, value]) => [camel(name), value]));
}

async function openMikroOrm(stage: Stage): Promise<OpenLibrary> {
  const orm = await MikroORM.init({
    clientUrl: stage.address.url,
    entities: [],
    discovery: { warnWhenNoEntities: false },
  });
  return {
    transaction: (work) =>
      orm.em.fork().transactional((em) =>
        work({
          executor: fromMikroOrm(em),
          insert: (sku) => em.execute(insertion(stage, sku)),
        }),
      ),
    end: () => orm.close(),
  };
}

export const libraries: readonly Library[] = [
  { name: "pg", backend: pgBackend, open: (stage) => openPg(stage, fromPg) },
  { name: "postgres.js", backend: pgBackend, open: openPostgresJs },
  { name: "mysql2", backend: mysqlBackend, open: openMysql2 },
  { name: "libsql", backend: sqliteBackend, open: openSqlite },
  {
    name: "Kysely on Postgres",
    backend: pgBackend,
    open: (stage) => openKysely(stage, "postgres"),
  },
  { name: "Kysely on MySQL", backend: mysqlBackend, open: (stage) => openKysely(stage, "mysql") },
  {
    name: "Kysely on SQLite",
    backend: sqliteBackend,
    open: (stage) => openKysely(stage, "sqlite"),
  },
  { name: "Drizzle on pg", backend: pgBackend, open: openDrizzlePg },
  { name: "Drizzle on postgres.js", backend: pgBackend, open: openDrizzlePostgresJs },
  { name: "Drizzle on mysql2", backend: mysqlBackend, open: openDrizzleMysql },
  { name: "Drizzle on SQLite", backend: sqliteBackend, open: openDrizzleSqlite },
  {
    name: "an object of Prisma's shape on pg",
    backend: pgBackend,
    open: (stage) => openPg(stage, (client) => fromPrisma(prismaShaped(client), "postgres")),
  },
  {
    name: "TypeORM on Postgres",
    backend: pgBackend,
    open: (stage) => openTypeOrm(stage, "postgres"),
  },
  { name: "TypeORM on MySQL", backend: mysqlBackend, open: (stage) => openTypeOrm(stage, "mysql") },
  { name: "Knex on Postgres", backend: pgBackend, open: (stage) => openKnex(stage, "pg") },
  { name: "Knex on MySQL", backend: mysqlBackend, open: (stage) => openKnex(stage, "mysql2") },
  { name: "MikroORM on Postgres", backend: pgBackend, open: openMikroOrm },
];
