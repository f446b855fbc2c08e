// What a handler's failure and a crash do to its operation (SM-4, SM-24).

import { describe, expect, test } from "vitest";
import type { ProbeVerdict } from "../../src/engine/policy.ts";
import { NotApplied, OperationFailed, OperationHeld } from "../../src/errors.ts";
import { recordId } from "../../src/key.ts";
import { crashed, deferred, failure, fixture, turns } from "./fixture.ts";

const declined = new TypeError("declined");
function decline(): never {
  throw declined;
}

describe("a handler that throws (SM-24)", () => {
  test("releases its operation by default, and its caller gets the very error", async () => {
    const { idempotency } = fixture();
    expect(await failure(idempotency.run({ key: "k" }, decline))).toBe(declined);
    expect(await idempotency.run({ key: "k" }, () => 2)).toEqual({
      value: 2,
      replayed: false,
      attempt: 2,
    });
  });

  test('holds it under `onError: "hold"`, with the reason', async () => {
    const { idempotency, another } = fixture({ onError: "hold" });
    expect(await failure(idempotency.run({ key: "k" }, decline))).toBe(declined);
    const error = await failure(another().run({ key: "k" }, () => expect.unreachable()));
    expect(error).toBeInstanceOf(OperationHeld);
    expect(error).toMatchObject({ reason: "handler-failed: declined", retry: "never" });
  });

  test('makes the failure the result under `onError: "store"`', async () => {
    const { idempotency, another } = fixture();
    const request = { key: "k", onError: "store" } as const;
    expect(await failure(idempotency.run(request, decline))).toBe(declined);
    for (const from of [idempotency, another()]) {
      const error = await failure(from.run({ key: "k" }, () => expect.unreachable()));
      expect(error).toBeInstanceOf(OperationFailed);
      expect(error).toMatchObject({
        code: "operation-failed",
        retry: "new-key",
        cause: { name: "TypeError", message: "declined" },
      });
    }
  });

  test("whatever it throws, the attempt ends", async () => {
    const things = [undefined, null, "text", 5n, Symbol("s"), Object.create(null), { message: 1 }];
    for (const onError of ["release", "hold", "store"] as const) {
      const { idempotency } = fixture({ onError });
      for (const [index, thing] of things.entries()) {
        const error = await failure(
          idempotency.run({ key: `k${index}` }, () => {
            throw thing;
          }),
        );
        expect(error).toBe(thing);
        const { state } = await idempotency.status({ key: `k${index}` });
        expect(state).toBe({ release: "open", hold: "held", store: "completed" }[onError]);
      }
    }
  });

  test("one whose error cannot even be read ends the attempt as well: it is held", async () => {
    const { idempotency } = fixture({ onError: "store" });
    const unreadable = Object.defineProperty(new Error(), "name", {
      get: () => {
        throw new Error("no name");
      },
    });
    const thrown = await failure(
      idempotency.run({ key: "k" }, () => {
        throw unreadable;
      }),
    );
    expect(thrown).toMatchObject({ message: "no name" });
    const record = await idempotency.get({ key: "k" });
    expect(record).toMatchObject({ state: "held", reason: "failure-unreadable: no name" });
  });

  test("`NotApplied` releases whatever `onError` says, and keeps its cause", async () => {
    for (const onError of ["release", "hold", "store"] as const) {
      const { idempotency } = fixture({ onError });
      const error = await failure(
        idempotency.run({ key: "k" }, () => {
          throw new NotApplied(declined);
        }),
      );
      expect(error).toMatchObject({ code: "not-applied", retry: "same-key", cause: declined });
      expect((await idempotency.run({ key: "k" }, () => 2)).attempt).toBe(2);
    }
  });

  test("a reason of any length is kept, shortened to what stores take", async () => {
    const { idempotency } = fixture({ onError: "hold" });
    const long = `${"x".repeat(983)}\u{1f600}${"y".repeat(2_000)}`;
    await failure(
      idempotency.run({ key: "k" }, () => {
        throw new Error(long);
      }),
    );
    const reason = (await idempotency.get({ key: "k" }))?.reason;
    expect(reason).toHaveLength(1_000);
    expect(reason?.isWellFormed()).toBe(true);
  });
});

describe("a process that dies (SM-4)", () => {
  test("leaves the operation busy while the lease lasts, then held by default", async () => {
    const engine = fixture({ lease: "30s" });
    await crashed(engine, { key: "k" });
    await engine.clock.advance(29_999);
    const early = await failure(engine.idempotency.run({ key: "k" }, () => expect.unreachable()));
    expect(early).toMatchObject({ code: "operation-in-progress", retryAfterMs: 1 });
    await engine.clock.advance(1);
    const error = await failure(engine.idempotency.run({ key: "k" }, () => expect.unreachable()));
    expect(error).toMatchObject({ code: "outcome-unknown", reason: "lease-lapsed" });
  });

  test('is succeeded by another attempt under `onCrash: "rerun"`, by whoever asks', async () => {
    const engine = fixture({ lease: "1s" });
    await crashed(engine, { key: "k" }, { onCrash: "rerun" });
    await engine.clock.advance(1_000);
    expect(await engine.idempotency.run({ key: "k" }, () => "second")).toEqual({
      value: "second",
      replayed: false,
      attempt: 2,
    });
  });

  test("one that waits reruns it as soon as the lease lapsed", async () => {
    const engine = fixture({ lease: "1s", onCrash: "rerun" });
    await crashed(engine, { key: "k" });
    const waiting = engine.idempotency.run({ key: "k", wait: "1m" }, () => "second");
    await engine.clock.advance(1_600);
    expect((await waiting).attempt).toBe(2);
  });

  test("is held after `attemptsMax` crashes, whatever the policy (SM-23a)", async () => {
    for (const [attemptsMax, options] of [
      [3, { attemptsMax: 3 }],
      [10, {}],
    ] as const) {
      const engine = fixture({ lease: "1s", onCrash: "rerun", ...options });
      for (let crashes = 0; crashes < attemptsMax; crashes++) {
        await crashed(engine, { key: "k" });
        expect(await engine.idempotency.status({ key: "k" })).toMatchObject({
          state: "running",
          attempt: crashes + 1,
        });
        await engine.clock.advance(1_000);
      }
      const error = await failure(engine.idempotency.run({ key: "k" }, () => expect.unreachable()));
      expect(error).toMatchObject({ reason: "attempts-exhausted" });
    }
  });
});

