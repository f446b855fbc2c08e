// A process of its own, whose clock may be wrong, with a store on the same records. It answers each
// call that it is sent with what the store answers.
//
//   LD_PRELOAD=…/libfaketime.so.1 FAKETIME=+1h node skewed-process.mjs '{ "store": "postgres", "url": …, "name": … }'

import { mysqlStore } from "../../dist/stores/mysql.js";
import { postgresStore } from "../../dist/stores/postgres.js";
import { redisStore } from "../../dist/stores/redis.js";
import { sqliteStore } from "../../dist/stores/sqlite.js";

const { store: kind, url, name } = JSON.parse(process.argv[2]);

const open = {
  async postgres() {
    const { default: pg } = await import("pg");
    return postgresStore(new pg.Pool({ connectionString: url, max: 2 }), { table: name });
  },
  async mysql() {
    const { createPool } = await import("mysql2/promise");
    return mysqlStore(createPool({ uri: url, connectionLimit: 2 }), { table: name });
  },
  async redis() {
    const { Redis } = await import("ioredis");
    return redisStore(new Redis(url), { prefix: name });
  },
  async sqlite() {
    const { default: Database } = await import("libsql");
    return sqliteStore(new Database(url), { table: name });
  },
};

const store = await open[kind]();

process.on("message", async ({ call, method, args }) => {
  try {
    process.send({ call, answer: await store[method](...args) });
  } catch (error) {
    process.send({ call, error: String(error) });
  }
});
process.on("disconnect", () => process.exit());
process.send({ now: Date.now() });
