// Attempts that were claimed and never ran, because nobody heard of the claim in time: given back, they
// count as none. A store need not be able to (`giveBack` is optional); its cases then have nothing to say.

import assert from "node:assert/strict";
import type { AttemptToken, Store } from "../../store.ts";
import {
  acquire,
  assertRemaining,
  assertUnchanged,
  bytesOf,
  claimOf,
  completion,
  duplicateOf,
  expectKind,
  FENCED_WRITES,
  LEASE_MS,
  mustRead,
  RETENTION_MS,
  reach,
  release,
  SETTLED,
  STALE,
  tokenOf,
  voiding,
} from "../claims.ts";
import { type StoreCase, type StoreHarness, storeCase, together } from "../store-harness.ts";
import { histories } from "./fencing.ts";

function unusedCase(name: string, run: (harness: StoreHarness) => Promise<void>): StoreCase {
  return storeCase(name, async (harness) => {
    if (harness.store.giveBack !== undefined) await run(harness);
  });
}

function giveBack(store: Store, token: AttemptToken, retentionMs = RETENTION_MS) {
  return store.giveBack!({ ...tokenOf(token), retentionMs });
}

const counting = [
  unusedCase("SM-18: a first attempt that is given back counts as none", async ({ store }) => {
    const claim = claimOf();
    assert.deepEqual(await giveBack(store, await acquire(store, claim)), SETTLED);
    const record = await mustRead(store, claim.id);
    assert.equal(record.state, "open");
    assert.equal(record.attempt, 0);
    assert.equal(record.crashes, 0);
    assert.equal(record.leaseRemainingMs, null);
    assert.equal(record.result, null);
    assert.equal(record.reason, null);
    assertRemaining(record.expiresInMs, RETENTION_MS);
    const next = await store.begin(duplicateOf(claim));
    assert.deepEqual(next, { kind: "acquired", attempt: 1, probe: false });
  }),

  unusedCase(
    "SM-18: a later attempt that is given back leaves the count of those before it",
    async ({ store }) => {
      const claim = claimOf();
      await store.settle(release(await acquire(store, claim)));
      for (let times = 0; times < 3; times++) {
        const token = await acquire(store, duplicateOf(claim));
        assert.equal(token.attempt, 2);
        assert.deepEqual(await giveBack(store, token), SETTLED);
      }
      assert.equal((await mustRead(store, claim.id)).attempt, 1);
    },
  ),

  unusedCase(
    "SM-4: a takeover that is given back leaves the crash that it found",
    async (harness) => {
      const { store } = harness;
      const claim = claimOf();
      await reach(harness, "lapsed", claim);
      assert.deepEqual(await giveBack(store, await acquire(store, duplicateOf(claim))), SETTLED);
      const record = await mustRead(store, claim.id);
      assert.deepEqual({ ...record }, { ...record, state: "open", attempt: 1, crashes: 1 });
      assert.equal((await acquire(store, duplicateOf(claim))).attempt, 2);
    },
  ),

  unusedCase("SM-14: what attempts before it have appended stays", async (harness) => {
    const { store } = harness;
    if (store.append === undefined) return;
    const claim = claimOf();
    const token = await acquire(store, claim);
    await store.append({ ...token, bytes: bytesOf("one") });
    await store.settle(release(token));
    await giveBack(store, await acquire(store, duplicateOf(claim)));
    const { journal } = await mustRead(store, claim.id);
    assert.equal(Buffer.from(journal!).toString(), "one");
  }),

  unusedCase(
    "SM-6: an open record takes the next claim's policy and payload as ever",
    async (harness) => {
      const { store } = harness;
      const claim = claimOf();
      await giveBack(store, await acquire(store, claim));
      const other = duplicateOf(claim, { fingerprint: "v1:other" });
      assert.equal(expectKind(await store.begin(other), "mismatch").fingerprint, claim.fingerprint);
      await acquire(store, duplicateOf(claim, { onCrash: "hold" }));
      assert.equal((await mustRead(store, claim.id)).onCrash, "hold");
    },
  ),
];

