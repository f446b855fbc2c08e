// A signal that aborts with its parent or when a time has passed, and leaves nothing behind.

import type { Clock } from "../clock.ts";

/** What ends an attempt, or a call with all its attempts. */
export class Limit {
  readonly #controller = new AbortController();
  readonly #clock: Clock;
  readonly #endMs: number;
  readonly #cancelTimer: () => void;
  readonly #unlink: () => void;
  #isPast = false;

  /**
   * @param parent aborts this as well, with the same reason
   * @param ms how long it lasts
   * @param reason what it aborts with when the time has passed
   */
  constructor(clock: Clock, parent: AbortSignal | undefined, ms: number, reason: () => unknown) {
    const controller = this.#controller;
    this.#clock = clock;
    this.#endMs = clock.now() + ms;
    this.#cancelTimer = clock.schedule(ms, () => {
      this.#isPast = true;
      controller.abort(reason());
    });
    const onAbort = () => {
      this.#cancelTimer();
      controller.abort(parent!.reason);
    };
    if (parent?.aborted) onAbort();
    else parent?.addEventListener("abort", onAbort, { once: true });
    this.#unlink = () => parent?.removeEventListener("abort", onAbort);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Whether it was the time that ended it. */
  get isPast(): boolean {
    return this.#isPast;
  }

  get remainingMs(): number {
    return this.#endMs - this.#clock.now();
  }

  /** Time counts no more; the parent still does. */
  stopTime(): void {
    this.#cancelTimer();
  }

  /** Nothing ends it any more. */
  release(): void {
    this.#cancelTimer();
    this.#unlink();
  }
}

/**
 * The outcome of work, or the signal's reason as soon as it aborts; the work is not waited for then.
 *
 * @param tooLate gets what the work made after all
 */
export function unlessAborted<T>(
  work: Promise<T>,
  signal: AbortSignal,
  tooLate: (value: T) => void = () => {},
): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = () => {
      reject(signal.reason);
      work.then(tooLate, () => {});
    };
    if (signal.aborted) return onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    work
      .then(resolve, reject)
      .finally(() => signal.removeEventListener("abort", onAbort))
      .catch(() => {});
  });
}
