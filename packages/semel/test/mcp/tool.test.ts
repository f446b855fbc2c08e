// What a tool's handler and its options do, in one process, with the SDK's own client and server.

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { InMemoryTransport } from "@modelcontextprotocol/sdk/inMemory.js";
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import type { CallToolResult } from "@modelcontextprotocol/sdk/types.js";
import { afterEach, describe, expect, test } from "vitest";
import { z } from "zod";
import { z as z3 } from "zod/v3";
import { type Idempotency, InvalidOption, NotApplied } from "../../src/index.ts";
import {
  ERROR_META,
  idempotentTool,
  KEY_DESCRIPTION,
  KEY_META,
  keyArgument,
  REPLAYED_META,
  type ToolOptions,
  toolScope,
} from "../../src/mcp/index.ts";
import { deferred, type Fixture, fixture } from "../engine/fixture.ts";

type Result = Pick<CallToolResult, "content" | "isError" | "structuredContent" | "_meta">;
type Handler = (
  args: { amount: number; idempotencyKey?: string | undefined },
  run: number,
) => Result | Promise<Result>;
type Extra = Parameters<Parameters<typeof idempotentTool>[2]>[1] & {
  authInfo?: { clientId: string } | undefined;
};
type Options = Partial<ToolOptions<{ amount: number }, Extra, Result>>;

const closing: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0)) await close();
});

async function connected(server: McpServer): Promise<Client> {
  const client = new Client({ name: "agent", version: "1.0.0" });
  const [ours, theirs] = InMemoryTransport.createLinkedPair();
  await Promise.all([server.connect(theirs), client.connect(ours)]);
  closing.push(() => client.close());
  return client;
}

const paid = (amount: number): Result => ({ content: [{ type: "text", text: `paid ${amount}` }] });

/** A server with one tool, and how often its handler ran. */
async function bank(
  options: Options = {},
  handle: Handler = ({ amount }) => paid(amount),
  idempotency: Idempotency = fixture().idempotency,
) {
  let runs = 0;
  const server = new McpServer({ name: "bank", version: "1.0.0" });
  const inputSchema = { amount: z.number(), idempotencyKey: keyArgument(z.string()).nullish() };
  server.registerTool(
    "pay",
    { inputSchema },
    idempotentTool(
      idempotency,
      { tool: "pay", scope: "shared", ...options } as ToolOptions<
        { amount: number; idempotencyKey?: string | null | undefined },
        Extra,
        Result
      >,
      (args, _extra, operation) => {
        expect(operation === undefined).toBe(options.required === false && !args.idempotencyKey);
        return handle(args as Parameters<Handler>[0], ++runs);
      },
    ),
  );
  const client = await connected(server);
  const call = async (args: object, _meta?: Record<string, unknown>) =>
    (await client.callTool({
      name: "pay",
      arguments: { ...args },
      ...(_meta && { _meta }),
    })) as Result;
  return { call, client, runs: () => runs };
}

const text = ({ content }: Result) => (content[0] as { text: string }).text;
const code = ({ structuredContent }: Result) => structuredContent?.["code"];
const K = { amount: 1, idempotencyKey: "k1" };

describe("a result with `isError`", () => {
  const failing: Handler = (_, run) => ({
    ...paid(run),
    isError: run === 1,
    structuredContent: { run },
  });

  test("by default releases: the agent gets it, and a repetition runs again (SM-24)", async () => {
    const { call, runs } = await bank({}, failing);
    expect(await call(K)).toMatchObject({ isError: true, structuredContent: { run: 1 } });
    expect(await call(K)).toMatchObject({ isError: false, structuredContent: { run: 2 } });
    expect(await call(K)).toMatchObject({ structuredContent: { run: 2 } });
    expect(runs()).toBe(2);
  });

  test('under `onError: "hold"` the agent gets it, and repetitions are refused', async () => {
    const { call, runs } = await bank({ onError: "hold" }, failing);
    expect(await call(K)).toMatchObject({ isError: true, structuredContent: { run: 1 } });
    expect(code(await call(K))).toBe("outcome-unknown");
    expect(runs()).toBe(1);
  });

  test('under `onError: "store"` it is the result of every repetition', async () => {
    const { call, runs } = await bank({ onError: "store" }, failing);
    const first = await call(K);
    expect(first).toMatchObject({ isError: true, structuredContent: { run: 1 } });
    expect(await call(K)).toEqual({ ...first, _meta: { [REPLAYED_META]: true } });
    expect(runs()).toBe(1);
  });

  test('under `onError: "store"` what its steps did is undone', async () => {
    const done: string[] = [];
    const server = new McpServer({ name: "bank", version: "1.0.0" });
    server.registerTool(
      "pay",
      { inputSchema: { idempotencyKey: keyArgument(z.string()) } },
      idempotentTool(
        fixture().idempotency,
        { tool: "pay", scope: "shared", onError: "store" },
        async (_args, _extra, operation) => {
          const undo = async () => void done.push("undone");
          await operation!.step("reserve", async () => void done.push("reserved"), { undo });
          return { content: [{ type: "text" as const, text: "no money" }], isError: true };
        },
      ),
    );
    const client = await connected(server);
    for (let i = 0; i < 2; i++) {
      const result = await client.callTool({ name: "pay", arguments: { idempotencyKey: "k1" } });
      expect(result).toMatchObject({ isError: true, content: [{ text: "no money" }] });
    }
    expect(done).toEqual(["reserved", "undone"]);
  });
});

