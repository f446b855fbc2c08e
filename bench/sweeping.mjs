// Does the sweep of expired records slow down what runs beside it? New operations and replays of 16
// callers, in turns with and without the engine's sweep, in tables of a million expired records
// (BENCH_RECORDS=10000000 for ten million, BENCH_STORES=Postgres,Redis for some of the stores).

import { randomBytes } from "node:crypto";
import { Redis } from "ioredis";
import mysql from "mysql2/promise";
import pg from "pg";
import { Idempotency } from "../packages/semel/dist/index.js";
import { mysqlStore } from "../packages/semel/dist/stores/mysql.js";
import { postgresStore } from "../packages/semel/dist/stores/postgres.js";
import { redisStore } from "../packages/semel/dist/stores/redis.js";
import { completeNew, nextKey, RESULT, replayed } from "./callers.mjs";
import { median, percentile, report, rounded, setting } from "./report.mjs";
import { dropAll, MYSQL_URL, POSTGRES_URL, REDIS_URL } from "./servers.mjs";

const RECORDS = setting("BENCH_RECORDS", 1_000_000);
const ROUNDS = setting("BENCH_ROUNDS", 5);
const ROUND_MS = setting("BENCH_ROUND_MS", 3_000);
const CALLERS = 16;
const BATCH = 1_000;
const SEED = 1_024;
const CONNECTIONS = 10;
const P50_RATIO_MAX = 1.5;
const P99_RATIO_MAX = 2;
const PREFIX = `bench_${randomBytes(4).toString("hex")}`;

const SUBJECTS = { Postgres: postgres, MySQL: mariadb, Redis: redis };
const STORES = process.env.BENCH_STORES?.split(",") ?? Object.keys(SUBJECTS);

const rows = {};
const targets = [];
for (const name of STORES) {
  const { store, fill, end } = await SUBJECTS[name]();
  try {
    const startedAt = performance.now();
    await fill();
    const filledMs = performance.now() - startedAt;
    const { quiet, swept, removed } = await compare(store);
    rows[name] = {
      "filled in s": Math.round(filledMs / 1_000),
      "p50 ms": rounded(median(quiet.map(({ p50Ms }) => p50Ms)), 2),
      "p50 while sweeping": rounded(median(swept.map(({ p50Ms }) => p50Ms)), 2),
      "p99 ms": rounded(median(quiet.map(({ p99Ms }) => p99Ms)), 2),
      "p99 while sweeping": rounded(median(swept.map(({ p99Ms }) => p99Ms)), 2),
      "swept/s": Math.round((removed * 1_000) / (ROUNDS * ROUND_MS)),
    };
    for (const [key, max] of [
      ["p50Ms", P50_RATIO_MAX],
      ["p99Ms", P99_RATIO_MAX],
    ]) {
      const ratio = median(swept.map((round, i) => round[key] / quiet[i][key]));
      targets.push({
        what: `${name}: ${key.slice(0, 3)} while sweeping, against quiet`,
        target: `≤ ${max}`,
        measured: rounded(ratio, 2).toString(),
        met: ratio <= max,
      });
    }
  } finally {
    await end();
  }
}
report(RECORDS === 10_000_000 ? "sweeping-10m" : "sweeping", {
  question: `does the sweep slow down what runs beside it, with ${RECORDS} expired records?`,
  rows,
  targets,
  notes: [
    `${ROUNDS} rounds of ${ROUND_MS} ms each, ${CALLERS} callers; a new operation and a replay in turn.`,
    `The engine's own sweep, in batches of ${BATCH}; ratios within one round.`,
    "Redis removes expired records by itself: what is swept are their places in the index.",
  ],
});

async function compare(store) {
  const idempotency = new Idempotency({ store, cache: false, sweep: false });
  await foreground(store, 1_000);
  const [quiet, swept] = [[], []];
  let removed = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const sweeping = async () => {
      const end = new AbortController();
      let inRound = 0;
      const purged = idempotency
        .purge({ batch: BATCH, signal: end.signal, onProgress: (count) => (inRound = count) })
        .catch((error) => {
          if (!end.signal.aborted) throw error;
        });
      const sample = await foreground(store, ROUND_MS);
      end.abort();
      await purged;
      if (inRound === 0) throw new Error("there was nothing to sweep");
      removed += inRound;
      swept.push(sample);
    };
    if (round % 2 === 1) await sweeping();
    quiet.push(await foreground(store, ROUND_MS));
    if (round % 2 === 0) await sweeping();
  }
  return { quiet, swept, removed };
}

