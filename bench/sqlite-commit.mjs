// What is combining the writes of many callers into one transaction worth? New operations at 64
// concurrent callers on a SQLite file that waits for the disk (WAL, synchronous=FULL): Semel, against
// one transaction for the claim and one for the completion of each, with the same driver and schema.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import Database from "libsql";
import { Idempotency } from "../packages/semel/dist/index.js";
import { recordId } from "../packages/semel/dist/key.js";
import { sqliteStore } from "../packages/semel/dist/stores/sqlite.js";
import { median, report, rounded, setting } from "./report.mjs";

const CALLERS = 64;
const ROUNDS = setting("BENCH_ROUNDS", 5);
const ROUND_MS = setting("BENCH_ROUND_MS", 3_000);
const RATIO_MIN = 8;
const BODY = "x".repeat(200);

let nextNumber = 0;
const folder = mkdtempSync(join(process.env.BENCH_FOLDER ?? tmpdir(), "semel-bench-"));
try {
  await main();
} finally {
  rmSync(folder, { recursive: true });
}

async function main() {
  const subjects = {
    "Semel, engine": await semelEngine(),
    "Semel, store alone": await semelStore(),
    "one transaction per call": await singly(),
  };
  const samples = new Map(Object.keys(subjects).map((name) => [name, []]));
  for (let round = 0; round < ROUNDS; round++) {
    const names = Object.keys(subjects);
    for (const name of round % 2 === 0 ? names : names.toReversed()) {
      samples.get(name).push(await measure(subjects[name]));
    }
  }
  const baseline = samples.get("one transaction per call");
  const ratioOf = (name) =>
    median(samples.get(name).map(({ perSecond }, i) => perSecond / baseline[i].perSecond));
  const rows = {};
  for (const [name, rounds] of samples) {
    rows[name] = {
      "operations/s": Math.round(median(rounds.map(({ perSecond }) => perSecond))),
      "of the baseline": rounded(ratioOf(name), 2),
      "longest stall ms": rounded(median(rounds.map(({ stallMs }) => stallMs))),
    };
  }
  const ratio = ratioOf("Semel, engine");
  report("sqlite-commit", {
    question: `new operations at ${CALLERS} concurrent callers, SQLite with synchronous=FULL`,
    rows,
    targets: [
      {
        what: "Semel against one transaction per call",
        target: `≥ ${RATIO_MIN}`,
        measured: rounded(ratio, 2).toString(),
        met: ratio >= RATIO_MIN,
      },
    ],
    notes: [
      `Medians of ${ROUNDS} rounds of ${ROUND_MS} ms; ratios within one round.`,
      `The file is in ${folder}: the ratio is that of its disk's flushes to everything else.`,
    ],
  });
}

async function openStore(name) {
  const database = new Database(join(folder, name));
  const store = sqliteStore(database);
  await store.migrate();
  return { database, store };
}

async function semelEngine() {
  const { store } = await openStore("engine.db");
  // No sweeper: what expires is no part of the question.
  const idempotency = new Idempotency({ store, cache: false });
  return async (number) => {
    await idempotency.run({ key: `order-${number}`, payload: { number } }, async () => BODY);
  };
}

async function semelStore() {
  const { store } = await openStore("store.db");
  const result = Buffer.from(BODY);
  return async (number) => {
    const claim = claimOf(number);
    const { attempt } = await store.begin(claim);
    const { id, owner } = claim;
    await store.settle({
      id,
      owner,
      attempt,
      kind: "complete",
      result,
      retentionMs: 86_400_000,
    });
  };
}

/** The same rows in the same table, each write in a transaction of its own. */
async function singly() {
  const { database } = await openStore("singly.db");
  database.pragma("synchronous = FULL");
  const begin = database.prepare("BEGIN IMMEDIATE");
  const commit = database.prepare("COMMIT");
  const insert = database.prepare(
    `INSERT INTO semel_records (id, scope, key, fingerprint, format, state, attempt, crashes, owner,
      on_crash, lease_until, created_at, updated_at)
    VALUES (?, ?, ?, ?, 1, 0, 1, 0, ?, 0, ?, ?, ?)`,
  );
  const update = database.prepare(
    `UPDATE semel_records SET state = 1, result = ?, lease_until = NULL, updated_at = ?,
      expires_at = ? WHERE id = ? AND attempt = ? AND owner = ? AND state = 0`,
  );
  const result = Buffer.from(BODY);
  const transact = (statement, parameters) => {
    begin.run();
    statement.run(...parameters);
    commit.run();
  };
  return async (number) => {
    const claim = claimOf(number);
    const id = Buffer.from(claim.id, "hex");
    const owner = Buffer.from(claim.owner, "hex");
    const now = Date.now();
    const { scope, key, fingerprint } = claim;
    transact(insert, [id, scope, key, fingerprint, owner, now + 30_000, now, now]);
    // Between the two, others have their turn, as they would while a handler runs.
    await new Promise((resolve) => setImmediate(resolve));
    transact(update, [result, now, now + 86_400_000, id, 1, owner]);
  };
}

function claimOf(number) {
  const key = `order-${number}`;
  const id = recordId("", key);
  return {
    id,
    scope: "",
    key,
    fingerprint: `v1:${id}`,
    owner: id,
    leaseMs: 30_000,
    onCrash: "hold",
    attemptsMax: 10,
    lapsedRetentionMs: null,
    heldRetentionMs: null,
  };
}

async function measure(operate) {
  const endsAt = performance.now() + ROUND_MS;
  const startedAt = performance.now();
  let operations = 0;
  let stallMs = 0;
  let last = startedAt;
  const ticker = setInterval(() => {
    const at = performance.now();
    stallMs = Math.max(stallMs, at - last);
    last = at;
  }, 1);
  const call = async () => {
    while (performance.now() < endsAt) {
      await operate(nextNumber++);
      operations++;
      // A caller has other things to do, too: the loop must turn for the ticker.
      if (operations % CALLERS === 0) await new Promise((resolve) => setImmediate(resolve));
    }
  };
  await Promise.all(Array.from({ length: CALLERS }, call));
  clearInterval(ticker);
  return { perSecond: (operations * 1_000) / (performance.now() - startedAt), stallMs };
}
