// Wakes those in this process who look for work, so that what is added here need not wait for the next
// look. What other processes add is found by looking.

import type { QueueKind } from "../../store.ts";

/** Called with the time until there is work, in milliseconds. */
type Wake = (dueInMs: number) => void;

export class Nudges {
  readonly #listeners: Record<QueueKind, Set<Wake>> = { task: new Set(), effect: new Set() };

  /** @returns its end */
  listen(kind: QueueKind, wake: Wake): () => void {
    this.#listeners[kind].add(wake);
    return () => this.#listeners[kind].delete(wake);
  }

  /** Says that something was added. */
  ring(kind: QueueKind, dueInMs = 0): void {
    for (const wake of this.#listeners[kind]) wake(dueInMs);
  }
}
