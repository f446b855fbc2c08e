// What the benches of the stores share: callers that each have one operation under way, subjects that
// take turns in rounds, and the ratios between them within a round.

import { randomFillSync } from "node:crypto";
import { median, percentile, rounded, setting } from "./report.mjs";

export const CALLERS = 64;
const ROUNDS = setting("BENCH_ROUNDS", 5);
const ROUND_MS = setting("BENCH_ROUND_MS", 2_000);
/** Until the compiler has seen it all: a subject with more code takes longer to get up to speed. */
const WARM_UP_MS = 1_500;

/** What a result takes: the body of a small JSON answer. */
export const RESULT = Buffer.from("x".repeat(186));
export const RETENTION_MS = 86_400_000;
/** Of the keys that are replayed: more than run at once, so that batches are of different records. */
const KEYS_REPLAYED = 4_096;

export const METHOD = `Medians of ${ROUNDS} rounds of ${ROUND_MS} ms; ratios within one round.`;

/**
 * Runs every subject for a while, in turns, every other round backwards, so that none always follows
 * the same one.
 *
 * @param subjects by name, what one caller does
 * @param callers how many at once
 * @returns by name, what each round gave
 */
export async function inRounds(subjects, callers = CALLERS) {
  const samples = new Map(Object.keys(subjects).map((name) => [name, []]));
  for (const operate of Object.values(subjects)) await measure(operate, WARM_UP_MS, callers);
  for (let round = 0; round < ROUNDS; round++) {
    const names = Object.keys(subjects);
    for (const name of round % 2 === 0 ? names : names.toReversed()) {
      samples.get(name).push(await measure(subjects[name], ROUND_MS, callers));
    }
  }
  return samples;
}

async function measure(operate, durationMs, callers) {
  const latencies = [];
  const startedAt = performance.now();
  const endsAt = startedAt + durationMs;
  const cpu = process.cpuUsage();
  const call = async () => {
    for (let at = performance.now(); at < endsAt; ) {
      await operate();
      const now = performance.now();
      latencies.push(now - at);
      at = now;
    }
  };
  await Promise.all(Array.from({ length: callers }, call));
  const tookMs = performance.now() - startedAt;
  const { user, system } = process.cpuUsage(cpu);
  latencies.sort((a, b) => a - b);
  return {
    perSecond: (latencies.length * 1_000) / tookMs,
    p50Ms: percentile(latencies, 0.5),
    p99Ms: percentile(latencies, 0.99),
    clientMicros: (user + system) / latencies.length,
  };
}

/** The median over the rounds of how many times the throughput of another one has. */
export function ratioOf(samples, name, other) {
  const others = samples.get(other);
  return median(samples.get(name).map(({ perSecond }, i) => perSecond / others[i].perSecond));
}

/** A row of a report. */
export function rowOf(samples, name, baseline) {
  const middle = (key) => median(samples.get(name).map((round) => round[key]));
  return {
    "operations/s": Math.round(middle("perSecond")),
    "of the baseline": rounded(ratioOf(samples, name, baseline), 2),
    "p50 ms": rounded(middle("p50Ms"), 2),
    "p99 ms": rounded(middle("p99Ms"), 2),
    "client CPU µs": rounded(middle("clientMicros")),
  };
}

/** A target of a report. */
export function atLeast(samples, name, baseline, ratioMin) {
  const ratio = ratioOf(samples, name, baseline);
  return {
    what: `${name}: throughput against ${baseline}`,
    target: `≥ ${ratioMin}`,
    measured: rounded(ratio, 2).toString(),
    met: ratio >= ratioMin,
  };
}

let nextNumber = 0;

export function nextKey() {
  return `order-${nextNumber++}`;
}

/** As many random digits as an id or an owner has, as cheap as the engine gets its own. */
function nonce() {
  if (drawn === POOL.byteLength) {
    randomFillSync(POOL);
    drawn = 0;
  }
  drawn += 16;
  return POOL.hexSlice(drawn - 16, drawn);
}
const POOL = Buffer.alloc(4_096);
let drawn = POOL.byteLength;

const DIGEST = Buffer.alloc(32, 7).toString("base64url");

/** A claim as the engine makes it. What hashing its name and payload costs is the engine's. */
function claimOf(key, id) {
  return {
    id,
    scope: "",
    key,
    fingerprint: `v1:${DIGEST}`,
    owner: nonce(),
    leaseMs: 30_000,
    onCrash: "hold",
    attemptsMax: 10,
    lapsedRetentionMs: null,
    heldRetentionMs: null,
  };
}

/**
 * A new operation on a store: its claim and its completion.
 *
 * @returns what names it to {@link replayed}
 */
export async function completeNew(store, key = nextKey()) {
  const id = nonce();
  const claim = claimOf(key, id);
  const { kind, attempt } = await store.begin(claim);
  if (kind !== "acquired") throw new Error(`${key} was ${kind}`);
  const { owner } = claim;
  const settled = await store.settle({
    id,
    owner,
    attempt,
    kind: "complete",
    result: RESULT,
    retentionMs: RETENTION_MS,
  });
  if (settled.kind !== "settled") throw new Error(`${key} was ${settled.kind}`);
  return { key, id };
}

/** A duplicate of a finished operation on a store. */
export async function replayed(store, { key, id }) {
  const { kind, result } = await store.begin(claimOf(key, id));
  if (kind !== "done" || result.byteLength !== RESULT.byteLength) {
    throw new Error(`${key} was ${kind}`);
  }
}

/**
 * Calls for finished operations in turn, once they are there.
 *
 * @param finish given a key, resolves to what `replay` is given
 */
export async function inTurn(finish, replay) {
  const keys = Array.from({ length: KEYS_REPLAYED }, (_, number) => `replayed-${number}`);
  const finished = [];
  for (let at = 0; at < keys.length; at += CALLERS) {
    finished.push(...(await Promise.all(keys.slice(at, at + CALLERS).map(finish))));
  }
  let next = 0;
  return () => replay(finished[next++ % KEYS_REPLAYED]);
}
