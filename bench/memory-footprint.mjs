// How much memory do a million finished operations take, and does the event loop ever stall for
// them? In a fresh process each: the memory store, and one object per record in a Map to compare.
// Then the bytes per record of a SQLite file.

import { fork } from "node:child_process";
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { report, rounded, setting } from "./report.mjs";

const RECORDS = setting("BENCH_RECORDS", 1_000_000);
/** New operations while as many as RECORDS are kept, as multiples of them. */
const CHURN = setting("BENCH_CHURN", 3);
const BODY_BYTES = 200;
const MEMORY_MIB_MAX = 450;
const STALL_MS_MAX = 100;

const SUBJECTS = {
  "memory store, 200-byte results": { kind: "memory", result: "plain" },
  "memory store, HTTP responses with 200-byte bodies": { kind: "memory", result: "http" },
  "a Map of objects, 200-byte results": { kind: "map", result: "plain" },
  "control: the same loop, nothing kept": { kind: "nothing", result: "plain" },
};
const SQLITE_RECORDS = [RECORDS / 10, RECORDS];

const STORES = { memory: memoryStore, map: mapOfObjects, nothing };

if (process.argv[2] === "subject") process.send(await measure(JSON.parse(process.argv[3])));
else await main();

async function main() {
  const rows = {};
  for (const [name, subject] of Object.entries(SUBJECTS))
    rows[name] = await inFreshProcess(subject);
  for (const records of SQLITE_RECORDS) {
    const subject = { kind: "sqlite", result: "plain", records };
    rows[`SQLite file, ${records} records`] = await inFreshProcess(subject);
  }
  const memory = rows["memory store, 200-byte results"];
  const stalls = ["insert stall ms", "churn stall ms", "expiry stall ms"].map((key) => memory[key]);
  const targets = [
    {
      what: `RSS with ${RECORDS} records`,
      target: `≤ ${MEMORY_MIB_MAX} MiB`,
      measured: `${memory["RSS MiB"]} MiB`,
      met: memory["RSS MiB"] <= MEMORY_MIB_MAX,
    },
    {
      what: "longest stall of the event loop",
      target: `≤ ${STALL_MS_MAX} ms`,
      measured: `${Math.max(...stalls)} ms`,
      met: Math.max(...stalls) <= STALL_MS_MAX,
    },
    {
      what: "RSS after churn, against before",
      target: "≤ 1.2",
      measured: `${rounded(memory["RSS after churn MiB"] / memory["RSS MiB"], 2)}`,
      met: memory["RSS after churn MiB"] <= 1.2 * memory["RSS MiB"],
    },
  ];
  report("memory-footprint", {
    question: `what do ${RECORDS} finished operations take?`,
    rows,
    targets,
    notes: [`Churn: ${CHURN * RECORDS} new operations while ${RECORDS} are kept.`],
  });
}

function inFreshProcess(subject) {
  return new Promise((resolve, reject) => {
    const child = fork(import.meta.filename, ["subject", JSON.stringify(subject)]);
    child.once("message", resolve);
    child.once("exit", (code) => {
      if (code !== 0) reject(new Error(`${JSON.stringify(subject)} ended with ${code}`));
    });
  });
}

function measure(subject) {
  if (subject.kind === "sqlite") return measureSqlite(subject);
  return measureMemory(subject);
}

async function measureMemory(subject) {
  const { recordId } = await import("../packages/semel/dist/key.js");
  const bare = process.memoryUsage().rss;
  let now = Date.now();
  const clock = { now: () => now };
  const store = await STORES[subject.kind](clock);
  const complete = completer(store, recordId, await resultOf(subject.result));
  // A tenth of a second per thousand records: at the end of the churn, as many are kept.
  const retentionMs = RECORDS / 10;
  const step = async (index) => {
    if (index % 10 === 0) now++;
    await complete(index, retentionMs);
  };

  const insert = await stallOf(() => inTurns(0, RECORDS, step));
  const rss = process.memoryUsage().rss;
  const bytes = (await store.stats?.())?.bytes;
  const churn = await stallOf(() =>
    inTurns(RECORDS, (1 + CHURN) * RECORDS, async (index) => {
      await step(index);
      if (index % 1_000 === 0) await store.sweep(2_000);
    }),
  );
  const rssChurned = process.memoryUsage().rss;
  const listing = store.list && (await stallOf(() => store.list({ limit: 100, scope: "nobody" })));
  now += 2 * retentionMs;
  const expiry = await stallOf(async () => {
    while ((await store.sweep(100_000)) > 0);
  });
  return {
    "bare RSS MiB": mebibytes(bare),
    "RSS MiB": mebibytes(rss),
    "bytes per record": Math.round((rss - bare) / RECORDS),
    ...(bytes && { "estimate / real": rounded(bytes / (rss - bare), 2) }),
    "RSS after churn MiB": mebibytes(rssChurned),
    "µs per new operation": rounded((insert.tookMs * 1_000) / RECORDS, 2),
    "insert stall ms": rounded(insert.stallMs),
    "churn stall ms": rounded(churn.stallMs),
    "expiry stall ms": rounded(expiry.stallMs),
    ...(listing && { "list stall ms": rounded(listing.stallMs) }),
  };
}

