// What does the gateway cost against a bare reverse proxy in front of the same service, at 64
// connections: for requests without keys, with new keys, and for replays? And does a body of 100 MB
// pass within constant memory?

import { fork, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { request as httpRequest } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { Redis } from "ioredis";
import { load } from "./http-load.mjs";
import { median, report, rounded, setting } from "./report.mjs";
import { REDIS_URL } from "./servers.mjs";

const CONNECTIONS = 64;
const ROUNDS = setting("BENCH_ROUNDS", 5);
const ROUND_MS = setting("BENCH_ROUND_MS", 2_000);
const WARM_UP_MS = 3_500;
const SETTLING_MS = 200;
/** More than run at once; all fit into the gateway's cache of results. */
const KEYS_REPLAYED = 512;
const BODY_BYTES = 100 * 2 ** 20;
const BODY_MEMORY_MAX_MIB = 64;
/** The clock of /proc/PID/stat. */
const TICK_US = 10_000;
const PREFIX = `bench_${randomBytes(4).toString("hex")}`;
const MAIN = join(import.meta.dirname, "../packages/cli/dist/main.js");
const folder = mkdtempSync(join(process.env.BENCH_FOLDER ?? tmpdir(), "semel-bench-"));

const RUNS = [
  { name: "bare proxy", front: "bare", keys: "none" },
  { name: "gateway, no keys", front: "sqlite", keys: "none", ratioMin: 0.95 },
  { name: "gateway, SQLite, new keys", front: "sqlite", keys: "new", ratioMin: 0.4 },
  { name: "gateway, SQLite, replays", front: "sqlite", keys: "same", ratioMin: 1.3 },
  { name: "gateway, Redis, new keys", front: "redis", keys: "new", ratioMin: 0.6 },
  { name: "gateway, Redis, replays", front: "redis", keys: "same", ratioMin: 1.3 },
];
const ADDED_P50_MS_MAX = 1;
const BODY = JSON.stringify({ order: "4711", amount: 1999, currency: "EUR", lines: [1, 2, 3] });

const children = [];
const samples = new Map(RUNS.map(({ name }) => [name, []]));
let nextKey = 0;
let service;
const fronts = {};
const bodies = [];
try {
  service = await forked("service");
  fronts.bare = await forked("proxy", service.port);
  fronts.sqlite = await gateway("--store", `sqlite:${join(folder, "semel.db")}`);
  fronts.redis = await gateway("--store", REDIS_URL, "--prefix", `${PREFIX}:`);
  for (const run of RUNS) await measure(run, WARM_UP_MS);
  for (let round = 0; round < ROUNDS; round++) {
    // Every other round backwards, so that none always follows the same one.
    for (const run of round % 2 === 0 ? RUNS : RUNS.toReversed()) {
      samples.get(run.name).push(await measure(run, ROUND_MS));
    }
  }
  for (const [what, keyed] of [
    ["upload without a key", false],
    ["download without a key", false],
    ["download with a key", true],
  ]) {
    bodies.push({ what, grewMiB: await growth(what.startsWith("upload"), keyed) });
  }
} finally {
  for (const child of children) child.kill("SIGTERM");
  await Promise.all(children.map((child) => child.exitCode ?? once(child, "exit")));
  rmSync(folder, { recursive: true, force: true });
  const redis = new Redis(REDIS_URL);
  for await (const keys of redis.scanStream({ match: `${PREFIX}*`, count: 1_000 })) {
    if (keys.length > 0) await redis.unlink(keys);
  }
  await redis.quit();
}

const rows = {};
for (const { name } of RUNS) {
  const middle = (key) => median(samples.get(name).map((round) => round[key]));
  rows[name] = {
    "requests/s": Math.round(middle("perSecond")),
    "of bare": rounded(ratio(name), 2),
    "p50 ms": rounded(middle("p50Ms"), 2),
    "p99 ms": rounded(middle("p99Ms"), 2),
    "CPU µs/request": rounded(middle("cpuMicros")),
  };
}
report("gateway", {
  question: `what does the gateway cost against a bare reverse proxy, at ${CONNECTIONS} connections?`,
  rows,
  targets: [
    ...RUNS.filter(({ ratioMin }) => ratioMin !== undefined).map(({ name, ratioMin }) => ({
      what: `${name}: throughput of the bare proxy`,
      target: `≥ ${ratioMin}`,
      measured: rounded(ratio(name), 2).toString(),
      met: ratio(name) >= ratioMin,
    })),
    ...RUNS.filter(({ keys }) => keys === "same").map(({ name }) => ({
      what: `${name}: added p50`,
      target: `< ${ADDED_P50_MS_MAX} ms`,
      measured: `${rounded(addedP50(name), 2)} ms`,
      met: addedP50(name) < ADDED_P50_MS_MAX,
    })),
    ...bodies.map(({ what, grewMiB }) => ({
      what: `100 MB, ${what}: the gateway's memory grew by`,
      target: `≤ ${BODY_MEMORY_MAX_MIB} MiB`,
      measured: `${Math.round(grewMiB)} MiB`,
      met: grewMiB <= BODY_MEMORY_MAX_MIB,
    })),
  ],
  notes: [
    `Medians of ${ROUNDS} rounds of ${ROUND_MS} ms; ratios within one round. Replays are the gateway's own answers: the service is not asked.`,
    "The bare proxy is one of 60 lines on `node:http`: kept connections, hop-by-hop headers, streams both ways.",
    "CPU is that of the proxy's or the gateway's process; load generator, service and Redis share the two cores.",
  ],
});

async function forked(...args) {
  const child = fork(join(import.meta.dirname, "gateway-servers.mjs"), args.map(String));
  children.push(child);
  const [{ port }] = await once(child, "message");
  return { child, port };
}

async function gateway(...flags) {
  const upstream = `http://127.0.0.1:${service.port}`;
  const args = ["gateway", "--upstream", upstream, "--listen", "127.0.0.1:0", "--scope", "shared"];
  // Its lines of requests are counted out on both sides: the bare proxy writes none.
  const child = spawn(process.execPath, [MAIN, ...args, "--log", "none", ...flags], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  children.push(child);
  for await (const line of createInterface(child.stdout)) {
    const found = /Listening on http:\/\/127\.0\.0\.1:(\d+)/.exec(line);
    if (found) return { child, port: Number(found[1]) };
  }
  throw new Error("the gateway did not start");
}

async function measure({ front, keys }, durationMs) {
  const { child, port } = fronts[front];
  const keyOf = { none: () => "", new: () => `new-${nextKey++}`, same }[keys];
  const options = { port, connections: CONNECTIONS, keyOf, status: 201 };
  if (keys === "none") options.requestOf = plain;
  if (keys === "same") {
    // Fewer at a time than there are keys, so that none meets its own first attempt.
    const end = nextKey + 2 * KEYS_REPLAYED;
    while (nextKey < end) await load({ ...options, connections: 16, durationMs: 100 });
  }
  await load({ ...options, durationMs: SETTLING_MS });
  const before = { executed: await executions(), cpu: cpuMicros(child) };
  const result = await load({ ...options, durationMs });
  const executed = (await executions()) - before.executed;
  const expected = keys === "same" ? 0 : result.requests;
  if (executed !== expected) throw new Error(`${front}, ${keys}: ${executed} of ${expected}`);
  return { ...result, cpuMicros: (cpuMicros(child) - before.cpu) / result.requests };
}

function same() {
  return `same-${nextKey++ % KEYS_REPLAYED}`;
}

function plain() {
  return `POST /charges HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: ${BODY.length}\r\n\r\n${BODY}`;
}

async function executions() {
  service.child.send("usage");
  const [{ executed }] = await once(service.child, "message");
  return executed;
}

function cpuMicros({ pid }) {
  const [utime, stime] = readFileSync(`/proc/${pid}/stat`, "latin1")
    .split(") ")[1]
    .split(" ")
    .slice(11);
  return (Number(utime) + Number(stime)) * TICK_US;
}

function ratio(name) {
  const bare = samples.get("bare proxy");
  return median(samples.get(name).map(({ perSecond }, i) => perSecond / bare[i].perSecond));
}

function addedP50(name) {
  const bare = samples.get("bare proxy");
  return median(samples.get(name).map(({ p50Ms }, i) => p50Ms - bare[i].p50Ms));
}

/** How much the gateway's resident memory grew at most while a body passed, after one that warmed it up. */
async function growth(isUpload, isKeyed) {
  const { child, port } = fronts.sqlite;
  await pass(port, isUpload, isKeyed);
  const before = residentMiB(child);
  let most = before;
  const watching = setInterval(() => {
    most = Math.max(most, residentMiB(child));
  }, 5);
  await pass(port, isUpload, isKeyed).finally(() => clearInterval(watching));
  return most - before;
}

async function pass(port, isUpload, isKeyed) {
  const key = isKeyed ? { "idempotency-key": `body-${nextKey++}` } : {};
  const [method, path] = isUpload
    ? ["POST", "/upload"]
    : [isKeyed ? "POST" : "GET", `/${BODY_BYTES}`];
  const request = httpRequest({ port, host: "127.0.0.1", method, path, headers: key });
  const answered = once(request, "response");
  const block = Buffer.alloc(2 ** 16, "x");
  for (let sent = 0; isUpload && sent < BODY_BYTES; sent += block.length) {
    if (!request.write(block)) await once(request, "drain");
  }
  request.end();
  const [response] = await answered;
  let length = 0;
  for await (const chunk of response) length += chunk.length;
  if (!isUpload && length !== BODY_BYTES) throw new Error(`${length} bytes came`);
}

function residentMiB({ pid }) {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "latin1"))[1]) / 1_024;
}
