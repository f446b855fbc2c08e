// Durable operations (EN-7): asked for once, done by whichever process, through failures and crashes,
// in a bounded number of attempts.

import { afterEach, describe, expect, test } from "vitest";
import { z } from "zod";
import type { Operation } from "../../src/engine/attempt.ts";
import type { DurableOptions } from "../../src/engine/durable/definition.ts";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { NotApplied, OperationFailed } from "../../src/errors.ts";
import { dynamodbStore } from "../../src/stores/dynamodb.ts";
import { deferred, eventsDuring, failure, isSettled, turns } from "./fixture.ts";
import { type Machines, machines, never, type Process } from "./queue-fixture.ts";

let on: Machines;

afterEach(() => on.stop());

/** A process with the operation "ride", and a worker for it. */
function rider(
  handler: (input: { to: string }, operation: Operation) => unknown,
  options: Partial<DurableOptions<{ to: string }, unknown>> = {},
  process: Process = on.start(),
) {
  const ride = process.idempotency.operation("ride", { handler, ...options });
  return { ...process, process, ride, work: () => workOn(process.idempotency, ride) };
}

function workOn(idempotency: Idempotency, ride: ReturnType<typeof rider>["ride"]) {
  return idempotency.worker({ operations: [ride] });
}

const asked = { key: "k", scope: "acme", input: { to: "airport" } } as const;
const name = { key: "k", scope: "acme" } as const;
const named = { ...name, operation: "ride" } as const;
const fail = () => {
  throw new Error("no driver");
};

describe("start()", () => {
  test("EN-7: returns when it is kept, and a worker of another process does it", async () => {
    on = machines();
    const asking = rider(() => expect.unreachable("it ran where it was asked for"));
    expect(await asking.ride.start(asked)).toEqual({ started: true, status: "waiting" });
    expect(await asking.ride.status(name)).toEqual({
      state: "waiting",
      attempt: 0,
      steps: [],
      nextTryInMs: 0,
      error: null,
      expiresInMs: null,
    });
    const seen: unknown[] = [];
    const working = rider((input, { key, scope, attempt }) => {
      seen.push({ input, key, scope, attempt });
      return { driver: 7n };
    });
    await working.work().drain();
    expect(seen).toEqual([{ input: { to: "airport" }, key: "k", scope: "acme", attempt: 1 }]);
    expect(await asking.ride.status(name)).toMatchObject({ state: "completed", attempt: 1 });
    expect(await asking.ride.start(asked)).toEqual({ started: false, status: "completed" });
    expect(await asking.ride.run(asked)).toEqual({
      value: { driver: 7n },
      replayed: true,
      attempt: 1,
    });
    expect(await on.records.queue!.stats()).toMatchObject({
      states: { task: { waiting: 0, dead: 0 } },
    });
  });

  test("EN-7: asked for again, it is not started again; with another input it is refused", async () => {
    on = machines();
    const { ride, work } = rider(({ to }) => to);
    const other = { ...asked, input: { to: "harbour" } };
    expect(await ride.start(asked)).toMatchObject({ started: true });
    expect(await ride.start(asked)).toEqual({ started: false, status: "waiting" });
    expect(await failure(ride.start(other))).toMatchObject({ code: "key-reused" });
    expect(await failure(ride.run(other))).toMatchObject({ code: "key-reused" });
    await work().drain();
    expect(await failure(ride.start(other))).toMatchObject({ code: "key-reused" });
    expect((await ride.run(asked)).value).toBe("airport");
    // In another scope it is another operation.
    expect(await ride.start({ ...other, scope: "other" })).toMatchObject({ started: true });
  });

  test("EN-7: of many who ask at once, exactly one has started it", async () => {
    on = machines();
    const processes = [rider(() => 1), rider(() => 1), rider(() => 1)];
    const started = await Promise.all(
      Array.from({ length: 60 }, (_, n) => processes[n % 3]!.ride.start(asked)),
    );
    expect(started.filter(({ started }) => started)).toHaveLength(1);
  });

  test("shares no record with a request or another operation of the same key", async () => {
    on = machines();
    const { idempotency, ride } = rider(() => "ride");
    const refund = idempotency.operation("refund", { handler: () => "refund" });
    await idempotency.run({ ...name, payload: 1 }, () => "request");
    expect((await ride.run(asked)).value).toBe("ride");
    expect((await refund.run({ ...name, input: 5 })).value).toBe("refund");
    expect(await idempotency.get(named)).toMatchObject({
      value: "ride",
      scope: "operation/4:ride/acme",
    });
    expect(await idempotency.get({ ...named, operation: "refund" })).toMatchObject({
      value: "refund",
    });
  });

  test("checks its options, its names and its store", async () => {
    on = machines();
    const { idempotency, ride } = rider(() => 1);
    const refused: [() => unknown, string][] = [
      [() => idempotency.operation("", { handler: fail }), "1 to 255 characters"],
      [() => idempotency.operation("x", { handler: 1 } as never), "takes a handler function"],
      [() => idempotency.operation("x", { hander: 1 } as never), "did you mean `handler`?"],
      [
        () => idempotency.operation("x", { handler: fail, retry: { attempts: 1 } } as never),
        "it has attemptsMax, base, cap, isRetryable",
      ],
      [
        () => idempotency.operation("x", { handler: fail, retry: { attemptsMax: 0 } }),
        "`retry.attemptsMax` must be a whole number from 1",
      ],
      [
        () => idempotency.operation("x", { handler: fail, onExhausted: "stop" } as never),
        '`onExhausted` must be one of "hold", "fail"',
      ],
      [
        () => idempotency.operation("x", { handler: fail, input: {} } as never),
        "it lacks validate",
      ],
      [() => idempotency.worker({ operations: [] }), "1 to 100 durable operations"],
      [() => idempotency.worker({ operations: [{}] } as never), "not made by operation()"],
      [() => idempotency.worker({ operations: [ride, ride] }), 'two with the name "ride"'],
      [() => idempotency.worker({ operations: [ride], poll: 1 } as never), "pollInterval"],
      [() => idempotency.worker({ operations: [ride], lease: "1ms" }), "`lease` must be between"],
    ];
    for (const [make, message] of refused) {
      expect(make).toThrow(expect.objectContaining({ message: expect.stringContaining(message) }));
    }
    expect(await failure(ride.start({ ...asked, keys: 1 } as never))).toMatchObject({
      code: "option-invalid",
    });
    expect(await failure(ride.start({ ...asked, key: "" }))).toMatchObject({ code: "key-invalid" });
    expect(await failure(ride.start({ ...asked, input: { to: fail } } as never))).toMatchObject({
      code: "payload-invalid",
    });
  });
});

