// Batches of messages in one transaction with the handler's writes, on every database that has them.

import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { createInbox, type Inbox } from "../../src/engine/inbox/inbox.ts";
import type { SqlExecutor } from "../../src/store.ts";
import { backends, type Client, closeServers, type Stage } from "../engine/transaction-backends.ts";
import { overriding } from "./overriding.ts";

afterAll(closeServers);

for (const { name, reason, open } of backends) {
  const skipped = reason ? ` (skipped: ${reason})` : "";
  describe.skipIf(reason !== undefined)(`${name}${skipped}`, () => {
    let stage: Stage;
    let client: Client;
    let inbox: Inbox;
    let idempotency: Idempotency;
    let count = 0;

    beforeAll(async () => {
      stage = await open();
      client = await stage.connect({ connections: 4 });
      idempotency = new Idempotency({ store: client.store, cache: false, sweep: false });
      inbox = createInbox(idempotency, "ledger", { attemptsMax: 2, lease: 1_000 });
    });
    afterAll(async () => {
      await client.end();
      await stage.close();
    });

    const next = (many: number) =>
      Array.from({ length: many }, () => {
        const id = `m-${count++}`;
        return { id, payload: id };
      });
    const writeAll = async (transaction: unknown, fresh: readonly { id: string }[]) => {
      for (const { id } of fresh) await client.insert(transaction, id);
    };
    const writtenOf = async (messages: readonly { id: string }[]) => {
      const skus = await stage.skus();
      return messages.map(({ id }) => skus.filter((sku) => sku === id).length);
    };
    /** A transaction of the caller's, which counts what is asked in it. */
    const within = <Answer>(
      work: (executor: SqlExecutor, transaction: unknown, asked: string[]) => Promise<Answer>,
    ) =>
      idempotency.inTransaction((transaction) => {
        const executor = client.executor(transaction);
        const asked: string[] = [];
        const counting: SqlExecutor = {
          dialect: executor.dialect,
          query(sql, parameters) {
            asked.push(sql);
            return executor.query(sql, parameters);
          },
        };
        return work(counting, transaction, asked);
      });

    test("MSG-1: a batch is marked by one statement, however many messages it has", async () => {
      for (const many of [2, 100]) {
        const messages = next(many);
        const statements = await within(async (executor, transaction, asked) => {
          await inbox.withinBatch(executor, messages, (fresh) => writeAll(transaction, fresh));
          return asked.filter((sql) => /INSERT|UPDATE/.test(sql)).length;
        });
        expect(statements).toBe(1);
        expect(await writtenOf(messages)).toEqual(messages.map(() => 1));
      }
    });

    test("MSG-1: what was handled before is found by one more statement, and not handled", async () => {
      const [old, fresh] = [next(40), next(40)];
      const handler = vi.fn(async () => {});
      await within((executor) => inbox.withinBatch(executor, old, handler));
      const mixed = [...old, ...fresh, fresh[0]!].toReversed();
      const { outcomes, statements } = await within(async (executor, transaction, asked) => {
        const before = asked.length;
        const outcomes = await inbox.withinBatch(executor, mixed, (given) =>
          writeAll(transaction, given),
        );
        return { outcomes, statements: asked.length - before };
      });
      expect(outcomes.filter((outcome) => outcome === "processed")).toHaveLength(40);
      // Two for the batch, two for the message that stood in it twice, and what a store asks first.
      expect(statements).toBeLessThanOrEqual(5);
      expect(await writtenOf(old)).toEqual(old.map(() => 0));
      expect(await writtenOf(fresh)).toEqual(fresh.map(() => 1));
      expect(await inbox.process(fresh[3]!, () => {})).toBe("duplicate");
    });

    test("MSG-1: messages that failed before, or whose record has expired, are marked as well", async () => {
      const messages = next(3);
      const short = createInbox(idempotency, "ledger", { retention: 5_000 });
      await short.process(messages[0]!, () => {});
      await stage.elapse(6_000);
      await inbox.deliver(messages[1]!, () => Promise.reject(new Error("once")));
      const outcomes = await within((executor, transaction) =>
        inbox.withinBatch(executor, messages, (fresh) => writeAll(transaction, fresh)),
      );
      expect(outcomes).toEqual(["processed", "processed", "processed"]);
      expect(await writtenOf(messages)).toEqual([1, 1, 1]);
      expect(await inbox.process(messages[1]!, () => {})).toBe("duplicate");
    });

    test("MSG-1: a caller that commits although its handler failed has marked nothing", async () => {
      const messages = next(3);
      await within(async (executor) => {
        const failing = inbox.withinBatch(executor, messages, () => {
          throw new Error("cannot");
        });
        await expect(failing).rejects.toThrow("cannot");
      });
      const handler = vi.fn();
      const outcomes = await within((executor) => inbox.withinBatch(executor, messages, handler));
      expect(outcomes).toEqual(["processed", "processed", "processed"]);
      expect(handler).toHaveBeenCalledTimes(1);
    });

    test("MSG-1: a batch with a mismatch, or without an id, marks and handles nothing", async () => {
      const messages = next(2);
      await inbox.process(messages[1]!, () => {});
      const handler = vi.fn();
      const batches = [
        [messages[0]!, { id: messages[1]!.id, payload: "another" }],
        [messages[0]!, { payload: "nameless" }],
      ];
      for (const batch of batches) {
        const failing = within((executor) => inbox.withinBatch(executor, batch, handler));
        await expect(failing).rejects.toMatchObject({ name: /KeyReused|KeyInvalid/ });
      }
      expect(handler).not.toHaveBeenCalled();
      expect(await inbox.process(messages[0]!, () => {})).toBe("processed");
    });

    test("MSG-2: a message that cannot be compared is told apart, and its neighbours are handled", async () => {
      const messages = next(3);
      const batch = [messages[0]!, { ...messages[1]!, payload: Number.NaN }, messages[2]!];
      const handler = vi.fn();
      const failing = within((executor) => inbox.withinBatch(executor, batch, handler));
      await expect(failing).rejects.toMatchObject({ code: "payload-invalid" });
      expect(handler).not.toHaveBeenCalled();
      const deliveries = await inbox.transactionBatch(batch, (transaction, fresh) =>
        writeAll(transaction, fresh),
      );
      expect(deliveries.map(({ kind }) => kind)).toEqual([
        "processed",
        "unidentified",
        "processed",
      ]);
      expect(await writtenOf(messages)).toEqual([1, 0, 1]);
    });

    test("MSG-1: of concurrent batches with the same messages, each message is handled by one", async () => {
      const messages = next(30);
      const batches = [messages, messages.toReversed(), messages.slice(10), messages.slice(0, 20)];
      const inboxes = batches.map(() => createInbox(idempotency, "races"));
      const deliveries = await Promise.all(
        batches.map((batch, index) =>
          inboxes[index]!.transactionBatch(batch, (transaction, fresh) =>
            writeAll(transaction, fresh),
          ),
        ),
      );
      // A transaction that the database gave up for another's sake is delivered again.
      const failed = batches.filter((_, index) =>
        deliveries[index]!.some(({ kind }) => kind !== "processed" && kind !== "duplicate"),
      );
      for (const batch of failed) {
        await inboxes[0]!.transactionBatch(batch, (transaction, fresh) =>
          writeAll(transaction, fresh),
        );
      }
      expect(await writtenOf(messages)).toEqual(messages.map(() => 1));
    });

    test("MSG-1: a batch in a transaction of the store's commits marks and writes together", async () => {
      const messages = next(5);
      await inbox.process(messages[1]!, () => {});
      const batch = [...messages, messages[0]!, { payload: "nameless" } as never];
      const deliver = () =>
        inbox.transactionBatch(batch, (transaction, fresh) => writeAll(transaction, fresh));
      const kinds = (await deliver()).map(({ kind }) => kind);
      const [done, again] = ["processed", "duplicate"];
      expect(kinds).toEqual([done, again, done, done, done, again, "unidentified"]);
      expect(await writtenOf(messages)).toEqual([1, 0, 1, 1, 1]);
      expect(new Set((await deliver()).map(({ kind }) => kind))).toEqual(
        new Set(["duplicate", "unidentified"]),
      );
    });

    test("MSG-2: a batch that fails rolls back whole; what failed before is then handled alone", async () => {
      const messages = next(3);
      const bad = messages[1]!.id;
      const groups: string[][] = [];
      const deliver = async () => {
        const deliveries = await inbox.transactionBatch(messages, async (transaction, fresh) => {
          groups.push(fresh.map(({ id }) => id));
          await writeAll(transaction, fresh);
          if (fresh.some(({ id }) => id === bad)) throw new Error("cannot");
        });
        return deliveries.map(({ kind }) => kind);
      };
      expect(await deliver()).toEqual(["failed", "failed", "failed"]);
      expect(await writtenOf(messages)).toEqual([0, 0, 0]);
      expect(await deliver()).toEqual(["processed", "poison", "processed"]);
      expect(await writtenOf(messages)).toEqual([1, 0, 1]);
      expect(groups.map(({ length }) => length)).toEqual([3, 1, 1, 1]);
      expect(await deliver()).toEqual(["duplicate", "poison", "duplicate"]);
      expect(groups).toHaveLength(4);
    });

    test("MSG-2: what fails elsewhere between the rollback of a batch and its second try is handled alone as well", async () => {
      const messages = next(3);
      const fails = () => {
        throw new Error("cannot");
      };
      await inbox.deliverTransaction(messages[0]!, fails);
      let begun = 0;
      const transactions = client.store.transactions;
      const between = overriding(client.store, {
        transactions: overriding(transactions, {
          run: async (work) => {
            // The first is rolled back, because of the message that has failed before.
            if (++begun === 2) await inbox.deliverTransaction(messages[1]!, fails);
            return transactions.run(work);
          },
        }),
      });
      const other = new Idempotency({ store: between, cache: false, sweep: false });
      const groups: string[][] = [];
      const deliveries = await createInbox(other, "ledger").transactionBatch(
        messages,
        async (transaction, fresh) => {
          groups.push(fresh.map(({ id }) => id));
          await writeAll(transaction, fresh);
        },
      );
      expect(deliveries).toEqual(messages.map(() => ({ kind: "processed" })));
      expect(groups.toSorted()).toEqual(messages.map(({ id }) => [id]));
      expect(await writtenOf(messages)).toEqual([1, 1, 1]);
    });

    test("MSG-1: results at rest are encrypted for each record of a batch by itself", async () => {
      const encryption = { keys: { k1: new Uint8Array(32).fill(7) }, current: "k1" };
      const store = client.store;
      const sealed = new Idempotency({ store, encryption, cache: false, sweep: false });
      const secret = createInbox(sealed, "sealed");
      const messages = next(2);
      const deliver = () => within((executor) => secret.withinBatch(executor, messages, () => {}));
      expect(await deliver()).toEqual(["processed", "processed"]);
      expect(await deliver()).toEqual(["duplicate", "duplicate"]);
      expect(await secret.process(messages[1]!, () => {})).toBe("duplicate");
    });
  });
}
