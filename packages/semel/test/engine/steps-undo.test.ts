// What an attempt must know before an operation may end as failed (EN-6): how to undo all that is saved,
// whichever attempt saved it.

import { afterEach, describe, expect, test } from "vitest";
import type { Operation } from "../../src/engine/attempt.ts";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { NotApplied, OperationFailed } from "../../src/errors.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { deferred, type Fixture, failure, fixture, turns } from "./fixture.ts";
import { type Machines, machines } from "./queue-fixture.ts";

const named = { key: "ride-7", scope: "acme" } as const;
const request = { ...named, onError: "store", onCrash: "rerun" } as const;

/** Steps that do and undo something that can be looked at. */
function world() {
  const done = new Set<string>();
  const log: string[] = [];
  return {
    done,
    log,
    does: ({ step }: Operation, name: string) =>
      step(
        name,
        () => {
          done.add(name);
          log.push(name);
          return name;
        },
        {
          undo: (value) => {
            done.delete(value);
            log.push(`-${value}`);
          },
        },
      ),
  };
}

/** Tries again later, under any `onError`. */
const again = () => {
  throw new NotApplied(new Error("network blip"));
};

describe("an attempt that fails for good", () => {
  test.each([
    ["between steps that are saved", 1, '"charge"'],
    ["before all of them", 0, '"reserve", "charge"'],
  ])("EN-6: %s is held, and names what it cannot undo", async (_when, called, missing) => {
    const { idempotency } = fixture();
    const { does, done } = world();
    let attempts = 0;
    const run = () =>
      idempotency.run(request, async (operation) => {
        const isFirst = ++attempts === 1;
        for (const name of ["reserve", "charge"].slice(0, isFirst ? 2 : called)) {
          await does(operation, name);
        }
        if (isFirst) again();
        throw new Error("cancelled meanwhile");
      });
    await failure(run());
    const reason = `undo-unknown: the attempt that failed did not call ${missing} with its \`undo\``;
    expect(await failure(run())).toMatchObject({ message: reason });
    expect(await idempotency.get(named)).toMatchObject({ state: "held", reason });
    // What came last is undone first, so nothing was.
    expect([...done]).toEqual(["reserve", "charge"]);
  });

  test("EN-6: is undone once it is resolved and its steps are called, though nothing fails then", async () => {
    const { idempotency } = fixture();
    const { does, log } = world();
    let attempts = 0;
    const run = () =>
      idempotency.run(request, async (operation) => {
        if (++attempts === 2) throw new Error("cancelled meanwhile");
        await does(operation, "reserve");
        await does(operation, "charge");
        if (attempts === 1) again();
        return "done";
      });
    await failure(run());
    await failure(run());
    await idempotency.resolve(named, { outcome: "not-applied" });
    expect(await failure(run())).toMatchObject({ code: "operation-failed" });
    expect(log).toEqual(["reserve", "charge", "-charge", "-reserve"]);
    expect(await failure(run())).toMatchObject({
      code: "operation-failed",
      cause: expect.objectContaining({ message: "cancelled meanwhile" }),
    });
  });

  test("EN-6: undoes in reverse of the order in which its steps ended, whichever attempt saved them", async () => {
    const { idempotency } = fixture();
    const undone: string[] = [];
    let attempts = 0;
    const run = () =>
      idempotency.run(request, async ({ step }) => {
        const isFirst = ++attempts === 1;
        const quick = deferred();
        const does = (name: string, work: () => unknown) =>
          step(name, work, { undo: () => undone.push(name) });
        await Promise.all([
          does("slow", () => quick.promise.then(turns)),
          does("quick", async () => quick.resolve()),
        ]);
        if (isFirst) again();
        await does("last", () => 1);
        throw new Error("for good");
      });
    await failure(run());
    await failure(run());
    expect(undone).toEqual(["last", "slow", "quick"]);
  });

  test("EN-6: needs to know nothing of steps that have no undo, or are undone already", async () => {
    const { idempotency } = fixture();
    let attempts = 0;
    const run = () =>
      idempotency.run(request, async ({ step }) => {
        if (++attempts > 1) throw new Error("for good");
        await step("look-up", () => 1);
        again();
      });
    await failure(run());
    expect(await failure(run())).toMatchObject({ message: "for good" });
    expect(await idempotency.get(named)).toMatchObject({ state: "completed" });
  });

  test("costs no look at the record where it is the first one", async () => {
    const { idempotency, store } = fixture();
    await failure(
      idempotency.run(request, () => {
        throw new Error("for good");
      }),
    );
    expect(store.calls).toMatchObject({ begin: 1, settle: 1, total: 2 });
  });
});

