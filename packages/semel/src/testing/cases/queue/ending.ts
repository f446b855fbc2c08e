// How claims end (EN-7, EN-8): done, tried again, given up; by their own claimer alone, and counted.

import assert from "node:assert/strict";
import type { ItemEnding } from "../../../store.ts";
import {
  assertBytes,
  assertRemaining,
  LEASE_MS,
  newOwner,
  RENEWED,
  RETENTION_MS,
  SETTLED,
  STALE,
} from "../../claims.ts";
import { faultyStore } from "../../faulty-store.ts";
import {
  add,
  assertSameItem,
  claim,
  claimOne,
  dead,
  done,
  idsOf,
  itemOf,
  mustReadItem,
  queueOf,
  retry,
} from "../../queue-items.ts";
import { storeCase } from "../../store-harness.ts";

const outcomes = [
  storeCase("EN-8: a done item is kept for its retention, and claimed no more", async (harness) => {
    const queue = queueOf(harness.store);
    const item = itemOf();
    await add(queue, [item]);
    const { token } = await claimOne(queue);
    assert.deepEqual(await queue.finish([done(token, RETENTION_MS)]), [SETTLED]);
    const kept = await mustReadItem(queue, item.id);
    assert.deepEqual([kept.state, kept.started, kept.finished], ["done", 1, 1]);
    assert.deepEqual([kept.dueInMs, kept.error], [null, null]);
    assertRemaining(kept.expiresInMs, RETENTION_MS);
    await harness.elapse(2 * LEASE_MS);
    assert.deepEqual(await claim(queue), []);
  }),

  storeCase("EN-8: an item to be tried again is due after its delay", async (harness) => {
    const queue = queueOf(harness.store);
    const item = itemOf({ payload: "the same" });
    await add(queue, [item]);
    const { token } = await claimOne(queue);
    assert.deepEqual(await queue.finish([retry(token, 2 * LEASE_MS, "HTTP 503")]), [SETTLED]);
    const kept = await mustReadItem(queue, item.id);
    assert.deepEqual([kept.state, kept.started, kept.finished], ["waiting", 1, 1]);
    assert.deepEqual([kept.error, kept.expiresInMs], ["HTTP 503", null]);
    assertRemaining(kept.dueInMs, 2 * LEASE_MS);
    await harness.elapse(LEASE_MS);
    assert.deepEqual(await claim(queue), []);
    await harness.elapse(LEASE_MS);
    const again = await claimOne(queue);
    assert.deepEqual([again.started, again.finished, again.error], [2, 1, "HTTP 503"]);
    assertBytes(again.payload, "the same");
  }),

  storeCase("EN-8: an item to be tried again at once is due at once", async ({ store }) => {
    const queue = queueOf(store);
    await add(queue, [itemOf()]);
    for (const started of [1, 2, 3]) {
      const claimed = await claimOne(queue);
      assert.deepEqual([claimed.started, claimed.finished], [started, started - 1]);
      await queue.finish([retry(claimed.token, 0, `failure ${started}`)]);
    }
    assert.equal((await claimOne(queue)).error, "failure 3");
  }),

  storeCase("EN-8: what is handed on without an error keeps the one before", async ({ store }) => {
    const queue = queueOf(store);
    await add(queue, [itemOf()]);
    const first = await claimOne(queue);
    await queue.finish([retry(first.token, 0, null)]);
    const second = await claimOne(queue);
    assert.equal(second.error, null);
    await queue.finish([retry(second.token, 0, "HTTP 503")]);
    await queue.finish([retry((await claimOne(queue)).token, 0, null)]);
    assert.equal((await claimOne(queue)).error, "HTTP 503");
  }),

  storeCase("EN-8: what is handed on counts as not claimed", async (harness) => {
    const queue = queueOf(harness.store);
    const item = itemOf();
    await add(queue, [item]);
    await queue.finish([retry((await claimOne(queue)).token, 0, "HTTP 503")]);
    // A claim that vanishes still counts.
    await claimOne(queue);
    await harness.elapse(LEASE_MS);
    for (let times = 0; times < 3; times++) {
      const claimed = await claimOne(queue);
      assert.deepEqual([claimed.started, claimed.finished], [3, 1]);
      assert.deepEqual(await queue.finish([retry(claimed.token, 0, null)]), [SETTLED]);
      const kept = await mustReadItem(queue, item.id);
      assert.deepEqual([kept.state, kept.started, kept.finished], ["waiting", 2, 1]);
    }
    const [first] = await claim(queue);
    assert.equal(first!.started, 3);
  }),

  storeCase(
    "EN-8: whoever handed an item on has no claim on the one that follows",
    async ({ store }) => {
      const queue = queueOf(store);
      const item = itemOf();
      await add(queue, [item]);
      const { token } = await claimOne(queue);
      await queue.finish([retry(token, 0, null)]);
      assert.deepEqual(await queue.finish([retry(token, 0, null)]), [STALE]);
      const next = await claimOne(queue);
      assert.equal(next.token.started, token.started);
      for (const ending of [retry(token, 0, null), retry(token), done(token), dead(token)]) {
        assert.deepEqual(await queue.finish([ending]), [STALE]);
      }
      assert.deepEqual(await queue.renew([token], LEASE_MS), [STALE]);
      assert.deepEqual(await queue.finish([done(next.token)]), [SETTLED]);
    },
  ),

  storeCase(
    "EN-8: of many that end at once, those that are handed on alone count as not claimed",
    async ({ store }) => {
      const queue = queueOf(store);
      const items = [itemOf(), itemOf(), itemOf(), itemOf()];
      await add(queue, items);
      const claimed = await claim(queue);
      const tokenAt = (n: number) => claimed.find(({ id }) => id === items[n]!.id)!.token;
      await queue.finish([
        retry(tokenAt(0), LEASE_MS, null),
        retry(tokenAt(1), LEASE_MS, "HTTP 503"),
        done(tokenAt(2), RETENTION_MS),
        dead(tokenAt(3), "HTTP 410"),
      ]);
      const counts = [];
      for (const { id } of items) {
        const { started, finished } = await mustReadItem(queue, id);
        counts.push([started, finished]);
      }
      assert.deepEqual(counts, [
        [0, 0],
        [1, 1],
        [1, 1],
        [1, 1],
      ]);
    },
  ),

  storeCase("EN-8: a dead item is kept with its error, and claimed no more", async (harness) => {
    const queue = queueOf(harness.store);
    const [forGood, forAWhile] = [itemOf(), itemOf()];
    await add(queue, [forGood, forAWhile]);
    const claimed = await claim(queue);
    const endings = claimed.map(({ id, token }) =>
      dead(token, "HTTP 410", id === forGood.id ? null : RETENTION_MS),
    );
    assert.deepEqual(await queue.finish(endings), [SETTLED, SETTLED]);
    const kept = await mustReadItem(queue, forGood.id);
    assert.deepEqual([kept.state, kept.started, kept.finished], ["dead", 1, 1]);
    assert.deepEqual([kept.error, kept.dueInMs, kept.expiresInMs], ["HTTP 410", null, null]);
    assertRemaining((await mustReadItem(queue, forAWhile.id)).expiresInMs, RETENTION_MS);
    await harness.elapse(100 * RETENTION_MS);
    assert.deepEqual(await claim(queue), []);
    assert.equal((await mustReadItem(queue, forGood.id)).state, "dead");
    assert.equal(await queue.read(forAWhile.id), undefined);
  }),

  storeCase("EN-8: started and finished tell how often a delivery vanished", async (harness) => {
    const queue = queueOf(harness.store);
    const item = itemOf();
    await add(queue, [item]);
    for (let n = 0; n < 3; n++) {
      await claimOne(queue);
      await harness.elapse(LEASE_MS);
    }
    await queue.finish([retry((await claimOne(queue)).token)]);
    const { started, finished } = await mustReadItem(queue, item.id);
    assert.deepEqual([started, finished], [4, 1]);
  }),

  storeCase("an error of any text can be kept", async ({ store }) => {
    const queue = queueOf(store);
    const texts = [
      "",
      "'; DROP TABLE semel; --\\",
      "nul \0 and \ud800 alone",
      "長い🚀".repeat(8_000),
    ];
    await add(
      queue,
      texts.map(() => itemOf()),
    );
    const claimed = await claim(queue);
    const endings = claimed.map(({ token }, n) => dead(token, texts[n]!));
    assert.deepEqual(
      await queue.finish(endings),
      texts.map(() => SETTLED),
    );
    for (const [n, { id }] of claimed.entries()) {
      const expected = texts[n]!.toWellFormed().replace("\0", "\ufffd");
      assert.equal((await mustReadItem(queue, id)).error, expected);
    }
  }),
];

