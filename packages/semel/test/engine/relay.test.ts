// Relays (EN-8): at least once, in order, with bounded retries; what cannot be delivered is given up,
// listed, and driven again.

import { afterEach, describe, expect, test } from "vitest";
import type { EffectOptions } from "../../src/engine/effects/effects.ts";
import type { DeadLetter, Effect, RelayHandlers } from "../../src/engine/effects/relay.ts";
import { deferred, eventsDuring, turns } from "./fixture.ts";
import { type Machines, machines, never, type Process } from "./queue-fixture.ts";

let on: Machines;

afterEach(() => on.stop());

const settings = { lease: "3s", pollInterval: "1s" } as const;
const waiting = async () => (await on.records.queue!.stats()).states.effect.waiting;
const items = async () =>
  (await on.records.queue!.list({ kind: "effect", limit: 1_000 })).items.toReversed();

type Recording = readonly [name: string, payload?: unknown, options?: EffectOptions];

/** Records effects, all of one operation. */
async function record(key: string, effects: readonly Recording[], { idempotency } = on.start()) {
  await idempotency.run({ key }, async ({ effect }) => {
    for (const [index, [name, payload, options]] of effects.entries()) {
      await effect(name, payload, { key: String(index), ...options });
    }
  });
}

function fail(): never {
  throw new Error("no route");
}