describe("branches that run beside the step that fails for good", () => {
  /** Two steps one after the other, with something else between, beside one that fails. */
  function branching() {
    const on = fixture();
    const { does, log, done } = world();
    let between = deferred();
    const run = (fails: () => unknown, after?: (operation: Operation) => unknown) => {
      between = deferred();
      const running = on.idempotency.run(request, async (operation) => {
        const branch = async () => {
          await does(operation, "a1");
          await between.promise;
          await does(operation, "a2");
          await after?.(operation);
        };
        await Promise.all([branch(), operation.step("b", async () => fails())]);
      });
      return failure(running);
    };
    return { ...on, run, log, done, goOn: () => between.resolve() };
  }

  test("EN-6: are waited for, and what they have saved before is undone", async () => {
    const { run, goOn, clock, log, idempotency } = branching();
    const blip = deferred();
    const first = run(() => blip.promise.then(again));
    goOn();
    await turns();
    blip.resolve();
    await first;
    const second = run(() => {
      throw new Error("sold out");
    });
    await turns();
    goOn();
    await clock.advance(20);
    expect(await second).toMatchObject({ message: "sold out" });
    expect(log).toEqual(["a1", "a2", "-a2", "-a1"]);
    expect(await idempotency.get(named)).toMatchObject({ state: "completed" });
  });

  test("EN-6: begin nothing new", async () => {
    const { run, goOn, clock, done } = branching();
    const blip = deferred();
    const first = run(() => blip.promise.then(again));
    goOn();
    await turns();
    blip.resolve();
    await first;
    let late: unknown;
    const second = run(
      () => {
        throw new Error("sold out");
      },
      async ({ step }) => {
        late = await failure(step("a3", () => done.add("a3")));
      },
    );
    await turns();
    goOn();
    await clock.advance(20);
    await second;
    expect(late).toMatchObject({ code: "step-invalid", message: expect.stringMatching(/after/) });
    expect([...done]).toEqual([]);
  });

  test("EN-6: that never come to their steps have it held", async () => {
    const { run, goOn, clock, idempotency } = branching();
    const blip = deferred();
    const first = run(() => blip.promise.then(again));
    goOn();
    await turns();
    blip.resolve();
    await first;
    const second = run(() => {
      throw new Error("sold out");
    });
    for (let i = 0; i < 12; i++) await clock.advance(100);
    expect(await second).toMatchObject({ message: expect.stringMatching(/^undo-unknown.*"a2"/) });
    expect(await idempotency.get(named)).toMatchObject({ state: "held" });
  });
});

describe("a durable operation", () => {
  let on: Machines;

  afterEach(() => on.stop());

  const retry = { attemptsMax: 3, base: 1, cap: 1 } as const;

  test("EN-6, EN-7: that fails for good before its saved steps is tried again, then held", async () => {
    on = machines();
    const { idempotency } = on.start();
    const { does, done } = world();
    let attempts = 0;
    const ride = idempotency.operation("ride", {
      retry,
      handler: async (_input, operation) => {
        if (++attempts > 1) throw new OperationFailed(new Error("cancelled meanwhile"));
        await does(operation, "reserve");
        throw new Error("network blip");
      },
    });
    await ride.start({ ...named, input: 1 });
    idempotency.worker({ operations: [ride] });
    await on.until(async () => (await ride.status(named)).state === "held");
    expect(attempts).toBe(3);
    expect([...done]).toEqual(["reserve"]);
    expect((await ride.status(named)).error).toMatch(/^undo-unknown: .*"reserve"/);
  });

  test("EN-6: an undoing that fails is tried again in branches, too", async () => {
    on = machines();
    const { idempotency } = on.start();
    const log: string[] = [];
    let blips = 1;
    const ride = idempotency.operation("ride", {
      retry,
      handler: async (_input, { step }) => {
        const branch = async () => {
          await step("a1", () => 1, { undo: () => log.push("-a1") });
          await turns();
          const undo = () => {
            if (blips-- > 0) throw new Error("undo blip");
            log.push("-a2");
          };
          await step("a2", () => 1, { undo });
        };
        const soldOut = async () => {
          for (let n = 0; n < 4; n++) await turns();
          throw new OperationFailed(new Error("sold out"));
        };
        await Promise.all([branch(), step("b", soldOut)]);
      },
    });
    await ride.start({ ...named, input: 1 });
    idempotency.worker({ operations: [ride] });
    await on.until(async () => (await ride.status(named)).state === "failed");
    expect(log).toEqual(["-a2", "-a1"]);
  });

  /** A step that runs while the store keeps nothing. */
  function unsaved(outages: number, onExhausted: "hold" | "fail" = "hold") {
    on = machines({ completionRetry: "200ms" });
    const { idempotency, plan } = on.start();
    const { log } = world();
    let attempts = 0;
    const ride = idempotency.operation("ride", {
      onExhausted,
      retry: { ...retry, isRetryable: (error) => (error as { status?: number }).status === 503 },
      handler: async (_input, { step }) => {
        attempts++;
        const charge = () => {
          if (attempts <= outages) plan.push({ method: "append", effect: "fail-before" });
          log.push("charge");
        };
        const paid = step("charge", charge, { undo: () => log.push("refund") });
        await paid.finally(() => {
          plan.length = 0;
        });
      },
    });
    idempotency.worker({ operations: [ride] });
    return { ride, log };
  }

  test("SM-22, EN-7: a step that ran and could not be saved is no failure for good, whatever `isRetryable` knows", async () => {
    const { ride, log } = unsaved(1);
    await ride.start({ ...named, input: 1 });
    await on.until(async () => (await ride.status(named)).state === "completed");
    expect(log).toEqual(["charge", "charge"]);
  });

  test("SM-22, EN-7: and where it was the last attempt, it is undone", async () => {
    const { ride, log } = unsaved(3, "fail");
    await ride.start({ ...named, input: 1 });
    await on.until(async () => (await ride.status(named)).state === "failed");
    expect(log).toEqual(["charge", "charge", "charge", "refund"]);
  });
});

