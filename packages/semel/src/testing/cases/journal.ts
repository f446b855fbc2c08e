// What attempts append to their records (SM-14): kept in order, by the running attempt alone, for
// whichever attempt comes after it.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import type { AttemptToken, Store } from "../../store.ts";
import {
  acquire,
  assertReplay,
  claimOf,
  completion,
  duplicateOf,
  hold,
  LEASE_MS,
  mustRead,
  release,
  SETTLED,
  STALE,
  tokenOf,
} from "../claims.ts";
import { clientsOf, type StoreHarness, storeCase, together } from "../store-harness.ts";

async function append(store: Store, token: AttemptToken, bytes: Uint8Array | string) {
  assert.ok(store.append, `the ${store.name} store has no append()`);
  return store.append({ ...tokenOf(token), bytes: Buffer.from(bytes) });
}

async function journalOf(store: Store, { id }: { id: string }): Promise<string | null> {
  const { journal } = await mustRead(store, id);
  return journal && Buffer.from(journal).toString("latin1");
}

/** A record of a claim in which an attempt has appended `one`. */
async function begun({ store }: StoreHarness, claim = claimOf()) {
  const token = await acquire(store, claim);
  assert.deepEqual(await append(store, token, "one"), SETTLED);
  return { claim, token };
}

const ends = [
  { end: "release", of: (token: AttemptToken) => release(token) },
  { end: "hold", of: (token: AttemptToken) => hold(token) },
];

