// What every framework's `transactional()` owes (HTTP-16), on real databases: the response is stored
// with the handler's writes, and leaves after the commit.

import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Idempotency, type IdempotencyOptions } from "../../src/engine/idempotency.ts";
import { NotApplied } from "../../src/errors.ts";
import type { HttpOperation } from "../../src/http/exchange.ts";
import type { HttpOptions } from "../../src/http/options.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import {
  field,
  json,
  RawClient,
  type Reply,
  requestText,
  type Served,
  send,
  until,
} from "../../src/testing/framework-suite/index.ts";
import type { Backend, Client, Stage } from "../engine/transaction-backends.ts";

export interface Call {
  sku: string;
  transaction: unknown;
  operation: HttpOperation | undefined;
}

export interface Answering {
  status: number;
  body: string;
  headers?: Record<string, string>;
}

export interface TransactionalHarness {
  name: string;
  /** Whether the second run of a handler finds the request's body again. */
  canRepeat: boolean;
  /** Serves `POST /` with a JSON body `{ sku }`. */
  serve(
    idempotency: Idempotency,
    options: HttpOptions<never>,
    handle: (call: Call) => Promise<Answering>,
  ): Promise<Served>;
}

type Handle = (call: Call & { client: Client }) => Promise<Answering | undefined>;

const CREATED = { status: 201, body: '{"created":true}', headers: { location: "/orders/7" } };

/** The real thing with some of its members replaced. */
function over<Target extends object>(target: Target, members: Partial<Target>): Target {
  return new Proxy(target, {
    get(real, name) {
      if (name in members) return members[name as keyof Target];
      const member = real[name as keyof Target];
      return typeof member === "function" ? member.bind(real) : member;
    },
  });
}

