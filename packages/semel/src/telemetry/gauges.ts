// What the stores hold, asked when metrics are collected, and no more often than it is worth.

import type { BatchObservableCallback, Meter, Observable } from "@opentelemetry/api";
import { systemClock } from "../clock.ts";
import type { QueueKind, QueueStats, StoreStats } from "../store.ts";

/** What is counted: an `Idempotency`, whatever its store's transactions are. */
export interface Counted {
  readonly storeName: string;
  stats(): Promise<StoreStats>;
  /** `undefined`: its store keeps no queue. */
  queueStats?(): Promise<QueueStats | undefined>;
}

interface Counts {
  readonly records: StoreStats;
  readonly queue: QueueStats | undefined;
}

interface Known {
  at: number;
  /** `undefined`: the store could not be asked. */
  counts: Promise<Counts | undefined>;
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
    const queued = meter.createObservableGauge("semel.queue.items", {
      description: "Durable operations (task) and effects in the queue, by state",
      unit: "{item}",
    });
    const overdue = meter.createObservableGauge("semel.queue.oldest_due", {
      description: "How long what is due for the longest time has been due; 0 when nothing is",
      unit: "s",
    });
    const gauges: Observable[] = [records, oldest, size, queued, overdue];
    const callback: BatchObservableCallback = async (result) => {
      for (const idempotency of this.#counted) {
        const counts = await this.#counts(idempotency);
        if (counts === undefined) continue;
        const { records: stats, queue } = counts;
        const store = { "semel.store": idempotency.storeName };
        for (const [state, count] of Object.entries(stats.states)) {
          result.observe(records, count, { ...store, "semel.state": state });
        }
        result.observe(oldest, (stats.oldestHeldMs ?? 0) / 1_000, store);
        if (stats.bytes !== null) result.observe(size, stats.bytes, store);
        if (queue === undefined) continue;
        for (const [kind, states] of Object.entries(queue.states)) {
          const ofKind = { ...store, "semel.kind": kind };
          for (const [state, count] of Object.entries(states)) {
            result.observe(queued, count, { ...ofKind, "semel.state": state });
          }
          const dueMs = queue.oldestDueMs[kind as QueueKind] ?? 0;
          result.observe(overdue, dueMs / 1_000, ofKind);
        }
      }
    };
    meter.addBatchObservableCallback(callback, gauges);
    return () => meter.removeBatchObservableCallback(callback, gauges);
  }

  /** Rejects never: metrics are collected also while a store is down. */
  #counts(idempotency: Counted): Promise<Counts | undefined> {
    const now = systemClock.now();
    const known = this.#known.get(idempotency);
    if (known && now - known.at < this.#everyMs) return known.counts;
    const counts = countsOf(idempotency).catch(() => undefined);
    this.#known.set(idempotency, { at: now, counts });
    return counts;
  }
}

async function countsOf(idempotency: Counted): Promise<Counts> {
  const [records, queue] = await Promise.all([idempotency.stats(), idempotency.queueStats?.()]);
  return { records, queue };
}