const afterwards = [
  unusedCase(
    "a record without an attempt is listed, counted, voided and deleted",
    async ({ store }) => {
      const [one, other] = [claimOf(), claimOf()];
      for (const claim of [one, other]) await giveBack(store, await acquire(store, claim));
      const { records } = await store.list({ state: "open", limit: 10 });
      assert.deepEqual(
        records.map(({ attempt, state }) => ({ attempt, state })),
        [
          { attempt: 0, state: "open" },
          { attempt: 0, state: "open" },
        ],
      );
      assert.equal((await store.stats()).states.open, 2);
      assert.deepEqual(await store.void(voiding(one)), { kind: "voided" });
      assert.deepEqual(await store.begin(duplicateOf(one)), { kind: "void" });
      assert.deepEqual(await store.delete(other.id), { kind: "deleted" });
    },
  ),

  unusedCase("SM-15: it is kept for the retention that was asked for", async (harness) => {
    const { store } = harness;
    const claim = claimOf();
    await giveBack(store, await acquire(store, claim), 5 * RETENTION_MS);
    await harness.elapse(4 * RETENTION_MS);
    assertRemaining((await mustRead(store, claim.id)).expiresInMs, RETENTION_MS);
    await harness.elapse(RETENTION_MS);
    assert.equal(await store.read(claim.id), undefined);
  }),

  unusedCase("a lapsed lease that nobody took may be given back", async (harness) => {
    const claim = claimOf();
    const token = await reach(harness, "lapsed", claim);
    assert.deepEqual(await giveBack(harness.store, token), SETTLED);
    assert.equal((await acquire(harness.store, duplicateOf(claim))).attempt, 1);
  }),
];

const fencing = [
  ...histories.map(({ what, make, claim: parts }) =>
    unusedCase(`SM-17: to give back ${what} is stale and writes nothing`, async (harness) => {
      const { store } = harness;
      const claim = claimOf(parts);
      const zombie = await make(harness, claim);
      const before = await store.read(claim.id);
      assert.deepEqual(await giveBack(store, zombie), STALE);
      assertUnchanged(await store.read(claim.id), before);
    }),
  ),

  ...FENCED_WRITES.map(({ name, requirement, write }) =>
    unusedCase(
      `SM-17, ${requirement}: ${name} by an attempt that was given back is stale, also where its number is taken again`,
      async ({ store }) => {
        const claim = claimOf();
        const token = await acquire(store, claim);
        await giveBack(store, token);
        assert.deepEqual(await write(store, token), STALE);
        const next = await acquire(store, duplicateOf(claim));
        assert.equal(next.attempt, token.attempt);
        const before = await mustRead(store, claim.id);
        assert.deepEqual(await write(store, token), STALE);
        assertUnchanged(await store.read(claim.id), before);
        assert.deepEqual(await store.settle(completion(next)), SETTLED);
      },
    ),
  ),

  unusedCase("SM-17: what is given back twice is given back once", async ({ store }) => {
    const claim = claimOf();
    await store.settle(release(await acquire(store, claim)));
    const token = await acquire(store, duplicateOf(claim));
    const answers = await together([giveBack(store, token), giveBack(store, token)]);
    assert.equal(answers.filter(({ kind }) => kind === "settled").length, 1);
    assert.equal((await mustRead(store, claim.id)).attempt, 1);
    const next = await acquire(store, duplicateOf(claim));
    assert.deepEqual(await giveBack(store, token), STALE);
    assert.equal(next.attempt, 2);
    assert.deepEqual(await store.settle(completion(next)), SETTLED);
  }),

  unusedCase(
    "SM-16: a claim that is sent again after it was given back is a new one",
    async ({ store }) => {
      const claim = claimOf();
      await giveBack(store, await acquire(store, claim));
      const again = await store.begin(claim);
      assert.deepEqual(again, { kind: "acquired", attempt: 1, probe: false });
      const record = await mustRead(store, claim.id);
      assert.equal(record.owner, claim.owner);
      assertRemaining(record.leaseRemainingMs, LEASE_MS);
    },
  ),
];

export const unusedCases = [...counting, ...afterwards, ...fencing];