const endings = [
  ["done", done],
  ["retry", (token) => retry(token, 0)],
  ["dead", dead],
] as const satisfies readonly (readonly [
  string,
  (token: Parameters<typeof done>[0]) => ItemEnding,
])[];

const fencing = [
  ...endings.map(([name, end]) =>
    storeCase(`SM-17: "${name}" ends the claim: nothing more is said by it`, async ({ store }) => {
      const queue = queueOf(store);
      const item = itemOf();
      await add(queue, [item]);
      const { token } = await claimOne(queue);
      assert.deepEqual(await queue.finish([end(token)]), [SETTLED]);
      const before = await mustReadItem(queue, item.id);
      for (const ending of [done(token), retry(token), dead(token)]) {
        assert.deepEqual(await queue.finish([ending]), [STALE]);
      }
      assert.deepEqual(await queue.renew([token], LEASE_MS), [STALE]);
      assertSameItem(await queue.read(item.id), before);
    }),
  ),

  ...endings.map(([name, end]) =>
    storeCase(
      `SM-17: "${name}" whose reply is lost, sent again, counts once`,
      async ({ store }) => {
        const faulty = faultyStore(store, [{ method: "queue.finish", effect: "twice" }]);
        const queue = queueOf(faulty);
        const item = itemOf();
        await add(queue, [item]);
        const { token } = await claimOne(queue);
        assert.deepEqual(await queue.finish([end(token)]), [STALE]);
        assert.equal((await mustReadItem(queue, item.id)).finished, 1);
      },
    ),
  ),

  storeCase("EN-8: many claims end in one call, each as it did", async (harness) => {
    const queue = queueOf(harness.store);
    await add(
      queue,
      Array.from({ length: 60 }, () => itemOf()),
    );
    const claimed = await claim(queue);
    const answers = await queue.finish(
      claimed.map(({ token }, n) => {
        if (n % 4 === 0) return done(token);
        if (n % 4 === 1) return retry(token, LEASE_MS, `error ${n}`);
        if (n % 4 === 2) return dead(token, `error ${n}`);
        return done({ ...token, owner: newOwner() });
      }),
    );
    const states = ["done", "waiting", "dead", "waiting"];
    for (const [n, { id }] of claimed.entries()) {
      assert.deepEqual(answers[n], n % 4 === 3 ? STALE : SETTLED);
      const item = await mustReadItem(queue, id);
      assert.equal(item.state, states[n % 4]);
      assert.equal(item.finished, n % 4 === 3 ? 0 : 1);
      assert.equal(item.error, n % 4 === 1 || n % 4 === 2 ? `error ${n}` : null);
    }
  }),

  storeCase("EN-8: of two endings of one claim in one call the first counts", async ({ store }) => {
    const queue = queueOf(store);
    const [one, other] = [itemOf(), itemOf()];
    await add(queue, [one]);
    const { token } = await claimOne(queue);
    await add(queue, [other]);
    const { token: next } = await claimOne(queue);
    const answers = await queue.finish([dead(token), done(next), done(token)]);
    assert.deepEqual(answers, [SETTLED, SETTLED, STALE]);
    const kept = await mustReadItem(queue, one.id);
    assert.deepEqual([kept.state, kept.finished], ["dead", 1]);
  }),

  storeCase("EN-8: renewals in one call are answered one by one", async ({ store }) => {
    const queue = queueOf(store);
    await add(
      queue,
      Array.from({ length: 4 }, () => itemOf()),
    );
    const tokens = (await claim(queue)).map(({ token }) => token);
    await queue.finish([done(tokens[1]!)]);
    const asked = [tokens[0]!, tokens[1]!, { ...tokens[2]!, owner: newOwner() }, tokens[3]!];
    const answers = await queue.renew([...asked, tokens[0]!], 3 * LEASE_MS);
    assert.deepEqual(answers, [RENEWED, STALE, STALE, RENEWED, RENEWED]);
    assertRemaining((await mustReadItem(queue, tokens[0]!.id)).dueInMs, 3 * LEASE_MS);
    assertRemaining((await mustReadItem(queue, tokens[2]!.id)).dueInMs, LEASE_MS);
  }),

  storeCase("SM-17: what is not there cannot be renewed or finished", async ({ store }) => {
    const queue = queueOf(store);
    const token = { id: itemOf().id, started: 1, owner: newOwner() };
    assert.deepEqual(await queue.renew([token], LEASE_MS), [STALE]);
    assert.deepEqual(await queue.finish([done(token)]), [STALE]);
    assert.equal(await queue.read(token.id), undefined);
  }),

  storeCase("SM-17: what was never claimed cannot be finished", async ({ store }) => {
    const queue = queueOf(store);
    const item = itemOf();
    await add(queue, [item]);
    const token = { id: item.id, started: 1, owner: newOwner() };
    assert.deepEqual(await queue.finish([done(token)]), [STALE]);
    assert.deepEqual(idsOf(await claim(queue)), [item.id]);
  }),

  storeCase("nothing is asked and nothing answered", async ({ store }) => {
    const queue = queueOf(store);
    assert.deepEqual(await queue.finish([]), []);
    assert.deepEqual(await queue.renew([], LEASE_MS), []);
  }),

  storeCase(
    "endings that are out of bounds are refused, and none is written",
    async ({ store }) => {
      const queue = queueOf(store);
      await add(queue, [itemOf(), itemOf()]);
      const [one, other] = (await claim(queue)).map(({ token }) => token);
      const refused: readonly [ItemEnding, RegExp][] = [
        [{ ...other!, kind: "lost" as "done", retentionMs: 0 }, /`kind` must be one of/],
        [done(other!, -1), /`retentionMs`/],
        [retry(other!, Number.NaN), /`dueInMs`/],
        [done({ ...other!, owner: "" }), /`owner` must be 32 lowercase/],
        [done({ ...other!, started: 0 }), /`started`/],
      ];
      for (const [ending, message] of refused) {
        await assert.rejects(queue.finish([done(one!), ending]), message);
      }
      const many = Array.from({ length: 1_001 }, () => one!);
      await assert.rejects(queue.renew(many, LEASE_MS), /0 to 1000 at once/);
      assert.deepEqual(await queue.finish([done(one!), done(other!)]), [SETTLED, SETTLED]);
    },
  ),
];

export const endingCases = [...outcomes, ...fencing];
