// Begin, on an absent record and on one in each state (SM-1 to SM-7), and late requests (EN-11).

import assert from "node:assert/strict";
import {
  acquire,
  assertRemaining,
  assertReplay,
  assertUnchanged,
  CRASH_POLICIES,
  claimOf,
  complete,
  completion,
  DECADE_MS,
  DRIFT_MS_MAX,
  duplicateOf,
  expectKind,
  hold,
  LEASE_MS,
  mustRead,
  RETENTION_MS,
  reach,
  release,
  renewal,
  SITUATIONS,
  voiding,
} from "../claims.ts";
import { type StoreHarness, storeCase } from "../store-harness.ts";

const fresh = [
  ...CRASH_POLICIES.map((onCrash) =>
    storeCase(
      `SM-1: the first begin under "${onCrash}" acquires attempt 1, and it is no probe`,
      async ({ store }) => {
        const answer = await store.begin(claimOf({ onCrash }));
        assert.deepEqual(answer, { kind: "acquired", attempt: 1, probe: false });
      },
    ),
  ),

  storeCase("SM-1: a begun record reads back as it was claimed", async ({ store }) => {
    const claim = claimOf({ onCrash: "probe", lapsedRetentionMs: RETENTION_MS });
    await acquire(store, claim);
    const record = await mustRead(store, claim.id);
    const { leaseRemainingMs, expiresInMs, createdAt, updatedAt, ageMs, ...rest } = record;
    assert.deepEqual(rest, {
      id: claim.id,
      scope: claim.scope,
      key: claim.key,
      fingerprint: claim.fingerprint,
      owner: claim.owner,
      state: "running",
      attempt: 1,
      crashes: 0,
      onCrash: "probe",
      result: null,
      reason: null,
      journal: null,
    });
    assertRemaining(leaseRemainingMs, LEASE_MS);
    assertRemaining(expiresInMs, LEASE_MS + RETENTION_MS);
    assert.ok(createdAt > 0 && createdAt <= updatedAt);
    assert.ok(ageMs >= 0 && ageMs < DRIFT_MS_MAX);
  }),

  storeCase("reading never creates a record", async ({ store }) => {
    const claim = claimOf();
    assert.equal(await store.read(claim.id), undefined);
    assert.deepEqual(await store.begin(claim), { kind: "acquired", attempt: 1, probe: false });
  }),

  storeCase("one key in two scopes names two operations", async ({ store }) => {
    const one = claimOf({ scope: "alice" });
    const other = claimOf({ scope: "bob", key: one.key, fingerprint: "v1:other" });
    await complete(store, one, "for alice");
    await complete(store, other, "for bob");
    assertReplay(await store.begin(duplicateOf(one)), "for alice");
    assertReplay(await store.begin(duplicateOf(other)), "for bob");
  }),

  storeCase("two keys in one scope name two operations", async ({ store }) => {
    await acquire(store, claimOf({ scope: "alice", key: "1" }));
    await acquire(store, claimOf({ scope: "alice", key: "2" }));
  }),
];

const live = [
  storeCase("SM-3: a live lease answers busy with what remains of it", async (harness) => {
    const { store } = harness;
    const claim = claimOf();
    await acquire(store, claim);
    const before = await mustRead(store, claim.id);
    const answer = expectKind(await store.begin(duplicateOf(claim)), "busy");
    assert.equal(answer.attempt, 1);
    assertRemaining(answer.leaseRemainingMs, LEASE_MS);
    await harness.elapse(LEASE_MS / 2);
    const later = expectKind(await store.begin(duplicateOf(claim)), "busy");
    assertRemaining(later.leaseRemainingMs, LEASE_MS / 2);
    assert.equal(before.owner, (await mustRead(store, claim.id)).owner);
  }),

  storeCase("SM-3: duplicates that are refused do not prolong the lease", async (harness) => {
    const { store } = harness;
    const claim = claimOf();
    await acquire(store, claim);
    await harness.elapse(LEASE_MS / 2);
    expectKind(await store.begin(duplicateOf(claim, { leaseMs: 10 * LEASE_MS })), "busy");
    await harness.elapse(LEASE_MS / 2);
    assert.equal((await acquire(store, duplicateOf(claim))).attempt, 2);
  }),

  storeCase("SM-3: a refused duplicate leaves the record as it was", async ({ store }) => {
    const claim = claimOf({ onCrash: "hold" });
    await acquire(store, claim);
    const before = await mustRead(store, claim.id);
    const other = { onCrash: "rerun", lapsedRetentionMs: 1, heldRetentionMs: 1 } as const;
    expectKind(await store.begin(duplicateOf(claim, other)), "busy");
    assertUnchanged(await store.read(claim.id), before);
  }),
];

