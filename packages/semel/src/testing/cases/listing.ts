// Listings and statistics (EN-9).

import assert from "node:assert/strict";
import type { Claim, ListQuery, Store, StoredRecord } from "../../store.ts";
import {
  acquire,
  claimOf,
  complete,
  duplicateOf,
  expectKind,
  LEASE_MS,
  mustRead,
  RETENTION_MS,
  reach,
  SITUATIONS,
} from "../claims.ts";
import { type StoreHarness, storeCase, together } from "../store-harness.ts";

/** More pages than any case can need: a listing that does not end is cut off. */
const PAGES_MAX = 200;

async function listAll(store: Store, query: ListQuery, between?: (page: number) => Promise<void>) {
  const records: StoredRecord[] = [];
  let cursor: string | undefined;
  for (let page = 0; page < PAGES_MAX; page++) {
    const answer = await store.list({ ...query, ...(cursor !== undefined && { cursor }) });
    assert.ok(answer.records.length <= query.limit, "a page is longer than its limit");
    records.push(...answer.records);
    if (answer.cursor === undefined) return records;
    cursor = answer.cursor;
    await between?.(page);
  }
  assert.fail(`a listing did not end after ${PAGES_MAX} pages`);
}

function idsOf(records: readonly { id: string }[]): string[] {
  return records.map((record) => record.id).sort();
}

async function begin(store: Store, count: number, scope = "tenant"): Promise<Claim[]> {
  const claims = Array.from({ length: count }, () => claimOf({ scope }));
  await together(claims.map((claim) => acquire(store, claim)));
  return claims;
}

/** One record in each situation; whatever is "lapsed" was lapsed first. */
async function oneOfEach(harness: StoreHarness, parts: Parameters<typeof claimOf>[0]) {
  const claims = new Map<string, Claim>();
  for (const situation of ["lapsed", ...SITUATIONS.filter((one) => one !== "lapsed")] as const) {
    const claim = claimOf(parts);
    await reach(harness, situation as (typeof SITUATIONS)[number], claim);
    claims.set(situation, claim);
  }
  return claims;
}

const paging = [
  storeCase("an empty store lists nothing, on one page", async ({ store }) => {
    assert.deepEqual(await listAll(store, { limit: 10 }), []);
  }),

  ...[1, 7, 25, 26, 1_000].map((limit) =>
    storeCase(
      `25 records made at once are listed in pages of ${limit} without loss or repeat`,
      async ({ store }) => {
        const claims = await begin(store, 25);
        assert.deepEqual(idsOf(await listAll(store, { limit })), idsOf(claims));
      },
    ),
  ),

  storeCase("a listing is newest first, across pages", async (harness) => {
    const claims: Claim[] = [];
    for (let n = 0; n < 9; n++) {
      claims.unshift(...(await begin(harness.store, 1)));
      await harness.elapse(1_000);
    }
    const records = await listAll(harness.store, { limit: 2 });
    assert.deepEqual(
      records.map((record) => record.id),
      claims.map((claim) => claim.id),
    );
  }),

  storeCase("records made or removed between two pages disturb no other", async (harness) => {
    const { store } = harness;
    const claims = await begin(store, 20);
    await harness.elapse(LEASE_MS);
    const doomed = new Set<string>();
    const records = await listAll(store, { limit: 3 }, async (page) => {
      await begin(store, 2);
      const victim = claims[page];
      if (victim === undefined) return;
      doomed.add(victim.id);
      await store.delete(victim.id);
    });
    const seen = records.map((record) => record.id);
    assert.equal(new Set(seen).size, seen.length, "a record was listed twice");
    const lost = claims.filter(({ id }) => !doomed.has(id) && !seen.includes(id));
    assert.deepEqual(lost, []);
  }),

  storeCase("a listing shows what a read shows, without the result", async ({ store }) => {
    const claim = claimOf();
    await complete(store, claim);
    const [listed] = (await store.list({ limit: 10 })).records;
    const read = await mustRead(store, claim.id);
    const shown = (record: StoredRecord | undefined) => ({ ...record, expiresInMs: 0, ageMs: 0 });
    assert.deepEqual(shown(listed), shown({ ...read, result: null }));
  }),

  storeCase("an expired record is not listed, swept or not", async (harness) => {
    const { store } = harness;
    await reach(harness, "completed", claimOf());
    await harness.elapse(RETENTION_MS);
    const [live] = await begin(store, 1);
    assert.deepEqual(idsOf(await listAll(store, { limit: 1 })), [live!.id]);
    await store.sweep(100);
    assert.deepEqual(idsOf(await listAll(store, { limit: 1 })), [live!.id]);
  }),
];

