// Many callers at once, in one turn and, where the harness offers another client, across clients:
// each race has one winner, and losers learn the truth.

import assert from "node:assert/strict";
import type { BeginAnswer, Claim, Store } from "../../store.ts";
import {
  acquire,
  assertReplay,
  CRASH_POLICIES,
  claimOf,
  complete,
  completion,
  duplicateOf,
  expectKind,
  LEASE_MS,
  mustRead,
  newOwner,
  RENEWED,
  RETENTION_MS,
  reach,
  release,
  renewal,
  SETTLED,
  STALE,
  voiding,
} from "../claims.ts";
import { clientsOf, type StoreHarness, storeCase, together } from "../store-harness.ts";

const CALLERS = 100;
/** Races of two are run on so many records at once. */
const DUELS = 40;

function count<Answer extends { kind: string }>(answers: readonly Answer[]) {
  const counts: Record<string, number> = {};
  for (const { kind } of answers) counts[kind] = (counts[kind] ?? 0) + 1;
  return counts;
}

/** All callers begin in one turn, spread over the clients. */
async function stampede(harness: StoreHarness, claim: Claim): Promise<BeginAnswer[]> {
  const clients = await clientsOf(harness);
  const calls = Array.from({ length: CALLERS }, (_, n) =>
    clients[n % clients.length]!.begin(duplicateOf(claim)),
  );
  return together(calls);
}

const stampedes = [
  storeCase(`SM-16: of ${CALLERS} first begins at once one acquires`, async (harness) => {
    const claim = claimOf();
    const answers = await stampede(harness, claim);
    assert.deepEqual(count(answers), { acquired: 1, busy: CALLERS - 1 });
    assert.equal((await mustRead(harness.store, claim.id)).attempt, 1);
  }),

  ...(["rerun", "probe"] as const).map((onCrash) =>
    storeCase(
      `SM-4: of ${CALLERS} begins on a lapsed lease under "${onCrash}" one takes over`,
      async (harness) => {
        const claim = claimOf({ onCrash });
        await reach(harness, "lapsed", claim);
        const answers = await stampede(harness, claim);
        assert.deepEqual(count(answers), { acquired: 1, busy: CALLERS - 1 });
        const record = await mustRead(harness.store, claim.id);
        assert.equal(record.attempt, 2);
        assert.equal(record.crashes, 1);
      },
    ),
  ),

  storeCase(
    `SM-4: of ${CALLERS} begins on a lapsed lease under "hold" none runs`,
    async (harness) => {
      const claim = claimOf({ onCrash: "hold" });
      await reach(harness, "lapsed", claim);
      assert.deepEqual(count(await stampede(harness, claim)), { held: CALLERS });
    },
  ),

  storeCase(`SM-23a: of ${CALLERS} begins on an exhausted operation none runs`, async (harness) => {
    const claim = claimOf({ attemptsMax: 1 });
    await reach(harness, "lapsed", claim);
    assert.deepEqual(count(await stampede(harness, claim)), { held: CALLERS });
  }),

  storeCase(`SM-6: of ${CALLERS} begins on an open record one acquires`, async (harness) => {
    const claim = claimOf();
    await reach(harness, "open", claim);
    const answers = await stampede(harness, claim);
    assert.deepEqual(count(answers), { acquired: 1, busy: CALLERS - 1 });
    assert.equal((await mustRead(harness.store, claim.id)).attempt, 2);
  }),

  storeCase(`SM-15: of ${CALLERS} begins just after expiry one acquires`, async (harness) => {
    const claim = claimOf();
    await complete(harness.store, claim);
    await harness.elapse(RETENTION_MS);
    const answers = await stampede(harness, claim);
    assert.deepEqual(count(answers), { acquired: 1, busy: CALLERS - 1 });
    assert.equal((await mustRead(harness.store, claim.id)).attempt, 1);
  }),

  storeCase(`SM-5: ${CALLERS} duplicates at once get one result`, async (harness) => {
    const claim = claimOf();
    await complete(harness.store, claim, "the same for all");
    for (const answer of await stampede(harness, claim)) assertReplay(answer, "the same for all");
  }),

  storeCase(`SM-16: ${CALLERS} resends of one begin at once are one attempt`, async (harness) => {
    const clients = await clientsOf(harness);
    const claim = claimOf();
    const answers = await together(
      Array.from({ length: CALLERS }, (_, n) => clients[n % clients.length]!.begin(claim)),
    );
    for (const answer of answers) {
      assert.deepEqual(answer, { kind: "acquired", attempt: 1, probe: false });
    }
    assert.equal((await mustRead(harness.store, claim.id)).crashes, 0);
  }),

  storeCase("SM-2: of two payloads that race for one key one wins all", async (harness) => {
    const clients = await clientsOf(harness);
    const claim = claimOf();
    const calls = Array.from({ length: CALLERS }, (_, n) => {
      const fingerprint = `v1:${n % 2}`;
      return clients[n % clients.length]!.begin(duplicateOf(claim, { fingerprint }));
    });
    const counts = count(await together(calls));
    assert.deepEqual(counts, { acquired: 1, busy: CALLERS / 2 - 1, mismatch: CALLERS / 2 });
  }),

  storeCase(
    `SM-8: of ${CALLERS} owners that complete at once the right one does`,
    async (harness) => {
      const clients = await clientsOf(harness);
      const claim = claimOf();
      const token = await acquire(harness.store, claim);
      const answers = await together(
        Array.from({ length: CALLERS }, (_, n) => {
          const owner = n === CALLERS / 2 ? token.owner : newOwner();
          const result = n === CALLERS / 2 ? "right" : "wrong";
          return clients[n % clients.length]!.settle(completion({ ...token, owner }, result));
        }),
      );
      assert.deepEqual(count(answers), { settled: 1, stale: CALLERS - 1 });
      assertReplay(await harness.store.begin(duplicateOf(claim)), "right");
    },
  ),

  storeCase("SM-8: of many results of one attempt at once one is kept", async (harness) => {
    const clients = await clientsOf(harness);
    const claim = claimOf();
    const token = await acquire(harness.store, claim);
    const answers = await together(
      Array.from({ length: CALLERS }, (_, n) =>
        clients[n % clients.length]!.settle(completion(token, `result ${n}`)),
      ),
    );
    assert.deepEqual(count(answers), { settled: 1, stale: CALLERS - 1 });
    const winner = answers.findIndex((answer) => answer.kind === "settled");
    assertReplay(await harness.store.begin(duplicateOf(claim)), `result ${winner}`);
  }),
];

