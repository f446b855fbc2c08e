// Workers (EN-7): what each of them claims, how many share the work, how they end, and what they do
// about work that ends them.

import { afterEach, describe, expect, test } from "vitest";
import type { Operation } from "../../src/engine/attempt.ts";
import type { Worker } from "../../src/engine/durable/worker.ts";
import { Idempotency } from "../../src/engine/idempotency.ts";
import type { StoreQueue } from "../../src/store.ts";
import { deferred, eventsDuring, isSettled, turns } from "./fixture.ts";
import { type Machines, machines, never, type Process } from "./queue-fixture.ts";

let on: Machines;

afterEach(() => on.stop());

const settings = { lease: "3s", pollInterval: "1s" } as const;

/** A process with the operation "ride", and a worker for it. */
function riding(
  handler: (input: number, operation: Operation) => unknown,
  process: Process = on.start(),
) {
  const ride = process.idempotency.operation("ride", { handler, lease: "3s" });
  const work = (concurrency = 10): Worker =>
    process.idempotency.worker({ operations: [ride], concurrency, ...settings });
  return { ...process, ride, work, kill: () => process.kill() };
}

const request = (n: number) => ({ key: `ride-${n}`, input: n });
const waiting = async () => (await on.records.queue!.stats()).states.task.waiting;

describe("many workers", () => {
  test("EN-7: share the work, and no two of them do one operation", async () => {
    on = machines();
    const done: number[] = [];
    const asking = riding(() => {});
    for (let n = 0; n < 300; n++) await asking.ride.start(request(n));
    const by = [0, 0, 0];
    for (const worker of [0, 1, 2]) {
      riding(async (n) => {
        await turns();
        by[worker]!++;
        done.push(n);
      }).work();
    }
    await on.until(async () => (await waiting()) === 0);
    expect(done.toSorted((one, other) => one - other)).toEqual(
      Array.from({ length: 300 }, (_, n) => n),
    );
    for (const share of by) expect(share).toBeGreaterThan(10);
  });

  test("a queue that throws at once is asked again, as one that fails", async () => {
    on = machines();
    const queue: Partial<StoreQueue> = on.records.queue!;
    queue.claim = () => {
      throw new TypeError("no connection");
    };
    const idempotency = new Idempotency({ store: on.records, clock: on.clock, sweep: false });
    const ride = idempotency.operation("ride", { handler: () => "ridden" });
    const worker = idempotency.worker({ operations: [ride], ...settings });
    await expect(worker.drain()).rejects.toThrow("no connection");
    delete queue.claim;
    await ride.start(request(1));
    await on.until(async () => (await ride.status({ key: "ride-1" })).state === "completed");
    await worker.close();
  });

  test("a store that hangs is not asked again and again to renew a claim", async () => {
    on = machines();
    const { ride, work, plan, store } = riding(() => never());
    plan.push({ method: "queue.renew", effect: "delay", until: never() });
    await ride.start(request(1));
    work();
    await on.clock.advance(60_000);
    expect(store.calls["queue.renew"]).toBe(2);
  });

  test("an operation that a worker does not know is left for one that does", async () => {
    on = machines();
    const { ride, idempotency } = riding(() => "ridden");
    const other = idempotency.operation("other", { handler: () => "done" });
    await ride.start(request(1));
    await other.start({ key: "k" });
    await idempotency.worker({ operations: [other] }).drain();
    expect(await other.status({ key: "k" })).toMatchObject({ state: "completed" });
    expect(await ride.status({ key: "ride-1" })).toMatchObject({ state: "waiting", attempt: 0 });
    expect((await on.records.queue!.list({ kind: "task", limit: 9 })).items).toMatchObject([
      { name: "ride", started: 0 },
    ]);
  });

  test("back-pressure: claims no more than there is room for, however much waits", async () => {
    on = machines();
    const gates = Array.from({ length: 3_000 }, () => deferred());
    const asking = riding(() => {});
    await Promise.all(gates.map((_, n) => asking.ride.start(request(n))));
    let running = 0;
    let most = 0;
    const working = riding(async (n) => {
      most = Math.max(most, ++running);
      await gates[n]!.promise;
      running--;
    });
    working.work(7);
    await on.clock.advance(20_000);
    expect(running).toBe(7);
    // One look, whatever waits.
    expect(working.store.calls["queue.claim"]).toBe(1);
    expect((await working.store.queue!.stats()).states.task.waiting).toBe(3_000);
    for (const gate of gates) gate.resolve();
    await on.until(async () => (await waiting()) === 0);
    expect(most).toBe(7);
  });

  test("work that is added in this process is begun at once, that of others at the next look", async () => {
    on = machines();
    const begun: number[] = [];
    const { ride, work } = riding((n) => void begun.push(n));
    work();
    await turns();
    await ride.start(request(1));
    await turns();
    expect(begun).toEqual([1]);
    await riding(() => {}).ride.start(request(2));
    await turns();
    expect(begun).toEqual([1]);
    await on.clock.advance(1_500);
    expect(begun).toEqual([1, 2]);
  });
});

