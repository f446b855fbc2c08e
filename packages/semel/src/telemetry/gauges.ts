// What the stores hold, asked when metrics are collected, and no more often than it is worth.

import type { BatchObservableCallback, Meter, Observable } from "@opentelemetry/api";
import { systemClock } from "../clock.ts";
import type { StoreStats } from "../store.ts";

/** What is counted: an `Idempotency`, whatever its store's transactions are. */
export interface Counted {
  readonly storeName: string;
  stats(): Promise<StoreStats>;
}

interface Known {
  at: number;
  /** `undefined`: the store could not be asked. */
  stats: Promise<StoreStats | undefined>;
}

export class Gauges {
  readonly #meter: Meter;
  readonly #counted: readonly Counted[];
  readonly #everyMs: number;
  readonly #known = new Map<Counted, Known>();

  constructor(meter: Meter, counted: readonly Counted[], everyMs: number) {
    this.#meter = meter;
    this.#counted = counted;
    this.#everyMs = everyMs;
  }

  /** @returns what ends it */
  observe(): () => void {
    const meter = this.#meter;
    const records = meter.createObservableGauge("semel.records", {
      description: "Records in the store, by state; lapsed ones that nobody may repeat are held",
      unit: "{record}",
    });
    const oldest = meter.createObservableGauge("semel.held.oldest", {
      description: "How long the oldest held operation has waited; 0 when none does",
      unit: "s",
    });
    const size = meter.createObservableGauge("semel.store.size", {
      description: "What the records take in the store, as well as it can tell",
      unit: "By",
    });
    const gauges: Observable[] = [records, oldest, size];
    const callback: BatchObservableCallback = async (result) => {
      for (const idempotency of this.#counted) {
        const stats = await this.#stats(idempotency);
        if (stats === undefined) continue;
        const store = { "semel.store": idempotency.storeName };
        for (const [state, count] of Object.entries(stats.states)) {
          result.observe(records, count, { ...store, "semel.state": state });
        }
        result.observe(oldest, (stats.oldestHeldMs ?? 0) / 1_000, store);
        if (stats.bytes !== null) result.observe(size, stats.bytes, store);
      }
    };
    meter.addBatchObservableCallback(callback, gauges);
    return () => meter.removeBatchObservableCallback(callback, gauges);
  }

  /** Rejects never: metrics are collected also while a store is down. */
  #stats(idempotency: Counted): Promise<StoreStats | undefined> {
    const now = systemClock.now();
    const known = this.#known.get(idempotency);
    if (known && now - known.at < this.#everyMs) return known.stats;
    const stats = idempotency.stats().catch(() => undefined);
    this.#known.set(idempotency, { at: now, stats });
    return stats;
  }
}