const mixtures = [
  storeCase(
    "distinct operations and duplicates begin in one turn, each as alone",
    async (harness) => {
      const clients = await clientsOf(harness);
      const claims = Array.from({ length: 100 }, () => claimOf());
      const calls = claims.flatMap((claim, n) =>
        [claim, duplicateOf(claim), claim].map((one) => clients[n % clients.length]!.begin(one)),
      );
      const answers = await together(calls);
      for (let n = 0; n < answers.length; n += 3) {
        const [first, second, resent] = answers.slice(n, n + 3) as [BeginAnswer, ...BeginAnswer[]];
        // A store may run the calls of one turn in any order: one owner wins, whichever it is.
        assert.deepEqual(count([first, second!]), { acquired: 1, busy: 1 });
        assert.equal(resent!.kind, first.kind);
      }
    },
  ),

  storeCase("begins and endings of many operations share a turn", async ({ store }) => {
    const running = Array.from({ length: 50 }, () => claimOf());
    const tokens = await together(running.map((claim) => acquire(store, claim)));
    const fresh = Array.from({ length: 50 }, () => claimOf());
    const [settled, renewed, begun] = await together([
      together(tokens.slice(0, 25).map((token) => store.settle(completion(token, token.id)))),
      together(tokens.slice(25).map((token) => store.renew(renewal(token)))),
      together(fresh.map((claim) => store.begin(claim))),
    ]);
    assert.deepEqual(count(settled), { settled: 25 });
    assert.deepEqual(count(renewed), { renewed: 25 });
    assert.deepEqual(count(begun), { acquired: 50 });
    for (const claim of running.slice(0, 25)) {
      assertReplay(await store.begin(duplicateOf(claim)), claim.id);
    }
  }),

  storeCase("one turn's answers go to those who asked", async (harness) => {
    const { store } = harness;
    const situations = ["running", "completed", "held", "open", "void"] as const;
    const claims = Array.from({ length: 50 }, () => claimOf());
    await together(claims.map((claim, n) => reach(harness, situations[n % 5]!, claim)));
    const answers = await together(claims.map((claim) => store.begin(duplicateOf(claim))));
    const expected = ["busy", "done", "held", "acquired", "void"];
    answers.forEach((answer, n) => {
      assert.equal(answer.kind, expected[n % 5]);
    });
  }),

  storeCase("what a store refuses of one turn fails alone", async (harness) => {
    const { store } = harness;
    const claims = Array.from({ length: 20 }, () => claimOf());
    const tokens = await together(claims.map((claim) => acquire(store, claim)));
    const fresh = Array.from({ length: 20 }, () => claimOf());
    // None of these is a call that the contract allows: what they answer is the store's own.
    const poison = Promise.allSettled([
      store.begin({ ...claimOf(), id: "no identifier" }),
      store.begin({ ...claimOf(), fingerprint: "x".repeat(100_000) }),
      store.begin(claimOf({ owner: "no nonce" })),
      store.settle({ ...completion(tokens[19]!), owner: "no nonce" }),
      store.settle({ ...completion(tokens[19]!), attempt: Number.NaN }),
      store.renew({ ...renewal(tokens[19]!), id: "no identifier" }),
    ]);
    const settled = tokens.slice(0, 19).map((token) => store.settle(completion(token)));
    const begun = fresh.map((claim) => store.begin(claim));
    const [endings, begins] = await Promise.allSettled([together(settled), together(begun)]);
    await poison;
    assert.ok(endings.status === "fulfilled" && begins.status === "fulfilled");
    assert.deepEqual(count(endings.value), { settled: 19 });
    assert.deepEqual(count(begins.value), { acquired: 20 });
    assert.equal((await mustRead(store, tokens[19]!.id)).state, "running");
  }),
];

