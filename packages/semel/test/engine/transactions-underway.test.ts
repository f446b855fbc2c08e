// What a handler of transaction() has under way when it ends (EN-5, EN-6, EN-8): it is waited for while
// the transaction is still there to take it back, and nothing of it reaches the next try.

import { createServer, get } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Operation } from "../../src/engine/attempt.ts";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { deferred, failure } from "./fixture.ts";
import {
  backends,
  type Client,
  closeServers,
  type Stage,
  serverBackends,
} from "./transaction-backends.ts";

const named = { key: "order-42", scope: "acme" } as const;

afterAll(closeServers);

let stage: Stage;
let client: Client;
let idempotency: Idempotency;

async function open(backend: (typeof backends)[number]): Promise<void> {
  stage = await backend.open();
  client = await stage.connect();
  idempotency = new Idempotency({
    store: client.store,
    sweep: false,
    cache: false,
    storeTimeout: "30s",
  });
}

afterEach(async () => {
  await client?.end();
  await stage?.close();
});

describe.each(backends)("$name", (backend) => {
  beforeEach(async (context) => {
    context.skip(backend.reason !== undefined, backend.reason);
    await open(backend);
  });

  /** Everything that is delivered. */
  async function delivered(): Promise<unknown[]> {
    const payloads: unknown[] = [];
    const relay = idempotency.relay({ mail: ({ payload }) => void payloads.push(payload) });
    await relay.drain();
    await relay.close();
    return payloads;
  }

  test("a step beside one that failed is rolled back with it", async () => {
    let fails = true;
    const order = () =>
      idempotency.transaction(named, async (transaction, { step }) => {
        await Promise.all([
          step("check", () => {
            if (fails) throw new Error("no stock");
          }),
          step("order", async () => {
            await delay(50);
            await client.insert(transaction, "lamp");
          }),
        ]);
      });
    expect(await failure(order())).toMatchObject({ message: "no stock" });
    await delay(100);
    expect(await stage.skus()).toEqual([]);
    fails = false;
    await order();
    expect(await stage.skus()).toEqual(["lamp"]);
  });

  test("an effect beside something that failed is rolled back with it", async () => {
    let fails = true;
    const order = () =>
      idempotency.transaction(named, async (_transaction, { effect }) => {
        const recorded = effect("mail", "sold");
        if (fails) throw new Error("no stock");
        await recorded;
      });
    expect(await failure(order())).toMatchObject({ message: "no stock" });
    expect(await delivered()).toEqual([]);
    fails = false;
    await order();
    expect(await delivered()).toEqual(["sold"]);
  });

  test("a step that nobody waited for is waited for, and what it throws fails the transaction", async () => {
    await idempotency.transaction({ key: "a" }, (transaction, { step }) => {
      void step("order", async () => {
        await delay(20);
        await client.insert(transaction, "lamp");
      });
    });
    expect(await stage.skus()).toEqual(["lamp"]);
    const failed = idempotency.transaction({ key: "b" }, async (transaction, { step }) => {
      await client.insert(transaction, "rug");
      void step("pay", async () => {
        await delay(20);
        throw new Error("declined");
      });
    });
    expect(await failure(failed)).toMatchObject({ message: "declined" });
    expect(await stage.skus()).toEqual(["lamp"]);
  });

  test("EN-10: close() waits for a batch of messages, and lets no further one begin", async () => {
    const inbox = idempotency.inbox("billing");
    const entered = deferred<void>();
    const leave = deferred<void>();
    const batch = inbox.transactionBatch([{ id: "1", payload: 1 }], async (transaction) => {
      entered.resolve();
      await leave.promise;
      await client.insert(transaction, "lamp");
    });
    await entered.promise;
    const closing = idempotency.close({ deadline: "20s" });
    expect(await Promise.race([closing, delay(50)])).toBeUndefined();
    const refused = await inbox.transactionBatch([{ id: "2", payload: 2 }], () => {
      expect.unreachable("it ran");
    });
    expect(refused).toMatchObject([{ kind: "failed", error: { code: "closed" } }]);
    leave.resolve();
    expect(await batch).toMatchObject([{ kind: "processed" }]);
    expect(await closing).toBe(0);
    expect(await stage.skus()).toEqual(["lamp"]);
  });

  test("what is called after the transaction's end is refused", async () => {
    let late: Operation | undefined;
    const failed = idempotency.transaction(named, (_transaction, operation) => {
      late = operation;
      throw new Error("no stock");
    });
    await failure(failed);
    expect(await failure(late!.effect("mail", 1))).toMatchObject({ code: "effect-invalid" });
    expect(await failure(late!.step("order", () => 1))).toMatchObject({ code: "step-invalid" });
    expect(await delivered()).toEqual([]);
  });
});

describe.each(serverBackends)("$name", (backend) => {
  beforeEach(async (context) => {
    context.skip(backend.reason !== undefined, backend.reason);
    await open(backend);
  });

  test("a request of the handler's own whose server hangs up is made once", async () => {
    let charges = 0;
    const server = createServer((request) => {
      charges++;
      request.socket.destroy();
    }).listen(0, "127.0.0.1");
    const { port } = await new Promise<AddressInfo>((resolve) => {
      server.once("listening", () => resolve(server.address() as AddressInfo));
    });
    const charge = () =>
      new Promise<void>((resolve, reject) => {
        get({ port, host: "127.0.0.1", agent: false }, () => resolve()).on("error", reject);
      });
    try {
      const paid = idempotency.transaction(named, charge);
      expect(await failure(paid)).toMatchObject({ code: "ECONNRESET" });
      expect(charges).toBe(1);
      const wrapped = idempotency.transaction({ key: "b" }, async () => {
        await charge().catch((cause: unknown) => {
          throw new Error("the provider is down", { cause });
        });
      });
      expect(await failure(wrapped)).toMatchObject({ message: "the provider is down" });
      expect(charges).toBe(2);
      const stepped = idempotency.run({ key: "c" }, ({ step }) => step.transaction("pay", charge));
      expect(await failure(stepped)).toMatchObject({ code: "ECONNRESET" });
      expect(charges).toBe(3);
    } finally {
      server.close();
    }
  });
});
