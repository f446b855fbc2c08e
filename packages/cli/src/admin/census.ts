// Counts what the store holds, as often as that is worth what it costs: counting a million records takes
// a moment, and longer ones are counted less often.

import { setTimeout as delay } from "node:timers/promises";
import type { ReadingStore } from "../stores/sqlite-reader.ts";
import type { Census } from "./contract.ts";

/** While somebody looks at it, and while nobody does. */
const EVERY_MS = { watched: 4_000, unwatched: 60_000 };
/** How long anybody waits for a count: a large one may take longer, and is there the next time. */
const PATIENCE_MS = 3_000;
/** Counting takes no more than one part in so many of the time. */
const SHARE = 50;

export class StoreCensus {
  readonly #store: ReadingStore;
  #latest: Census = { at: null, stats: null, queue: null, tookMs: 0, error: null };
  #triedAt = Number.NEGATIVE_INFINITY;
  #counting: Promise<Census> | undefined;

  constructor(store: ReadingStore) {
    this.#store = store;
  }

  get latest(): Census {
    return this.#latest;
  }

  /** Counts again if it is time to. @returns the count, or the one before; never rejects */
  async upToDate(isWatched: boolean): Promise<Census> {
    const everyMs = isWatched ? EVERY_MS.watched : EVERY_MS.unwatched;
    const restMs = Math.max(everyMs, this.#latest.tookMs * SHARE);
    const isDue = performance.now() - this.#triedAt >= restMs;
    if (!isDue && this.#counting === undefined) return this.#latest;
    return this.again();
  }

  /** Counts now. */
  async again(): Promise<Census> {
    this.#counting ??= this.#count().finally(() => {
      this.#counting = undefined;
    });
    await Promise.race([this.#counting, delay(PATIENCE_MS, undefined, { ref: false })]);
    return this.#latest;
  }

  async #count(): Promise<Census> {
    const startedAt = performance.now();
    this.#triedAt = startedAt;
    try {
      const stats = await this.#store.stats();
      const queue = (await this.#store.queue?.stats()) ?? null;
      const tookMs = performance.now() - startedAt;
      this.#latest = { at: Date.now(), stats, queue, tookMs, error: null };
    } catch (error) {
      this.#latest = { ...this.#latest, error: (error as Error).message };
    }
    return this.#latest;
  }
}
