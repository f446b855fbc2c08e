// What does it cost to remember messages? A consumer takes 100 messages at a time and writes what they
// say. On Postgres, with `pg`, in one transaction of batched writes: without remembering anything, with
// Semel's inbox, and with a statement for each message. On Redis, with `ioredis`, in one pipeline.

import { randomBytes } from "node:crypto";
import { Redis } from "ioredis";
import pg from "pg";
import { Idempotency } from "../packages/semel/dist/index.js";
import { fromPg } from "../packages/semel/dist/sql/index.js";
import { postgresStore } from "../packages/semel/dist/stores/postgres.js";
import { redisStore } from "../packages/semel/dist/stores/redis.js";
import { atLeast, inRounds, ratioOf, rowOf } from "./callers.mjs";
import { report, rounded, setting } from "./report.mjs";
import { dropAll, POSTGRES_URL, REDIS_URL } from "./servers.mjs";

const BATCH = 100;
/** Consumers at once, with a connection each. */
const CONSUMERS = setting("BENCH_CONSUMERS", 4);
const RATIO_MIN = 12;
const WITHIN = "Postgres: withinBatch()";
const EACH = "Postgres: a statement a message";
const PREFIX = `bench_${randomBytes(4).toString("hex")}`;
const ENTRIES = `${PREFIX}_entries`;
const MARKS = `${PREFIX}_marks`;
const KEYS = `${PREFIX}:`;
let next = 0;

const pool = new pg.Pool({ connectionString: POSTGRES_URL, max: CONSUMERS + 2 });
const redis = new Redis(REDIS_URL);
try {
  await main();
} finally {
  await dropAll(pool, PREFIX);
  await pool.end();
  for await (const keys of redis.scanStream({ match: `${KEYS}*`, count: 1_000 })) {
    if (keys.length > 0) await redis.unlink(keys);
  }
  await redis.quit();
}

async function main() {
  const subjects = await postgres();
  const onPostgres = await inRounds(subjects, CONSUMERS);
  // Where several commit at once, they share what a commit costs.
  const alone = await inRounds(
    Object.fromEntries([WITHIN, EACH].map((name) => [`${name}, one consumer`, subjects[name]])),
    1,
  );
  const onRedis = await inRounds(await redisSubjects(), CONSUMERS);
  const rows = {};
  const bare = { Postgres: "Postgres: nothing remembered", Redis: "Redis: nothing remembered" };
  for (const [samples, baseline] of [
    [onPostgres, bare.Postgres],
    [onRedis, bare.Redis],
  ]) {
    for (const name of samples.keys()) rows[name] = messagesOf(rowOf(samples, name, baseline));
  }
  for (const name of alone.keys()) {
    rows[name] = messagesOf(rowOf(alone, name, name));
    delete rows[name]["of nothing remembered"];
  }
  report("inbox", {
    question: `what does it cost to remember messages, in batches of ${BATCH}, for ${CONSUMERS} consumers?`,
    rows,
    targets: [
      atLeast(alone, `${WITHIN}, one consumer`, `${EACH}, one consumer`, RATIO_MIN),
      atLeast(onPostgres, WITHIN, EACH, RATIO_MIN),
      atLeast(onPostgres, "Postgres: withinBatch()", "Postgres: a statement a mark", 1),
    ],
    notes: [
      `Ratios are within one round. withinBatch() is ${rounded(ratioOf(onPostgres, "Postgres: withinBatch()", "Postgres: a statement a mark"), 1)} times a statement for each mark in one transaction with the batched writes.`,
      "A statement a message: one that marks and writes, committed by itself. Its marks are a table of ids with nothing else; Semel's have a fingerprint, an expiry and three indexes.",
    ],
  });
}

/** A row counts batches; a reader wants messages. */
function messagesOf({ "operations/s": batches, "of the baseline": ratio, ...others }) {
  return {
    "messages/s": batches * BATCH,
    "of nothing remembered": ratio,
    "p50 ms a batch": others["p50 ms"],
    "p99 ms a batch": others["p99 ms"],
    "client CPU µs a message": rounded(others["client CPU µs"] / BATCH, 2),
  };
}

function nextBatch() {
  return Array.from({ length: BATCH }, () => {
    const id = `${PREFIX}-${next++}`;
    return { id, payload: { id, cents: next } };
  });
}

async function postgres() {
  await pool.query(`CREATE TABLE ${ENTRIES} (message text NOT NULL, cents integer NOT NULL)`);
  await pool.query(
    `CREATE TABLE ${MARKS} (id text PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())`,
  );
  const store = postgresStore(pool, { table: PREFIX });
  await store.migrate();
  const inbox = new Idempotency({ store, cache: false, sweep: false }).inbox("ledger");
  const write = (client, messages) =>
    client.query(`INSERT INTO ${ENTRIES} SELECT * FROM unnest($1::text[], $2::integer[])`, [
      messages.map(({ id }) => id),
      messages.map(({ payload }) => payload.cents),
    ]);
  return {
    "Postgres: nothing remembered": () => inTransaction((client) => write(client, nextBatch())),
    [WITHIN]: () =>
      inTransaction((client) =>
        inbox.withinBatch(fromPg(client), nextBatch(), (fresh) => write(client, fresh)),
      ),
    "Postgres: transactionBatch()": () =>
      inbox.transactionBatch(nextBatch(), (client, fresh) => write(client, fresh)),
    "Postgres: a statement a mark": () =>
      inTransaction(async (client) => {
        const messages = nextBatch();
        for (const { id } of messages) {
          await client.query(`INSERT INTO ${MARKS} (id) VALUES ($1) ON CONFLICT DO NOTHING`, [id]);
        }
        await write(client, messages);
      }),
    [EACH]: async () => {
      for (const { id, payload } of nextBatch()) {
        await pool.query(
          `WITH mark AS (INSERT INTO ${MARKS} (id) VALUES ($1) ON CONFLICT DO NOTHING RETURNING id)
             INSERT INTO ${ENTRIES} SELECT id, $2 FROM mark`,
          [id, payload.cents],
        );
      }
    },
  };
}

async function inTransaction(work) {
  const client = await pool.connect();
  try {
    await client.query("BEGIN");
    await work(client);
    await client.query("COMMIT");
  } finally {
    client.release();
  }
}

async function redisSubjects() {
  const store = redisStore(redis, { prefix: KEYS });
  const inbox = new Idempotency({ store, cache: false, sweep: false }).inbox("ledger");
  const write = async (messages) => {
    const pipeline = redis.pipeline();
    for (const { id, payload } of messages)
      pipeline.set(`${KEYS}entry:${id}`, payload.cents, "PX", 60_000);
    await pipeline.exec();
  };
  return {
    "Redis: nothing remembered": () => write(nextBatch()),
    "Redis: processBatch()": () => inbox.processBatch(nextBatch(), write),
    "Redis: a command a message": async () => {
      const messages = nextBatch();
      for (const { id } of messages) await redis.set(`${KEYS}mark:${id}`, 1, "PX", 60_000, "NX");
      await write(messages);
    },
  };
}