/** Runs the suite for a framework on a database. */
export function transactionalSuite(harness: TransactionalHarness, backend: Backend): void {
  describe.skipIf(backend.reason)(`${harness.name}: transactional() on ${backend.name}`, () => {
    let stage: Stage;
    beforeAll(async () => {
      stage = await backend.open();
    });
    afterAll(() => stage.close());

    const fresh = () => `order-${randomUUID()}`;
    const ordered = async (sku: string) => (await stage.skus()).filter((each) => each === sku);

    /** Serves a handler that inserts an order, then does what the test says. */
    async function serving(
      handle: Handle,
      options: Partial<HttpOptions<never>> = {},
      engine: Partial<IdempotencyOptions> = {},
    ) {
      const client = await stage.connect();
      const idempotency = new Idempotency({ store: client.store, sweep: false, ...engine });
      let runs = 0;
      const served = await harness.serve(
        idempotency as Idempotency,
        { scope: "shared", ...options } as HttpOptions<never>,
        async (call) => {
          runs++;
          await client.insert(call.transaction, call.sku);
          return (await handle({ ...call, client })) ?? CREATED;
        },
      );
      const post = (key: string | undefined, sku: string): Promise<Reply> =>
        send(served.port, {
          path: "/",
          headers: {
            "content-type": "application/json",
            ...(key !== undefined && { "idempotency-key": key }),
          },
          body: JSON.stringify({ sku }),
        });
      const end = async () => {
        await served.close();
        await idempotency.close();
        await client.end();
      };
      return { post, end, runs: () => runs, port: served.port, idempotency };
    }

    test("HTTP-16: the writes and the response commit together, and duplicates get the response", async () => {
      const key = fresh();
      const { post, end, runs } = await serving(async ({ operation }) => {
        expect(operation?.key).toBe(key);
        return undefined;
      });
      const first = await post(key, key);
      const replay = await post(key, key);
      expect(first.status).toBe(201);
      expect(json(first)).toEqual({ created: true });
      expect(field(first, "location")).toBe("/orders/7");
      expect(field(first, "idempotency-status")).toBe("executed");
      expect(field(replay, "idempotency-status")).toBe("replayed");
      expect(replay.status).toBe(201);
      expect(replay.body).toEqual(first.body);
      expect(field(replay, "location")).toBe("/orders/7");
      expect([runs(), await ordered(key)]).toEqual([1, [key]]);
      await end();
    });

    test("HTTP-16: nothing leaves before the commit", async () => {
      const key = fresh();
      let commit = () => {};
      const gate = new Promise<void>((resolve) => {
        commit = resolve;
      });
      let isMade = false;
      const client = await stage.connect();
      const { transactions } = client.store;
      const run = transactions.run.bind(transactions);
      const held: typeof transactions.run = (work) =>
        run(async (...given) => {
          const made = await work(...given);
          isMade = true;
          await gate;
          return made;
        });
      const { completeAndCommit } = transactions;
      // Where the commit is a part of the work, it is held there.
      const heldBefore: typeof completeAndCommit =
        completeAndCommit &&
        (async (...given) => {
          isMade = true;
          await gate;
          return completeAndCommit.apply(transactions, given);
        });
      const holding = { run: held, ...(heldBefore && { completeAndCommit: heldBefore }) };
      const store = over(client.store, { transactions: over(transactions, holding) });
      const { post, end } = await serving(async () => undefined, {}, { store });
      let answered = false;
      const answer = post(key, key).finally(() => {
        answered = true;
      });
      await until(() => isMade, "the handler's end");
      await new Promise((resolve) => setImmediate(resolve));
      expect(answered).toBe(false);
      expect(await ordered(key)).toEqual([]);
      commit();
      expect((await answer).status).toBe(201);
      expect(await ordered(key)).toEqual([key]);
      await end();
      await client.end();
    });

    test("HTTP-16: a handler that throws rolls back, its framework answers, and the key may run again", async () => {
      const key = fresh();
      let fails = true;
      const { post, end, runs } = await serving(async () => {
        if (fails) throw new Error("no stock");
        return undefined;
      });
      const failed = await post(key, key);
      expect(failed.status).toBe(500);
      // A fetch handler that throws leaves the answer to whoever called it.
      if (harness.name !== "fetch") expect(field(failed, "idempotency-status")).toBe("released");
      expect(await ordered(key)).toEqual([]);
      fails = false;
      expect((await post(key, key)).status).toBe(201);
      expect([runs(), await ordered(key)]).toEqual([2, [key]]);
      await end();
    });

    test("HTTP-16: without a key too, a response that is not stored rolls back", async () => {
      const sku = fresh();
      const { post, end } = await serving(async () => ({ status: 503, body: "{}" }));
      expect((await post(undefined, sku)).status).toBe(503);
      expect(await ordered(sku)).toEqual([]);
      await end();
    });

    test("HTTP-16: a response that is not stored leaves after a rollback, a verdict commits", async () => {
      const [failing, refused] = [fresh(), fresh()];
      let status = 503;
      const { post, end, runs } = await serving(async () => ({ status, body: "{}" }));
      const first = await post(failing, failing);
      expect([first.status, field(first, "idempotency-status")]).toEqual([503, "released"]);
      expect(await ordered(failing)).toEqual([]);
      status = 422;
      const verdict = await post(refused, refused);
      expect([verdict.status, field(verdict, "idempotency-status")]).toEqual([422, "executed"]);
      expect(await ordered(refused)).toEqual([refused]);
      expect(field(await post(refused, refused), "idempotency-status")).toBe("replayed");
      expect(runs()).toBe(2);
      await end();
    });

    test('HTTP-16: with `onError: "store"` the response is kept and the writes are not', async () => {
      const key = fresh();
      const { post, end, runs } = await serving(async () => ({ status: 500, body: '{"no":1}' }), {
        onError: "store",
      });
      expect((await post(key, key)).status).toBe(500);
      const replay = await post(key, key);
      expect([replay.status, json(replay)]).toEqual([500, { no: 1 }]);
      expect(field(replay, "idempotency-status")).toBe("replayed");
      expect([runs(), await ordered(key)]).toEqual([1, []]);
      await end();
    });

    test("HTTP-15: notApplied() rolls back whatever the response, hold() is refused", async () => {
      const [undone, held] = [fresh(), fresh()];
      const { post, end } = await serving(async ({ sku, operation }) => {
        if (sku === held) operation?.hold("who knows");
        operation?.notApplied();
        return undefined;
      });
      const answer = await post(undone, undone);
      expect([answer.status, field(answer, "idempotency-status")]).toEqual([201, "released"]);
      expect((await post(held, held)).status).toBe(500);
      expect(await ordered(undone)).toEqual([]);
      expect(await ordered(held)).toEqual([]);
      await end();
    });

    test("SM-24: a thrown NotApplied rolls back and the key may run again", async () => {
      const key = fresh();
      let fails = true;
      const { post, end } = await serving(async () => {
        if (fails) throw new NotApplied(new Error("no stock"));
        return undefined;
      });
      expect((await post(key, key)).status).toBe(500);
      fails = false;
      expect((await post(key, key)).status).toBe(201);
      expect(await ordered(key)).toEqual([key]);
      await end();
    });

    test("SM-2: another payload is refused, and runs nothing", async () => {
      const key = fresh();
      const { post, end, runs } = await serving(async () => undefined);
      await post(key, key);
      const other = await post(key, "another");
      expect([other.status, json(other)["code"]]).toEqual([422, "key-reused"]);
      expect([runs(), await ordered("another")]).toEqual([1, []]);
      await end();
    });

    test("EN-3: duplicates that arrive together run once", async () => {
      const key = fresh();
      const { post, end, runs } = await serving(async () => undefined, { wait: "10s" });
      const answers = await Promise.all(Array.from({ length: 20 }, () => post(key, key)));
      expect(answers.map(({ status }) => status)).toEqual(Array(20).fill(201));
      expect([runs(), await ordered(key)]).toEqual([1, [key]]);
      await end();
    });

    test("HTTP-3: without a key it runs in a transaction all the same, or is refused", async () => {
      const sku = fresh();
      let fails = true;
      const { post, end } = await serving(async ({ operation }) => {
        expect(operation).toBeUndefined();
        if (fails) throw new Error("no stock");
        return undefined;
      });
      expect((await post(undefined, sku)).status).toBe(500);
      expect(await ordered(sku)).toEqual([]);
      fails = false;
      const answer = await post(undefined, sku);
      expect([answer.status, answer.headers["idempotency-status"]]).toEqual([201, undefined]);
      expect(await ordered(sku)).toEqual([sku]);
      await end();
      const strict = await serving(async () => undefined, { required: true });
      expect(json(await strict.post(undefined, fresh()))["code"]).toBe("key-missing");
      await strict.end();
    });

    test("EN-5: when the database asks for it, the handler makes its response anew", async () => {
      const key = fresh();
      let tries = 0;
      const client = await stage.connect();
      const { transactions } = client.store;
      const store = over(client.store, {
        transactions: over(transactions, {
          isRetryable: (error: unknown) => (error as Error).message === "serialise",
        }),
      });
      const { post, end, runs } = await serving(
        async () => {
          tries++;
          if (tries === 1) throw new Error("serialise");
          return { ...CREATED, headers: { "x-try": String(tries) } };
        },
        {},
        { store },
      );
      const answer = await post(key, key);
      if (harness.canRepeat) {
        expect([answer.status, field(answer, "x-try"), runs()]).toEqual([201, "2", 2]);
      } else {
        expect([answer.status, json(answer)["retry"], runs()]).toEqual([503, "same-key", 1]);
        expect((await post(key, key)).status).toBe(201);
      }
      expect(await ordered(key)).toEqual([key]);
      await end();
      await client.end();
    });

    test("ST-10: a response over the bound leaves whole, and its duplicate hears that it was not kept", async () => {
      const key = fresh();
      const body = "x".repeat(5_000);
      const { post, end, runs } = await serving(
        async () => ({ status: 200, body }),
        {},
        { maxResultBytes: 1_000 },
      );
      expect((await post(key, key)).body.toString()).toBe(body);
      const duplicate = await post(key, key);
      expect([duplicate.status, json(duplicate)["code"]]).toEqual([409, "result-not-stored"]);
      expect(json(duplicate)["originalStatus"]).toBe(200);
      expect(runs()).toBe(1);
      await end();
    });

    test("SM-23: a client that leaves does not undo the commit", async () => {
      const key = fresh();
      let goOn = () => {};
      const gate = new Promise<void>((resolve) => {
        goOn = resolve;
      });
      const { port, post, end, runs } = await serving(async () => {
        await gate;
        return undefined;
      });
      const leaving = await RawClient.connect(port);
      const body = JSON.stringify({ sku: key });
      const headers = { "content-type": "application/json", "idempotency-key": key };
      leaving.write(requestText("/", headers, body));
      await until(() => runs() === 1, "the handler's start");
      leaving.socket.destroy();
      await new Promise((resolve) => leaving.socket.once("close", resolve));
      goOn();
      const status = async () => field(await post(key, key), "idempotency-status");
      await expect.poll(status, { timeout: 10_000 }).toBe("replayed");
      expect([runs(), await ordered(key)]).toEqual([1, [key]]);
      await end();
    });

    test("SM-22: a database that fails at the commit is a 503 that says to retry", async () => {
      const key = fresh();
      let fails = true;
      let isGone = false;
      const client = await stage.connect();
      const { transactions } = client.store;
      const run = transactions.run.bind(transactions);
      const failing: typeof transactions.run = (work) =>
        run(async (...given) => {
          const made = await work(...given);
          isGone = fails;
          if (isGone)
            throw Object.assign(new Error("gone"), { code: "ECONNRESET", syscall: "read" });
          return made;
        });
      const store = over(client.store, {
        transactions: over(transactions, { run: failing, isRetryable: () => false }),
        read: async (id: string) => {
          if (isGone) throw new Error("gone");
          return client.store.read(id);
        },
      });
      const { post, end } = await serving(async () => undefined, {}, { store, cache: false });
      const answer = await post(key, key);
      expect([answer.status, json(answer)["code"]]).toEqual([503, "store-unavailable"]);
      // Where the commit is a part of the work, it has been made; nobody knows by now.
      expect(json(answer)["detail"]).toMatch(/may have been applied$/);
      const unasked = await post(fresh(), key);
      expect(json(unasked)["detail"]).toMatch(/; nothing ran$/);
      [fails, isGone] = [false, false];
      expect((await post(key, key)).status).toBe(201);
      expect(await ordered(key)).toEqual([key]);
      await end();
      await client.end();
    });
  });

  test(`${harness.name}: a store without transactions is refused when the route is set up`, async () => {
    const idempotency = new Idempotency({ store: memoryStore() });
    const serve = async () =>
      harness.serve(idempotency, { scope: "shared" } as never, async () => CREATED);
    await expect(serve()).rejects.toThrow(/has no transactions/);
  });
}
