// Pauses between tries: exponential with full jitter, so that callers that failed together do not
// come back together (Brooker, "Exponential Backoff and Jitter").

import type { Clock } from "./clock.ts";

export interface Backoff {
  baseMs: number;
  capMs: number;
}

/** `random(0, min(cap, base · 2^n))` in milliseconds, for the n-th pause from 0. */
export function backoffMs({ baseMs, capMs }: Backoff, tries: number, random: () => number): number {
  return random() * Math.min(capMs, baseMs * 2 ** Math.min(tries, 30));
}

/**
 * Waits for a time, or until `wake` resolves, or until the signal aborts; never keeps the process
 * alive.
 *
 * @throws the signal's reason when it aborts
 */
export function pause(
  clock: Clock,
  ms: number,
  signal?: AbortSignal,
  wake?: Promise<unknown>,
): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const done = () => {
      cancel();
      signal?.removeEventListener("abort", onAbort);
      resolve();
    };
    const onAbort = () => {
      cancel();
      reject(signal!.reason);
    };
    const cancel = clock.schedule(ms, done);
    signal?.addEventListener("abort", onAbort, { once: true });
    wake?.then(done, done);
  });
}

/**
 * Waits for a short time before something is tried again that was begun, and whose outcome somebody
 * awaits: a process that has nothing else to do lives until then.
 */
export function breather(clock: Clock, ms: number): Promise<void> {
  return new Promise((resolve) => {
    clock.schedule(ms, resolve, true);
  });
}

/** The promise's outcome, or a rejection with `late()` after a time. The work itself goes on. */
export function bounded<T>(
  clock: Clock,
  work: Promise<T>,
  ms: number,
  late: () => Error,
): Promise<T> {
  return new Promise((resolve, reject) => {
    let isDone = false;
    let cancel: (() => void) | undefined;
    work.then(
      (value) => {
        isDone = true;
        cancel?.();
        resolve(value);
      },
      (error) => {
        isDone = true;
        cancel?.();
        reject(error);
      },
    );
    // What is answered within this turn, as by a store in memory, needs no timer.
    void Promise.resolve()
      .then(noop)
      .then(noop)
      .then(noop)
      .then(() => {
        if (!isDone) cancel = clock.schedule(ms, () => reject(late()));
      });
  });
}

/** The promise's outcome, or a rejection with the signal's reason. The work itself goes on. */
export function untilAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = () => reject(signal.reason);
    if (signal.aborted) onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}

function noop(): void {}
