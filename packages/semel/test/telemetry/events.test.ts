// OB-1: what is published about operations, and that it costs nothing when nobody listens.

import { AsyncLocalStorage } from "node:async_hooks";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { afterEach, describe, expect, test } from "vitest";
import {
  isObserved,
  outcomeOfEvent,
  publish,
  type SemelEvent,
  type SemelWork,
} from "../../src/events.ts";
import { deferred, eventsDuring, fixture, turns } from "../engine/fixture.ts";

const KEY = "order-42";

/** What became of the requests, in the order in which they ended. */
function outcomes(events: readonly SemelEvent[]): string[] {
  return events.flatMap((event) => outcomeOfEvent(event) ?? []);
}

describe("every request has one outcome", () => {
  test("executed, replayed, mismatch, released, held, outcome-unknown, void", async () => {
    const { idempotency } = fixture();
    const events = await eventsDuring(async () => {
      await idempotency.run({ key: KEY, payload: 1 }, () => "receipt");
      await idempotency.run({ key: KEY, payload: 1 }, () => "receipt");
      await idempotency.run({ key: KEY, payload: 2 }, () => "receipt").catch(() => {});
      const fail = () => Promise.reject(new Error("declined"));
      await idempotency.run({ key: "a" }, fail).catch(() => {});
      await idempotency.run({ key: "b", onError: "hold" }, fail).catch(() => {});
      await idempotency.run({ key: "b" }, () => 1).catch(() => {});
      await idempotency.void({ key: "c" });
      await idempotency.run({ key: "c" }, () => 1).catch(() => {});
    });
    expect(outcomes(events)).toEqual([
      "executed",
      "replayed",
      "mismatch",
      "released",
      "held",
      "outcome-unknown",
      "void",
    ]);
  });

  test("one that waits is told of when its wait is over, with how long it took", async () => {
    const { idempotency, clock } = fixture();
    const handler = deferred<string>();
    const events = await eventsDuring(async () => {
      const first = idempotency.run({ key: KEY }, () => handler.promise);
      await turns();
      const second = idempotency.run({ key: KEY, wait: "1m" }, () => "never");
      const third = idempotency.run({ key: KEY }, () => "never").catch(() => {});
      await third;
      await clock.advance(2_000);
      handler.resolve("receipt");
      await Promise.all([first, second]);
    });
    expect(outcomes(events)).toEqual(["busy", "executed", "replayed"]);
    expect(events.find(({ type }) => type === "settled")).toMatchObject({ durationMs: 2_000 });
    const waited = events.filter(
      (event) => event.type === "admitted" && event.admission === "replay",
    );
    expect(waited).toMatchObject([{ durationMs: 2_000, cached: true, store: "memory" }]);
  });

  test("a store that cannot be asked is a failure with its code", async () => {
    const { idempotency, plan, clock } = fixture();
    plan.push({ method: "begin", effect: "fail-before" });
    const events = await eventsDuring(async () => {
      const answered = idempotency.run({ key: KEY }, () => 1).catch(() => {});
      await clock.advance(1_000);
      await answered;
    });
    expect(outcomes(events)).toEqual(["failed"]);
    expect(events).toContainEqual(
      expect.objectContaining({ admission: "failed", code: "store-unavailable" }),
    );
  });

  test("a result that the store could not be told is unrecorded", async () => {
    const { idempotency, plan, clock } = fixture();
    plan.push({ method: "settle", effect: "fail-before" });
    const events = await eventsDuring(async () => {
      const answered = idempotency.run({ key: KEY }, () => 1);
      await clock.advance(10_000);
      await answered;
    });
    expect(outcomes(events)).toEqual(["unrecorded"]);
  });
});

