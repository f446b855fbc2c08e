// What administrators do (EN-9), late requests (EN-11), and the sweeper (ST-9).

import { describe, expect, test } from "vitest";
import { KeyExpired, OperationHeld, OperationVoid } from "../../src/errors.ts";
import { recordId } from "../../src/key.ts";
import {
  crashed,
  deferred,
  eventsDuring,
  type Fixture,
  failure,
  fixture,
  turns,
} from "./fixture.ts";

const refuse = () => expect.unreachable("the handler ran");
const fail = () => {
  throw new Error("unsure");
};
const held = ({ idempotency }: Fixture, key = "k") =>
  failure(idempotency.run({ key, payload: 1, onError: "hold" }, fail));

describe("get and status (EN-9)", () => {
  test("show a record with its value, and nothing of its fencing token", async () => {
    const { idempotency, clock } = fixture({ retention: "1h" });
    await idempotency.run({ key: "k", scope: "tenant", payload: 1 }, () => new Map([[1, 2]]));
    const record = await idempotency.get({ key: "k", scope: "tenant" });
    expect(record).toMatchObject({
      key: "k",
      scope: "tenant",
      state: "completed",
      attempt: 1,
      value: new Map([[1, 2]]),
      createdAt: clock.now(),
      expiresInMs: 3_600_000,
    });
    expect(record).not.toHaveProperty("owner");
    expect(record).not.toHaveProperty("result");
    expect(await idempotency.get({ key: "k" })).toBeUndefined();
  });

  test("get() tells what became of the steps, in the order in which they were called", async () => {
    const { idempotency } = fixture();
    const broken = new Error("broken off");
    const work = idempotency.run({ key: "k" }, async ({ step }) => {
      await step("reserve", () => 1);
      await step("charge", () => Promise.reject(broken), { keyRetention: "1h" });
    });
    await failure(work);
    expect((await idempotency.get({ key: "k" }))?.steps).toEqual([
      { name: "reserve", state: "done", attempt: 1 },
      { name: "charge", state: "begun", attempt: 1 },
    ]);
    await failure(idempotency.run({ key: "none" }, () => Promise.reject(broken)));
    expect((await idempotency.get({ key: "none" }))?.steps).toEqual([]);
  });

  test("status says only what a caller may know, and runs nothing", async () => {
    const engine = fixture({ lease: "1s", retention: "1h" });
    const { idempotency, clock } = engine;
    expect(await idempotency.status({ key: "k" })).toEqual({
      state: "absent",
      attempt: 0,
      expiresInMs: null,
    });
    await idempotency.run({ key: "k", payload: "secret" }, () => "secret");
    expect(await idempotency.status({ key: "k" })).toEqual({
      state: "completed",
      attempt: 1,
      expiresInMs: 3_600_000,
    });
    await crashed(engine, { key: "lapsed", onCrash: "hold" });
    await crashed(engine, { key: "rerun", onCrash: "rerun" });
    expect((await idempotency.status({ key: "lapsed" })).state).toBe("running");
    await clock.advance(1_000);
    expect((await idempotency.status({ key: "lapsed" })).state).toBe("held");
    expect((await idempotency.status({ key: "rerun" })).state).toBe("running");
  });
});

describe("list and stats (EN-9)", () => {
  test("page through records by scope, state and age, without results", async () => {
    const engine = fixture();
    const { idempotency, clock } = engine;
    for (const key of ["a", "b", "c"]) {
      await idempotency.run({ key, scope: "one" }, () => key);
      await clock.advance(1_000);
    }
    await idempotency.run({ key: "d", scope: "two" }, () => "d");
    await held(engine, "e");
    const keys = async (query: Parameters<typeof idempotency.list>[0]) =>
      (await idempotency.list(query)).records.map(({ key }) => key);
    expect(await keys({ scope: "one" })).toEqual(["c", "b", "a"]);
    expect(await keys({ state: "held" })).toEqual(["e"]);
    expect(await keys({ olderThan: "2s" })).toEqual(["b", "a"]);
    const first = await idempotency.list({ scope: "one", limit: 2 });
    expect(first.records[0]).not.toHaveProperty("result");
    expect(first.records[0]).not.toHaveProperty("owner");
    expect(await keys({ scope: "one", limit: 2, cursor: first.cursor! })).toEqual(["a"]);
    expect(await idempotency.stats()).toMatchObject({
      states: { running: 0, completed: 4, held: 1, open: 0, void: 0 },
      oldestHeldMs: 0,
    });
  });

  test("check their options", async () => {
    const { idempotency } = fixture();
    for (const [query, message] of [
      [{ limit: 0 }, "whole number from 1 to 1000"],
      [{ limit: 1_001 }, "whole number from 1 to 1000"],
      [{ limit: 5n }, "got 5"],
      [{ state: "hold" }, 'did you mean "held"?'],
      [{ scop: "x" }, "did you mean `scope`?"],
    ] as const) {
      const error = await failure(idempotency.list(query as never));
      expect(error).toMatchObject({ code: "option-invalid" });
      expect((error as Error).message).toContain(message);
    }
  });
});