describe("a handler that throws", () => {
  test("its error is the agent's to read, as without Semel, and the key may run again", async () => {
    const { call, runs } = await bank({}, ({ amount }, run) => {
      if (run === 1) throw new Error("the line was busy");
      return paid(amount);
    });
    expect(await call(K)).toMatchObject({
      isError: true,
      content: [{ text: "the line was busy" }],
    });
    expect(text(await call(K))).toBe("paid 1");
    expect(runs()).toBe(2);
  });

  test("`NotApplied` says that the same key may be used, whatever `onError`", async () => {
    const { call } = await bank({ onError: "hold" }, ({ amount }, run) => {
      if (run === 1) throw new NotApplied(new Error("the card was declined"));
      return paid(amount);
    });
    const refused = await call(K);
    expect(refused.structuredContent).toMatchObject({ code: "not-applied", retry: "same-key" });
    expect(text(refused)).toContain("the card was declined");
    expect(text(await call(K))).toBe("paid 1");
  });

  test('under `onError: "store"` repetitions get the failure', async () => {
    const { call, runs } = await bank({ onError: "store" }, () => {
      throw new Error("no such account");
    });
    expect(text(await call(K))).toBe("no such account");
    const second = await call(K);
    expect(code(second)).toBe("operation-failed");
    expect(text(second)).toContain("no such account");
    expect(runs()).toBe(1);
  });
});

describe("what a handler lets through of a call of its own is not said of the tool's call", () => {
  test("a nested operation that was refused: the effect before it is not denied", async () => {
    const { idempotency } = fixture();
    await idempotency.run({ key: "nested", payload: "first" }, () => 1);
    const { call, runs } = await bank(
      { onError: "hold" },
      async () => {
        await idempotency.run({ key: "nested", payload: "another" }, () => 2);
        return paid(1);
      },
      idempotency,
    );
    const failed = await call(K);
    expect(failed).toMatchObject({
      isError: true,
      structuredContent: { code: "operation-failed", retry: "same-key" },
    });
    expect(text(failed)).toContain("failed (key-reused), so part of it may be done");
    expect(text(failed)).toContain("Do not use a new key");
    expect(code(await call(K))).toBe("outcome-unknown");
    expect(runs()).toBe(1);
  });

  test.each([true, false])(
    "a step that could not be saved: what it did is not denied, waited for: %s",
    async (isWaitedFor) => {
      const fixed = fixture();
      fixed.plan.push({ method: "append", effect: "fail-before" });
      const effects: string[] = [];
      const tool = idempotentTool(
        fixed.idempotency,
        { tool: "pay", scope: "shared" },
        async (_args: { idempotencyKey: string }, _extra: Extra, operation) => {
          const charged = operation!.step("charge", async () => void effects.push("charged"));
          if (isWaitedFor) await charged;
          return paid(1);
        },
      );
      const extra = { signal: new AbortController().signal };
      const failing = tool({ idempotencyKey: "k1" }, extra);
      await fixed.clock.advance(10_000);
      const failed = (await failing) as Result;
      expect(failed.structuredContent).toMatchObject({
        code: "operation-failed",
        retry: "same-key",
      });
      expect(text(failed)).toContain("failed (store-unavailable), so part of it may be done");
      expect(effects).toEqual(["charged"]);
    },
  );
});

