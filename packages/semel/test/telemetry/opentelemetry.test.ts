// OB-1: what OpenTelemetry's own SDK receives, in its in-memory exporters.

import { context, SpanStatusCode, trace } from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import {
  AggregationTemporality,
  InMemoryMetricExporter,
  MeterProvider,
  PeriodicExportingMetricReader,
} from "@opentelemetry/sdk-metrics";
import {
  BasicTracerProvider,
  InMemorySpanExporter,
  type ReadableSpan,
  SimpleSpanProcessor,
} from "@opentelemetry/sdk-trace-base";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { instrument } from "../../src/telemetry/opentelemetry.ts";
import { failure, fixture, turns } from "../engine/fixture.ts";

const KEY = "secret-order-42";
const SCOPE = "secret-tenant";

const spanExporter = new InMemorySpanExporter();
const traces = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(spanExporter)] });
const tracer = traces.getTracer("test");

beforeAll(() => {
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
});
afterAll(() => context.disable());

const endings: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of endings.splice(0).reverse()) await end();
  spanExporter.reset();
});

/** A meter, and what it measured so far: values by name and attributes. */
function measuring() {
  const exporter = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE);
  const reader = new PeriodicExportingMetricReader({ exporter, exportIntervalMillis: 3_600_000 });
  const provider = new MeterProvider({ readers: [reader] });
  endings.push(() => provider.shutdown());
  const collected = async () => {
    exporter.reset();
    await provider.forceFlush();
    const [resource] = exporter.getMetrics();
    return (resource?.scopeMetrics ?? []).flatMap(({ metrics }) =>
      metrics.flatMap(({ descriptor, dataPoints }) =>
        dataPoints.map(({ attributes, value }) => ({
          name: descriptor.name,
          unit: descriptor.unit,
          attributes,
          value: typeof value === "number" ? value : value.count,
        })),
      ),
    );
  };
  return { meter: provider.getMeter("test"), collected };
}

function instrumented(...given: Parameters<typeof instrument>): void {
  endings.push(instrument(...given));
}

function spans(): ReadableSpan[] {
  return spanExporter.getFinishedSpans();
}

function parentOf(span: ReadableSpan): string | undefined {
  return span.parentSpanContext?.spanId;
}

describe("spans", () => {
  test("an operation is one from its request to its end, and the active one in its handler", async () => {
    const { idempotency } = fixture();
    instrumented(idempotency, { tracer, meter: false });
    const seen = await tracer.startActiveSpan("request", async (request) => {
      const { value } = await idempotency.run({ key: KEY, scope: SCOPE }, async () => {
        await turns();
        return trace.getActiveSpan()?.spanContext().spanId;
      });
      request.end();
      return value;
    });
    const [operation, request] = spans();
    expect(operation).toMatchObject({
      name: "semel.operation",
      attributes: { "semel.outcome": "executed", "semel.store": "memory", "semel.attempt": 1 },
      status: { code: SpanStatusCode.UNSET },
    });
    expect(seen).toBe(operation!.spanContext().spanId);
    expect(parentOf(operation!)).toBe(request!.spanContext().spanId);
  });

  test("steps are its children, and the active ones in their work", async () => {
    const { idempotency } = fixture();
    instrumented([], { tracer, meter: false });
    const run = idempotency.run({ key: KEY }, async ({ step }) => {
      const inside = await step("charge", () => trace.getActiveSpan()?.spanContext().spanId);
      await step("ship", () => Promise.reject(new Error("no stock"))).catch(() => {});
      return inside;
    });
    const { value } = await run;
    const [charge, ship, operation] = spans();
    expect(charge!.attributes).toMatchObject({
      "semel.step.name": "charge",
      "semel.step.outcome": "ran",
    });
    expect(value).toBe(charge!.spanContext().spanId);
    expect(ship).toMatchObject({
      attributes: { "semel.step.outcome": "failed" },
      status: { code: SpanStatusCode.ERROR },
    });
    const operationId = operation!.spanContext().spanId;
    expect([charge!, ship!].map(parentOf)).toEqual([operationId, operationId]);
  });

  test("a step whose result was saved before is an event of the operation that asks for it", async () => {
    const { idempotency } = fixture();
    instrumented([], { tracer, meter: false });
    const work = async (error?: Error) =>
      idempotency.run({ key: KEY }, async ({ step }) => {
        await step("charge", () => "ch_1");
        if (error) throw error;
      });
    await failure(work(new Error("broken off")));
    await work();
    const [, released, executed] = spans();
    expect(released).toMatchObject({
      attributes: { "semel.outcome": "released", "error.type": "released" },
      status: { code: SpanStatusCode.ERROR },
    });
    expect(executed!.events).toMatchObject([
      { name: "semel.step.replayed", attributes: { "semel.step.name": "charge" } },
    ]);
    expect(executed!.attributes["semel.attempt"]).toBe(2);
  });

  test("what does not run is a span of its own, and nothing is active but the caller's", async () => {
    const { idempotency, plan, clock } = fixture();
    instrumented([], { tracer, meter: false });
    await idempotency.run({ key: KEY, payload: 1 }, () => 1);
    await idempotency.run({ key: KEY, payload: 1 }, () => 1);
    await failure(idempotency.run({ key: KEY, payload: 2 }, () => 1));
    plan.push({ method: "begin", effect: "fail-before" });
    const refused = failure(idempotency.run({ key: "b" }, () => 1));
    await clock.advance(1_000);
    await refused;
    const told = spans().map(({ attributes, status }) => [
      attributes["semel.outcome"],
      status.code,
    ]);
    expect(told).toEqual([
      ["executed", SpanStatusCode.UNSET],
      ["replayed", SpanStatusCode.UNSET],
      ["mismatch", SpanStatusCode.UNSET],
      ["failed", SpanStatusCode.ERROR],
    ]);
    expect(spans()[3]!.attributes["error.type"]).toBe("store-unavailable");
  });

  test("no key and no scope is in any of them", async () => {
    const { idempotency } = fixture();
    instrumented([], { tracer, meter: false });
    await idempotency.run({ key: KEY, scope: SCOPE, payload: "secret" }, ({ step }) =>
      step("charge", () => "secret"),
    );
    expect(spans()).toHaveLength(2);
    for (const { name, attributes, events } of spans()) {
      expect(JSON.stringify([name, attributes, events])).not.toContain("secret");
    }
  });
});