/** Runs a race of two on many records at once, the two by different clients where there are two. */
async function duel(
  harness: StoreHarness,
  prepare: (claims: readonly Claim[]) => Promise<void>,
  race: (claim: Claim, one: Store, other: Store) => Promise<void>,
  parts: Parameters<typeof claimOf>[0] = {},
): Promise<void> {
  const clients = await clientsOf(harness);
  const claims = Array.from({ length: DUELS }, () => claimOf(parts));
  await prepare(claims);
  await together(
    claims.map((claim, n) =>
      race(claim, clients[n % clients.length]!, clients[(n + 1) % clients.length]!),
    ),
  );
}

function lapse(harness: StoreHarness) {
  return async (claims: readonly Claim[]) => {
    await together(claims.map((claim) => acquire(harness.store, claim)));
    await harness.elapse(LEASE_MS);
  };
}

const tokenOf = ({ id, owner }: Claim) => ({ id, owner, attempt: 1 });

const duels = [
  storeCase("SM-17: a late completion and a takeover: one of them happens", (harness) =>
    duel(harness, lapse(harness), async (claim, one, other) => {
      const next = duplicateOf(claim);
      const [settled, begun] = await together([
        one.settle(completion(tokenOf(claim))),
        other.begin(next),
      ]);
      if (settled.kind === "settled") assertReplay(begun, "result");
      else assert.equal(expectKind(begun, "acquired").attempt, 2);
      const record = await mustRead(other, claim.id);
      assert.equal(record.owner, settled.kind === "settled" ? claim.owner : next.owner);
    }),
  ),

  storeCase("SM-17: a late completion and the hold of a lapsed record: one happens", (harness) =>
    duel(
      harness,
      lapse(harness),
      async (claim, one, other) => {
        const [settled, begun] = await together([
          one.settle(completion(tokenOf(claim))),
          other.begin(duplicateOf(claim)),
        ]);
        if (settled.kind === "settled") assertReplay(begun, "result");
        else expectKind(begun, "held");
      },
      { onCrash: "hold" },
    ),
  ),

  storeCase("SM-17: a late renewal and a takeover: one of them happens", (harness) =>
    duel(harness, lapse(harness), async (claim, one, other) => {
      const [renewed, begun] = await together([
        one.renew(renewal(tokenOf(claim))),
        other.begin(duplicateOf(claim)),
      ]);
      assert.equal(begun.kind, renewed.kind === "renewed" ? "busy" : "acquired");
    }),
  ),

  storeCase("SM-17: a late release and a takeover lead to one successor", (harness) =>
    duel(harness, lapse(harness), async (claim, one, other) => {
      const [settled, begun] = await together([
        one.settle(release(tokenOf(claim))),
        other.begin(duplicateOf(claim)),
      ]);
      assert.equal(expectKind(begun, "acquired").attempt, 2);
      const record = await mustRead(one, claim.id);
      assert.equal(record.state, "running");
      assert.equal(record.crashes, settled.kind === "settled" ? 0 : 1);
    }),
  ),

  storeCase("SM-13: a first begin and a void: one of them happens", (harness) =>
    duel(
      harness,
      async () => {},
      async (claim, one, other) => {
        const [begun, voided] = await together([one.begin(claim), other.void(voiding(claim))]);
        assert.equal(begun.kind, voided.kind === "voided" ? "void" : "acquired");
        assert.equal(voided.kind, begun.kind === "void" ? "voided" : "busy");
      },
    ),
  ),

  ...CRASH_POLICIES.map((onCrash) =>
    storeCase(
      `SM-13: a late completion and a void under "${onCrash}": one of them happens`,
      (harness) =>
        duel(
          harness,
          lapse(harness),
          async (claim, one, other) => {
            const [settled, voided] = await together([
              one.settle(completion(tokenOf(claim))),
              other.void(voiding(claim)),
            ]);
            assert.equal(voided.kind, settled.kind === "settled" ? "completed" : "voided");
          },
          { onCrash },
        ),
    ),
  ),

  storeCase("SM-13: a takeover and a void: one of them happens", (harness) =>
    duel(harness, lapse(harness), async (claim, one, other) => {
      const [begun, voided] = await together([
        one.begin(duplicateOf(claim)),
        other.void(voiding(claim)),
      ]);
      assert.equal(begun.kind, voided.kind === "voided" ? "void" : "acquired");
    }),
  ),

  storeCase("SM-18: a takeover and a deletion leave one attempt", (harness) =>
    duel(harness, lapse(harness), async (claim, one, other) => {
      const next = duplicateOf(claim);
      const [begun, deleted] = await together([one.begin(next), other.delete(claim.id)]);
      const { attempt } = expectKind(begun, "acquired");
      // Deleted first: a fresh record; taken over first: busy.
      assert.equal(attempt, deleted.kind === "deleted" ? 1 : 2);
      const token = { id: claim.id, attempt, owner: next.owner };
      assert.deepEqual(await one.settle(completion(token)), SETTLED);
      assert.deepEqual(await other.settle(completion(tokenOf(claim))), STALE);
    }),
  ),

  storeCase("SM-12: of many decisions about a held record one counts", async (harness) => {
    const clients = await clientsOf(harness);
    const claim = claimOf();
    await reach(harness, "held", claim);
    const answers = await together(
      Array.from({ length: 20 }, (_, n) => {
        const result = Buffer.from(`decision ${n}`);
        const resolution = { id: claim.id, kind: "complete", result, retentionMs: RETENTION_MS };
        return clients[n % clients.length]!.resolve({ ...resolution, kind: "complete" });
      }),
    );
    assert.deepEqual(count(answers), { resolved: 1, refused: 19 });
    const winner = answers.findIndex((answer) => answer.kind === "resolved");
    assertReplay(await harness.store.begin(duplicateOf(claim)), `decision ${winner}`);
  }),

  storeCase(
    "SM-11: the renewals of an owner and a hundred duplicates: the lease holds",
    async (harness) => {
      const clients = await clientsOf(harness);
      const claim = claimOf();
      const token = await acquire(harness.store, claim);
      await harness.elapse(LEASE_MS / 2);
      const renewals = Array.from({ length: 10 }, () => harness.store.renew(renewal(token)));
      const begins = Array.from({ length: CALLERS }, (_, n) =>
        clients[n % clients.length]!.begin(duplicateOf(claim)),
      );
      const [renewed, begun] = await together([together(renewals), together(begins)]);
      for (const answer of renewed) assert.deepEqual(answer, RENEWED);
      assert.deepEqual(count(begun), { busy: CALLERS });
    },
  ),
];