test("a store without a queue is told so when it is needed", () => {
  on = machines();
  const unused = { get: fail, put: fail, update: fail, delete: fail, scan: fail };
  const store = dynamodbStore(unused as never, { table: "semel", clockSkew: 0 });
  const idempotency = new Idempotency({ store, sweep: false });
  const message = expect.stringContaining("keeps no durable operations and effects");
  for (const ask of [
    () => idempotency.operation("ride", { handler: () => 1 }),
    () => idempotency.relay({ mail: () => 1 }),
  ]) {
    expect(ask).toThrow(expect.objectContaining({ code: "option-invalid", message }));
  }
});

describe("run()", () => {
  test("EN-7: does it here, and leaves nothing to do for workers", async () => {
    on = machines();
    const { ride } = rider(({ to }, { attempt }) => `${to} ${attempt}`);
    expect(await ride.run(asked)).toEqual({ value: "airport 1", replayed: false, attempt: 1 });
    expect(await ride.run(asked)).toEqual({ value: "airport 1", replayed: true, attempt: 1 });
    expect((await on.records.queue!.list({ limit: 10 })).items).toEqual([]);
  });

  test("EN-7: waits for whoever does it", async () => {
    on = machines();
    const done = deferred<string>();
    const working = rider(() => done.promise);
    const asking = rider(() => expect.unreachable("two ran it"));
    await asking.ride.start(asked);
    working.work();
    await turns();
    const waiting = asking.ride.run({ ...asked, wait: "1m" });
    await on.clock.advance(5_000);
    done.resolve("by the worker");
    await on.until(async () => (await asking.ride.status(name)).state === "completed");
    await on.clock.advance(1_000);
    expect(await waiting).toEqual({ value: "by the worker", replayed: true, attempt: 1 });
  });

  test("EN-7: tries again after a failure, as long as the caller waits, and workers go on", async () => {
    on = machines();
    let fails = 3;
    const handler = () => (fails-- > 0 ? fail() : "at last");
    const { ride } = rider(
      handler,
      { retry: { base: "4s", cap: "4s" } },
      on.start({ random: () => 1 }),
    );
    const waiting = failure(ride.run({ ...asked, wait: "6s" }));
    await on.clock.advance(20_000);
    expect(await waiting).toMatchObject({
      code: "operation-in-progress",
      retry: "same-key",
      cause: expect.objectContaining({ message: "no driver" }),
    });
    expect(await ride.status(name)).toMatchObject({ state: "waiting", attempt: 2 });
    const working = rider(handler, { retry: { base: "1s", cap: "1s" } });
    working.work();
    await on.until(async () => (await ride.status(name)).state === "completed");
    expect((await ride.run(asked)).value).toBe("at last");
  });

  test("EN-14: an abort ends the wait; what runs goes on to its end", async () => {
    on = machines();
    const done = deferred<string>();
    const { ride } = rider(() => done.promise);
    const stop = new AbortController();
    const waiting = failure(ride.run({ ...asked, signal: stop.signal }));
    await turns();
    stop.abort(new Error("gone"));
    expect(await waiting).toMatchObject({ message: "gone" });
    done.resolve("done");
    await on.until(async () => (await ride.status(name)).state === "completed");
    expect((await on.records.queue!.list({ limit: 10 })).items).toEqual([]);
  });

  test("EN-7: when its process dies, a worker finishes what it began", async () => {
    on = machines();
    const dying = rider(async (_input, { step }) => {
      await step("charge", () => "charged once");
      return never();
    });
    void dying.ride.run(asked);
    await turns();
    dying.kill();
    const working = rider((_input, { step }) => step("charge", () => "charged twice"));
    working.work();
    await on.until(async () => (await working.ride.status(name)).state === "completed");
    expect(await working.ride.run(asked)).toEqual({
      value: "charged once",
      replayed: true,
      attempt: 2,
    });
  });
});

