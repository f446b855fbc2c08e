// What the tests of the Postgres store share: the clients that it takes, tables that are a test's own,
// and power over stored records that the contract does not give.

import { randomBytes } from "node:crypto";
import pg from "pg";
import postgres from "postgres";
import {
  type PgPool,
  type PostgresJs,
  type PostgresStore,
  type PostgresStoreOptions,
  postgresStore,
} from "../../src/stores/postgres.ts";
import type { StoreHarness } from "../../src/testing/index.ts";
import { postgresSource } from "../servers/postgres.ts";
import { findServer } from "../servers/server.ts";

const found = await findServer(postgresSource);
export const url = "url" in found ? found.url : "";
/** Why there is nothing to test with. */
export const missing = "reason" in found ? ` (skipped: ${found.reason})` : "";

export type Client = (PgPool | PostgresJs) & { end(): Promise<void> };

export interface Driver {
  readonly name: string;
  open(at?: string, connectionsMax?: number): Client;
}

export const pgDriver: Driver = {
  name: "pg",
  open: (at = url, max = 4) => {
    const pool = new pg.Pool({ connectionString: at, max });
    // What an idle connection says when its server goes away would end the process.
    return pool.on("error", () => {});
  },
};

export const postgresJsDriver: Driver = {
  name: "postgres.js",
  open: (at = url, max = 4) => {
    const sql = postgres(at, { max, onnotice: () => {} });
    // Without a bound, it waits for ever for a connection that once failed.
    return Object.assign(sql, { end: sql.end.bind(sql, { timeout: 2 }) });
  },
};

/** Behind a pooler: the driver would prepare its own COMMIT, and the pooler would lose it. */
export const unpreparedPostgresJs: Driver = {
  name: "postgres.js",
  open: (at = url, max = 4) => {
    const sql = postgres(at, { max, prepare: false, onnotice: () => {} });
    return Object.assign(sql, { end: sql.end.bind(sql, { timeout: 2 }) });
  },
};

/** Clients and tables of one test, or of one file. */
export class Fixture {
  /** Hard to quote, and of one test alone. */
  readonly table = `it's "${randomBytes(6).toString("hex")}"`;
  readonly records = `"${this.table.replaceAll('"', '""')}_records"`;
  readonly schema = `"${this.table.replaceAll('"', '""')}_schema"`;
  readonly queue = `"${this.table.replaceAll('"', '""')}_queue"`;
  readonly admin: pg.Pool;
  readonly #at: string;
  readonly #clients: { end(): Promise<void> }[] = [];

  constructor(at = url) {
    this.#at = at;
    this.admin = new pg.Pool({ connectionString: at, max: 2 }).on("error", () => {});
  }

  client(driver: Driver, connectionsMax?: number): Client {
    return this.keep(driver.open(this.#at, connectionsMax));
  }

  pool(options: pg.PoolConfig = {}): pg.Pool {
    const pool = new pg.Pool({ connectionString: this.#at, max: 4, ...options });
    return this.keep(pool.on("error", () => {}));
  }

  /** To be ended with the others. */
  keep<Kept extends { end(): Promise<void> }>(client: Kept): Kept {
    this.#clients.push(client);
    return client;
  }

  async store(
    client: PgPool | PostgresJs = this.client(pgDriver),
    options: PostgresStoreOptions = {},
  ): Promise<PostgresStore> {
    const store = postgresStore(client, { table: this.table, ...options });
    await store.migrate();
    return store;
  }

  harness(store: PostgresStore, another: PostgresStore): StoreHarness {
    return {
      store,
      elapse: (ms) => this.elapse(ms),
      another: async () => another,
      damage: async (id, how) => {
        const damage = how === "newer" ? "format = format + 1" : "state = 99";
        await this.admin.query(`UPDATE ${this.records} SET ${damage} WHERE id = '${id}'`);
      },
    };
  }

  async elapse(ms: number): Promise<void> {
    const moved = (columns: readonly string[]) =>
      columns.map((column) => `${column} = ${column} - ${ms} * interval '1 ms'`).join();
    const ofRecords = ["lease_until", "expires_at", "created_at", "updated_at"];
    await this.admin.query(`UPDATE ${this.records} SET ${moved(ofRecords)}`);
    const ofItems = ["due_at", "expires_at", "created_at"];
    await this.admin.query(`UPDATE ${this.queue} SET ${moved(ofItems)}`);
  }

  /** The functions of the store, in whatever schema. */
  async functions(): Promise<string[]> {
    const { rows } = await this.admin.query(
      "SELECT oid::regprocedure::text AS name FROM pg_proc WHERE starts_with(proname, $1) ORDER BY 1",
      [this.table],
    );
    return rows.map(({ name }) => name);
  }

  async dropFunctions(): Promise<void> {
    const functions = await this.functions();
    if (functions.length > 0) await this.admin.query(`DROP ROUTINE ${functions.join()}`);
  }

  async close(): Promise<void> {
    await this.admin.query(`DROP TABLE IF EXISTS ${this.records}, ${this.schema}, ${this.queue}`);
    await this.dropFunctions();
    await Promise.all([...this.#clients, this.admin].map((client) => client.end().catch(() => {})));
  }
}