describe("delivery", () => {
  test("EN-8: at least once, under one id: a relay that dies in it is followed by another", async () => {
    on = machines();
    await record("a", [["mail", 1]]);
    const deliveries: Pick<Effect, "id" | "attempt">[] = [];
    const note = ({ id, attempt }: Effect) => void deliveries.push({ id, attempt });
    const dying = on.start();
    const die = (effect: Effect) => {
      note(effect);
      return never();
    };
    dying.idempotency.relay({ mail: die }, settings);
    await turns();
    dying.kill();
    on.start().idempotency.relay({ mail: note }, settings);
    await on.until(async () => (await waiting()) === 0);
    const { id } = deliveries[0]!;
    expect(deliveries).toEqual([
      { id, attempt: 1 },
      { id, attempt: 2 },
    ]);
  });

  test("EN-8: those of an operation in their order, those of others at the same time", async () => {
    on = machines();
    for (const key of ["a", "b", "c"]) {
      await record(
        key,
        Array.from({ length: 5 }, (_, n) => ["mail", `${key}${n}`] as const),
      );
    }
    const log: string[] = [];
    let running = 0;
    let most = 0;
    let fails = 3;
    for (const process of [on.start(), on.start()]) {
      process.idempotency.relay(
        {
          mail: {
            base: "2s",
            deliver: async ({ payload, key }) => {
              most = Math.max(most, ++running);
              await turns();
              running--;
              if (key === "b" && payload === "b2" && fails-- > 0) fail();
              log.push(payload);
            },
          },
        },
        settings,
      );
    }
    await on.until(async () => (await waiting()) === 0);
    for (const key of ["a", "b", "c"]) {
      expect(log.filter((payload) => payload.startsWith(key))).toEqual(
        Array.from({ length: 5 }, (_, n) => `${key}${n}`),
      );
    }
    expect(most).toBeGreaterThan(1);
  });

  test("EN-8: many relays at once deliver each one once, as long as none dies", async () => {
    on = machines();
    const keys = Array.from({ length: 500 }, (_, n) => String(n));
    await Promise.all(keys.map((key) => record(key, [["mail", key]], on.start())));
    const log: string[] = [];
    for (let n = 0; n < 4; n++) {
      const deliver = async ({ payload }: Effect<string>) => {
        await turns();
        log.push(payload);
      };
      on.start().idempotency.relay({ mail: deliver }, { ...settings, concurrency: 50 });
    }
    await on.until(async () => (await waiting()) === 0);
    expect(log.toSorted()).toEqual(keys.toSorted());
  });

  test("EN-8: not before it is due, and those after it not before it", async () => {
    on = machines();
    const log: unknown[] = [];
    await record("a", [
      ["mail", "now"],
      ["mail", "in an hour", { dueIn: "1h" }],
      ["mail", "after it"],
    ]);
    on.start().idempotency.relay({ mail: ({ payload }) => void log.push(payload) }, settings);
    await on.clock.advance(3_599_000);
    expect(log).toEqual(["now"]);
    await on.clock.advance(3_000);
    expect(log).toEqual(["now", "in an hour", "after it"]);
  });

  test("EN-8: a name without a handler here is left for others, and holds up nothing of other operations", async () => {
    on = machines();
    await record("a", [["sms", 1]]);
    await record("b", [["mail", 2]]);
    const log: unknown[] = [];
    const note = ({ payload }: Effect) => void log.push(payload);
    await on.start().idempotency.relay({ mail: note }).drain();
    expect(log).toEqual([2]);
    expect((await items()).find(({ name }) => name === "sms")).toMatchObject({ started: 0 });
    await on.start().idempotency.relay({ sms: note }).drain();
    expect(log).toEqual([2, 1]);
  });

  test("EN-8: what is recorded in this process is delivered at once, what others record at the next look", async () => {
    on = machines();
    const log: unknown[] = [];
    const process = on.start();
    process.idempotency.relay({ mail: ({ payload }) => void log.push(payload) }, settings);
    await turns();
    await record("a", [["mail", "here"]], process);
    await turns();
    expect(log).toEqual(["here"]);
    await record("b", [["mail", "soon", { dueIn: "100ms" }]], process);
    await record("c", [["mail", "elsewhere"]]);
    await turns();
    expect(log).toEqual(["here"]);
    await on.clock.advance(1_500);
    expect(log).toHaveLength(3);
  });

  test("back-pressure: no more are claimed than there is room for", async () => {
    on = machines();
    for (let n = 0; n < 40; n++) await record(String(n), [["mail", n]]);
    const gate = deferred();
    const process = on.start();
    process.idempotency.relay({ mail: () => gate.promise }, { ...settings, concurrency: 3 });
    await on.clock.advance(20_000);
    expect((await items()).filter(({ started }) => started > 0)).toHaveLength(3);
    expect(process.store.calls["queue.claim"]).toBe(1);
    gate.resolve();
    await on.until(async () => (await waiting()) === 0);
  });

  test("one that takes longer than its lease keeps it", async () => {
    on = machines();
    await record("a", [["mail", 1]]);
    let deliveries = 0;
    const slow = () => {
      deliveries++;
      return new Promise<void>((resolve) => on.clock.schedule(30_000, resolve));
    };
    on.start().idempotency.relay({ mail: slow }, settings);
    on.start().idempotency.relay({ mail: slow }, settings);
    await on.clock.advance(40_000);
    expect(deliveries).toBe(1);
    expect(await waiting()).toBe(0);
  });

  test("one whose claim was lost is told by its signal, and what it says counts no more", async () => {
    on = machines();
    await record("a", [["mail", 1]]);
    const gate = deferred();
    const reasons: unknown[] = [];
    const slow = on.start();
    slow.idempotency.relay(
      {
        mail: async ({ signal }) => {
          signal.addEventListener("abort", () => reasons.push(signal.reason.code));
          await gate.promise;
        },
      },
      settings,
    );
    await turns();
    slow.plan.push({ method: "queue.renew", effect: "fail-before" });
    slow.plan.push({ method: "queue.claim", effect: "delay", until: never() });
    const other = on.start();
    let delivered = 0;
    await on.clock.advance(5_000);
    other.idempotency.relay({ mail: () => void delivered++ }, settings);
    await on.clock.advance(1_500);
    slow.plan.length = 0;
    await on.clock.advance(1_500);
    expect(reasons).toEqual(["attempt-superseded"]);
    gate.resolve();
    await turns();
    expect(delivered).toBe(1);
    expect(await items()).toMatchObject([{ state: "done", started: 2, finished: 1 }]);
  });
});