describe("input", () => {
  const schema = z.object({ to: z.string().min(3), seats: z.coerce.number().default(1) });

  test("EN-7: is checked before anything is kept, and given to the handler as the schema makes it", async () => {
    on = machines();
    const { idempotency } = on.start();
    const seen: unknown[] = [];
    const ride = idempotency.operation("ride", {
      input: schema,
      handler: (input) => void seen.push(input),
    });
    const refused = await failure(ride.start({ ...name, input: { to: "x" } }));
    expect(refused).toMatchObject({
      code: "payload-invalid",
      message: expect.stringContaining("to: "),
    });
    expect(await ride.status(name)).toMatchObject({ state: "absent" });
    await ride.start({ ...name, input: { to: "airport", seats: "2" } });
    await idempotency.worker({ operations: [ride] }).drain();
    await ride.run({ ...name, key: "other", input: { to: "airport" } });
    expect(seen).toEqual([
      { to: "airport", seats: 2 },
      { to: "airport", seats: 1 },
    ]);
  });

  test("EN-7: one that no longer validates after a deploy is held, with the reason; mended, it runs", async () => {
    on = machines();
    const before = rider(() => 1);
    await before.ride.start(asked);
    const { idempotency } = on.start();
    const strict = idempotency.operation("ride", {
      input: z.object({ to: z.string(), seats: z.number() }),
      handler: () => expect.unreachable("it ran with what it cannot take"),
    });
    await idempotency.worker({ operations: [strict] }).drain();
    const reason = expect.stringContaining("input-invalid: The input of operation");
    expect(await strict.status(name)).toMatchObject({ state: "held", error: reason, attempt: 1 });
    expect((await idempotency.list({ state: "held" })).records).toMatchObject([{ reason }]);
    expect(await failure(before.ride.run(asked))).toMatchObject({ code: "outcome-unknown" });

    const mended = on.start().idempotency;
    const lenient = mended.operation("ride", {
      input: z.object({ to: z.string(), seats: z.number().default(1) }),
      handler: ({ seats }) => seats,
    });
    expect(await mended.resolve(named, { outcome: "not-applied" })).toEqual({ kind: "resolved" });
    await mended.worker({ operations: [lenient] }).drain();
    expect((await lenient.run(asked)).value).toBe(1);
  });

  test("which parts of it count can be chosen", async () => {
    on = machines();
    const { idempotency } = on.start();
    const ride = idempotency.operation("ride", {
      handler: (input: { to: string; sentAt: number }) => input.sentAt,
      fingerprint: { exclude: ["/sentAt"] },
    });
    await ride.start({ ...name, input: { to: "airport", sentAt: 1 } });
    expect(await ride.start({ ...name, input: { to: "airport", sentAt: 2 } })).toMatchObject({
      started: false,
    });
    await idempotency.worker({ operations: [ride] }).drain();
    expect((await ride.run({ ...name, input: { to: "airport", sentAt: 3 } })).value).toBe(1);
  });
});

