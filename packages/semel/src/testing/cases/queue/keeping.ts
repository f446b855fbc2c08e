// What administrators see of a queue and do to it, and how it is kept small (EN-8, EN-9, ST-9).

import assert from "node:assert/strict";
import type { ItemEnding, ItemQuery, ItemToken, QueueItem, StoreQueue } from "../../../store.ts";
import { DRIFT_MS_MAX, LEASE_MS, RETENTION_MS, SETTLED, STALE } from "../../claims.ts";
import {
  add,
  claim,
  claimOne,
  dead,
  done,
  idsOf,
  itemOf,
  lineOf,
  listItems,
  mustReadItem,
  newOperation,
  queueOf,
  retry,
} from "../../queue-items.ts";
import { clientsOf, type StoreHarness, storeCase, together } from "../../store-harness.ts";

/** Items that are done, each of an operation of its own. */
async function finished(
  queue: StoreQueue,
  count: number,
  end: (token: ItemToken) => ItemEnding = done,
): Promise<QueueItem[]> {
  const items = Array.from({ length: count }, () => itemOf());
  await add(queue, items);
  const claimed = await claim(queue, { limit: 1_000 });
  await queue.finish(claimed.map(({ token }) => end(token)));
  return items;
}

const revival = [
  storeCase(
    "EN-8: a dead item that is revived is due now, with all its attempts",
    async (harness) => {
      const queue = queueOf(harness.store);
      const item = itemOf();
      await add(queue, [item]);
      await harness.elapse(LEASE_MS);
      await queue.finish([dead((await claimOne(queue)).token, "HTTP 410", RETENTION_MS)]);
      assert.equal(await queue.revive(item.id), true);
      const revived = await mustReadItem(queue, item.id);
      assert.deepEqual([revived.state, revived.started, revived.finished], ["waiting", 0, 0]);
      assert.deepEqual([revived.error, revived.expiresInMs], ["HTTP 410", null]);
      await harness.elapse(2 * RETENTION_MS);
      assert.equal((await claimOne(queue)).started, 1);
    },
  ),

  storeCase(
    "EN-8: a waiting item that is revived is due now, with all its attempts",
    async ({ store }) => {
      const queue = queueOf(store);
      const item = itemOf();
      await add(queue, [item]);
      await queue.finish([retry((await claimOne(queue)).token, 100 * LEASE_MS)]);
      assert.deepEqual(await claim(queue), []);
      assert.equal(await queue.revive(item.id), true);
      const { started, finished: ended } = await claimOne(queue);
      assert.deepEqual([started, ended], [1, 0]);
    },
  ),

  storeCase("EN-8: an item that is claimed is not revived: somebody is at it", async (harness) => {
    const queue = queueOf(harness.store);
    const item = itemOf();
    await add(queue, [item]);
    const { token } = await claimOne(queue);
    assert.equal(await queue.revive(item.id), false);
    assert.deepEqual(await claim(queue), []);
    await harness.elapse(LEASE_MS);
    assert.equal(await queue.revive(item.id), true);
    assert.deepEqual(await queue.finish([done(token)]), [STALE]);
    assert.equal((await claimOne(queue)).started, 1);
  }),

  storeCase("EN-8: neither what is done nor what is not there is revived", async ({ store }) => {
    const queue = queueOf(store);
    const [item] = await finished(queue, 1);
    assert.equal(await queue.revive(item!.id), false);
    assert.equal((await mustReadItem(queue, item!.id)).state, "done");
    assert.equal(await queue.revive(itemOf().id), false);
  }),

  storeCase("EN-8: a dead item that has expired is not revived", async (harness) => {
    const queue = queueOf(harness.store);
    const item = itemOf();
    await add(queue, [item]);
    await queue.finish([dead((await claimOne(queue)).token, "HTTP 410", RETENTION_MS)]);
    await harness.elapse(RETENTION_MS);
    assert.equal(await queue.revive(item.id), false);
  }),

  storeCase(
    "EN-8: a revived item goes before the later ones of its operation",
    async ({ store }) => {
      const queue = queueOf(store);
      const [first, second] = lineOf(2);
      await add(queue, [first!, second!]);
      await queue.finish([dead((await claimOne(queue)).token)]);
      assert.equal(await queue.revive(first!.id), true);
      assert.equal((await claimOne(queue)).id, first!.id);
    },
  ),
];