describe("failures", () => {
  test("EN-8: are tried again with growing pauses, then given up: listed, and driven again", async () => {
    on = machines();
    await record("order-7", [
      ["mail", { to: "a" }],
      ["mail", { to: "b" }],
    ]);
    const { idempotency } = on.start({ random: () => 1 });
    const at: number[] = [];
    let isDown = true;
    const letters: DeadLetter[] = [];
    const log: unknown[] = [];
    idempotency.relay(
      {
        mail: {
          attemptsMax: 4,
          base: "10s",
          cap: "15s",
          deliver: ({ payload }) => {
            if (payload.to === "a" && isDown) {
              at.push(on.clock.now());
              fail();
            }
            log.push(payload.to);
          },
        },
      },
      {
        lease: "3s",
        pollInterval: "100ms",
        onDeadLetter: (letter) => void letters.push(letter),
      },
    );
    await on.until(async () => (await waiting()) === 0, 50);
    const pauses = at.slice(1).map((time, n) => Math.round((time - at[n]!) / 1_000));
    expect(pauses).toEqual([10, 15, 15]);
    // What is given up does not hold up what comes after it.
    expect(log).toEqual(["b"]);
    const { items: dead } = await idempotency.effects.list({ state: "dead" });
    expect(dead).toMatchObject([
      { name: "mail", key: "order-7", attempts: 4, error: "attempts-exhausted: no route" },
    ]);
    const { id } = dead[0]!;
    expect(letters).toEqual([
      {
        ...{ id, name: "mail", scope: "", key: "order-7", attempts: 4 },
        error: "attempts-exhausted: no route",
      },
    ]);
    expect(await idempotency.effects.get(id)).toMatchObject({ payload: { to: "a" } });
    expect(await idempotency.effects.stats()).toMatchObject({ waiting: 0, done: 1, dead: 1 });
    isDown = false;
    expect(await idempotency.effects.revive(id)).toBe(true);
    await turns();
    expect(log).toEqual(["b", "a"]);
    expect(await idempotency.effects.revive(id)).toBe(false);
    expect(await idempotency.effects.remove(id)).toBe(true);
    expect(await idempotency.effects.get(id)).toBeUndefined();
  });

  test("EN-8: a dead letter is told of also when the reply that it is recorded was lost", async () => {
    on = machines();
    await record("a", [["mail"]]);
    const { idempotency, plan } = on.start();
    plan.push({ method: "queue.finish", call: 1, effect: "fail-after" });
    const letters: DeadLetter[] = [];
    const onDeadLetter = (letter: DeadLetter) => letters.push(letter);
    const events = await eventsDuring(async () => {
      idempotency.relay({ mail: { attemptsMax: 1, deliver: fail } }, { onDeadLetter });
      await on.until(async () => (await waiting()) === 0);
      await on.clock.advance(1_000);
    });
    expect(letters).toMatchObject([{ name: "mail", error: "attempts-exhausted: no route" }]);
    expect(events).not.toContainEqual(expect.objectContaining({ outcome: "lost" }));
  });

  test.each([
    ["throws", () => fail()],
    ["rejects", async () => fail()],
  ])(
    "EN-8: an onDeadLetter that %s is reported, and harms nothing",
    async (_name, onDeadLetter) => {
      on = machines();
      await record("a", [["mail"]]);
      const { idempotency } = on.start();
      const events = await eventsDuring(async () => {
        const mail = { attemptsMax: 1, deliver: fail };
        await idempotency.relay({ mail }, { onDeadLetter }).drain();
        await turns();
      });
      expect(events).toContainEqual(
        expect.objectContaining({ type: "misuse", message: "onDeadLetter() threw: no route" }),
      );
    },
  );

  test("EN-8: a deadline ends the tries, and what is too old is not delivered at all", async () => {
    on = machines();
    await record("a", [["code", 1]]);
    await record("b", [["code", 2]]);
    let tries = 0;
    const { idempotency } = on.start({ random: () => 1 });
    const relay = idempotency.relay(
      {
        code: {
          deadline: "1m",
          base: "20s",
          deliver: () => {
            tries++;
            fail();
          },
        },
      },
      settings,
    );
    await on.until(async () => (await waiting()) === 0);
    expect(tries).toBe(4);
    await relay.close();
    await record("c", [["code", 3]]);
    await on.clock.advance(61_000);
    const late = on.start().idempotency;
    late.relay({ code: { deadline: "1m", deliver: () => expect.unreachable("too late") } });
    await on.until(async () => (await waiting()) === 0);
    const errors = (await late.effects.list({ state: "dead" })).items.map(({ error }) => error);
    expect(errors).toEqual([
      "deadline: it is 61000 ms old",
      "deadline: no route",
      "deadline: no route",
    ]);
  });

  test("EN-8: one that takes too long has failed, and is told so", async () => {
    on = machines();
    await record("a", [["mail", 1]]);
    const reasons: string[] = [];
    let calls = 0;
    on.start().idempotency.relay(
      {
        mail: {
          timeout: "5s",
          deliver: ({ signal }) => {
            if (++calls > 1) return;
            signal.addEventListener("abort", () => reasons.push(signal.reason.message));
            return never();
          },
        },
      },
      settings,
    );
    await on.until(async () => (await waiting()) === 0);
    expect(reasons).toEqual(["timeout: the delivery took longer than 5000 ms"]);
    expect(await items()).toMatchObject([{ started: 2, finished: 2, error: reasons[0] }]);
  });

  test("EN-8: what cannot be retried is given up at once", async () => {
    on = machines();
    await record("a", [["mail", 1]]);
    const { idempotency } = on.start();
    const relay = idempotency.relay({ mail: { deliver: fail, isRetryable: () => false } });
    await relay.drain();
    expect(await items()).toMatchObject([
      { state: "dead", started: 1, error: "not-retryable: no route" },
    ]);
  });

  test("EN-8: an `isRetryable` that throws says nothing: it is tried again after the usual pause", async () => {
    on = machines();
    await record("a", [["mail", 1]]);
    const { idempotency } = on.start();
    const isRetryable = () => {
      throw new Error("a mistake");
    };
    const events = await eventsDuring(async () => {
      idempotency.relay(
        { mail: { deliver: fail, isRetryable, attemptsMax: 3, base: 1, cap: 1 } },
        { ...settings, lease: "1h" },
      );
      await on.until(async () => (await waiting()) === 0);
    });
    expect(await items()).toMatchObject([
      { state: "dead", started: 3, error: "attempts-exhausted: no route" },
    ]);
    expect(events.filter(({ type }) => type === "misuse")).toMatchObject([
      { message: "isRetryable() threw: a mistake" },
      { message: "isRetryable() threw: a mistake" },
    ]);
  });

  test("EN-8: a payload that nobody can read is given up with the reason", async () => {
    on = machines();
    await record("a", [["mail", 1]]);
    const { id } = (await items())[0]!;
    const whole = (await on.records.queue!.read(id))!;
    await on.records.queue!.remove(id);
    const cut = { ...whole, payload: whole.payload.slice(0, 9) };
    await on.records.queue!.add([cut], { dueInMs: 0 });
    await record("b", [["mail", 2]]);
    const log: unknown[] = [];
    const letters: DeadLetter[] = [];
    await on
      .start()
      .idempotency.relay(
        { mail: ({ payload }) => void log.push(payload) },
        { onDeadLetter: (letter) => void letters.push(letter) },
      )
      .drain();
    expect(log).toEqual([2]);
    expect(letters).toMatchObject([
      { key: "a", error: expect.stringContaining("payload-unreadable:") },
    ]);
  });

  test("EN-8: a delivery that kills its process is given up, and others are not", async () => {
    on = machines();
    for (let n = 0; n < 8; n++) await record(String(n), [["mail", n]]);
    const log: number[] = [];
    let deaths = 0;
    const relayIn = (process: Process) =>
      process.idempotency.relay(
        {
          mail: {
            attemptsMax: 5,
            deliver: async ({ payload }) => {
              await turns();
              if (payload === 3) {
                deaths++;
                process.kill();
                await never();
              }
              log.push(payload);
            },
          },
        },
        settings,
      );
    for (let n = 0; n < 20 && (await waiting()) > 0; n++) {
      relayIn(on.start());
      await on.clock.advance(8_000);
    }
    expect(deaths).toBe(5);
    expect([...new Set(log)].toSorted()).toEqual([0, 1, 2, 4, 5, 6, 7]);
    const { items: dead } = await on.start().idempotency.effects.list({ state: "dead" });
    expect(dead).toMatchObject([
      { key: "3", error: "attempts-exhausted: 5 deliveries ended with their process" },
    ]);
  });

  test("EN-8: what is handed on, to be delivered by itself, has all of its tries left", async () => {
    on = machines();
    await record("a", [["slow"]]);
    await record("b", [["mail"]]);
    // Two relays that died with both.
    for (const digit of ["1", "2"]) {
      const owner = digit.repeat(32);
      const names = ["slow", "mail"];
      await on.records.queue!.claim({ kind: "effect", names, limit: 2, leaseMs: 1, owner });
      await on.clock.advance(1);
    }
    const slow = deferred();
    const attempts: number[] = [];
    const { idempotency, plan } = on.start();
    // That the first hand-on is written is found out by reading back.
    plan.push({ method: "queue.finish", call: 1, effect: "fail-after" });
    const events = await eventsDuring(async () => {
      idempotency.relay(
        {
          slow: { deliver: () => slow.promise, timeout: "1h" },
          mail: {
            ...{ attemptsMax: 5, base: 1, cap: 1 },
            deliver: ({ attempt }) => {
              attempts.push(attempt);
              fail();
            },
          },
        },
        settings,
      );
      await on.clock.advance(60_000);
      expect(attempts).toEqual([]);
      slow.resolve();
      await on.until(async () => (await waiting()) === 0);
    });
    expect(
      events.filter((event) => "outcome" in event && event.outcome === "handed-on").length,
    ).toBeGreaterThan(5);
    expect(events).not.toContainEqual(expect.objectContaining({ outcome: "lost" }));
    // Two deliveries have crashed; three have failed.
    expect(attempts).toEqual([3, 4, 5]);
    expect((await items()).find(({ name }) => name === "mail")).toMatchObject({
      ...{ state: "dead", started: 5, finished: 3, error: "attempts-exhausted: no route" },
    });
  });

  test("a store that cannot be told of a delivery has it made again", async () => {
    on = machines();
    await record("a", [["mail", 1]]);
    let deliveries = 0;
    const { idempotency, plan } = on.start();
    plan.push({ method: "queue.finish", effect: "fail-before" });
    idempotency.relay({ mail: () => void deliveries++ }, settings);
    await on.clock.advance(12_000);
    plan.length = 0;
    await on.until(async () => (await waiting()) === 0);
    expect(deliveries).toBeGreaterThan(1);
  });
});

