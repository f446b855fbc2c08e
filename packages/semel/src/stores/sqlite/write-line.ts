// The writers of one process stand in line for SQLite's one write lock: between processes it is a
// matter of polling and luck, and a transaction that stays open while its handler waits would
// starve everybody else.

import { AsyncLocalStorage } from "node:async_hooks";
import { StoreUnavailable, StoreUnusable } from "../../errors.ts";

export class WriteLine {
  readonly #patienceMs: number;
  readonly #waiting = new Set<() => void>();
  readonly #inside = new AsyncLocalStorage<{ isOpen: boolean }>();
  #isTaken = false;

  /** @param patienceMs how long anybody stands in line */
  constructor(patienceMs: number) {
    this.#patienceMs = patienceMs;
  }

  /**
   * Does the work when everybody who came before is done.
   *
   * @param since when the wait began, by `performance.now()`
   * @throws {StoreUnavailable} when it takes too long
   */
  async run<Result>(work: () => Promise<Result>, since = performance.now()): Promise<Result> {
    if (this.#isTaken) await this.#turn(since);
    this.#isTaken = true;
    try {
      return await work();
    } finally {
      const [next] = this.#waiting;
      if (next === undefined) this.#isTaken = false;
      else next();
    }
  }

  /** The same for work that calls code of the user's, which may ask for a write itself. */
  async runOpen<Result>(work: () => Promise<Result>): Promise<Result> {
    const context = { isOpen: true };
    try {
      return await this.run(() => this.#inside.run(context, work));
    } finally {
      context.isOpen = false;
    }
  }

  /**
   * @throws {StoreUnusable} in code that open work calls, which would wait for itself
   */
  assertOutside(): void {
    if (!this.#inside.getStore()?.isOpen) return;
    throw new StoreUnusable(
      "A write of this store was asked for in the handler of its open transaction, and would wait for that transaction's end; call `idempotency.within(fromSqlite(database), …)` to make it part of it",
    );
  }

  #turn(since: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const enter = () => {
        clearTimeout(timer);
        this.#waiting.delete(enter);
        resolve();
      };
      // Keeps the process alive, unlike others, because a caller awaits the answer; it is bounded.
      const timer = setTimeout(
        () => {
          this.#waiting.delete(enter);
          reject(
            new StoreUnavailable(
              "A transaction of this process kept the SQLite database locked for longer than `busyTimeout`",
            ),
          );
        },
        Math.max(0, since + this.#patienceMs - performance.now()),
      );
      this.#waiting.add(enter);
    });
  }
}
