import { randomBytes } from "node:crypto";
import { createPool, type Pool } from "mysql2/promise";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { mysqlStore } from "../../src/stores/mysql.ts";
import { storeCases } from "../../src/testing/index.ts";
import { mysqlSource } from "../servers/mysql.ts";
import { findServer } from "../servers/server.ts";

const server = await findServer(mysqlSource);
const reason = "reason" in server ? ` (${server.reason})` : "";

describe.skipIf(reason)(`mysqlStore${reason}`, () => {
  const url = "url" in server ? server.url : "";
  const table = `t${randomBytes(6).toString("hex")}`;
  let pool: Pool;
  let other: Pool;
  beforeAll(async () => {
    pool = createPool({ uri: url });
    other = createPool({ uri: url });
    await mysqlStore(pool, { table }).migrate();
  });
  afterAll(async () => {
    await pool.query(`DROP TABLE IF EXISTS ${table}_records, ${table}_schema`);
    await pool.end();
    await other.end();
    if ("url" in server) await server.close();
  });
  afterEach(() => pool.query(`DELETE FROM ${table}_records`));
  for (const storeCase of storeCases) {
    it(storeCase.name, async () => {
      await storeCase.run({
        store: mysqlStore(pool, { table }),
        elapse: async (ms) => {
          const back = ["lease_until", "expires_at", "created_at", "updated_at"];
          const moved = back.map((column) => `${column} = ${column} - ${ms}`).join();
          await pool.query(`UPDATE ${table}_records SET ${moved}`);
        },
        another: async () => mysqlStore(other, { table }),
        damage: async (id, how) => {
          const damage = how === "newer" ? "format = format + 1" : "state = 99";
          await pool.query(`UPDATE ${table}_records SET ${damage} WHERE id = x'${id}'`);
        },
      });
    });
  }
});
