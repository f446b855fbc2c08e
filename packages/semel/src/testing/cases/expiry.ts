// Retention and expiry (SM-15): what is forgotten when, and what is kept until it is resolved.

import assert from "node:assert/strict";
import {
  acquire,
  assertRemaining,
  assertReplay,
  CRASH_POLICIES,
  claimOf,
  complete,
  completion,
  DECADE_MS,
  duplicateOf,
  expectKind,
  hold,
  LAPSED_RETENTION_MS,
  LEASE_MS,
  mustRead,
  RETENTION_MS,
  reach,
  release,
  renewal,
  STALE,
  voiding,
} from "../claims.ts";
import { storeCase } from "../store-harness.ts";

const forgotten = [
  ...(["completed", "open", "void"] as const).map((situation) =>
    storeCase(
      `SM-15: a record that is ${situation} is absent exactly at the end of its retention`,
      async (harness) => {
        const { store } = harness;
        const claim = claimOf();
        await reach(harness, situation, claim);
        await harness.elapse(RETENTION_MS / 2);
        assertRemaining((await mustRead(store, claim.id)).expiresInMs, RETENTION_MS / 2);
        await harness.elapse(RETENTION_MS / 2);
        assert.equal(await store.read(claim.id), undefined);
        const answer = await store.begin(duplicateOf(claim));
        assert.deepEqual(answer, { kind: "acquired", attempt: 1, probe: false });
      },
    ),
  ),

  storeCase("SM-15: retention is counted from completion, not from begin", async (harness) => {
    const { store } = harness;
    const claim = claimOf({ leaseMs: 10 * RETENTION_MS });
    const token = await acquire(store, claim);
    await harness.elapse(2 * RETENTION_MS);
    await store.settle(completion(token));
    const answer = expectKind(await store.begin(duplicateOf(claim)), "done");
    assertRemaining(answer.expiresInMs, RETENTION_MS);
    await harness.elapse(RETENTION_MS / 2);
    assertReplay(await store.begin(duplicateOf(claim)), "result");
    await harness.elapse(RETENTION_MS / 2);
    assert.equal(await store.read(claim.id), undefined);
  }),

  storeCase(
    "SM-15: each record has the retention that its own ending asked for",
    async (harness) => {
      const { store } = harness;
      const [short, long] = [claimOf(), claimOf()];
      await complete(store, short, "short", RETENTION_MS);
      await complete(store, long, "long", 10 * RETENTION_MS);
      await harness.elapse(2 * RETENTION_MS);
      assert.equal(await store.read(short.id), undefined);
      assertReplay(await store.begin(duplicateOf(long)), "long");
    },
  ),

  storeCase("SM-15: a retention of ten years is kept", async (harness) => {
    const { store } = harness;
    const claim = claimOf();
    await complete(store, claim, "kept", 2 * DECADE_MS);
    await harness.elapse(DECADE_MS);
    assertReplay(await store.begin(duplicateOf(claim)), "kept");
  }),

  storeCase(
    "SM-15: a lapsed record under rerun ends one retention after its lease",
    async (harness) => {
      const { store } = harness;
      const claim = claimOf({ fingerprint: "v1:old" });
      await reach(harness, "lapsed", claim);
      await harness.elapse(LAPSED_RETENTION_MS / 2);
      assertRemaining((await mustRead(store, claim.id)).expiresInMs, LAPSED_RETENTION_MS / 2);
      await harness.elapse(LAPSED_RETENTION_MS / 2);
      assert.equal(await store.read(claim.id), undefined);
      const answer = await store.begin(duplicateOf(claim, { fingerprint: "v1:new" }));
      assert.deepEqual(answer, { kind: "acquired", attempt: 1, probe: false });
      assert.equal((await mustRead(store, claim.id)).crashes, 0);
    },
  ),

  storeCase("SM-15: until then a lapsed record under rerun is taken over", async (harness) => {
    const claim = claimOf();
    await reach(harness, "lapsed", claim);
    await harness.elapse(LAPSED_RETENTION_MS / 2);
    assert.equal((await acquire(harness.store, duplicateOf(claim))).attempt, 2);
  }),

  storeCase("SM-15: a takeover moves the end of the record along", async (harness) => {
    const { store } = harness;
    const claim = claimOf();
    await reach(harness, "lapsed", claim);
    await harness.elapse(LAPSED_RETENTION_MS / 2);
    await acquire(store, duplicateOf(claim));
    const { expiresInMs } = await mustRead(store, claim.id);
    assertRemaining(expiresInMs, LEASE_MS + LAPSED_RETENTION_MS);
  }),

  storeCase("SM-15: a reopened record loses the retention of its release", async (harness) => {
    const { store } = harness;
    const claim = claimOf({ leaseMs: 2 * RETENTION_MS });
    await reach(harness, "open", claim);
    const next = duplicateOf(claim);
    const token = await acquire(store, next);
    await harness.elapse(RETENTION_MS);
    expectKind(await store.begin(duplicateOf(claim)), "busy");
    assert.deepEqual(await store.renew(renewal(token)), { kind: "renewed" });
  }),

  storeCase("SM-15: an expired record is absent for every method", async (harness) => {
    const { store } = harness;
    const claim = claimOf();
    const token = await complete(store, claim);
    await harness.elapse(RETENTION_MS);
    const { id } = claim;
    assert.equal(await store.read(id), undefined);
    assert.deepEqual(await store.settle(completion(token)), STALE);
    assert.deepEqual(await store.renew(renewal(token)), STALE);
    const resolution = { id, kind: "open", retentionMs: RETENTION_MS } as const;
    assert.deepEqual(await store.resolve(resolution), { kind: "absent" });
    assert.deepEqual(await store.delete(id), { kind: "absent" });
    assert.deepEqual((await store.list({ limit: 10 })).records, []);
    assert.equal((await store.stats()).states.completed, 0);
    assert.deepEqual(await store.void(voiding(claim)), { kind: "voided" });
  }),

  storeCase(
    "SM-15: the expired past of a record leaves no trace in its next life",
    async (harness) => {
      const { store } = harness;
      const claim = claimOf({ fingerprint: "v1:old" });
      await complete(store, claim, "of the first life");
      await harness.elapse(RETENTION_MS);
      const next = duplicateOf(claim, { fingerprint: "v1:new", onCrash: "probe" });
      const token = await acquire(store, next);
      const record = await mustRead(store, claim.id);
      assert.equal(record.result, null);
      assert.equal(record.fingerprint, "v1:new");
      assert.equal(record.onCrash, "probe");
      assert.equal(record.crashes, 0);
      assert.ok(record.updatedAt - record.createdAt < RETENTION_MS);
      await store.settle(release(token));
      assert.equal((await mustRead(store, claim.id)).result, null);
    },
  ),
];

