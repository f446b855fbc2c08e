// Bounds many short waits of one length, such as those for a store's answers. They end in the order in
// which they began, so that one timer serves them all: one each would cost more than a store in memory.

import { Chain, type Link } from "./chain.ts";
import type { Clock } from "./clock.ts";

interface Wait extends Link<Wait> {
  readonly endsAt: number;
  reject(error: Error): void;
  late(): Error;
}

/** How late a timer is in a process that has not stood still. */
const LATE_MS_MAX = 5;

export class Deadlines {
  readonly #clock: Clock;
  readonly #ms: number;
  /** In the order in which they end. */
  readonly #waits = new Chain<Wait>();
  /** A timer runs; it outlives the waits, because it is cheaper to let it find none. */
  #isTimed = false;
  /** When it is to fire. */
  #dueAt = 0;

  /** @param ms how long anybody waits */
  constructor(clock: Clock, ms: number) {
    this.#clock = clock;
    this.#ms = ms;
  }

  /**
   * The promise's outcome, or a rejection with `late()` after the time. The work itself goes on.
   *
   * @param now by the clock, which takes time to be asked
   */
  within<T>(work: Promise<T>, late: () => Error, now = this.#clock.now()): Promise<T> {
    return new Promise((resolve, reject) => {
      const endsAt = now + this.#ms;
      const wait: Wait = { endsAt, reject, late, before: undefined, after: undefined };
      this.#waits.add(wait);
      if (!this.#isTimed) this.#schedule(this.#ms, endsAt);
      work.then(
        (value) => {
          this.#waits.delete(wait);
          resolve(value);
        },
        (error) => {
          this.#waits.delete(wait);
          reject(error);
        },
      );
    });
  }

  #schedule(ms: number, dueAt: number): void {
    this.#isTimed = true;
    this.#dueAt = dueAt;
    this.#clock.schedule(ms, () => this.#ring());
  }

  /**
   * In a process that stood still, timers come before what arrived meanwhile: answers that were in
   * time lie in their sockets, and are looked at first.
   */
  #ring(): void {
    const isLate = this.#clock.now() - this.#dueAt > LATE_MS_MAX;
    if (isLate) setImmediate(() => this.#end());
    else this.#end();
  }

  #end(): void {
    this.#isTimed = false;
    const now = this.#clock.now();
    for (let wait = this.#waits.first; wait !== undefined; wait = this.#waits.first) {
      if (wait.endsAt > now) {
        // Those that follow end later still. Timers may fire a little early.
        this.#schedule(Math.max(1, wait.endsAt - now), wait.endsAt);
        break;
      }
      this.#waits.delete(wait);
      wait.reject(wait.late());
    }
  }
}
