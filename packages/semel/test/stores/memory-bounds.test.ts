// The memory store at its bounds, over many records, and against the model of the conformance suite
// for all of them at once.

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { StoreFull } from "../../src/errors.ts";
import type { Claim, CrashPolicy, Store, StoredRecord } from "../../src/store.ts";
import { type MemoryStoreOptions, memoryStore } from "../../src/stores/memory.ts";
import {
  acquire,
  claimOf,
  complete,
  completion,
  duplicateOf,
  hold,
  LEASE_MS,
  RETENTION_MS,
  release,
  voiding,
} from "../../src/testing/claims.ts";
import { comparable, type ModelRecord, modelAt, modelStep } from "../../src/testing/model.ts";

function open(options: MemoryStoreOptions = {}) {
  let now = Date.UTC(2026, 0, 1);
  return {
    store: memoryStore({ ...options, clock: { now: () => now } }),
    now: () => now,
    elapse: (ms: number) => {
      now += ms;
    },
  };
}

describe("entries", () => {
  test("exactly as many as allowed fit, of every state, and whatever leaves makes room", async () => {
    const { store } = open({ entriesMax: 4 });
    const [done, held] = [claimOf(), claimOf()];
    await complete(store, done);
    await store.settle(hold(await acquire(store, held)));
    await acquire(store, claimOf());
    await store.void(voiding(claimOf()));
    await expect(store.begin(claimOf())).rejects.toThrow(StoreFull);
    await expect(store.void(voiding(claimOf()))).rejects.toThrow(StoreFull);
    await store.delete(done.id);
    expect((await store.begin(claimOf())).kind).toBe("acquired");
    await expect(store.begin(claimOf())).rejects.toThrow(StoreFull);
    await store.delete(held.id);
    expect((await store.begin(claimOf())).kind).toBe("acquired");
  });

  test("what is refused leaves nothing behind", async () => {
    const { store } = open({ entriesMax: 1 });
    await acquire(store, claimOf());
    const before = await store.stats();
    const refused = claimOf();
    await expect(store.begin(refused)).rejects.toThrow(StoreFull);
    expect(await store.read(refused.id)).toBeUndefined();
    expect(await store.stats()).toEqual(before);
  });

  test("expired records of mixed retentions make room, the live ones beside them stay", async () => {
    const { store, elapse } = open({ entriesMax: 100 });
    const long = Array.from({ length: 50 }, () => claimOf());
    for (const claim of long) {
      await complete(store, claim, "long", 10 * RETENTION_MS);
      await complete(store, claimOf(), "short", RETENTION_MS);
    }
    elapse(RETENTION_MS);
    for (let n = 0; n < 50; n++) await acquire(store, claimOf());
    await expect(store.begin(claimOf())).rejects.toThrow(StoreFull);
    for (const claim of long) expect((await store.begin(duplicateOf(claim))).kind).toBe("done");
  });
});

