// A process of its own that runs one transaction, and stops at the point where it is to be killed.
//
//   node transaction-process.mjs '{ "backend": …, "url": …, "table": …, "key": …, "stop": … }'
//
// It prints the point when it is there: `in-handler` (with its order written), `before-commit`,
// `after-commit`.

import { Idempotency } from "../../dist/engine/idempotency.js";
import { mysqlStore } from "../../dist/stores/mysql.js";
import { postgresStore } from "../../dist/stores/postgres.js";
import { sqliteStore } from "../../dist/stores/sqlite.js";

const { backend, url, table, key, stop } = JSON.parse(process.argv[2]);

async function stopAt(point) {
  if (point !== stop) return;
  console.log(point);
  await new Promise((resolve) => setTimeout(resolve, 600_000));
}

/** Blocks the thread as well: SQLite's drivers are synchronous. */
function stopNowAt(point) {
  if (point !== stop) return;
  process.stdout.write(`${point}\n`);
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
}

/** A client whose commits stop before they are sent, or once they are done. */
function stopping(client, method, textOf) {
  return new Proxy(client, {
    get(target, name) {
      const value = target[name];
      if (name !== method) return typeof value === "function" ? value.bind(target) : value;
      return async (...given) => {
        const isCommit = textOf(given[0])?.endsWith("COMMIT");
        if (isCommit) await stopAt("before-commit");
        const answer = await value.apply(target, given);
        if (isCommit) await stopAt("after-commit");
        return answer;
      };
    },
  });
}

async function pgClient() {
  const { default: pg } = await import("pg");
  const pool = new pg.Pool({ connectionString: url });
  const connect = pool.connect.bind(pool);
  pool.connect = async () => stopping(await connect(), "query", (query) => query?.text ?? query);
  // The pool's own query() needs the connect() that takes a callback.
  pool.query = async (...given) => {
    const client = await connect();
    try {
      return await client.query(...given);
    } finally {
      client.release();
    }
  };
  const insert = (client) => client.query(`INSERT INTO ${table}_orders VALUES ($1)`, [key]);
  return { store: postgresStore(pool, { table }), insert };
}

async function mysqlClient() {
  const { createPool } = await import("mysql2/promise");
  const pool = createPool({ uri: url });
  const getConnection = pool.getConnection.bind(pool);
  pool.getConnection = async () => stopping(await getConnection(), "query", (query) => query.sql);
  const insert = (connection) => connection.query(`INSERT INTO ${table}_orders VALUES (?)`, [key]);
  return { store: mysqlStore(pool, { table }), insert };
}

async function sqliteClient() {
  const open = await opener();
  const transactions = open();
  const exec = transactions.exec.bind(transactions);
  transactions.exec = (sql) => {
    if (sql === "COMMIT") stopNowAt("before-commit");
    exec(sql);
    if (sql === "COMMIT") stopNowAt("after-commit");
  };
  const insert = (database) => database.prepare(`INSERT INTO ${table}_orders VALUES (?)`).run(key);
  return { store: sqliteStore(open(), { table, transactions }), insert };
}

async function opener() {
  if (backend === "libsql") {
    const { default: Database } = await import("libsql");
    return () => new Database(url);
  }
  const { DatabaseSync } = process.getBuiltinModule("node:sqlite");
  return () => new DatabaseSync(url);
}

const connect = { pg: pgClient, mysql2: mysqlClient }[backend] ?? sqliteClient;
const { store, insert } = await connect();
const idempotency = new Idempotency({ store, sweep: false });
await idempotency.transaction({ key }, async (transaction) => {
  await insert(transaction);
  await stopAt("in-handler");
  return { by: "the one that was killed" };
});
console.log("done");
process.exit();