const finished = [
  storeCase("SM-5: a completed record replays its result", async ({ store }) => {
    const claim = claimOf();
    await complete(store, claim, "the one result");
    const before = await mustRead(store, claim.id);
    const answer = expectKind(await store.begin(duplicateOf(claim)), "done");
    assertReplay(answer, "the one result");
    assert.equal(answer.attempt, 1);
    assertRemaining(answer.expiresInMs, RETENTION_MS);
    assertUnchanged(await store.read(claim.id), before);
  }),

  storeCase("SM-5: replays do not prolong the retention", async (harness) => {
    const { store } = harness;
    const claim = claimOf();
    await complete(store, claim);
    await harness.elapse(RETENTION_MS / 2);
    const answer = expectKind(await store.begin(duplicateOf(claim)), "done");
    assertRemaining(answer.expiresInMs, RETENTION_MS / 2);
    await harness.elapse(RETENTION_MS / 2);
    assert.equal((await acquire(store, duplicateOf(claim))).attempt, 1);
  }),

  storeCase("SM-5: a lease of the past does not matter once completed", async (harness) => {
    const { store } = harness;
    const claim = claimOf({ onCrash: "hold" });
    await complete(store, claim);
    await harness.elapse(2 * LEASE_MS);
    assertReplay(await store.begin(duplicateOf(claim)), "result");
  }),

  storeCase("SM-6: a released operation begins again with the next attempt", async ({ store }) => {
    const claim = claimOf();
    for (let attempt = 1; attempt <= 4; attempt++) {
      const next = duplicateOf(claim);
      const answer = await store.begin(next);
      assert.deepEqual(answer, { kind: "acquired", attempt, probe: false });
      await store.settle(release({ id: claim.id, attempt, owner: next.owner }));
    }
    assert.equal((await mustRead(store, claim.id)).crashes, 0);
  }),

  storeCase("SM-6: an open record takes the crash policy of the next claim", async (harness) => {
    const { store } = harness;
    const claim = claimOf({ onCrash: "rerun" });
    await reach(harness, "open", claim);
    const next = duplicateOf(claim, { onCrash: "hold", lapsedRetentionMs: null });
    await acquire(store, next);
    const record = await mustRead(store, claim.id);
    assert.equal(record.onCrash, "hold");
    assert.equal(record.expiresInMs, null);
    await harness.elapse(LEASE_MS);
    expectKind(await store.begin(duplicateOf(claim)), "held");
  }),

  storeCase("SM-6: an open record takes the lease of the next claim", async (harness) => {
    const { store } = harness;
    const claim = claimOf();
    await reach(harness, "open", claim);
    await acquire(store, duplicateOf(claim, { leaseMs: 4 * LEASE_MS }));
    await harness.elapse(2 * LEASE_MS);
    expectKind(await store.begin(duplicateOf(claim)), "busy");
  }),

  storeCase("SM-7: a held record answers held, with its reason, every time", async (harness) => {
    const { store } = harness;
    const claim = claimOf();
    const token = await acquire(store, claim);
    await store.settle(hold(token, "the bank did not answer"));
    const before = await mustRead(store, claim.id);
    for (let n = 0; n < 3; n++) {
      const answer = await store.begin(duplicateOf(claim));
      assert.deepEqual(answer, { kind: "held", attempt: 1, reason: "the bank did not answer" });
    }
    assertUnchanged(await store.read(claim.id), before);
  }),

  storeCase("SM-7: a void operation answers void, every time", async (harness) => {
    const { store } = harness;
    const claim = claimOf();
    await reach(harness, "void", claim);
    const before = await mustRead(store, claim.id);
    for (let n = 0; n < 3; n++) {
      assert.deepEqual(await store.begin(duplicateOf(claim)), { kind: "void" });
    }
    assertUnchanged(await store.read(claim.id), before);
  }),
];

const other = { fingerprint: "v1:another payload" };