describe("failures", () => {
  test("EN-7: are tried again with growing pauses of full jitter", async () => {
    on = machines();
    const tries: number[] = [];
    const { ride, work } = rider(
      () => {
        tries.push(on.clock.now());
        fail();
      },
      { retry: { attemptsMax: 5, base: "10s", cap: "40s" } },
      on.start({ random: () => 0.5 }),
    );
    await ride.start(asked);
    work();
    await turns();
    expect(await ride.status(name)).toMatchObject({
      state: "waiting",
      attempt: 1,
      nextTryInMs: 5_000,
      error: "no driver",
    });
    await on.until(async () => (await ride.status(name)).state === "held", 100);
    const pauses = tries.slice(1).map((at, n) => Math.round((at - tries[n]!) / 1_000));
    expect(pauses).toEqual([5, 10, 20, 20]);
  });

  test("EN-7: an `isRetryable` that throws says nothing: it is tried again, and told of as a mistake", async () => {
    on = machines();
    let attempts = 0;
    const isRetryable = (error: unknown) =>
      (error as { response: { status: number } }).response.status >= 500;
    const { ride, work } = rider(
      () => {
        attempts++;
        fail();
      },
      { retry: { attemptsMax: 3, isRetryable } },
    );
    const events = await eventsDuring(async () => {
      await ride.start(asked);
      work();
      await turns();
      expect(await ride.status(name)).toMatchObject({ state: "waiting", attempt: 1 });
      await on.until(async () => (await ride.status(name)).state === "held");
    });
    expect(attempts).toBe(3);
    expect(await ride.status(name)).toMatchObject({
      error: "attempts-exhausted: no driver",
    });
    const mistakes = events.filter(({ type }) => type === "misuse");
    expect(mistakes).toHaveLength(3);
    expect(mistakes[0]).toMatchObject({
      message: expect.stringMatching(/^isRetryable\(\) threw: .*'status'/),
    });
  });

  test("EN-7, SM-23a: attempts are bounded; then it is held, and once resolved it has all of them again", async () => {
    on = machines();
    let attempts = 0;
    const { idempotency, ride, work } = rider(
      () => {
        attempts++;
        if (attempts !== 7) fail();
        return "ok";
      },
      { retry: { attemptsMax: 3, base: 1, cap: 1 } },
    );
    await ride.start(asked);
    work();
    await on.until(async () => (await ride.status(name)).state === "held");
    expect(attempts).toBe(3);
    expect(await ride.status(name)).toMatchObject({ error: "attempts-exhausted: no driver" });
    expect((await idempotency.operations.list({ state: "dead" })).items).toMatchObject([
      { name: "ride", key: "k", error: "held: attempts-exhausted: no driver", attempts: 3 },
    ]);
    expect(await failure(ride.start(asked))).toMatchObject({ code: "outcome-unknown" });
    await idempotency.resolve(named, { outcome: "not-applied" });
    await on.until(async () => (await ride.status(name)).state === "held");
    expect(attempts).toBe(6);
    await idempotency.resolve(named, { outcome: "not-applied" });
    await on.until(async () => (await ride.status(name)).state === "completed");
    expect(attempts).toBe(7);
    expect((await idempotency.operations.list()).items).toEqual([]);
  });

  test("EN-7: once resolved, it has all of its attempts also where it is asked for", async () => {
    on = machines();
    let attempts = 0;
    const { idempotency, ride, work } = rider(
      () => {
        attempts++;
        if (attempts !== 6) fail();
        return "ok";
      },
      { retry: { attemptsMax: 3, base: 1, cap: 1 } },
    );
    await ride.start(asked);
    const worker = work();
    await on.until(async () => (await ride.status(name)).state === "held");
    await worker.close();
    await idempotency.resolve(named, { outcome: "not-applied" });
    const outcome = ride.run(asked);
    await on.until(() => isSettled(outcome));
    expect(await outcome).toMatchObject({ value: "ok", attempt: 6 });
  });

  test("SM-12: resolved as applied, it has its value, and no worker looks after it", async () => {
    on = machines();
    const { idempotency, ride, work } = rider(fail, { retry: { attemptsMax: 1 } });
    await ride.start(asked);
    await work().drain();
    await idempotency.resolve(named, { outcome: "applied", value: "by hand" });
    expect((await ride.run(asked)).value).toBe("by hand");
    expect((await idempotency.operations.list()).items).toEqual([]);
  });

  test("SM-12: decided by hand, it is remembered as long as others of its name", async () => {
    on = machines({ retention: "1h" });
    const { idempotency, ride, work } = rider(fail, {
      retry: { attemptsMax: 1 },
      retention: "30d",
    });
    await ride.start(asked);
    const worker = work();
    await worker.drain();
    await worker.close();
    await idempotency.resolve(named, { outcome: "applied", value: "by hand" });
    const voided = { ...named, key: "never" };
    expect(await idempotency.void(voided)).toMatchObject({ kind: "voided" });
    await on.clock.advance(20 * 86_400_000);
    expect((await ride.run(asked)).value).toBe("by hand");
    expect(await idempotency.status(voided)).toMatchObject({ state: "void" });
  });

  test('EN-6, EN-7: `onExhausted: "fail"` undoes the steps in reverse and keeps the failure', async () => {
    on = machines();
    const log: string[] = [];
    const { ride, work } = rider(
      async (_input, { step }) => {
        await step("reserve", () => log.push("reserve"), { undo: () => log.push("release") });
        await step("charge", () => log.push("charge"), { undo: () => log.push("refund") });
        fail();
      },
      { onExhausted: "fail", retry: { attemptsMax: 3, base: 1, cap: 1 } },
    );
    await ride.start(asked);
    work();
    await on.until(async () => (await ride.status(name)).state === "failed");
    expect(log).toEqual(["reserve", "charge", "refund", "release"]);
    expect(await ride.status(name)).toMatchObject({ attempt: 3, error: "no driver" });
    expect(await ride.start(asked)).toEqual({ started: false, status: "failed" });
    expect(await failure(ride.run(asked))).toMatchObject({
      code: "operation-failed",
      cause: expect.objectContaining({ message: "no driver" }),
    });
  });

  test.each<[string, () => Error, Partial<DurableOptions<{ to: string }, unknown>>]>([
    ["an OperationFailed", () => new OperationFailed(new Error("declined")), {}],
    [
      "what is not retryable",
      () => new Error("declined"),
      { retry: { isRetryable: (error) => (error as Error).message !== "declined" } },
    ],
  ])(
    "EN-7: %s ends it at once: undone, and every caller gets the failure",
    async (_name, error, options) => {
      on = machines();
      const log: string[] = [];
      const { ride } = rider(async (_input, { step }) => {
        await step("reserve", () => log.push("reserve"), { undo: () => log.push("release") });
        throw error();
      }, options);
      for (let n = 0; n < 2; n++) {
        expect(await failure(ride.run(asked))).toMatchObject({
          code: "operation-failed",
          cause: expect.objectContaining({ message: "declined" }),
        });
      }
      expect(log).toEqual(["reserve", "release"]);
      expect(await ride.status(name)).toMatchObject({ state: "failed", attempt: 1 });
    },
  );

  test("EN-6, EN-7: an undoing that fails is tried again, in what is left of the attempts", async () => {
    on = machines();
    const log: string[] = [];
    let refusals = 2;
    const { ride, work } = rider(
      async (_input, { step }) => {
        await step("reserve", () => 1, { undo: () => log.push("release") });
        await step("charge", () => 1, {
          undo: () => {
            if (refusals-- > 0) throw new Error("bank closed");
            log.push("refund");
          },
        });
        throw new OperationFailed(new Error("no driver"));
      },
      { retry: { attemptsMax: 5, base: 1, cap: 1 } },
    );
    work();
    await ride.start(asked);
    await on.until(async () => (await ride.status(name)).state === "failed");
    expect(log).toEqual(["refund", "release"]);
    expect(await ride.status(name)).toMatchObject({ attempt: 3, error: "no driver" });
    refusals = 10;
    await ride.start({ ...asked, key: "two" });
    const second = { ...name, key: "two" };
    await on.until(async () => (await ride.status(second)).state === "held");
    expect(await ride.status(second)).toMatchObject({
      attempt: 5,
      error: 'undo-failed: step "charge": bank closed',
    });
    expect(log).toEqual(["refund", "release"]);
  });

  test("SM-24: NotApplied counts as an attempt like any other failure", async () => {
    on = machines();
    let attempts = 0;
    const { ride, work } = rider(
      () => {
        attempts++;
        throw new NotApplied(new Error("busy elsewhere"));
      },
      { retry: { attemptsMax: 4, base: 1, cap: 1 } },
    );
    await ride.start(asked);
    work();
    await on.until(async () => (await ride.status(name)).state === "held");
    expect(attempts).toBe(4);
  });

  test("hold() has it held whatever the handler does after, and it is undone by nobody", async () => {
    on = machines();
    const { idempotency, ride, work } = rider(async (_input, operation) => {
      await operation.step("a", () => 1, { undo: () => expect.unreachable("it was undone") });
      operation.hold("the provider gave no answer");
      throw new OperationFailed(new Error("gave up"));
    });
    await ride.start(asked);
    await work().drain();
    expect(await ride.status(name)).toMatchObject({
      state: "held",
      error: "the provider gave no answer",
    });
    await on.clock.advance(5_000);
    expect((await idempotency.list({ state: "held" })).records).toMatchObject([
      { reason: "the provider gave no answer", ageMs: 5_000 },
    ]);
    expect((await idempotency.stats()).oldestHeldMs).toBe(5_000);
  });
});