const filters = [
  storeCase("a listing by scope shows that scope alone, across pages", async ({ store }) => {
    const alice = await begin(store, 5, "alice");
    await begin(store, 5, "bob");
    await begin(store, 2, "alice2");
    assert.deepEqual(idsOf(await listAll(store, { scope: "alice", limit: 2 })), idsOf(alice));
    assert.deepEqual(await listAll(store, { scope: "carol", limit: 2 }), []);
  }),

  ...(["running", "completed", "held", "open", "void"] as const).map((state) =>
    storeCase(
      `a listing of records that are ${state} counts lapsed ones under hold as held`,
      async (harness) => {
        const claims = await oneOfEach(harness, { onCrash: "hold" });
        const expected = [claims.get(state)!];
        if (state === "held") expected.push(claims.get("lapsed")!);
        const listed = await listAll(harness.store, { state, limit: 1 });
        assert.deepEqual(idsOf(listed), idsOf(expected));
      },
    ),
  ),

  storeCase(
    "a lapsed record is listed as held under probe, as running under rerun",
    async (harness) => {
      const { store } = harness;
      const probe = claimOf({ onCrash: "probe" });
      const rerun = claimOf({ onCrash: "rerun" });
      await acquire(store, probe);
      await acquire(store, rerun);
      await harness.elapse(LEASE_MS);
      assert.deepEqual(idsOf(await listAll(store, { state: "held", limit: 10 })), [probe.id]);
      assert.deepEqual(idsOf(await listAll(store, { state: "running", limit: 10 })), [rerun.id]);
    },
  ),

  storeCase("a listing by age shows what was created at least that long ago", async (harness) => {
    const { store } = harness;
    const old = await begin(store, 3);
    await harness.elapse(2 * RETENTION_MS);
    const young = await begin(store, 3);
    const aged = (olderThanMs: number) => listAll(store, { olderThanMs, limit: 2 });
    assert.deepEqual(idsOf(await aged(RETENTION_MS)), idsOf(old));
    assert.deepEqual(idsOf(await aged(2 * RETENTION_MS)), idsOf(old));
    assert.deepEqual(idsOf(await aged(0)), idsOf([...old, ...young]));
    assert.deepEqual(await aged(3 * RETENTION_MS), []);
  }),

  storeCase("an age is that of creation, whatever changed since", async (harness) => {
    const { store } = harness;
    const claim = claimOf({ leaseMs: 10 * RETENTION_MS });
    const token = await acquire(store, claim);
    await harness.elapse(2 * RETENTION_MS);
    await store.settle({ ...token, kind: "release", retentionMs: RETENTION_MS });
    const old = await listAll(store, { olderThanMs: RETENTION_MS, limit: 10 });
    assert.deepEqual(idsOf(old), [claim.id]);
  }),

  storeCase("filters of a listing add up", async (harness) => {
    const { store } = harness;
    const wanted = claimOf({ scope: "alice" });
    await reach(harness, "held", wanted);
    await reach(harness, "held", claimOf({ scope: "bob" }));
    await reach(harness, "open", claimOf({ scope: "alice" }));
    await harness.elapse(RETENTION_MS / 2);
    await reach(harness, "held", claimOf({ scope: "alice" }));
    const query = { scope: "alice", state: "held", olderThanMs: RETENTION_MS / 4 } as const;
    assert.deepEqual(idsOf(await listAll(store, { ...query, limit: 1 })), [wanted.id]);
  }),
];

const statistics = [
  storeCase("an empty store has empty statistics", async ({ store }) => {
    const { states, oldestHeldMs, bytes } = await store.stats();
    assert.deepEqual(states, { running: 0, completed: 0, held: 0, open: 0, void: 0 });
    assert.equal(oldestHeldMs, null);
    assert.ok(bytes === null || bytes >= 0);
  }),

  storeCase(
    "SM-15: statistics count records by state, lapsed ones under hold as held",
    async (harness) => {
      const { store } = harness;
      await oneOfEach(harness, { onCrash: "hold" });
      const { states } = await store.stats();
      assert.deepEqual(states, { running: 1, completed: 1, held: 2, open: 1, void: 1 });
    },
  ),

  storeCase(
    "SM-15: statistics count lapsed ones under probe as held, under rerun as running",
    async (harness) => {
      const { store } = harness;
      await acquire(store, claimOf({ onCrash: "probe" }));
      await acquire(store, claimOf({ onCrash: "rerun" }));
      await harness.elapse(LEASE_MS);
      const { states } = await store.stats();
      assert.equal(states.held, 1);
      assert.equal(states.running, 1);
    },
  ),

  storeCase("statistics leave expired records out, swept or not", async (harness) => {
    const { store } = harness;
    await oneOfEach(harness, { lapsedRetentionMs: RETENTION_MS });
    await harness.elapse(LEASE_MS + RETENTION_MS);
    const expected = { running: 0, completed: 0, held: 1, open: 0, void: 0 };
    assert.deepEqual((await store.stats()).states, expected);
    await store.sweep(100);
    assert.deepEqual((await store.stats()).states, expected);
  }),

  storeCase("SM-15: statistics know the age of the oldest held record", async (harness) => {
    const { store } = harness;
    const claim = claimOf({ leaseMs: 10 * RETENTION_MS });
    const token = await acquire(store, claim);
    await harness.elapse(RETENTION_MS);
    assert.equal((await store.stats()).oldestHeldMs, null);
    await store.settle({ ...token, kind: "hold", reason: "unsure", retentionMs: null });
    await harness.elapse(2 * RETENTION_MS);
    await reach(harness, "held", claimOf());
    await harness.elapse(RETENTION_MS);
    assertAge((await store.stats()).oldestHeldMs, 3 * RETENTION_MS);
    await store.resolve({ id: claim.id, kind: "open", retentionMs: RETENTION_MS });
    assertAge((await store.stats()).oldestHeldMs, RETENTION_MS);
  }),

  storeCase(
    "SM-15: a lapsed record under hold ages from its lease, until it is found",
    async (harness) => {
      const { store } = harness;
      const claim = claimOf({ onCrash: "hold" });
      await reach(harness, "lapsed", claim);
      await harness.elapse(RETENTION_MS);
      assertAge((await store.stats()).oldestHeldMs, RETENTION_MS);
      expectKind(await store.begin(duplicateOf(claim)), "held");
      assert.equal((await store.stats()).states.held, 1);
    },
  ),
];

/** An age on a real clock may be somewhat more, never less. */
function assertAge(actual: number | null, expectedMs: number): void {
  assert.ok(
    actual !== null && actual >= expectedMs - 1 && actual < expectedMs + RETENTION_MS / 2,
    `expected an age of about ${expectedMs} ms, got ${actual}`,
  );
}

export const listingCases = [...paging, ...filters, ...statistics];