test("EN-8: what was delivered is remembered for the relay's retention, and swept after it", async () => {
  on = machines();
  await record("a", [["mail", 1]]);
  const { idempotency } = on.start();
  await idempotency.relay({ mail: () => {} }, { retention: "2d" }).drain();
  expect(await items()).toMatchObject([{ state: "done", expiresInMs: 2 * 86_400_000 }]);
  expect(await idempotency.purge()).toBe(0);
  await on.clock.advance(2 * 86_400_000);
  // The record of its operation as well.
  expect(await idempotency.purge()).toBe(2);
  expect(await items()).toEqual([]);
});

test("drain() waits for what is due, also where more follows from it, and not for what is to be tried later", async () => {
  on = machines();
  await record(
    "a",
    Array.from({ length: 30 }, (_, n) => ["mail", n] as const),
  );
  await record("b", [["mail", "later"]]);
  const log: unknown[] = [];
  const relay = on.start().idempotency.relay({
    mail: {
      base: "1h",
      deliver: ({ payload }) => (payload === "later" ? fail() : log.push(payload)),
    },
  });
  await relay.drain();
  expect(log).toEqual([...Array(30).keys()]);
  expect(await waiting()).toBe(1);
  const stop = new AbortController();
  const gate = deferred();
  const slow = on.start().idempotency.relay({ slow: () => gate.promise });
  await record("c", [["slow"]]);
  const draining = slow.drain({ signal: stop.signal });
  await turns();
  stop.abort(new Error("enough"));
  await expect(draining).rejects.toThrow("enough");
  gate.resolve();
});

