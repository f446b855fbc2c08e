// Items that are added in a transaction of the user's (EN-8): with its commit, or not at all.

import assert from "node:assert/strict";
import type { QueueItem, SqlExecutor, Store, StoreTransactions } from "../../../store.ts";
import { assertReplay, claimOf, duplicateOf, expectKind, RETENTION_MS } from "../../claims.ts";
import {
  add,
  assertSameItem,
  claim,
  claimOne,
  deliver,
  done,
  idsOf,
  itemOf,
  lineOf,
  listItems,
  mustReadItem,
  queueOf,
} from "../../queue-items.ts";
import { clientsOf, storeCase, together } from "../../store-harness.ts";

type Enqueueing = StoreTransactions & Required<Pick<StoreTransactions, "enqueue">>;

function transactionsOf({ name, transactions }: Store): Enqueueing {
  assert.ok(transactions?.enqueue, `the ${name} store enqueues nothing in transactions`);
  return transactions as Enqueueing;
}

/** Enqueues items in a transaction of their own, does what else is to be done in it, and commits. */
async function enqueue(
  store: Store,
  items: readonly QueueItem[],
  work: (executor: SqlExecutor) => Promise<unknown> = async () => {},
): Promise<void> {
  const transactions = transactionsOf(store);
  await transactions.run(async (_, executor) => {
    await transactions.enqueue(executor, items);
    await work(executor);
  });
}

class RolledBack extends Error {}

export const enqueuingCases = [
  storeCase("EN-8: what a transaction adds is due once it has committed", async ({ store }) => {
    const queue = queueOf(store);
    const items = lineOf(2, { payload: "in a transaction" });
    await enqueue(store, items);
    const { token, payload, createdAt, started } = await claimOne(queue);
    assert.equal(Buffer.from(payload).toString(), "in a transaction");
    assert.ok(createdAt > 0);
    assert.equal(started, 1);
    await queue.finish([done(token)]);
    assert.equal((await claimOne(queue)).id, items[1]!.id);
  }),

  storeCase("EN-8: what a transaction adds for later is due then", async (harness) => {
    const queue = queueOf(harness.store);
    const transactions = transactionsOf(harness.store);
    const item = itemOf();
    await transactions.run((_, executor) =>
      transactions.enqueue(executor, [item], { dueInMs: 60_000 }),
    );
    assert.deepEqual(await claim(queue), []);
    await harness.elapse(60_000);
    assert.equal((await claimOne(queue)).id, item.id);
  }),

  storeCase(
    "EN-8: what a transaction adds is not there before its commit",
    async (harness) => {
      const other = (await clientsOf(harness)).at(-1)!;
      const items = lineOf(2);
      await enqueue(harness.store, items, async () => {
        assert.equal(await queueOf(other).read(items[0]!.id), undefined);
        assert.deepEqual(await listItems(queueOf(other), { limit: 10 }), []);
      });
      await mustReadItem(queueOf(other), items[0]!.id);
    },
    ["another"],
  ),

  storeCase("EN-8: what a transaction added leaves with its rollback", async ({ store }) => {
    const queue = queueOf(store);
    const items = lineOf(2);
    const failed = enqueue(store, items, async () => {
      throw new RolledBack();
    });
    await assert.rejects(failed, RolledBack);
    assert.deepEqual(await listItems(queue, { limit: 10 }), []);
    assert.deepEqual(await claim(queue), []);
    await enqueue(store, items);
    assert.deepEqual(idsOf(await claim(queue)), [items[0]!.id]);
  }),

  storeCase("EN-5, EN-8: items and the result commit together", async ({ store }) => {
    const operation = claimOf();
    const transactions = transactionsOf(store);
    const items = lineOf(3, { operation: operation.id });
    await enqueue(store, items, async (executor) => {
      const result = Buffer.from("result");
      const answer = await transactions.complete(executor, operation, result, RETENTION_MS);
      expectKind(answer, "settled");
    });
    assertReplay(await store.begin(duplicateOf(operation)), "result");
    assert.equal((await listItems(queueOf(store), { limit: 10 })).length, 3);
  }),

  storeCase("EN-8: an item that is there stays as it is", async ({ store }) => {
    const queue = queueOf(store);
    const [known, fresh] = lineOf(2);
    await add(queue, [known!]);
    const { token } = await claimOne(queue);
    const before = await mustReadItem(queue, known!.id);
    await enqueue(store, [{ ...known!, payload: Buffer.from("other") }, fresh!]);
    assertSameItem(await queue.read(known!.id), before);
    await queue.finish([done(token)]);
    assert.equal((await claimOne(queue)).id, fresh!.id);
  }),

  storeCase("EN-8: an item that has expired is added anew", async (harness) => {
    const queue = queueOf(harness.store);
    const item = itemOf();
    await add(queue, [item]);
    await queue.finish([done((await claimOne(queue)).token)]);
    await harness.elapse(RETENTION_MS);
    await enqueue(harness.store, [item]);
    assert.equal((await claimOne(queue)).started, 1);
  }),

  storeCase("EN-8: a transaction may enqueue more than once", async ({ store }) => {
    const items = lineOf(6);
    const transactions = transactionsOf(store);
    await enqueue(store, items.slice(0, 2), async (executor) => {
      await transactions.enqueue(executor, items.slice(1, 4));
      await transactions.enqueue(executor, items.slice(4));
    });
    assert.equal((await listItems(queueOf(store), { limit: 10 })).length, 6);
  }),

  storeCase("EN-8: transactions at once lose nothing to claims at once", async (harness) => {
    const clients = await clientsOf(harness);
    const items = Array.from({ length: 12 }, () => itemOf());
    const enqueueAll = async () => {
      for (const item of items) await enqueue(harness.store, [item]);
    };
    const [delivered] = await together([
      deliver(clients.map(queueOf), 2, items.length),
      enqueueAll(),
    ]);
    assert.deepEqual(delivered.sort(), idsOf(items).sort());
  }),

  storeCase(
    "what is out of bounds is refused, and the transaction may go on",
    async ({ store }) => {
      const transactions = transactionsOf(store);
      const item = itemOf();
      await enqueue(store, [item], async (executor) => {
        const spoiled = [{ ...itemOf(), place: -1 }];
        await assert.rejects(transactions.enqueue(executor, spoiled), /`place`/);
        await assert.rejects(transactions.enqueue(executor, [item, itemOf()]), /one operation/);
      });
      assert.deepEqual(idsOf(await listItems(queueOf(store), { limit: 10 })), [item.id]);
    },
  ),
];
