// The databases that transactions are tested on, each with a table of orders that handlers write to
// and an administrator's connection that sees what is committed.

import { randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createPool, type RowDataPacket } from "mysql2/promise";
import pg from "pg";
import postgres from "postgres";
import { fromMysql2, fromPg, fromPostgresJs, fromSqlite } from "../../src/sql/index.ts";
import type { SqlExecutor, Store, StoreTransactions } from "../../src/store.ts";
import { mysqlStore } from "../../src/stores/mysql.ts";
import { postgresStore } from "../../src/stores/postgres.ts";
import { sqliteStore } from "../../src/stores/sqlite.ts";
import { mysqlSource } from "../servers/mysql.ts";
import { postgresSource } from "../servers/postgres.ts";
import { type FoundServer, findServer } from "../servers/server.ts";
import { type OpenDatabase, sqliteDrivers } from "../sqlite-drivers.ts";

export type TransactionalStore = Store & { readonly transactions: StoreTransactions };

/** A client, as one process has it. */
export interface Client {
  store: TransactionalStore;
  /** Writes an order on the transaction that a handler is given. */
  insert(transaction: unknown, sku: string): Promise<void>;
  /** Counts orders as the transaction sees them. */
  count(transaction: unknown): Promise<number>;
  /** An executor on the transaction that a handler is given. */
  executor(transaction: unknown): SqlExecutor;
  /** Uses another connection of the same pool, as a handler may that looks something up. */
  ping(): Promise<void>;
  end(): Promise<void>;
}

export interface ConnectOptions {
  connections?: number;
  port?: number;
  /** Settings of its sessions, on Postgres. */
  settings?: Record<string, string>;
}

export interface Stage {
  /** What another process needs to know to take part. */
  readonly address: { backend: string; url: string; table: string };
  /** A client of its own, with at most so many connections, through another port if need be. */
  connect(options?: ConnectOptions): Promise<Client>;
  /** Every committed order. */
  skus(): Promise<string[]>;
  /** SQL by the administrator. */
  admin(sql: string): Promise<Record<string, unknown>[]>;
  /** Every stored time moves back. */
  elapse(ms: number): Promise<void>;
  close(): Promise<void>;
}

export interface Backend {
  name: string;
  /** Why it cannot be tested here. */
  reason: string | undefined;
  open(): Promise<Stage>;
}

const TIMES = ["lease_until", "expires_at", "created_at", "updated_at"];

function urlOf(server: FoundServer): string {
  return "url" in server ? server.url : "";
}

function urlFor(url: string, { port, settings = {} }: ConnectOptions): string {
  const changed = new URL(url);
  if (port !== undefined) changed.port = String(port);
  const flags = Object.entries(settings).map(([name, value]) => `-c ${name}=${value}`);
  if (flags.length > 0) changed.searchParams.set("options", flags.join(" "));
  // A plus is no space to the drivers.
  return changed.href.replaceAll("+", "%20");
}

function ignore(): void {}

const postgresServer = await findServer(postgresSource);
const mysqlServer = await findServer(mysqlSource);

/** Ends servers that were started for these tests. */
export async function closeServers(): Promise<void> {
  for (const server of [postgresServer, mysqlServer]) if ("close" in server) await server.close();
}

async function openPostgres(
  backend: string,
  connect: (url: string, table: string, connections: number) => Client,
): Promise<Stage> {
  const url = urlOf(postgresServer);
  const table = `tx${randomBytes(6).toString("hex")}`;
  const admin = new pg.Pool({ connectionString: url, max: 2 });
  admin.on("error", ignore);
  await admin.query(`CREATE TABLE ${table}_orders (sku text NOT NULL)`);
  await postgresStore(admin, { table }).migrate();
  return {
    address: { backend, url, table },
    connect: async (options = {}) =>
      connect(urlFor(url, options), table, options.connections ?? 10),
    skus: async () => {
      const { rows } = await admin.query(`SELECT sku FROM ${table}_orders ORDER BY sku`);
      return rows.map(({ sku }) => sku);
    },
    admin: async (sql) => (await admin.query(sql)).rows,
    elapse: async (ms) => {
      const back = TIMES.map((column) => `${column} = ${column} - ${ms} * interval '1 ms'`);
      await admin.query(`UPDATE ${table}_records SET ${back.join()}`);
    },
    close: async () => {
      const tables = ["orders", "records", "schema", "queue"].map((name) => `${table}_${name}`);
      await admin.query(`DROP TABLE IF EXISTS ${tables.join()}`);
      await admin.end();
    },
  };
}

function connectPg(connectionString: string, table: string, max: number): Client {
  const pool = new pg.Pool({ connectionString, max });
  // Connections that tests break while they are idle.
  pool.on("error", ignore);
  const on = (transaction: unknown) => transaction as pg.PoolClient;
  return {
    store: postgresStore(pool, { table }) as TransactionalStore,
    insert: async (transaction, sku) => {
      await on(transaction).query(`INSERT INTO ${table}_orders VALUES ($1)`, [sku]);
    },
    count: async (transaction) => {
      const { rows } = await on(transaction).query(`SELECT count(*) AS n FROM ${table}_orders`);
      return Number(rows[0].n);
    },
    executor: (transaction) => fromPg(on(transaction)),
    ping: async () => void (await pool.query("SELECT 1")),
    end: () => pool.end(),
  };
}

