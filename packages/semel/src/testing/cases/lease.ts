// Lapsed leases and who may take them over (SM-4, SM-19, SM-23a), and their renewal (SM-11).

import assert from "node:assert/strict";
import type { Claim, Store } from "../../store.ts";
import {
  acquire,
  assertRemaining,
  CRASH_POLICIES,
  claimOf,
  completion,
  DECADE_MS,
  duplicateOf,
  expectKind,
  LAPSED_RETENTION_MS,
  LEASE_MS,
  mustRead,
  RENEWED,
  RETENTION_MS,
  reach,
  release,
  renewal,
  SETTLED,
  STALE,
} from "../claims.ts";
import { type StoreHarness, storeCase } from "../store-harness.ts";

const takeovers = [
  storeCase("SM-4: a lapsed lease is taken over under rerun", async (harness) => {
    const { store } = harness;
    const claim = claimOf();
    await reach(harness, "lapsed", claim);
    const next = duplicateOf(claim);
    const answer = await store.begin(next);
    assert.deepEqual(answer, { kind: "acquired", attempt: 2, probe: false });
    const record = await mustRead(store, claim.id);
    assert.equal(record.owner, next.owner);
    assert.equal(record.attempt, 2);
    assert.equal(record.crashes, 1);
    assert.equal(record.fingerprint, claim.fingerprint);
    assertRemaining(record.leaseRemainingMs, LEASE_MS);
  }),

  storeCase("SM-4: a takeover under probe runs the probe", async (harness) => {
    const { store } = harness;
    const claim = claimOf({ onCrash: "probe" });
    await reach(harness, "lapsed", claim);
    const answer = await store.begin(duplicateOf(claim));
    assert.deepEqual(answer, { kind: "acquired", attempt: 2, probe: true });
  }),

  storeCase("SM-4: a lapsed lease under hold is held, every time", async (harness) => {
    const { store } = harness;
    const claim = claimOf({ onCrash: "hold" });
    await reach(harness, "lapsed", claim);
    for (let n = 0; n < 3; n++) {
      const answer = await store.begin(duplicateOf(claim));
      assert.deepEqual(answer, { kind: "held", attempt: 1, reason: "lease-lapsed" });
    }
    const record = await mustRead(store, claim.id);
    assert.equal(record.state, "held");
    assert.equal(record.reason, "lease-lapsed");
    assert.equal(record.leaseRemainingMs, null);
    assert.equal(record.expiresInMs, null);
  }),

  storeCase("SM-4: a lease that lapsed long ago under hold is still held", async (harness) => {
    const claim = claimOf({ onCrash: "hold" });
    await reach(harness, "lapsed", claim);
    await harness.elapse(DECADE_MS);
    expectKind(await harness.store.begin(duplicateOf(claim)), "held");
  }),

  storeCase("SM-4: a lapsed record still reads as running, with no lease left", async (harness) => {
    const claim = claimOf({ onCrash: "hold" });
    await reach(harness, "lapsed", claim);
    const record = await mustRead(harness.store, claim.id);
    assert.equal(record.state, "running");
    assert.equal(record.owner, claim.owner);
    assert.ok(record.leaseRemainingMs !== null && record.leaseRemainingMs <= 0);
  }),

  storeCase("SM-19: a lease has lapsed exactly at its deadline", async (harness) => {
    const claim = claimOf({ leaseMs: 5 * LEASE_MS });
    await acquire(harness.store, claim);
    await harness.elapse(4 * LEASE_MS);
    expectKind(await harness.store.begin(duplicateOf(claim)), "busy");
    await harness.elapse(LEASE_MS);
    assert.equal((await acquire(harness.store, duplicateOf(claim))).attempt, 2);
  }),

  storeCase("SM-19: each record has the lease that its own claim asked for", async (harness) => {
    const { store } = harness;
    const short = claimOf({ leaseMs: LEASE_MS });
    const long = claimOf({ leaseMs: 10 * LEASE_MS });
    await acquire(store, short);
    await acquire(store, long);
    await harness.elapse(2 * LEASE_MS);
    assert.equal((await acquire(store, duplicateOf(short))).attempt, 2);
    expectKind(await store.begin(duplicateOf(long)), "busy");
  }),

  storeCase("SM-19: the application's clock has no say over a lease", async (harness) => {
    const { store } = harness;
    const claim = claimOf();
    await acquire(store, claim);
    await withApplicationClockAhead(DECADE_MS, async () => {
      expectKind(await store.begin(duplicateOf(claim)), "busy");
    });
    await harness.elapse(LEASE_MS);
    await withApplicationClockAhead(-DECADE_MS, async () => {
      assert.equal((await acquire(store, duplicateOf(claim))).attempt, 2);
    });
  }),

  storeCase("SM-4: a takeover has a whole lease of its own", async (harness) => {
    const { store } = harness;
    const claim = claimOf();
    await reach(harness, "lapsed", claim);
    const successor = await acquire(store, duplicateOf(claim));
    expectKind(await store.begin(duplicateOf(claim)), "busy");
    assert.deepEqual(await store.settle(completion(successor)), SETTLED);
  }),

  ...CRASH_POLICIES.flatMap((stored) =>
    CRASH_POLICIES.filter((policy) => policy !== stored).map((claimed) =>
      storeCase(
        `SM-4: a record stored under "${stored}" follows it though the claim says "${claimed}"`,
        async (harness) => {
          const { store } = harness;
          const claim = claimOf({ onCrash: stored });
          await reach(harness, "lapsed", claim);
          const answer = await store.begin(duplicateOf(claim, { onCrash: claimed }));
          if (stored === "hold") expectKind(answer, "held");
          else assert.equal(expectKind(answer, "acquired").probe, stored === "probe");
          assert.equal((await mustRead(store, claim.id)).onCrash, stored);
        },
      ),
    ),
  ),

  storeCase("SM-18: the attempt number rises through crashes and releases", async (harness) => {
    const { store } = harness;
    const claim = claimOf();
    for (let attempt = 1; attempt <= 5; attempt++) {
      const token = await acquire(store, duplicateOf(claim));
      assert.equal(token.attempt, attempt);
      if (attempt % 2 === 0) await store.settle(release(token));
      else await harness.elapse(LEASE_MS);
    }
    const record = await mustRead(store, claim.id);
    assert.equal(record.attempt, 5);
    assert.equal(record.crashes, 2);
  }),
];