const kept = [
  storeCase("SM-15: a live lease outlives any retention", async (harness) => {
    const { store } = harness;
    const claim = claimOf({ leaseMs: 2 * DECADE_MS, lapsedRetentionMs: 1_000 });
    await acquire(store, claim);
    await harness.elapse(DECADE_MS);
    expectKind(await store.begin(duplicateOf(claim)), "busy");
  }),

  storeCase("SM-15: a held record without a bound is never forgotten", async (harness) => {
    const claim = claimOf();
    await reach(harness, "held", claim);
    await harness.elapse(DECADE_MS);
    assert.equal(await harness.store.sweep(1_000), 0);
    expectKind(await harness.store.begin(duplicateOf(claim)), "held");
  }),

  storeCase("SM-15: a held record with a bound is forgotten at it", async (harness) => {
    const { store } = harness;
    const claim = claimOf();
    await store.settle(hold(await acquire(store, claim), "unsure", 2 * RETENTION_MS));
    await harness.elapse(RETENTION_MS);
    assertRemaining((await mustRead(store, claim.id)).expiresInMs, RETENTION_MS);
    await harness.elapse(RETENTION_MS);
    assert.equal(await store.read(claim.id), undefined);
    assert.equal((await acquire(store, duplicateOf(claim))).attempt, 1);
  }),

  storeCase("SM-15: a bound on held records counts from when it was held", async (harness) => {
    const { store } = harness;
    const claim = claimOf({ onCrash: "hold", heldRetentionMs: RETENTION_MS });
    await reach(harness, "lapsed", claim);
    await harness.elapse(10 * RETENTION_MS);
    const finder = duplicateOf(claim, { heldRetentionMs: 4 * RETENTION_MS });
    expectKind(await store.begin(finder), "held");
    assertRemaining((await mustRead(store, claim.id)).expiresInMs, 4 * RETENTION_MS);
    await harness.elapse(4 * RETENTION_MS);
    assert.equal(await store.read(claim.id), undefined);
  }),

  ...CRASH_POLICIES.map((onCrash) =>
    storeCase(
      `SM-15: a lapsed record under "${onCrash}" without a bound stays until resolved`,
      async (harness) => {
        const { store } = harness;
        const claim = claimOf({ onCrash, lapsedRetentionMs: null });
        await reach(harness, "lapsed", claim);
        await harness.elapse(DECADE_MS);
        assert.equal(await store.sweep(1_000), 0);
        const record = await mustRead(store, claim.id);
        assert.equal(record.state, "running");
        assert.equal(record.expiresInMs, null);
      },
    ),
  ),

  storeCase(
    "SM-15: a lapsed record under hold with a bound is forgotten at it",
    async (harness) => {
      const { store } = harness;
      const claim = claimOf({ onCrash: "hold", lapsedRetentionMs: RETENTION_MS });
      await reach(harness, "lapsed", claim);
      await harness.elapse(RETENTION_MS);
      assert.equal(await store.read(claim.id), undefined);
    },
  ),
];

export const expiryCases = [...forgotten, ...kept];