export const journalCases = [
  storeCase("SM-14: nothing has been appended to a new record", async ({ store }) => {
    const token = await acquire(store, claimOf());
    assert.equal(await journalOf(store, token), null);
  }),

  storeCase("SM-14: what is appended is kept in order", async (harness) => {
    const { store } = harness;
    const { token } = await begun(harness);
    assert.deepEqual(await append(store, token, " two"), SETTLED);
    assert.deepEqual(await append(store, token, " three"), SETTLED);
    assert.equal(await journalOf(store, token), "one two three");
  }),

  storeCase("SM-14: every byte is kept", async ({ store }) => {
    const token = await acquire(store, claimOf());
    const bytes = Uint8Array.from({ length: 512 }, (_, i) => i & 0xff);
    await append(store, token, bytes);
    await append(store, token, bytes.toReversed());
    const { journal } = await mustRead(store, token.id);
    assert.deepEqual([...journal!], [...bytes, ...bytes.toReversed()]);
  }),

  storeCase("SM-14: a megabyte in pieces is kept", async ({ store }) => {
    const token = await acquire(store, claimOf());
    const pieces = Array.from({ length: 8 }, () => randomBytes(128 * 1024));
    for (const piece of pieces) assert.deepEqual(await append(store, token, piece), SETTLED);
    const { journal } = await mustRead(store, token.id);
    assert.ok(Buffer.concat(pieces).equals(Buffer.from(journal!)));
  }),

  storeCase("SM-14: an append changes nothing else of the record", async (harness) => {
    const { store } = harness;
    const token = await acquire(store, claimOf());
    const before = await mustRead(store, token.id);
    await append(store, token, "one");
    const { journal: _journal, leaseRemainingMs, ...after } = await mustRead(store, token.id);
    assert.ok(leaseRemainingMs! <= LEASE_MS);
    for (const name of ["state", "attempt", "owner", "scope", "key", "fingerprint", "crashes"]) {
      assert.equal(after[name as keyof typeof after], before[name as keyof typeof before]);
    }
  }),

  storeCase("SM-14, SM-4: the attempt that takes over finds it, and goes on", async (harness) => {
    const { store } = harness;
    const { claim, token } = await begun(harness);
    await harness.elapse(2 * LEASE_MS);
    const successor = await acquire(store, duplicateOf(claim));
    assert.equal(await journalOf(store, claim), "one");
    assert.deepEqual(await append(store, token, " zombie"), STALE);
    assert.deepEqual(await append(store, successor, " two"), SETTLED);
    assert.equal(await journalOf(store, claim), "one two");
  }),

  storeCase("SM-14, SM-6: it survives a release", async (harness) => {
    const { store } = harness;
    const { claim, token } = await begun(harness);
    await store.settle(release(token));
    assert.equal(await journalOf(store, claim), "one");
    const next = await acquire(store, duplicateOf(claim));
    assert.deepEqual(await append(store, next, " two"), SETTLED);
    assert.equal(await journalOf(store, claim), "one two");
  }),

  storeCase(
    "SM-14, SM-12: it survives a hold, and the resolution to run again",
    async (harness) => {
      const { store } = harness;
      const { claim, token } = await begun(harness);
      await store.settle(hold(token));
      await store.resolve({ id: claim.id, kind: "open", retentionMs: 60_000 });
      await acquire(store, duplicateOf(claim));
      assert.equal(await journalOf(store, claim), "one");
    },
  ),

  storeCase("SM-11: a lapsed lease that nobody took may still append", async (harness) => {
    const { token } = await begun(harness);
    await harness.elapse(2 * LEASE_MS);
    assert.deepEqual(await append(harness.store, token, " two"), SETTLED);
  }),

  ...ends.map(({ end, of }) =>
    storeCase(`SM-14: nothing is appended after a ${end}`, async (harness) => {
      const { store } = harness;
      const { token } = await begun(harness);
      await store.settle(of(token));
      assert.deepEqual(await append(store, token, " two"), STALE);
      assert.equal(await journalOf(store, token), "one");
    }),
  ),

  storeCase("SM-14, SM-8: a completion after steps replays its result", async (harness) => {
    const { store } = harness;
    const { claim, token } = await begun(harness);
    assert.deepEqual(await store.settle(completion(token, "paid")), SETTLED);
    assert.deepEqual(await append(store, token, " two"), STALE);
    assertReplay(await store.begin(duplicateOf(claim)), "paid");
  }),

  storeCase(
    "SM-14: a record that is deleted and begun anew has none of the old",
    async (harness) => {
      const { store } = harness;
      const { claim, token } = await begun(harness);
      await store.settle(release(token));
      assert.deepEqual(await store.delete(claim.id), { kind: "deleted" });
      const anew = await acquire(store, duplicateOf(claim));
      assert.equal(await journalOf(store, claim), null);
      assert.deepEqual(await append(store, token, " zombie"), STALE);
      await append(store, anew, "new");
      assert.equal(await journalOf(store, claim), "new");
    },
  ),

  storeCase(
    "SM-14, SM-15: a record that expired and is begun anew has none of the old",
    async (harness) => {
      const { store } = harness;
      const { claim, token } = await begun(harness);
      await store.settle(release(token, 60_000));
      await harness.elapse(120_000);
      const anew = await acquire(store, duplicateOf(claim));
      assert.equal(await journalOf(store, claim), null);
      await append(store, anew, "new");
      assert.equal(await journalOf(store, claim), "new");
    },
  ),

  storeCase("SM-14, SM-13: a tombstone takes nothing", async (harness) => {
    const { store } = harness;
    const { claim, token } = await begun(harness);
    await store.settle(release(token));
    const { id, scope, key } = claim;
    assert.deepEqual(await store.void({ id, scope, key, retentionMs: 60_000 }), { kind: "voided" });
    assert.deepEqual(await append(store, token, " two"), STALE);
  }),

  storeCase("SM-14: an absent record takes nothing, and none is made", async ({ store }) => {
    const claim = claimOf();
    assert.deepEqual(await append(store, { ...claim, attempt: 1 }, "one"), STALE);
    assert.equal(await store.read(claim.id), undefined);
  }),

  storeCase("SM-14: a hundred appends at once are all kept", async (harness) => {
    const clients = await clientsOf(harness);
    const token = await acquire(harness.store, claimOf());
    const marks = Array.from({ length: 100 }, (_, i) => `<${i}>`);
    await together(marks.map((mark, i) => append(clients[i % clients.length]!, token, mark)));
    const journal = (await journalOf(harness.store, token))!;
    assert.equal(journal.length, marks.join("").length);
    for (const mark of marks) assert.ok(journal.includes(mark), mark);
  }),

  storeCase(
    "SM-17: of a takeover and appends at once, none lands after the takeover",
    async (harness) => {
      const [first, second = first] = await clientsOf(harness);
      const { claim, token } = await begun(harness);
      await harness.elapse(2 * LEASE_MS);
      const [successor, ...answers] = await together([
        acquire(second!, duplicateOf(claim)),
        ...Array.from({ length: 20 }, (_, i) => append(first!, token, `<${i}>`)),
      ] as const);
      const kept = answers.filter(({ kind }) => kind === "settled").length;
      const before = (await journalOf(first!, claim))!;
      assert.equal(before.match(/<\d+>/g)?.length ?? 0, kept);
      assert.deepEqual(await append(first!, token, "late"), STALE);
      assert.deepEqual(await append(second!, successor, "next"), SETTLED);
      assert.equal(await journalOf(first!, claim), `${before}next`);
    },
  ),

  storeCase("a listing leaves it out", async (harness) => {
    await begun(harness);
    const { records } = await harness.store.list({ limit: 10 });
    assert.deepEqual(
      records.map(({ journal }) => journal),
      [null],
    );
  }),

  storeCase("the age of a record is the time since it was created", async (harness) => {
    const { claim, token } = await begun(harness);
    await harness.elapse(30_000);
    await harness.store.settle(release(token));
    await acquire(harness.store, duplicateOf(claim));
    const { ageMs } = await mustRead(harness.store, claim.id);
    assert.ok(ageMs >= 30_000 && ageMs < 50_000, `${ageMs} ms`);
  }),
];