/** The process's wall clock is wrong for a while: stores do not care. */
async function withApplicationClockAhead(ms: number, act: () => Promise<void>): Promise<void> {
  const honest = Date.now;
  Date.now = () => honest() + ms;
  try {
    await act();
  } finally {
    Date.now = honest;
  }
}

const probes = [
  storeCase("SM-4: the probe runs again when the probing attempt crashes", async (harness) => {
    const { store } = harness;
    const claim = claimOf({ onCrash: "probe" });
    await reach(harness, "lapsed", claim);
    await acquire(store, duplicateOf(claim));
    await harness.elapse(LEASE_MS);
    const answer = await store.begin(duplicateOf(claim));
    assert.deepEqual(answer, { kind: "acquired", attempt: 3, probe: true });
  }),

  storeCase("SM-4: a release without a crash calls for no probe", async (harness) => {
    const claim = claimOf({ onCrash: "probe" });
    await reach(harness, "open", claim);
    const answer = await harness.store.begin(duplicateOf(claim));
    assert.deepEqual(answer, { kind: "acquired", attempt: 2, probe: false });
  }),

  storeCase("SM-4: a crash calls for the probe also after a later release", async (harness) => {
    const { store } = harness;
    const claim = claimOf({ onCrash: "probe" });
    await reach(harness, "lapsed", claim);
    await store.settle(release(await acquire(store, duplicateOf(claim))));
    const answer = await store.begin(duplicateOf(claim));
    assert.deepEqual(answer, { kind: "acquired", attempt: 3, probe: true });
  }),
];

async function crash(harness: StoreHarness, claim: Claim, times: number): Promise<void> {
  for (let n = 0; n < times; n++) {
    await acquire(harness.store, duplicateOf(claim));
    await harness.elapse(claim.leaseMs);
  }
}

async function assertExhausted(store: Store, claim: Claim, attempt: number): Promise<void> {
  const answer = await store.begin(duplicateOf(claim));
  assert.deepEqual(answer, { kind: "held", attempt, reason: "attempts-exhausted" });
}

const exhaustion = [
  ...(["rerun", "probe"] as const).map((onCrash) =>
    storeCase(`SM-23a: under "${onCrash}" attemptsMax crashes end in held`, async (harness) => {
      const { store } = harness;
      const claim = claimOf({ onCrash, attemptsMax: 3 });
      await crash(harness, claim, 3);
      assert.equal((await mustRead(store, claim.id)).attempt, 3);
      await assertExhausted(store, claim, 3);
      await assertExhausted(store, claim, 3);
      const record = await mustRead(store, claim.id);
      assert.equal(record.state, "held");
      assert.equal(record.expiresInMs, null);
    }),
  ),

  storeCase("SM-23a: with attemptsMax 1 the first crash ends in held", async (harness) => {
    const claim = claimOf({ attemptsMax: 1 });
    await crash(harness, claim, 1);
    await assertExhausted(harness.store, claim, 1);
  }),

  storeCase("SM-23a: releases are no crashes, however many", async ({ store }) => {
    const claim = claimOf({ attemptsMax: 2 });
    for (let attempt = 1; attempt <= 12; attempt++) {
      const token = await acquire(store, duplicateOf(claim));
      assert.equal(token.attempt, attempt);
      assert.deepEqual(await store.settle(release(token)), SETTLED);
    }
  }),

  storeCase("SM-23a: a release does not forget the crashes before it", async (harness) => {
    const { store } = harness;
    const claim = claimOf({ attemptsMax: 3 });
    await crash(harness, claim, 2);
    await store.settle(release(await acquire(store, duplicateOf(claim))));
    await crash(harness, claim, 1);
    await assertExhausted(store, claim, 4);
  }),

  storeCase("SM-23a: the owner itself may come back to its last attempt", async (harness) => {
    const { store } = harness;
    const claim = claimOf({ attemptsMax: 1 });
    await reach(harness, "lapsed", claim);
    const token = await acquire(store, claim);
    assert.equal(token.attempt, 1);
    assert.deepEqual(await store.settle(completion(token)), SETTLED);
  }),

  storeCase("SM-23a: an exhausted record is kept for as long as held ones are", async (harness) => {
    const { store } = harness;
    const claim = claimOf({ attemptsMax: 1, heldRetentionMs: RETENTION_MS });
    await crash(harness, claim, 1);
    await assertExhausted(store, claim, 1);
    assertRemaining((await mustRead(store, claim.id)).expiresInMs, RETENTION_MS);
  }),
];

