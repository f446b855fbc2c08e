// What does each framework's adapter add to a request, with the memory store and with Redis, and what do
// the peers that the registry has? Every framework's servers run side by side and take turns. And how
// long does the first byte of a stream wait?

import { fork } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { connect } from "node:net";
import { join } from "node:path";
import { Redis } from "ioredis";
import { load } from "./http-load.mjs";
import { median, report, rounded, setting } from "./report.mjs";
import { REDIS_URL } from "./servers.mjs";

const CONNECTIONS = 64;
const ROUNDS = setting("BENCH_ROUNDS", 3);
const ROUND_MS = setting("BENCH_ROUND_MS", 1_000);
const WARM_UP_MS = setting("BENCH_WARM_UP_MS", 1_500);
const STREAMS = 40;
const FIRST_BYTE_MS_MAX = 5;
const KEYS_REPLAYED = 1_024;
const PREFIX = `bench_${randomBytes(4).toString("hex")}`;
const FRAMEWORKS = ["node:http", "Express", "Fastify", "Hono", "Koa", "Nest on Express"];
/** `express-idempotency` on Express; `@node-idempotency/nestjs` on Nest 10, with that as its bare server. */
const PEERS = { Express: "express-idempotency", "Nest on Express": "@node-idempotency/nestjs" };
const BARE_OF_PEER = { "Nest on Express": "peer-bare" };

const rows = {};
const targets = [];
let nextKey = 0;
for (const framework of FRAMEWORKS) {
  for (const store of ["memory", "Redis"]) await compare(framework, store);
}
report("http-adapters", {
  question: `what does each adapter add to a request at ${CONNECTIONS} connections?`,
  rows,
  targets,
  notes: [
    `Medians of ${ROUNDS} rounds of ${ROUND_MS} ms after ${WARM_UP_MS} ms; the in-process cache is off; the control waits for as many empty turns as there are calls to the store.`,
    "The peer on Nest runs on Nest 10, which it asks for, and is compared with a bare server of that.",
    `First byte: the median of ${STREAMS} streams whose second piece comes 50 ms later, less that of the bare server.`,
  ],
});
await cleanUp();

async function compare(framework, store) {
  const peer = PEERS[framework];
  const subjects = ["bare", "deferred-1", "deferred-2", "semel"];
  if (peer) subjects.push("peer", ...(BARE_OF_PEER[framework] ? [BARE_OF_PEER[framework]] : []));
  const servers = new Map();
  for (const subject of subjects) servers.set(subject, await start(framework, subject, store));
  const runs = subjects.flatMap((subject) => {
    if (subject === "deferred-1") return [{ subject, keys: "same" }];
    if (subject === "deferred-2" || subject.endsWith("bare")) return [{ subject, keys: "new" }];
    return [
      { subject, keys: "new" },
      { subject, keys: "same" },
    ];
  });
  const nameOf = ({ subject, keys }) => `${subject} ${keys}`;
  const samples = new Map(runs.map((run) => [nameOf(run), []]));
  for (const run of runs) await measure(servers.get(run.subject), run.keys, WARM_UP_MS);
  for (let round = 0; round < ROUNDS; round++) {
    for (const run of round % 2 === 0 ? runs : runs.toReversed()) {
      samples.get(nameOf(run)).push(await measure(servers.get(run.subject), run.keys, ROUND_MS));
    }
  }
  const firstByteMs =
    (await firstByte(servers.get("semel").port)) - (await firstByte(servers.get("bare").port));
  for (const { child } of servers.values()) child.disconnect();
  tell(framework, store, samples, firstByteMs);
}

