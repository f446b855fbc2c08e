// Lost calls, lost acknowledgements, calls delivered twice and calls that come late (SM-16, SM-17):
// what the caller may do about each is safe in every store.

import assert from "node:assert/strict";
import { StoreUnavailable } from "../../errors.ts";
import type { Store } from "../../store.ts";
import {
  acquire,
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
  RENEWED,
  RETENTION_MS,
  reach,
  release,
  renewal,
  SETTLED,
  STALE,
  STATE_AFTER,
  voiding,
} from "../claims.ts";
import { type Fault, faultyStore } from "../faulty-store.ts";
import { storeCase } from "../store-harness.ts";

async function assertLost(call: Promise<unknown>): Promise<void> {
  await assert.rejects(call, (error) => error instanceof StoreUnavailable);
}

/** A promise and the means to resolve it. */
function gate(): { until: Promise<void>; open: () => void } {
  let open = () => {};
  const until = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { until, open };
}

const begins = [
  storeCase(
    "SM-16: a begin whose reply is lost, sent again, is the same attempt",
    async ({ store }) => {
      const faulty = faultyStore(store, [{ method: "begin", call: 1, effect: "fail-after" }]);
      const claim = claimOf();
      await assertLost(faulty.begin(claim));
      const answer = await faulty.begin(claim);
      assert.deepEqual(answer, { kind: "acquired", attempt: 1, probe: false });
      assert.deepEqual(await store.settle(completion({ ...claim, attempt: 1 })), SETTLED);
    },
  ),

  storeCase("SM-22: a begin that is lost on its way leaves nothing", async ({ store }) => {
    const faulty = faultyStore(store, [{ method: "begin", call: 1, effect: "fail-before" }]);
    const claim = claimOf();
    await assertLost(faulty.begin(claim));
    assert.equal(await store.read(claim.id), undefined);
    assert.equal((await acquire(faulty, duplicateOf(claim))).attempt, 1);
  }),

  storeCase(
    "SM-16: after a begin whose reply is lost, other owners are busy",
    async ({ store }) => {
      const faulty = faultyStore(store, [{ method: "begin", call: 1, effect: "fail-after" }]);
      const claim = claimOf();
      await assertLost(faulty.begin(claim));
      expectKind(await faulty.begin(duplicateOf(claim)), "busy");
    },
  ),

  ...CRASH_POLICIES.map((onCrash) =>
    storeCase(
      `SM-16: a begin delivered twice under "${onCrash}" is one attempt`,
      async (harness) => {
        const faulty = faultyStore(harness.store, [{ method: "begin", effect: "twice" }]);
        const claim = claimOf({ onCrash });
        assert.equal((await acquire(faulty, claim)).attempt, 1);
        await harness.elapse(LEASE_MS);
        const answer = await faulty.begin(duplicateOf(claim));
        if (onCrash === "hold") expectKind(answer, "held");
        else assert.equal(expectKind(answer, "acquired").attempt, 2);
        assert.equal((await mustRead(faulty, claim.id)).crashes, onCrash === "hold" ? 0 : 1);
      },
    ),
  ),

  storeCase(
    "SM-16: a takeover whose reply is lost, sent again, is the same attempt",
    async (harness) => {
      const { store } = harness;
      const faulty = faultyStore(store, [{ method: "begin", call: 1, effect: "fail-after" }]);
      const claim = claimOf();
      await reach(harness, "lapsed", claim);
      const takeover = duplicateOf(claim);
      await assertLost(faulty.begin(takeover));
      assert.equal((await acquire(faulty, takeover)).attempt, 2);
      assert.equal((await mustRead(store, claim.id)).crashes, 1);
    },
  ),

  storeCase("SM-17: a begin that comes late, after completion, runs nothing", async ({ store }) => {
    const { until, open } = gate();
    const faulty = faultyStore(store, [{ method: "begin", call: 1, effect: "delay", until }]);
    const claim = claimOf();
    const lateOne = faulty.begin(claim);
    await complete(faulty, duplicateOf(claim), "of the other");
    open();
    assertReplay(await lateOne, "of the other");
  }),
];

