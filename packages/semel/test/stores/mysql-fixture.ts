// What the tests of the MySQL store share: a database of their own, pools to it, and power over stored
// records that the contract does not give.

import { randomBytes } from "node:crypto";
import { createPool, type Pool, type PoolOptions } from "mysql2/promise";
import type { MysqlConnection, MysqlPool, MysqlQuery } from "../../src/stores/mysql.ts";
import { mysqlStore } from "../../src/stores/mysql.ts";
import type { StoreHarness } from "../../src/testing/index.ts";
import { mysqlSource } from "../servers/mysql.ts";
import { type FoundServer, findServer } from "../servers/server.ts";

const found = await findServer(mysqlSource);

/** Why there is no server to test with, if there is none. */
export const reason = "reason" in found ? found.reason : undefined;

/** What the event of a new connection is given: it has callbacks, whatever its type says. */
interface CoreConnection {
  query(sql: string, done: (error: Error | null) => void): void;
}

export class MysqlFixture {
  readonly name = `semel_${randomBytes(6).toString("hex")}`;
  readonly url: string;
  readonly #pools = new Set<Pool>();
  readonly #server: FoundServer | undefined;
  /** For the test's own statements. */
  readonly admin: Pool;

  private constructor(url: string, server?: FoundServer) {
    this.url = url;
    this.#server = server;
    this.admin = createPool({ uri: url, connectionLimit: 2 });
  }

  /** A database of its own on the server that was found, or on another. */
  static async open(url?: string): Promise<MysqlFixture> {
    const fixture =
      url === undefined
        ? new MysqlFixture("url" in found ? found.url : "", found)
        : new MysqlFixture(url);
    await fixture.admin.query(`CREATE DATABASE ${fixture.name}`);
    return fixture;
  }

  get records(): string {
    return `${this.name}.semel_records`;
  }

  /** A pool on this database, which ends with the fixture. */
  pool(options: PoolOptions = {}, session: readonly string[] = []): Pool {
    const pool = createPool({ uri: this.url, database: this.name, ...options });
    pool.on("connection", (connection) => {
      const core = connection as unknown as CoreConnection;
      for (const sql of session) {
        core.query(sql, (error) => {
          if (error) throw error;
        });
      }
    });
    this.#pools.add(pool);
    return pool;
  }

  /** Ends one of its pools before the others. */
  async end(pool: Pool): Promise<void> {
    this.#pools.delete(pool);
    await pool.end();
  }

  /** Lets time pass for every record. */
  async elapse(ms: number): Promise<void> {
    const back = ["lease_until", "expires_at", "created_at", "updated_at"];
    const moved = back.map((column) => `${column} = ${column} - ${ms}`).join();
    await this.admin.query(`UPDATE ${this.records} SET ${moved}`);
    await this.admin.query(`UPDATE ${this.name}.semel_queue SET due_at = due_at - ${ms},
      expires_at = expires_at - ${ms}, created_at = created_at - ${ms}`);
  }

  /** An empty store under test. */
  async harness(pool: Pool, other: Pool): Promise<StoreHarness> {
    await this.admin.query(`DELETE FROM ${this.records}`);
    await this.admin.query(`DELETE FROM ${this.name}.semel_queue`);
    return {
      store: mysqlStore(pool),
      elapse: (ms) => this.elapse(ms),
      another: async () => mysqlStore(other),
      damage: async (id, how) => {
        const damage = how === "newer" ? "format = format + 1" : "state = 99";
        await this.admin.query(`UPDATE ${this.records} SET ${damage} WHERE id = x'${id}'`);
      },
    };
  }

  async close(): Promise<void> {
    await this.admin.query(`DROP DATABASE ${this.name}`);
    for (const pool of [...this.#pools, this.admin]) await pool.end();
    if (this.#server && "close" in this.#server) await this.#server.close();
  }
}

/** A pool that notes each statement, and so each round trip. */
export function counted(pool: Pool): MysqlPool<MysqlConnection> & { statements: string[] } {
  const statements: string[] = [];
  return {
    statements,
    query(query: MysqlQuery) {
      statements.push(query.sql);
      return pool.query(query);
    },
    async getConnection() {
      const connection = await pool.getConnection();
      return {
        query(query: MysqlQuery, values?: unknown[]) {
          statements.push(query.sql);
          return connection.query(query, values);
        },
        release: () => connection.release(),
        destroy: () => connection.destroy(),
      };
    },
  };
}
