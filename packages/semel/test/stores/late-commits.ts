// What only a database with several writers at once can do: commit late.

import assert from "node:assert/strict";
import {
  add,
  claim,
  claimOne,
  done,
  idsOf,
  itemOf,
  lineOf,
  queueOf,
} from "../../src/testing/queue-items.ts";
import { clientsOf, storeCase } from "../../src/testing/store-harness.ts";
import { deferred } from "../engine/fixture.ts";

export const lateCommitCases = [
  storeCase(
    "EN-8: what commits after others that began later were claimed is claimed as well",
    async (harness) => {
      const { store } = harness;
      const queue = queueOf((await clientsOf(harness)).at(-1)!);
      const [late, early] = [itemOf(), itemOf()];
      const [entered, gate] = [deferred(), deferred()];
      const committed = store.transactions!.run(async (_, executor) => {
        await store.transactions!.enqueue!(executor, [late]);
        entered.resolve();
        await gate.promise;
      });
      await entered.promise;
      await add(queue, [early]);
      const { id, token } = await claimOne(queue);
      assert.equal(id, early.id);
      await queue.finish([done(token)]);
      assert.deepEqual(await claim(queue), []);
      gate.resolve();
      await committed;
      assert.equal((await claimOne(queue)).id, late.id);
    },
  ),

  storeCase(
    "EN-8: while a transaction that adds is open, items of the same operation are claimed",
    async (harness) => {
      const { store } = harness;
      const queue = queueOf((await clientsOf(harness)).at(-1)!);
      const [first, second, third] = lineOf(3);
      const [entered, gate] = [deferred(), deferred()];
      await add(queue, [first!]);
      const committed = store.transactions!.run(async (_, executor) => {
        await store.transactions!.enqueue!(executor, [second!]);
        entered.resolve();
        await gate.promise;
      });
      await entered.promise;
      await add(queue, [third!]);
      for (const item of [first!, third!]) {
        const { id, token } = await claimOne(queue);
        assert.equal(id, item.id);
        await queue.finish([done(token)]);
      }
      gate.resolve();
      await committed;
      assert.deepEqual(idsOf(await claim(queue)), [second!.id]);
    },
  ),
];