const mismatches = [
  ...SITUATIONS.flatMap((situation) =>
    CRASH_POLICIES.filter((policy) => situation === "lapsed" || policy === "hold").map((onCrash) =>
      storeCase(
        `SM-2: another payload on a record that is ${situation} under "${onCrash}" is a mismatch and changes nothing`,
        async (harness) => {
          const { store } = harness;
          const claim = claimOf({ onCrash });
          await reach(harness, situation, claim);
          const before = await mustRead(store, claim.id);
          const answer = await store.begin(duplicateOf(claim, other));
          assert.deepEqual(answer, { kind: "mismatch", fingerprint: claim.fingerprint });
          assertUnchanged(await store.read(claim.id), before);
        },
      ),
    ),
  ),

  storeCase("SM-2: the fingerprint comes before the owner", async ({ store }) => {
    const claim = claimOf();
    await acquire(store, claim);
    expectKind(await store.begin({ ...claim, ...other }), "mismatch");
  }),

  storeCase("SM-2: the fingerprint comes before lateness", async ({ store }) => {
    const claim = claimOf();
    await acquire(store, claim);
    const refuseLate = { sentAt: 0, ageMaxMs: 1 };
    expectKind(await store.begin(duplicateOf(claim, { ...other, refuseLate })), "mismatch");
  }),

  storeCase("SM-2: after a mismatch the right payload still gets its result", async ({ store }) => {
    const claim = claimOf();
    await complete(store, claim, "the original");
    expectKind(await store.begin(duplicateOf(claim, other)), "mismatch");
    assertReplay(await store.begin(duplicateOf(claim)), "the original");
  }),

  storeCase("SM-2: an expired record has no fingerprint any more", async (harness) => {
    const { store } = harness;
    const claim = claimOf();
    await complete(store, claim);
    await harness.elapse(RETENTION_MS);
    assert.equal((await acquire(store, duplicateOf(claim, other))).attempt, 1);
    assert.equal((await mustRead(store, claim.id)).fingerprint, other.fingerprint);
  }),

  storeCase("SM-2: fingerprints of 128 characters are compared whole", async ({ store }) => {
    const fingerprint = `v1:${"x".repeat(125)}`;
    const claim = claimOf({ fingerprint });
    await acquire(store, claim);
    for (const differing of [
      `v1:${"x".repeat(124)}y`,
      `v1:${"x".repeat(124)}X`,
      fingerprint.slice(0, -1),
      `${fingerprint.slice(0, -1)} `,
    ]) {
      const answer = await store.begin(duplicateOf(claim, { fingerprint: differing }));
      assert.deepEqual(answer, { kind: "mismatch", fingerprint });
    }
    expectKind(await store.begin(duplicateOf(claim)), "busy");
  }),

  storeCase("SM-2: a tombstone that never had a payload matches every one", async ({ store }) => {
    const claim = claimOf();
    assert.deepEqual(await store.void(voiding(claim)), { kind: "voided" });
    assert.deepEqual(await store.begin(claim), { kind: "void" });
    assert.deepEqual(await store.begin(duplicateOf(claim, other)), { kind: "void" });
    assert.equal((await mustRead(store, claim.id)).fingerprint, "");
  }),
];