function tell(framework, store, samples, firstByteMs) {
  const within = (name, other, value) =>
    median(samples.get(name).map((one, i) => value(one, samples.get(other)[i])));
  const ratio = (name, other) => within(name, other, (a, b) => a.perSecond / b.perSecond);
  const added = (name, other) => within(name, other, (a, b) => a.cpuMicros - b.cpuMicros);
  const peer = PEERS[framework];
  const bareOfPeer = `${BARE_OF_PEER[framework] ?? "bare"} new`;
  for (const [keys, what, control] of [
    ["new", "new keys", "deferred-2 new"],
    ["same", "replays", "deferred-1 same"],
  ]) {
    const semel = `semel ${keys}`;
    const row = `${framework}, ${store}, ${what}`;
    rows[row] = {
      "requests/s": Math.round(median(samples.get(semel).map(({ perSecond }) => perSecond))),
      "of bare": rounded(ratio(semel, "bare new"), 2),
      "of control": rounded(ratio(semel, control), 2),
      "added CPU µs": rounded(added(semel, "bare new")),
      ...(peer && {
        "peer of bare": rounded(ratio(`peer ${keys}`, bareOfPeer), 2),
        "peer added CPU µs": rounded(added(`peer ${keys}`, bareOfPeer)),
      }),
      ...(keys === "new" && { "first byte +ms": rounded(firstByteMs, 2) }),
    };
    if (!peer) continue;
    const measured = ratio(semel, "bare new") / ratio(`peer ${keys}`, bareOfPeer);
    targets.push({
      what: `${row}: share of the bare server kept, against ${peer}`,
      target: "> 1",
      measured: rounded(measured, 2).toString(),
      met: measured > 1,
    });
  }
  targets.push({
    what: `${framework}, ${store}: added to the first byte of a stream`,
    target: `≤ ${FIRST_BYTE_MS_MAX} ms`,
    measured: `${rounded(firstByteMs, 2)} ms`,
    met: firstByteMs <= FIRST_BYTE_MS_MAX,
  });
}

async function start(framework, subject, store) {
  // Of its own: frameworks that parse before us have other fingerprints.
  const args = [framework, subject, store, `${PREFIX}-${framework.replace(/\W/g, "")}`];
  const child = fork(join(import.meta.dirname, "adapter-server.mjs"), args, {
    execArgv: ["--no-warnings"],
  });
  // Otherwise all that is seen of it is a refused connection, or a silence that never ends.
  child.on("exit", (code, signal) => {
    if (code === 0) return;
    throw new Error(`${framework}, ${store}: the server "${subject}" died of ${signal ?? code}`);
  });
  const [{ port }] = await once(child, "message");
  return { child, port, subject };
}

async function measure(server, keys, durationMs) {
  const { child, port, subject } = server;
  const options = { port, connections: CONNECTIONS, status: 201 };
  const again = (count) => () => `same-${count.next++ % KEYS_REPLAYED}`;
  if (keys === "same" && !server.isPrimed && !subject.startsWith("deferred")) {
    // Fewer at a time than there are keys, so that none meets its own first attempt.
    const before = (await usage(child)).executed;
    const first = { next: 0 };
    while ((await usage(child)).executed - before < KEYS_REPLAYED) {
      await load({ ...options, connections: 16, durationMs: 200, keyOf: again(first) });
    }
    server.isPrimed = true;
  }
  const keyOf = keys === "new" ? () => `new-${nextKey++}` : again({ next: 0 });
  const before = await usage(child);
  const result = await load({ ...options, durationMs, keyOf });
  const after = await usage(child);
  return { ...result, cpuMicros: (after.cpuMicros - before.cpuMicros) / result.requests };
}

async function usage(child) {
  child.send("usage");
  const [message] = await once(child, "message");
  return message;
}

/** How long a client waits for the first byte of a stream's body. */
async function firstByte(port) {
  const times = [];
  for (let i = 0; i < STREAMS; i++) {
    const socket = connect({ port, host: "127.0.0.1", noDelay: true });
    await once(socket, "connect");
    const sentAt = performance.now();
    socket.write(
      `POST /stream HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\nIdempotency-Key: stream-${nextKey++}\r\n\r\n`,
    );
    let received = "";
    while (!received.includes("first")) received += (await once(socket, "data"))[0];
    times.push(performance.now() - sentAt);
    socket.resume();
    await once(socket, "close");
  }
  return median(times);
}

async function cleanUp() {
  const redis = new Redis(REDIS_URL);
  for await (const keys of redis.scanStream({ match: `*${PREFIX}*`, count: 1_000 })) {
    if (keys.length > 0) await redis.unlink(keys);
  }
  await redis.quit();
}
