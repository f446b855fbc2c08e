// What does a claim and a result in the business transaction cost? At 64 concurrent callers on
// Postgres, with `pg` and a pool of 10: one transaction of an INSERT and an UPDATE, bare, and the same
// as the handler of `transaction()`.

import { randomBytes } from "node:crypto";
import pg from "pg";
import { Idempotency } from "../packages/semel/dist/index.js";
import { postgresStore } from "../packages/semel/dist/stores/postgres.js";
import { atLeast, CALLERS, inRounds, METHOD, nextKey, RESULT, rowOf } from "./callers.mjs";
import { report } from "./report.mjs";
import { dropAll, POSTGRES_URL } from "./servers.mjs";

const CONNECTIONS = 10;
const ACCOUNTS = 10_000;
const BODY = RESULT.toString();
const PREFIX = `bench_${randomBytes(4).toString("hex")}`;
const PAYMENTS = `${PREFIX}_payments`;
const BALANCES = `${PREFIX}_balances`;
const BARE = "the transaction, bare";
const SEMEL = "the same in transaction()";
const RATIO_MIN = 0.6;

const pools = [];
const admin = poolOf(1);
try {
  await main();
} finally {
  await dropAll(admin, PREFIX);
  await Promise.all(pools.map((pool) => pool.end()));
}

async function main() {
  await admin.query(`CREATE TABLE ${PAYMENTS} (
    id bigserial PRIMARY KEY, account integer NOT NULL, cents integer NOT NULL, note text NOT NULL)`);
  await admin.query(
    `CREATE TABLE ${BALANCES} (account integer PRIMARY KEY, cents bigint NOT NULL)`,
  );
  await admin.query(
    `INSERT INTO ${BALANCES} SELECT number, 0 FROM generate_series(0, ${ACCOUNTS - 1}) AS number`,
  );
  const store = postgresStore(poolOf(CONNECTIONS), { table: PREFIX });
  await store.migrate();
  const idempotency = new Idempotency({ store, cache: false, sweep: false });
  const pool = poolOf(CONNECTIONS);
  const samples = await inRounds({
    [BARE]: () => bare(pool),
    [SEMEL]: async () => {
      const key = nextKey();
      await idempotency.transaction({ key, payload: { key } }, charge);
    },
  });
  const rows = Object.fromEntries(
    [...samples.keys()].map((name) => [name, rowOf(samples, name, BARE)]),
  );
  report("transactions", {
    question: `what does a result in the business transaction cost, on Postgres at ${CALLERS} concurrent callers?`,
    rows,
    targets: [atLeast(samples, SEMEL, BARE, RATIO_MIN)],
    notes: [METHOD, `\`pg\` with a pool of ${CONNECTIONS} for each.`],
  });
}

async function bare(pool) {
  const client = await pool.connect();
  try {
    await client.query("BEGIN");
    await charge(client);
    await client.query("COMMIT");
  } finally {
    client.release();
  }
}

async function charge(client) {
  const account = Math.floor(Math.random() * ACCOUNTS);
  await client.query(`INSERT INTO ${PAYMENTS} (account, cents, note) VALUES ($1, $2, $3)`, [
    account,
    1999,
    BODY,
  ]);
  await client.query(`UPDATE ${BALANCES} SET cents = cents + $2 WHERE account = $1`, [
    account,
    1999,
  ]);
  return BODY;
}

function poolOf(max) {
  const pool = new pg.Pool({ connectionString: POSTGRES_URL, max });
  pools.push(pool);
  return pool;
}