test("checks its handlers and options", () => {
  on = machines();
  const { idempotency } = on.start();
  const refused: [RelayHandlers, object | undefined, string][] = [
    [{}, undefined, "1 to 100 handlers, got 0"],
    [[] as never, undefined, "an object of handlers"],
    [{ mail: 5 } as never, undefined, 'The handler of "mail" takes an object'],
    [{ mail: { send: fail } } as never, undefined, 'The handler of "mail" has no option `send`'],
    [{ mail: {} } as never, undefined, "must be a function, or have one: `deliver`"],
    [{ mail: { deliver: fail, timeout: 0 } }, undefined, "`mail.timeout` must be between 1 ms"],
    [{ mail: { deliver: fail, attemptsMax: 0 } }, undefined, "`mail.attemptsMax`"],
    [{ mail: fail }, { batch: 5 }, "relay() has no option `batch`"],
    [{ mail: fail }, { concurrency: 0 }, "`concurrency` must be a whole number from 1"],
    [{ mail: fail }, { pollInterval: "1ms" }, "`pollInterval` must be between 10 ms"],
    [{ mail: fail }, { onDeadLetter: 5 }, "`onDeadLetter` must be a function"],
    [{ mail: fail }, { signal: 5 }, "`signal` must have the methods"],
    [{ "": fail }, undefined, "An effect's name must be a string of 1 to 255"],
  ];
  for (const [handlers, options, message] of refused) {
    expect(() => idempotency.relay(handlers, options as never)).toThrow(
      expect.objectContaining({ message: expect.stringContaining(message) }),
    );
  }
});