const endings = [
  storeCase("SM-17: a completion whose reply is lost shows when read back", async ({ store }) => {
    const faulty = faultyStore(store, [{ method: "settle", call: 1, effect: "fail-after" }]);
    const claim = claimOf();
    const token = await acquire(faulty, claim);
    await assertLost(faulty.settle(completion(token, "mine")));
    const written = await mustRead(store, claim.id);
    // A store need not recognise its own repeated write, and must not write it twice.
    expectOneOf((await faulty.settle(completion(token, "mine"))).kind, ["settled", "stale"]);
    assertUnchanged(await store.read(claim.id), written);
    assert.equal(written.state, "completed");
    assert.equal(written.attempt, token.attempt);
    assert.equal(written.owner, token.owner);
    assertReplay(await store.begin(claim), "mine");
  }),

  storeCase("SM-17: a completion that is lost on its way may be sent again", async ({ store }) => {
    const faulty = faultyStore(store, [{ method: "settle", call: 1, effect: "fail-before" }]);
    const claim = claimOf();
    const token = await acquire(faulty, claim);
    await assertLost(faulty.settle(completion(token)));
    assert.equal((await mustRead(store, claim.id)).state, "running");
    assert.deepEqual(await faulty.settle(completion(token)), SETTLED);
  }),

  ...FENCED_WRITES.map(({ name, write, requirement }) =>
    storeCase(`${requirement}: a ${name} delivered twice is written once`, async ({ store }) => {
      const faulty = faultyStore(store, [{ effect: "twice" }]);
      const claim = claimOf();
      const token = await acquire(store, claim);
      const { kind } = await write(faulty, token);
      expectOneOf(kind, name === "renew" ? ["renewed"] : ["settled", "stale"]);
      const record = await mustRead(store, claim.id);
      assert.equal(record.attempt, 1);
      assert.equal(record.owner, claim.owner);
      assert.equal(record.crashes, 0);
      assert.equal(record.state, STATE_AFTER[name]);
    }),
  ),

  ...FENCED_WRITES.map(({ name, write, requirement }) =>
    storeCase(
      `${requirement}: a ${name} that comes late, after a takeover, is stale`,
      async (harness) => {
        const { store } = harness;
        const { until, open } = gate();
        const faulty = faultyStore(store, [{ call: 1, effect: "delay", until }]);
        const claim = claimOf();
        const token = await acquire(store, claim);
        const lateOne = write(faulty, token);
        await harness.elapse(LEASE_MS);
        const successor = await acquire(store, duplicateOf(claim));
        const before = await mustRead(store, claim.id);
        open();
        assert.deepEqual(await lateOne, STALE);
        assertUnchanged(await store.read(claim.id), before);
        assert.deepEqual(await store.settle(completion(successor)), SETTLED);
      },
    ),
  ),

  storeCase(
    "SM-9: a release resent after the next attempt began does not open it",
    async ({ store }) => {
      const faulty = faultyStore(store, [{ method: "settle", call: 1, effect: "fail-after" }]);
      const claim = claimOf();
      const token = await acquire(faulty, claim);
      await assertLost(faulty.settle(release(token)));
      const successor = await acquire(faulty, duplicateOf(claim));
      assert.deepEqual(await faulty.settle(release(token)), STALE);
      expectKind(await faulty.begin(duplicateOf(claim)), "busy");
      assert.deepEqual(await faulty.settle(completion(successor)), SETTLED);
    },
  ),

  storeCase("SM-11: a renewal whose reply is lost has renewed", async (harness) => {
    const faulty = faultyStore(harness.store, [{ method: "renew", call: 1, effect: "fail-after" }]);
    const claim = claimOf();
    const token = await acquire(faulty, claim);
    await harness.elapse(LEASE_MS / 2);
    await assertLost(faulty.renew(renewal(token)));
    await harness.elapse(LEASE_MS / 2);
    expectKind(await faulty.begin(duplicateOf(claim)), "busy");
    assert.deepEqual(await faulty.renew(renewal(token)), RENEWED);
  }),
];

function expectOneOf(actual: string, expected: readonly string[]): void {
  assert.ok(expected.includes(actual), `expected one of ${expected.join(", ")}, got ${actual}`);
}

