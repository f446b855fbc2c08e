// A clock that stands still until a test moves it, so that leases, waits and sweeps are tested
// without sleeping.

import type { Clock } from "../clock.ts";

/** A {@link Clock} that a test moves. */
export interface ManualClock extends Clock {
  /** How many timers wait. */
  readonly pending: number;
  /** Time until the next timer fires; `undefined`: none waits. */
  readonly nextInMs: number | undefined;
  /**
   * Moves time on: timers that fall due fire in their order, and what they set off is let settle
   * before the next one. What needs real time, such as a socket or compression, is not waited for.
   */
  advance(ms: number): Promise<void>;
}

interface Timer {
  readonly at: number;
  readonly callback: () => void;
}

/**
 * Makes a clock that stands still.
 *
 * @param startMs its first time, in milliseconds since the Unix epoch. @default 2025-01-01
 * @example
 * const clock = manualClock();
 * const idempotency = new Idempotency({ store: memoryStore({ clock }), clock });
 * await clock.advance(30_000);
 */
export function manualClock(startMs: number = Date.UTC(2025, 0, 1)): ManualClock {
  /** In order of scheduling: of timers due at once, the first scheduled fires first. */
  const timers = new Set<Timer>();
  let nowMs = startMs;
  const nextBefore = (endMs: number): Timer | undefined => {
    let next: Timer | undefined;
    for (const timer of timers) {
      if (timer.at <= endMs && (next === undefined || timer.at < next.at)) next = timer;
    }
    return next;
  };
  return {
    get pending() {
      return timers.size;
    },
    get nextInMs() {
      const next = nextBefore(Number.POSITIVE_INFINITY);
      return next && Math.max(0, next.at - nowMs);
    },
    now: () => nowMs,
    schedule(delayMs, callback) {
      const timer = { at: nowMs + Math.max(0, delayMs), callback };
      timers.add(timer);
      return () => void timers.delete(timer);
    },
    async advance(ms) {
      const endMs = nowMs + ms;
      await settled();
      for (let timer = nextBefore(endMs); timer; timer = nextBefore(endMs)) {
        timers.delete(timer);
        nowMs = Math.max(nowMs, timer.at);
        timer.callback();
        await settled();
      }
      nowMs = Math.max(nowMs, endMs);
    },
  };
}

/** Every promise that can go on has gone on. */
function settled(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
