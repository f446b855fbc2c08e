// What does a remembered message take in each store? So many of them (BENCH_MESSAGES), with UUIDs for ids
// and a payload whose digest is kept.

import { randomBytes, randomUUID } from "node:crypto";
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import Database from "libsql";
import mysql from "mysql2/promise";
import pg from "pg";
import { Idempotency } from "../packages/semel/dist/index.js";
import { memoryStore } from "../packages/semel/dist/stores/memory.js";
import { mysqlStore } from "../packages/semel/dist/stores/mysql.js";
import { postgresStore } from "../packages/semel/dist/stores/postgres.js";
import { redisStore } from "../packages/semel/dist/stores/redis.js";
import { sqliteStore } from "../packages/semel/dist/stores/sqlite.js";
import { report, rounded, setting } from "./report.mjs";
import { dropAll, MYSQL_URL, POSTGRES_URL, REDIS_URL } from "./servers.mjs";

const MESSAGES = setting("BENCH_MESSAGES", 100_000);
const BATCH = 500;
const PREFIX = `bench_${randomBytes(4).toString("hex")}`;
/** As long as the default one, so that it takes as much. */
const KEY_PREFIX = `${randomBytes(3).toString("hex").slice(0, 5)}:`;

const rows = {};
for (const [name, measure] of Object.entries({
  memory,
  SQLite: sqlite,
  Postgres: postgres,
  MySQL: mariadb,
  Redis: redis,
})) {
  rows[name] = { "bytes a message": rounded((await measure()) / MESSAGES, 0) };
}
report("inbox-memory", {
  question: `what do ${MESSAGES} remembered messages take in each store?`,
  rows,
  notes: [
    "Postgres: packed (VACUUM FULL). MySQL: the server's own account of the table and its indexes. Redis: used_memory of the whole server, so nothing else may use it. Memory: of the heap and outside of it, collected.",
  ],
});

async function fill(store) {
  const inbox = new Idempotency({ store, cache: false, sweep: false }).inbox("billing");
  for (let left = MESSAGES; left > 0; left -= BATCH) {
    const messages = Array.from({ length: Math.min(left, BATCH) }, () => {
      const id = randomUUID();
      return { id, payload: { id } };
    });
    await inbox.processBatch(messages, () => {});
  }
}

async function memory() {
  globalThis.gc?.();
  const used = () => {
    globalThis.gc?.();
    const { heapUsed, external } = process.memoryUsage();
    return heapUsed + external;
  };
  const store = memoryStore({ entriesMax: MESSAGES + 1, bytesMax: 2 ** 31 });
  const before = used();
  await fill(store);
  const bytes = used() - before;
  await store.stats();
  return bytes;
}

async function sqlite() {
  const folder = mkdtempSync(join(tmpdir(), "semel-bench-"));
  const file = join(folder, "inbox.db");
  const database = new Database(file);
  try {
    const store = sqliteStore(database);
    await store.migrate();
    await fill(store);
    database.exec("PRAGMA wal_checkpoint(TRUNCATE)");
    return statSync(file).size;
  } finally {
    database.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

async function postgres() {
  const pool = new pg.Pool({ connectionString: POSTGRES_URL, max: 4 });
  try {
    const store = postgresStore(pool, { table: PREFIX });
    await store.migrate();
    await fill(store);
    await pool.query(`VACUUM FULL ${PREFIX}_records`);
    const { rows: sizes } = await pool.query("SELECT pg_total_relation_size($1) AS total", [
      `${PREFIX}_records`,
    ]);
    return Number(sizes[0].total);
  } finally {
    await dropAll(pool, PREFIX);
    await pool.end();
  }
}

async function mariadb() {
  const pool = mysql.createPool({ uri: MYSQL_URL, connectionLimit: 4 });
  const records = `${PREFIX}_records`;
  try {
    const store = mysqlStore(pool, { table: PREFIX });
    await store.migrate();
    await fill(store);
    await pool.query(`ANALYZE TABLE ${records}`);
    const [[size]] = await pool.query(
      `SELECT data_length + index_length AS total FROM information_schema.tables
       WHERE table_schema = DATABASE() AND table_name = ?`,
      [records],
    );
    return Number(size.total);
  } finally {
    await pool.query(`DROP TABLE IF EXISTS ${records}, ${PREFIX}_schema`);
    await pool.end();
  }
}

async function redis() {
  const client = new Redis(REDIS_URL);
  try {
    const store = redisStore(client, { prefix: KEY_PREFIX });
    const used = async () => Number(/used_memory:(\d+)/.exec(await client.info("memory"))[1]);
    const before = await used();
    await fill(store);
    return (await used()) - before;
  } finally {
    for await (const keys of client.scanStream({ match: `${KEY_PREFIX}*`, count: 1_000 })) {
      if (keys.length > 0) await client.unlink(keys);
    }
    await client.quit();
  }
}
