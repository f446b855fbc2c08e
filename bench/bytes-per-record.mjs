// What does a finished operation take in each store? A million of them (BENCH_RECORDS), made through
// the store, with a 186-byte result, a 36-character key and a 46-character fingerprint.

import { randomBytes, randomUUID } from "node:crypto";
import { Redis } from "ioredis";
import mysql from "mysql2/promise";
import pg from "pg";
import { mysqlStore } from "../packages/semel/dist/stores/mysql.js";
import { postgresStore } from "../packages/semel/dist/stores/postgres.js";
import { redisStore } from "../packages/semel/dist/stores/redis.js";
import { completeNew, RESULT } from "./callers.mjs";
import { report, rounded, setting } from "./report.mjs";
import { dropAll, MYSQL_URL, POSTGRES_URL, REDIS_URL } from "./servers.mjs";

const RECORDS = setting("BENCH_RECORDS", 1_000_000);
/** So many at once that batches are full. */
const CALLERS = 256;
const CONNECTIONS = 10;
/** As long as the default one, so that it takes as much. */
const KEY_PREFIX = `${randomBytes(3).toString("hex").slice(0, 5)}:`;
const PREFIX = `bench_${randomBytes(4).toString("hex")}`;

const rows = {};
for (const [name, measure] of Object.entries({
  Postgres: postgres,
  MySQL: mariadb,
  Redis: redis,
})) {
  rows[name] = await measure();
}
report("bytes-per-record", {
  question: `what do ${RECORDS} finished operations take in each store?`,
  rows,
  notes: [
    `Results of ${RESULT.byteLength} bytes. Postgres: as written, with both versions of each row and their indexes, and packed (VACUUM FULL). MySQL: the server's own account of the table and its indexes. Redis: used_memory of the whole server, so nothing else may use it.`,
  ],
});

async function fill(store) {
  const startedAt = performance.now();
  let left = RECORDS;
  const call = async () => {
    while (left-- > 0) await completeNew(store, randomUUID());
  };
  await Promise.all(Array.from({ length: CALLERS }, call));
  const tookMs = performance.now() - startedAt;
  return { "operations/s": Math.round((RECORDS * 1_000) / tookMs) };
}

async function postgres() {
  const pool = new pg.Pool({ connectionString: POSTGRES_URL, max: CONNECTIONS });
  try {
    const store = postgresStore(pool, { table: PREFIX });
    await store.migrate();
    const logAt = async () => (await pool.query("SELECT pg_current_wal_lsn() AS at")).rows[0].at;
    const before = await logAt();
    const filled = await fill(store);
    const { rows: written } = await pool.query("SELECT pg_wal_lsn_diff($1, $2) AS bytes", [
      await logAt(),
      before,
    ]);
    const size = async () => {
      const { rows: sizes } = await pool.query(
        "SELECT pg_total_relation_size($1) AS total, pg_indexes_size($1) AS indexes",
        [`${PREFIX}_records`],
      );
      return sizes[0];
    };
    const asWritten = await size();
    await pool.query(`VACUUM FULL ${PREFIX}_records`);
    const packed = await size();
    return {
      ...filled,
      "bytes per record": perRecord(asWritten.total),
      packed: perRecord(packed.total),
      "of which indexes": perRecord(packed.indexes),
      "log per operation": perRecord(written[0].bytes),
    };
  } finally {
    await dropAll(pool, PREFIX);
    await pool.end();
  }
}

async function mariadb() {
  const pool = mysql.createPool({ uri: MYSQL_URL, connectionLimit: CONNECTIONS });
  const records = `${PREFIX}_records`;
  try {
    const store = mysqlStore(pool, { table: PREFIX });
    await store.migrate();
    const filled = await fill(store);
    await pool.query(`ANALYZE TABLE ${records}`);
    const [[size]] = await pool.query(
      `SELECT data_length AS data, index_length AS indexes FROM information_schema.tables
       WHERE table_schema = DATABASE() AND table_name = ?`,
      [records],
    );
    return {
      ...filled,
      "bytes per record": perRecord(size.data + size.indexes),
      "of which indexes": perRecord(size.indexes),
    };
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
    const filled = await fill(store);
    const after = await used();
    return { ...filled, "bytes per record": perRecord(after - before) };
  } finally {
    for await (const keys of client.scanStream({ match: `${KEY_PREFIX}*`, count: 1_000 })) {
      if (keys.length > 0) await client.unlink(keys);
    }
    await client.quit();
  }
}

function perRecord(bytes) {
  return rounded(Number(bytes) / RECORDS, 0);
}
