// EN-7 and EN-8 together, broken at every call of the store: the process dies before the store hears of
// it, or before the answer comes back; the answer is lost; the call is made twice. Whoever comes after
// finishes, every step has one effect at a downstream that remembers its key, and the effect is
// delivered under one id.

import { afterEach, describe, expect, test } from "vitest";
import type { Operation } from "../../src/engine/attempt.ts";
import { OperationFailed } from "../../src/errors.ts";
import type { Fault } from "../../src/testing/faulty-store.ts";
import { turns } from "./fixture.ts";
import { type Death, type Machines, machines, type Process } from "./queue-fixture.ts";

let on: Machines;

afterEach(() => on.stop());

const asked = { key: "k", scope: "acme", input: { to: "airport" } } as const;
const name = { key: "k", scope: "acme" } as const;

function ignore(): void {}

/** Does what it is asked for once for each key, and gives the same answer again. */
class Downstream {
  readonly calls: string[] = [];
  readonly effects = new Map<string, string>();

  ask(what: string, key: string): string {
    this.calls.push(what);
    const answer = this.effects.get(key) ?? `${what} ${this.effects.size}`;
    this.effects.set(key, answer);
    return answer;
  }

  counts(): Record<string, number> {
    const counts: Record<string, number> = {};
    for (const answer of this.effects.values()) {
      const what = answer.split(" ")[0]!;
      counts[what] = (counts[what] ?? 0) + 1;
    }
    return counts;
  }
}

interface World {
  downstream: Downstream;
  /** What steps saw of those before them. */
  seen: Map<string, Set<string>>;
  delivered: Set<string>;
}

function world(): World {
  return { downstream: new Downstream(), seen: new Map(), delivered: new Set() };
}

/** A process that does rides and delivers their receipts. */
function riding({ idempotency }: Process, { downstream, seen, delivered }: World, fails = false) {
  const handler = async (input: { to: string }, { step, effect }: Operation) => {
    const saw = (step: string, value: string) =>
      seen.set(step, (seen.get(step) ?? new Set()).add(value));
    const undo = (what: string) => ({
      undo: (_value: string, { idempotencyKey }: { idempotencyKey: string }) =>
        void downstream.ask(what, idempotencyKey),
    });
    const reserved = await step(
      "reserve",
      ({ idempotencyKey }) => downstream.ask("reserve", idempotencyKey),
      undo("release"),
    );
    saw("reserve", reserved);
    const charged = await step(
      "charge",
      ({ idempotencyKey }) => downstream.ask("charge", idempotencyKey),
      undo("refund"),
    );
    saw("charge", charged);
    if (fails) throw new OperationFailed(new Error("no driver"));
    await effect("receipt", { charged });
    return `${input.to}: ${reserved}, ${charged}`;
  };
  const ride = idempotency.operation("ride", { handler, lease: "3s" });
  return {
    ride,
    work() {
      const settings = { lease: "3s", pollInterval: "500ms" } as const;
      idempotency.worker({ operations: [ride], ...settings });
      idempotency.relay({ receipt: ({ id }) => void delivered.add(id) }, settings);
    },
  };
}

async function delivered(): Promise<boolean> {
  const { states } = await on.records.queue!.stats();
  return states.effect.waiting === 0 && states.task.waiting === 0;
}

/** What every history ends in, however it went. */
async function check(world: World, finisher: ReturnType<typeof riding>): Promise<void> {
  const { value } = await finisher.ride.run(asked);
  const [reserved] = [...world.seen.get("reserve")!];
  const [charged] = [...world.seen.get("charge")!];
  expect(value).toBe(`airport: ${reserved}, ${charged}`);
  // One value each, in whatever attempt.
  expect([...world.seen.values()].map(({ size }) => size)).toEqual([1, 1]);
  expect(world.downstream.counts()).toEqual({ reserve: 1, charge: 1 });
  expect(world.delivered.size).toBe(1);
}

/** How many calls a process makes for one ride, asked for and done in it. */
async function callsOf(fails: boolean): Promise<number> {
  on = machines();
  const process = on.start();
  const { ride, work } = riding(process, world(), fails);
  await ride.start(asked);
  work();
  await on.until(async () => ["completed", "failed"].includes((await ride.status(name)).state));
  await on.until(delivered);
  await on.stop();
  return process.calls;
}

