// Effects and steps in the databases' own transactions (EN-8, EN-6): kept with the business write or not
// at all, whatever becomes of the commit's answer; and tombstones that a late writer finds.

import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Operation } from "../../src/engine/attempt.ts";
import type { Effect } from "../../src/engine/effects/relay.ts";
import { Idempotency, type IdempotencyOptions } from "../../src/engine/idempotency.ts";
import { deferred, failure } from "./fixture.ts";
import { backends, type Client, closeServers, type Stage } from "./transaction-backends.ts";

const named = { key: "order-42", scope: "acme" } as const;

afterAll(closeServers);

describe.each(backends)("$name", (backend) => {
  let stage: Stage;
  let client: Client;
  let other: Client;

  beforeEach(async (context) => {
    context.skip(backend.reason !== undefined, backend.reason);
    stage = await backend.open();
    client = await stage.connect();
    other = await stage.connect();
  });

  afterEach(async () => {
    await client?.end();
    await other?.end();
    await stage?.close();
  });

  function engine({ store }: Client = client, options: Partial<IdempotencyOptions> = {}) {
    return new Idempotency({ store, sweep: false, cache: false, storeTimeout: "30s", ...options });
  }

  /** Everything that another process delivers. */
  async function delivered(): Promise<Effect[]> {
    const effects: Effect[] = [];
    const relay = engine(other).relay({ mail: (effect) => void effects.push(effect) });
    await relay.drain();
    await relay.close();
    return effects;
  }

  test("EN-8: an effect commits with the handler's write", async () => {
    const { value: id } = await engine().transaction(named, async (transaction, { effect }) => {
      await client.insert(transaction, "lamp");
      const id = await effect("mail", { sku: "lamp" });
      expect(await delivered()).toEqual([]);
      return id;
    });
    expect(await stage.skus()).toEqual(["lamp"]);
    expect(await delivered()).toMatchObject([
      { id, name: "mail", payload: { sku: "lamp" }, attempt: 1, ...named },
    ]);
    await engine(other).transaction(named, () => expect.unreachable("it ran twice"));
    expect(await delivered()).toEqual([]);
  });

  test("EN-8: is rolled back with it, and kept once when the handler is called again", async () => {
    const idempotency = engine();
    let fails = true;
    const order = () =>
      idempotency.transaction(named, async (transaction, { effect }) => {
        await client.insert(transaction, "lamp");
        await effect("mail", "first");
        await effect("mail", "second", { key: "2" });
        if (fails) throw new Error("sold out");
      });
    await failure(order());
    expect(await delivered()).toEqual([]);
    fails = false;
    await order();
    expect((await delivered()).map(({ payload }) => payload)).toEqual(["first", "second"]);
  });

  test("EN-8: is due at its commit, or as much later as it says", async () => {
    await engine().transaction(named, async (_transaction, { effect }) => {
      await effect("mail", "now");
      await effect("mail", "later", { key: "later", dueIn: "1h" });
    });
    expect((await delivered()).map(({ payload }) => payload)).toEqual(["now"]);
    const { items } = await engine(other).effects.list({ state: "waiting" });
    expect(items).toHaveLength(1);
    expect(items[0]!.dueInMs).toBeGreaterThan(3_000_000);
  });

  test("EN-8: one that nobody waited for is kept with the rest, or fails it", async () => {
    const idempotency = engine();
    await idempotency.transaction({ key: "a" }, async (transaction, { effect }) => {
      await client.insert(transaction, "lamp");
      void effect("mail", 1);
    });
    expect(await delivered()).toHaveLength(1);
    const failed = idempotency.transaction({ key: "b" }, async (transaction, { effect }) => {
      await client.insert(transaction, "rug");
      void effect("mail", () => {});
    });
    expect(await failure(failed)).toMatchObject({ code: "not-serializable" });
    expect(await stage.skus()).toEqual(["lamp"]);
  });

  test("EN-8: after the end of its transaction it is refused, and nothing is kept", async () => {
    let late: Operation | undefined;
    await engine().transaction(named, async (transaction, operation) => {
      late = operation;
      await client.insert(transaction, "lamp");
    });
    expect(await failure(late!.effect("mail", 1))).toMatchObject({
      code: "effect-invalid",
      message: expect.stringContaining("or of its transaction"),
    });
    expect(await delivered()).toEqual([]);
  });

  test("EN-8: a process that is faster leaves one effect", async () => {
    const both = [client, other].map((one) =>
      engine(one).transaction({ ...named, wait: "20s" }, async (transaction, { effect }) => {
        await one.insert(transaction, "lamp");
        await effect("mail", "lamp");
      }),
    );
    await Promise.all(both);
    expect(await stage.skus()).toEqual(["lamp"]);
    expect(await delivered()).toHaveLength(1);
  });

  test("EN-8: within() adds to the transaction that the caller opened", async () => {
    const idempotency = engine();
    await client.store.transactions.run(async (transaction) => {
      await client.insert(transaction, "lamp");
      const executor = client.executor(transaction);
      await idempotency.within(executor, { key: "a" }, ({ effect }) => effect("mail", "kept"));
    });
    const undone = client.store.transactions.run(async (transaction) => {
      const executor = client.executor(transaction);
      await idempotency.within(executor, { key: "b" }, ({ effect }) => effect("mail", "undone"));
      throw new Error("changed its mind");
    });
    expect(await failure(undone)).toMatchObject({ message: "changed its mind" });
    expect((await delivered()).map(({ payload }) => payload)).toEqual(["kept"]);
  });

  test("EN-6, EN-8: an effect of a step that is a transaction commits with the step", async () => {
    const idempotency = engine(client, { onCrash: "rerun" });
    let attempts = 0;
    const run = () =>
      idempotency.run(named, async ({ step }) => {
        attempts++;
        const id = await step.transaction("order", async (transaction, { effect }) => {
          await client.insert(transaction, "lamp");
          const id = await effect("mail", "ordered");
          if (attempts === 1) throw new Error("sold out");
          return id;
        });
        if (attempts === 2) throw new Error("once more");
        return id;
      });
    await failure(run());
    expect(await delivered()).toEqual([]);
    await failure(run());
    const { value: id } = await run();
    expect(await stage.skus()).toEqual(["lamp"]);
    expect(await delivered()).toMatchObject([{ id, payload: "ordered" }]);
  });

  test.each([2, 10])(
    "EN-6, EN-8: 40 steps at once leave a connection of %i for what their effects look up",
    async (connections) => {
      const crowded = await stage.connect({ connections });
      const idempotency = engine(crowded, { storeTimeout: "5s" });
      const keys = Array.from({ length: 40 }, (_, index) => `order-${index}`);
      const runs = keys.map((key) =>
        idempotency.run({ key }, ({ step }) =>
          step.transaction("order", async (transaction, { effect }) => {
            await crowded.insert(transaction, key);
            await effect("mail", key);
          }),
        ),
      );
      try {
        expect(await Promise.allSettled(runs)).toEqual(
          keys.map(() => expect.objectContaining({ status: "fulfilled" })),
        );
      } finally {
        await crowded.end();
      }
      expect(await stage.skus()).toEqual(keys.toSorted());
      expect(await delivered()).toHaveLength(40);
    },
  );

  test("EN-8: what a later attempt is the first to record is delivered after what is there", async () => {
    const idempotency = engine(client, { onCrash: "rerun" });
    const run = (last?: string) =>
      idempotency.run(named, async ({ step, effect }) => {
        for (const name of ["placed", "paid"]) {
          await step.transaction(name, async (_transaction, { effect }) => {
            await effect("mail", name, { key: name });
          });
        }
        await effect("mail", "packed", { key: "packed" });
        if (last !== undefined) await effect("mail", last, { key: last });
        if (last !== "received") throw new Error("once more");
      });
    await failure(run());
    await failure(run("shipped"));
    // So many attempts that the last ones share their places.
    await stage.admin(`UPDATE ${stage.address.table}_records SET attempt = 1000000`);
    await run("received");
    const { items } = await idempotency.effects.list({ state: "waiting" });
    const places = items.map(({ place }) => place).sort((one, other) => one - other);
    expect(places).toEqual([0, 1, 2, 2 ** 20 + 1, 2 ** 31 - 2 ** 20 + 1]);
    const order = ["placed", "paid", "packed", "shipped", "received"];
    expect((await delivered()).map(({ payload }) => payload)).toEqual(order);
  });

  test("EN-6: a transaction within a step that is one is refused, as it would wait for it", async () => {
    const idempotency = engine();
    const nested = (begin: (operation: Operation) => Promise<unknown>) =>
      idempotency.run(named, async (operation) => {
        await operation.step.transaction("outer", async (transaction) => {
          await client.insert(transaction, "lamp");
          await begin(operation);
        });
      });
    const refusal = {
      code: "option-invalid",
      message: expect.stringMatching(/whose slot it would wait for/),
    };
    const inner = nested(({ step }) => step.transaction("inner", () => 1));
    expect(await failure(inner)).toMatchObject(refusal);
    const other = nested(() => idempotency.transaction({ key: "other" }, () => 1));
    expect(await failure(other)).toMatchObject(refusal);
    expect(await stage.skus()).toEqual([]);
  });

  test("EN-8: outside of a transaction, an effect is fenced by the store itself", async () => {
    const idempotency = engine(client, { onCrash: "rerun", lease: "30s" });
    const begun = deferred();
    const lapsed = deferred();
    const told = idempotency
      .run(named, async ({ effect }) => {
        begun.resolve();
        await lapsed.promise;
        await effect("mail", "zombie");
      })
      .catch((error) => error);
    await begun.promise;
    await stage.elapse(60_000);
    await engine(other).run({ ...named, onCrash: "rerun" }, ({ effect }) =>
      effect("mail", "successor"),
    );
    lapsed.resolve();
    await told;
    expect((await delivered()).map(({ payload }) => payload)).toEqual(["successor"]);
  });

  test("hold() has no meaning where the database decides", async () => {
    const held = engine().transaction(named, (_transaction, operation) => operation.hold("why"));
    expect(await failure(held)).toMatchObject({ code: "option-invalid" });
  });

  test("SM-13: a tombstone decides against a late writer: what was under way never commits", async () => {
    const idempotency = engine();
    const inside = deferred();
    const voided = deferred();
    const writing = idempotency.transaction(named, async (transaction, { effect }) => {
      await effect("mail", "late");
      inside.resolve();
      await voided.promise;
      await client.insert(transaction, "lamp");
    });
    const late = writing.then(
      () => undefined,
      (error) => error,
    );
    await inside.promise;
    // SQLite has one writer, which this transaction is: the decision comes after it there.
    const isAlone = backend.name.startsWith("SQLite");
    if (isAlone) voided.resolve();
    const answer = await engine(other).void(named);
    voided.resolve();
    const error = await late;
    if (answer.kind === "voided") {
      expect(answer.receipt).toMatchObject({ ...named, attempts: 0 });
      expect(answer.receipt.voidedAt).toBeGreaterThan(1_600_000_000_000);
      expect(error).toMatchObject({ code: "operation-void" });
      expect(await stage.skus()).toEqual([]);
      expect(await delivered()).toEqual([]);
      expect(await failure(idempotency.run(named, () => "again"))).toMatchObject({
        code: "operation-void",
      });
    } else {
      expect(isAlone).toBe(true);
      expect(answer).toEqual({ kind: "completed" });
      expect(await stage.skus()).toEqual(["lamp"]);
    }
  });

  test("SM-13: or it finds that the writer has committed, though nobody was told so", async () => {
    // Its process dies before it hears of the commit.
    const dying = engine();
    const gone = new Promise<never>(() => {});
    const { transactions } = client.store;
    const run = transactions.run.bind(transactions);
    const committed = deferred();
    Object.defineProperty(client.store, "transactions", {
      value: {
        ...bound(transactions),
        run: async (work: never) => {
          await run(work);
          committed.resolve();
          return gone;
        },
      },
    });
    void dying.transaction(named, async (transaction, { effect }) => {
      await client.insert(transaction, "lamp");
      await effect("mail", "lamp");
    });
    await committed.promise;
    expect(await engine(other).void(named)).toEqual({ kind: "completed" });
    expect(await stage.skus()).toEqual(["lamp"]);
    expect(await delivered()).toHaveLength(1);
  });
});

/** An object's methods and values, its class's too. */
function bound<Owner extends object>(owner: Owner): Record<string, unknown> {
  const names = new Set<string>();
  for (let one: object = owner; one !== Object.prototype; one = Object.getPrototypeOf(one)) {
    for (const name of Object.getOwnPropertyNames(one)) names.add(name);
  }
  return Object.fromEntries(
    [...names].map((name) => {
      const member = owner[name as keyof Owner];
      return [name, typeof member === "function" ? member.bind(owner) : member];
    }),
  );
}