function connectPostgresJs(url: string, table: string, max: number): Client {
  const sql = postgres(url, { max, prepare: false, onnotice: ignore });
  const on = (transaction: unknown) => transaction as postgres.TransactionSql;
  return {
    store: postgresStore(sql, { table }) as TransactionalStore,
    insert: async (transaction, sku) => {
      await on(transaction)`INSERT INTO ${on(transaction)(`${table}_orders`)} VALUES (${sku})`;
    },
    count: async (transaction) => {
      const [row] = await on(transaction).unsafe(`SELECT count(*) AS n FROM ${table}_orders`);
      return Number(row?.["n"]);
    },
    executor: (transaction) => fromPostgresJs(on(transaction)),
    ping: async () => void (await sql`SELECT 1`),
    // It waits for ever for a connection that broke within a transaction.
    end: () => sql.end({ timeout: 1 }),
  };
}

async function openMysql(): Promise<Stage> {
  const url = urlOf(mysqlServer);
  const table = `tx${randomBytes(6).toString("hex")}`;
  const admin = createPool({ uri: url, connectionLimit: 2 });
  await admin.query(`CREATE TABLE ${table}_orders (sku varchar(100) NOT NULL) ENGINE = InnoDB`);
  await mysqlStore(admin, { table }).migrate();
  return {
    address: { backend: "mysql2", url, table },
    connect: async (options = {}) =>
      connectMysql(urlFor(url, options), table, options.connections ?? 10),
    skus: async () => {
      const [rows] = await admin.query<RowDataPacket[]>(
        `SELECT sku FROM ${table}_orders ORDER BY sku`,
      );
      return rows.map(({ sku }) => sku);
    },
    admin: async (sql) => (await admin.query<RowDataPacket[]>(sql))[0],
    elapse: async (ms) => {
      const back = TIMES.map((column) => `${column} = ${column} - ${ms}`);
      await admin.query(`UPDATE ${table}_records SET ${back.join()}`);
    },
    close: async () => {
      const tables = ["orders", "records", "schema", "queue"].map((name) => `${table}_${name}`);
      await admin.query(`DROP TABLE IF EXISTS ${tables.join()}`);
      await admin.end();
    },
  };
}

function connectMysql(uri: string, table: string, connectionLimit: number): Client {
  const pool = createPool({ uri, connectionLimit });
  const on = (transaction: unknown) =>
    transaction as Awaited<ReturnType<typeof pool.getConnection>>;
  return {
    store: mysqlStore(pool, { table }) as TransactionalStore,
    insert: async (transaction, sku) => {
      await on(transaction).query(`INSERT INTO ${table}_orders VALUES (?)`, [sku]);
    },
    count: async (transaction) => {
      const [rows] = await on(transaction).query<RowDataPacket[]>(
        `SELECT count(*) AS n FROM ${table}_orders`,
      );
      return Number(rows[0]?.["n"]);
    },
    executor: (transaction) => fromMysql2(on(transaction)),
    ping: async () => void (await pool.query("SELECT 1")),
    end: () => pool.end(),
  };
}

async function openSqlite(driver: (typeof sqliteDrivers)[number]): Promise<Stage> {
  const folder = await mkdtemp(join(tmpdir(), "semel-transactions-"));
  const path = join(folder, "shop.db");
  const databases: OpenDatabase[] = [];
  const open = () => {
    const database = driver.open(path);
    databases.push(database);
    database.exec("PRAGMA busy_timeout = 5000");
    return database;
  };
  const admin = open();
  await sqliteStore(open()).migrate();
  admin.exec("CREATE TABLE semel_orders (sku TEXT NOT NULL) STRICT");
  const rows = (sql: string) => admin.prepare(sql).all() as Record<string, unknown>[];
  return {
    address: { backend: driver.name, url: path, table: "semel" },
    connect: async () => connectSqlite(open(), open()),
    skus: async () =>
      rows("SELECT sku FROM semel_orders ORDER BY sku").map(({ sku }) => String(sku)),
    admin: async (sql) => rows(sql),
    elapse: async (ms) => {
      const back = TIMES.map((column) => `${column} = ${column} - ${ms}`);
      admin.exec(`UPDATE semel_records SET ${back.join()}`);
    },
    close: async () => {
      for (const database of databases) database.close();
      await rm(folder, { recursive: true });
    },
  };
}

function connectSqlite(database: OpenDatabase, transactions: OpenDatabase): Client {
  const on = (transaction: unknown) => transaction as OpenDatabase;
  return {
    store: sqliteStore(database, { transactions, busyTimeout: "20s" }) as TransactionalStore,
    insert: async (transaction, sku) => {
      on(transaction).prepare("INSERT INTO semel_orders VALUES (?)").run(sku);
    },
    count: async (transaction) => {
      const [row] = on(transaction).prepare("SELECT count(*) AS n FROM semel_orders").all();
      return Number((row as { n: number }).n);
    },
    executor: (transaction) => fromSqlite(on(transaction)),
    ping: async () => void database.prepare("SELECT 1").all(),
    end: async () => {},
  };
}

const reasonOf = (server: FoundServer) => ("reason" in server ? server.reason : undefined);

export const pgBackend: Backend = {
  name: "Postgres through pg",
  reason: reasonOf(postgresServer),
  open: () => openPostgres("pg", connectPg),
};

export const postgresJsBackend: Backend = {
  name: "Postgres through postgres.js",
  reason: reasonOf(postgresServer),
  open: () => openPostgres("postgres", connectPostgresJs),
};

export const mysqlBackend: Backend = {
  name: "MySQL through mysql2",
  reason: reasonOf(mysqlServer),
  open: openMysql,
};

export const sqliteBackends: readonly Backend[] = sqliteDrivers.map((driver) => ({
  name: `SQLite through ${driver.name}`,
  reason: undefined,
  open: () => openSqlite(driver),
}));

export const serverBackends: readonly Backend[] = [pgBackend, postgresJsBackend, mysqlBackend];
export const backends: readonly Backend[] = [...serverBackends, ...sqliteBackends];
