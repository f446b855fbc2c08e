// MSG-4 with real clients, real servers and `kill -9`, on stdio and over Streamable HTTP.

import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { KEY_META, REPLAYED_META } from "../../src/mcp/index.ts";
import { type Call, call, callUntilKnown, codeOf, Stage } from "./servers.ts";

let stage: Stage;
beforeEach(() => {
  stage = new Stage();
});
afterEach(() => stage.close());

const charge = (amount: number, idempotencyKey: string, name = "charge"): Call => ({
  name,
  arguments: { amount, idempotencyKey },
});

/** Begins a call whose answer never comes, and waits until it has had its effect. */
async function begun(caller: Awaited<ReturnType<Stage["connect"]>>, params: Call): Promise<void> {
  const lost = call(caller, params);
  lost.catch(() => {});
  await stage.untilEffects(1);
}

describe.each(["stdio", "http"] as const)("%s", (transport) => {
  test("a repeated call gets the first result, whole, and has no second effect", async () => {
    const caller = await stage.connect(transport);
    const first = await call(caller, charge(100, "k1"));
    const second = await call(caller, charge(100, "k1"));
    expect(first.content).toHaveLength(2);
    expect(first._meta).toBeUndefined();
    expect(second).toEqual({ ...first, _meta: { [REPLAYED_META]: true } });
    expect(stage.effects()).toEqual(["100 k1"]);
  });

  test("a client that times out and repeats its call gets the first result", async () => {
    const caller = await stage.connect(transport);
    stage.closeGate();
    const lost = await call(caller, charge(100, "k1"), { timeout: 500 }).catch((error) => error);
    expect(String(lost)).toContain("timed out");
    stage.openGate();
    const result = await callUntilKnown(caller, charge(100, "k1"));
    expect(result.structuredContent).toEqual({ amount: 100, key: "k1" });
    expect(stage.effects()).toEqual(["100 k1"]);
  });

  test("a client that cancels does not cancel an attempt that has begun (SM-23)", async () => {
    const caller = await stage.connect(transport);
    stage.closeGate();
    const controller = new AbortController();
    const cancelled = call(caller, charge(100, "k1"), { signal: controller.signal });
    const outcome = cancelled.catch((error) => error);
    await stage.untilEffects(1);
    controller.abort("the user pressed escape");
    expect(await outcome).toBeInstanceOf(Error);
    expect(codeOf(await call(caller, charge(100, "k1")))).toBe("operation-in-progress");
    stage.openGate();
    const result = await callUntilKnown(caller, charge(100, "k1"));
    expect(result.structuredContent).toEqual({ amount: 100, key: "k1" });
    expect(stage.effects()).toEqual(["100 k1"]);
  });

  test("killed after the effect and before the answer: held, and the agent is told so", async () => {
    const dying = await stage.connect(transport);
    stage.closeGate();
    await begun(dying, charge(100, "k1"));
    dying.kill();
    stage.openGate();
    const caller = await stage.connect(transport);
    const result = await callUntilKnown(caller, charge(100, "k1"));
    expect(result.structuredContent).toMatchObject({ code: "outcome-unknown", retry: "never" });
    expect(result.content[0]).toMatchObject({
      text: expect.stringContaining("Do not call again, neither with this key nor with a new one"),
    });
    expect(stage.effects()).toEqual(["100 k1"]);
  });

  test("killed likewise, with a probe: the retry gets the result of what was done", async () => {
    const dying = await stage.connect(transport, { onCrash: "probe" });
    stage.closeGate();
    await begun(dying, charge(100, "k1"));
    dying.kill();
    stage.openGate();
    const caller = await stage.connect(transport, { onCrash: "probe" });
    const result = await callUntilKnown(caller, charge(100, "k1"));
    expect(result.structuredContent).toEqual({ amount: 100, key: "k1" });
    expect(stage.effects()).toEqual(["100 k1"]);
  });

  test("killed after a step, with `rerun`: the retry finishes what was begun", async () => {
    const dying = await stage.connect(transport, { onCrash: "rerun" });
    stage.closeGate();
    await begun(dying, charge(100, "k1", "charge-in-steps"));
    await stage.untilStepSaved("k1");
    dying.kill();
    stage.openGate();
    const caller = await stage.connect(transport, { onCrash: "rerun" });
    const result = await callUntilKnown(caller, charge(100, "k1", "charge-in-steps"));
    expect(result.structuredContent).toEqual({ amount: 100, key: "k1" });
    expect(stage.effects()).toEqual(["100 k1"]);
  });

  test("two clients at once with one key: one effect, one result", async () => {
    const callers = await Promise.all([stage.connect(transport), stage.connect(transport)]);
    const results = await Promise.all(
      callers.flatMap((caller) => [1, 2, 3].map(() => callUntilKnown(caller, charge(100, "k1")))),
    );
    for (const result of results) {
      expect(result.structuredContent).toEqual({ amount: 100, key: "k1" });
    }
    expect(stage.effects()).toEqual(["100 k1"]);
  });

  test("a key used for other arguments is refused, and the first result stays", async () => {
    const caller = await stage.connect(transport);
    await call(caller, charge(100, "k1"));
    const other = await call(caller, charge(200, "k1"));
    expect(other.structuredContent).toMatchObject({ code: "key-reused", retry: "new-key" });
    const again = await call(caller, charge(100, "k1"));
    expect(again.structuredContent).toEqual({ amount: 100, key: "k1" });
    expect(stage.effects()).toEqual(["100 k1"]);
  });

  test("a key in `_meta` serves, and a call without any is refused", async () => {
    const caller = await stage.connect(transport);
    const named = { name: "charge", arguments: { amount: 100 }, _meta: { [KEY_META]: "m1" } };
    await call(caller, named);
    const second = await call(caller, named);
    expect(second.structuredContent).toEqual({ amount: 100, key: "m1" });
    const { _meta, ...unnamed } = named;
    expect(codeOf(await call(caller, unnamed))).toBe("key-missing");
    expect(stage.effects()).toEqual(["100 m1"]);
  });

  test("a derived key makes equal calls of a session one", async () => {
    const caller = await stage.connect(transport);
    const transfer = (amount: number) => ({ name: "transfer", arguments: { amount } });
    const first = await call(caller, transfer(5));
    const second = await call(caller, transfer(5));
    expect(second.structuredContent).toEqual(first.structuredContent);
    await call(caller, transfer(6));
    expect(stage.effects()).toHaveLength(2);
  });
});