describe("void (SM-13)", () => {
  test("cancels what waits: it never runs, and the receipt says so", async () => {
    on = machines();
    const { idempotency, ride, work } = rider(() => expect.unreachable("it ran"));
    await ride.start(asked);
    const answer = await idempotency.void(named);
    expect(answer).toEqual({
      kind: "voided",
      receipt: {
        ...named,
        id: expect.stringMatching(/^[0-9a-f]{32}$/),
        attempts: 0,
        voidedAt: on.clock.now(),
        expiresInMs: 86_400_000,
      },
    });
    await work().drain();
    expect(await ride.status(name)).toMatchObject({ state: "void" });
    expect(await failure(ride.start(asked))).toMatchObject({ code: "operation-void" });
    expect(await failure(ride.run(asked))).toMatchObject({ code: "operation-void" });
    expect((await idempotency.operations.list()).items).toEqual([]);
  });

  test("cancels what is to be tried again, and is refused while it runs", async () => {
    on = machines();
    const failing = deferred();
    const { idempotency, ride, work } = rider(() => failing.promise.then(fail));
    await ride.start(asked);
    work();
    await turns();
    expect(await idempotency.void(named)).toEqual({ kind: "busy" });
    failing.resolve();
    await turns();
    expect(await ride.status(name)).toMatchObject({ state: "waiting", attempt: 1 });
    expect(await idempotency.void(named)).toMatchObject({
      kind: "voided",
      receipt: { attempts: 1 },
    });
    await on.clock.advance(3_600_000);
    expect(await ride.status(name)).toMatchObject({ state: "void", attempt: 1 });
  });
});

