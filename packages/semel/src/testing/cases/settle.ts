// The end of an attempt: complete, release, hold (SM-8 to SM-10).

import assert from "node:assert/strict";
import {
  acquire,
  assertBytes,
  assertRemaining,
  assertReplay,
  assertUnchanged,
  CRASH_POLICIES,
  claimOf,
  complete,
  completion,
  duplicateOf,
  expectKind,
  FENCED_WRITES,
  hold,
  LEASE_MS,
  mustRead,
  RETENTION_MS,
  reach,
  release,
  SETTLED,
  STALE,
  STATE_AFTER,
} from "../claims.ts";
import { storeCase, together } from "../store-harness.ts";

export const settleCases = [
  storeCase("SM-8: complete stores the result and keeps the rest", async (harness) => {
    const { store } = harness;
    const claim = claimOf();
    const token = await acquire(store, claim);
    const before = await mustRead(store, claim.id);
    await harness.elapse(LEASE_MS / 2);
    assert.deepEqual(await store.settle(completion(token, "42")), SETTLED);
    const { result, ...record } = await mustRead(store, claim.id);
    assertBytes(result, "42");
    assert.equal(record.state, "completed");
    assert.equal(record.attempt, before.attempt);
    assert.equal(record.owner, before.owner);
    assert.equal(record.fingerprint, before.fingerprint);
    assert.equal(record.scope, before.scope);
    assert.equal(record.key, before.key);
    assert.equal(record.leaseRemainingMs, null);
    assert.equal(record.reason, null);
    assert.ok(record.updatedAt >= record.createdAt);
    assertRemaining(record.expiresInMs, RETENTION_MS);
  }),

  storeCase("SM-9: release leaves the record open", async ({ store }) => {
    const claim = claimOf();
    const token = await acquire(store, claim);
    assert.deepEqual(await store.settle(release(token)), SETTLED);
    const record = await mustRead(store, claim.id);
    assert.equal(record.state, "open");
    assert.equal(record.attempt, 1);
    assert.equal(record.crashes, 0);
    assert.equal(record.result, null);
    assert.equal(record.leaseRemainingMs, null);
    assertRemaining(record.expiresInMs, RETENTION_MS);
  }),

  storeCase("SM-10: hold keeps the reason, and the record without bound", async ({ store }) => {
    const claim = claimOf();
    const token = await acquire(store, claim);
    const reason = `"quoted", 'quoted', \\ %s ${"–".repeat(200)} 金額 🚀`;
    assert.deepEqual(await store.settle(hold(token, reason)), SETTLED);
    const record = await mustRead(store, claim.id);
    assert.equal(record.state, "held");
    assert.equal(record.reason, reason);
    assert.equal(record.attempt, 1);
    assert.equal(record.result, null);
    assert.equal(record.leaseRemainingMs, null);
    assert.equal(record.expiresInMs, null);
    assert.deepEqual(await store.begin(duplicateOf(claim)), { kind: "held", attempt: 1, reason });
  }),

  ...FENCED_WRITES.filter(({ name }) => name !== "renew").flatMap(({ name, write, requirement }) =>
    CRASH_POLICIES.map((onCrash) =>
      storeCase(
        `${requirement}: an attempt whose lease lapsed under "${onCrash}", taken by nobody, may still ${name}`,
        async (harness) => {
          const { store } = harness;
          const claim = claimOf({ onCrash });
          const token = await reach(harness, "lapsed", claim);
          assert.deepEqual(await write(store, token), SETTLED);
          const state = STATE_AFTER[name];
          const record = await mustRead(store, claim.id);
          assert.equal(record.state, state);
          assert.equal(record.crashes, 0);
        },
      ),
    ),
  ),

  ...FENCED_WRITES.filter(({ name }) => name !== "renew").map(({ name, write, requirement }) =>
    storeCase(`${requirement}: ${name} keeps the fingerprint`, async ({ store }) => {
      const claim = claimOf({ fingerprint: "v1:kept" });
      await write(store, await acquire(store, claim));
      assert.equal((await mustRead(store, claim.id)).fingerprint, "v1:kept");
      const other = await store.begin(duplicateOf(claim, { fingerprint: "v1:other" }));
      assert.deepEqual(other, { kind: "mismatch", fingerprint: "v1:kept" });
    }),
  ),

  storeCase("SM-8: a result never changes, also by its own attempt", async ({ store }) => {
    const claim = claimOf();
    const token = await complete(store, claim, "first");
    const before = await mustRead(store, claim.id);
    assert.deepEqual(await store.settle(completion(token, "second")), STALE);
    assertUnchanged(await store.read(claim.id), before);
    assertReplay(await store.begin(duplicateOf(claim)), "first");
  }),

  storeCase("SM-8: a takeover's result says which attempt made it", async (harness) => {
    const { store } = harness;
    const claim = claimOf();
    await reach(harness, "lapsed", claim);
    const successor = duplicateOf(claim);
    await complete(store, successor, "of attempt 2");
    const answer = expectKind(await store.begin(duplicateOf(claim)), "done");
    assert.equal(answer.attempt, 2);
    assertReplay(answer, "of attempt 2");
    assert.equal((await mustRead(store, claim.id)).owner, successor.owner);
  }),

  storeCase("SM-8: completing one record leaves the others alone", async ({ store }) => {
    const claims = [claimOf(), claimOf(), claimOf()];
    const tokens = await together(claims.map((claim) => acquire(store, claim)));
    await store.settle(completion(tokens[1]!));
    const states = await together(claims.map((claim) => mustRead(store, claim.id)));
    assert.deepEqual(
      states.map((record) => record.state),
      ["running", "completed", "running"],
    );
  }),

  storeCase("SM-9: a reopened record completes under its next attempt", async (harness) => {
    const { store } = harness;
    const claim = claimOf();
    await reach(harness, "open", claim);
    await complete(store, duplicateOf(claim), "second try");
    assertReplay(await store.begin(duplicateOf(claim)), "second try");
    assert.equal((await mustRead(store, claim.id)).attempt, 2);
  }),

  storeCase("a change of state is a later update of the same creation", async (harness) => {
    const { store } = harness;
    const claim = claimOf();
    const token = await acquire(store, claim);
    const begun = await mustRead(store, claim.id);
    await harness.elapse(LEASE_MS / 2);
    await store.settle(release(token));
    const released = await mustRead(store, claim.id);
    const sinceCreation = released.updatedAt - released.createdAt;
    assert.ok(begun.updatedAt - begun.createdAt < LEASE_MS / 2);
    assert.ok(sinceCreation >= LEASE_MS / 2, `updated ${sinceCreation} ms after creation`);
  }),
];
