// The same as OpenTelemetry gets, for Prometheus: `/-/metrics`. Labels are few; none holds a key or a
// scope.

import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import { outcomeOfEvent, type SemelEvent } from "semel";
import type { RequestLine } from "../gateway/access-log.ts";
import type { StoreCensus } from "./census.ts";
import { hear } from "./hearing.ts";

const DURATION_BUCKETS = [
  0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
];

export class Metrics {
  readonly #registry = new Registry();
  readonly #operations;
  readonly #duration;
  readonly #active;
  readonly #steps;
  readonly #leasesLost;
  readonly #storeFailures;
  readonly #swept;
  readonly #decisions;
  readonly #queued;
  readonly #requests;
  readonly #upstreamFailures;
  readonly #running = new Set<string>();

  constructor(census: StoreCensus, about: { version: string; store: string }) {
    const registers = [this.#registry];
    collectDefaultMetrics({ register: this.#registry });
    this.#operations = new Counter({
      ...{ name: "semel_operations_total", registers, labelNames: ["outcome"] as const },
      help: "Requests to run an operation, by what became of them",
    });
    this.#duration = new Histogram({
      ...{ name: "semel_operation_duration_seconds", registers, labelNames: ["outcome"] as const },
      help: "From a request to its answer; where it ran, from being let in to its end",
      buckets: DURATION_BUCKETS,
    });
    this.#active = new Gauge({
      ...{ name: "semel_operations_active", registers },
      help: "Operations that run in this process",
    });
    this.#steps = new Counter({
      ...{ name: "semel_steps_total", registers, labelNames: ["outcome"] as const },
      help: "Steps of operations, by what became of them",
    });
    this.#leasesLost = new Counter({
      ...{ name: "semel_leases_lost_total", registers },
      help: "Attempts that another one took over from while they ran",
    });
    this.#storeFailures = new Counter({
      ...{ name: "semel_store_failures_total", registers, labelNames: ["during"] as const },
      help: "Times that the store could not be asked or told, by what for",
    });
    this.#swept = new Counter({
      ...{ name: "semel_records_swept_total", registers },
      help: "Expired records that this process removed",
    });
    this.#decisions = new Counter({
      ...{ name: "semel_decisions_total", registers, labelNames: ["decision"] as const },
      help: "Records that an administrator decided about in this process",
    });
    this.#queued = new Counter({
      ...{
        name: "semel_queue_outcomes_total",
        registers,
        labelNames: ["kind", "outcome"] as const,
      },
      help: "Durable operations (task) and effects, by what became of them in this process",
    });
    this.#requests = new Counter({
      ...{ name: "semel_gateway_requests_total", registers },
      labelNames: ["status", "keyed"] as const,
      help: "Requests that the gateway answered, by class of status and whether they had a key",
    });
    this.#upstreamFailures = new Counter({
      ...{ name: "semel_gateway_upstream_failures_total", registers },
      help: "Exchanges with the upstream that came to nothing",
    });
    this.#watchStore(census);
    new Gauge({
      ...{ name: "semel_build_info", registers, labelNames: ["version", "store"] as const },
      help: "1",
    }).set(about, 1);
    // From the first scrape on, so that the first failure is an increase.
    for (const during of ["begin", "settle", "renew", "sweep", "abandon", "front"]) {
      this.#storeFailures.inc({ during }, 0);
    }
    for (const outcome of ["executed", "replayed", "released", "held", "unrecorded", "failed"]) {
      this.#operations.inc({ outcome }, 0);
    }
  }

  /** Begins to listen. @returns the end of it */
  start(): () => void {
    return hear((event) => this.#count(event));
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  text(): Promise<string> {
    return this.#registry.metrics();
  }

  request({ status, idempotency, broken }: RequestLine): void {
    const keyed = idempotency === undefined ? "no" : "yes";
    this.#requests.inc({ status: `${Math.floor(status / 100)}xx`, keyed });
    if (broken !== undefined) this.#upstreamFailures.inc();
  }

  /** The first gauge has the store counted; a registry collects them one after the other. */
  #watchStore(census: StoreCensus): void {
    const registers = [this.#registry];
    const gauge = (
      name: string,
      help: string,
      value: (stats: NonNullable<StoreCensus["latest"]["stats"]>) => number | null,
    ) =>
      new Gauge({
        ...{ name, help, registers },
        async collect() {
          const { stats } = await census.upToDate(true);
          const found = stats && value(stats);
          if (found === null) this.reset();
          else this.set(found);
        },
      });
    new Gauge({
      ...{ name: "semel_records", registers, labelNames: ["state"] as const },
      help: "Records in the store, by state; lapsed ones that nobody may repeat are held",
      async collect() {
        const { stats } = await census.upToDate(true);
        this.reset();
        for (const [state, count] of Object.entries(stats?.states ?? {})) {
          this.set({ state }, count);
        }
      },
    });
    new Gauge({
      ...{ name: "semel_queue_items", registers, labelNames: ["kind", "state"] as const },
      help: "Durable operations (task) and effects in the queue, by state; dead ones were given up",
      async collect() {
        const { queue } = await census.upToDate(true);
        this.reset();
        for (const [kind, states] of Object.entries(queue?.states ?? {})) {
          for (const [state, count] of Object.entries(states)) this.set({ kind, state }, count);
        }
      },
    });
    new Gauge({
      ...{ name: "semel_queue_oldest_due_seconds", registers, labelNames: ["kind"] as const },
      help: "How long what is due for the longest time has been due; 0 when nothing is",
      async collect() {
        const { queue } = await census.upToDate(true);
        this.reset();
        for (const [kind, ms] of Object.entries(queue?.oldestDueMs ?? {})) {
          this.set({ kind }, (ms ?? 0) / 1_000);
        }
      },
    });
    gauge(
      "semel_held_oldest_seconds",
      "How long the oldest held operation has waited; 0 when none does",
      ({ oldestHeldMs }) => (oldestHeldMs ?? 0) / 1_000,
    );
    gauge(
      "semel_store_size_bytes",
      "What the records take in the store, as well as it can tell",
      ({ bytes }) => bytes,
    );
    new Gauge({
      ...{ name: "semel_store_up", registers },
      help: "Whether the store could be counted when it was last asked",
      async collect() {
        const { error } = await census.upToDate(true);
        this.set(error === null ? 1 : 0);
      },
    });
  }

  #count(event: SemelEvent): void {
    switch (event.type) {
      case "admitted":
      case "settled":
        this.#operation(event);
        break;
      case "step":
        this.#steps.inc({ outcome: event.outcome });
        break;
      case "task":
      case "effect":
        this.#queued.inc({ kind: event.type, outcome: event.outcome });
        break;
      case "lease-lost":
        this.#leasesLost.inc();
        break;
      case "background-failure":
        this.#storeFailures.inc({ during: event.during });
        break;
      case "swept":
        this.#swept.inc(event.removed);
        break;
      case "decided":
        this.#decisions.inc({ decision: event.decision });
        break;
    }
  }

  #operation(event: Extract<SemelEvent, { type: "admitted" | "settled" }>): void {
    const outcome = outcomeOfEvent(event);
    const running = `${event.id}/${event.attempt}`;
    if (event.type === "settled") {
      this.#running.delete(running);
      if (event.outcome === "unrecorded") this.#storeFailures.inc({ during: "settle" });
    } else {
      if (outcome === undefined) this.#running.add(running);
      if (event.code?.startsWith("store-")) this.#storeFailures.inc({ during: "begin" });
    }
    this.#active.set(this.#running.size);
    if (outcome === undefined) return;
    this.#operations.inc({ outcome });
    this.#duration.observe({ outcome }, event.durationMs / 1_000);
  }
}