/** What the loop itself takes, and the machine's other work. */
function nothing() {
  return {
    begin: async () => ({ kind: "acquired", attempt: 1 }),
    settle: async () => ({ kind: "settled" }),
    sweep: async () => 0,
  };
}

async function memoryStore(clock) {
  const memory = await import("../packages/semel/dist/stores/memory.js");
  return memory.memoryStore({ clock, entriesMax: 2 * RECORDS, bytesMax: 2 ** 34 });
}

/** What one would write without thinking: a Map, and its order of insertion as that of expiry. */
function mapOfObjects(clock) {
  const records = new Map();
  return {
    async begin({ id, scope, key, fingerprint, owner }) {
      const createdAt = clock.now();
      records.set(id, { id, scope, key, fingerprint, owner, createdAt, state: "running" });
      return { kind: "acquired", attempt: 1 };
    },
    async settle({ id, result, retentionMs }) {
      const record = records.get(id);
      records.delete(id);
      records.set(id, {
        ...record,
        state: "completed",
        result: Uint8Array.from(result),
        expiresAt: clock.now() + retentionMs,
      });
    },
    async sweep(limit) {
      let removed = 0;
      for (const [id, { expiresAt }] of records) {
        if (removed === limit || expiresAt > clock.now()) break;
        records.delete(id);
        removed++;
      }
      return removed;
    },
  };
}

/** Completes the operation of a number, named and fingerprinted as the library would. */
function completer(store, recordId, result) {
  const hex = (index, digits) => (index * 2_654_435_761).toString(16).padStart(digits, "0");
  return async (index, retentionMs) => {
    const key = `${hex(index, 14).slice(-8)}-5f0a-7bcd-8def-${hex(index, 14).slice(-12).padStart(12, "0")}`;
    const scope = `tenant-${index % 1_000}`;
    const id = recordId(scope, key);
    const owner = `${hex(index, 16)}${id.slice(0, 16)}`;
    await store.begin({
      id,
      scope,
      key,
      fingerprint: `v1:${Buffer.from(id + id, "hex").toString("base64url")}`,
      owner,
      leaseMs: 30_000,
      onCrash: "hold",
      attemptsMax: 10,
      lapsedRetentionMs: null,
      heldRetentionMs: null,
    });
    await store.settle({ id, attempt: 1, owner, kind: "complete", result, retentionMs });
  };
}

/** A result as the engine seals it. */
async function resultOf(kind) {
  const body = Buffer.alloc(BODY_BYTES, "x");
  if (kind === "plain") return body;
  const { seal } = await import("../packages/semel/dist/engine/envelope.js");
  const { storedResponse } = await import("../packages/semel/dist/http/response.js");
  const headers = [["content-type", "application/json; charset=utf-8"]];
  return seal(storedResponse({ status: 201, headers, body }, true, () => true).result);
}

/** Runs `step` for each number, a few in each turn of the event loop. */
async function inTurns(from, to, step) {
  for (let index = from; index < to; index++) {
    await step(index);
    if (index % 64 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
}

/** The longest time between two turns of the event loop while something runs. */
async function stallOf(run) {
  let stallMs = 0;
  let isRunning = true;
  let last = performance.now();
  const startedAt = last;
  const tick = () => {
    const at = performance.now();
    stallMs = Math.max(stallMs, at - last);
    last = at;
    if (isRunning) setImmediate(tick);
  };
  setImmediate(tick);
  await run();
  isRunning = false;
  const tookMs = performance.now() - startedAt;
  return { stallMs: Math.max(stallMs, performance.now() - last), tookMs };
}

async function measureSqlite({ records, result }) {
  const { default: Database } = await import("libsql");
  const { sqliteStore } = await import("../packages/semel/dist/stores/sqlite.js");
  const { recordId } = await import("../packages/semel/dist/key.js");
  const folder = mkdtempSync(join(tmpdir(), "semel-bench-"));
  try {
    const database = new Database(join(folder, "bench.db"));
    const store = sqliteStore(database, { synchronous: "normal" });
    await store.migrate();
    const complete = completer(store, recordId, await resultOf(result));
    const startedAt = performance.now();
    for (let index = 0; index < records; index += 128) {
      const batch = Array.from({ length: Math.min(128, records - index) }, (_, n) =>
        complete(index + n, 86_400_000),
      );
      await Promise.all(batch);
    }
    const tookMs = performance.now() - startedAt;
    database.pragma("wal_checkpoint(TRUNCATE)");
    const bytes = statSync(join(folder, "bench.db")).size;
    database.close();
    return {
      "file MiB": mebibytes(bytes),
      "bytes per record": Math.round(bytes / records),
      "µs per new operation": rounded((tookMs * 1_000) / records, 2),
    };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function mebibytes(bytes) {
  return rounded(bytes / 2 ** 20);
}
