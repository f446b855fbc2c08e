// Options: what is unknown, of the wrong type or out of bounds is refused, with the nearest right one.

import { inspect } from "node:util";
import { describe, expect, test } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { policyOf } from "../../src/engine/policy.ts";
import { KEY_LENGTH_MAX, SCOPE_LENGTH_MAX } from "../../src/key.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { failure, fixture } from "./fixture.ts";

const refuse = () => expect.unreachable("the handler ran");

test("the defaults are those of the specification (SPEC §11)", () => {
  expect(policyOf({})).toEqual({
    retentionMs: 24 * 3_600_000,
    openRetentionMs: 24 * 3_600_000,
    leaseMs: 30_000,
    waitMs: 0,
    onError: "release",
    onCrash: "hold",
    probe: undefined,
    attemptsMax: 10,
    lateAfterMs: undefined,
    heldRetentionMs: null,
    lapsedRetentionMs: null,
  });
  expect(new Idempotency({ store: memoryStore() }).maxResultBytes).toBe(2 ** 20);
});

describe("a scope that is there, and undefined or null", () => {
  const executor = { query: async () => expect.unreachable("the database was asked") };
  const asked: [string, (from: Idempotency, name: { key: string; scope: string }) => unknown][] = [
    ["run()", (from, name) => from.run(name, refuse)],
    ["transaction()", (from, name) => from.transaction(name, refuse)],
    ["within()", (from, name) => from.within(executor as never, name, refuse)],
    ["start()", (from, name) => from.operation("ride", { handler: refuse }).start(name)],
    ["run() of an operation", (from, name) => from.operation("r", { handler: refuse }).run(name)],
    ["status() of one", (from, name) => from.operation("ride", { handler: refuse }).status(name)],
    ["get()", (from, name) => from.get(name)],
    ["get() of an operation", (from, name) => from.get({ ...name, operation: "ride" })],
    ["status()", (from, name) => from.status(name)],
    ["resolve()", (from, name) => from.resolve(name, { outcome: "not-applied" })],
    ["void()", (from, name) => from.void(name)],
    ["delete()", (from, name) => from.delete(name)],
  ];

  test.each(asked)("is refused by %s, and nothing is asked of the store", async (_name, ask) => {
    const { idempotency, store } = fixture();
    for (const scope of [undefined, null] as never[]) {
      const work = (async () => ask(idempotency, { key: "k", scope }))();
      expect(await failure(work)).toMatchObject({
        code: "scope-missing",
        message: expect.stringContaining(`\`scope\` is ${scope}`),
      });
    }
    expect(store.calls.total).toBe(0);
  });

  test("two tenants without an id do not share a receipt; who leaves the scope out shares it", async () => {
    const { idempotency } = fixture();
    const receiptOf = (tenant: { id?: string }) =>
      idempotency.run({ key: "order-1", scope: tenant.id as string }, () => "receipt");
    await failure(receiptOf({}));
    expect((await idempotency.run({ key: "order-1" }, () => 1)).value).toBe(1);
    expect((await idempotency.run({ key: "order-1", scope: "" }, refuse)).value).toBe(1);
    expect(await failure(receiptOf({}))).toMatchObject({ code: "scope-missing" });
  });
});

describe("the constructor", () => {
  const store = memoryStore();
  const WRONG: [Record<string, unknown>, string][] = [
    [{ retentoin: "1h" }, "did you mean `retention`?"],
    [{ leaseMs: 5 }, "did you mean `lease`?"],
    [{ zzzzzzzzz: 5 }, "it has retention, lease"],
    [{ retention: "1 day" }, "`retention` must be milliseconds or a string such as"],
    [{ retention: 0 }, "`retention` must be between 1 ms"],
    [{ retention: "36601d" }, "`retention` must be between"],
    [{ lease: 9 }, "`lease` must be between 10 ms"],
    [{ wait: -1 }, "`wait` must be between 0 ms"],
    [{ wait: Number.NaN }, "`wait` must be milliseconds"],
    [{ wait: null }, "`wait` must be milliseconds"],
    [{ storeTimeout: 0 }, "`storeTimeout` must be between 1 ms"],
    [{ completionRetry: "x" }, "`completionRetry`"],
    [{ onError: "relase" }, 'did you mean "release"?'],
    [{ onError: 5n }, '`onError` must be one of "release", "hold", "store", got 5'],
    [{ onCrash: "re-run" }, 'did you mean "rerun"?'],
    [{ onCrash: {} }, "got object"],
    [{ attemptsMax: 0 }, "`attemptsMax` must be a whole number from 1"],
    [{ attemptsMax: 1.5 }, "got 1.5"],
    [{ attemptsMax: 3n }, "got 3"],
    [{ maxResultBytes: -1 }, "`maxResultBytes`"],
    [{ maxResultBytes: "1MiB" }, 'got "1MiB"'],
    [{ refuseLate: "yes" }, "`refuseLate` takes an object"],
    [{ refuseLate: null }, "got null"],
    [{ refuseLate: { skw: 1 } }, "did you mean `skew`?"],
    [{ cache: true }, "`cache` takes an object"],
    [{ cache: { size: 1 } }, "`cache` has no option `size`"],
    [{ cache: { entries: -1 } }, "`cache.entries`"],
    [{ cache: { lifetime: "1min" } }, "`cache.lifetime`"],
    [{ sweep: { every: 9 } }, "`sweep.every` must be between 10 ms"],
    [{ sweep: { batch: 0 } }, "`sweep.batch`"],
    [{ heldRetention: 0 }, "`heldRetention`"],
    [{ codec: { encode() {} } }, "`codec` must have the methods encode, decode; it lacks decode"],
    [{ clock: { now: Date.now } }, "`clock` must have the methods now, schedule"],
    [{ random: 4 }, "`random`"],
    [{ store: undefined }, "`store` must be a store"],
    [{ store: null }, "`store` must be a store"],
    [{ store: { begin() {} } }, "it lacks settle, renew, read"],
  ];
  for (const [options, message] of WRONG) {
    const shown = inspect(options, { breakLength: Number.POSITIVE_INFINITY });
    test(`refuses ${shown}`, () => {
      expect(() => new Idempotency({ store, ...options } as never)).toThrow(
        expect.objectContaining({
          code: "option-invalid",
          message: expect.stringContaining(message),
        }),
      );
    });
  }

  test("refuses no options at all", () => {
    expect(() => new Idempotency(undefined as never)).toThrow("takes an object of options");
    expect(() => new Idempotency(null as never)).toThrow("got null");
  });

  test("takes both ends of every bound", () => {
    for (const options of [
      { retention: 1, lease: 10, wait: 0, storeTimeout: 1, attemptsMax: 1, maxResultBytes: 0 },
      { retention: "36600d", attemptsMax: 1_000_000, maxResultBytes: 2 ** 30 },
      { cache: { entries: 0, bytes: 0, lifetime: 0 }, sweep: { every: 10, batch: 1 } },
      { completionRetry: 0, heldRetention: 1, refuseLate: true, sweep: { batch: 100_000 } },
    ] as const) {
      expect(() => new Idempotency({ store, ...options })).not.toThrow();
    }
  });
});

