// Collects expired records in paced batches (ST-9). Many processes may do so at once.

import type { Clock } from "../clock.ts";
import { publish } from "../events.ts";
import { pause } from "../retry.ts";
import type { Store } from "../store.ts";

export interface SweeperSettings {
  everyMs: number;
  batch: number;
}

/** Between two full batches, so that foreground work comes first. */
const PAUSE_MS = 50;

export class Sweeper {
  readonly #store: Store;
  readonly #clock: Clock;
  readonly #random: () => number;
  readonly #settings: SweeperSettings | undefined;
  #cancel: (() => void) | undefined;
  #stopped = false;

  constructor(
    store: Store,
    clock: Clock,
    random: () => number,
    settings: SweeperSettings | undefined,
  ) {
    this.#store = store;
    this.#clock = clock;
    this.#random = random;
    this.#settings = settings;
  }

  /** Begins on the first operation: a process that never uses Semel never asks the store. */
  start(): void {
    if (this.#cancel || this.#stopped || !this.#settings) return;
    // Spread out, so that processes that started together do not sweep together.
    const delayMs = this.#settings.everyMs * (0.5 + this.#random());
    this.#cancel = this.#clock.schedule(delayMs, () => void this.#round(this.#settings!.batch));
  }

  stop(): void {
    this.#stopped = true;
    this.#cancel?.();
  }

  async #round(batch: number): Promise<void> {
    try {
      await this.purge(batch, () => !this.#stopped);
    } catch (error) {
      publish(() => ({ type: "background-failure", during: "sweep", error }));
    }
    this.#cancel = undefined;
    this.start();
  }

  /**
   * Removes everything that has expired, batch by batch.
   *
   * @param proceed called after every batch that was not empty with the number removed so far; `false`
   * ends it
   */
  async purge(
    batch: number,
    proceed: (removed: number) => boolean,
    signal?: AbortSignal,
  ): Promise<number> {
    const { queue } = this.#store;
    const sweeps = [() => this.#store.sweep(batch), ...(queue ? [() => queue.sweep(batch)] : [])];
    let removed = 0;
    for (const sweep of sweeps) {
      for (;;) {
        signal?.throwIfAborted();
        const swept = await sweep();
        removed += swept;
        if (swept > 0) publish(() => ({ type: "swept", removed: swept }));
        if (swept > 0 && !proceed(removed)) return removed;
        if (swept < batch) break;
        await pause(this.#clock, PAUSE_MS, signal);
      }
    }
    return removed;
  }
}
