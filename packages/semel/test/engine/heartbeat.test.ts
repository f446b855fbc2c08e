// Leases kept alive, lost, and taken (SM-11, SM-17, SM-20).

import { describe, expect, test } from "vitest";
import { AttemptSuperseded, OperationHeld, OperationVoid } from "../../src/errors.ts";
import { deferred, type Fixture, failure, fixture, turns } from "./fixture.ts";

describe("a heartbeat (SM-20)", () => {
  test("renews at a third of the lease for as long as the handler runs, and no longer", async () => {
    const { idempotency, another, store, clock } = fixture({ lease: "30s" });
    const finish = deferred();
    const first = idempotency.run({ key: "k" }, () => finish.promise);
    await clock.advance(9_999);
    expect(store.calls.renew).toBe(0);
    await clock.advance(1);
    expect(store.calls.renew).toBe(1);
    await clock.advance(290_000);
    expect(store.calls.renew).toBe(30);
    expect(await failure(another().run({ key: "k" }, () => 2))).toMatchObject({
      code: "operation-in-progress",
    });
    finish.resolve();
    await first;
    await clock.advance(60_000);
    expect(store.calls.renew).toBe(30);
    expect(clock.pending, "no timer is left").toBe(0);
  });

  test("serves many attempts with leases of several lengths, each at its own time", async () => {
    const { idempotency, store, clock } = fixture();
    const finish = deferred();
    const all: Promise<unknown>[] = [];
    for (let n = 0; n < 20; n++) {
      const lease = n % 2 === 0 ? "3s" : "30s";
      all.push(idempotency.run({ key: `k${n}`, lease }, () => finish.promise));
      await clock.advance(50);
    }
    await clock.advance(60_000 - 1_000);
    const states = await Promise.all(
      Array.from({ length: 20 }, (_, n) => idempotency.status({ key: `k${n}` })),
    );
    expect(states.map(({ state }) => state)).toEqual(Array(20).fill("running"));
    // 10 attempts every second, 10 every ten seconds, the youngest not yet at its last beat.
    expect(store.calls.renew).toBeGreaterThan(640);
    expect(store.calls.renew).toBeLessThanOrEqual(660);
    finish.resolve();
    await Promise.all(all);
  });

  test("that fails is tried again at the next beat, and the attempt stands (SM-11)", async () => {
    const { idempotency, another, plan, clock } = fixture({ lease: "3s" });
    const finish = deferred<number>();
    let signal: AbortSignal | undefined;
    const first = idempotency.run({ key: "k" }, (operation) => {
      signal = operation.signal;
      return finish.promise;
    });
    plan.push({ method: "renew", effect: "fail-before" });
    await clock.advance(10_000);
    plan.length = 0;
    await clock.advance(1_000);
    expect(signal?.aborted).toBe(false);
    expect(await another().status({ key: "k" })).toMatchObject({ state: "running" });
    finish.resolve(1);
    expect((await first).value).toBe(1);
  });

  test("that stalls in the store does not hold up the next one", async () => {
    const { idempotency, another, plan, clock } = fixture({ lease: "3s" });
    const finish = deferred<number>();
    const first = idempotency.run({ key: "k" }, () => finish.promise);
    plan.push({ method: "renew", call: 1, effect: "delay", until: new Promise(() => {}) });
    await clock.advance(10_000);
    expect(await another().status({ key: "k" })).toMatchObject({ state: "running" });
    finish.resolve(1);
    expect((await first).value).toBe(1);
  });

  test("that finds its own attempt just completed does not abort it", async () => {
    const { idempotency, plan, clock } = fixture({ lease: "3s" });
    const reply = deferred();
    plan.push({ method: "settle", call: 1, effect: "delay-reply", until: reply.promise });
    const finish = deferred<number>();
    let signal: AbortSignal | undefined;
    const first = idempotency.run({ key: "k" }, (operation) => {
      signal = operation.signal;
      return finish.promise;
    });
    await clock.advance(500);
    finish.resolve(1);
    await clock.advance(1_000);
    expect(signal?.aborted).toBe(false);
    reply.resolve();
    expect(await first).toMatchObject({ value: 1, replayed: false });
  });
});

