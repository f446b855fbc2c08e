// Handlers that end the transaction that they were given (EN-5): what they did may be gone, or be there
// alone, so that their result is never recorded as if both had happened together.

import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { failure } from "./fixture.ts";
import {
  backends,
  type Client,
  closeServers,
  pgBackend,
  postgresJsBackend,
  type Stage,
} from "./transaction-backends.ts";

const named = { key: "order-42", scope: "acme" } as const;
/** More than is sent as text of a statement. */
const LARGE = "x".repeat(50_000);

afterAll(closeServers);

let stage: Stage;
let client: Client;

async function open(backend: (typeof backends)[number]): Promise<Idempotency> {
  stage = await backend.open();
  client = await stage.connect();
  return new Idempotency({ store: client.store, sweep: false, cache: false });
}

/** Sends a statement on the handler's transaction, as a query builder would. */
async function send(transaction: unknown, sql: string): Promise<void> {
  await client.executor(transaction).query(sql, []);
}

afterEach(async () => {
  await client?.end();
  await stage?.close();
});

describe.each(backends)("$name", (backend) => {
  let idempotency: Idempotency;

  beforeEach(async (context) => {
    context.skip(backend.reason !== undefined, backend.reason);
    idempotency = await open(backend);
  });

  test("a rollback by the handler is no result, and the key may run again", async () => {
    const ended = idempotency.transaction(named, async (transaction) => {
      await client.insert(transaction, "lamp");
      await send(transaction, "ROLLBACK");
      return "sold";
    });
    expect(await failure(ended)).toBeInstanceOf(Error);
    expect(await idempotency.status(named)).toMatchObject({ state: "absent" });
    expect(await stage.skus()).toEqual([]);
    const again = await idempotency.transaction(named, async (transaction) => {
      await client.insert(transaction, "lamp");
      return "sold";
    });
    expect(again).toMatchObject({ value: "sold", replayed: false });
    expect(await stage.skus()).toEqual(["lamp"]);
  });
});

describe.each([pgBackend, postgresJsBackend])("$name", (backend) => {
  let idempotency: Idempotency;

  beforeEach(async (context) => {
    context.skip(backend.reason !== undefined, backend.reason);
    idempotency = await open(backend);
  });

  const UNUSABLE = { code: "store-unusable", message: expect.stringContaining("savepoints") };

  test.each([
    ["ROLLBACK", "a small result", "sold"],
    ["ROLLBACK", "a large one", LARGE],
    ["ROLLBACK AND CHAIN", "a small result", "sold"],
    ["ROLLBACK AND CHAIN", "a large one", LARGE],
    ["COMMIT", "a small result", "sold"],
    ["COMMIT AND CHAIN", "a small result", "sold"],
    ["COMMIT AND CHAIN", "a large one", LARGE],
  ])("after %s it records nothing: %s", async (end, _size, value) => {
    const ended = idempotency.transaction(named, async (transaction) => {
      await client.insert(transaction, "lamp");
      await send(transaction, end);
      return value;
    });
    expect(await failure(ended)).toMatchObject(UNUSABLE);
    expect(await idempotency.status(named)).toMatchObject({ state: "absent" });
    expect(await stage.skus()).toEqual(end.startsWith("COMMIT") ? ["lamp"] : []);
  });

  test("an effect is not recorded in another transaction, or in none", async () => {
    for (const end of ["ROLLBACK", "COMMIT AND CHAIN"]) {
      const ended = idempotency.transaction({ key: end }, async (transaction, { effect }) => {
        await client.insert(transaction, "lamp");
        await send(transaction, end);
        await effect("mail", "sold");
      });
      expect(await failure(ended)).toMatchObject(UNUSABLE);
    }
    expect((await idempotency.effects.list()).items).toEqual([]);
  });

  test("a step that was a transaction is not saved", async () => {
    for (const end of ["ROLLBACK", "ROLLBACK AND CHAIN"]) {
      const ended = idempotency.run({ key: end }, ({ step }) =>
        step.transaction("order", async (transaction) => {
          await client.insert(transaction, "lamp");
          await send(transaction, end);
        }),
      );
      expect(await failure(ended)).toMatchObject(UNUSABLE);
      expect((await idempotency.get({ key: end }))?.steps).toEqual([]);
    }
    expect(await stage.skus()).toEqual([]);
  });

  test("without the store's functions, too", async () => {
    const names = await stage.admin(
      `SELECT oid::regprocedure::text AS name FROM pg_proc
       WHERE starts_with(proname, '${stage.address.table}')`,
    );
    await stage.admin(`DROP ROUTINE ${names.map(({ name }) => name).join()}`);
    const ended = idempotency.transaction(named, async (transaction) => {
      await send(transaction, "ROLLBACK");
      return "sold";
    });
    expect(await failure(ended)).toMatchObject(UNUSABLE);
    expect(await idempotency.status(named)).toMatchObject({ state: "absent" });
    expect(await idempotency.transaction(named, () => "sold")).toMatchObject({ value: "sold" });
  });

  test("what has no result of its own learns of it at the commit", async () => {
    const plain = client.store.transactions.run(async (transaction) => {
      await client.insert(transaction, "lamp");
      await send(transaction, "ROLLBACK");
    });
    expect(await failure(plain)).toMatchObject(UNUSABLE);
    expect(await stage.skus()).toEqual([]);
  });

  test("the handler may choose the isolation, and use savepoints", async () => {
    const outcome = await idempotency.transaction(named, async (transaction) => {
      await send(transaction, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE");
      await client.insert(transaction, "lamp");
      await send(transaction, "SAVEPOINT rug");
      await client.insert(transaction, "rug");
      await send(transaction, "ROLLBACK TO SAVEPOINT rug");
      return "sold";
    });
    expect(outcome).toMatchObject({ value: "sold", replayed: false });
    expect(await stage.skus()).toEqual(["lamp"]);
  });

  test("a statement that failed, and whose error was kept, commits nothing and is said so", async () => {
    const kept = idempotency.transaction(named, async (transaction) => {
      await client.insert(transaction, "lamp");
      await send(transaction, "SELECT 1 / 0").catch(() => {});
      return "sold";
    });
    // postgres.js tells of the statement itself.
    const message = expect.stringMatching(/Nothing was committed|division by zero/);
    expect(await failure(kept)).toMatchObject({ message });
    expect(await idempotency.status(named)).toMatchObject({ state: "absent" });
    expect(await stage.skus()).toEqual([]);
  });
});
