// Zombies: every write after `begin`, by an attempt that is not, or no longer, the running one
// (SM-17, SM-18). Each is stale and writes nothing, whatever became of the record meanwhile.

import assert from "node:assert/strict";
import type { AttemptToken, Claim } from "../../store.ts";
import {
  acquire,
  assertUnchanged,
  claimOf,
  complete,
  completion,
  duplicateOf,
  expectKind,
  FENCED_WRITES,
  hold,
  LAPSED_RETENTION_MS,
  newOwner,
  RETENTION_MS,
  reach,
  release,
  SETTLED,
  STALE,
  voiding,
} from "../claims.ts";
import { type StoreHarness, storeCase } from "../store-harness.ts";

interface History {
  readonly what: string;
  /** Makes a history, and gives the token of the zombie in it. */
  make(harness: StoreHarness, claim: Claim): Promise<AttemptToken>;
  readonly claim?: Parameters<typeof claimOf>[0];
}

export const histories: readonly History[] = [
  {
    what: "after its lease was taken over",
    async make(harness, claim) {
      const zombie = await reach(harness, "lapsed", claim);
      await acquire(harness.store, duplicateOf(claim));
      return zombie;
    },
  },
  {
    what: "after its successor completed",
    async make(harness, claim) {
      const zombie = await reach(harness, "lapsed", claim);
      await complete(harness.store, duplicateOf(claim), "of the successor");
      return zombie;
    },
  },
  {
    what: "after its successor released",
    async make(harness, claim) {
      const zombie = await reach(harness, "lapsed", claim);
      await harness.store.settle(release(await acquire(harness.store, duplicateOf(claim))));
      return zombie;
    },
  },
  {
    what: "after its lease lapsed and the record was held",
    claim: { onCrash: "hold" },
    async make(harness, claim) {
      const zombie = await reach(harness, "lapsed", claim);
      expectKind(await harness.store.begin(duplicateOf(claim)), "held");
      return zombie;
    },
  },
  {
    what: "after it released and another attempt began",
    async make(harness, claim) {
      const zombie = await reach(harness, "open", claim);
      await acquire(harness.store, duplicateOf(claim));
      return zombie;
    },
  },
  ...(["completed", "held", "open", "void"] as const).map((situation) => ({
    what: `on a record that is ${situation}`,
    make: (harness: StoreHarness, claim: Claim) => reach(harness, situation, claim),
  })),
  {
    what: "after its lapsed record was voided",
    async make(harness, claim) {
      const zombie = await reach(harness, "lapsed", claim);
      assert.deepEqual(await harness.store.void(voiding(claim)), { kind: "voided" });
      return zombie;
    },
  },
  {
    what: "after its held record was resolved as completed",
    async make(harness, claim) {
      const zombie = await reach(harness, "held", claim);
      const { id, result } = { id: claim.id, result: new Uint8Array([1]) };
      await harness.store.resolve({ id, kind: "complete", result, retentionMs: RETENTION_MS });
      return zombie;
    },
  },
  {
    what: "after its held record was resolved as open and begun again",
    async make(harness, claim) {
      const zombie = await reach(harness, "held", claim);
      await harness.store.resolve({ id: claim.id, kind: "open", retentionMs: RETENTION_MS });
      await acquire(harness.store, duplicateOf(claim));
      return zombie;
    },
  },
  {
    what: "after its record was deleted",
    async make(harness, claim) {
      const zombie = await reach(harness, "lapsed", claim);
      assert.deepEqual(await harness.store.delete(claim.id), { kind: "deleted" });
      return zombie;
    },
  },
  {
    what: "after its record was deleted and made anew with the same attempt number",
    async make(harness, claim) {
      const zombie = await reach(harness, "lapsed", claim);
      await harness.store.delete(claim.id);
      const successor = await acquire(harness.store, duplicateOf(claim));
      assert.equal(successor.attempt, zombie.attempt);
      return zombie;
    },
  },
  {
    what: "after its record expired",
    async make(harness, claim) {
      const zombie = await reach(harness, "lapsed", claim);
      await harness.elapse(LAPSED_RETENTION_MS);
      return zombie;
    },
  },
  {
    what: "after its record expired and was made anew with the same attempt number",
    async make(harness, claim) {
      const zombie = await reach(harness, "lapsed", claim);
      await harness.elapse(LAPSED_RETENTION_MS);
      assert.equal((await acquire(harness.store, duplicateOf(claim))).attempt, zombie.attempt);
      return zombie;
    },
  },
  {
    what: "of an operation that never began",
    make: async (_harness, claim) => ({ id: claim.id, attempt: 1, owner: claim.owner }),
  },
  {
    what: "with the right attempt but another owner",
    async make(harness, claim) {
      return { ...(await acquire(harness.store, claim)), owner: newOwner() };
    },
  },
  {
    what: "with the right owner but an attempt too high",
    async make(harness, claim) {
      return { ...(await acquire(harness.store, claim)), attempt: 2 };
    },
  },
  {
    what: "with the right owner but an attempt too low",
    async make(harness, claim) {
      await reach(harness, "open", claim);
      return { ...(await acquire(harness.store, duplicateOf(claim))), attempt: 1 };
    },
  },
  {
    what: "with the owner of one operation on the record of another",
    async make(harness, claim) {
      const mine = await acquire(harness.store, claimOf());
      await acquire(harness.store, claim);
      return { ...mine, id: claim.id };
    },
  },
];