describe("bytes", () => {
  test("a completion with a small result always has room, however full the store is", async () => {
    const { store } = open({ bytesMax: 100_000 });
    const tokens = [];
    const scope = "字".repeat(100);
    for (;;) {
      const claim = claimOf({ scope, fingerprint: "f".repeat(128) });
      const answer = await store.begin(claim).catch((error: unknown) => error);
      if (answer instanceof StoreFull) break;
      tokens.push({ id: claim.id, attempt: 1, owner: claim.owner });
    }
    expect(tokens.length).toBeGreaterThan(50);
    for (const token of tokens) {
      expect(await store.settle(completion(token, new Uint8Array(64)))).toEqual({
        kind: "settled",
      });
    }
    expect((await store.stats()).bytes).toBeLessThanOrEqual(100_000);
  });

  test("a refused completion leaves the attempt running, to be ended otherwise", async () => {
    const { store } = open({ bytesMax: 10_000 });
    const token = await acquire(store, claimOf());
    await expect(store.settle(completion(token, new Uint8Array(10_000)))).rejects.toThrow(
      StoreFull,
    );
    expect((await store.read(token.id))?.state).toBe("running");
    expect(await store.settle(completion(token, "short"))).toEqual({ kind: "settled" });
  });

  test("the bound is for use: a store takes results to just below it", async () => {
    const { store } = open({ bytesMax: 1_000_000 });
    for (let n = 0; ; n++) {
      const token = await acquire(store, claimOf());
      const answer = await store.settle(completion(token, new Uint8Array(10_000))).catch(String);
      if (typeof answer === "string") break;
      expect(n).toBeLessThan(100);
    }
    const { bytes } = await store.stats();
    expect(bytes).toBeGreaterThan(980_000);
    expect(bytes).toBeLessThanOrEqual(1_000_000);
  });

  test("whatever is done to records, when all are gone so are their bytes", async () => {
    const { store, elapse } = open();
    for (let n = 0; n < 300; n++) {
      const claim = claimOf({ scope: "字".repeat(n % 7), onCrash: n % 2 ? "rerun" : "hold" });
      const token = await acquire(store, claim);
      if (n % 5 === 0) await store.settle(completion(token, new Uint8Array(n * 100)));
      if (n % 5 === 1) await store.settle(release(token));
      if (n % 5 === 2) await store.settle(hold(token, "unsure", RETENTION_MS));
      if (n % 5 === 3) await store.settle(hold(token));
      if (n % 5 === 3) await store.void(voiding(claim));
      if (n % 10 === 4) await store.renew({ ...token, leaseMs: 1, lapsedRetentionMs: 1 });
      if (n % 10 === 9) elapse(LEASE_MS);
      if (n % 10 === 9) await store.delete(claim.id);
    }
    elapse(100 * RETENTION_MS);
    await store.sweep(1_000);
    expect(await store.stats()).toEqual({
      states: { running: 0, completed: 0, held: 0, open: 0, void: 0 },
      oldestHeldMs: null,
      bytes: 0,
    });
  });
});

describe("eviction", () => {
  test("goes by completion, not by retention, and stops when there is room", async () => {
    const { store } = open({ entriesMax: 5, whenFull: "evict-completed" });
    const claims = Array.from({ length: 5 }, () => claimOf());
    for (const [index, claim] of claims.entries()) {
      await complete(store, claim, "result", (10 - index) * RETENTION_MS);
    }
    await acquire(store, claimOf());
    await acquire(store, claimOf());
    const states = await Promise.all(claims.map(({ id }) => store.read(id)));
    expect(states.map((record) => record !== undefined)).toEqual([false, false, true, true, true]);
  });

  test("makes room in bytes for a larger result", async () => {
    const { store } = open({ bytesMax: 100_000, whenFull: "evict-completed" });
    const first = claimOf();
    await complete(store, first, new Uint8Array(30_000));
    for (let n = 0; n < 20; n++) await complete(store, claimOf(), new Uint8Array(30_000));
    const { states, bytes } = await store.stats();
    expect(states.completed).toBe(3);
    expect(bytes).toBeLessThanOrEqual(100_000);
    expect(await store.read(first.id)).toBeUndefined();
  });

  test("what can never fit drives nothing out", async () => {
    const { store } = open({ bytesMax: 100_000, whenFull: "evict-completed" });
    const kept = claimOf();
    await complete(store, kept, new Uint8Array(30_000));
    const token = await acquire(store, claimOf());
    await expect(store.settle(completion(token, new Uint8Array(100_000)))).rejects.toThrow(
      StoreFull,
    );
    expect((await store.read(kept.id))?.state).toBe("completed");
  });

  test("spares whatever is not completed", async () => {
    const { store } = open({ entriesMax: 4, whenFull: "evict-completed" });
    const [held, released, voided] = [claimOf(), claimOf(), claimOf()];
    await store.settle(hold(await acquire(store, held)));
    await store.settle(release(await acquire(store, released)));
    await store.void(voiding(voided));
    for (let n = 0; n < 10; n++) await complete(store, claimOf());
    await acquire(store, claimOf());
    await expect(store.begin(claimOf())).rejects.toThrow(StoreFull);
    for (const { id } of [held, released, voided]) expect(await store.read(id)).toBeDefined();
  });
});

