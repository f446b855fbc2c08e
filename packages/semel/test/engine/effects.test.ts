// Recording effects (EN-8): with what an operation does, each once however often it is executed, and
// never by an attempt that was succeeded.

import { afterEach, describe, expect, test } from "vitest";
import type { Operation } from "../../src/engine/attempt.ts";
import type { Effect } from "../../src/engine/effects/relay.ts";
import { OperationFailed } from "../../src/errors.ts";
import { failure, turns } from "./fixture.ts";
import { type Machines, machines, never } from "./queue-fixture.ts";

let on: Machines;

afterEach(() => on.stop());

const named = { key: "order-42", scope: "acme" } as const;
const request = { ...named, onCrash: "rerun", lease: "3s" } as const;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

/** Everything that is delivered by a relay of its own. */
async function delivered(names: readonly string[] = ["mail"]): Promise<Effect[]> {
  const effects: Effect[] = [];
  const { idempotency } = on.start();
  const relay = idempotency.relay(
    Object.fromEntries(names.map((name) => [name, (effect: Effect) => void effects.push(effect)])),
  );
  await relay.drain();
  await relay.close();
  return effects;
}

const recorded = async () =>
  (await on.records.queue!.list({ kind: "effect", limit: 1_000 })).items.toReversed();

describe("an effect", () => {
  test("EN-8: is recorded with its operation, and delivered with its payload, names and id", async () => {
    on = machines();
    const { idempotency } = on.start();
    const payload = { to: "rider@example.com", at: new Date(5), lines: new Map([[1, 2n]]) };
    const { value: id } = await idempotency.run(request, ({ effect }) => effect("mail", payload));
    expect(id).toMatch(UUID);
    expect(await delivered()).toEqual([
      { id, name: "mail", payload, attempt: 1, ...named, signal: expect.any(AbortSignal) },
    ]);
    expect(await delivered()).toEqual([]);
  });

  test("EN-8: costs one look at the record, and one write for those that are recorded at once", async () => {
    on = machines();
    const { idempotency, store } = on.start();
    await idempotency.run(request, async ({ effect }) => {
      await effect("mail", 1);
      await effect("mail", 2, { key: "2" });
      await Promise.all([3, 4, 5].map((n) => effect("mail", n, { key: String(n) })));
    });
    expect(store.calls).toMatchObject({ begin: 1, read: 1, "queue.add": 3, settle: 1, total: 6 });
    expect((await delivered()).map(({ payload }) => payload)).toEqual([1, 2, 3, 4, 5]);
  });

  test("EN-8: is not recorded again by another attempt, whose first payload stays", async () => {
    on = machines();
    const { idempotency } = on.start();
    let attempts = 0;
    const ids: string[] = [];
    const run = () =>
      idempotency.run(request, async ({ effect, attempt }) => {
        ids.push(await effect("mail", { attempt }), await effect("mail", 0, { key: "b" }));
        if (++attempts < 3) throw new Error("once more");
      });
    await failure(run());
    await failure(run());
    await run();
    expect(new Set(ids).size).toBe(2);
    expect((await delivered()).map(({ payload }) => payload)).toEqual([{ attempt: 1 }, 0]);
  });

  test("EN-8: that a later attempt is the first to record is delivered after what is there", async () => {
    on = machines();
    const { idempotency } = on.start();
    const run = (...payloads: string[]) =>
      idempotency.run(request, async ({ effect, attempt }) => {
        for (const payload of payloads) await effect("mail", payload, { key: payload });
        if (attempt < 3) throw new Error("once more");
      });
    await failure(run("placed", "paid"));
    await failure(run("shipped"));
    await run("paid", "received");
    const delivery = (await delivered()).map(({ payload }) => payload);
    expect(delivery).toEqual(["placed", "paid", "shipped", "received"]);
  });

  test("EN-8: is recorded again by an operation that begins anew under its key", async () => {
    on = machines({ retention: "1h" });
    const { idempotency } = on.start();
    const send = () => idempotency.run(request, ({ effect }) => effect("mail", "reminder"));
    const first = (await send()).value;
    expect(await delivered()).toHaveLength(1);
    await on.clock.advance(3_600_000);
    const second = (await send()).value;
    expect(second).not.toBe(first);
    expect(await delivered()).toHaveLength(1);
  });

  test("SM-17: a zombie records nothing", async () => {
    on = machines();
    const zombie = on.start();
    const told: unknown[] = [];
    let wake = () => {};
    void zombie.idempotency
      .run(request, async ({ effect, signal }) => {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
        await effect("mail", "zombie").catch((error) => told.push(error.code, signal.aborted));
      })
      .catch(() => {});
    await turns();
    zombie.plan.push({ method: "renew", effect: "delay", until: never() });
    await on.clock.advance(5_000);
    await on.start().idempotency.run(request, ({ effect }) => effect("mail", "successor"));
    wake();
    await on.clock.advance(1_000);
    expect(told).toEqual(["attempt-superseded", true]);
    expect((await delivered()).map(({ payload }) => payload)).toEqual(["successor"]);
  });

  test("EN-8: a lost answer records it once", async () => {
    on = machines();
    const { idempotency, plan } = on.start();
    plan.push({ method: "queue.add", call: 1, effect: "fail-after" });
    const running = idempotency.run(request, ({ effect }) => effect("mail", 1));
    await on.clock.advance(1_000);
    await running;
    expect(await delivered()).toHaveLength(1);
  });

  test("EN-8: a store that does not keep it fails the handler, and the next attempt records it", async () => {
    on = machines();
    const { idempotency, plan } = on.start();
    plan.push({ method: "queue.add", effect: "fail-before" });
    const run = () => idempotency.run(request, ({ effect }) => effect("mail", 1));
    const failed = failure(run());
    await on.clock.advance(10_000);
    expect(await failed).toMatchObject({
      code: "store-unavailable",
      message: "An effect could not be recorded",
    });
    expect(await recorded()).toEqual([]);
    plan.length = 0;
    await run();
    expect(await delivered()).toHaveLength(1);
  });

  test("EN-8: in a durable operation carries the scope and key that it was asked for with", async () => {
    on = machines();
    const { idempotency } = on.start();
    const ride = idempotency.operation("ride", {
      handler: (_input, { effect }: Operation) => effect("mail", 1),
    });
    await ride.run(named);
    expect(await delivered()).toMatchObject([named]);
  });

  test("EN-8: in an inbox belongs to the message", async () => {
    on = machines();
    const { idempotency } = on.start();
    const inbox = idempotency.inbox("billing");
    for (let n = 0; n < 2; n++) {
      await inbox.process({ id: "m-1" }, ({ effect }) => effect("mail", 1));
    }
    expect(await delivered()).toMatchObject([{ key: "m-1", payload: 1 }]);
  });

  test("ST-11: is encrypted at rest, with its names", async () => {
    on = machines({
      encryption: { keys: { a: new Uint8Array(32).fill(7) }, current: "a" },
      hashKeys: new Uint8Array(16).fill(1),
    });
    const { idempotency } = on.start();
    await idempotency.run(request, ({ effect }) => effect("mail", "to: acme"));
    const [item] = await recorded();
    const stored = await on.records.queue!.read(item!.id);
    expect(JSON.stringify(stored)).not.toMatch(/acme|order/);
    expect(Buffer.from(stored!.payload).toString("latin1")).not.toMatch(/acme|order/);
    expect(await delivered()).toMatchObject([{ ...named, payload: "to: acme" }]);
  });
});

