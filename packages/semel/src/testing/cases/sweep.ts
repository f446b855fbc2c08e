// The sweeper (ST-9): bounded batches, many processes at once, never a live record.

import assert from "node:assert/strict";
import type { Claim } from "../../store.ts";
import {
  acquire,
  assertReplay,
  claimOf,
  complete,
  completion,
  duplicateOf,
  expectKind,
  hold,
  LAPSED_RETENTION_MS,
  LEASE_MS,
  mustRead,
  RETENTION_MS,
  reach,
  SETTLED,
  STALE,
  voiding,
} from "../claims.ts";
import { clientsOf, type StoreHarness, storeCase, together } from "../store-harness.ts";

async function completed(harness: StoreHarness, count: number): Promise<Claim[]> {
  const claims = Array.from({ length: count }, () => claimOf());
  await together(claims.map((claim) => complete(harness.store, claim)));
  return claims;
}

export const sweepCases = [
  storeCase("ST-9: a sweep of an empty store removes nothing", async ({ store }) => {
    assert.equal(await store.sweep(1_000), 0);
  }),

  storeCase("ST-9: a sweep respects its limit and says how many it removed", async (harness) => {
    const { store } = harness;
    await completed(harness, 10);
    await harness.elapse(RETENTION_MS);
    assert.equal(await store.sweep(4), 4);
    assert.equal(await store.sweep(1), 1);
    assert.equal(await store.sweep(100), 5);
    assert.equal(await store.sweep(100), 0);
  }),

  storeCase("ST-9: a sweep removes every kind of expired record", async (harness) => {
    const { store } = harness;
    for (const situation of ["completed", "open", "void", "lapsed"] as const) {
      await reach(harness, situation, claimOf());
    }
    const held = claimOf();
    await store.settle(hold(await acquire(store, held), "unsure", RETENTION_MS));
    await store.void(voiding(claimOf()));
    await harness.elapse(LAPSED_RETENTION_MS);
    assert.equal(await store.sweep(1_000), 6);
  }),

  storeCase("ST-9: a sweep never touches a live record", async (harness) => {
    const { store } = harness;
    const claims: Claim[] = [];
    for (const situation of ["lapsed", "completed", "open", "void", "held"] as const) {
      const claim = claimOf();
      await reach(harness, situation, claim);
      claims.push(claim);
    }
    const running = claimOf();
    await acquire(store, running);
    assert.equal(await store.sweep(1_000), 0);
    for (const { id } of [...claims, running]) await mustRead(store, id);
  }),

  storeCase("ST-9: a sweep takes the expired and leaves the live beside them", async (harness) => {
    const { store } = harness;
    const expired = await completed(harness, 20);
    await harness.elapse(RETENTION_MS);
    const live = await completed(harness, 20);
    assert.equal(await store.sweep(1_000), 20);
    for (const claim of live) assertReplay(await store.begin(duplicateOf(claim)), "result");
    for (const { id } of expired) assert.equal(await store.read(id), undefined);
  }),

  storeCase("ST-9: a record is swept exactly at its end, not before", async (harness) => {
    await completed(harness, 1);
    await harness.elapse(RETENTION_MS / 2);
    assert.equal(await harness.store.sweep(10), 0);
    await harness.elapse(RETENTION_MS / 2);
    assert.equal(await harness.store.sweep(10), 1);
  }),

  storeCase("ST-9: a short retention is swept though longer ones came first", async (harness) => {
    const { store } = harness;
    const [long, short] = [claimOf(), claimOf()];
    await complete(store, long, "long", 10 * RETENTION_MS);
    await complete(store, short, "short", RETENTION_MS);
    await harness.elapse(RETENTION_MS);
    assert.equal(await store.sweep(10), 1);
    assertReplay(await store.begin(duplicateOf(long)), "long");
  }),

  storeCase("ST-9: a renewed record is not swept at its old end", async (harness) => {
    const { store } = harness;
    const claim = claimOf({ lapsedRetentionMs: LEASE_MS });
    const token = await acquire(store, claim);
    await harness.elapse(LEASE_MS);
    await store.renew({ ...token, leaseMs: LEASE_MS, lapsedRetentionMs: 4 * LEASE_MS });
    await harness.elapse(2 * LEASE_MS);
    assert.equal(await store.sweep(10), 0);
    assert.deepEqual(await store.settle(completion(token)), SETTLED);
  }),

  storeCase("ST-9: sweepers at once share the work and remove nothing twice", async (harness) => {
    const clients = await clientsOf(harness);
    await completed(harness, 60);
    await harness.elapse(RETENTION_MS);
    const live = await completed(harness, 10);
    let removed = 0;
    for (let round = 0; round < 20 && removed < 60; round++) {
      const sweeps = Array.from({ length: 6 }, (_, n) => clients[n % clients.length]!.sweep(7));
      const counts = await together(sweeps);
      assert.ok(counts.every((count) => count <= 7));
      removed += counts.reduce((sum, count) => sum + count, 0);
    }
    assert.equal(removed, 60);
    assert.equal(await harness.store.sweep(1_000), 0);
    for (const { id } of live) await mustRead(harness.store, id);
  }),

  storeCase(
    "ST-9: a begin on an expired, unswept record is safe from the sweep",
    async (harness) => {
      const { store } = harness;
      const [claim] = await completed(harness, 1);
      await harness.elapse(RETENTION_MS);
      const token = await acquire(store, duplicateOf(claim!));
      assert.equal(token.attempt, 1);
      assert.equal(await store.sweep(1_000), 0);
      assert.deepEqual(await store.settle(completion(token, "new")), SETTLED);
      assert.equal(await store.sweep(1_000), 0);
      assertReplay(await store.begin(duplicateOf(claim!)), "new");
    },
  ),

  storeCase("ST-9: begins that race with sweeps acquire once, and stay", async (harness) => {
    const clients = await clientsOf(harness);
    const claims = await completed(harness, 30);
    await harness.elapse(RETENTION_MS);
    const pick = (n: number) => clients[n % clients.length]!;
    const races = claims.map(async (claim, n) => {
      const [one, , other] = await together([
        pick(n).begin(duplicateOf(claim)),
        pick(n + 1).sweep(5),
        pick(n + 1).begin(duplicateOf(claim)),
      ]);
      const kinds = [one.kind, other.kind];
      assert.deepEqual(kinds.sort(), ["acquired", "busy"]);
    });
    await together(races);
    await harness.store.sweep(1_000);
    for (const { id } of claims) {
      const record = await mustRead(harness.store, id);
      assert.equal(record.state, "running");
      assert.equal(record.attempt, 1);
    }
  }),

  storeCase("ST-9: a completion that races with sweeps is kept", async (harness) => {
    const clients = await clientsOf(harness);
    const claims = Array.from({ length: 30 }, () => claimOf());
    const tokens = await together(claims.map((claim) => acquire(harness.store, claim)));
    await harness.elapse(LEASE_MS);
    const races = tokens.map(async (token, n) => {
      const [swept, settled] = await together([
        clients[n % clients.length]!.sweep(10),
        clients[(n + 1) % clients.length]!.settle(completion(token)),
      ]);
      assert.equal(swept, 0);
      assert.deepEqual(settled, SETTLED);
    });
    await together(races);
    for (const claim of claims) {
      assertReplay(await harness.store.begin(duplicateOf(claim)), "result");
    }
  }),

  storeCase("ST-9: a completion of an expired record is stale, swept or not", async (harness) => {
    const clients = await clientsOf(harness);
    const claims = Array.from({ length: 20 }, () => claimOf());
    const tokens = await together(claims.map((claim) => acquire(harness.store, claim)));
    await harness.elapse(LEASE_MS + LAPSED_RETENTION_MS);
    const races = tokens.map(async (token, n) => {
      const [, settled] = await together([
        clients[n % clients.length]!.sweep(3),
        clients[(n + 1) % clients.length]!.settle(completion(token)),
      ]);
      assert.deepEqual(settled, STALE);
    });
    await together(races);
    for (const claim of claims) {
      expectKind(await harness.store.begin(duplicateOf(claim)), "acquired");
    }
  }),
];
