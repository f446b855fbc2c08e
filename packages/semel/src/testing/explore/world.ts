// One run of an exploration: processes that share a store and a clock, the faults that hit them, and
// what came of it all. Everything that a process does passes through a *point*, where it may die, stand
// still, or be lied to.

import { Idempotency } from "../../engine/idempotency.ts";
import { StoreUnavailable } from "../../errors.ts";
import type { Store } from "../../store.ts";
import { memoryStore } from "../../stores/memory.ts";
import { type ManualClock, manualClock } from "../manual-clock.ts";
import type {
  EffectOptions,
  ExplorationFault,
  ExplorationOptions,
  ExploredProcess,
  InjectedFault,
} from "./exploration.ts";
import { observedStore } from "./observed-store.ts";

/** Longer than any lease, wait or pause between retries that an operation may have. */
export const LONG_MS = 3_600_000;
/** Turns of the event loop in which whatever can go on by itself has gone on. */
const TURNS = 4;
/** Calls after which a run goes round in circles. */
const POINTS_MAX = 20_000;

export type Plan = ReadonlyMap<number, ExplorationFault>;

/** Runs the operation as a caller of its own, to its end. */
export type Successor = () => Promise<void>;

export class World {
  readonly clock = manualClock();
  readonly trace: string[] = [];
  readonly faults: InjectedFault[] = [];
  /** By name, without what was remembered. */
  readonly effects = new Map<string, number>();
  /** Calls so far, of all processes. */
  points = 0;
  readonly #remembered = new Map<string, unknown>();
  readonly #counts = new Map<string, number>();
  readonly #plan: Plan;
  readonly #options: ExplorationOptions;
  #store!: Store;
  #processes = 0;
  /** Real work under way: time does not pass meanwhile. */
  #working = 0;
  #successor: Successor = async () => {};
  readonly #duplicates: Promise<void>[] = [];

  constructor(plan: Plan, options: ExplorationOptions) {
    this.#plan = plan;
    this.#options = options;
  }

  async open(successor: Successor): Promise<void> {
    const { clock } = this;
    this.#store = (await this.#options.store?.(clock)) ?? memoryStore({ clock });
    this.#successor = successor;
  }

  /** A process that has just started. */
  process(): SimulatedProcess {
    this.#processes++;
    return new SimulatedProcess(this, this.#store, `process ${this.#processes}`, this.#options);
  }

  /**
   * Lets time pass until the work ends: from timer to timer, as nothing else happens in between.
   *
   * @returns false when the process died, or when nothing that it waits for will ever come
   */
  async drive(process: SimulatedProcess, work: Promise<unknown>): Promise<boolean> {
    let isOver = false;
    const over = () => {
      isOver = true;
    };
    work.then(over, over);
    const until = this.clock.now() + LONG_MS;
    while (!isOver) {
      for (let turn = 0; turn < TURNS && !isOver; turn++) await aTurn();
      if (isOver) break;
      if (process.isDead) return false;
      // Its successor has time pass.
      if (process.isStopped) continue;
      if (this.#working > 0) {
        await aMoment();
        continue;
      }
      const { nextInMs } = this.clock;
      if (nextInMs === undefined || this.clock.now() + nextInMs > until) return false;
      await this.clock.advance(nextInMs);
    }
    return true;
  }

  /** Whatever duplicates were let loose have had their answers. */
  async drained(): Promise<void> {
    await Promise.all(this.#duplicates);
  }

  note(who: string, what: string): void {
    this.trace.push(`${who}  ${what}`);
  }

  /**
   * A call to the other side: the store, or whoever makes an effect.
   *
   * @param perform does it, on the other side
   */
  async at<Answer>(
    process: SimulatedProcess,
    what: string,
    perform: () => Promise<Answer>,
    isStore: boolean,
  ): Promise<Answer> {
    await process.awake();
    if (++this.points > POINTS_MAX) return never();
    const fault = this.#plan.get(this.points);
    const count = (this.#counts.get(what) ?? 0) + 1;
    this.#counts.set(what, count);
    if (fault === undefined) return this.#performed(process, what, perform);
    this.faults.push({ point: `${what} #${count}`, fault });
    return this.#faulty(process, what, perform, { fault, isStore });
  }

  async #faulty<Answer>(
    process: SimulatedProcess,
    what: string,
    perform: () => Promise<Answer>,
    { fault, isStore }: { fault: ExplorationFault; isStore: boolean },
  ): Promise<Answer> {
    const note = (text: string) => this.note(process.name, `✗ ${text}`);
    switch (fault) {
      case "crash-before":
        note(`dies before ${what}`);
        return process.die();
      case "crash-after":
        await this.#performed(process, what, perform);
        note(`dies before the reply of ${what}`);
        return process.die();
      case "fail":
        note(`${what} is lost`);
        throw lost(what, isStore);
      case "lost-reply":
        await this.#performed(process, what, perform);
        note(`the reply of ${what} is lost`);
        throw lost(what, isStore);
      case "pause-before":
        note(`stands still before ${what}`);
        await this.#outlive(process);
        return this.#performed(process, what, perform);
      case "pause-after": {
        const answer = await this.#performed(process, what, perform);
        note(`stands still before the reply of ${what}`);
        await this.#outlive(process);
        return answer;
      }
      case "duplicate":
        note(`another caller asks before ${what}`);
        this.#duplicates.push(this.#successor());
        return this.#performed(process, what, perform);
      case "resent":
        if (isStore) {
          await this.#performed(process, what, perform);
          note(`${what} is sent again`);
        }
        return this.#performed(process, what, perform);
    }
  }

  /** The process stands still while a successor runs the operation to its end. */
  async #outlive(process: SimulatedProcess): Promise<void> {
    process.stop();
    await this.#successor();
    process.goOn();
    this.note(process.name, "goes on");
  }

  async #performed<Answer>(
    process: SimulatedProcess,
    what: string,
    perform: () => Promise<Answer>,
  ): Promise<Answer> {
    try {
      const answer = await perform();
      this.note(process.name, `${what} → ${shownAnswer(answer)}`);
      // The reply finds nobody.
      if (process.isDead) return never();
      await process.awake();
      return answer;
    } catch (error) {
      this.note(process.name, `${what} → ${error instanceof Error ? error.message : error}`);
      throw error;
    }
  }

