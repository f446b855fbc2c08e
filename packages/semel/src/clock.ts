// Time as the engine and the memory store see it, injectable so that tests can move it.

/** A monotonic clock with timers. */
export interface Clock {
  /** Milliseconds since the Unix epoch at start, then monotonic: never set back by the system. */
  now(): number;
  /**
   * Runs the callback after a delay. Returns its cancel.
   *
   * @param keepsAlive whether the process lives until then. @default false (EN-14)
   */
  schedule(delayMs: number, callback: () => void, keepsAlive?: boolean): () => void;
}

/** `setTimeout` fires at once for longer delays than this (Node's documented limit). */
const TIMER_MS_MAX = 2 ** 31 - 1;

const STARTED_AT = performance.timeOrigin;

/** The process's own monotonic clock. */
export const systemClock: Clock = {
  now: () => STARTED_AT + performance.now(),
  schedule(delayMs, callback, keepsAlive = false) {
    const timer = setTimeout(callback, Math.min(delayMs, TIMER_MS_MAX));
    if (!keepsAlive) timer.unref?.();
    return () => clearTimeout(timer);
  },
};