async function foreground(store, durationMs) {
  const latencies = [];
  const endsAt = performance.now() + durationMs;
  const timed = async (operate) => {
    const at = performance.now();
    const answer = await operate();
    latencies.push(performance.now() - at);
    return answer;
  };
  const call = async () => {
    while (performance.now() < endsAt) {
      const name = await timed(() => completeNew(store));
      await timed(() => replayed(store, name));
    }
  };
  await Promise.all(Array.from({ length: CALLERS }, call));
  latencies.sort((a, b) => a - b);
  return { p50Ms: percentile(latencies, 0.5), p99Ms: percentile(latencies, 0.99) };
}

/** Operations that are forgotten as soon as they are complete. */
async function expired(store, count) {
  let left = count;
  const call = async () => {
    while (left-- > 0) {
      const id = randomBytes(16).toString("hex");
      const claim = {
        id,
        scope: "",
        key: nextKey(),
        fingerprint: `v1:${id}`,
        owner: id,
        leaseMs: 30_000,
        onCrash: "hold",
        attemptsMax: 10,
        lapsedRetentionMs: null,
        heldRetentionMs: null,
      };
      const { attempt } = await store.begin(claim);
      const ending = { kind: "complete", result: RESULT, retentionMs: 1 };
      await store.settle({ id, owner: id, attempt, ...ending });
    }
  };
  await Promise.all(Array.from({ length: 128 }, call));
}

/** Copies of a few, under other ids, in statements that each double them. */
async function doubled(copy) {
  for (let count = SEED; count < RECORDS; count *= 2) await copy(Math.min(count, RECORDS - count));
}

async function postgres() {
  const pool = new pg.Pool({ connectionString: POSTGRES_URL, max: CONNECTIONS });
  const store = postgresStore(pool, { table: PREFIX });
  await store.migrate();
  const records = `${PREFIX}_records`;
  const fill = async () => {
    await expired(store, SEED);
    const { rows: found } = await pool.query(
      "SELECT column_name AS name FROM information_schema.columns WHERE table_name = $1",
      [records],
    );
    const others = found.map(({ name }) => name).filter((name) => name !== "id");
    await doubled((limit) =>
      pool.query(`INSERT INTO ${records} (id, ${others})
        SELECT gen_random_uuid(), ${others} FROM ${records} LIMIT ${limit}`),
    );
    await pool.query(`VACUUM ANALYZE ${records}`);
    await pool.query("CHECKPOINT");
  };
  const end = async () => {
    await dropAll(pool, PREFIX);
    await pool.end();
  };
  return { store, fill, end };
}

async function mariadb() {
  const pool = mysql.createPool({ uri: MYSQL_URL, connectionLimit: CONNECTIONS });
  const store = mysqlStore(pool, { table: PREFIX });
  await store.migrate();
  const records = `${PREFIX}_records`;
  const fill = async () => {
    await expired(store, SEED);
    const [found] = await pool.query(
      "SELECT column_name AS name FROM information_schema.columns WHERE table_name = ? AND table_schema = DATABASE()",
      [records],
    );
    const names = found.map(({ name }) => name).filter((name) => name !== "id");
    const others = names.map((name) => `\`${name}\``);
    await doubled((limit) =>
      pool.query(`INSERT INTO ${records} (id, ${others})
        SELECT UNHEX(MD5(CONCAT(RAND(), HEX(id)))), ${others} FROM ${records} LIMIT ${limit}`),
    );
    await pool.query(`ANALYZE TABLE ${records}`);
  };
  const end = async () => {
    await pool.query(`DROP TABLE ${records}, ${PREFIX}_schema`);
    await pool.end();
  };
  return { store, fill, end };
}

async function redis() {
  const client = new Redis(REDIS_URL);
  const store = redisStore(client, { prefix: `${PREFIX}:` });
  const end = async () => {
    for await (const keys of client.scanStream({ match: `${PREFIX}:*`, count: 1_000 })) {
      if (keys.length > 0) await client.unlink(keys);
    }
    await client.quit();
  };
  return { store, fill: () => expired(store, RECORDS), end };
}