describe("many records", () => {
  test("a listing misses nothing and repeats nothing that completes meanwhile", async () => {
    const { store } = open();
    const tokens = [];
    for (let n = 0; n < 6_000; n++) tokens.push(await acquire(store, claimOf()));
    const listing = store.list({ limit: 1_000 });
    await Promise.all(tokens.map((token) => store.settle(completion(token))));
    const ids = (await listing).records.map(({ id }) => id);
    expect(new Set(ids).size).toBe(1_000);
    const expected = tokens.map(({ id }) => id).sort();
    expect(ids).toEqual(expected.slice(0, 1_000));
  });

  test("a listing of thousands is whole, page by page", async () => {
    const { store, elapse } = open();
    const ids: string[] = [];
    for (let n = 0; n < 5_000; n++) {
      const claim = claimOf();
      if (n % 3 === 0) await acquire(store, claim);
      else await complete(store, claim);
      ids.unshift(claim.id);
      elapse(1);
    }
    const listed: string[] = [];
    for (let cursor: string | undefined; ; ) {
      const page = await store.list({ limit: 700, ...(cursor !== undefined && { cursor }) });
      listed.push(...page.records.map(({ id }) => id));
      if (page.cursor === undefined) break;
      cursor = page.cursor;
    }
    expect(listed).toEqual(ids);
  });

  test("a sweep longer than a turn lets others in, and removes as many as it says", async () => {
    const { store, elapse } = open();
    for (let n = 0; n < 5_000; n++) await complete(store, claimOf());
    elapse(RETENTION_MS);
    let turns = 0;
    const ticker = setImmediate(function tick() {
      turns++;
      setImmediate(tick).unref();
    });
    const swept = await store.sweep(4_500);
    clearImmediate(ticker);
    expect(swept).toBe(4_500);
    expect(turns).toBeGreaterThan(0);
    expect(await store.sweep(1_000)).toBe(500);
  });
});

