// Random lives of many records at once, each step of them compared with the model. Steps of one
// round share a turn, so that a store that batches is compared as well.

import assert from "node:assert/strict";
import { randomInt } from "node:crypto";
import type {
  AttemptToken,
  Claim,
  CrashPolicy,
  RecordId,
  Store,
  StoredRecord,
  UnusedAttempt,
} from "../../store.ts";
import {
  assertRemaining,
  CRASH_POLICIES,
  claimOf,
  completion,
  DRIFT_MS_MAX,
  duplicateOf,
  hold,
  release,
  renewal,
  voiding,
} from "../claims.ts";
import { comparable, type ModelOperation, type ModelRecord, modelAt, modelStep } from "../model.ts";
import { type StoreCase, type StoreHarness, storeCase, together } from "../store-harness.ts";

const LIVES = 200;
const ROUNDS = 30;
/**
 * All times of the model are multiples of this, so that real time that passes besides decides
 * nothing: what is not yet due in the model is not due in the store for this long.
 */
const TICK_MS = 2 * DRIFT_MS_MAX;

/** A number from 0 to 1; Mulberry32, which is small, fast and good enough for choices. */
function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** One record and everyone who ever asked for it. */
class Life {
  readonly id: RecordId;
  readonly history: string[] = [];
  expected: ModelRecord | undefined;
  readonly #random: () => number;
  readonly #takesBack: boolean;
  readonly #origin: Claim;
  readonly #claims: Claim[] = [];
  readonly #tokens: AttemptToken[] = [];

  /** @param takesBack whether the store takes back attempts that never ran */
  constructor(random: () => number, takesBack: boolean) {
    this.#random = random;
    this.#takesBack = takesBack;
    // One bound for all claims of a life: whose bound counts after a takeover is left open.
    const lapsedRetentionMs = this.#pick([null, 2 * TICK_MS, 4 * TICK_MS]);
    this.#origin = claimOf({ lapsedRetentionMs, attemptsMax: 3 });
    this.id = this.#origin.id;
  }