describe("an attempt that knows that another one took over", () => {
  /** One whose renewals are lost until another one runs, and that goes on when it hears of it. */
  async function superseded(
    goesOn: (operation: Operation, heard: Promise<void>) => unknown,
    { idempotency, another, plan, clock }: Fixture = fixture(),
  ) {
    plan.push({ method: "renew", effect: "fail-before" });
    const heard = deferred();
    const end = deferred<unknown>();
    const told = idempotency.run({ ...request, lease: "1s" }, async (operation) => {
      operation.signal.addEventListener("abort", () => heard.resolve());
      return goesOn(operation, heard.promise);
    });
    await turns();
    for (let n = 0; n < 15; n++) await clock.advance(100);
    const successor = another().run(request, () => end.promise);
    await turns();
    plan.length = 0;
    for (let n = 0; n < 10; n++) await clock.advance(100);
    await heard.promise;
    await turns();
    end.resolve("the successor's");
    await successor;
    // Where the first one looks for what stands instead.
    for (let n = 0; n < 10; n++) await clock.advance(100);
    expect(await told).toMatchObject({ value: "the successor's", replayed: true });
  }

  test("SM-17: begins no step", async () => {
    const { does, log } = world();
    let refusal: unknown;
    await superseded(async (operation, heard) => {
      await does(operation, "reserve");
      await heard;
      refusal = await failure(does(operation, "charge"));
    });
    expect(refusal).toMatchObject({ code: "attempt-superseded" });
    expect(log).toEqual(["reserve"]);
  });

  test("SM-17: undoes nothing", async () => {
    const on = fixture();
    let undone = 0;
    const reserve = ({ step }: Operation) =>
      step("reserve", () => 1, {
        undo: () => {
          if (++undone === 1) throw new Error("undo blip");
        },
      });
    const failed = on.idempotency.run(request, async (operation) => {
      await reserve(operation);
      throw new Error("for good");
    });
    await failure(failed);
    await on.idempotency.resolve(named, { outcome: "not-applied" });
    let isReplayed = false;
    await superseded(async (operation, heard) => {
      await reserve(operation);
      isReplayed = true;
      await heard;
      throw new Error("for good");
    }, on);
    expect([isReplayed, undone]).toEqual([true, 1]);
  });
});

test('SM-22: under `onError: "store"` a step that ran and could not be saved is undone', async () => {
  const { idempotency, plan, clock } = fixture({ completionRetry: "200ms" });
  const { does, log } = world();
  plan.push({ method: "append", effect: "fail-before" });
  const run = idempotency.run(request, async (operation) => {
    await does(operation, "charge").finally(() => {
      plan.length = 0;
    });
  });
  const first = failure(run);
  for (let i = 0; i < 10; i++) await clock.advance(50);
  expect(await first).toMatchObject({ code: "store-unavailable" });
  expect(log).toEqual(["charge", "-charge"]);
  expect(await idempotency.get(named)).toMatchObject({ state: "completed" });
});

test("EN-6: a transaction that nobody knows the end of is undone by nobody, and held", async () => {
  const records = memoryStore();
  const lost = new Error("connection lost");
  const transactions = {
    concurrencyMax: 1,
    run: async (work: (...given: unknown[]) => unknown) => {
      await work({}, {});
      throw lost;
    },
    append: async () => ({ kind: "settled" }),
    isRetryable: () => false,
  };
  const store = new Proxy(records, {
    get(target, name) {
      if (name === "transactions") return transactions;
      if (name === "renew") return () => Promise.reject(lost);
      const member = Reflect.get(target, name, target);
      return typeof member === "function" ? member.bind(target) : member;
    },
  });
  const idempotency = new Idempotency({ store, completionRetry: 50, sweep: false });
  const run = idempotency.run(request, ({ step }) =>
    step.transaction("order", () => 1, { undo: () => expect.unreachable("it was undone") }),
  );
  const reason =
    'undo-failed: It is not known whether the transaction of step "order" has committed';
  expect(await failure(run)).toMatchObject({ message: reason });
  expect(await idempotency.get(named)).toMatchObject({ state: "held", reason });
});
