// Steps: saved as soon as they are known, never computed again, undone in reverse when the operation
// fails for good, and held where nobody can follow them (EN-6).

import { describe, expect, test } from "vitest";
import type { Operation } from "../../src/engine/attempt.ts";
import { crash, deferred, failure, fixture, turns } from "./fixture.ts";

/** A downstream that counts, by key, how often it was called. */
function downstream() {
  const calls: string[] = [];
  return {
    calls,
    call: (name: string) => (context: { idempotencyKey: string }) => {
      calls.push(`${name} ${context.idempotencyKey}`);
      return { name, call: calls.length };
    },
    names: () => calls.map((call) => call.split(" ")[0]),
  };
}

const named = { key: "ride-7", scope: "acme" } as const;
const request = { ...named, onCrash: "rerun", lease: "30s" } as const;

describe("a step that was saved", () => {
  test("EN-6: is not computed again after a crash, and later steps see its first value", async () => {
    const on = fixture();
    const { calls, call, names } = downstream();
    const dying = on.another();
    void dying.run(request, async ({ step }) => {
      await step("reserve", call("reserve"));
      await step("charge", call("charge"));
      await new Promise(() => {});
    });
    await turns();
    await crash({ idempotency: dying, clock: on.clock });
    await on.clock.advance(60_000);
    const { value, attempt } = await on.idempotency.run(request, async ({ step }) => {
      const reserved = await step("reserve", call("reserve"));
      const charged = await step("charge", call("charge"));
      return [reserved, charged, await step("receipt", call("receipt"))];
    });
    expect(names()).toEqual(["reserve", "charge", "receipt"]);
    expect(attempt).toBe(2);
    expect(value).toEqual([
      { name: "reserve", call: 1 },
      { name: "charge", call: 2 },
      { name: "receipt", call: 3 },
    ]);
    expect(new Set(calls.map((each) => each.split(" ")[1])).size).toBe(3);
  });

  test("EN-6: is not computed again after the handler failed and was released", async () => {
    const { idempotency, store } = fixture();
    const { call, names } = downstream();
    let fails = true;
    const run = () =>
      idempotency.run(request, async ({ step }) => {
        await step("reserve", call("reserve"));
        if (fails) throw new Error("no driver");
        return step("charge", call("charge"));
      });
    expect(await failure(run())).toMatchObject({ message: "no driver" });
    fails = false;
    expect((await run()).value).toEqual({ name: "charge", call: 2 });
    expect(names()).toEqual(["reserve", "charge"]);
    // What an attempt after the first one has to know costs one more call.
    expect(store.calls).toMatchObject({ begin: 2, settle: 2, append: 2, read: 1 });
  });

  test("PF-1: three steps cost one begin, three writes and one completion", async () => {
    const { idempotency, store } = fixture();
    await idempotency.run(request, async ({ step }) => {
      for (let i = 0; i < 3; i++) await step(`leg-${i}`, () => i);
    });
    expect(store.calls).toMatchObject({ begin: 1, append: 3, settle: 1, total: 5 });
  });

  test("EN-6: steps that end together are written together", async () => {
    const { idempotency, store } = fixture();
    const { value } = await idempotency.run(request, ({ step }) =>
      Promise.all(Array.from({ length: 20 }, (_, i) => step(`leg-${i}`, async () => i))),
    );
    expect(value).toEqual(Array.from({ length: 20 }, (_, i) => i));
    expect(store.calls.append).toBeLessThan(4);
  });

  test.each([
    ["a Date", new Date(5)],
    ["bytes", Uint8Array.of(0, 255)],
    ["nothing", undefined],
    ["a Map", new Map([["a", 1n]])],
  ])("EN-2: comes back as it was: %s", async (_name, value) => {
    const { idempotency } = fixture();
    let tries = 0;
    const run = () =>
      idempotency.run(request, async ({ step }) => {
        const found = await step("made", () => value);
        if (++tries === 1) throw new Error("once more");
        return { found };
      });
    await failure(run());
    expect((await run()).value.found).toEqual(value);
  });

  test("ST-11: is encrypted at rest", async () => {
    const on = fixture({
      encryption: { keys: { a: new Uint8Array(32).fill(7) }, current: "a" },
      hashKeys: new Uint8Array(16).fill(1),
    });
    let tries = 0;
    const run = () =>
      on.idempotency.run(request, async ({ step }) => {
        const secret = await step("secret", () => "4111-1111");
        await step("other", () => "4222");
        if (++tries === 1) throw new Error("once more");
        return secret;
      });
    await failure(run());
    const [record] = (await on.store.list({ limit: 10 })).records;
    const { journal } = (await on.store.read(record!.id))!;
    expect(Buffer.from(journal!).toString("latin1")).not.toMatch(/4111|secret/);
    expect((await run()).value).toBe("4111-1111");
  });
});