describe("resolve (SM-12)", () => {
  test("completes a hold with what a person found out", async () => {
    const engine = fixture();
    await held(engine);
    const verdict = { outcome: "applied", value: { id: 7n } } as const;
    expect(await engine.idempotency.resolve({ key: "k" }, verdict)).toEqual({ kind: "resolved" });
    for (const from of [engine.idempotency, engine.another()]) {
      const outcome = await from.run({ key: "k", payload: 1 }, refuse);
      expect(outcome).toEqual({ value: { id: 7n }, replayed: true, attempt: 1 });
    }
  });

  test("releases a hold that was not applied, also one that only lapsed so far", async () => {
    const engine = fixture({ lease: "1s" });
    const { idempotency, clock } = engine;
    await held(engine);
    await crashed(engine, { key: "lapsed" });
    await clock.advance(1_000);
    for (const [key, payload] of [
      ["k", 1],
      ["lapsed", undefined],
    ] as const) {
      const verdict = { outcome: "not-applied" } as const;
      expect(await idempotency.resolve({ key }, verdict)).toEqual({ kind: "resolved" });
      expect((await idempotency.run({ key, payload }, () => 1)).attempt).toBe(2);
    }
  });

  test("refuses what is not held, and what cannot be stored", async () => {
    const engine = fixture();
    const { idempotency } = engine;
    await idempotency.run({ key: "done" }, () => 1);
    const applied = { outcome: "applied", value: 2 } as const;
    expect(await idempotency.resolve({ key: "done" }, applied)).toEqual({
      kind: "refused",
      state: "completed",
    });
    expect(await idempotency.resolve({ key: "absent" }, applied)).toEqual({ kind: "absent" });
    expect((await idempotency.run({ key: "done" }, refuse)).value).toBe(1);
    await held(engine);
    const functions = { outcome: "applied", value: () => {} } as const;
    expect(await failure(idempotency.resolve({ key: "k" }, functions))).toMatchObject({
      code: "not-serializable",
    });
    expect(await failure(idempotency.resolve({ key: "k" }, "applied" as never))).toMatchObject({
      code: "option-invalid",
    });
    expect((await idempotency.status({ key: "k" })).state).toBe("held");
  });
});

describe("void and delete (SM-13)", () => {
  test("a void operation never runs, whatever its payload", async () => {
    const { idempotency, another } = fixture();
    expect(await idempotency.void({ key: "k" })).toMatchObject({ kind: "voided" });
    for (const from of [idempotency, another()]) {
      for (const payload of [1, 2]) {
        const error = await failure(from.run({ key: "k", payload }, refuse));
        expect(error).toBeInstanceOf(OperationVoid);
        expect(error).toMatchObject({ code: "operation-void", retry: "new-key" });
      }
    }
  });

  test("both are refused while it runs; void also once it completed", async () => {
    const { idempotency } = fixture();
    const finish = deferred();
    const first = idempotency.run({ key: "k" }, () => finish.promise);
    await turns();
    expect(await idempotency.void({ key: "k" })).toEqual({ kind: "busy" });
    expect(await idempotency.delete({ key: "k" })).toEqual({ kind: "busy" });
    finish.resolve();
    await first;
    expect(await idempotency.void({ key: "k" })).toEqual({ kind: "completed" });
    expect(await idempotency.delete({ key: "k" })).toEqual({ kind: "deleted" });
    expect(await idempotency.delete({ key: "k" })).toEqual({ kind: "absent" });
  });

  test("what was deleted elsewhere and is void here is replayed no more", async () => {
    const { idempotency, another } = fixture();
    await idempotency.run({ key: "k" }, () => "kept");
    expect(await another().delete({ key: "k" })).toEqual({ kind: "deleted" });
    expect(await idempotency.void({ key: "k" })).toMatchObject({ kind: "voided" });
    const error = await failure(idempotency.run({ key: "k" }, () => "again"));
    expect(error).toMatchObject({ code: "operation-void" });
  });

  test("an operation is named by key and scope, nothing else", async () => {
    const { idempotency } = fixture();
    expect(await failure(idempotency.get(undefined as never))).toMatchObject({
      code: "option-invalid",
    });
    expect(await failure(idempotency.delete({ key: "" }))).toMatchObject({ code: "key-invalid" });
    expect(await failure(idempotency.void({ key: "k", scop: "x" } as never))).toMatchObject({
      message: expect.stringContaining("did you mean `scope`?"),
    });
  });
});

