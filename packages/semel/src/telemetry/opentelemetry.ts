// Spans and metrics of OpenTelemetry, made of what the library publishes on its diagnostics channels
// (OB-1). Names of metrics and attributes are listed in `docs/observability.md`; none of them holds a
// key, a scope, or anything else of which there are many.

import { subscribe, unsubscribe } from "node:diagnostics_channel";
import {
  context,
  type Meter,
  metrics,
  type Span,
  SpanStatusCode,
  type Tracer,
  trace,
} from "@opentelemetry/api";
import { systemClock } from "../clock.ts";
import { type Duration, durationMs } from "../duration.ts";
import {
  type OperationOutcome,
  outcomeOfEvent,
  type SemelEvent,
  type SemelWork,
} from "../events.ts";
import { assertKnownOptions, assertMethods } from "../options.ts";
import { type Counted, Gauges } from "./gauges.ts";
import { Instruments } from "./instruments.ts";

export interface InstrumentOptions {
  /** Makes the spans; `false`: none. @default the global provider's, named `semel` */
  tracer?: Tracer | false | undefined;
  /** Makes the metrics; `false`: none. @default the global provider's, named `semel` */
  meter?: Meter | false | undefined;
  /**
   * How long the numbers of records are good for: counting them costs the store something.
   * @default "30s"
   */
  statsEvery?: Duration | undefined;
}

/**
 * Sends what happens in this process to OpenTelemetry: a span for each operation and each step that
 * runs, which is the active one in the user's code, and metrics. Call it once a process, after the
 * application has set its SDK up.
 *
 * @param idempotency whose records are counted; more than one in a list. Spans and the other metrics
 * are of every instance in the process
 * @returns what ends it
 * @throws {InvalidOption} when an option is unknown or has the wrong form
 * @example
 * const stop = instrument(idempotency);
 */
export function instrument(
  idempotency: Counted | readonly Counted[] = [],
  options: InstrumentOptions = {},
): () => void {
  assertKnownOptions(options, ["tracer", "meter", "statsEvery"], "instrument()");
  const { tracer = trace.getTracer("semel"), meter = metrics.getMeter("semel") } = options;
  const statsEveryMs = durationMs(options.statsEvery ?? "30s", "statsEvery");
  const counted = [idempotency].flat();
  for (const one of counted) assertMethods(one, "idempotency", ["stats"]);
  const stops: (() => void)[] = [];
  if (tracer !== false) {
    assertMethods(tracer, "tracer", ["startSpan"]);
    stops.push(listenWith(new Spans(tracer)));
  }
  if (meter !== false) {
    assertMethods(meter, "meter", ["createCounter", "createHistogram", "createObservableGauge"]);
    const instruments = new Instruments(meter);
    stops.push(listenWith({ onEvent: (event) => instruments.count(event) }));
    if (counted.length > 0) stops.push(new Gauges(meter, counted, statsEveryMs).observe());
  }
  return () => {
    for (const stop of stops) stop();
  };
}

interface Listener {
  onEvent(event: SemelEvent): void;
  onWork?(work: SemelWork): void;
}

function listenWith(listener: Listener): () => void {
  const onEvent = (message: unknown) => listener.onEvent(message as SemelEvent);
  const onWork = (message: unknown) => listener.onWork?.(message as SemelWork);
  subscribe("semel:event", onEvent);
  if (listener.onWork) subscribe("semel:work", onWork);
  return () => {
    unsubscribe("semel:event", onEvent);
    unsubscribe("semel:work", onWork);
  };
}

/** Outcomes that somebody has to look into. */
const IS_ERROR: ReadonlySet<OperationOutcome> = new Set([
  "released",
  "held",
  "superseded",
  "unrecorded",
  "failed",
]);

class Spans implements Listener {
  readonly #tracer: Tracer;
  /** Of the attempts that run, by record and attempt. */
  readonly #operations = new Map<string, Span>();
  /** Of their steps, by name as well. */
  readonly #steps = new Map<string, Span>();

  constructor(tracer: Tracer) {
    this.#tracer = tracer;
  }

  onEvent(event: SemelEvent): void {
    switch (event.type) {
      case "admitted":
        this.#admitted(event);
        break;
      case "settled":
        this.#settled(event);
        break;
      case "step":
        this.#stepEnded(event);
        break;
      case "lease-lost":
        this.#operations.get(operationOf(event))?.addEvent("semel.lease_lost");
        break;
    }
  }

  /** The user's code is called with its span as the active one. */
  onWork(work: SemelWork): void {
    const operation = this.#operations.get(operationOf(work));
    if (operation === undefined) return;
    const span = work.kind === "step" ? this.#step(work, operation) : operation;
    const { call } = work;
    work.call = (inner) => context.with(trace.setSpan(context.active(), span), () => call(inner));
  }

  /** Published where the request came in, so that its span is the child of what was active there. */
  #admitted(event: Extract<SemelEvent, { type: "admitted" }>): void {
    const now = systemClock.now();
    const span = this.#tracer.startSpan("semel.operation", {
      startTime: now - event.durationMs,
      attributes: {
        "semel.store": event.store,
        "semel.operation.id": event.id,
        "semel.cached": event.cached,
        ...(event.attempt !== undefined && { "semel.attempt": event.attempt }),
      },
    });
    if (event.admission === "run") {
      this.#operations.set(operationOf({ id: event.id, attempt: event.attempt ?? 0 }), span);
      return;
    }
    this.#end(span, outcomeOfEvent(event), event.code);
  }

  #settled(event: Extract<SemelEvent, { type: "settled" }>): void {
    const name = operationOf(event);
    const span = this.#operations.get(name);
    if (span === undefined) return;
    this.#operations.delete(name);
    this.#end(span, outcomeOfEvent(event));
  }

  #end(span: Span, outcome: OperationOutcome | undefined, code?: string): void {
    if (outcome !== undefined) {
      span.setAttribute("semel.outcome", outcome);
      if (IS_ERROR.has(outcome)) {
        span.setAttribute("error.type", code ?? outcome);
        span.setStatus({ code: SpanStatusCode.ERROR });
      }
    }
    span.end(systemClock.now());
  }

  /** One that is called again, as by a transaction that the database refused, is one span. */
  #step(work: SemelWork, operation: Span): Span {
    const name = stepOf(work);
    const running = this.#steps.get(name);
    if (running) return running;
    const span = this.#tracer.startSpan(
      "semel.step",
      {
        startTime: systemClock.now(),
        attributes: {
          "semel.store": work.store,
          "semel.operation.id": work.id,
          "semel.attempt": work.attempt,
          "semel.step.name": work.name ?? "",
        },
      },
      trace.setSpan(context.active(), operation),
    );
    this.#steps.set(name, span);
    return span;
  }

  #stepEnded(event: Extract<SemelEvent, { type: "step" }>): void {
    const name = stepOf(event);
    const span = this.#steps.get(name);
    this.#steps.delete(name);
    if (span === undefined) {
      // It was not called: its result was there already.
      this.#operations
        .get(operationOf(event))
        ?.addEvent("semel.step.replayed", { "semel.step.name": event.name });
      return;
    }
    span.setAttribute("semel.step.outcome", event.outcome);
    if (event.outcome === "failed") {
      span.setAttribute("error.type", event.outcome);
      span.setStatus({ code: SpanStatusCode.ERROR });
    }
    span.end(systemClock.now());
  }
}

function operationOf({ id, attempt }: { id: string; attempt: number }): string {
  return `${id}/${attempt}`;
}

function stepOf(step: { id: string; attempt: number; name?: string }): string {
  return `${operationOf(step)}/${step.name}`;
}