const matrix = FENCED_WRITES.flatMap(({ name, requirement, write }) =>
  histories.map(({ what, make, claim: parts }) =>
    storeCase(
      `SM-17, ${requirement}: ${name} ${what} is stale and writes nothing`,
      async (harness) => {
        const { store } = harness;
        const claim = claimOf(parts);
        const zombie = await make(harness, claim);
        const before = await store.read(claim.id);
        assert.deepEqual(await write(store, zombie), STALE);
        assertUnchanged(await store.read(claim.id), before);
      },
    ),
  ),
);

const persistence = [
  storeCase("SM-17: a zombie that tries everything cannot stop its successor", async (harness) => {
    const { store } = harness;
    const claim = claimOf();
    const zombie = await reach(harness, "lapsed", claim);
    const successor = await acquire(store, duplicateOf(claim));
    for (const { write } of FENCED_WRITES) assert.deepEqual(await write(store, zombie), STALE);
    assert.deepEqual(await store.settle(completion(successor, "of the successor")), SETTLED);
    for (const { write } of FENCED_WRITES) assert.deepEqual(await write(store, zombie), STALE);
    const answer = expectKind(await store.begin(duplicateOf(claim)), "done");
    assert.equal(Buffer.from(answer.result).toString(), "of the successor");
  }),

  storeCase("SM-17: a zombie is stale once its successor has lapsed as well", async (harness) => {
    const { store } = harness;
    const claim = claimOf();
    const zombie = await reach(harness, "lapsed", claim);
    const successor = await acquire(store, duplicateOf(claim));
    await harness.elapse(claim.leaseMs);
    for (const { write } of FENCED_WRITES) assert.deepEqual(await write(store, zombie), STALE);
    assert.deepEqual(await store.settle(completion(successor)), SETTLED);
  }),

  storeCase("SM-17: of three generations the last one alone may write", async (harness) => {
    const { store } = harness;
    const claim = claimOf();
    const first = await reach(harness, "lapsed", claim);
    const second = await acquire(store, duplicateOf(claim));
    await harness.elapse(claim.leaseMs);
    const third = await acquire(store, duplicateOf(claim));
    assert.deepEqual(await store.settle(hold(first)), STALE);
    assert.deepEqual(await store.settle(release(second)), STALE);
    assert.deepEqual(await store.settle(completion(third)), SETTLED);
  }),
];

export const fencingCases = [...matrix, ...persistence];
