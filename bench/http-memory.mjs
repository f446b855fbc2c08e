// What does Semel add to a request of a node:http server, with the memory store? Against the same
// server without it, against the same server with as many empty turns of the event loop as Semel
// makes calls to its store, and against a peer. All servers run side by side and take turns.

import { fork } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { load } from "./http-load.mjs";
import { median, report, rounded, setting } from "./report.mjs";

const CONNECTIONS = 64;
const ROUNDS = setting("BENCH_ROUNDS", 5);
const ROUND_MS = setting("BENCH_ROUND_MS", 3_000);
const WARM_UP_MS = 500;
const KEYS_REPLAYED = 16;
const NEW_MICROS_MAX = 40;
const REPLAY_MICROS_MAX = 25;
const PEER_RATIO_MIN = 1.5;

/** Each with the control and the peer that it is compared with. */
const RUNS = [
  { name: "bare", server: "bare", keys: "new" },
  { name: "deferred control, 2 turns", server: "deferred-2", keys: "new" },
  { name: "Semel, new keys", server: "semel", keys: "new", control: "deferred control, 2 turns" },
  { name: "peer, new keys", server: "peer", keys: "new", control: "deferred control, 2 turns" },
  { name: "deferred control, 1 turn", server: "deferred-1", keys: "same" },
  { name: "Semel, replays", server: "semel", keys: "same", control: "deferred control, 1 turn" },
  {
    name: "Semel, replays, cache: false",
    server: "semel-uncached",
    keys: "same",
    control: "deferred control, 1 turn",
  },
  { name: "peer, replays", server: "peer", keys: "same", control: "deferred control, 1 turn" },
];

const servers = new Map();
for (const { server } of RUNS) {
  if (!servers.has(server)) servers.set(server, await start(server));
}
const samples = new Map(RUNS.map(({ name }) => [name, []]));
let nextKey = 0;
for (let round = 0; round < ROUNDS; round++) {
  // Every other round backwards, so that none always follows the same one.
  for (const run of round % 2 === 0 ? RUNS : RUNS.toReversed()) {
    samples.get(run.name).push(await measure(run));
  }
}
for (const { child } of servers.values()) child.disconnect();

const results = new Map(RUNS.map(({ name }) => [name, summary(samples.get(name))]));
const bareMicros = results.get("bare").cpuMicros;
const rows = {};
for (const { name, control } of RUNS) {
  const { perSecond, p50Ms, p99Ms, cpuMicros } = results.get(name);
  rows[name] = {
    "requests/s": Math.round(perSecond),
    "of bare": rounded(perSecond / results.get("bare").perSecond, 2),
    "p50 ms": rounded(p50Ms, 2),
    "p99 ms": rounded(p99Ms, 2),
    "CPU µs/request": rounded(cpuMicros),
    "added to bare µs": rounded(cpuMicros - bareMicros),
    ...(control && {
      "added to control µs": rounded(cpuMicros - results.get(control).cpuMicros),
    }),
  };
}
report("http-memory", {
  question: `what does Semel add to a request at ${CONNECTIONS} connections, memory store?`,
  rows,
  targets: [
    added("Semel, new keys", NEW_MICROS_MAX),
    added("Semel, replays", REPLAY_MICROS_MAX),
    added("Semel, replays, cache: false", REPLAY_MICROS_MAX),
    againstPeer("Semel, new keys", "peer, new keys"),
    againstPeer("Semel, replays", "peer, replays"),
  ],
  notes: [
    `Medians of ${ROUNDS} rounds of ${ROUND_MS} ms; ratios and differences within one round.`,
    "Peer: @node-idempotency/core with its memory adapter, which does not capture responses: the handler hands it the body.",
  ],
});

async function start(server) {
  const child = fork(join(import.meta.dirname, "http-server.mjs"), [server]);
  const [{ port }] = await once(child, "message");
  return { child, port };
}

async function measure({ server, keys }) {
  const { child, port } = servers.get(server);
  const keyOf =
    keys === "new" ? () => `new-${nextKey++}` : () => `same-${nextKey++ % KEYS_REPLAYED}`;
  if (keys === "same") {
    // One at a time, so that none meets its own first attempt.
    let first = 0;
    const once = () => `same-${first++ % KEYS_REPLAYED}`;
    await load({ port, connections: 1, durationMs: 50, keyOf: once, status: 201 });
  }
  const options = { port, connections: CONNECTIONS, keyOf, status: 201 };
  await load({ ...options, durationMs: WARM_UP_MS });
  const before = await usage(child);
  const result = await load({ ...options, durationMs: ROUND_MS });
  const after = await usage(child);
  const executed = after.executed - before.executed;
  const expected = keys === "new" || !/semel|peer/.test(server) ? result.requests : 0;
  if (executed !== expected) {
    throw new Error(`${server}: ${executed} executions of ${result.requests} requests`);
  }
  return { ...result, cpuMicros: (after.cpuMicros - before.cpuMicros) / result.requests };
}

async function usage(child) {
  child.send("usage");
  const [message] = await once(child, "message");
  return message;
}

function summary(rounds) {
  const middle = (key) => median(rounds.map((round) => round[key]));
  return {
    perSecond: middle("perSecond"),
    p50Ms: middle("p50Ms"),
    p99Ms: middle("p99Ms"),
    cpuMicros: middle("cpuMicros"),
  };
}

/** The median over rounds of what a run takes more than the bare server in the same round. */
function added(name, microsMax) {
  const bare = samples.get("bare");
  const micros = median(samples.get(name).map((one, i) => one.cpuMicros - bare[i].cpuMicros));
  return {
    what: `${name}: added CPU per request`,
    target: `≤ ${microsMax} µs`,
    measured: `${rounded(micros)} µs`,
    met: micros <= microsMax,
  };
}

function againstPeer(name, peer) {
  const others = samples.get(peer);
  const ratio = median(samples.get(name).map((one, i) => one.perSecond / others[i].perSecond));
  return {
    what: `${name}: throughput against the peer`,
    target: `≥ ${PEER_RATIO_MIN}`,
    measured: rounded(ratio, 2).toString(),
    met: ratio >= PEER_RATIO_MIN,
  };
}
