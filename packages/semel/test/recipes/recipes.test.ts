// Every recipe in a process of its own, over real sockets, against a real bank: what a user gets who
// copies it.

import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import type { Server } from "node:http";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import dynalite from "dynalite";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Bank, openBank } from "./bank.ts";
import { type Answer, answerOf, curl, type RecipeProcess, startRecipe } from "./recipe-process.ts";

interface Recipe {
  name: string;
  path: string;
  /** The status of a payment. */
  paid: number;
  /** The status of the attempt whose bank broke off, and of one whose bank was not there. */
  failed: number;
  /** Alice and Bob, as the bank hears of them. */
  accounts: [string, string];
  /** What a retry of a declined payment gets: the stored verdict, or another attempt. */
  declinedAgain: number;
  body(amount: number): object;
}

const ACCOUNTS: [string, string] = ["alice", "bob"];
const HTTP = {
  path: "/invoices/7/payments",
  paid: 201,
  accounts: ACCOUNTS,
  declinedAgain: 402,
  body: (amount: number) => ({ amount }),
};
const RECIPES: Recipe[] = [
  { name: "next", ...HTTP, failed: 500 },
  { name: "sveltekit", ...HTTP, failed: 500 },
  { name: "lambda", ...HTTP, failed: 502, accounts: ["iam:alice", "iam:bob"] },
  {
    name: "trpc",
    path: "/pay",
    paid: 200,
    failed: 500,
    accounts: ACCOUNTS,
    // Its procedure throws, with a proof that nothing was applied.
    declinedAgain: 200,
    body: (amount) => ({ invoice: "7", amount }),
  },
];

let folder: string;
let bank: Bank;
let dynamodb: Server;
let environment: Record<string, string>;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "semel-recipes-"));
  bank = await openBank();
  dynamodb = dynalite({ createTableMs: 0 });
  dynamodb.listen(0, "127.0.0.1");
  await once(dynamodb, "listening");
  const { port } = dynamodb.address() as { port: number };
  environment = { BANK_URL: bank.url, AWS_ENDPOINT_URL_DYNAMODB: `http://127.0.0.1:${port}` };
});

afterAll(async () => {
  await bank.close();
  dynamodb.close();
  rmSync(folder, { recursive: true, force: true });
});

/** A place of its own for the records of one process, or of one and its successor. */
function recordsIn(name: string): Record<string, string> {
  return {
    ...environment,
    SEMEL_DATABASE: join(folder, `${name}.db`),
    SEMEL_TABLE: `semel-${name}`,
  };
}

interface Payment {
  key?: string | undefined;
  amount?: number;
  authorization?: string;
}

function payingAt(address: string, { path, body }: Recipe) {
  return async ({ key, amount = 100, authorization = "Bearer alice-token" }: Payment) => {
    const headers = new Headers({ authorization, "content-type": "application/json" });
    if (key !== undefined) headers.set("idempotency-key", key);
    const request = { method: "POST", headers, body: JSON.stringify(body(amount)) };
    return answerOf(await fetch(`${address}${path}`, request));
  };
}