describe("the key of a step", () => {
  const keysOf = async (scope: string, key: string, attempts = 1) => {
    const { idempotency } = fixture();
    const keys: string[] = [];
    for (let i = 1; i <= attempts; i++) {
      await idempotency
        .run({ key, scope }, async ({ step }) => {
          await step("failing", ({ idempotencyKey }) => {
            keys.push(idempotencyKey);
            if (i < attempts) throw new Error("again");
          });
        })
        .catch(() => {});
    }
    return keys;
  };

  test("EN-6: is the same in every attempt, and a UUID of version 8", async () => {
    const keys = await keysOf("acme", "ride", 3);
    expect(keys).toHaveLength(3);
    expect(new Set(keys).size).toBe(1);
    expect(keys[0]).toMatch(
      /^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/,
    );
  });

  test("EN-6: is another for another scope, key or step", async () => {
    const all = [
      ...(await keysOf("acme", "ride")),
      ...(await keysOf("acm", "eride")),
      ...(await keysOf("acme", "ride2")),
    ];
    expect(new Set(all).size).toBe(3);
  });
});

describe("a name", () => {
  const running = (handler: (operation: Operation) => unknown) =>
    failure(fixture().idempotency.run(request, handler));

  test("that is used twice is an error", async () => {
    const error = await running(async ({ step }) => {
      await step("charge", () => 1);
      await step("charge", () => 2);
    });
    expect(error).toMatchObject({
      code: "step-invalid",
      message: expect.stringMatching(/called twice.*loop/),
    });
  });

  test("whose step failed may be tried again in the same execution", async () => {
    const { idempotency } = fixture();
    const { value } = await idempotency.run(request, async ({ step }) => {
      await step("charge", () => Promise.reject(new Error("busy"))).catch(() => {});
      return step("charge", () => "paid");
    });
    expect(value).toBe("paid");
  });

  test.each([[""], [7], ["x".repeat(256)]])("such as %j is refused", async (name) => {
    expect(await running(({ step }) => step(name as string, () => 1))).toMatchObject({
      code: "step-invalid",
    });
  });

  test("without work, or with unknown options, is refused", async () => {
    expect(await running(({ step }) => step("a", 5 as never))).toMatchObject({
      code: "step-invalid",
    });
    expect(await running(({ step }) => step("a", () => 1, { und: 1 } as never))).toMatchObject({
      code: "option-invalid",
      message: expect.stringMatching(/`undo`/),
    });
  });
});

describe("an execution that does not follow the record", () => {
  /** A first attempt that fails after its steps, then a second one on another path. */
  async function diverging(first: readonly string[], second: readonly string[]) {
    const on = fixture();
    const ran: string[] = [];
    const walk = (path: readonly string[], end: () => unknown) =>
      on.idempotency.run(request, async ({ step }) => {
        for (const name of path) await step(name, () => void ran.push(name));
        return end();
      });
    await failure(
      walk(first, () => {
        throw new Error("once more");
      }),
    );
    const error = await walk(second, () => "done").then(
      () => undefined,
      (thrown) => thrown,
    );
    return { error, ran, status: await on.idempotency.get(named) };
  }

  test.each([
    ["leaves a step out", ["a", "b"], ["a"]],
    ["puts a step before one", ["a", "b"], ["a", "new", "b"]],
    ["takes another order", ["a", "b"], ["b", "a"]],
    ["puts another step in one's place", ["a", "b"], ["c"]],
  ])("EN-6: is refused and held when it %s", async (_what, first, second) => {
    const { error, ran, status } = await diverging(first, second);
    expect(error).toMatchObject({ code: "steps-diverged" });
    expect(status).toMatchObject({
      state: "held",
      reason: expect.stringMatching(/^steps-diverged/),
    });
    // What was new did not run in the wrong place.
    expect(ran.filter((name) => name === "new" || name === "c")).toEqual([]);
  });

  test("EN-6: may go further than it", async () => {
    expect((await diverging(["a"], ["a", "b", "c"])).error).toBeUndefined();
  });

  test("EN-6: may end parallel steps in another order", async () => {
    const { idempotency } = fixture();
    let tries = 0;
    const run = () =>
      idempotency.run(request, async ({ step }) => {
        const slow = deferred();
        const legs = [
          step("slow", () => slow.promise),
          step("fast", async () => slow.resolve(undefined)),
        ];
        await Promise.all(legs);
        if (++tries === 1) throw new Error("once more");
        return "done";
      });
    await failure(run());
    expect((await run()).value).toBe("done");
  });
});