const administration = [
  storeCase("SM-13: a void delivered twice is one tombstone", async ({ store }) => {
    const faulty = faultyStore(store, [{ method: "void", effect: "twice" }]);
    const claim = claimOf();
    assert.deepEqual(await faulty.void(voiding(claim)), { kind: "voided" });
    expectKind(await store.begin(claim), "void");
  }),

  storeCase("SM-12: a resolution delivered twice counts once", async (harness) => {
    const faulty = faultyStore(harness.store, [{ method: "resolve", effect: "twice" }]);
    const claim = claimOf();
    await reach(harness, "held", claim);
    const result = Buffer.from("decided");
    const { id } = claim;
    await faulty.resolve({ id, kind: "complete", result, retentionMs: RETENTION_MS });
    assertReplay(await harness.store.begin(duplicateOf(claim)), "decided");
  }),

  storeCase(
    "SM-12: a resolution as open, delivered after the next attempt began, is refused",
    async (harness) => {
      const { store } = harness;
      const { until, open } = gate();
      const faulty = faultyStore(store, [{ method: "resolve", call: 2, effect: "delay", until }]);
      const claim = claimOf();
      await reach(harness, "held", claim);
      const resolution = { id: claim.id, kind: "open", retentionMs: RETENTION_MS } as const;
      assert.deepEqual(await faulty.resolve(resolution), { kind: "resolved" });
      const lateOne = faulty.resolve(resolution);
      await acquire(store, duplicateOf(claim));
      open();
      assert.deepEqual(await lateOne, { kind: "refused", state: "running" });
    },
  ),

  storeCase("a deletion delivered twice is one, and spares the next life", async (harness) => {
    const { store } = harness;
    const faulty = faultyStore(store, [{ method: "delete", call: 1, effect: "fail-after" }]);
    const claim = claimOf();
    await reach(harness, "completed", claim);
    await assertLost(faulty.delete(claim.id));
    await acquire(store, duplicateOf(claim));
    assert.deepEqual(await faulty.delete(claim.id), { kind: "busy" });
  }),
];

/** A caller that sends again whatever fails, as the engine does within its bounds. */
async function persistently<Answer>(ask: () => Promise<Answer>): Promise<Answer> {
  for (let tries = 1; ; tries++) {
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof StoreUnavailable) || tries === 10) throw error;
    }
  }
}

/** One operation from begin to result; gives how often its effect happened. */
async function runToCompletion(store: Store, key: string): Promise<number> {
  let effects = 0;
  for (let attempt = 1; attempt <= 2; attempt++) {
    const claim = claimOf({ key });
    const begun = await persistently(() => store.begin(claim));
    if (begun.kind === "done") return effects;
    const token = { ...claim, attempt: expectKind(begun, "acquired").attempt };
    await persistently(() => store.renew(renewal(token)));
    if (attempt === 1) {
      await persistently(() => store.settle(release(token)));
      continue;
    }
    effects++;
    await persistently(() => store.settle(completion(token, "the effect's result")));
  }
  assertReplay(await persistently(() => store.begin(claimOf({ key }))), "the effect's result");
  return effects;
}

const CALLS_OF_A_LIFE = 7;

const lives = (["fail-before", "fail-after", "twice"] as const).map((effect) =>
  storeCase(
    `SM-16, SM-17: whichever call of an operation's life is hit by "${effect}", it has one effect`,
    async ({ store }) => {
      for (let call = 1; call <= CALLS_OF_A_LIFE; call++) {
        const plan: Fault[] = [{ call, effect }];
        const faulty = faultyStore(store, plan);
        assert.equal(await runToCompletion(faulty, `${effect}-${call}`), 1);
        assert.equal(faulty.injected, 1, `call ${call} was never made`);
      }
    },
  ),
);

const reasons = [
  storeCase("SM-10: a hold whose reply is lost has held", async ({ store }) => {
    const faulty = faultyStore(store, [{ method: "settle", call: 1, effect: "fail-after" }]);
    const claim = claimOf();
    const token = await acquire(faulty, claim);
    await assertLost(faulty.settle(hold(token, "unsure")));
    const answer = await faulty.begin(duplicateOf(claim));
    assert.deepEqual(answer, { kind: "held", attempt: 1, reason: "unsure" });
  }),
];

export const faultCases = [...begins, ...endings, ...reasons, ...administration, ...lives];