describe("run()", () => {
  const WRONG: [Record<string, unknown>, string][] = [
    [{ payoad: 1 }, "run() has no option `payoad`; did you mean `payload`?"],
    [{ maxResultBytes: 1 }, "run() has no option `maxResultBytes`"],
    [{ retention: "1w" }, "`retention` must be"],
    [{ onCrash: "probe" }, '`onCrash` must be one of "hold", "rerun"'],
    [{ signal: {} }, "`signal` must have the methods addEventListener"],
    [{ signal: null }, "`signal` must have the methods"],
    [{ fingerprint: "all" }, "`fingerprint` takes an object"],
    [{ fingerprint: null }, "`fingerprint` takes an object"],
    [{ fingerprint: { includes: ["/a"] } }, "did you mean `include`?"],
    [{ fingerprint: { include: ["/a"], exclude: ["/b"] } }, "either `include` or `exclude`"],
    [{ fingerprint: { include: [] } }, "`fingerprint.include` must be a non-empty list"],
    [{ fingerprint: {} }, "must be a non-empty list"],
    [{ fingerprint: { exclude: ["amount"] } }, "not a JSON Pointer"],
    [{ fingerprint: { exclude: [5n] } }, "not a JSON Pointer"],
  ];
  for (const [options, message] of WRONG) {
    const shown = inspect(options, { breakLength: Number.POSITIVE_INFINITY });
    test(`refuses ${shown}, and runs nothing`, async () => {
      const { idempotency, store } = fixture();
      const error = await failure(idempotency.run({ key: "k", ...options } as never, refuse));
      expect(error).toMatchObject({ code: "option-invalid" });
      expect((error as Error).message).toContain(message);
      expect(store.calls.total).toBe(0);
    });
  }

  test("refuses what is no request and no handler", async () => {
    const { idempotency } = fixture();
    expect(await failure(idempotency.run("k" as never, refuse))).toMatchObject({
      code: "option-invalid",
    });
    expect(await failure(idempotency.run({ key: "k" }, undefined as never))).toMatchObject({
      message: "run() takes a handler function",
    });
  });

  test("refuses keys and scopes out of bounds, and takes those at them", async () => {
    const { idempotency, store } = fixture();
    for (const key of [undefined, 5, "", "x".repeat(KEY_LENGTH_MAX + 1), "\u00e9", "a\n"]) {
      const error = await failure(idempotency.run({ key: key as never }, refuse));
      expect(error).toMatchObject({ code: "key-invalid", retry: "new-key" });
    }
    for (const scope of [null, 5, "x".repeat(SCOPE_LENGTH_MAX + 1), "\ud800"]) {
      const error = await failure(idempotency.run({ key: "k", scope: scope as never }, refuse));
      expect(error).toMatchObject({ code: "scope-missing" });
    }
    expect(store.calls.total).toBe(0);
    const request = { key: "~".repeat(KEY_LENGTH_MAX), scope: "\u{1f600}".repeat(512) };
    expect((await idempotency.run(request, () => 1)).value).toBe(1);
  });

  test("its options win over those of the constructor", async () => {
    const { idempotency, clock } = fixture({ retention: "1h", onError: "hold" });
    await idempotency.run({ key: "k", retention: "1m" }, () => 1);
    await clock.advance(60_000);
    expect((await idempotency.run({ key: "k" }, () => 2)).value).toBe(2);
    const decline = () => {
      throw new Error("no");
    };
    await failure(idempotency.run({ key: "open", onError: "release" }, decline));
    expect((await idempotency.status({ key: "open" })).state).toBe("open");
  });

  test("an option that is given as undefined is as if it was not given", async () => {
    const { idempotency } = fixture();
    const request = { key: "k", wait: undefined, signal: undefined, fingerprint: undefined };
    expect((await idempotency.run(request as never, () => 1)).value).toBe(1);
  });
});