describe("undo", () => {
  test("EN-6: runs in reverse when the operation fails for good, once, and the failure is the result", async () => {
    const { idempotency } = fixture();
    const undone: unknown[] = [];
    const run = () =>
      idempotency.run({ ...request, onError: "store" }, async ({ step }) => {
        for (const name of ["ride", "charge"]) {
          await step(name, () => `${name}-id`, { undo: (value) => void undone.push(value) });
        }
        await step("receipt", () => Promise.reject(new Error("no printer")), {
          undo: () => void undone.push("receipt"),
        });
      });
    expect(await failure(run())).toMatchObject({ message: "no printer" });
    expect(undone).toEqual(["charge-id", "ride-id"]);
    expect(await failure(run())).toMatchObject({ code: "operation-failed" });
    expect(undone).toHaveLength(2);
  });

  test("EN-6: does not run when the key may run again", async () => {
    const { idempotency } = fixture();
    let undone = 0;
    await failure(
      idempotency.run(request, async ({ step }) => {
        await step("charge", () => 1, { undo: () => void undone++ });
        throw new Error("once more");
      }),
    );
    expect(undone).toBe(0);
  });

  test("EN-6: goes on where a crashed attempt stopped", async () => {
    const on = fixture();
    const undone: string[] = [];
    const handler =
      (during: (name: string) => unknown) =>
      async ({ step }: Operation) => {
        for (const name of ["a", "b", "c"]) {
          await step(name, () => name, {
            undo: async () => {
              await during(name);
              undone.push(name);
            },
          });
        }
        throw new Error("for good");
      };
    const options = { ...request, onError: "store" } as const;
    const dying = on.another();
    void dying.run(
      options,
      handler((name) => (name === "b" ? new Promise(() => {}) : undefined)),
    );
    await turns();
    expect(undone).toEqual(["c"]);
    await crash({ idempotency: dying, clock: on.clock });
    await on.clock.advance(60_000);
    const again = on.idempotency.run(
      options,
      handler(() => {}),
    );
    expect(await failure(again)).toMatchObject({ message: "for good" });
    expect(undone).toEqual(["c", "b", "a"]);
  });

  test("EN-6: that fails holds the operation", async () => {
    const { idempotency } = fixture();
    await failure(
      idempotency.run({ ...request, onError: "store" }, async ({ step }) => {
        await step("charge", () => 1, { undo: () => Promise.reject(new Error("bank closed")) });
        throw new Error("for good");
      }),
    );
    expect(await idempotency.get(named)).toMatchObject({
      state: "held",
      reason: 'undo-failed: step "charge": bank closed',
    });
  });
});