  async effect<Value>(name: string, options: EffectOptions<Value>): Promise<Value> {
    const { idempotencyKey, work } = options;
    const key = idempotencyKey === undefined ? undefined : `${name} ${idempotencyKey}`;
    if (key !== undefined && this.#remembered.has(key)) return this.#remembered.get(key) as Value;
    const times = (this.effects.get(name) ?? 0) + 1;
    this.effects.set(name, times);
    if (work === undefined) {
      if (key !== undefined) this.#remembered.set(key, times);
      return times as Value;
    }
    this.#working++;
    try {
      const value = await work();
      if (key !== undefined) this.#remembered.set(key, value);
      return value;
    } finally {
      this.#working--;
    }
  }
}

/** A process: it may stand still, when none of its timers fires, and it may die. */
export class SimulatedProcess implements ExploredProcess {
  readonly name: string;
  readonly idempotency: Idempotency;
  readonly store: Store;
  readonly clock: ManualClock;
  isDead = false;
  readonly #world: World;
  #stopped: Promise<void> | undefined;
  #wake = () => {};

  constructor(world: World, store: Store, name: string, options: ExplorationOptions) {
    this.name = name;
    this.#world = world;
    this.store = observedStore(store, (what, perform) => world.at(this, what, perform, true));
    this.clock = this.#ownClock(world.clock);
    this.idempotency = new Idempotency({
      sweep: false,
      cache: false,
      random: () => 0.5,
      ...options.idempotency,
      store: this.store,
      clock: this.clock,
    });
  }

  // A property, so that handlers may take it out of the process.
  readonly effect = <Value>(name: string, options: EffectOptions<Value> = {}): Promise<Value> => {
    const what = `effect "${name}"`;
    return this.#world.at(this, what, () => this.#world.effect(name, options), false);
  };

  die(): Promise<never> {
    this.isDead = true;
    return never();
  }

  stop(): void {
    this.#stopped = new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  get isStopped(): boolean {
    return this.#stopped !== undefined;
  }

  goOn(): void {
    this.#stopped = undefined;
    this.#wake();
  }

  /** Never, once it is dead. */
  async awake(): Promise<void> {
    await this.#stopped;
    if (this.isDead) await never();
  }

  #ownClock(clock: ManualClock): ManualClock {
    return {
      get pending() {
        return clock.pending;
      },
      get nextInMs() {
        return clock.nextInMs;
      },
      now: () => clock.now(),
      advance: (ms) => clock.advance(ms),
      schedule: (ms, callback) => {
        let isCancelled = false;
        const fire = async () => {
          await this.awake();
          if (!isCancelled) callback();
        };
        const cancel = clock.schedule(ms, () => void fire());
        return () => {
          isCancelled = true;
          cancel();
        };
      },
    };
  }
}

function shownAnswer(answer: unknown): string {
  if (Array.isArray(answer)) return `${answer.length} answers`;
  if (typeof answer !== "object" || answer === null) return String(answer);
  const { kind, state, attempt } = answer as { kind?: string; state?: string; attempt?: number };
  const name = kind ?? state ?? "an answer";
  return attempt === undefined ? name : `${name}, attempt ${attempt}`;
}

function lost(what: string, isStore: boolean): Error {
  return isStore
    ? new StoreUnavailable(`The connection broke during ${what}`)
    : new Error(`The connection broke during ${what}`);
}

function never(): Promise<never> {
  return new Promise(() => {});
}

function aTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

function aMoment(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 1));
}
