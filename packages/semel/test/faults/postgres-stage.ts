// The Postgres server whose network fails, and the tables of one test file in it.

import { randomBytes } from "node:crypto";
import pg from "pg";
import { type PgPool, postgresStore } from "../../src/stores/postgres.ts";
import { postgresSource } from "../servers/postgres.ts";
import { findServer } from "../servers/server.ts";
import type { Opened, Orders } from "./enumeration.ts";

const found = await findServer(postgresSource);
const url = new URL("url" in found ? found.url : "postgres://postgres@127.0.0.1:1/nowhere");

export const missing = "reason" in found ? ` (skipped: ${found.reason})` : "";
export const table = `faults${randomBytes(6).toString("hex")}`;
export const target = { host: url.hostname, port: Number(url.port || 5432) };

const admin = new pg.Pool({ connectionString: url.href, max: 4 });

export type OpenedPostgres = Opened & { ping(): Promise<void> };

export function urlThrough(port: number): string {
  const through = new URL(url);
  through.hostname = "127.0.0.1";
  through.port = String(port);
  return through.href;
}

export function ordersOf(insert: Orders["insert"]): Orders {
  return {
    insert,
    ping: (opened) => (opened as OpenedPostgres).ping(),
    async count(sku) {
      const sql = `SELECT count(*) AS n FROM ${table}_orders WHERE sku = $1`;
      return Number((await admin.query(sql, [sku])).rows[0].n);
    },
  };
}

export async function setUp() {
  await admin.query(`CREATE TABLE ${table}_orders (sku text NOT NULL)`);
  await postgresStore(admin as PgPool, { table }).migrate();
  return async () => {
    await admin.query(`DROP TABLE ${table}_orders, ${table}_records, ${table}_schema`);
    await admin.end();
    if ("close" in found) await found.close();
  };
}