describe("crashes", () => {
  test("EN-7: what a worker died in goes on elsewhere, with the steps that were saved", async () => {
    on = machines();
    const charged: number[] = [];
    const handler =
      (dies: boolean) =>
      async (n: number, { step }: Operation) => {
        await step("charge", () => charged.push(n));
        if (dies) await never();
      };
    const dying = riding(handler(true));
    for (let n = 0; n < 20; n++) await dying.ride.start(request(n));
    dying.work();
    await turns();
    dying.kill();
    const { work, ride } = riding(handler(false));
    work();
    await on.until(async () => (await waiting()) === 0);
    expect(charged.toSorted((one, other) => one - other)).toEqual([...Array(20).keys()]);
    for (let n = 0; n < 20; n++) {
      expect(await ride.status({ key: `ride-${n}` })).toMatchObject({ state: "completed" });
    }
  });

  test("SM-23a: an operation that kills its process is held in the end, and others are not", async () => {
    on = machines();
    const done: number[] = [];
    let deaths = 0;
    for (let process = 0; process < 60; process++) {
      let kill = () => {};
      const working = riding(async (n) => {
        await turns();
        if (n === 13) {
          deaths++;
          kill();
          await never();
        }
        done.push(n);
      });
      kill = working.kill;
      if (process === 0) {
        for (let n = 10; n < 20; n++) await working.ride.start(request(n));
      }
      working.work();
      await on.clock.advance(6_000);
      if ((await on.records.queue!.stats()).states.task.dead > 0) break;
    }
    const { ride, work } = riding((n) => void done.push(n));
    work();
    await on.until(async () => (await waiting()) === 0);
    expect(await ride.status({ key: "ride-13" })).toMatchObject({
      state: "held",
      error: "attempts-exhausted",
    });
    expect(deaths).toBe(10);
    const others = [10, 11, 12, 14, 15, 16, 17, 18, 19];
    for (const n of others) {
      expect(await ride.status({ key: `ride-${n}` })).toMatchObject({ state: "completed" });
    }
    expect([...new Set(done)].toSorted((one, other) => one - other)).toEqual(others);
  });

  test("a worker that lost its claim and its lease completes nothing", async () => {
    on = machines();
    const gate = deferred();
    const slow = riding(() => gate.promise.then(() => "slow"));
    await slow.ride.start(request(1));
    slow.work();
    await turns();
    // Its calls hang for longer than its leases, then it comes back.
    slow.plan.push({ method: "renew", effect: "delay", until: never() });
    slow.plan.push({ method: "queue.renew", effect: "delay", until: never() });
    const quick = riding(() => "quick");
    quick.work();
    await on.until(async () => (await quick.ride.status({ key: "ride-1" })).state === "completed");
    slow.plan.length = 0;
    gate.resolve();
    await on.clock.advance(10_000);
    expect((await quick.ride.run(request(1))).value).toBe("quick");
    expect(await waiting()).toBe(0);
  });

  test("while the store cannot be asked it goes on trying, and then goes on working", async () => {
    on = machines();
    const { ride, work, plan, store } = riding(() => "done");
    await ride.start(request(1));
    plan.push({ method: "queue.claim", effect: "fail-before" });
    const worker = work();
    await on.clock.advance(30_000);
    const tries = store.calls["queue.claim"];
    expect(tries).toBeGreaterThan(3);
    expect(tries).toBeLessThan(40);
    await expect(worker.drain()).rejects.toMatchObject({ code: "store-unavailable" });
    plan.length = 0;
    await on.until(async () => (await ride.status({ key: "ride-1" })).state === "completed");
  });
});