describe("refusals are tool errors with words for agents", () => {
  test("a store that is away: nothing ran, nothing of it is told, and the same key serves later", async () => {
    const fixed = fixture({ storeTimeout: 1 });
    const { call, runs } = await bank({}, undefined, fixed.idempotency);
    const error = new Error("ECONNREFUSED postgres://admin:secret@db");
    fixed.plan.push({ method: "begin", effect: "fail-before", error });
    const refused = await call(K);
    expect(refused).toMatchObject({
      isError: true,
      structuredContent: { code: "store-unavailable", retry: "same-key", retryAfterMs: 1_000 },
    });
    expect(text(refused)).toContain("nothing was done");
    expect(JSON.stringify(refused)).not.toMatch(/secret|ECONN/);
    expect(runs()).toBe(0);
    fixed.plan.length = 0;
    expect(text(await call(K))).toBe("paid 1");
    expect(runs()).toBe(1);
  });

  test("arguments that nothing can be compared with are refused, and nothing runs", async () => {
    const tool = idempotentTool(
      fixture().idempotency,
      { tool: "pay", scope: "shared", derive: "session-and-arguments" },
      () => paid(1),
    );
    const extra = { signal: new AbortController().signal };
    for (const args of [{ to: "\ud800" }, { idempotencyKey: "k", to: "\ud800" }]) {
      const refused = (await tool(args, extra)) as Result;
      expect(refused.structuredContent).toMatchObject({ code: "payload-invalid", retry: "never" });
      expect(text(refused)).toContain("Do not repeat the call");
    }
  });

  test("while the first call runs: the same key, later", async () => {
    const gate = deferred();
    const { call, runs } = await bank({}, async ({ amount }) => {
      await gate.promise;
      return paid(amount);
    });
    const first = call(K);
    const busy = await call(K);
    expect(busy).toMatchObject({
      isError: true,
      structuredContent: { code: "operation-in-progress", retry: "same-key", retryAfterMs: 1_000 },
    });
    expect(text(busy)).toContain("Do not use a new key");
    expect(busy._meta).toEqual({ [ERROR_META]: busy.structuredContent });
    gate.resolve();
    expect(text(await first)).toBe("paid 1");
    expect(runs()).toBe(1);
  });

  test("`wait` waits for the first call's result instead", async () => {
    const gate = deferred();
    const { call, runs } = await bank({ wait: "10s" }, async ({ amount }) => {
      await gate.promise;
      return paid(amount);
    });
    const [first, second] = [call(K), call(K)];
    gate.resolve();
    expect([text(await first), text(await second)]).toEqual(["paid 1", "paid 1"]);
    expect(runs()).toBe(1);
  });

  test("a void operation needs a new key", async () => {
    const { idempotency } = fixture();
    await idempotency.void({ key: "k1", scope: toolScope("pay") });
    const { call, runs } = await bank({}, undefined, idempotency);
    expect((await call(K)).structuredContent).toMatchObject({
      code: "operation-void",
      retry: "new-key",
    });
    expect(runs()).toBe(0);
  });

  test("a result too large to keep is not computed again, and the agent is told that it is done", async () => {
    const { idempotency } = fixture({ maxResultBytes: 10 });
    const { call, runs } = await bank({}, undefined, idempotency);
    expect(text(await call(K))).toBe("paid 1");
    const second = await call(K);
    expect(code(second)).toBe("result-not-stored");
    expect(text(second)).toContain("it is done");
    expect(runs()).toBe(1);
  });

  test("a result that cannot be stored is held", async () => {
    const strange = { content: [], structuredContent: { f: () => 1 } };
    const { call, runs } = await bank({}, () => strange);
    expect(code(await call(K))).toBe("not-serializable");
    expect(code(await call(K))).toBe("outcome-unknown");
    expect(runs()).toBe(1);
  });

  test("what the store says stays here; nothing ran", async () => {
    const fixed: Fixture = fixture();
    const { call, runs } = await bank({}, undefined, fixed.idempotency);
    await fixed.idempotency.close();
    const refused = await call(K);
    expect(refused.structuredContent).toMatchObject({ code: "closed", retry: "same-key" });
    expect(text(refused)).toContain("nothing was done");
    expect(runs()).toBe(0);
  });

  test("a held operation that somebody resolves is the result from then on", async () => {
    const { idempotency } = fixture();
    const { call } = await bank(
      { onError: "hold" },
      () => {
        throw new Error("the connection was lost after the effect");
      },
      idempotency,
    );
    await call(K);
    expect(code(await call(K))).toBe("outcome-unknown");
    const name = { key: "k1", scope: toolScope("pay") };
    await idempotency.resolve(name, { outcome: "applied", value: paid(1) });
    expect(text(await call(K))).toBe("paid 1");
  });

  test("with an output schema, `structuredErrors: false` keeps the client from refusing the refusal", async () => {
    const open = async (structuredErrors: boolean) => {
      const server = new McpServer({ name: "bank", version: "1.0.0" });
      server.registerTool(
        "pay",
        {
          inputSchema: { idempotencyKey: keyArgument(z.string()).optional() },
          outputSchema: { receipt: z.string() },
        },
        idempotentTool(
          fixture().idempotency,
          { tool: "pay", scope: "shared", structuredErrors },
          () => ({ content: [], structuredContent: { receipt: "r-1" } }),
        ),
      );
      const client = await connected(server);
      await client.listTools();
      return client.callTool({ name: "pay", arguments: {} });
    };
    await expect(open(true)).rejects.toThrow("does not match the tool's output schema");
    const refused = await open(false);
    expect(refused.structuredContent).toBeUndefined();
    expect(refused._meta).toMatchObject({ [ERROR_META]: { code: "key-missing" } });
  });
});

