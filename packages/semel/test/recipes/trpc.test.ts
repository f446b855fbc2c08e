// The tRPC recipe on tRPC 11 itself, over real sockets: its standalone adapter and its fetch adapter.

import { once } from "node:events";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { getRequestListener } from "@hono/node-server";
import { initTRPC, TRPCError } from "@trpc/server";
import { fetchRequestHandler } from "@trpc/server/adapters/fetch";
import { createHTTPHandler } from "@trpc/server/adapters/standalone";
import {
  Idempotency,
  NotApplied,
  type Operation,
  type OperationOptions,
  StoreUnavailable,
} from "semel";
import { memoryStore } from "semel/memory";
import { faultyStore } from "semel/testing";
import { afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { deferred } from "../engine/fixture.ts";
import { answerOf, RECIPES } from "./recipe-process.ts";

interface Context {
  account: string | undefined;
  idempotencyKey: string | undefined;
  callsInRequest: number;
}
/** As the recipe's JSDoc has it, so that it is checked against tRPC's own types here. */
type Middleware = <Result>(call: {
  ctx: Context;
  type: string;
  path: string;
  getRawInput(): Promise<unknown>;
  next(changes?: { ctx: { operation: Operation | undefined } }): Promise<Result>;
}) => Promise<Result>;
interface Recipe {
  idempotentProcedure(
    idempotency: Idempotency,
    options: OperationOptions & { scope(ctx: Context): string | undefined },
  ): Middleware;
  idempotencyContext(
    header: string | string[] | null | undefined,
    info: { calls: readonly unknown[] } | undefined,
  ): Pick<Context, "idempotencyKey" | "callsInRequest">;
  formatIdempotencyError<Failure>(failure: Failure): never;
}

let recipe: Recipe;
let server: Server;
let idempotency: Idempotency;
let address: string;
/** What the procedures did, as `path` of each. */
let effects: string[];
/** What the procedure `pay` waits for, and what it throws. */
let gate: Promise<void>;
let failure: unknown;

beforeAll(async () => {
  recipe = await import(join(RECIPES, "trpc/idempotent-procedure.mjs"));
});

function routerOf(options: OperationOptions) {
  const t = initTRPC
    .context<Context>()
    .create({ errorFormatter: (problem) => recipe.formatIdempotencyError(problem) });
  const once = recipe.idempotentProcedure(idempotency, {
    ...options,
    scope: (ctx) => ctx.account,
  });
  const order = (value: unknown) => {
    const { amount } = value as { amount?: unknown };
    if (typeof amount === "number") return { amount };
    throw new TypeError("`amount` must be a number");
  };
  return t.router({
    pay: t.procedure
      .input(order)
      .use(once)
      .mutation(async ({ input }) => {
        effects.push("pay");
        await gate;
        if (failure !== undefined) throw failure;
        return { receipt: effects.length, ...input };
      }),
    refund: t.procedure.use(once).mutation(() => void effects.push("refund")),
    checked: t.procedure
      .use(once)
      .output((value: unknown) => ({ shown: (value as { shown: number }).shown }))
      .mutation(() => ({ shown: effects.push("checked"), secret: "s" })),
    stream: t.procedure.use(once).mutation(async function* () {
      effects.push("stream");
      yield 1;
    }),
    balance: t.procedure.use(once).query(() => effects.length),
  });
}

type Adapter = "standalone" | "fetch";

async function serve(options: OperationOptions = {}, adapter: Adapter = "standalone") {
  const router = routerOf(options);
  const contextOf = (
    account: string | null | undefined,
    header: string | string[] | undefined | null,
    info: { calls: readonly unknown[] },
  ): Context => ({
    account: account ?? undefined,
    ...recipe.idempotencyContext(header, info),
  });
  const listener =
    adapter === "standalone"
      ? createHTTPHandler({
          router,
          createContext: ({ req, info }) =>
            contextOf(req.headers["x-account"] as string, req.headers["idempotency-key"], info),
        })
      : getRequestListener(
          (req) =>
            fetchRequestHandler({
              endpoint: "",
              req,
              router,
              createContext: ({ info }) =>
                contextOf(req.headers.get("x-account"), req.headers.get("idempotency-key"), info),
            }),
          { overrideGlobalObjects: false },
        );
  server = createServer(listener);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  address = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

beforeEach(() => {
  idempotency = new Idempotency({ store: memoryStore(), sweep: false });
  effects = [];
  gate = Promise.resolve();
  failure = undefined;
});

afterEach(async () => {
  server.closeAllConnections();
  server.close();
  await once(server, "close");
  await idempotency.close();
});

interface Call {
  key?: string;
  account?: string | null;
  signal?: AbortSignal;
}

function send(path: string, input: unknown, { key, account = "alice", signal }: Call = {}) {
  const headers = new Headers({ "content-type": "application/json" });
  if (account !== null) headers.set("x-account", account);
  if (key !== undefined) headers.set("idempotency-key", key);
  const request = { method: "POST", headers, body: JSON.stringify(input), signal: signal ?? null };
  return fetch(`${address}/${path}`, request);
}

const call = async (path: string, input: unknown, how?: Call) =>
  answerOf(await send(path, input, how));

describe.each<Adapter>(["standalone", "fetch"])("on tRPC's %s adapter", (adapter) => {
  beforeEach(() => serve({}, adapter));

  test("a mutation runs once for its key, from the header or from the input", async () => {
    const byHeader = await call("pay", { amount: 1 }, { key: "k" });
    expect(byHeader).toMatchObject({ status: 200, value: { receipt: 1, amount: 1 } });
    expect(await call("pay", { amount: 1 }, { key: '"k"' })).toEqual(byHeader);
    const input = { amount: 1, idempotencyKey: "own" };
    const byInput = await call("pay", input);
    expect(byInput).toMatchObject({ status: 200, value: { receipt: 2 } });
    expect(await call("pay", input, { key: "another-header" })).toEqual(byInput);
    expect(effects).toEqual(["pay", "pay"]);
  });

  test("a batch has a key for each call, in its input", async () => {
    const batch = {
      0: { amount: 1, idempotencyKey: "a" },
      1: { idempotencyKey: "b" },
      2: { amount: 1, idempotencyKey: "a" },
    };
    const first = await send("pay,refund,pay?batch=1", batch);
    const answers = (await first.json()) as { result: { data?: unknown } }[];
    // The third is the duplicate of the first, in the same request.
    expect(answers.slice(0, 2)).toMatchObject([
      { result: { data: { amount: 1 } } },
      { result: {} },
    ]);
    expect(effects.toSorted()).toEqual(["pay", "refund"]);
    // A retry may be batched with other calls than before.
    const retry = await send("refund,pay?batch=1", { 0: batch[1], 1: batch[0] });
    expect(await retry.json()).toEqual([answers[1], answers[0]]);
    expect(effects.toSorted()).toEqual(["pay", "refund"]);
  });

  test("a batch of several calls is refused the key in the header, a batch of one is not", async () => {
    const several = await send(
      "pay,pay?batch=1",
      { 0: { amount: 1 }, 1: { amount: 2 } },
      { key: "k" },
    );
    expect(await several.json()).toMatchObject(
      [0, 1].map(() => ({
        error: {
          message: expect.stringContaining("`idempotencyKey` in the input of each"),
          data: { code: "BAD_REQUEST", idempotency: { code: "key-invalid", retry: "new-key" } },
        },
      })),
    );
    expect(effects).toEqual([]);
    const one = await send("pay?batch=1", { 0: { amount: 1 } }, { key: "k" });
    expect(await one.json()).toMatchObject([{ result: { data: { receipt: 1 } } }]);
  });
});

describe("refusals have tRPC's code, and Semel's with its advice", () => {
  beforeEach(() => serve());

  async function refused(path: string, input: unknown, how?: Call) {
    const response = await send(path, input, how);
    const { error } = (await response.json()) as {
      error: { message: string; data: { code: string; idempotency: object } };
    };
    return { status: response.status, message: error.message, ...error.data };
  }

  test("another input, and another procedure, under one key: UNPROCESSABLE_CONTENT", async () => {
    const input = { amount: 1, idempotencyKey: "k" };
    await call("pay", input);
    const reused = {
      status: 422,
      code: "UNPROCESSABLE_CONTENT",
      idempotency: { code: "key-reused", retry: "new-key" },
    };
    expect(await refused("pay", { ...input, amount: 2 })).toMatchObject(reused);
    expect(await refused("refund", input)).toMatchObject(reused);
    expect(effects).toEqual(["pay"]);
  });

  test("no key: BAD_REQUEST; nobody: UNAUTHORIZED; and nothing runs", async () => {
    expect(await refused("pay", { amount: 1 })).toMatchObject({
      status: 400,
      code: "BAD_REQUEST",
      idempotency: { code: "key-missing" },
    });
    expect(await refused("pay", { amount: 1 }, { key: "k", account: null })).toMatchObject({
      status: 401,
      code: "UNAUTHORIZED",
      idempotency: { code: "scope-missing" },
    });
    for (const idempotencyKey of ["", "k".repeat(256), 7, null]) {
      expect(await refused("pay", { amount: 1, idempotencyKey })).toMatchObject({
        status: 400,
        idempotency: { code: "key-invalid" },
      });
    }
    expect(effects).toEqual([]);
  });

  test("while the first attempt runs: CONFLICT, and it is not disturbed", async () => {
    const opened = deferred();
    gate = opened.promise;
    const first = call("pay", { amount: 1 }, { key: "k" });
    await expect.poll(() => effects).toEqual(["pay"]);
    expect(await refused("pay", { amount: 1 }, { key: "k" })).toMatchObject({
      status: 409,
      code: "CONFLICT",
      idempotency: { code: "operation-in-progress", retry: "same-key" },
    });
    opened.resolve();
    expect(await call("pay", { amount: 1 }, { key: "k" })).toEqual(await first);
    expect(effects).toEqual(["pay"]);
  });

  test("void: CONFLICT, with a new key", async () => {
    await idempotency.void({ key: "k", scope: "alice" });
    expect(await refused("pay", { amount: 1 }, { key: "k" })).toMatchObject({
      code: "CONFLICT",
      idempotency: { code: "operation-void", retry: "new-key" },
    });
  });

  test("closing: SERVICE_UNAVAILABLE", async () => {
    await idempotency.close();
    expect(await refused("pay", { amount: 1 }, { key: "k" })).toMatchObject({
      status: 503,
      code: "SERVICE_UNAVAILABLE",
      idempotency: { code: "closed", retry: "same-key" },
    });
  });
});

test("a late request: PRECONDITION_FAILED", async () => {
  await serve({ refuseLate: true });
  // A UUIDv7 of the year 2020.
  const key = "016f5e66-e800-7000-8000-000000000000";
  expect(await call("pay", { amount: 1 }, { key })).toMatchObject({
    status: 412,
    code: "key-expired",
  });
  expect(effects).toEqual([]);
});

test("SM-22: when the store cannot be asked nothing runs, and its own words stay inside", async () => {
  const error = new StoreUnavailable("password of db.internal is wrong");
  const store = faultyStore(memoryStore(), [{ method: "begin", effect: "fail-before", error }]);
  idempotency = new Idempotency({ store, sweep: false, storeTimeout: "50ms" });
  await serve();
  const response = await send("pay", { amount: 1 }, { key: "k" });
  expect(response.status).toBe(503);
  const body = (await response.json()) as { error: { message: string } };
  expect(body.error.message).toBe("Keys cannot be looked up at the moment; nothing ran");
  expect(effects).toEqual([]);
});

describe("SM-24: what a procedure throws follows `onError`", () => {
  const balance = new TRPCError({ code: "FORBIDDEN", message: "no balance" });

  test("release: its error, and the key runs again", async () => {
    await serve({ onError: "release" });
    failure = balance;
    expect(await call("pay", { amount: 1 }, { key: "k" })).toMatchObject({
      status: 403,
      value: { error: { message: "no balance", data: { code: "FORBIDDEN" } } },
    });
    failure = undefined;
    expect(await call("pay", { amount: 1 }, { key: "k" })).toMatchObject({ status: 200 });
    expect(effects).toEqual(["pay", "pay"]);
  });

  test("hold: its error, then CONFLICT without its words", async () => {
    await serve({ onError: "hold" });
    failure = new Error("the password is swordfish");
    expect(await call("pay", { amount: 1 }, { key: "k" })).toMatchObject({ status: 500 });
    failure = undefined;
    const again = await call("pay", { amount: 1 }, { key: "k" });
    expect(again).toMatchObject({ status: 409, code: "outcome-unknown", retry: "never" });
    expect((again.value as { error: { message: string } }).error.message).not.toContain(
      "swordfish",
    );
    expect(effects).toEqual(["pay"]);
  });

  test("store: its error, and every duplicate learns that it failed", async () => {
    await serve({ onError: "store" });
    failure = balance;
    expect(await call("pay", { amount: 1 }, { key: "k" })).toMatchObject({ status: 403 });
    failure = undefined;
    const again = await call("pay", { amount: 1 }, { key: "k" });
    expect(again).toMatchObject({ status: 500, code: "operation-failed", retry: "new-key" });
    expect(effects).toEqual(["pay"]);
  });

  test("a cause that proves that nothing was applied releases, whatever `onError` says", async () => {
    await serve({ onError: "hold" });
    failure = new TRPCError({ code: "PAYMENT_REQUIRED", cause: new NotApplied() });
    expect(await call("pay", { amount: 1 }, { key: "k" })).toMatchObject({
      status: 402,
      code: "not-applied",
      retry: "same-key",
    });
    failure = undefined;
    expect(await call("pay", { amount: 1 }, { key: "k" })).toMatchObject({ status: 200 });
  });
});

describe("beside the plain case", () => {
  beforeEach(() => serve({ onError: "hold" }));

  test("an input that validation refuses claims no key", async () => {
    expect(await call("pay", { amount: "1" }, { key: "k" })).toMatchObject({ status: 400 });
    expect(await call("pay", { amount: 1 }, { key: "k" })).toMatchObject({ status: 200 });
  });

  test("a procedure that returns nothing is replayed", async () => {
    const first = await send("refund", {}, { key: "k" });
    const again = await send("refund", {}, { key: "k" });
    expect(await again.text()).toBe(await first.text());
    expect(effects).toEqual(["refund"]);
  });

  test("what is replayed has passed the output's validation", async () => {
    const first = await call("checked", {}, { key: "k" });
    expect(first.value).toEqual({ shown: 1 });
    expect(await call("checked", {}, { key: "k" })).toEqual(first);
    const record = await idempotency.get({ key: "k", scope: "alice" });
    expect(record?.value).toEqual({ shown: 1 });
  });

  test("a stream cannot be stored: the operation is held", async () => {
    expect(await call("stream", {}, { key: "k" })).toMatchObject({
      status: 500,
      code: "not-serializable",
    });
    expect(await call("stream", {}, { key: "k" })).toMatchObject({ code: "outcome-unknown" });
  });

  test("a query needs no key", async () => {
    const response = await fetch(`${address}/balance`);
    expect(await response.json()).toEqual({ result: { data: 0 } });
  });

  test("SM-23: a client that leaves does not cancel its mutation", async () => {
    const opened = deferred();
    gate = opened.promise;
    const leaving = new AbortController();
    const lost = call("pay", { amount: 1 }, { key: "k", signal: leaving.signal });
    await expect.poll(() => effects).toEqual(["pay"]);
    leaving.abort();
    await expect(lost).rejects.toMatchObject({ name: "AbortError" });
    opened.resolve();
    const stateOf = async () => (await idempotency.get({ key: "k", scope: "alice" }))?.state;
    await expect.poll(stateOf).toBe("completed");
    expect(await call("pay", { amount: 1 }, { key: "k" })).toMatchObject({ status: 200 });
    expect(effects).toEqual(["pay"]);
  });
});