describe("an effect of an undo", () => {
  /** A booking that fails for good, whose first undoing fails, by the attempt. */
  function booking(ends: (attempt: number) => unknown) {
    on = machines();
    const { idempotency } = on.start();
    let blips = 1;
    const book = idempotency.operation("book", {
      retry: { attemptsMax: 3, base: 1, cap: 1 },
      handler: async (_input, { step, effect, attempt }) => {
        const released = () => effect("mail", "seat released");
        await step("seat", () => 1, { undo: released });
        const undo = () => {
          if (blips-- > 0) throw new Error("blip");
        };
        await step("hotel", () => 1, { undo });
        return ends(attempt);
      },
    });
    idempotency.worker({ operations: [book] });
    return book;
  }
  const declined = () => {
    throw new OperationFailed(new Error("declined"));
  };

  test.each([
    ["also where an earlier attempt has failed for good", declined],
    ["also where the handler itself got through", (n: number) => (n === 1 ? declined() : "booked")],
  ])("EN-6, EN-8: is recorded, %s", async (_where, ends) => {
    const book = booking(ends);
    await book.start({ ...named, input: 1 });
    await on.until(async () => (await book.status(named)).state === "failed");
    expect(await book.status(named)).toMatchObject({ attempt: 2, error: "declined" });
    expect((await delivered()).map(({ payload }) => payload)).toEqual(["seat released"]);
  });

  test("EN-8: that the handler records is refused once the operation has failed for good", async () => {
    let refusal: unknown;
    on = machines();
    const { idempotency } = on.start();
    let blips = 1;
    const book = idempotency.operation("book", {
      retry: { attemptsMax: 3, base: 1, cap: 1 },
      handler: async (_input, { step, effect, attempt }) => {
        const undo = () => {
          if (blips-- > 0) throw new Error("blip");
        };
        await step("hotel", () => 1, { undo });
        if (attempt === 1) declined();
        refusal = await failure(effect("mail", "booked"));
      },
    });
    idempotency.worker({ operations: [book] });
    await book.start({ ...named, input: 1 });
    await on.until(async () => (await book.status(named)).state === "failed");
    expect(refusal).toMatchObject({ code: "operation-failed" });
    expect(await delivered()).toEqual([]);
  });

  test("EN-8: that nobody waited for, and that fails, holds the operation", async () => {
    on = machines({ completionRetry: "1s" });
    const { idempotency, plan } = on.start();
    plan.push({ method: "queue.add", effect: "fail-before" });
    const run = failure(
      idempotency.run({ ...request, onError: "store" }, async ({ step, effect }) => {
        await step("seat", () => 1, { undo: () => void effect("mail", "seat released") });
        throw new Error("declined");
      }),
    );
    for (let n = 0; n < 20; n++) await on.clock.advance(100);
    await run;
    expect(await idempotency.get(named)).toMatchObject({
      state: "held",
      reason: expect.stringMatching(/^effect-unawaited/),
    });
  });
});