describe("purge (ST-9)", () => {
  async function expired(count: number) {
    const engine = fixture({ retention: "1m", cache: false });
    for (let n = 0; n < count; n++) await engine.idempotency.run({ key: `k${n}` }, () => n);
    await engine.clock.advance(60_000);
    return engine;
  }

  test("removes what expired, batch by batch, and says how far it is after each", async () => {
    const { idempotency, clock, store } = await expired(25);
    await idempotency.run({ key: "live" }, () => 1);
    const progress: number[] = [];
    const purging = idempotency.purge({ batch: 10, onProgress: (n) => progress.push(n) });
    await clock.advance(1_000);
    expect(await purging).toBe(25);
    expect(progress).toEqual([10, 20, 25]);
    expect(store.calls.sweep).toBe(3);
    expect((await idempotency.status({ key: "live" })).state).toBe("completed");
  });

  test("stops at a signal, before, between two batches, and while it pauses", async () => {
    const reason = new Error("enough");
    const { idempotency, clock, store } = await expired(25);
    expect(await failure(idempotency.purge({ signal: AbortSignal.abort(reason) }))).toBe(reason);
    expect(store.calls.sweep).toBe(0);
    const controller = new AbortController();
    const purging = failure(idempotency.purge({ batch: 10, signal: controller.signal }));
    await turns();
    controller.abort(reason);
    expect(await purging).toBe(reason);
    expect(store.calls.sweep).toBe(1);
    expect(clock.pending).toBe(0);
  });
});

describe("the sweeper (ST-9)", () => {
  test("runs every minute by the clock, from the first operation on, and stops on close", async () => {
    const { idempotency, clock, store } = fixture({ sweep: { every: "1m" }, random: () => 0.5 });
    await clock.advance(300_000);
    expect(store.calls.sweep).toBe(0);
    await idempotency.run({ key: "k" }, () => 1);
    await clock.advance(59_999);
    expect(store.calls.sweep).toBe(0);
    await clock.advance(1);
    expect(store.calls.sweep).toBe(1);
    await clock.advance(240_000);
    expect(store.calls.sweep).toBe(5);
    await idempotency.close();
    await clock.advance(240_000);
    expect(store.calls.sweep).toBe(5);
    expect(clock.pending).toBe(0);
  });

  test("that is at it when the instance is closed does not begin again", async () => {
    const { idempotency, clock, store, plan } = fixture({
      sweep: { every: "1m" },
      random: () => 0.5,
    });
    const reply = deferred();
    plan.push({ method: "sweep", call: 1, effect: "delay", until: reply.promise });
    await idempotency.run({ key: "k" }, () => 1);
    await clock.advance(60_000);
    expect(store.calls.sweep).toBe(1);
    await idempotency.close();
    reply.resolve();
    await clock.advance(240_000);
    expect(store.calls.sweep).toBe(1);
    expect(clock.pending).toBe(0);
  });

  test("sweeps full batches one after the other, paced", async () => {
    const { idempotency, clock, store } = fixture({
      sweep: { every: "1h", batch: 10 },
      random: () => 0.5,
      retention: "1m",
    });
    for (let n = 0; n < 25; n++) await idempotency.run({ key: `k${n}` }, () => n);
    await clock.advance(3_600_000);
    expect(store.calls.sweep).toBe(1);
    await clock.advance(1_000);
    expect(store.calls.sweep).toBe(3);
    expect((await idempotency.stats()).states.completed).toBe(0);
  });

  test("survives a store that fails, and says so", async () => {
    const { idempotency, clock, store, plan } = fixture({
      sweep: { every: "1m" },
      random: () => 0.5,
    });
    const error = new TypeError("broken");
    plan.push({ method: "sweep", call: 1, effect: "fail-before", error });
    await idempotency.run({ key: "k" }, () => 1);
    const events = await eventsDuring(() => clock.advance(120_000));
    expect(events).toEqual([{ type: "background-failure", during: "sweep", error }]);
    expect(store.calls.sweep).toBe(2);
  });
});