describe.each(RECIPES)("the recipe for $name", (recipe) => {
  const { name, paid, failed, accounts, declinedAgain } = recipe;
  let running: RecipeProcess;
  let pay: (payment: Payment) => Promise<Answer>;

  beforeAll(async () => {
    running = await startRecipe(name, recordsIn(name));
    pay = payingAt(running.address, recipe);
  });
  afterAll(() => running.kill("SIGTERM"));

  test("does what its printed curl lines say", async () => {
    const before = bank.charges.length;
    expect(running.curlLines).toHaveLength(3);
    const [first, again, other] = running.curlLines as [string, string, string];
    const receipt = { charge: before + 1, invoice: "7", amount: 1200 };
    expect(await curl(first)).toMatchObject({ status: paid, replayed: false, value: receipt });
    // tRPC gives no headers of a replay's own; that it was one shows in what the bank was asked.
    expect(await curl(again)).toMatchObject({
      status: paid,
      replayed: name !== "trpc",
      value: receipt,
    });
    expect(await curl(other)).toMatchObject({ status: 422, code: "key-reused", retry: "new-key" });
    const [account] = accounts;
    expect(bank.charges.slice(before)).toEqual([{ account, invoice: "7", amount: 1200 }]);
  });

  test("HTTP-1: a quoted and a bare key are one key", async () => {
    const before = bank.charges.length;
    const quoted = await pay({ key: '"two-spellings"' });
    const bare = await pay({ key: "two-spellings" });
    expect(bare.value).toEqual(quoted.value);
    expect(bank.charges).toHaveLength(before + 1);
    expect(await pay({ key: "a, b" })).toMatchObject({ status: 400, code: "key-invalid" });
  });

  test("HTTP-6: a duplicate of what is running is refused, and gets the result later", async () => {
    const before = bank.charges.length;
    bank.hold();
    const first = pay({ key: "busy" });
    await bank.arrived(before + 1);
    expect(await pay({ key: "busy" })).toMatchObject({
      status: 409,
      code: "operation-in-progress",
      retry: "same-key",
    });
    bank.release();
    const { status, value } = await first;
    expect(status).toBe(paid);
    expect(await pay({ key: "busy" })).toMatchObject({ status: paid, value });
    expect(bank.charges).toHaveLength(before + 1);
  });

  test("HTTP-4: two accounts with one key are two operations, and a stranger gets 401", async () => {
    const before = bank.charges.length;
    expect(await pay({ key: "mine" })).toMatchObject({ status: paid });
    expect(await pay({ key: "mine", authorization: "Bearer bob-token" })).toMatchObject({
      status: paid,
      value: { charge: before + 2 },
    });
    expect(await pay({ key: "mine", authorization: "Bearer unknown" })).toMatchObject({
      status: 401,
      code: "scope-missing",
    });
    expect(bank.charges.slice(before).map(({ account }) => account)).toEqual(accounts);
  });

  test("HTTP-3: a request without a key is refused", async () => {
    const before = bank.charges.length;
    expect(await pay({})).toMatchObject({ status: 400, code: "key-missing" });
    expect(bank.charges).toHaveLength(before);
  });

  test("SM-24: when the bank breaks off, nobody knows, and nothing is charged again", async () => {
    const before = bank.charges.length;
    bank.next = "broken";
    expect(await pay({ key: "broken" })).toMatchObject({ status: failed });
    expect(await pay({ key: "broken" })).toMatchObject({
      status: 409,
      code: "outcome-unknown",
      retry: "never",
    });
    expect(bank.charges).toHaveLength(before + 1);
  });

  test("HTTP-12: a declined payment is a verdict that is replayed, where it is no proof of no effect", async () => {
    const before = bank.charges.length;
    bank.next = "declined";
    expect(await pay({ key: "declined" })).toMatchObject({ status: 402 });
    expect(await pay({ key: "declined" })).toMatchObject({ status: declinedAgain });
    expect(bank.charges).toHaveLength(before + (declinedAgain === 402 ? 1 : 2));
  });
});

test.each(RECIPES)(
  "SM-24: a process of $name that is killed while the bank charges leaves the operation held",
  async (recipe) => {
    const before = bank.charges.length;
    // With DynamoDB, whose leases are judged by the clients' clocks, `clockSkew` is added.
    const settings = { ...recordsIn(`${recipe.name}-killed`), SEMEL_LEASE: "1s" };
    const first = await startRecipe(recipe.name, settings);
    bank.hold();
    const lost = payingAt(first.address, recipe)({ key: "crash" }).catch((error: Error) => error);
    await bank.arrived(before + 1);
    await first.kill("SIGKILL");
    expect(await lost).toBeInstanceOf(Error);
    bank.release();
    const second = await startRecipe(recipe.name, settings);
    try {
      const pay = payingAt(second.address, recipe);
      let answer = await pay({ key: "crash" });
      while (answer.code === "operation-in-progress") {
        await delay(50);
        answer = await pay({ key: "crash" });
      }
      expect(answer).toMatchObject({ status: 409, code: "outcome-unknown", retry: "never" });
      expect(bank.charges).toHaveLength(before + 1);
    } finally {
      await second.kill("SIGTERM");
    }
  },
);

test.each(RECIPES)(
  "SM-24: a bank that $name never reached is a proof of no effect, and the key runs again",
  async (recipe) => {
    const closed = createServer().listen(0, "127.0.0.1");
    await once(closed, "listening");
    const { port } = closed.address() as { port: number };
    closed.close();
    await once(closed, "close");
    const settings = recordsIn(`${recipe.name}-unreached`);
    const nowhere = { ...settings, BANK_URL: `http://127.0.0.1:${port}` };
    const without = await startRecipe(recipe.name, nowhere);
    const failed = await payingAt(without.address, recipe)({ key: "unreached" });
    await without.kill("SIGTERM");
    expect(failed.status).toBe(recipe.failed);
    const served = await startRecipe(recipe.name, settings);
    const answer = await payingAt(served.address, recipe)({ key: "unreached" });
    await served.kill("SIGTERM");
    expect(answer.status).toBe(recipe.paid);
  },
);