describe("what is recorded wrongly", () => {
  const refused: [string, (operation: Operation) => unknown, string][] = [
    ["a name that is none", ({ effect }) => effect(""), "a string of 1 to 255 characters"],
    ["a name that cannot be kept", ({ effect }) => effect("a\0b"), "a string of 1 to 255"],
    ["a key that is none", ({ effect }) => effect("mail", 1, { key: 5 as never }), "got 5"],
    [
      "an option that is none",
      ({ effect }) => effect("mail", 1, { dueAt: 5 } as never),
      "did you mean `dueIn`?",
    ],
    [
      "the same name twice",
      async ({ effect }) => {
        await effect("mail", 1);
        await effect("mail", 2);
      },
      "give each a `key` of its own",
    ],
    [
      "the same key twice",
      ({ effect }) => Promise.all([1, 2].map((n) => effect("mail", n, { key: "k" }))),
      'with the key "k" was recorded twice',
    ],
    ["what cannot be stored", ({ effect }) => effect("mail", () => {}), "cannot be stored"],
    [
      "what is too large",
      ({ effect }) => effect("mail", "x".repeat(2 ** 20)),
      "it takes 1048580 bytes of 1048576",
    ],
  ];
  test.each(refused)("is refused: %s", async (_name, handler, message) => {
    on = machines();
    const { idempotency } = on.start();
    const error = await failure(idempotency.run(request, handler));
    expect(error).toMatchObject({ message: expect.stringContaining(message) });
    expect(await idempotency.status(named)).toMatchObject({ state: "open" });
  });

  test("a name and a key never look like another name", async () => {
    on = machines();
    const { idempotency } = on.start();
    await idempotency.run(request, async ({ effect }) => {
      await effect("ab", 1, { key: "c" });
      await effect("a", 2, { key: "bc" });
      await effect("abc", 3);
    });
    expect(new Set((await recorded()).map(({ id }) => id)).size).toBe(3);
  });

  test("after the operation's end it is refused, and nothing is kept", async () => {
    on = machines();
    const { idempotency } = on.start();
    let late: Operation["effect"] | undefined;
    await idempotency.run(request, ({ effect }) => {
      late = effect;
    });
    expect(await failure(late!("mail", 1))).toMatchObject({
      code: "effect-invalid",
      message: expect.stringContaining("after the end of the operation"),
    });
    expect(await recorded()).toEqual([]);
  });

  test("one that nobody waited for is waited for; when it fails, the operation is held", async () => {
    on = machines();
    const { idempotency, plan } = on.start();
    await idempotency.run({ ...request, key: "a" }, ({ effect }) => {
      void effect("mail", 1);
    });
    expect(await recorded()).toHaveLength(1);
    plan.push({ method: "queue.add", effect: "fail-before" });
    const failed = failure(
      idempotency.run({ ...request, key: "b" }, ({ effect }) => {
        void effect("mail", 1);
      }),
    );
    await on.clock.advance(10_000);
    expect(await failed).toMatchObject({ code: "store-unavailable" });
    expect(await idempotency.get({ key: "b", scope: "acme" })).toMatchObject({
      state: "held",
      reason: expect.stringContaining("effect-unawaited"),
    });
  });

  test("one that failed may be recorded again in the same execution", async () => {
    on = machines();
    const { idempotency } = on.start();
    await idempotency.run(request, async ({ effect }) => {
      await effect("mail", () => {}).catch(() => {});
      await effect("mail", "plain");
    });
    expect(await delivered()).toMatchObject([{ payload: "plain" }]);
  });
});

describe("hold() in run()", () => {
  test("has it held whatever the handler returns, and the caller is told", async () => {
    on = machines();
    const { idempotency } = on.start();
    const run = () =>
      idempotency.run(request, (operation) => {
        operation.hold("no answer");
        return "value";
      });
    for (let n = 0; n < 2; n++) {
      expect(await failure(run())).toMatchObject({ code: "outcome-unknown", reason: "no answer" });
    }
    await idempotency.resolve(named, { outcome: "applied", value: "found" });
    expect((await idempotency.run(request, () => "again")).value).toBe("found");
  });

  test("lets the handler's own error through", async () => {
    on = machines();
    const { idempotency } = on.start();
    const error = await failure(
      idempotency.run({ ...request, onError: "store" }, (operation) => {
        operation.hold("no answer");
        throw new Error("timed out");
      }),
    );
    expect(error).toMatchObject({ message: "timed out" });
    expect(await idempotency.status(named)).toMatchObject({ state: "held" });
    const wrong = idempotency.run({ key: "b" }, (operation) => operation.hold(5 as never));
    expect(await failure(wrong)).toMatchObject({ code: "option-invalid" });
  });
});