describe("a probe (SM-4)", () => {
  async function probing(probe: () => Promise<ProbeVerdict<string>>) {
    const engine = fixture({ lease: "1s" });
    const runs: number[] = [];
    const request = { key: "k", onCrash: probe };
    await crashed(engine, request);
    await engine.clock.advance(1_000);
    const run = () =>
      engine.idempotency.run<string>(request, ({ attempt }) => {
        runs.push(attempt);
        return "ran";
      });
    return { ...engine, run, runs };
  }

  test("that finds the effect completes the operation with its result", async () => {
    const { run, runs, another } = await probing(async () => ({
      outcome: "applied",
      value: "found",
    }));
    expect(await run()).toEqual({ value: "found", replayed: true, attempt: 2 });
    expect(await another().run({ key: "k" }, () => "x")).toMatchObject({ value: "found" });
    expect(runs).toEqual([]);
  });

  test("that finds none lets the handler run in the same attempt", async () => {
    const { run, runs } = await probing(async () => ({ outcome: "not-applied" }));
    expect(await run()).toEqual({ value: "ran", replayed: false, attempt: 2 });
    expect(runs).toEqual([2]);
  });

  test("that cannot tell, throws, or answers nonsense leaves the operation held", async () => {
    const verdicts: [() => Promise<ProbeVerdict<string>>, string][] = [
      [async () => ({ outcome: "unknown" }), "probe-unknown"],
      [async () => ({}) as never, "probe-unknown"],
      [async () => undefined as never, "probe-failed"],
      [() => Promise.reject(new Error("no route")), "probe-failed: no route"],
      [async () => ({ outcome: "applied", value: (() => {}) as never }), "probe-failed"],
    ];
    for (const [probe, reason] of verdicts) {
      const { run, runs } = await probing(probe);
      for (let n = 0; n < 2; n++) {
        const error = await failure(run());
        expect(error).toBeInstanceOf(OperationHeld);
        expect((error as OperationHeld).reason).toContain(reason);
      }
      expect(runs).toEqual([]);
    }
  });

  test("that is missing in this process leaves the operation held", async () => {
    const { another } = await probing(async () => ({ outcome: "not-applied" }));
    const error = await failure(another().run({ key: "k" }, () => expect.unreachable()));
    expect((error as OperationHeld).reason).toMatch(/^probe-missing/);
  });

  test("is not asked for a first attempt, and duplicates wait for it", async () => {
    let probes = 0;
    const verdict = deferred<ProbeVerdict<string>>();
    const probe = () => {
      probes++;
      return verdict.promise;
    };
    const fresh = fixture();
    await fresh.idempotency.run<string>({ key: "k", onCrash: probe }, () => "ran");
    expect(probes).toBe(0);

    const { run, idempotency } = await probing(probe);
    const first = run();
    await turns();
    const second = idempotency.run({ key: "k", wait: "1m" }, () => "x");
    verdict.resolve({ outcome: "applied", value: "found" });
    expect((await first).value).toBe("found");
    expect((await second).value).toBe("found");
    expect(probes).toBe(1);
  });

  test("keeps its lease alive, and when it is succeeded gives its caller the successor's answer", async () => {
    const verdict = deferred<ProbeVerdict<string>>();
    const { run, runs, clock, store, plan, another } = await probing(() => verdict.promise);
    const first = run();
    await clock.advance(5_000);
    expect(store.calls.renew).toBeGreaterThan(10);
    plan.push({ method: "renew", effect: "fail-before" });
    await clock.advance(1_500);
    const found = async () => ({ outcome: "applied", value: "by another" }) as const;
    await another().run<string>({ key: "k", onCrash: found }, () => "x");
    plan.length = 0;
    await clock.advance(1_000);
    verdict.resolve({ outcome: "not-applied" });
    expect((await first).value).toBe("by another");
    expect(runs).toEqual([]);
  });
});

test("the record stays as long as its policy says (SM-15)", async () => {
  const day = 86_400_000;
  const engine = fixture({ lease: "1s", retention: "1d" });
  const { clock, store, idempotency } = engine;
  const left = async (key: string) => (await store.read(recordId("", key)))?.expiresInMs;
  await idempotency.run({ key: "done" }, () => 1);
  expect(await left("done")).toBe(day);
  await failure(idempotency.run({ key: "open" }, decline));
  expect(await left("open")).toBe(day);
  await failure(idempotency.run({ key: "held", onError: "hold" }, decline));
  expect(await left("held")).toBeNull();
  await failure(idempotency.run({ key: "bounded", onError: "hold", heldRetention: "2d" }, decline));
  expect(await left("bounded")).toBe(2 * day);
  await crashed(engine, { key: "lapsed", onCrash: "hold" });
  await crashed(engine, { key: "rerun", onCrash: "rerun" });
  expect(await left("lapsed")).toBeNull();
  expect(await left("rerun")).toBe(day + 1_000);
  await clock.advance(day);
  expect(await left("done")).toBeUndefined();
  expect(await left("open")).toBeUndefined();
  expect(await left("held")).toBeNull();
});
