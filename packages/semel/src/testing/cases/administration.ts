// What administrators do to records: resolve, void and delete (SM-12, SM-13).

import assert from "node:assert/strict";
import type { Resolution } from "../../store.ts";
import {
  acquire,
  assertBytes,
  assertRemaining,
  assertReplay,
  assertUnchanged,
  CRASH_POLICIES,
  claimOf,
  complete,
  duplicateOf,
  expectKind,
  hold,
  LEASE_MS,
  mustRead,
  RETENTION_MS,
  reach,
  voiding,
} from "../claims.ts";
import { storeCase } from "../store-harness.ts";

function completed(id: string, result = "as found out"): Resolution {
  return { id, kind: "complete", result: Buffer.from(result), retentionMs: RETENTION_MS };
}

function opened(id: string): Resolution {
  return { id, kind: "open", retentionMs: RETENTION_MS };
}

const resolved = { kind: "resolved" };

const resolving = [
  storeCase(
    "SM-12: a held record resolved as completed replays what it was given",
    async (harness) => {
      const { store } = harness;
      const claim = claimOf();
      await reach(harness, "held", claim);
      await harness.elapse(10 * RETENTION_MS);
      assert.deepEqual(await store.resolve(completed(claim.id)), resolved);
      const answer = expectKind(await store.begin(duplicateOf(claim)), "done");
      assertReplay(answer, "as found out");
      assert.equal(answer.attempt, 1);
      assertRemaining(answer.expiresInMs, RETENTION_MS);
      const record = await mustRead(store, claim.id);
      assert.equal(record.state, "completed");
      assertBytes(record.result, "as found out");
    },
  ),

  storeCase(
    "SM-12: a held record resolved as open runs again as the next attempt",
    async (harness) => {
      const { store } = harness;
      const claim = claimOf();
      await reach(harness, "held", claim);
      assert.deepEqual(await store.resolve(opened(claim.id)), resolved);
      const record = await mustRead(store, claim.id);
      assert.equal(record.state, "open");
      assertRemaining(record.expiresInMs, RETENTION_MS);
      const next = duplicateOf(claim);
      assert.equal(expectKind(await store.begin(next), "acquired").attempt, 2);
    },
  ),

  storeCase("SM-12: resolving keeps the fingerprint", async (harness) => {
    const { store } = harness;
    for (const resolution of [completed, opened]) {
      const claim = claimOf();
      await reach(harness, "held", claim);
      await store.resolve(resolution(claim.id));
      const other = duplicateOf(claim, { fingerprint: "v1:other" });
      assert.equal(expectKind(await store.begin(other), "mismatch").fingerprint, claim.fingerprint);
    }
  }),

  storeCase("SM-12: an absent record cannot be resolved", async ({ store }) => {
    const { id } = claimOf();
    assert.deepEqual(await store.resolve(completed(id)), { kind: "absent" });
    assert.deepEqual(await store.resolve(opened(id)), { kind: "absent" });
    assert.equal(await store.read(id), undefined);
  }),

  ...(["running", "completed", "open", "void"] as const).map((situation) =>
    storeCase(
      `SM-12: a record that is ${situation} is refused to resolve, and unchanged`,
      async (harness) => {
        const { store } = harness;
        const claim = claimOf({ onCrash: "hold" });
        await reach(harness, situation, claim);
        const before = await mustRead(store, claim.id);
        const refused = { kind: "refused", state: situation };
        assert.deepEqual(await store.resolve(completed(claim.id)), refused);
        assert.deepEqual(await store.resolve(opened(claim.id)), refused);
        assertUnchanged(await store.read(claim.id), before);
      },
    ),
  ),

  ...(["hold", "probe"] as const).flatMap((onCrash) =>
    [completed, opened].map((resolution) =>
      storeCase(
        `SM-12: a lapsed record under "${onCrash}" may be resolved as ${resolution.name}`,
        async (harness) => {
          const { store } = harness;
          const claim = claimOf({ onCrash });
          await reach(harness, "lapsed", claim);
          assert.deepEqual(await store.resolve(resolution(claim.id)), resolved);
          const record = await mustRead(store, claim.id);
          assert.equal(record.state, resolution === completed ? "completed" : "open");
          assert.equal(record.leaseRemainingMs, null);
          assertRemaining(record.expiresInMs, RETENTION_MS);
        },
      ),
    ),
  ),

  storeCase("SM-12: a lapsed record under rerun is refused to resolve", async (harness) => {
    const claim = claimOf();
    await reach(harness, "lapsed", claim);
    const refused = { kind: "refused", state: "running" };
    assert.deepEqual(await harness.store.resolve(opened(claim.id)), refused);
  }),

  storeCase("SM-12: a decision is made once", async (harness) => {
    const { store } = harness;
    const claim = claimOf();
    await reach(harness, "held", claim);
    await store.resolve(completed(claim.id, "first"));
    const refused = { kind: "refused", state: "completed" };
    assert.deepEqual(await store.resolve(completed(claim.id, "second")), refused);
    assert.deepEqual(await store.resolve(opened(claim.id)), refused);
    assertReplay(await store.begin(duplicateOf(claim)), "first");
  }),

  storeCase("SM-12: a record resolved as open may be held and resolved again", async (harness) => {
    const { store } = harness;
    const claim = claimOf();
    await reach(harness, "held", claim);
    await store.resolve(opened(claim.id));
    const token = await acquire(store, duplicateOf(claim));
    await store.settle(hold(token, "again"));
    const answer = await store.begin(duplicateOf(claim));
    assert.deepEqual(answer, { kind: "held", attempt: 2, reason: "again" });
    assert.deepEqual(await store.resolve(completed(claim.id)), resolved);
  }),
];

