// What is combining worth on Postgres? At 64 concurrent callers, with `pg` and a pool of 10: new
// operations against one `INSERT … ON CONFLICT` for each claim and one `UPDATE` for each completion,
// replays against one `SELECT` each, as adapters of other libraries do it.

import { randomBytes } from "node:crypto";
import pg from "pg";
import { Idempotency } from "../packages/semel/dist/index.js";
import { postgresStore } from "../packages/semel/dist/stores/postgres.js";
import {
  atLeast,
  CALLERS,
  completeNew,
  inRounds,
  inTurn,
  METHOD,
  nextKey,
  RESULT,
  replayed,
  rowOf,
} from "./callers.mjs";
import { report } from "./report.mjs";
import { dropAll, POSTGRES_URL } from "./servers.mjs";

const CONNECTIONS = 10;
const BODY = RESULT.toString();
const NEW = "one statement per call, new";
const REPLAYS = "one SELECT per call, replays";
const PREFIX = `bench_${randomBytes(4).toString("hex")}`;

const pools = [];
const admin = poolOf(1);
try {
  await main();
} finally {
  await dropAll(admin, PREFIX);
  await Promise.all(pools.map((pool) => pool.end()));
}

async function main() {
  const [store, prepared] = [await semelStore({}), await semelStore({ prepare: true })];
  const engine = new Idempotency({ store, cache: false, sweep: false });
  const single = await singly();
  const run = async (key) => {
    await engine.run({ key, payload: { key } }, async () => BODY);
    return key;
  };
  const news = await inRounds({
    "Semel, engine, new": () => run(nextKey()),
    "Semel, store, new": () => completeNew(store),
    "Semel, store, new, prepared": () => completeNew(prepared),
    [NEW]: () => single.complete(nextKey()),
  });
  const storeReplays = (one) =>
    inTurn(
      (key) => completeNew(one, key),
      (name) => replayed(one, name),
    );
  const replays = await inRounds({
    "Semel, engine, replays": await inTurn(run, run),
    "Semel, store, replays": await storeReplays(store),
    "Semel, store, replays, prepared": await storeReplays(prepared),
    [REPLAYS]: await inTurn(single.complete, single.replay),
  });
  const rows = {};
  for (const [samples, baseline] of [
    [news, NEW],
    [replays, REPLAYS],
  ]) {
    for (const name of samples.keys()) rows[name] = rowOf(samples, name, baseline);
  }
  report("postgres-combining", {
    question: `what is combining worth on Postgres, at ${CALLERS} concurrent callers?`,
    rows,
    targets: [
      atLeast(news, "Semel, store, new", NEW, 5),
      atLeast(replays, "Semel, store, replays", REPLAYS, 5),
    ],
    notes: [
      METHOD,
      `\`pg\` with a pool of ${CONNECTIONS} for each; nothing prepared by name but where it says so.`,
    ],
  });
}

function poolOf(max) {
  const pool = new pg.Pool({ connectionString: POSTGRES_URL, max });
  pools.push(pool);
  return pool;
}

async function semelStore(options) {
  const table = `${PREFIX}_${pools.length}`;
  const store = postgresStore(poolOf(CONNECTIONS), { table, ...options });
  await store.migrate();
  return store;
}

/** A table as plain as it can be, and a statement for each thing that is asked of it. */
async function singly() {
  const pool = poolOf(CONNECTIONS);
  const table = `${PREFIX}_plain`;
  await pool.query(`CREATE TABLE ${table} (
    key text PRIMARY KEY,
    fingerprint text NOT NULL,
    owner uuid NOT NULL,
    locked_until timestamptz NOT NULL,
    expires_at timestamptz,
    result bytea
  )`);
  await pool.query(`CREATE INDEX ON ${table} (expires_at)`);
  const claim = `INSERT INTO ${table} AS r (key, fingerprint, owner, locked_until)
    VALUES ($1, $2, $3, now() + interval '30 s')
    ON CONFLICT (key) DO UPDATE SET owner = excluded.owner, locked_until = excluded.locked_until
      WHERE r.result IS NULL AND r.locked_until < now()
    RETURNING owner`;
  const complete = `UPDATE ${table} SET result = $3, expires_at = now() + interval '1 day'
    WHERE key = $1 AND owner = $2 AND result IS NULL`;
  const find = `SELECT fingerprint, locked_until, expires_at, result FROM ${table} WHERE key = $1`;
  return {
    async complete(key) {
      const owner = randomBytes(16).toString("hex");
      const claimed = await pool.query(claim, [key, `v1:${owner}${owner}`, owner]);
      if (claimed.rowCount !== 1) throw new Error(`${key} was there`);
      const completed = await pool.query(complete, [key, owner, RESULT]);
      if (completed.rowCount !== 1) throw new Error(`${key} was lost`);
      return key;
    },
    async replay(key) {
      const { rows } = await pool.query(find, [key]);
      if (rows[0].result.byteLength !== RESULT.byteLength) throw new Error(`${key} is not there`);
    },
  };
}