describe("EN-7: a process that dies at any call of the store", () => {
  test.each<Death["when"]>(["before", "after"])(
    "%s it is answered leaves what another one finishes",
    async (when) => {
      const calls = await callsOf(false);
      expect(calls).toBeGreaterThan(12);
      let deaths = 0;
      for (let call = 1; call <= calls; call++) {
        on = machines();
        const shared = world();
        const dying = on.start({}, { call, when });
        const { ride, work } = riding(dying, shared);
        let isStarted = false;
        ride.start(asked).then(() => {
          isStarted = true;
          work();
        }, ignore);
        await turns();
        await on.clock.advance(2_000);
        if (dying.isDead) deaths++;
        const finisher = riding(on.start(), shared);
        // Whoever was not told that it is kept asks again.
        if (!isStarted) await finisher.ride.start(asked);
        finisher.work();
        await on.until(async () => (await finisher.ride.status(name)).state === "completed");
        await on.until(delivered);
        await check(shared, finisher);
        await on.stop();
      }
      expect(deaths).toBeGreaterThan(12);
    },
  );

  test("and one after it, at any of its own calls", async () => {
    for (let call = 6; call <= 18; call++) {
      for (let second = 1; second <= 18; second++) {
        on = machines();
        const shared = world();
        const first = riding(on.start({}, { call, when: "after" }), shared);
        first.ride.start(asked).then(first.work, ignore);
        await on.clock.advance(1_000);
        riding(on.start({}, { call: second, when: "before" }), shared).work();
        await on.clock.advance(8_000);
        const finisher = riding(on.start(), shared);
        finisher.work();
        await on.until(async () => (await finisher.ride.status(name)).state === "completed");
        await on.until(delivered);
        await check(shared, finisher);
        await on.stop();
      }
    }
  });

  test("while it undoes a ride that failed for good: the next one goes on undoing, and never forward", async () => {
    const calls = await callsOf(true);
    for (const when of ["before", "after"] as const) {
      for (let call = 1; call <= calls; call++) {
        on = machines();
        const shared = world();
        const first = riding(on.start({}, { call, when }), shared, true);
        let isStarted = false;
        first.ride.start(asked).then(() => {
          isStarted = true;
          first.work();
        }, ignore);
        await on.clock.advance(2_000);
        const began = shared.downstream.counts();
        // What failed may succeed by now.
        const finisher = riding(on.start(), shared, false);
        if (!isStarted) await finisher.ride.start(asked);
        finisher.work();
        const state = async () => (await finisher.ride.status(name)).state;
        await on.until(async () => ["completed", "failed"].includes(await state()));
        await on.until(delivered);
        const isUndone = began["refund"] !== undefined || (await state()) === "failed";
        expect(await state()).toBe(isUndone ? "failed" : "completed");
        expect(shared.downstream.counts()).toEqual({
          ...{ reserve: 1, charge: 1 },
          ...(isUndone && { refund: 1, release: 1 }),
        });
        expect(shared.delivered.size).toBe(isUndone ? 0 : 1);
        await on.stop();
      }
    }
  });
});

describe("EN-7: a store that fails at any call", () => {
  test.each<Fault["effect"] & ("fail-before" | "fail-after" | "twice")>([
    "fail-before",
    "fail-after",
    "twice",
  ])("(%s) delays an operation, and changes nothing about it", async (effect) => {
    const calls = await callsOf(false);
    for (let call = 1; call <= calls; call++) {
      on = machines();
      const shared = world();
      const process = on.start();
      process.plan.push({ call, effect });
      const { ride, work } = riding(process, shared);
      const tried = ride.start(asked).catch(() => ride.start(asked));
      await on.clock.advance(1_000);
      await tried;
      work();
      const { ride: watched } = riding(on.start(), shared);
      await on.until(async () => (await watched.status(name)).state === "completed");
      await on.until(delivered);
      await check(shared, { ride: watched, work });
      await on.stop();
    }
  });
});