describe("metrics", () => {
  test("operations by outcome, their durations, steps, leases, failures and decisions", async () => {
    const { idempotency, plan, clock } = fixture();
    const { meter, collected } = measuring();
    instrumented([], { tracer: false, meter });
    await idempotency.run({ key: KEY }, ({ step }) => step("charge", () => 1));
    for (let n = 0; n < 3; n++) await idempotency.run({ key: KEY }, () => 1);
    plan.push({ method: "begin", effect: "fail-before" });
    const refused = failure(idempotency.run({ key: "b" }, () => 1));
    await clock.advance(1_000);
    await refused;
    plan.pop();
    await idempotency.void({ key: "c" });
    const handler = new Promise<void>(() => {});
    void idempotency.run({ key: "d" }, () => handler);
    await turns();

    const operation = (outcome: string) => ({ "semel.outcome": outcome, "semel.store": "memory" });
    const points = await collected();
    for (const [name, attributes, value, unit] of [
      ["semel.operations", operation("executed"), 1, "{operation}"],
      ["semel.operations", operation("replayed"), 3, "{operation}"],
      ["semel.operations", operation("failed"), 1, "{operation}"],
      ["semel.operation.duration", operation("executed"), 1, "s"],
      ["semel.operation.duration", operation("replayed"), 3, "s"],
      ["semel.operations.active", { "semel.store": "memory" }, 1, "{operation}"],
      ["semel.steps", { "semel.step.outcome": "ran" }, 1, "{step}"],
      ["semel.step.duration", { "semel.step.outcome": "ran" }, 1, "s"],
      ["semel.store.failures", { "semel.during": "begin" }, 1, "{failure}"],
      ["semel.decisions", { "semel.decision": "void" }, 1, "{decision}"],
    ] as const) {
      expect(points).toContainEqual({ name, attributes, value, unit });
    }
  });

  test("a lost lease, and what was swept", async () => {
    const { idempotency, clock, plan, another } = fixture({ onCrash: "rerun", retention: "1m" });
    const { meter, collected } = measuring();
    instrumented([], { tracer: false, meter });
    void idempotency.run({ key: KEY }, () => new Promise(() => {}));
    await turns();
    plan.push({ method: "renew", effect: "fail-before" });
    await clock.advance(60_000);
    plan.pop();
    await another().run({ key: KEY }, () => 1);
    await clock.advance(10_000);
    await clock.advance(120_000);
    await idempotency.purge();
    const points = await collected();
    expect(points).toContainEqual(expect.objectContaining({ name: "semel.leases.lost", value: 1 }));
    expect(points).toContainEqual(
      expect.objectContaining({ name: "semel.records.swept", value: 1 }),
    );
  });

  test("records by state, the oldest hold and the size, asked of the store only so often", async () => {
    const { idempotency, store, plan } = fixture();
    const { meter, collected } = measuring();
    instrumented(idempotency, { tracer: false, meter, statsEvery: "1h" });
    const fail = () => Promise.reject(new Error("?"));
    await failure(idempotency.run({ key: KEY, onError: "hold" }, fail));
    const points = await collected();
    const named = (name: string, attributes = {}) =>
      points.filter(
        (point) =>
          point.name === name &&
          expect.objectContaining(attributes).asymmetricMatch(point.attributes),
      );
    expect(named("semel.records", { "semel.state": "held" })).toMatchObject([{ value: 1 }]);
    expect(named("semel.records")).toHaveLength(5);
    expect(named("semel.held.oldest")).toMatchObject([{ unit: "s" }]);
    expect(named("semel.store.size")[0]!.value).toBeGreaterThan(0);
    expect(named("semel.queue.items")).toHaveLength(6);
    expect(named("semel.queue.oldest_due")).toHaveLength(2);
    await collected();
    expect(store.calls.stats).toBe(1);

    // A store that is down: metrics are collected all the same, without what it alone knows.
    const others = measuring();
    instrumented(idempotency, { tracer: false, meter: others.meter, statsEvery: 0 });
    plan.push({ method: "stats", effect: "fail-before" });
    await idempotency.run({ key: "b" }, () => 1);
    const found = (await others.collected()).map(({ name }) => name);
    expect(found).toContain("semel.operations");
    expect(found).not.toContain("semel.records");
  });

  test("effects and durable operations by state, how long they are due, and what became of them", async () => {
    const { idempotency, clock } = fixture();
    const { meter, collected } = measuring();
    instrumented(idempotency, { tracer: false, meter, statsEvery: 0 });
    await idempotency.run({ key: KEY }, async ({ effect }) => {
      await effect("mail");
      await effect("sms");
    });
    const ride = idempotency.operation("ride", { handler: () => 1 });
    await ride.start({ key: KEY, input: {} });
    const relay = idempotency.relay({
      mail: { deliver: () => Promise.reject(new Error("no")), attemptsMax: 1 },
    });
    await relay.drain();
    await clock.advance(3_000);
    const points = await collected();
    await relay.close();
    const items = (kind: string, state: string, value: number) => ({
      ...{ name: "semel.queue.items", value, unit: "{item}" },
      attributes: { "semel.store": "memory", "semel.kind": kind, "semel.state": state },
    });
    const outcome = (kind: string, outcome: string, value: number) => ({
      ...{ name: "semel.queue.outcomes", value, unit: "{item}" },
      attributes: { "semel.kind": kind, "semel.queue.outcome": outcome },
    });
    for (const point of [
      items("effect", "waiting", 1),
      items("effect", "dead", 1),
      items("effect", "done", 0),
      items("task", "waiting", 1),
      outcome("effect", "recorded", 2),
      outcome("effect", "dead", 1),
      outcome("task", "recorded", 1),
    ]) {
      expect(points).toContainEqual(point);
    }
    const due = points.find(
      ({ name, attributes }) =>
        name === "semel.queue.oldest_due" && attributes["semel.kind"] === "task",
    );
    expect(due).toMatchObject({ unit: "s", value: 3 });
  });

  test("labels are few, however many keys, scopes and steps there are", async () => {
    const { idempotency } = fixture();
    const { meter, collected } = measuring();
    instrumented([], { tracer: false, meter });
    for (let n = 0; n < 50; n++) {
      await idempotency.run({ key: `k${n}`, scope: `s${n}` }, ({ step }) => step(`p${n}`, () => n));
    }
    expect((await collected()).length).toBeLessThan(10);
  });
});

test("without options the global providers are used, and stopping ends it all", async () => {
  trace.setGlobalTracerProvider(traces);
  endings.push(() => trace.disable());
  const { idempotency } = fixture();
  const stop = instrument(idempotency);
  await idempotency.run({ key: KEY }, () => 1);
  stop();
  await idempotency.run({ key: KEY }, () => 1);
  expect(spans().map(({ attributes }) => attributes["semel.outcome"])).toEqual(["executed"]);
});

test("wrong options are refused", () => {
  const wrong = { tracr: tracer } as object;
  expect(() => instrument([], wrong)).toThrow(/did you mean `tracer`/);
  expect(() => instrument([], { tracer: {} as never })).toThrow(/`tracer` must have the methods/);
  expect(() => instrument({} as never)).toThrow(/`idempotency` must have the methods stats/);
});
