// The DynamoDB store, through the real SDK, against dynalite: DynamoDB itself cannot be had here.

import { randomBytes } from "node:crypto";
import { once } from "node:events";
import type { Server } from "node:http";
import { CreateTableCommand, DynamoDBClient, waitUntilTableExists } from "@aws-sdk/client-dynamodb";
import { DynamoDBDocument } from "@aws-sdk/lib-dynamodb";
import dynalite from "dynalite";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type DynamoDocument, dynamodbStore, dynamodbTable } from "../../src/stores/dynamodb.ts";
import { claimOf, completion, duplicateOf } from "../../src/testing/claims.ts";
import { storeCases } from "../../src/testing/index.ts";

let server: Server;
let client: DynamoDBClient;
let document: DynamoDBDocument;

beforeAll(async () => {
  server = dynalite({ createTableMs: 0 });
  // Connections that it closes while they are idle would break requests that are on their way.
  server.keepAliveTimeout = 600_000;
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  client = clientOf(port);
  document = DynamoDBDocument.from(client);
});

afterAll(async () => {
  client.destroy();
  server.close();
});

function clientOf(port: number): DynamoDBClient {
  return new DynamoDBClient({
    region: "test",
    endpoint: `http://127.0.0.1:${port}`,
    credentials: { accessKeyId: "test", secretAccessKey: "test" },
    maxAttempts: 1,
  });
}

async function newTable(): Promise<string> {
  const table = `semel-${randomBytes(6).toString("hex")}`;
  await client.send(new CreateTableCommand(dynamodbTable(table)));
  await waitUntilTableExists({ client, maxWaitTime: 10, minDelay: 1 }, { TableName: table });
  return table;
}

describe("keeps the contract", () => {
  for (const { name, run } of storeCases) {
    // An item of DynamoDB's has 400 KB at most. Of the random lives, one seed is enough for a server
    // as slow as dynalite.
    const isLeftOut = /1 MiB|a megabyte/.test(name) || /random lives(?!.*\(seed 1\))/.test(name);
    test.skipIf(isLeftOut)(name, { timeout: 180_000 }, async () => {
      const table = await newTable();
      let now = Date.now();
      const sweep = "scan" as const;
      const options = { table, clockSkew: 0, sweep, clock: { now: () => now } };
      await run({
        store: dynamodbStore(document, options),
        elapse: async (ms) => {
          now += ms;
        },
        another: async () => dynamodbStore(document, options),
        damage: async (id, how) => {
          const [name, value] = how === "newer" ? ["format", 99] : ["owner", "?"];
          await document.update({
            TableName: table,
            Key: { id },
            UpdateExpression: "SET #name = :value",
            ExpressionAttributeNames: { "#name": name as string },
            ExpressionAttributeValues: { ":value": value },
          });
        },
      });
    });
  }
});

/** Counts the calls of a document client. */
function counting(calls: string[]): DynamoDocument {
  const counted = (name: keyof DynamoDocument) => (input: never) => {
    calls.push(name);
    return (document as unknown as DynamoDocument)[name](input) as never;
  };
  return {
    get: counted("get"),
    put: counted("put"),
    update: counted("update"),
    delete: counted("delete"),
    scan: counted("scan"),
  };
}

test.each([
  ["nothing", undefined],
  ["the name of a table", "semel"],
  ["a client that knows no documents", { send() {} }],
])("refuses %s for a document client, and says what to pass", (_, wrong) => {
  expect(() => dynamodbStore(wrong as never, { table: "semel", clockSkew: 0 })).toThrow(
    "`document` must be a document client, such as `DynamoDBDocument.from(client)`",
  );
});

test("PF-1: a new operation costs two round trips, a replay two, a renewal or a step one", async () => {
  const calls: string[] = [];
  const store = dynamodbStore(counting(calls), { table: await newTable(), clockSkew: 0 });
  const claim = claimOf();
  const begun = await store.begin(claim);
  if (begun.kind !== "acquired") throw new Error(begun.kind);
  const token = { id: claim.id, attempt: begun.attempt, owner: claim.owner };
  await store.renew({ ...token, leaseMs: 1_000, lapsedRetentionMs: null });
  await store.append!({ ...token, bytes: Buffer.from("done") });
  await store.settle(completion(token));
  expect(calls.splice(0)).toEqual(["put", "update", "update", "update"]);
  expect(await store.begin(duplicateOf(claim))).toMatchObject({ kind: "done" });
  expect(calls).toEqual(["put", "get"]);
});

test("SM-14: an item has no room for more than 400 KB of steps, and completes all the same", async () => {
  const store = dynamodbStore(document, { table: await newTable(), clockSkew: 0 });
  const claim = claimOf();
  await store.begin(claim);
  const token = { id: claim.id, attempt: 1, owner: claim.owner };
  const bytes = randomBytes(150_000);
  const append = (entry: Uint8Array) => store.append!({ ...token, bytes: entry });
  expect(await append(bytes)).toEqual({ kind: "settled" });
  expect(await append(bytes)).toEqual({ kind: "settled" });
  const full = { code: "store-full", message: expect.stringContaining("400 KB") };
  await expect(append(bytes)).rejects.toMatchObject(full);
  await expect(append(randomBytes(400_000))).rejects.toMatchObject(full);
  const record = await store.read(claim.id);
  expect(Buffer.concat([bytes, bytes]).equals(record!.journal!)).toBe(true);
  expect(record!.ageMs).toBeGreaterThanOrEqual(0);
  expect(await store.settle(completion(token, randomBytes(300_000)))).toEqual({ kind: "settled" });
  expect(await store.read(claim.id)).toMatchObject({ state: "completed", journal: null });
});

test("a lease of another clock lapses only after the allowance for skew", async () => {
  const table = await newTable();
  let now = 1_000_000;
  const at = (offset: number) =>
    dynamodbStore(document, { table, clockSkew: "2s", clock: { now: () => now + offset } });
  const [behind, ahead] = [at(-1_000), at(1_000)];
  const claim = claimOf({ leaseMs: 10_000, onCrash: "rerun" });
  expect(await behind.begin(claim)).toMatchObject({ kind: "acquired" });
  now += 9_999;
  expect(await ahead.begin(duplicateOf(claim))).toMatchObject({ kind: "busy" });
  now += 2_001;
  expect(await ahead.begin(duplicateOf(claim))).toMatchObject({ kind: "acquired", attempt: 2 });
});

test("errors say what to do", async () => {
  const claim = claimOf();
  const missing = dynamodbStore(document, { table: "no-such-table", clockSkew: 0 });
  await expect(missing.begin(claim)).rejects.toMatchObject({
    code: "store-unusable",
    message: expect.stringContaining("dynamodbTable()"),
  });
  const unreachable = DynamoDBDocument.from(clientOf(1));
  const down = dynamodbStore(unreachable, { table: "semel", clockSkew: 0 });
  await expect(down.begin(claim)).rejects.toMatchObject({ code: "store-unavailable" });
  expect(() => dynamodbStore(document, { table: "semel" } as never)).toThrow(
    "`clockSkew` must say",
  );
  expect(() => dynamodbStore(document, { table: "a b", clockSkew: 0 })).toThrow("`table`");
});