const removal = [
  storeCase("EN-8: waiting, done and dead items can be removed", async ({ store }) => {
    const queue = queueOf(store);
    const [[ended], [given]] = [await finished(queue, 1), await finished(queue, 1, dead)];
    const waiting = itemOf();
    await add(queue, [waiting], LEASE_MS);
    for (const { id } of [ended!, given!, waiting]) {
      assert.equal(await queue.remove(id), true);
      assert.equal(await queue.read(id), undefined);
      assert.equal(await queue.remove(id), false);
    }
    assert.deepEqual(await listItems(queue, { limit: 10 }), []);
  }),

  storeCase(
    "EN-8: an item that is claimed is not removed, and is once that lapsed",
    async (harness) => {
      const queue = queueOf(harness.store);
      const item = itemOf();
      await add(queue, [item]);
      const { token } = await claimOne(queue);
      assert.equal(await queue.remove(item.id), false);
      await harness.elapse(LEASE_MS);
      assert.equal(await queue.remove(item.id), true);
      assert.deepEqual(await queue.finish([done(token)]), [STALE]);
      assert.deepEqual(await claim(queue), []);
    },
  ),

  storeCase("EN-8: an item that was removed can be added anew", async ({ store }) => {
    const queue = queueOf(store);
    const [item] = await finished(queue, 1);
    await queue.remove(item!.id);
    await add(queue, [item!]);
    assert.equal((await claimOne(queue)).started, 1);
  }),
];

/** Two items of each kind and state, by names. */
async function oneOfEach(queue: StoreQueue): Promise<Map<string, QueueItem>> {
  const items = new Map<string, QueueItem>();
  for (const kind of ["task", "effect"] as const) {
    for (const name of ["a", "b"]) {
      for (const state of ["done", "dead", "waiting"] as const) {
        const item = itemOf({ kind, name });
        items.set(`${kind} ${name} ${state}`, item);
        await add(queue, [item]);
        if (state === "waiting") continue;
        const { token } = await claimOne(queue, { kind, names: [name] });
        await queue.finish([state === "done" ? done(token) : dead(token)]);
      }
    }
  }
  return items;
}

