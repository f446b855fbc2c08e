// What is combining worth on MySQL? At 64 concurrent callers, with `mysql2` and a pool of 10: new
// operations against one `INSERT IGNORE` for each claim and one `UPDATE` for each completion, replays
// against one `SELECT` each, as adapters of other libraries do it.

import { randomBytes } from "node:crypto";
import mysql from "mysql2/promise";
import { Idempotency } from "../packages/semel/dist/index.js";
import { mysqlStore } from "../packages/semel/dist/stores/mysql.js";
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
import { MYSQL_URL } from "./servers.mjs";

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
  const [rows] = await admin.query("SHOW TABLES LIKE ?", [`${PREFIX}%`]);
  for (const row of rows) await admin.query("DROP TABLE ??", Object.values(row));
  await Promise.all(pools.map((pool) => pool.end()));
}

async function main() {
  const store = mysqlStore(poolOf(CONNECTIONS), { table: PREFIX });
  await store.migrate();
  const engine = new Idempotency({ store, cache: false, sweep: false });
  const single = await singly();
  const run = async (key) => {
    await engine.run({ key, payload: { key } }, async () => BODY);
    return key;
  };
  const news = await inRounds({
    "Semel, engine, new": () => run(nextKey()),
    "Semel, store, new": () => completeNew(store),
    [NEW]: () => single.complete(nextKey()),
  });
  const replays = await inRounds({
    "Semel, engine, replays": await inTurn(run, run),
    "Semel, store, replays": await inTurn(
      (key) => completeNew(store, key),
      (name) => replayed(store, name),
    ),
    [REPLAYS]: await inTurn(single.complete, single.replay),
  });
  const rows = {};
  for (const [samples, baseline] of [
    [news, NEW],
    [replays, REPLAYS],
  ]) {
    for (const name of samples.keys()) rows[name] = rowOf(samples, name, baseline);
  }
  report("mysql-combining", {
    question: `what is combining worth on MySQL (MariaDB), at ${CALLERS} concurrent callers?`,
    rows,
    targets: [
      atLeast(news, "Semel, store, new", NEW, 5),
      atLeast(replays, "Semel, store, replays", REPLAYS, 5),
    ],
    notes: [METHOD, `\`mysql2\` with a pool of ${CONNECTIONS} for each, and \`query()\`.`],
  });
}

function poolOf(connectionLimit) {
  const pool = mysql.createPool({ uri: MYSQL_URL, connectionLimit });
  pools.push(pool);
  return pool;
}

/** A table as plain as it can be, and a statement for each thing that is asked of it. */
async function singly() {
  const pool = poolOf(CONNECTIONS);
  const table = `${PREFIX}_plain`;
  await pool.query(`CREATE TABLE ${table} (
    name varbinary(255) PRIMARY KEY,
    fingerprint varbinary(128) NOT NULL,
    owner binary(16) NOT NULL,
    locked_until datetime(3) NOT NULL,
    expires_at datetime(3),
    result longblob,
    INDEX (expires_at)
  )`);
  const claim = `INSERT IGNORE INTO ${table} (name, fingerprint, owner, locked_until)
    VALUES (?, ?, ?, now(3) + INTERVAL 30 SECOND)`;
  const complete = `UPDATE ${table} SET result = ?, expires_at = now(3) + INTERVAL 1 DAY
    WHERE name = ? AND owner = ? AND result IS NULL`;
  const find = `SELECT fingerprint, locked_until, expires_at, result FROM ${table} WHERE name = ?`;
  return {
    async complete(key) {
      const owner = randomBytes(16);
      const [claimed] = await pool.query(claim, [key, `v1:${BODY.slice(0, 43)}`, owner]);
      if (claimed.affectedRows !== 1) throw new Error(`${key} was there`);
      const [completed] = await pool.query(complete, [RESULT, key, owner]);
      if (completed.affectedRows !== 1) throw new Error(`${key} was lost`);
      return key;
    },
    async replay(key) {
      const [rows] = await pool.query(find, [key]);
      if (rows[0].result.byteLength !== RESULT.byteLength) throw new Error(`${key} is not there`);
    },
  };
}