describe("at rest (ST-11)", () => {
  const encryption = { keys: { a: new Uint8Array(32).fill(7) }, current: "a" };
  const hashKeys = new Uint8Array(16).fill(1);

  test("input, scope and key do not appear in the store, and workers have them", async () => {
    on = machines({ encryption, hashKeys });
    const seen: unknown[] = [];
    const { ride, work, store } = rider((input, { key, scope }) => {
      seen.push({ input, key, scope });
    });
    await ride.start({ key: "secret-key", scope: "secret-scope", input: { to: "secret-place" } });
    const { id } = (await store.queue!.list({ limit: 1 })).items[0]!;
    const item = await store.queue!.read(id);
    expect(JSON.stringify(item) + Buffer.from(item!.payload).toString("latin1")).not.toMatch(
      /secret/,
    );
    await work().drain();
    expect(seen).toEqual([
      { input: { to: "secret-place" }, key: "secret-key", scope: "secret-scope" },
    ]);
  });

  test("names that are to be hidden need an encryption that hides them", () => {
    on = machines({ hashKeys });
    expect(() => rider(() => 1)).toThrow(
      expect.objectContaining({ message: expect.stringContaining("set `encryption` as well") }),
    );
  });

  test("an input that cannot be decrypted is given up with the reason, and revived when it can be", async () => {
    on = machines({ encryption });
    const { ride } = rider(() => 1);
    await ride.start(asked);
    const other = { keys: { b: new Uint8Array(32).fill(9) }, current: "b" };
    const without = rider(() => 2, {}, on.start({ encryption: other }));
    await without.work().drain();
    expect(await ride.status(name)).toMatchObject({
      state: "held",
      error: expect.stringContaining(
        'input-unreadable: A stored result is encrypted under the key "a"',
      ),
    });
    const working = rider(() => 3);
    const { id } = (await working.idempotency.operations.list({ state: "dead" })).items[0]!;
    expect(await working.idempotency.operations.revive(id)).toBe(true);
    expect(await working.idempotency.operations.get(id)).toMatchObject({
      name: "ride",
      payload: { to: "airport" },
      state: "waiting",
    });
    await working.work().drain();
    expect((await ride.run(asked)).value).toBe(3);
  });
});

