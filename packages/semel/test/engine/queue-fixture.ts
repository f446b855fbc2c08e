// What the tests of durable operations and effects share: several processes over one memory store,
// under a clock that stands still, each of which can die at any of its calls.

import { Idempotency, type IdempotencyOptions } from "../../src/engine/idempotency.ts";
import type { Store } from "../../src/store.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { type Fault, type FaultyStore, faultyStore } from "../../src/testing/faulty-store.ts";
import { type ManualClock, manualClock } from "../../src/testing/manual-clock.ts";
import { turns } from "./fixture.ts";

/** At which of its calls a process dies: before the store hears of it, or before its answer. */
export interface Death {
  call: number;
  when: "before" | "after";
}

export interface Process {
  idempotency: Idempotency;
  store: FaultyStore;
  /** Faults to come: may be added to and emptied while a test runs. */
  plan: Fault[];
  /** None of its calls reaches the store any more, and none is answered. */
  kill(): void;
  /** Whether it has died. */
  readonly isDead: boolean;
  /** How many calls it has made. */
  readonly calls: number;
}

export interface Machines {
  clock: ManualClock;
  records: Store;
  /** A process of its own over the same records. */
  start(options?: Partial<IdempotencyOptions>, death?: Death): Process;
  /** Ends what still runs. */
  stop(): Promise<void>;
  /** Lets time pass, by steps, until something is so. */
  until(holds: () => unknown, stepMs?: number): Promise<void>;
}

export function machines(common: Partial<IdempotencyOptions> = {}): Machines {
  const clock = manualClock();
  const records = memoryStore({ clock });
  const running: Idempotency[] = [];
  return {
    clock,
    records,
    start(options = {}, death) {
      const plan: Fault[] = [];
      const life = mortal(records, death, () => void idempotency.close({ deadline: 0 }));
      const store = faultyStore(life.store, plan);
      const settings = { clock, sweep: false, cache: false, ...common, ...options } as const;
      const idempotency = new Idempotency({ ...settings, store });
      running.push(idempotency);
      return Object.defineProperties(
        { idempotency, plan, kill: life.kill, store },
        {
          isDead: { get: () => life.isDead },
          calls: { get: () => life.calls },
        },
      ) as Process;
    },
    async stop() {
      const closing = running.map((one) => one.close({ deadline: 0 }));
      await clock.advance(60_000);
      await Promise.all(closing);
    },
    async until(holds, stepMs = 250) {
      for (let steps = 0; steps < 4_000; steps++) {
        await turns();
        if (await holds()) return;
        await clock.advance(stepMs);
      }
      throw new Error(`it never came to be that ${holds}`);
    },
  };
}

/** A store whose process may die: what it asks for then is never done and never answered. */
function mortal(records: Store, death: Death | undefined, onDeath: () => void) {
  let calls = 0;
  let isDead = false;
  const die = () => {
    isDead = true;
    // What it would go on trying in vain.
    onDeath();
  };
  const called = async (call: () => unknown) => {
    calls++;
    const isLast = !isDead && calls === death?.call;
    if (isLast && death?.when === "before") die();
    if (isDead) return never();
    const answer = await call();
    if (isLast) die();
    return isDead ? never() : answer;
  };
  const guarded = <Owner extends object>(owner: Owner): Owner =>
    new Proxy(owner, {
      get(target, name) {
        const member: unknown = Reflect.get(target, name, target);
        if (typeof member === "object" && member !== null) return guarded(member);
        if (typeof member !== "function") return member;
        return (...given: unknown[]) => called(() => member.apply(target, given));
      },
    });
  return {
    store: guarded(records),
    kill: die,
    get isDead() {
      return isDead;
    },
    get calls() {
      return calls;
    },
  };
}

export function never(): Promise<never> {
  return new Promise(() => {});
}