describe("whose call it is, and which", () => {
  test("two callers with one key are two operations; an unknown one runs nothing", async () => {
    let account: string | undefined = "acct_1";
    const { call, runs } = await bank({ scope: async () => account });
    await call(K);
    account = "acct_2";
    await call({ ...K, amount: 2 });
    account = undefined;
    expect(code(await call(K))).toBe("scope-missing");
    expect(runs()).toBe(2);
  });

  test("two tools with one key are two operations", async () => {
    const { idempotency } = fixture();
    const one = await bank({ tool: "pay" }, undefined, idempotency);
    const two = await bank({ tool: "refund" }, undefined, idempotency);
    await one.call(K);
    await two.call(K);
    expect([one.runs(), two.runs()]).toEqual([1, 1]);
    expect(await idempotency.get({ key: "k1", scope: "refund" })).toBeDefined();
  });

  test("a function may name the key, and then every argument counts", async () => {
    const { call, runs } = await bank({ key: ({ amount }) => `payment-${amount}` });
    await call({ amount: 1 });
    await call({ amount: 1 });
    expect(code(await call({ amount: 1, idempotencyKey: "other" }))).toBe("key-reused");
    await call({ amount: 2 });
    expect(runs()).toBe(2);
  });

  test("arguments that `fingerprint` leaves out may differ", async () => {
    const { call, runs } = await bank({ fingerprint: { exclude: ["/amount"] } });
    await call(K);
    expect(text(await call({ ...K, amount: 2 }))).toBe("paid 1");
    expect(runs()).toBe(1);
  });

  test("the argument wins over `_meta`, and `null` is none", async () => {
    const { idempotency } = fixture();
    const { call } = await bank({}, undefined, idempotency);
    await call(K, { [KEY_META]: "m1" });
    await call({ amount: 1, idempotencyKey: null }, { [KEY_META]: "m2" });
    const { records } = await idempotency.list();
    expect(records.map(({ key }) => key).sort()).toEqual(["k1", "m2"]);
  });

  test("what is no key is refused with the reason", async () => {
    const { call, runs } = await bank();
    const refused = await call({ amount: 1 }, { [KEY_META]: 7 });
    expect(refused.structuredContent).toMatchObject({ code: "key-invalid", retry: "new-key" });
    expect(text(refused)).toContain("must be a string, got number");
    expect(text(await call({ amount: 1 }, { [KEY_META]: "ключ" }))).toContain("printable ASCII");
    expect(code(await call({ amount: 1 }, { [KEY_META]: "" }))).toBe("key-invalid");
    expect(code(await call({ amount: 1 }, { [KEY_META]: "x".repeat(256) }))).toBe("key-invalid");
    // The schema of the argument refuses these before the tool is asked.
    for (const idempotencyKey of ["", "x".repeat(256), 7]) {
      const invalid = await call({ amount: 1, idempotencyKey });
      expect([invalid.isError, text(invalid)]).toEqual([
        true,
        expect.stringMatching(/validation/i),
      ]);
    }
    expect(runs()).toBe(0);
  });

  test("`required: false` runs a call without a key, unprotected", async () => {
    const { call, runs } = await bank({ required: false });
    await call({ amount: 1 });
    await call({ amount: 1 });
    expect(runs()).toBe(2);
    await call(K);
    await call(K);
    expect(runs()).toBe(3);
  });

  test("a key that is left out and one that is `null` derive the same", async () => {
    const { call, runs } = await bank({ derive: "session-and-arguments" });
    await call({ amount: 1 });
    await call({ amount: 1, idempotencyKey: null });
    expect(runs()).toBe(1);
  });

  test("a derived key is remembered for as long as `retention`", async () => {
    const { idempotency, clock } = fixture({ cache: false });
    const { call, runs } = await bank(
      { derive: "session-and-arguments", retention: "1m" },
      undefined,
      idempotency,
    );
    await call({ amount: 1 });
    await call({ amount: 1 });
    expect(runs()).toBe(1);
    await clock.advance(61_000);
    await call({ amount: 1 });
    expect(runs()).toBe(2);
  });
});

