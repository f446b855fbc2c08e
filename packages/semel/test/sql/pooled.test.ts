// within() joins one transaction: a pool, whose every statement may go another way, is none, and neither
// is a transaction of another database.

import { createPool } from "mysql2/promise";
import pg from "pg";
import postgres from "postgres";
import { describe, expect, test } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { fromMysql2, fromPg, fromPostgresJs, fromSqlite } from "../../src/sql/index.ts";
import { mysqlStore } from "../../src/stores/mysql.ts";
import { postgresStore } from "../../src/stores/postgres.ts";
import { sqliteDrivers } from "../sqlite-drivers.ts";

// Nothing of it is connected to.
const pool = new pg.Pool({ host: "127.0.0.1", port: 1 });
const sql = postgres({ host: "127.0.0.1", port: 1 });
const mysqlPool = createPool({ host: "127.0.0.1", port: 1 });
const onPostgres = new Idempotency({ store: postgresStore(pool), sweep: false });
const onMysql = new Idempotency({ store: mysqlStore(mysqlPool), sweep: false });
const refuse = () => expect.unreachable("the handler ran");

describe("within()", () => {
  test.each([
    ["pg", onPostgres, fromPg(pool as never)],
    ["postgres.js", onPostgres, fromPostgresJs(sql)],
    ["mysql2", onMysql, fromMysql2(mysqlPool)],
  ])("refuses a pool of %s", async (_name, idempotency, executor) => {
    expect(executor.isPooled).toBe(true);
    await expect(idempotency.within(executor, { key: "k" }, refuse)).rejects.toMatchObject({
      code: "option-invalid",
      message: expect.stringContaining("open one on a connection"),
    });
  });

  test.each([
    ["MySQL", onPostgres, fromMysql2({ query: refuse })],
    ["SQLite", onPostgres, fromSqlite(sqliteDrivers[0]!.open(":memory:"))],
    ["Postgres", onMysql, fromPg({ query: refuse })],
  ])(
    "refuses a transaction of %s where records are kept elsewhere",
    async (_name, one, executor) => {
      await expect(one.within(executor, { key: "k" }, refuse)).rejects.toMatchObject({
        code: "option-invalid",
        message: expect.stringContaining("cannot commit together"),
      });
    },
  );
});
