// What does Semel add to a request of a Fastify server at 64 connections, with Redis and with Postgres,
// the in-process cache off? Against the same server without it, against the same server with as many
// empty turns of the event loop as Semel makes calls to its store, and against peers on Redis. All
// servers run side by side and take turns.

import { fork } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { join } from "node:path";
import { Redis } from "ioredis";
import pg from "pg";
import { load } from "./http-load.mjs";
import { median, report, rounded, setting } from "./report.mjs";
import { dropAll, POSTGRES_URL, REDIS_URL } from "./servers.mjs";

const CONNECTIONS = 64;
const ROUNDS = setting("BENCH_ROUNDS", 5);
const ROUND_MS = setting("BENCH_ROUND_MS", 2_000);
const WARM_UP_MS = 3_500;
const SETTLING_MS = 200;
/** More than run at once, so that a batch is of different records. */
const KEYS_REPLAYED = 1_024;
const PEER_RATIO_MIN = 1.5;
const PREFIX = `bench_${randomBytes(4).toString("hex")}`;

const CONTROLS = { new: "deferred control, 2 turns", same: "deferred control, 1 turn" };
const PEERS = { "node-idempotency": "", "express-idempotency": " on Express", powertools: "" };
const KINDS = { new: "new keys", same: "replays" };
const RUNS = [
  { name: "bare", server: "bare", keys: "new" },
  ...Object.entries(KINDS).flatMap(([keys, what]) => [
    { name: CONTROLS[keys], server: keys === "new" ? "deferred-2" : "deferred-1", keys },
    { name: `Semel, Redis, ${what}`, server: "redis", keys, target: true },
    { name: `Semel, Postgres, ${what}`, server: "postgres", keys, target: true },
    ...Object.entries(PEERS).map(([peer, where]) => ({
      name: `${peer}${where}, Redis, ${what}`,
      server: peer,
      keys,
    })),
  ]),
];

const servers = new Map();
const samples = new Map(RUNS.map(({ name }) => [name, []]));
let nextKey = 0;
try {
  for (const { server } of RUNS) {
    if (!servers.has(server)) servers.set(server, await start(server));
  }
  // Until the compiler has seen it all: in its first seconds a server takes three times the CPU, and
  // one with more code before its handler takes longer to get up to speed.
  for (const run of RUNS) await measure(run, WARM_UP_MS);
  for (let round = 0; round < ROUNDS; round++) {
    // Every other round backwards, so that none always follows the same one.
    for (const run of round % 2 === 0 ? RUNS : RUNS.toReversed()) {
      samples.get(run.name).push(await measure(run));
    }
  }
} finally {
  for (const { child } of servers.values()) child.disconnect();
  await cleanUp();
}

const rows = {};
for (const { name, keys } of RUNS) {
  const middle = (key) => median(samples.get(name).map((round) => round[key]));
  rows[name] = {
    "requests/s": Math.round(middle("perSecond")),
    "of bare": rounded(ratio(name, "bare"), 2),
    "of control": rounded(ratio(name, CONTROLS[keys]), 2),
    "p50 ms": rounded(middle("p50Ms"), 2),
    "p99 ms": rounded(middle("p99Ms"), 2),
    "CPU µs/request": rounded(middle("cpuMicros")),
    "added to bare µs": rounded(addedMicros(name)),
  };
}
report("fastify-stores", {
  question: `what does Semel add to a request of Fastify at ${CONNECTIONS} connections?`,
  rows,
  targets: [
    ofControl("Semel, Redis, new keys", CONTROLS.new, 0.5),
    ofControl("Semel, Redis, replays", CONTROLS.same, 0.62),
    ofControl("Semel, Postgres, new keys", CONTROLS.new, 0.33),
    ofControl("Semel, Postgres, replays", CONTROLS.same, 0.5),
    added("Semel, Redis, new keys", 60),
    added("Semel, Redis, replays", 45),
    added("Semel, Postgres, new keys", 110),
    ...Object.entries(KINDS).flatMap(([, what]) =>
      Object.entries(PEERS).map(([peer, where]) =>
        againstPeer(`Semel, Redis, ${what}`, `${peer}${where}, Redis, ${what}`),
      ),
    ),
  ],
  notes: [
    `Medians of ${ROUNDS} rounds of ${ROUND_MS} ms; ratios and differences within one round.`,
    "CPU is that of the server's process, not of Redis or Postgres, which share the machine.",
    "`@node-idempotency/core` and `@aws-lambda-powertools/idempotency` do not capture responses: the handler hands them the body. `express-idempotency` runs on Express, for which alone it is.",
  ],
});