test.each([
  [{ tool: "" }, "`tool` must be"],
  [{ tool: "pay now" }, "`tool` must be"],
  [{ scope: undefined }, "`scope` must be given"],
  [{ scope: "acct_1" }, "`scope` must be given"],
  [{ key: "" }, "`key` must be"],
  [{ derive: "arguments" }, "`derive` must be"],
  [{ required: "yes" }, "`required` must be"],
  [{ keys: "k" }, "did you mean `key`"],
  [{ retention: "soon" }, "`retention` must be"],
  [{ onError: "ignore" }, "`onError` must be"],
  [{ fingerprint: { include: "amount" } }, "`fingerprint.include` must be"],
])("%o is refused when the tool is made", (wrong, message) => {
  const options = { tool: "pay", scope: "shared", ...wrong } as ToolOptions<object, Extra, Result>;
  const make = () => idempotentTool(fixture().idempotency, options, () => paid(1));
  expect(make).toThrow(InvalidOption);
  expect(make).toThrow(message);
});

test("a tool without an input schema is told what to do", async () => {
  const server = new McpServer({ name: "bank", version: "1.0.0" });
  const tool = idempotentTool(fixture().idempotency, { tool: "pay", scope: "shared" }, () =>
    paid(1),
  );
  server.registerTool("pay", {}, tool as unknown as () => CallToolResult);
  const client = await connected(server);
  const result = (await client.callTool({ name: "pay" })) as Result;
  expect(result.isError).toBe(true);
  expect(text(result)).toContain("`{}` suffices");
});

test("the key's argument is in the schema that agents read, for zod 4 and 3", async () => {
  for (const inputSchema of [
    { idempotencyKey: keyArgument(z.string()) },
    { idempotencyKey: keyArgument(z3.string()) },
  ]) {
    const server = new McpServer({ name: "bank", version: "1.0.0" });
    server.registerTool("pay", { inputSchema }, () => paid(1));
    const client = await connected(server);
    const { tools } = await client.listTools();
    expect(tools[0]!.inputSchema).toMatchObject({
      required: ["idempotencyKey"],
      properties: {
        idempotencyKey: {
          type: "string",
          minLength: 1,
          maxLength: 255,
          description: KEY_DESCRIPTION,
        },
      },
    });
  }
});

test("the types of arguments and `extra` are inferred from the SDK's", () => {
  const server = new McpServer({ name: "bank", version: "1.0.0" });
  server.registerTool(
    "pay",
    {
      inputSchema: {
        amount: z.number(),
        to: z.enum(["a", "b"]),
        idempotencyKey: keyArgument(z.string()),
      },
    },
    idempotentTool(
      fixture().idempotency,
      { tool: "pay", scope: (extra) => extra.authInfo?.clientId, key: (args) => args.to },
      async ({ amount, to }, extra) => {
        const total: number = amount;
        const account: "a" | "b" = to;
        await extra.sendNotification({ method: "notifications/tools/list_changed" });
        return { content: [{ type: "text", text: `${total} to ${account}` }] };
      },
    ),
  );
  expect(server.isConnected()).toBe(false);
});
