// What is counted and timed as it happens.

import type { Counter, Histogram, Meter, UpDownCounter } from "@opentelemetry/api";
import { outcomeOfEvent, type SemelEvent } from "../events.ts";

/** In seconds: from what a process remembers to what people wait for. */
const DURATION_BUCKETS = [
  0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
];

export class Instruments {
  readonly #operations: Counter;
  readonly #duration: Histogram;
  readonly #active: UpDownCounter;
  readonly #steps: Counter;
  readonly #stepDuration: Histogram;
  readonly #leasesLost: Counter;
  readonly #storeFailures: Counter;
  readonly #swept: Counter;
  readonly #decisions: Counter;
  readonly #queued: Counter;
  /** Attempts that were let in while this listened: others' ends say nothing about how many run. */
  readonly #running = new Set<string>();

  constructor(meter: Meter) {
    const timed = { unit: "s", advice: { explicitBucketBoundaries: DURATION_BUCKETS } };
    this.#operations = meter.createCounter("semel.operations", {
      description: "Requests to run an operation, by what became of them",
      unit: "{operation}",
    });
    this.#duration = meter.createHistogram("semel.operation.duration", {
      description: "From a request to its answer; where it ran, from being let in to its end",
      ...timed,
    });
    this.#active = meter.createUpDownCounter("semel.operations.active", {
      description: "Operations that run in this process",
      unit: "{operation}",
    });
    this.#steps = meter.createCounter("semel.steps", {
      description: "Steps of operations, by what became of them",
      unit: "{step}",
    });
    this.#stepDuration = meter.createHistogram("semel.step.duration", {
      description: "From the call of a step to its saved result",
      ...timed,
    });
    this.#leasesLost = meter.createCounter("semel.leases.lost", {
      description: "Attempts that another one took over from while they ran",
      unit: "{lease}",
    });
    this.#storeFailures = meter.createCounter("semel.store.failures", {
      description: "Times that the store could not be asked or told, by what for",
      unit: "{failure}",
    });
    this.#swept = meter.createCounter("semel.records.swept", {
      description: "Expired records that this process removed",
      unit: "{record}",
    });
    this.#decisions = meter.createCounter("semel.decisions", {
      description: "Records that an administrator decided about in this process",
      unit: "{decision}",
    });
    this.#queued = meter.createCounter("semel.queue.outcomes", {
      description: "Durable operations (task) and effects, by what became of them in this process",
      unit: "{item}",
    });
  }

  count(event: SemelEvent): void {
    switch (event.type) {
      case "admitted":
      case "settled":
        this.#operation(event);
        break;
      case "step": {
        const attributes = { "semel.step.outcome": event.outcome };
        this.#steps.add(1, attributes);
        this.#stepDuration.record(event.durationMs / 1_000, attributes);
        break;
      }
      case "task":
      case "effect":
        this.#queued.add(1, { "semel.kind": event.type, "semel.queue.outcome": event.outcome });
        break;
      case "lease-lost":
        this.#leasesLost.add(1);
        break;
      case "background-failure":
        this.#failed(event.during);
        break;
      case "swept":
        this.#swept.add(event.removed);
        break;
      case "decided":
        this.#decisions.add(1, { "semel.decision": event.decision });
        break;
    }
  }

  #operation(event: Extract<SemelEvent, { type: "admitted" | "settled" }>): void {
    const outcome = outcomeOfEvent(event);
    this.#track(event);
    if (event.type === "settled" && event.outcome === "unrecorded") this.#failed("settle");
    if (event.type === "admitted" && event.code?.startsWith("store-")) this.#failed("begin");
    if (outcome === undefined) return;
    const attributes = { "semel.outcome": outcome, "semel.store": event.store };
    this.#operations.add(1, attributes);
    this.#duration.record(event.durationMs / 1_000, attributes);
  }

  #track(event: Extract<SemelEvent, { type: "admitted" | "settled" }>): void {
    const attempt = `${event.id}/${event.attempt}`;
    const attributes = { "semel.store": event.store };
    if (event.type === "settled") {
      if (this.#running.delete(attempt)) this.#active.add(-1, attributes);
    } else if (event.admission === "run") {
      this.#running.add(attempt);
      this.#active.add(1, attributes);
    }
  }

  #failed(during: string): void {
    this.#storeFailures.add(1, { "semel.during": during });
  }
}