describe("late requests (EN-11)", () => {
  const HOUR_MS = 3_600_000;
  function uuidV7(at: number): string {
    const time = at.toString(16).padStart(12, "0");
    return `${time.slice(0, 8)}-${time.slice(8)}-7abc-8def-0123456789ab`;
  }

  test("are refused when absent and older than retention minus skew, and not before", async () => {
    const { idempotency, clock, store } = fixture({ retention: "1h", refuseLate: { skew: "10m" } });
    const now = clock.now();
    const bound = now - HOUR_MS * (50 / 60);
    const run = (firstSentAt: Date | number, key: string) =>
      idempotency.run({ key, firstSentAt }, () => 1);
    const error = await failure(run(bound - 1, "late"));
    expect(error).toBeInstanceOf(KeyExpired);
    expect(error).toMatchObject({ code: "key-expired", retry: "never" });
    expect(await store.read(recordId("", "late"))).toBeUndefined();
    expect((await run(bound, "in time")).value).toBe(1);
    expect((await run(new Date(now), "now")).value).toBe(1);
    expect((await idempotency.run({ key: "says nothing" }, () => 1)).value).toBe(1);
  });

  test("are told by the time in a UUIDv7 key, unless the request says otherwise", async () => {
    const { idempotency, clock } = fixture({ retention: "1h", refuseLate: true });
    const late = uuidV7(clock.now() - HOUR_MS * (55 / 60) - 1);
    expect(await failure(idempotency.run({ key: late }, refuse))).toBeInstanceOf(KeyExpired);
    expect((await idempotency.run({ key: uuidV7(clock.now()) }, () => 1)).value).toBe(1);
    expect((await idempotency.run({ key: late, firstSentAt: clock.now() }, () => 1)).value).toBe(1);
  });

  test("are replayed while the record is there", async () => {
    const { idempotency, another, clock } = fixture({ retention: "1h", refuseLate: true });
    const key = uuidV7(clock.now());
    const finish = deferred<string>();
    const first = idempotency.run({ key }, () => finish.promise);
    await clock.advance(2 * HOUR_MS);
    finish.resolve("slow");
    await first;
    expect((await another().run({ key }, refuse)).value).toBe("slow");
  });

  test("by default nothing is refused", async () => {
    const { idempotency } = fixture();
    expect((await idempotency.run({ key: uuidV7(0) }, () => 1)).value).toBe(1);
    const off = fixture({ refuseLate: true });
    const request = { key: uuidV7(0), refuseLate: false } as const;
    expect((await off.idempotency.run(request, () => 1)).value).toBe(1);
  });

  test("of one process do not answer for each other: each has its own time", async () => {
    const { idempotency, clock } = fixture({ retention: "1h", refuseLate: true });
    const late = failure(idempotency.run({ key: "k", firstSentAt: 0 }, refuse));
    const inTime = idempotency.run({ key: "k", firstSentAt: clock.now() }, () => 1);
    expect(await late).toBeInstanceOf(KeyExpired);
    expect((await inTime).value).toBe(1);
  });

  test("a skew that would refuse every request is an error, by default and for one request", async () => {
    expect(() => fixture({ retention: "5m", refuseLate: true })).toThrow("less than `retention`");
    expect(() => fixture({ retention: "1m", refuseLate: { skew: "1m" } })).toThrow("`retention`");
    expect(() => fixture({ retention: "1m", refuseLate: { skew: "59s" } })).not.toThrow();
    const { idempotency } = fixture({ refuseLate: true });
    const error = await failure(idempotency.run({ key: "k", retention: "1m" }, refuse));
    expect(error).toMatchObject({ code: "option-invalid" });
  });

  test("a first-sent time must be one", async () => {
    const { idempotency } = fixture({ refuseLate: true });
    for (const firstSentAt of ["2020-01-01", null, Number.NaN, new Date("x")]) {
      const request = { key: "k", firstSentAt: firstSentAt as never };
      const error = await failure(idempotency.run(request, refuse));
      expect(error).toMatchObject({ code: "option-invalid" });
    }
  });
});

test("a held operation says so to every caller, with a reason, and never `same-key`", async () => {
  const engine = fixture();
  await held(engine);
  const error = await failure(engine.idempotency.run({ key: "k", payload: 1, wait: "1m" }, refuse));
  expect(error).toBeInstanceOf(OperationHeld);
  expect(error).toMatchObject({ retry: "never", reason: "handler-failed: unsure" });
});