const voided = { kind: "voided" };

const voidance = [
  storeCase("SM-13: voiding what never began leaves a tombstone", async ({ store }) => {
    const claim = claimOf();
    assert.deepEqual(await store.void(voiding(claim)), voided);
    assert.deepEqual(await store.begin(claim), { kind: "void" });
    const record = await mustRead(store, claim.id);
    assert.equal(record.state, "void");
    assert.equal(record.result, null);
    assert.equal(record.leaseRemainingMs, null);
    assertRemaining(record.expiresInMs, RETENTION_MS);
  }),

  ...(["open", "held", "lapsed"] as const).flatMap((situation) =>
    CRASH_POLICIES.filter((policy) => situation === "lapsed" || policy === "hold").map((onCrash) =>
      storeCase(
        `SM-13: a record that is ${situation} under "${onCrash}" is voided, with the retention asked for`,
        async (harness) => {
          const { store } = harness;
          const claim = claimOf({ onCrash });
          await reach(harness, situation, claim);
          assert.deepEqual(await store.void(voiding(claim, 5 * RETENTION_MS)), voided);
          assert.deepEqual(await store.begin(duplicateOf(claim)), { kind: "void" });
          const record = await mustRead(store, claim.id);
          assert.equal(record.state, "void");
          assert.equal(record.fingerprint, claim.fingerprint);
          assertRemaining(record.expiresInMs, 5 * RETENTION_MS);
        },
      ),
    ),
  ),

  storeCase("SM-13: a live attempt is busy, and unchanged", async ({ store }) => {
    const claim = claimOf();
    const token = await acquire(store, claim);
    const before = await mustRead(store, claim.id);
    assert.deepEqual(await store.void(voiding(claim)), { kind: "busy" });
    assertUnchanged(await store.read(claim.id), before);
    assert.equal(token.attempt, 1);
  }),

  storeCase(
    "SM-13: what has completed cannot be voided, and keeps its result",
    async ({ store }) => {
      const claim = claimOf();
      await complete(store, claim);
      const before = await mustRead(store, claim.id);
      assert.deepEqual(await store.void(voiding(claim)), { kind: "completed" });
      assertUnchanged(await store.read(claim.id), before);
    },
  ),

  storeCase("SM-13: voiding twice is voiding once", async (harness) => {
    const { store } = harness;
    const claim = claimOf();
    await reach(harness, "void", claim);
    assert.deepEqual(await store.void(voiding(claim)), voided);
    assert.deepEqual(await store.void(voiding(claim)), voided);
    const record = await mustRead(store, claim.id);
    assert.equal(record.state, "void");
    assertRemaining(record.expiresInMs, RETENTION_MS);
  }),
];

const deleted = { kind: "deleted" };

const deletion = [
  ...(["lapsed", "completed", "held", "open", "void"] as const).map((situation) =>
    storeCase(`a record that is ${situation} is deleted, and begins anew`, async (harness) => {
      const { store } = harness;
      const claim = claimOf({ onCrash: "hold" });
      await reach(harness, situation, claim);
      assert.deepEqual(await store.delete(claim.id), deleted);
      assert.equal(await store.read(claim.id), undefined);
      assert.deepEqual(await store.delete(claim.id), { kind: "absent" });
      const answer = await store.begin(duplicateOf(claim, { fingerprint: "v1:other" }));
      assert.deepEqual(answer, { kind: "acquired", attempt: 1, probe: false });
    }),
  ),

  storeCase("a record under a live lease is not deleted", async (harness) => {
    const { store } = harness;
    const claim = claimOf();
    await acquire(store, claim);
    const before = await mustRead(store, claim.id);
    assert.deepEqual(await store.delete(claim.id), { kind: "busy" });
    assertUnchanged(await store.read(claim.id), before);
    await harness.elapse(LEASE_MS);
    assert.deepEqual(await store.delete(claim.id), deleted);
  }),

  storeCase("deleting an absent record is absent", async ({ store }) => {
    assert.deepEqual(await store.delete(claimOf().id), { kind: "absent" });
  }),

  storeCase("deleting one record leaves the others", async ({ store }) => {
    const [one, other] = [claimOf(), claimOf()];
    await complete(store, one);
    await complete(store, other);
    assert.deepEqual(await store.delete(one.id), deleted);
    assertReplay(await store.begin(duplicateOf(other)), "result");
  }),
];

export const administrationCases = [...resolving, ...voidance, ...deletion];