test("the ledger pages, and refuses what is no id", async () => {
  on = machines();
  for (let n = 0; n < 5; n++) await record(String(n), [["mail", n]]);
  await record("x", [["sms", 1]]);
  const { effects } = on.start().idempotency;
  const first = await effects.list({ name: "mail", limit: 3 });
  const second = await effects.list({ name: "mail", limit: 3, cursor: first.cursor! });
  const keys = [...first.items, ...second.items].map(({ key }) => key);
  expect(keys.toSorted()).toEqual(["0", "1", "2", "3", "4"]);
  expect(second.cursor).toBeUndefined();
  await expect(effects.revive("x")).rejects.toMatchObject({ code: "option-invalid" });
  await expect(effects.list({ state: "gone" } as never)).rejects.toThrow("`state` must be one of");
});

test("OB-1: what becomes of effects is told, by the ids of their records", async () => {
  on = machines();
  const process = on.start();
  const events = await eventsDuring(async () => {
    await record("a", [["mail", 1]], process);
    await process.idempotency.relay({ mail: { deliver: fail, attemptsMax: 1 } }).drain();
  });
  const id = expect.stringMatching(/^[0-9a-f]{32}$/);
  const error = "attempts-exhausted: no route";
  expect(events.filter(({ type }) => type === "effect")).toEqual([
    { type: "effect", id, item: id, name: "mail", outcome: "recorded" },
    { type: "effect", id, item: id, name: "mail", outcome: "dead", error },
  ]);
});
