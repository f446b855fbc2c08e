// The tiered store over SQLite and over memory: the whole suite, and what happens when the front is
// slow, failing, damaged or gone (ST-6).

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { memoryStore } from "../../src/stores/memory.ts";
import { sqliteStore } from "../../src/stores/sqlite.ts";
import { type Front, memoryFront, tieredStore } from "../../src/stores/tiered.ts";
import { claimOf, completion, duplicateOf } from "../../src/testing/claims.ts";
import { faultyStore, queueCases, storeCases } from "../../src/testing/index.ts";
import { sqliteDrivers } from "../sqlite-drivers.ts";

describe("over memory", () => {
  for (const { name, needs, run } of [...storeCases, ...queueCases]) {
    // A copy in the front is not the record that gets damaged.
    test.skipIf(needs.includes("damage"))(name, async () => {
      let now = 1_000_000;
      const clock = { now: () => now };
      const store = tieredStore({ truth: memoryStore({ clock }), front: memoryFront({ clock }) });
      await run({
        store,
        elapse: async (ms) => {
          now += ms;
        },
        another: async () => store,
      });
    });
  }
});

/** A front that does what a test tells it. */
function frontOf(overrides: Partial<Front>): Front & { calls: string[] } {
  const front = memoryFront();
  const calls: string[] = [];
  const counted = (name: keyof Front) =>
    (async (...args: never[]) => {
      calls.push(name);
      return ((overrides[name] ?? front[name]) as (...args: never[]) => unknown)(...args);
    }) as never;
  return { get: counted("get"), set: counted("set"), delete: counted("delete"), calls };
}

async function settledTurn(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
}

async function completed(store: ReturnType<typeof memoryStore>) {
  const claim = claimOf();
  const begun = await store.begin(claim);
  if (begun.kind !== "acquired") throw new Error(begun.kind);
  const token = { id: claim.id, attempt: begun.attempt, owner: claim.owner };
  await store.settle(completion(token));
  await settledTurn();
  return claim;
}

test("a front in memory answers with a copy for its lifetime, and no longer", async () => {
  let now = 1_000_000;
  const clock = { now: () => now };
  const truth = memoryStore({ clock });
  const [one, other] = [1, 2].map(() =>
    tieredStore({ truth, front: memoryFront({ clock, lifetime: "10s" }) }),
  );
  const claim = await completed(one!);
  expect(await other!.begin(duplicateOf(claim))).toMatchObject({ kind: "done" });
  await settledTurn();
  expect(await one!.delete(claim.id)).toEqual({ kind: "deleted" });
  expect(await one!.begin(duplicateOf(claim))).toMatchObject({ kind: "acquired" });
  expect(await other!.begin(duplicateOf(claim))).toMatchObject({ kind: "done" });
  now += 10_000;
  expect(await other!.begin(duplicateOf(claim))).toMatchObject({ kind: "busy" });
});

test("a replay after completion is answered by the front alone", async () => {
  const truth = faultyStore(memoryStore());
  const store = tieredStore({ truth, front: memoryFront() });
  const claim = await completed(store);
  const before = truth.calls.total;
  expect(await store.begin(duplicateOf(claim))).toMatchObject({ kind: "done", attempt: 1 });
  expect(await store.begin(duplicateOf(claim, { fingerprint: "v1:other" }))).toMatchObject({
    kind: "mismatch",
  });
  expect(truth.calls.total).toBe(before);
});

test("what another process completed fills the front on its first replay", async () => {
  const truth = memoryStore();
  const claim = await completed(truth);
  const front = frontOf({});
  const store = tieredStore({ truth, front });
  expect(await store.begin(duplicateOf(claim))).toMatchObject({ kind: "done" });
  await settledTurn();
  expect(front.calls).toEqual(["get", "set"]);
});