describe("callers of one server over HTTP, with one key", () => {
  const transfer = (amount: number): Call => charge(amount, "k1", "pay-out");

  test("two tenants have an operation each, and see nothing of each other's", async () => {
    const [ada, grace] = [
      await stage.connect("http", {}, "/mcp", "ada"),
      await stage.connect("http", {}, "/mcp", "grace"),
    ];
    const [first, other] = [await call(ada, transfer(10)), await call(grace, transfer(999))];
    expect([first.isError, other.isError]).toEqual([undefined, undefined]);
    for (const [caller, amount] of [
      [ada, 10],
      [grace, 999],
    ] as const) {
      const again = await call(caller, transfer(amount));
      expect(again.structuredContent).toEqual({ amount, key: "k1" });
      expect(again._meta).toEqual({ [REPLAYED_META]: true });
    }
    // Not even that the other's call is another one.
    expect(codeOf(await call(ada, transfer(999)))).toBe("key-reused");
    expect(stage.effects()).toEqual(["10 k1", "999 k1"]);
  });

  test("two sessions of one tenant have one operation: who connects anew gets the first result", async () => {
    const lost = await stage.connect("http", {}, "/mcp", "ada");
    stage.closeGate();
    const unheard = call(lost, transfer(10)).catch((error: Error) => error);
    await stage.untilEffects(1);
    // The agent goes, with its session, before it is answered.
    await lost.client.close();
    expect(await unheard).toBeInstanceOf(Error);
    const back = await stage.connect("http", {}, "/mcp", "ada");
    const busy = await call(back, transfer(10));
    expect(busy.structuredContent).toMatchObject({
      code: "operation-in-progress",
      retry: "same-key",
      next: expect.stringContaining("Do not use a new key"),
    });
    stage.openGate();
    const result = await callUntilKnown(back, transfer(10));
    expect(result.structuredContent).toEqual({ amount: 10, key: "k1" });
    expect(stage.effects()).toEqual(["10 k1"]);
  });

  test("a caller that nobody knows runs nothing", async () => {
    const nobody = await stage.connect("http");
    const refused = await call(nobody, transfer(10));
    expect(refused.structuredContent).toMatchObject({ code: "scope-missing", retry: "never" });
    expect(stage.effects()).toEqual([]);
  });
});

test("over HTTP another session's equal call is another call", async () => {
  const [one, two] = [await stage.connect("http"), await stage.connect("http")];
  const transfer = { name: "transfer", arguments: { amount: 5 } };
  await call(one, transfer);
  await call(two, transfer);
  expect(stage.effects()).toHaveLength(2);
});

test("over HTTP without sessions no key is derived: callers could not be told apart", async () => {
  const caller = await stage.connect("http", {}, "/stateless");
  const result = await call(caller, { name: "transfer", arguments: { amount: 5 } });
  expect(codeOf(result)).toBe("key-missing");
  expect(stage.effects()).toEqual([]);
});

test("on stdio a derived key outlives the server: a retry after a restart is a retry", async () => {
  const transfer = { name: "transfer", arguments: { amount: 5 } };
  const first = await stage.connect("stdio");
  await call(first, transfer);
  first.kill();
  const second = await stage.connect("stdio");
  const result = await call(second, transfer);
  expect(result._meta).toEqual({ [REPLAYED_META]: true });
  expect(stage.effects()).toHaveLength(1);
});