const owners = [
  storeCase(
    "SM-16: a resent begin recognises its own claim, with a fresh lease",
    async (harness) => {
      const { store } = harness;
      const claim = claimOf();
      await acquire(store, claim);
      const { createdAt } = await mustRead(store, claim.id);
      assert.ok(createdAt > 0);
      await harness.elapse(LEASE_MS / 2);
      const answer = await store.begin(claim);
      assert.deepEqual(answer, { kind: "acquired", attempt: 1, probe: false });
      const record = await mustRead(store, claim.id);
      assertRemaining(record.leaseRemainingMs, LEASE_MS);
      assert.equal(record.crashes, 0);
      await harness.elapse(LEASE_MS / 2);
      expectKind(await store.begin(duplicateOf(claim)), "busy");
    },
  ),

  ...CRASH_POLICIES.map((onCrash) =>
    storeCase(
      `SM-16: begin resent by its owner after the lease lapsed under "${onCrash}" is the same attempt`,
      async (harness) => {
        const { store } = harness;
        const claim = claimOf({ onCrash });
        await reach(harness, "lapsed", claim);
        const answer = await store.begin(claim);
        assert.deepEqual(answer, { kind: "acquired", attempt: 1, probe: false });
        const record = await mustRead(store, claim.id);
        assert.equal(record.crashes, 0);
        assertRemaining(record.leaseRemainingMs, LEASE_MS);
      },
    ),
  ),

  storeCase("SM-16: begin resent after another took over is busy", async (harness) => {
    const { store } = harness;
    const claim = claimOf();
    await reach(harness, "lapsed", claim);
    const successor = await acquire(store, duplicateOf(claim));
    assert.equal(expectKind(await store.begin(claim), "busy").attempt, 2);
    assert.equal((await mustRead(store, claim.id)).owner, successor.owner);
  }),

  storeCase("SM-16: begin resent after completion is the result", async (harness) => {
    const claim = claimOf();
    await reach(harness, "completed", claim);
    assertReplay(await harness.store.begin(claim), "result");
  }),

  storeCase("SM-16: begin resent after a hold or a void is held or void", async (harness) => {
    const held = claimOf();
    await reach(harness, "held", held);
    expectKind(await harness.store.begin(held), "held");
    const voided = claimOf();
    await reach(harness, "void", voided);
    expectKind(await harness.store.begin(voided), "void");
  }),

  storeCase("SM-16: a resent takeover is the same attempt and one crash", async (harness) => {
    const { store } = harness;
    const claim = claimOf({ onCrash: "probe" });
    await reach(harness, "lapsed", claim);
    const takeover = duplicateOf(claim);
    for (let n = 0; n < 3; n++) {
      const answer = await store.begin(takeover);
      assert.deepEqual(answer, { kind: "acquired", attempt: 2, probe: true });
    }
    assert.equal((await mustRead(store, claim.id)).crashes, 1);
  }),

  storeCase("SM-16: a resent begin keeps the right to complete", async ({ store }) => {
    const claim = claimOf();
    await acquire(store, claim);
    const token = await acquire(store, claim);
    assert.deepEqual(await store.renew(renewal(token)), { kind: "renewed" });
    assert.deepEqual(await store.settle(completion(token)), { kind: "settled" });
  }),
];

/** The store's own idea of now. */
async function storeNow({ store }: StoreHarness): Promise<number> {
  const claim = claimOf();
  await acquire(store, claim);
  return (await mustRead(store, claim.id)).createdAt;
}

const late = [
  storeCase(
    "EN-11: an absent record of an old request is late, and stays absent",
    async (harness) => {
      const { store } = harness;
      const sentAt = (await storeNow(harness)) - RETENTION_MS;
      const claim = claimOf({ refuseLate: { sentAt, ageMaxMs: RETENTION_MS / 2 } });
      assert.deepEqual(await store.begin(claim), { kind: "late" });
      assert.equal(await store.read(claim.id), undefined);
    },
  ),

  storeCase(
    "EN-11: a request that is young enough, or ahead of time, is not late",
    async (harness) => {
      const { store } = harness;
      const now = await storeNow(harness);
      const refuse = (ageMs: number) => ({ sentAt: now - ageMs, ageMaxMs: RETENTION_MS });
      await acquire(store, claimOf({ refuseLate: refuse(0) }));
      await acquire(store, claimOf({ refuseLate: refuse(RETENTION_MS / 2) }));
      await acquire(store, claimOf({ refuseLate: refuse(-RETENTION_MS) }));
    },
  ),

  storeCase("EN-11: an old request still finds the record that exists", async (harness) => {
    const { store } = harness;
    const refuseLate = { sentAt: (await storeNow(harness)) - DECADE_MS, ageMaxMs: RETENTION_MS };
    const answers = { completed: "done", running: "busy", held: "held", void: "void" } as const;
    for (const situation of ["completed", "running", "held", "void"] as const) {
      const claim = claimOf();
      await reach(harness, situation, claim);
      expectKind(await store.begin(duplicateOf(claim, { refuseLate })), answers[situation]);
    }
    const open = claimOf();
    await reach(harness, "open", open);
    assert.equal((await acquire(store, duplicateOf(open, { refuseLate }))).attempt, 2);
  }),

  storeCase(
    "EN-11: an expired record counts as absent, so an old request is late",
    async (harness) => {
      const { store } = harness;
      const claim = claimOf();
      await complete(store, claim);
      const refuseLate = { sentAt: (await storeNow(harness)) - DECADE_MS, ageMaxMs: RETENTION_MS };
      await harness.elapse(RETENTION_MS);
      assert.deepEqual(await store.begin(duplicateOf(claim, { refuseLate })), { kind: "late" });
      assert.equal((await acquire(store, duplicateOf(claim))).attempt, 1);
    },
  ),
];

export const beginCases = [...fresh, ...live, ...finished, ...mismatches, ...owners, ...late];
