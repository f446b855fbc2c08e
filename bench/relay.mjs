// How many effects a second does one relay deliver from Postgres, and does it slow down as the table
// fills with what was delivered? An empty table and one of a million delivered rows (BENCH_RECORDS), in
// turns. The delivery itself costs nothing, so that all that is measured is claiming and saying how it ended.

import { randomBytes } from "node:crypto";
import pg from "pg";
import { Idempotency } from "../packages/semel/dist/index.js";
import { queueItemId, recordId } from "../packages/semel/dist/key.js";
import { postgresStore } from "../packages/semel/dist/stores/postgres.js";
import { median, report, rounded, setting } from "./report.mjs";
import { dropAll, POSTGRES_URL } from "./servers.mjs";

const RECORDS = setting("BENCH_RECORDS", 1_000_000);
const ROUNDS = setting("BENCH_ROUNDS", 5);
const EFFECTS = setting("BENCH_EFFECTS", 20_000);
const CONCURRENCY = 1_000;
const CONNECTIONS = 10;
const PER_SECOND_MIN = 5_000;
const FLAT_MIN = 0.8;
const PREFIX = `bench_${randomBytes(4).toString("hex")}`;

const pool = new pg.Pool({ connectionString: POSTGRES_URL, max: CONNECTIONS });
const subjects = { empty: subject("empty"), full: subject("full") };
try {
  for (const { store } of Object.values(subjects)) await store.migrate();
  await fillWithDelivered(`${PREFIX}_full`);
  const rates = { empty: [], full: [] };
  for (let round = 0; round < ROUNDS; round++) {
    const names = round % 2 === 0 ? ["empty", "full"] : ["full", "empty"];
    for (const name of names) rates[name].push(await measure(subjects[name]));
  }
  const full = median(rates.full);
  const ratio = median(rates.full.map((rate, round) => rate / rates.empty[round]));
  const filled = `with ${RECORDS} delivered`;
  report("relay", {
    question: "how many effects a second does one relay deliver from Postgres?",
    rows: {
      "an empty table": { "effects/s": Math.round(median(rates.empty)) },
      [filled]: { "effects/s": Math.round(full) },
    },
    targets: [
      {
        what: `effects a second ${filled}`,
        target: `≥ ${PER_SECOND_MIN}`,
        measured: String(Math.round(full)),
        met: full >= PER_SECOND_MIN,
      },
      {
        what: `${filled}, against an empty table`,
        target: `≥ ${FLAT_MIN}`,
        measured: rounded(ratio, 2).toString(),
        met: ratio >= FLAT_MIN,
      },
    ],
    notes: [
      `${ROUNDS} rounds of ${EFFECTS} effects of as many operations, at most ${CONCURRENCY} at once, in one process; both tables in turns.`,
    ],
  });
} finally {
  await dropAll(pool, PREFIX);
  await pool.end();
}

function subject(name) {
  const store = postgresStore(pool, { table: `${PREFIX}_${name}` });
  return { store, idempotency: new Idempotency({ store, sweep: false }) };
}

/** Delivers a round of effects. @returns effects a second */
async function measure({ store, idempotency }) {
  await record(store, await recordedEffect({ store, idempotency }));
  let delivered = 0;
  const startedAt = performance.now();
  const relay = idempotency.relay({ mail: () => void delivered++ }, { concurrency: CONCURRENCY });
  await relay.drain();
  const rate = (delivered * 1_000) / (performance.now() - startedAt);
  await relay.close();
  if (delivered !== EFFECTS) throw new Error(`${delivered} of ${EFFECTS} were delivered`);
  return rate;
}

/** An effect as the engine records it. */
async function recordedEffect({ store, idempotency }) {
  const key = randomBytes(12).toString("hex");
  await idempotency.run({ key }, ({ effect }) => effect("mail", { to: "ada" }));
  const { items } = await store.queue.list({ kind: "effect", state: "waiting", limit: 1 });
  const sample = await store.queue.read(items[0].id);
  await store.queue.remove(sample.id);
  return sample;
}

/** Effects like the sample, each of an operation of its own. */
async function record(store, { name, payload }) {
  const adding = Array.from({ length: EFFECTS }, () => {
    const key = randomBytes(12).toString("hex");
    const operation = recordId("bench", key);
    const id = queueItemId(operation, "effect", name);
    const item = { id, kind: "effect", name, operation, scope: "bench", key, place: 0, payload };
    return () => store.queue.add([item], { dueInMs: 0 });
  });
  while (adding.length > 0) await Promise.all(adding.splice(0, 1_000).map((add) => add()));
}

async function fillWithDelivered(table) {
  await pool.query(
    `INSERT INTO ${table}_queue (created_at, due_at, expires_at, place, started, finished, kind,
       state, id, operation, name, scope, key, payload)
     SELECT now(), NULL, now() + interval '7 days', 0, 1, 1, 1, 1, gen_random_uuid(),
       gen_random_uuid(), 'mail', 'bench', n::text, '\\x01'
     FROM generate_series(1, ${RECORDS}) AS n`,
  );
  await pool.query(`VACUUM ANALYZE ${table}_queue`);
}
