// The store that goes wrong on purpose: each fault does what it says, on the call that it names.

import { expect, test } from "vitest";
import { StoreUnavailable } from "../../src/errors.ts";
import type { Store } from "../../src/store.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { acquire, claimOf, completion, newOwner, voiding } from "../../src/testing/claims.ts";
import { faultyStore, type StoreMethod } from "../../src/testing/index.ts";
import { dead, itemClaim, itemOf } from "../../src/testing/queue-items.ts";

function gate() {
  let open = () => {};
  const until = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { until, open };
}

/** Turns of the event loop, so that whatever could go on has gone on. */
async function turns(): Promise<void> {
  for (let n = 0; n < 5; n++) await new Promise((resolve) => setImmediate(resolve));
}

/** One call of every method of the contract. */
function everyCall(store: Store): Record<StoreMethod, () => Promise<unknown>> {
  const claim = claimOf();
  const { id } = claim;
  const token = { id, attempt: 1, owner: claim.owner };
  const [queue, item] = [store.queue!, itemOf()];
  const claimed = { id: item.id, started: 1, owner: newOwner() };
  return {
    begin: () => store.begin(claim),
    renew: () => store.renew({ ...token, leaseMs: 1_000, lapsedRetentionMs: null }),
    append: () => store.append!({ ...token, bytes: Buffer.from("step") }),
    read: () => store.read(id),
    giveBack: () => store.giveBack!({ ...token, owner: newOwner(), retentionMs: 1_000 }),
    settle: () => store.settle({ ...token, kind: "hold", reason: "unsure", retentionMs: null }),
    resolve: () => store.resolve({ id, kind: "open", retentionMs: 1_000 }),
    void: () => store.void(voiding(claim)),
    list: () => store.list({ limit: 10 }),
    stats: () => store.stats(),
    delete: () => store.delete(id),
    sweep: () => store.sweep(10),
    "queue.add": () => queue.add([item], { dueInMs: 0 }),
    "queue.claim": () => queue.claim(itemClaim({ owner: claimed.owner })),
    "queue.renew": () => queue.renew([claimed], 1_000),
    "queue.read": () => queue.read(item.id),
    "queue.finish": () => queue.finish([dead(claimed)]),
    "queue.revive": () => queue.revive(item.id),
    "queue.list": () => queue.list({ limit: 10 }),
    "queue.stats": () => queue.stats(),
    "queue.remove": () => queue.remove(item.id),
    "queue.sweep": () => queue.sweep(10),
  };
}

test("without a plan every method answers as the store does, and is counted", async () => {
  const store = faultyStore(memoryStore());
  const answers: Record<string, unknown> = {};
  for (const [method, call] of Object.entries(everyCall(store))) answers[method] = await call();
  expect(answers).toMatchObject({
    begin: { kind: "acquired" },
    renew: { kind: "renewed" },
    append: { kind: "settled" },
    read: { state: "running" },
    giveBack: { kind: "stale" },
    settle: { kind: "settled" },
    resolve: { kind: "resolved" },
    void: { kind: "voided" },
    list: { records: [{ state: "void" }] },
    stats: { states: { void: 1 } },
    delete: { kind: "deleted" },
    sweep: 0,
    "queue.add": { kind: "settled" },
    "queue.claim": [{ id: expect.any(String), started: 1 }],
    "queue.renew": [{ kind: "renewed" }],
    "queue.read": { state: "waiting" },
    "queue.finish": [{ kind: "settled" }],
    "queue.revive": true,
    "queue.list": { items: [{ state: "waiting", finished: 0 }] },
    "queue.stats": { states: { effect: { waiting: 1 } } },
    "queue.remove": true,
    "queue.sweep": 0,
  });
  expect(store.name).toBe("memory");
  expect(store.injected).toBe(0);
  expect(new Set(Object.values(store.calls))).toEqual(new Set([1, 22]));
  expect(store.calls.total).toBe(22);
});