const listing = [
  storeCase("EN-9: an empty queue lists nothing, on one page", async ({ store }) => {
    assert.deepEqual(await queueOf(store).list({ limit: 10 }), { items: [] });
  }),

  ...[1, 7, 25, 1_000].map((limit) =>
    storeCase(
      `EN-9: 25 items are listed in pages of ${limit} without loss or repeat`,
      async ({ store }) => {
        const queue = queueOf(store);
        const items = [...lineOf(13), ...Array.from({ length: 12 }, () => itemOf())];
        await add(queue, items);
        const listed = await listItems(queue, { limit });
        assert.deepEqual(idsOf(listed).sort(), idsOf(items).sort());
      },
    ),
  ),

  storeCase("EN-9: a listing is newest first, across pages", async (harness) => {
    const queue = queueOf(harness.store);
    const items: QueueItem[] = [];
    for (let n = 0; n < 9; n++) {
      const item = itemOf();
      await add(queue, [item]);
      items.unshift(item);
      await harness.elapse(1_000);
    }
    assert.deepEqual(idsOf(await listItems(queue, { limit: 2 })), idsOf(items));
  }),

  storeCase("EN-9: a listing shows what a read shows, without the payload", async ({ store }) => {
    const queue = queueOf(store);
    await add(queue, [itemOf()]);
    await queue.finish([retry((await claimOne(queue)).token, LEASE_MS, "HTTP 503")]);
    const [listed] = await listItems(queue, { limit: 10 });
    const read = await mustReadItem(queue, listed!.id);
    assert.equal(listed!.payload.byteLength, 0);
    const { payload: _listed, dueInMs: _due, ageMs: _age, ...shown } = listed!;
    const { payload: _read, dueInMs: _readDue, ageMs: _readAge, ...expected } = read;
    assert.deepEqual(shown, expected);
  }),

  storeCase(
    "EN-9: a listing can be of a kind, a state, a name, and of all three",
    async ({ store }) => {
      const queue = queueOf(store);
      const items = await oneOfEach(queue);
      const queries = [
        {},
        { kind: "task" },
        { state: "dead" },
        { name: "b" },
        { kind: "effect", state: "waiting" },
        { kind: "effect", name: "a" },
        { state: "done", name: "a" },
        { kind: "task", state: "done", name: "b" },
      ] as const;
      for (const query of queries) {
        const words = Object.values(query);
        const expected = [...items].filter(([label]) =>
          words.every((word) => label.split(" ").includes(word)),
        );
        const listed = await listItems(queue, { ...query, limit: 2 });
        assert.deepEqual(
          idsOf(listed).sort(),
          expected.map(([, { id }]) => id).sort(),
          JSON.stringify(query),
        );
      }
    },
  ),

  storeCase(
    "EN-9: a listing can be of one operation, in all states, among others' with like ids",
    async (harness) => {
      const queue = queueOf(harness.store);
      const operation = newOperation();
      // Its items' ids begin with the same digits, so they are in one range of ids.
      const like = operation.slice(0, -1) + (operation.endsWith("0") ? "1" : "0");
      const task = itemOf({ operation, kind: "task", name: "ride" });
      const effects = lineOf(4, { operation });
      const others = [...lineOf(3, { operation: like }), ...lineOf(30)];
      await add(queue, [task, ...effects, ...others]);
      for (const ending of [done, dead]) {
        const claimed = await claim(queue, { limit: 100 });
        await queue.finish(claimed.map(({ token }) => ending(token)));
      }
      const of = async (query: Partial<ItemQuery>, limit = 100) =>
        idsOf(await listItems(queue, { operation, ...query, limit })).sort();
      for (const limit of [1, 2, 3, 100]) {
        assert.deepEqual(await of({}, limit), idsOf([task, ...effects]).sort());
      }
      assert.deepEqual(await of({ kind: "task" }), [task.id]);
      assert.deepEqual(await of({ kind: "effect" }, 2), idsOf(effects).sort());
      assert.deepEqual(await of({ state: "done" }), [effects[0]!.id]);
      assert.deepEqual(await of({ state: "dead", name: "email" }), [effects[1]!.id]);
      assert.deepEqual(
        await of({ kind: "effect", state: "waiting" }),
        idsOf(effects.slice(2)).sort(),
      );
      assert.deepEqual(await of({ operation: newOperation() }), []);
      await assert.rejects(queue.list({ operation: "order-42", limit: 1 }), /`operation` must be/);
    },
  ),

  storeCase("EN-9: an expired item is not listed, swept or not", async (harness) => {
    const queue = queueOf(harness.store);
    await finished(queue, 3);
    await harness.elapse(RETENTION_MS);
    const live = itemOf();
    await add(queue, [live]);
    assert.deepEqual(idsOf(await listItems(queue, { limit: 1 })), [live.id]);
  }),

  storeCase("EN-9: a listing that is out of bounds is refused", async ({ store }) => {
    const queue = queueOf(store);
    await assert.rejects(queue.list({ limit: 0 }), /`limit` must be a whole number from 1 to 1000/);
    await assert.rejects(queue.list({ limit: 1_001 }), /`limit`/);
    await assert.rejects(
      queue.list({ limit: 1, state: "lost" as "dead" }),
      /`state` must be one of/,
    );
    await assert.rejects(queue.list({ limit: 1, cursor: "nonsense" }), /`cursor`/);
  }),
];

const statistics = [
  storeCase("EN-9: the statistics of an empty queue are nothing", async ({ store }) => {
    assert.deepEqual(await queueOf(store).stats(), {
      states: {
        task: { waiting: 0, done: 0, dead: 0 },
        effect: { waiting: 0, done: 0, dead: 0 },
      },
      oldestDueMs: { task: null, effect: null },
    });
  }),

  storeCase("EN-9: statistics count items by kind and state", async (harness) => {
    const queue = queueOf(harness.store);
    await oneOfEach(queue);
    await add(queue, [itemOf({ kind: "task", name: "c" })]);
    const { states } = await queue.stats();
    assert.deepEqual(states, {
      task: { waiting: 3, done: 2, dead: 2 },
      effect: { waiting: 2, done: 2, dead: 2 },
    });
    await harness.elapse(RETENTION_MS);
    assert.deepEqual((await queue.stats()).states.effect, { waiting: 2, done: 0, dead: 2 });
  }),

  storeCase("EN-9: statistics tell how long the oldest has been due", async (harness) => {
    const queue = queueOf(harness.store);
    await add(queue, [itemOf()], 2 * LEASE_MS);
    await add(queue, [itemOf({ kind: "task" })]);
    assert.equal((await queue.stats()).oldestDueMs.effect, null);
    await harness.elapse(3 * LEASE_MS);
    const { task, effect } = (await queue.stats()).oldestDueMs;
    for (const [ms, expected] of [
      [task, 3 * LEASE_MS],
      [effect, LEASE_MS],
    ] as const) {
      assert.ok(ms !== null && ms >= expected && ms < expected + DRIFT_MS_MAX, `${ms} ms`);
    }
    await claim(queue);
    assert.equal((await queue.stats()).oldestDueMs.effect, null);
  }),
];