const renewals = [
  storeCase("SM-11: renewing gives a whole lease from now", async (harness) => {
    const { store } = harness;
    const claim = claimOf();
    const token = await acquire(store, claim);
    await harness.elapse(LEASE_MS / 2);
    assert.deepEqual(await store.renew(renewal(token)), RENEWED);
    const record = await mustRead(store, claim.id);
    assertRemaining(record.leaseRemainingMs, LEASE_MS);
    await harness.elapse(LEASE_MS / 2);
    expectKind(await store.begin(duplicateOf(claim)), "busy");
    await harness.elapse(LEASE_MS / 2);
    assert.equal((await acquire(store, duplicateOf(claim))).attempt, 2);
  }),

  storeCase("SM-11: renewing changes the lease and nothing else", async ({ store }) => {
    const claim = claimOf();
    const token = await acquire(store, claim);
    const before = await mustRead(store, claim.id);
    assert.deepEqual(await store.renew(renewal(token, { leaseMs: 3 * LEASE_MS })), RENEWED);
    const after = await mustRead(store, claim.id);
    assertRemaining(after.leaseRemainingMs, 3 * LEASE_MS);
    const { leaseRemainingMs, expiresInMs, updatedAt, ageMs } = before;
    assert.deepEqual({ ...after, leaseRemainingMs, expiresInMs, updatedAt, ageMs }, before);
  }),

  ...CRASH_POLICIES.map((onCrash) =>
    storeCase(
      `SM-11: a lapsed lease under "${onCrash}" that nobody took may be renewed`,
      async (harness) => {
        const { store } = harness;
        const claim = claimOf({ onCrash });
        const token = await reach(harness, "lapsed", claim);
        assert.deepEqual(await store.renew(renewal(token)), RENEWED);
        expectKind(await store.begin(duplicateOf(claim)), "busy");
        assert.equal((await mustRead(store, claim.id)).crashes, 0);
        assert.deepEqual(await store.settle(completion(token)), SETTLED);
      },
    ),
  ),

  storeCase("SM-20: renewed in time, an attempt outlives any number of leases", async (harness) => {
    const { store } = harness;
    const claim = claimOf({ onCrash: "hold" });
    const token = await acquire(store, claim);
    for (let n = 0; n < 20; n++) {
      await harness.elapse(LEASE_MS / 2);
      assert.deepEqual(await store.renew(renewal(token, { lapsedRetentionMs: null })), RENEWED);
      expectKind(await store.begin(duplicateOf(claim)), "busy");
    }
    assert.deepEqual(await store.settle(completion(token)), SETTLED);
  }),

  storeCase("SM-11: the record's end moves along with its lease", async (harness) => {
    const { store } = harness;
    const claim = claimOf();
    const token = await acquire(store, claim);
    await harness.elapse(LEASE_MS / 2);
    await store.renew(renewal(token, { lapsedRetentionMs: RETENTION_MS }));
    assertRemaining((await mustRead(store, claim.id)).expiresInMs, LEASE_MS + RETENTION_MS);
    await store.renew(renewal(token, { lapsedRetentionMs: null }));
    assert.equal((await mustRead(store, claim.id)).expiresInMs, null);
    await store.renew(renewal(token, { lapsedRetentionMs: LAPSED_RETENTION_MS }));
    await harness.elapse(LEASE_MS + LAPSED_RETENTION_MS);
    assert.equal(await store.read(claim.id), undefined);
    assert.deepEqual(await store.renew(renewal(token)), STALE);
  }),

  storeCase("SM-11: the successor's renewals hold against the zombie's", async (harness) => {
    const { store } = harness;
    const claim = claimOf();
    const zombie = await reach(harness, "lapsed", claim);
    const successor = await acquire(store, duplicateOf(claim));
    assert.deepEqual(await store.renew(renewal(zombie)), STALE);
    assert.deepEqual(await store.renew(renewal(successor)), RENEWED);
    assert.deepEqual(await store.renew(renewal(zombie)), STALE);
    assert.equal((await mustRead(store, claim.id)).owner, successor.owner);
  }),
];

export const leaseCases = [...takeovers, ...probes, ...exhaustion, ...renewals];