test("a store without a queue, or that takes no attempt back, stays one", () => {
  const { queue: _queue, ...store } = { ...memoryStore() };
  expect(faultyStore(store as Store).queue).toBeUndefined();
  expect(faultyStore(store as Store).giveBack).toBeUndefined();
});

test("every method can fail", async () => {
  for (const method of Object.keys(everyCall(memoryStore())) as StoreMethod[]) {
    const store = faultyStore(memoryStore(), [{ method, effect: "fail-before" }]);
    await expect(everyCall(store)[method]()).rejects.toThrow(StoreUnavailable);
    expect(store.injected).toBe(1);
  }
});

test("a call that fails before never reaches the store", async () => {
  const inner = memoryStore();
  const store = faultyStore(inner, [{ method: "begin", call: 1, effect: "fail-before" }]);
  const claim = claimOf();
  await expect(store.begin(claim)).rejects.toThrow("the call was lost");
  expect(await inner.read(claim.id)).toBeUndefined();
});

test("a call that fails after has done its work", async () => {
  const inner = memoryStore();
  const error = new Error("connection reset");
  const store = faultyStore(inner, [{ method: "begin", call: 1, effect: "fail-after", error }]);
  const claim = claimOf();
  await expect(store.begin(claim)).rejects.toBe(error);
  expect((await inner.read(claim.id))?.owner).toBe(claim.owner);
});

test("a fault hits the call that it counts to, of its method or of any", async () => {
  const store = faultyStore(memoryStore(), [
    { method: "read", call: 2, effect: "fail-before" },
    { call: 5, effect: "fail-before" },
  ]);
  const { id } = claimOf();
  await store.read(id);
  await store.stats();
  await expect(store.read(id)).rejects.toThrow(StoreUnavailable);
  await store.read(id);
  await expect(store.stats()).rejects.toThrow(StoreUnavailable);
  await store.read(id);
  expect(store.injected).toBe(2);
});

test("a fault without a number hits every call", async () => {
  const store = faultyStore(memoryStore(), [{ method: "stats", effect: "fail-before" }]);
  for (let n = 1; n <= 3; n++) {
    await expect(store.stats()).rejects.toThrow(StoreUnavailable);
    expect(store.injected).toBe(n);
  }
});

test("of two faults on one call the first in the plan counts", async () => {
  const error = new Error("the first");
  const store = faultyStore(memoryStore(), [
    { call: 1, effect: "fail-before", error },
    { call: 1, effect: "fail-before" },
  ]);
  await expect(store.stats()).rejects.toBe(error);
  expect(store.injected).toBe(1);
});

test("a call delivered twice answers with the second delivery", async () => {
  const store = faultyStore(memoryStore(), [{ method: "settle", effect: "twice" }]);
  const token = await acquire(store, claimOf());
  expect(await store.settle(completion(token, "first"))).toEqual({ kind: "stale" });
  expect((await store.read(token.id))?.state).toBe("completed");
});

test("a delayed call reaches the store when its promise resolves", async () => {
  const inner = memoryStore();
  const { until, open } = gate();
  const store = faultyStore(inner, [{ method: "begin", call: 1, effect: "delay", until }]);
  const claim = claimOf();
  const begun = store.begin(claim);
  await turns();
  expect(await inner.read(claim.id)).toBeUndefined();
  open();
  expect((await begun).kind).toBe("acquired");
});

test("a delayed reply leaves the work done and the caller waiting", async () => {
  const inner = memoryStore();
  const { until, open } = gate();
  const store = faultyStore(inner, [{ method: "begin", effect: "delay-reply", until }]);
  const claim = claimOf();
  let answered = false;
  const begun = store.begin(claim).finally(() => {
    answered = true;
  });
  await turns();
  expect((await inner.read(claim.id))?.state).toBe("running");
  expect(answered).toBe(false);
  open();
  expect((await begun).kind).toBe("acquired");
});

test("a delay whose promise rejects fails the call", async () => {
  const until = Promise.reject(new Error("aborted"));
  const store = faultyStore(memoryStore(), [{ call: 1, effect: "delay", until }]);
  await expect(store.stats()).rejects.toThrow("aborted");
});