test.each<[string, Partial<Front>]>([
  ["fails", { get: () => Promise.reject(new Error("down")) }],
  ["hangs", { get: () => new Promise(() => {}) }],
  ["holds damaged copies", { get: async () => ({ bytes: new Uint8Array(3), remainingMs: 1_000 }) }],
  ["cannot be filled", { set: () => Promise.reject(new Error("full")) }],
])("a front that %s costs nothing but time", async (_name, overrides) => {
  const front = frontOf(overrides);
  const store = tieredStore({ truth: memoryStore(), front, frontTimeout: 20 });
  const claim = await completed(store);
  for (let i = 0; i < 5; i++) {
    expect(await store.begin(duplicateOf(claim))).toMatchObject({ kind: "done" });
  }
  // After a failure it is left alone for a while.
  expect(front.calls.length).toBeLessThan(5);
});

test("nor does one that throws at once", async () => {
  const set = () => {
    throw new Error("closed");
  };
  const store = tieredStore({ truth: memoryStore(), front: { ...memoryFront(), set } });
  const claim = await completed(store);
  expect(await store.begin(duplicateOf(claim))).toMatchObject({ kind: "done" });
});

test("a deletion forgets the copy, and fails when it cannot", async () => {
  const front = memoryFront();
  const store = tieredStore({ truth: memoryStore(), front });
  const claim = await completed(store);
  expect(await store.delete(claim.id)).toEqual({ kind: "deleted" });
  expect(await store.begin(duplicateOf(claim))).toMatchObject({ kind: "acquired" });

  const stubborn = frontOf({ delete: () => Promise.reject(new Error("down")) });
  const other = tieredStore({ truth: memoryStore(), front: stubborn });
  await expect(other.delete((await completed(other)).id)).rejects.toThrow("down");
});

test("a tombstone is not hidden by a copy that was left behind", async () => {
  const truth = memoryStore();
  const store = tieredStore({ truth, front: memoryFront() });
  const claim = await completed(store);
  // As a deletion that could not reach the front.
  await truth.delete(claim.id);
  const { id, key, scope } = claim;
  const retentionMs = 60_000;
  expect(await store.void({ id, key, scope, retentionMs })).toEqual({ kind: "voided" });
  expect(await store.begin(duplicateOf(claim))).toEqual({ kind: "void" });
});

test("operations that never end do not keep others out of the front", async () => {
  const front = frontOf({});
  const store = tieredStore({ truth: memoryStore(), front });
  for (let n = 0; n < 10_000; n++) await store.begin(claimOf());
  await completed(store);
  expect(front.calls).toContain("set");
});

test("nor does a deletion wait for ever for a front that hangs", async () => {
  const front: Front = { ...memoryFront(), delete: () => new Promise(() => {}) };
  const store = tieredStore({ truth: memoryStore(), front, frontTimeout: 1 });
  const { id } = await completed(store);
  await expect(store.delete(id)).rejects.toMatchObject({ code: "store-unavailable" });
});

test("a restart of both the front and the process loses nothing", async () => {
  const folder = mkdtempSync(join(tmpdir(), "semel-tiered-"));
  const open = () => {
    const database = sqliteDrivers[0]!.open(join(folder, "semel.db"));
    return { database, store: tieredStore({ truth: sqliteStore(database), front: memoryFront() }) };
  };
  const first = open();
  await first.store.migrate();
  const claim = await completed(first.store);
  first.database.close();
  const second = open();
  expect(await second.store.begin(duplicateOf(claim))).toMatchObject({ kind: "done" });
  second.database.close();
  rmSync(folder, { recursive: true });
});

test("unknown options are refused by name", () => {
  const truth = memoryStore();
  const front = memoryFront();
  expect(() => tieredStore({ truth, front, frontTimout: 1 } as never)).toThrow("`frontTimeout`");
  expect(() => tieredStore({ front } as never)).toThrow("`truth` must be a store");
  expect(() => tieredStore({ truth } as never)).toThrow("`front` must be a front");
});
