// The memory store against the conformance suite, and its bounds (ST-1).

import { describe, expect, test } from "vitest";
import { StoreFull } from "../../src/errors.ts";
import { type MemoryStoreOptions, memoryStore } from "../../src/stores/memory.ts";
import {
  acquire,
  claimOf,
  complete,
  completion,
  duplicateOf,
  RETENTION_MS,
} from "../../src/testing/claims.ts";
import { queueCases, type StoreHarness, storeCases } from "../../src/testing/index.ts";

function open(options: MemoryStoreOptions = {}): StoreHarness {
  let now = Date.now();
  const store = memoryStore({ ...options, clock: { now: () => now } });
  const elapse = async (ms: number) => {
    now += ms;
  };
  return { store, elapse, another: async () => store };
}

describe("memory store", () => {
  // Objects in a map have no bytes that could be damaged.
  for (const { name, needs, run } of [...storeCases, ...queueCases]) {
    if (!needs.includes("damage")) test(name, () => run(open()));
  }
});

describe("bounds of the memory store (ST-1)", () => {
  test("a full store refuses a new operation and keeps serving those it has", async () => {
    const { store } = open({ entriesMax: 2 });
    const [done, running] = [claimOf(), claimOf()];
    await complete(store, done);
    const token = await acquire(store, running);
    await expect(store.begin(claimOf())).rejects.toThrow(StoreFull);
    expect((await store.begin(duplicateOf(done))).kind).toBe("done");
    expect((await store.begin(duplicateOf(running))).kind).toBe("busy");
    expect(await store.settle(completion(token))).toEqual({ kind: "settled" });
  });

  test("expired records make room before anything is refused", async () => {
    const { store, elapse } = open({ entriesMax: 2 });
    await complete(store, claimOf());
    await complete(store, claimOf());
    await elapse(RETENTION_MS);
    expect((await store.begin(claimOf())).kind).toBe("acquired");
  });

  test("told to, it evicts the oldest completed record, and no other", async () => {
    const { store } = open({ entriesMax: 3, whenFull: "evict-completed" });
    const [running, oldest, newest] = [claimOf(), claimOf(), claimOf()];
    await acquire(store, running);
    await complete(store, oldest);
    await complete(store, newest);
    await acquire(store, claimOf());
    expect(await store.read(oldest.id)).toBeUndefined();
    expect((await store.read(newest.id))?.state).toBe("completed");
    expect((await store.read(running.id))?.state).toBe("running");
    await acquire(store, claimOf());
    await expect(store.begin(claimOf())).rejects.toThrow(StoreFull);
  });

  test("bytes are bounded as well, and what leaves gives its bytes back", async () => {
    const { store, elapse } = open({ bytesMax: 10_000 });
    const empty = (await store.stats()).bytes;
    await complete(store, claimOf(), new Uint8Array(8_000));
    await expect(complete(store, claimOf(), new Uint8Array(8_000))).rejects.toThrow(StoreFull);
    await elapse(100 * RETENTION_MS);
    await store.sweep(10);
    expect((await store.stats()).bytes).toBe(empty);
  });
});