describe("close() (EN-10)", () => {
  test("claims no more, waits for what runs, and leaves the rest to others", async () => {
    on = machines();
    const gate = deferred();
    const begun: number[] = [];
    const { ride, work } = riding(async (n) => {
      begun.push(n);
      await gate.promise;
    });
    for (let n = 0; n < 4; n++) await ride.start(request(n));
    const worker = work(2);
    await turns();
    const closing = worker.close({ deadline: "1m" });
    await ride.start(request(4));
    await turns();
    expect(await isSettled(closing)).toBe(false);
    expect(await isSettled(worker.closed)).toBe(false);
    gate.resolve();
    expect(await closing).toBe(0);
    await worker.closed;
    expect(begun).toHaveLength(2);
    expect((await on.records.queue!.list({ kind: "task", limit: 9 })).items).toMatchObject(
      Array.from({ length: 3 }, () => ({ started: 0 })),
    );
    await riding((n) => void begun.push(n))
      .work()
      .drain();
    expect(begun.toSorted()).toEqual([0, 1, 2, 3, 4]);
    await expect(worker.drain()).rejects.toMatchObject({ code: "closed" });
  });

  test("EN-10: none begins after its engine was closed", async () => {
    on = machines();
    const { idempotency, ride, work } = riding(() => expect.unreachable("it ran"));
    await ride.start(request(1));
    await idempotency.close({ deadline: 0 });
    expect(() => work()).toThrow(expect.objectContaining({ code: "closed" }));
    expect(() => idempotency.relay({ mail: () => {} })).toThrow(
      expect.objectContaining({ code: "closed" }),
    );
    expect(await waiting()).toBe(1);
  });

  test("hands back at once what it had claimed and not begun", async () => {
    on = machines();
    const claimed = deferred();
    const closing = riding(() => expect.unreachable("it ran in a worker that closes"));
    await closing.ride.start(request(1));
    closing.plan.push({ method: "queue.claim", effect: "delay-reply", until: claimed.promise });
    const worker = closing.work();
    await turns();
    const closed = worker.close();
    claimed.resolve();
    expect(await closed).toBe(0);
    const { ride, work } = riding(() => "elsewhere");
    await work().drain();
    expect((await ride.run(request(1))).value).toBe("elsewhere");
  });

  test("leaves to lapse what does not end in time; another one goes on", async () => {
    on = machines();
    const { ride, work } = riding(() => never());
    await ride.start(request(1));
    const worker = work();
    await turns();
    const closing = worker.close({ deadline: "2s" });
    await on.clock.advance(2_000);
    expect(await closing).toBe(1);
    const other = riding((_n, { attempt }) => `attempt ${attempt}`);
    other.work();
    await on.until(async () => (await other.ride.status({ key: "ride-1" })).state === "completed");
    expect((await other.ride.run(request(1))).value).toBe("attempt 2");
  });

  test("an aborted signal closes it, and so does the instance's own close()", async () => {
    on = machines();
    const stop = new AbortController();
    const { ride, idempotency } = riding(() => {});
    const operations = [ride];
    const stopped = idempotency.worker({ operations, signal: stop.signal });
    const other = idempotency.worker({ operations });
    stop.abort();
    await stopped.closed;
    expect(await isSettled(other.closed)).toBe(false);
    const late = idempotency.worker({ operations, signal: AbortSignal.abort() });
    await late.closed;
    await idempotency.close();
    await other.closed;
  });
});

test("OB-1: what becomes of operations is told, by the ids of their records", async () => {
  on = machines();
  let fails = true;
  const { ride, work } = riding(() => {
    fails = !fails;
    if (!fails) throw new Error("no driver");
  });
  const events = await eventsDuring(async () => {
    await ride.start(request(1));
    work();
    await on.until(async () => (await waiting()) === 0);
  });
  const told = events.filter(({ type }) => type === "task");
  const id = expect.stringMatching(/^[0-9a-f]{32}$/);
  expect(told).toEqual([
    { type: "task", id, item: id, name: "ride", outcome: "recorded" },
    { type: "task", id, item: id, name: "ride", outcome: "retry", error: "no driver" },
    { type: "task", id, item: id, name: "ride", outcome: "done" },
  ]);
});