test("an operation that waits longer than its retention is neither forgotten nor begun anew", async () => {
  on = machines({ retention: "1h" });
  let isBroken = true;
  const calls: string[] = [];
  const { ride, work } = rider(
    async (_input, { step }) => {
      await step("charge", () => calls.push("charge"));
      if (isBroken) fail();
      return calls.length;
    },
    { retry: { base: "2h", cap: "2h", attemptsMax: 5 } },
    on.start({ random: () => 1 }),
  );
  await ride.start(asked);
  work();
  await turns();
  isBroken = false;
  await on.until(async () => (await ride.status(name)).state === "completed", 60_000);
  expect(calls).toEqual(["charge"]);
  expect(await ride.status(name)).toMatchObject({ attempt: 2 });
});

test("nor is one whose claim was given back, because nobody heard of it", async () => {
  on = machines({ retention: "1h" });
  const { ride, plan, idempotency } = rider(fail);
  plan.push({ method: "begin", call: 1, effect: "fail-after" });
  plan.push({ method: "begin", call: 2, effect: "fail-after" });
  const asking = failure(ride.run(asked));
  await on.until(() => isSettled(asking));
  expect(await asking).toMatchObject({ code: "store-unavailable" });
  await on.until(async () => (await idempotency.get(named))?.state === "open");
  await on.clock.advance(2 * 3_600_000);
  expect(await idempotency.get(named)).toMatchObject({ state: "open", attempt: 0 });
});

test("EN-7: a claim whose answer came too late counts as no attempt", async () => {
  on = machines({ storeTimeout: 200 });
  const { idempotency, plan } = on.start();
  const calls: number[] = [];
  const ride = idempotency.operation("ride", {
    retry: { attemptsMax: 1 },
    handler: (_input: number, { attempt }) => calls.push(attempt),
  });
  await ride.start({ key: "k", input: 1 });
  // The store does what it is asked for, and takes too long to say so.
  plan.push({ method: "begin", effect: "delay-reply", until: never() });
  idempotency.worker({ operations: [ride], pollInterval: 50 });
  for (let claims = 2; claims < 5; claims++) {
    await on.until(
      async () => ((await on.records.queue!.list({ limit: 1 })).items[0]?.started ?? 0) >= claims,
    );
  }
  expect(calls).toEqual([]);
  plan.length = 0;
  await on.until(async () => (await ride.status({ key: "k" })).state === "completed");
  expect(calls).toEqual([1]);
});