async function assertKept(queue: StoreQueue, items: readonly { id: string }[]): Promise<void> {
  for (const { id } of items) await mustReadItem(queue, id);
}

const sweeping = [
  storeCase("ST-9: a sweep of an empty queue removes nothing", async ({ store }) => {
    assert.equal(await queueOf(store).sweep(1_000), 0);
  }),

  storeCase(
    "ST-9: a sweep of a queue respects its limit and says how many it removed",
    async (harness) => {
      const queue = queueOf(harness.store);
      await finished(queue, 10);
      await harness.elapse(RETENTION_MS);
      const counts = [];
      for (const limit of [4, 1, 100, 100]) counts.push(await queue.sweep(limit));
      assert.deepEqual(counts, [4, 1, 5, 0]);
    },
  ),

  storeCase("ST-9: a sweep removes what has expired, and nothing else", async (harness) => {
    const queue = queueOf(harness.store);
    await finished(queue, 5);
    await finished(queue, 2, (token) => dead(token, "HTTP 410", RETENTION_MS));
    const kept = await finished(queue, 3, dead);
    kept.push(...(await finished(queue, 3, (token) => done(token, 10 * RETENTION_MS))));
    const line = lineOf(3);
    await add(queue, line);
    await claimOne(queue);
    await harness.elapse(5 * RETENTION_MS);
    assert.equal(await queue.sweep(1_000), 7);
    assert.equal(await queue.sweep(1_000), 0);
    await assertKept(queue, [...kept, ...line]);
    assert.equal((await claimOne(queue)).id, line[0]!.id);
  }),

  storeCase(
    "ST-9: a sweep of records leaves the queue alone, and the other way about",
    async (harness) => {
      const { store } = harness;
      const queue = queueOf(store);
      const items = lineOf(3);
      await add(queue, items);
      await harness.elapse(100 * RETENTION_MS);
      assert.equal(await store.sweep(1_000), 0);
      assert.equal(await queue.sweep(1_000), 0);
      await assertKept(queue, items);
    },
  ),

  storeCase(
    "ST-9: sweepers of a queue at once share the work and remove nothing twice",
    async (harness) => {
      const clients = (await clientsOf(harness)).map(queueOf);
      const queue = clients[0]!;
      await finished(queue, 60);
      await harness.elapse(RETENTION_MS);
      const live = await finished(queue, 10);
      let removed = 0;
      for (let round = 0; round < 20 && removed < 60; round++) {
        const sweeps = Array.from({ length: 6 }, (_, n) => clients[n % clients.length]!.sweep(7));
        const counts = await together(sweeps);
        assert.ok(counts.every((count) => count <= 7));
        removed += counts.reduce((sum, count) => sum + count, 0);
      }
      assert.equal(removed, 60);
      await assertKept(queue, live);
    },
  ),

  storeCase("ST-9: an expired item that is added anew is safe from the sweep", async (harness) => {
    const clients = (await clientsOf(harness)).map(queueOf);
    const items = await finished(clients[0]!, 20);
    await harness.elapse(RETENTION_MS);
    const calls = items.flatMap((item, n) => [
      clients[n % clients.length]!.add([item], { dueInMs: 0 }).then((answer) => {
        assert.deepEqual(answer, SETTLED);
      }),
      clients[(n + 1) % clients.length]!.sweep(3),
    ]);
    await together(calls);
    while ((await clients[0]!.sweep(100)) > 0);
    assert.deepEqual(idsOf(await claim(clients[0]!)).sort(), idsOf(items).sort());
  }),
];

/** Items and records are counted apart. */
const apart = [
  storeCase(
    "EN-9: items are no records: listings and statistics leave them out",
    async (harness: StoreHarness) => {
      const { store } = harness;
      await add(queueOf(store), lineOf(3));
      assert.deepEqual((await store.list({ limit: 10 })).records, []);
      const { states } = await store.stats();
      assert.deepEqual(states, { running: 0, completed: 0, held: 0, open: 0, void: 0 });
      assert.equal(await store.read(lineOf(1)[0]!.id), undefined);
    },
  ),
];

export const keepingCases = [
  ...revival,
  ...removal,
  ...listing,
  ...statistics,
  ...sweeping,
  ...apart,
];