describe("what else is told", () => {
  test("steps, renewals and lost leases", async () => {
    const { idempotency, clock, plan, another } = fixture({ lease: "30s", onCrash: "rerun" });
    const release = deferred<void>();
    const events = await eventsDuring(async () => {
      const slow = idempotency.run({ key: KEY }, async ({ step }) => {
        await step("charge", () => "ch_1");
        await release.promise;
        return "late";
      });
      await turns();
      await clock.advance(10_000);
      // As when this process stood still: its lease lapses, and another one takes over.
      plan.push({ method: "renew", effect: "fail-before" });
      await clock.advance(60_000);
      plan.pop();
      await another().run({ key: KEY }, async ({ step }) => {
        await step("charge", () => "ch_2");
        return "successor's";
      });
      await clock.advance(10_000);
      release.resolve();
      await slow.catch(() => {});
    });
    const told = events.filter(({ type }) => /step|renewed|lease-lost|background/.test(type));
    expect(told).toEqual(
      expect.arrayContaining([
        expect.objectContaining({ type: "step", name: "charge", outcome: "ran", attempt: 1 }),
        expect.objectContaining({ type: "renewed", attempt: 1 }),
        expect.objectContaining({ type: "background-failure", during: "renew" }),
        expect.objectContaining({ type: "step", name: "charge", outcome: "replayed", attempt: 2 }),
        expect.objectContaining({ type: "lease-lost", attempt: 1 }),
      ]),
    );
    expect(told.filter(({ type }) => type === "lease-lost")).toHaveLength(1);
    expect(outcomes(events)).toEqual(["executed", "superseded"]);
  });

  test("decisions of administrators, and what a sweep removed", async () => {
    const { idempotency, clock } = fixture({ retention: "1m" });
    const events = await eventsDuring(async () => {
      await idempotency
        .run({ key: KEY, onError: "hold" }, () => Promise.reject(new Error("?")))
        .catch(() => {});
      await idempotency.resolve({ key: KEY }, { outcome: "applied", value: 1 });
      await idempotency.void({ key: "b" });
      await idempotency.delete({ key: "b" });
      await clock.advance(120_000);
      await idempotency.purge();
    });
    expect(events.filter(({ type }) => type === "decided")).toEqual([
      { type: "decided", id: expect.any(String), decision: "resolve", answer: "resolved" },
      { type: "decided", id: expect.any(String), decision: "void", answer: "voided" },
      { type: "decided", id: expect.any(String), decision: "delete", answer: "deleted" },
    ]);
    expect(events).toContainEqual({ type: "swept", removed: 1 });
  });

  test("keys, scopes, payloads and results are in none of it", async () => {
    const { idempotency } = fixture();
    const secrets = ["secret-key", "secret-scope", "secret-payload", "secret-result"] as const;
    const [key, scope, payload, result] = secrets;
    const works: SemelWork[] = [];
    const onWork = (message: unknown) => void works.push(message as SemelWork);
    subscribe("semel:work", onWork);
    const events = await eventsDuring(async () => {
      await idempotency.run({ key, scope, payload }, ({ step }) => step("s", () => result));
      await idempotency.run({ key, scope, payload }, () => result);
      await idempotency.delete({ key, scope });
    });
    unsubscribe("semel:work", onWork);
    expect(works.map(({ kind }) => kind)).toEqual(["operation", "step"]);
    expect(JSON.stringify([events, works])).not.toMatch(/secret/);
  });
});

describe("the channel of work", () => {
  const subscriptions: (() => void)[] = [];
  afterEach(() => {
    for (const end of subscriptions.splice(0)) end();
  });

  function wrapping(onWork: (work: SemelWork) => void): void {
    const listener = (message: unknown) => onWork(message as SemelWork);
    subscribe("semel:work", listener);
    subscriptions.push(() => unsubscribe("semel:work", listener));
  }

  test("handlers and steps are called in the context of who listens, one within the other", async () => {
    const context = new AsyncLocalStorage<string>();
    const naming = (work: SemelWork) => {
      const { call } = work;
      work.call = (inner) =>
        context.run(`${context.getStore() ?? ""}${work.name ?? work.kind} `, () => call(inner));
    };
    wrapping(naming);
    wrapping(naming);
    const { idempotency } = fixture();
    const { value } = await idempotency.run({ key: KEY }, async ({ step }) => {
      await turns();
      return [context.getStore(), await step("charge", async () => context.getStore())];
    });
    expect(value).toEqual(["operation operation ", "operation operation charge charge "]);
  });

  test("nothing is made while nobody listens", async () => {
    expect(isObserved()).toBe(false);
    publish(() => {
      throw new Error("made for nobody");
    });
    const { idempotency } = fixture();
    await idempotency.run({ key: KEY }, ({ step }) => step("a", () => 1));
  });
});