  /** Chooses what happens next: mostly what a well-behaved caller does, often enough not. */
  next(): ModelOperation {
    const dice = this.#random();
    if (dice < 0.35) return { kind: "begin", claim: this.#claim() };
    if (dice < 0.45 && this.#claims.length > 0) {
      return { kind: "begin", claim: this.#pick(this.#claims) };
    }
    if (dice < (this.#takesBack ? 0.6 : 0.65)) return { kind: "settle", ending: this.#ending() };
    if (dice < 0.65 && this.#takesBack) return { kind: "give-back", unused: this.#unused() };
    if (dice < 0.8) return { kind: "renew", renewal: this.#renewal() };
    if (dice < 0.88) return { kind: "resolve", resolution: this.#resolution() };
    if (dice < 0.94) return { kind: "void", request: voiding(this.#origin, this.#retention()) };
    return { kind: "delete" };
  }

  /** Remembers who acquired, so that later writes may be theirs. */
  observe(operation: ModelOperation, record: ModelRecord | undefined): void {
    this.expected = record;
    if (operation.kind !== "begin" || record?.owner !== operation.claim.owner) return;
    this.#tokens.push({ id: this.id, attempt: record.attempt, owner: record.owner });
  }

  #claim(): Claim {
    const claim = duplicateOf(this.#origin, {
      fingerprint: this.#random() < 0.9 ? "v1:usual" : "v1:unusual",
      onCrash: this.#pick<CrashPolicy>(CRASH_POLICIES),
      leaseMs: this.#pick([TICK_MS, 2 * TICK_MS]),
      heldRetentionMs: this.#pick([null, 2 * TICK_MS]),
    });
    this.#claims.push(claim);
    return claim;
  }

  /** Usually of the latest attempt, sometimes of an earlier or of none. */
  #token(): AttemptToken {
    const latest = this.#tokens.at(-1) ?? { id: this.id, attempt: 1, owner: this.#origin.owner };
    const dice = this.#random();
    if (dice < 0.6) return latest;
    if (dice < 0.8) return this.#pick([...this.#tokens, latest]);
    if (dice < 0.9) {
      // What was given back is of attempt 0, and there is no number before that.
      const attempt = Math.max(0, latest.attempt + this.#pick([-1, 1]));
      return { ...latest, attempt };
    }
    return { ...latest, owner: this.#pick([...this.#claims, this.#origin]).owner };
  }

  #ending() {
    const token = this.#token();
    const result = `result ${Math.floor(this.#random() * 1_000)}`;
    return this.#pick([
      completion(token, result, this.#retention()),
      release(token, this.#retention()),
      hold(token, "unsure", this.#pick([null, this.#retention()])),
    ]);
  }

  #unused(): UnusedAttempt {
    return { ...this.#token(), retentionMs: this.#retention() };
  }

  #renewal() {
    const { lapsedRetentionMs } = this.#origin;
    return renewal(this.#token(), { leaseMs: this.#pick([1, 2, 3]) * TICK_MS, lapsedRetentionMs });
  }

  #resolution() {
    const base = { id: this.id, retentionMs: this.#retention() };
    const result = Buffer.from("resolved");
    return this.#random() < 0.5
      ? { ...base, kind: "open" as const }
      : { ...base, kind: "complete" as const, result };
  }

  #retention(): number {
    return this.#pick([TICK_MS, 3 * TICK_MS, 10 * TICK_MS]);
  }

  #pick<Item>(items: readonly Item[]): Item {
    return items[Math.floor(this.#random() * items.length)]!;
  }
}

function perform(store: Store, id: RecordId, operation: ModelOperation) {
  switch (operation.kind) {
    case "begin":
      return store.begin(operation.claim);
    case "settle":
      return store.settle(operation.ending);
    case "give-back":
      return store.giveBack!(operation.unused);
    case "renew":
      return store.renew(operation.renewal);
    case "resolve":
      return store.resolve(operation.resolution);
    case "void":
      return store.void(operation.request);
    case "delete":
      return store.delete(id);
  }
}

function assertAsExpected(
  actual: StoredRecord | undefined,
  expected: ModelRecord | undefined,
  now: number,
): void {
  if (actual === undefined || expected === undefined) {
    assert.equal(actual?.state, expected?.state);
    return;
  }
  const { state, attempt, fingerprint, crashes, result } = actual;
  assert.deepEqual(
    { state, attempt, fingerprint, crashes, result: result && Buffer.from(result).toString() },
    {
      state: expected.state,
      attempt: expected.attempt,
      fingerprint: expected.fingerprint,
      crashes: expected.crashes,
      result: expected.result,
    },
  );
  if (state === "running" || state === "completed") assert.equal(actual.owner, expected.owner);
  if (state === "running") {
    assert.equal(actual.onCrash, expected.onCrash);
    assertRemaining(actual.leaseRemainingMs, expected.leaseUntil - now);
  }
  if (state === "held") assert.equal(actual.reason, expected.reason);
  if (expected.expiresAt === null) assert.equal(actual.expiresInMs, null);
  else assertRemaining(actual.expiresInMs, expected.expiresAt - now);
}

async function stepAndCompare(store: Store, life: Life, now: number): Promise<void> {
  const operation = life.next();
  const step = modelStep(life.expected, operation, now);
  life.history.push(`at ${now / TICK_MS}: ${describe(operation)} → ${JSON.stringify(step.answer)}`);
  life.observe(operation, step.record);
  assert.deepEqual(comparable(await perform(store, life.id, operation)), step.answer);
  assertAsExpected(await store.read(life.id), step.record, now);
}

function describe(operation: ModelOperation): string {
  return JSON.stringify(operation, (_name, value: unknown) =>
    value instanceof Uint8Array ? Buffer.from(value).toString() : value,
  );
}

async function compareLives(harness: StoreHarness, seed: number): Promise<void> {
  const random = randomNumbers(seed);
  const takesBack = harness.store.giveBack !== undefined;
  const lives = Array.from({ length: LIVES }, () => new Life(random, takesBack));
  let now = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const steps = lives.map((life, n) =>
      stepAndCompare(harness.store, life, now).catch((error: unknown) => {
        throw new Error(lifeStory(seed, n, life), { cause: error });
      }),
    );
    await together([harness.store.sweep(LIVES), ...steps]);
    const ticks = Math.floor(random() * 3);
    if (ticks === 0) continue;
    await harness.elapse(ticks * TICK_MS);
    now += ticks * TICK_MS;
    for (const life of lives) life.expected = modelAt(life.expected, now);
  }
}

function lifeStory(seed: number, n: number, life: Life): string {
  return `Store and model differ (modelCase(${seed}), life ${n}) at the last of:\n${life.history.join("\n")}`;
}

/** Compares a store with the model through random lives; the same seed makes the same lives. */
export function modelCase(seed: number): StoreCase {
  return storeCase(
    `SM-1 to SM-19: ${LIVES} random lives of ${ROUNDS} steps are as the model says (seed ${seed})`,
    (harness) => compareLives(harness, seed),
  );
}

export const modelCases = [1, 2, 3]
  .map(modelCase)
  .concat(
    storeCase("SM-1 to SM-19: random lives of a new seed are as the model says", (harness) =>
      compareLives(harness, randomInt(2 ** 31)),
    ),
  );