describe("against the model", () => {
  const claims = Array.from({ length: 12 }, (_, n) => claimOf({ key: `order-${n}` }));
  const which = fc.nat(claims.length - 1);
  const length = fc.constantFrom(1, 1_000, 60_000, 3_600_000);
  const step = fc.oneof(
    fc.record({
      kind: fc.constant("begin" as const),
      which,
      leaseMs: length,
      fingerprint: fc.constantFrom("v1:payload", "v1:payload", "v1:payload", "v1:other"),
      onCrash: fc.constantFrom<CrashPolicy>("rerun", "hold", "probe"),
      attemptsMax: fc.integer({ min: 2, max: 4 }),
      lapsedRetentionMs: fc.option(length),
      heldRetentionMs: fc.option(length),
    }),
    fc.record({
      kind: fc.constantFrom("complete" as const, "release" as const, "hold" as const),
      which,
      retentionMs: length,
      bytes: fc.constantFrom(0, 10, 5_000, 20_000),
      isZombie: fc.boolean(),
    }),
    fc.record({
      kind: fc.constantFrom("renew" as const, "resolve" as const, "void" as const),
      which,
      retentionMs: length,
    }),
    fc.record({ kind: fc.constant("delete" as const), which }),
    fc.record({ kind: fc.constant("sweep" as const) }),
    fc.record({ kind: fc.constant("elapse" as const), ms: length }),
  );

  test("every record is as the model says, whatever is done to the others", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 30, maxLength: 150 }), async (steps) => {
        const { store, now, elapse } = open();
        const model = new Map<string, ModelRecord>();
        for (const one of steps) {
          if (one.kind === "elapse") elapse(one.ms);
          else if (one.kind === "sweep") await store.sweep(3);
          else await apply(store, model, claims[one.which]!, one, now());
        }
        for (const { id } of claims) {
          const expected = modelAt(model.get(id), now());
          expect(inModel(await store.read(id), now())).toEqual(expected && readable(expected));
        }
        expect((await store.stats()).states).toEqual(statesOf(model, now()));
      }),
      { numRuns: 150 },
    );
  });

  type Step = Exclude<
    typeof step extends fc.Arbitrary<infer One> ? One : never,
    { kind: "elapse" | "sweep" }
  >;

  /** Does a step to the store and to the model, and demands the same answer. */
  async function apply(
    store: Store,
    model: Map<string, ModelRecord>,
    claim: Claim,
    one: Step,
    now: number,
  ): Promise<void> {
    const { id } = claim;
    const before = model.get(id);
    const current = modelAt(before, now);
    const token = { id, attempt: current?.attempt ?? 1, owner: current?.owner ?? "00".repeat(16) };
    const [operation, ask] = operationOf();
    const expected = modelStep(before, operation, now);
    expect(comparable(await ask())).toEqual(expected.answer);
    if (expected.record) model.set(id, expected.record);
    else model.delete(id);

    function operationOf(): [Parameters<typeof modelStep>[1], () => Promise<{ kind: string }>] {
      switch (one.kind) {
        case "begin": {
          const { kind, which: _which, ...parts } = one;
          const sent = duplicateOf(claim, parts);
          return [{ kind, claim: sent }, () => store.begin(sent)];
        }
        case "complete":
        case "release":
        case "hold": {
          const { retentionMs } = one;
          const sender = one.isZombie ? { ...token, attempt: token.attempt + 1 } : token;
          const result = new Uint8Array(one.bytes).fill(65 + one.which);
          const ending = {
            complete: () => completion(sender, result, retentionMs),
            release: () => release(sender, retentionMs),
            hold: () => hold(sender, "unsure", retentionMs),
          }[one.kind]();
          return [{ kind: "settle", ending }, () => store.settle(ending)];
        }
        case "renew": {
          const renewal = { ...token, leaseMs: one.retentionMs, lapsedRetentionMs: null };
          return [{ kind: "renew", renewal }, () => store.renew(renewal)];
        }
        case "resolve": {
          const { retentionMs } = one;
          const result = Buffer.from("as found out");
          const resolution = { id, kind: "complete" as const, result, retentionMs };
          return [{ kind: "resolve", resolution }, () => store.resolve(resolution)];
        }
        case "void": {
          const request = voiding(claim, one.retentionMs);
          return [{ kind: "void", request }, () => store.void(request)];
        }
        case "delete":
          return [{ kind: "delete" }, () => store.delete(id)];
      }
    }
  }
});

/** What a read can tell of a record in the model. */
function readable({ leaseUntil, ...record }: ModelRecord) {
  const reason = record.state === "held" ? record.reason : null;
  return { ...record, reason, leaseUntil: record.state === "running" ? leaseUntil : null };
}

function inModel(record: StoredRecord | undefined, now: number) {
  if (record === undefined) return undefined;
  const { state, attempt, owner, fingerprint, onCrash, crashes, result, reason } = record;
  return {
    state,
    attempt,
    owner,
    fingerprint,
    onCrash,
    crashes,
    reason: state === "held" ? reason : null,
    result: result && Buffer.from(result).toString(),
    leaseUntil: record.leaseRemainingMs === null ? null : now + record.leaseRemainingMs,
    expiresAt: record.expiresInMs === null ? null : now + record.expiresInMs,
  };
}

function statesOf(model: ReadonlyMap<string, ModelRecord>, now: number) {
  const states = { running: 0, completed: 0, held: 0, open: 0, void: 0 };
  for (const record of model.values()) {
    if (modelAt(record, now) === undefined) continue;
    const hasLapsed = record.state === "running" && record.leaseUntil <= now;
    states[hasLapsed && record.onCrash !== "rerun" ? "held" : record.state]++;
  }
  return states;
}