describe("an attempt that lost its lease (SM-17, SM-20)", () => {
  /** An attempt whose process stalled past its lease, and what `meanwhile` did to its record. */
  async function zombie(
    meanwhile: (engine: Fixture) => Promise<unknown>,
    end: () => string = () => "of the zombie",
  ) {
    const engine = fixture({ lease: "3s", onCrash: "rerun" });
    const { idempotency, plan, clock } = engine;
    const finish = deferred();
    let signal: AbortSignal | undefined;
    const first = idempotency.run({ key: "k", payload: 1 }, async (operation) => {
      signal = operation.signal;
      await finish.promise;
      return end();
    });
    first.catch(() => {});
    plan.push({ method: "renew", effect: "fail-before" });
    await clock.advance(3_000);
    await meanwhile(engine);
    plan.length = 0;
    return { ...engine, first, finish, signal: () => signal! };
  }
  const succeed = ({ another }: Fixture) =>
    another().run({ key: "k", payload: 1 }, () => "of the successor");

  test("is told by its signal, and its caller gets the successor's result", async () => {
    const { first, finish, signal, clock, another } = await zombie(succeed);
    expect(signal().aborted).toBe(false);
    await clock.advance(1_000);
    expect(signal().aborted).toBe(true);
    expect(signal().reason).toBeInstanceOf(AttemptSuperseded);
    finish.resolve();
    expect(await first).toEqual({ value: "of the successor", replayed: true, attempt: 2 });
    expect((await another().run({ key: "k", payload: 1 }, () => "x")).value).toBe(
      "of the successor",
    );
  });

  test("gets the successor's result also when it learns of it only at its end", async () => {
    const { first, finish } = await zombie(succeed);
    finish.resolve();
    expect((await first).value).toBe("of the successor");
  });

  test("gets the successor's result also when its own handler throws", async () => {
    const { first, finish, another } = await zombie(succeed, () => {
      throw new Error("too late");
    });
    finish.resolve();
    expect((await first).value).toBe("of the successor");
    expect((await another().run({ key: "k", payload: 1 }, () => "x")).value).toBe(
      "of the successor",
    );
  });

  test("a signal that is first asked for after the lease was lost is aborted", async () => {
    const { idempotency, another, plan, clock } = fixture({ lease: "3s", onCrash: "rerun" });
    const finish = deferred();
    const first = idempotency.run({ key: "k" }, async (operation) => {
      await finish.promise;
      return operation.signal.aborted;
    });
    plan.push({ method: "renew", effect: "fail-before" });
    await clock.advance(3_000);
    await another().run({ key: "k" }, () => "second");
    plan.length = 0;
    await clock.advance(1_000);
    finish.resolve();
    expect((await first).value).toBe("second");
  });

  test("waits for a successor that still runs, and gets its result", async () => {
    const slow = deferred<string>();
    const { first, finish, clock } = await zombie(async ({ another }) => {
      void another().run({ key: "k", payload: 1 }, () => slow.promise);
      await turns();
    });
    finish.resolve();
    await clock.advance(2_000);
    slow.resolve("of the successor");
    await clock.advance(600);
    expect((await first).value).toBe("of the successor");
  });

  test("is told that it is busy when the successor runs for longer than is waited", async () => {
    const { first, finish, clock } = await zombie(async ({ another }) => {
      void another().run({ key: "k", payload: 1 }, () => new Promise(() => {}));
      await turns();
    });
    finish.resolve();
    await clock.advance(6_000);
    expect(await failure(first)).toMatchObject({ code: "operation-in-progress" });
  });

  test("is told what else became of its operation: held, void, gone, released, another's", async () => {
    const outcomes: [(engine: Fixture) => Promise<unknown>, unknown][] = [
      [
        ({ another }) =>
          failure(
            another().run({ key: "k", payload: 1, onError: "hold" }, () => {
              throw new Error("unsure");
            }),
          ),
        OperationHeld,
      ],
      [({ another }) => another().void({ key: "k" }), OperationVoid],
      [({ another }) => another().delete({ key: "k" }), AttemptSuperseded],
      [
        ({ another }) =>
          failure(
            another().run({ key: "k", payload: 1 }, () => {
              throw new Error("no");
            }),
          ),
        AttemptSuperseded,
      ],
    ];
    for (const [meanwhile, expected] of outcomes) {
      const { first, finish } = await zombie(meanwhile);
      finish.resolve();
      expect(await failure(first)).toBeInstanceOf(expected);
    }
  });

  test("never gets the result of another payload, when its key was deleted and used again", async () => {
    const { first, finish } = await zombie(async ({ another }) => {
      await another().delete({ key: "k" });
      await another().run({ key: "k", payload: 2 }, () => "of another payload");
    });
    finish.resolve();
    expect(await failure(first)).toMatchObject({ code: "key-reused" });
  });

  test("gets a bounded answer when the store fails while it looks for its successor (SM-22)", async () => {
    const { first, finish, clock, plan } = await zombie(async ({ another }) => {
      void another().run({ key: "k", payload: 1 }, () => new Promise(() => {}));
      await turns();
    });
    finish.resolve();
    await clock.advance(100);
    plan.push({ method: "read", effect: "fail-before", error: new TypeError("broken store") });
    await clock.advance(6_000);
    expect(await failure(first)).toMatchObject({ code: "operation-in-progress" });
  });

  test("gets a bounded answer when the store hangs while it looks for its successor", async () => {
    const { first, finish, clock, plan } = await zombie(async ({ another }) => {
      void another().run({ key: "k", payload: 1 }, () => new Promise(() => {}));
      await turns();
    });
    finish.resolve();
    await clock.advance(100);
    plan.push({ method: "read", effect: "delay", until: new Promise(() => {}) });
    await clock.advance(6_000);
    expect(await failure(first)).toMatchObject({ code: "operation-in-progress" });
  });

  test("does not hold up its process: duplicates there get the successor's result at once", async () => {
    const { idempotency, finish, first, clock } = await zombie(succeed);
    const early = failure(idempotency.run({ key: "k", payload: 1 }, () => "x"));
    expect(await early).toMatchObject({ code: "operation-in-progress" });
    const waiting = idempotency.run({ key: "k", payload: 1, wait: "1m" }, () => "x");
    await clock.advance(1_000);
    expect((await waiting).value).toBe("of the successor");
    expect((await idempotency.run({ key: "k", payload: 1 }, () => "x")).value).toBe(
      "of the successor",
    );
    finish.resolve();
    await first;
  });

  test("does not end a later attempt of its own process", async () => {
    const { idempotency, finish, first, clock, store, another } = await zombie(({ another }) =>
      failure(
        another().run({ key: "k", payload: 1 }, () => {
          throw new Error("released");
        }),
      ),
    );
    await clock.advance(1_000);
    const later = deferred<string>();
    const third = idempotency.run({ key: "k", payload: 1 }, () => later.promise);
    await turns();
    const begins = store.calls.begin;
    finish.resolve();
    await turns();
    for (const from of [idempotency, another()]) {
      const error = await failure(from.run({ key: "k", payload: 1 }, () => "x"));
      expect(error).toMatchObject({ code: "operation-in-progress" });
    }
    expect(store.calls.begin, "its own process still knows the third").toBe(begins);
    later.resolve("third");
    expect(await third).toEqual({ value: "third", replayed: false, attempt: 3 });
    await clock.advance(1_000);
    expect((await first).value).toBe("third");
  });
});

test("a lapsed lease that nobody took may still complete (SM-11, SM-17)", async () => {
  const { idempotency, another, plan, clock } = fixture({ lease: "3s" });
  const finish = deferred<number>();
  const first = idempotency.run({ key: "k" }, () => finish.promise);
  plan.push({ method: "renew", effect: "fail-before" });
  await clock.advance(60_000);
  finish.resolve(1);
  expect(await first).toEqual({ value: 1, replayed: false, attempt: 1 });
  expect((await another().run({ key: "k" }, () => 2)).value).toBe(1);
});

test("SM-20: a heartbeat does not queue renewals behind one that the store has not answered", async () => {
  const { clock, store, plan, idempotency } = fixture();
  const silence = deferred();
  plan.push({ method: "renew", effect: "delay", until: silence.promise });
  const end = deferred();
  const outcome = idempotency.run({ key: "k", lease: "30s" }, () => end.promise);
  await turns();
  for (let beats = 0; beats < 6; beats++) await clock.advance(10_000);
  expect(store.calls.renew).toBeLessThanOrEqual(2);
  silence.resolve();
  end.resolve();
  await outcome;
});