describe("a step whose result cannot be kept", () => {
  test("EN-2: because it does not serialise: the operation is held, it did run", async () => {
    const { idempotency } = fixture();
    const error = await failure(
      idempotency.run(request, ({ step }) => step("charge", () => ({ call() {} }))),
    );
    expect(error).toMatchObject({
      code: "not-serializable",
      message: expect.stringMatching(/step "charge"/),
    });
    expect(await idempotency.get(named)).toMatchObject({
      state: "held",
      reason: expect.stringMatching(/^not-serializable: the result of step "charge"/),
    });
  });

  test("ST-10: because it is too large", async () => {
    const { idempotency } = fixture({ maxResultBytes: 100 });
    const run = idempotency.run(request, ({ step }) => step("a", () => "x".repeat(200)));
    expect(await failure(run)).toMatchObject({
      code: "not-serializable",
      message: expect.stringMatching(/of 100/),
    });
  });

  test("SM-17: because another attempt took over: it is discarded, and the caller gets the successor's outcome", async () => {
    const on = fixture();
    const gate = deferred();
    const zombie = on.another({ completionRetry: "1s" });
    let frozen = true;
    const first = zombie.run({ ...request, lease: "1s" }, async ({ step }) => {
      await step("a", () => gate.promise);
      return "the zombie's";
    });
    await turns();
    // Its heartbeats stop, as in a process that is stopped.
    await crash({ idempotency: zombie, clock: on.clock });
    await on.clock.advance(5_000);
    const second = await on.idempotency.run(request, async ({ step }) => {
      frozen = false;
      return step("a", () => "the successor's");
    });
    expect([second.value, frozen]).toEqual(["the successor's", false]);
    gate.resolve();
    expect(await first).toMatchObject({ value: "the successor's", replayed: true });
    expect((await on.idempotency.run(request, () => "no")).value).toBe("the successor's");
  });

  test("SM-22: because the store is away: it is written when the store is back", async () => {
    const { idempotency, plan, clock, store } = fixture();
    plan.push({ method: "append", call: 1, effect: "fail-before" });
    plan.push({ method: "append", call: 2, effect: "fail-after" });
    const run = idempotency.run(request, async ({ step }) => {
      await step("a", () => 1);
      return step("b", () => 2);
    });
    for (let i = 0; i < 20; i++) await clock.advance(100);
    expect((await run).value).toBe(2);
    expect(store.calls.append).toBe(4);
  });

  test("SM-22: and when it stays away, the step says so, and runs again with the same key", async () => {
    const { idempotency, plan, clock } = fixture({ completionRetry: "1s" });
    const { calls, call, names } = downstream();
    plan.push({ method: "append", effect: "fail-before" });
    const run = () => idempotency.run(request, ({ step }) => step("charge", call("charge")));
    const first = failure(run());
    for (let i = 0; i < 20; i++) await clock.advance(100);
    expect(await first).toMatchObject({
      code: "store-unavailable",
      message: expect.stringMatching(/result of a step/),
    });
    plan.length = 0;
    await run();
    expect(names()).toEqual(["charge", "charge"]);
    expect(new Set(calls).size).toBe(1);
  });
});

describe("a step that nobody waits for", () => {
  test("is waited for by the operation", async () => {
    const { idempotency } = fixture();
    const gate = deferred();
    let isSaved = false;
    const run = idempotency.run(request, ({ step }) => {
      void step("mail", async () => {
        await gate.promise;
        isSaved = true;
      });
      return "done";
    });
    await turns();
    gate.resolve();
    expect([(await run).value, isSaved]).toEqual(["done", true]);
  });

  test("holds the operation when it fails", async () => {
    const { idempotency } = fixture();
    const run = idempotency.run(request, ({ step }) => {
      void step("mail", async () => {
        await turns();
        throw new Error("no postman");
      });
      return "done";
    });
    expect(await failure(run)).toMatchObject({ message: "no postman" });
    expect(await idempotency.get(named)).toMatchObject({
      reason: expect.stringMatching(/^step-unawaited/),
    });
  });

  test("after the operation's end is refused", async () => {
    const { idempotency } = fixture();
    let late: Promise<unknown> = Promise.resolve();
    const gate = deferred();
    await idempotency.run(request, ({ step }) => {
      late = gate.promise.then(() => step("late", () => expect.unreachable()));
      late.catch(() => {});
    });
    gate.resolve();
    expect(await failure(late)).toMatchObject({
      code: "step-invalid",
      message: expect.stringMatching(/after the/),
    });
  });
});

describe("keyRetention", () => {
  const options = { keyRetention: "1h" } as const;

  /** An attempt that dies in a step, and another one some time later. */
  async function inDoubt(lateMs: number) {
    const on = fixture();
    const { call, names } = downstream();
    const dying = on.another();
    await on.clock.advance(1_000);
    void dying.run(request, ({ step }) =>
      step(
        "charge",
        async (context) => {
          call("charge")(context);
          await new Promise(() => {});
        },
        options,
      ),
    );
    await turns();
    await crash({ idempotency: dying, clock: on.clock });
    await on.clock.advance(lateMs);
    const work = on.idempotency.run(request, ({ step }) => step("charge", call("charge"), options));
    const error = await work.then(
      () => undefined,
      (thrown) => thrown,
    );
    return { error, names: names(), record: await on.idempotency.get(named) };
  }

  test("EN-6: a step in doubt runs again for as long as its key is remembered", async () => {
    expect(await inDoubt(3_500_000)).toMatchObject({
      error: undefined,
      names: ["charge", "charge"],
    });
  });

  test("EN-6: after that it does not, and the operation is held", async () => {
    const { error, names, record } = await inDoubt(3_700_000);
    expect(error).toMatchObject({ code: "outcome-unknown" });
    expect(names).toEqual(["charge"]);
    expect(record).toMatchObject({
      state: "held",
      reason: expect.stringMatching(/^step-in-doubt: "charge"/),
    });
  });
});