const across = [
  storeCase(
    "what one client writes, another reads at once",
    async (harness) => {
      const other = await harness.another!();
      const claim = claimOf();
      const token = await acquire(harness.store, claim);
      expectKind(await other.begin(duplicateOf(claim)), "busy");
      assert.deepEqual(await other.renew(renewal(token)), RENEWED);
      assert.deepEqual(await other.settle(completion(token, "by the other")), SETTLED);
      assertReplay(await harness.store.begin(duplicateOf(claim)), "by the other");
      assert.equal((await harness.store.stats()).states.completed, 1);
      assert.equal((await other.list({ limit: 10 })).records.length, 1);
    },
    ["another"],
  ),

  storeCase(
    "SM-16: a begin is resent through another client",
    async (harness) => {
      const other = await harness.another!();
      const claim = claimOf();
      await acquire(harness.store, claim);
      const answer = await other.begin(claim);
      assert.deepEqual(answer, { kind: "acquired", attempt: 1, probe: false });
    },
    ["another"],
  ),

  storeCase(
    "SM-17: a client that took over fences the one before",
    async (harness) => {
      const other = await harness.another!();
      const claim = claimOf();
      const zombie = await reach(harness, "lapsed", claim);
      const successor = await acquire(other, duplicateOf(claim));
      assert.deepEqual(await harness.store.settle(completion(zombie)), STALE);
      assert.deepEqual(await harness.store.renew(renewal(zombie)), STALE);
      assert.deepEqual(await other.settle(completion(successor)), SETTLED);
    },
    ["another"],
  ),
];

export const raceCases = [...stampedes, ...mixtures, ...duels, ...across];