async function start(server) {
  const path = join(import.meta.dirname, "store-server.mjs");
  const child = fork(path, [server, PREFIX], { execArgv: ["--no-warnings"] });
  const [{ port }] = await once(child, "message");
  return { child, port };
}

async function measure({ server, keys }, durationMs = ROUND_MS) {
  const { child, port } = servers.get(server);
  const again = () => `same-${nextKey++ % KEYS_REPLAYED}`;
  const keyOf = keys === "new" ? () => `new-${nextKey++}` : again;
  const options = { port, connections: CONNECTIONS, keyOf, status: 201 };
  if (keys === "same" && !servers.get(server).isPrimed) {
    // Fewer at a time than there are keys, so that none meets its own first attempt.
    const before = (await usage(child)).executed;
    let first = 0;
    const once = () => `same-${first++ % KEYS_REPLAYED}`;
    while ((await usage(child)).executed - before < KEYS_REPLAYED) {
      await load({ ...options, connections: 16, durationMs: 200, keyOf: once });
    }
    servers.get(server).isPrimed = true;
  }
  await load({ ...options, durationMs: SETTLING_MS });
  const before = await usage(child);
  const result = await load({ ...options, durationMs });
  const after = await usage(child);
  const executed = after.executed - before.executed;
  const isPlain = server === "bare" || server.startsWith("deferred");
  const expected = keys === "new" || isPlain ? result.requests : 0;
  if (executed !== expected) {
    throw new Error(
      `${server}, ${keys} keys: ${executed} executions of ${result.requests} requests`,
    );
  }
  return { ...result, cpuMicros: (after.cpuMicros - before.cpuMicros) / result.requests };
}

async function usage(child) {
  child.send("usage");
  const [message] = await once(child, "message");
  return message;
}

function ratio(name, other) {
  const others = samples.get(other);
  return median(samples.get(name).map(({ perSecond }, i) => perSecond / others[i].perSecond));
}

/** The median over rounds of what a run takes more than the bare server in the same round. */
function addedMicros(name) {
  const bare = samples.get("bare");
  return median(samples.get(name).map(({ cpuMicros }, i) => cpuMicros - bare[i].cpuMicros));
}

function ofControl(name, control, ratioMin) {
  const measured = ratio(name, control);
  return {
    what: `${name}: throughput of the deferred control`,
    target: `≥ ${ratioMin}`,
    measured: rounded(measured, 2).toString(),
    met: measured >= ratioMin,
  };
}

function added(name, microsMax) {
  const micros = addedMicros(name);
  return {
    what: `${name}: added CPU per request`,
    target: `≤ ${microsMax} µs`,
    measured: `${rounded(micros)} µs`,
    met: micros <= microsMax,
  };
}

function againstPeer(name, peer) {
  const measured = ratio(name, peer);
  return {
    what: `${name}: throughput against ${peer}`,
    target: `≥ ${PEER_RATIO_MIN}`,
    measured: rounded(measured, 2).toString(),
    met: measured >= PEER_RATIO_MIN,
  };
}

async function cleanUp() {
  const redis = new Redis(REDIS_URL);
  for await (const keys of redis.scanStream({ match: `*${PREFIX}*`, count: 1_000 })) {
    if (keys.length > 0) await redis.unlink(keys);
  }
  await redis.quit();
  const pool = new pg.Pool({ connectionString: POSTGRES_URL, max: 1 });
  await dropAll(pool, PREFIX);
  await pool.end();
}
