// One execution and one answer for every duplicate, and what that costs the store.

import { describe, expect, test } from "vitest";
import { isSemelError, KeyReused, OperationBusy } from "../../src/errors.ts";
import { recordId } from "../../src/key.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { crashed, deferred, failure, fixture, turns } from "./fixture.ts";

describe("duplicates", () => {
  test("a hundred that arrive at once run the handler once and get the same value (EN-1, EN-3)", async () => {
    const { idempotency, store } = fixture();
    let runs = 0;
    const outcomes = await Promise.all(
      Array.from({ length: 100 }, () =>
        idempotency.run({ key: "k", payload: { amount: 1 }, wait: "5s" }, async () => {
          await turns();
          return { run: ++runs };
        }),
      ),
    );
    expect(runs).toBe(1);
    expect(outcomes.map(({ value }) => value)).toEqual(Array(100).fill({ run: 1 }));
    expect(outcomes.filter(({ replayed }) => !replayed)).toHaveLength(1);
    expect(outcomes.every(({ attempt }) => attempt === 1)).toBe(true);
    // A begin and a settle for the one that ran; the others never asked (PF-1).
    expect(store.calls).toMatchObject({ begin: 1, settle: 1, total: 2 });
  });

  test("a hundred in two processes run the handler once (SM-3, SM-5)", async () => {
    const { idempotency, another, clock } = fixture({ cache: false });
    const processes = [idempotency, another()];
    let runs = 0;
    const work = Promise.all(
      Array.from({ length: 100 }, (_, index) =>
        processes[index % 2]!.run({ key: "k", wait: "5s" }, async () => {
          await turns();
          return ++runs;
        }),
      ),
    );
    await clock.advance(5_000);
    expect((await work).map(({ value }) => value)).toEqual(Array(100).fill(1));
    expect(runs).toBe(1);
  });

  test("without `wait`, one that arrives while the first runs is told when to retry (EN-3, SM-3)", async () => {
    const { idempotency, another, clock, store } = fixture({ lease: "30s" });
    const finish = deferred();
    const first = idempotency.run({ key: "k" }, () => finish.promise);
    await clock.advance(4_000);
    const here = await failure(idempotency.run({ key: "k" }, () => expect.unreachable()));
    expect(store.calls.begin, "the same process does not ask the store").toBe(1);
    const there = await failure(another().run({ key: "k" }, () => expect.unreachable()));
    expect(here).toBeInstanceOf(OperationBusy);
    expect(here).toMatchObject({ code: "operation-in-progress", retryAfterMs: 30_000 });
    expect(there).toMatchObject({ code: "operation-in-progress", retryAfterMs: 26_000 });
    finish.resolve();
    await first;
  });

  test("one that waits longer than `wait` is told that it is still running (EN-3)", async () => {
    const { idempotency, another, clock } = fixture();
    const finish = deferred<number>();
    const first = idempotency.run({ key: "k" }, () => finish.promise);
    await turns();
    const here = failure(idempotency.run({ key: "k", wait: "2s" }, () => expect.unreachable()));
    const there = failure(another().run({ key: "k", wait: "2s" }, () => expect.unreachable()));
    await clock.advance(2_600);
    expect(await here).toBeInstanceOf(OperationBusy);
    expect(await there).toBeInstanceOf(OperationBusy);
    finish.resolve(7);
    expect((await first).value).toBe(7);
  });

  test("a handler that asks for its own key waits for itself, in vain", async () => {
    const { idempotency, clock } = fixture();
    for (const wait of [0, 2_000]) {
      const key = `${wait}`;
      const own = () => idempotency.run({ key, wait }, () => expect.unreachable());
      const nested = failure(idempotency.run({ key }, own));
      await clock.advance(wait);
      expect(await nested).toBeInstanceOf(OperationBusy);
    }
  });

  test("one that waits in another process gets the result soon after it is there (EN-3)", async () => {
    const { idempotency, another, clock } = fixture();
    const finish = deferred<number>();
    const first = idempotency.run({ key: "k" }, () => finish.promise);
    await turns();
    const other = another().run({ key: "k", wait: "1m" }, () => expect.unreachable());
    await clock.advance(10_000);
    finish.resolve(7);
    await clock.advance(600);
    expect(await other).toEqual({ value: 7, replayed: true, attempt: 1 });
    await first;
  });

  test("of those that wait for an attempt that is released, one runs, after a begin of its own (EN-3)", async () => {
    const { idempotency, store } = fixture();
    const refused = new Error("declined");
    let runs = 0;
    const first = failure(
      idempotency.run({ key: "k" }, async () => {
        await turns();
        throw refused;
      }),
    );
    const others = Array.from({ length: 20 }, () =>
      idempotency.run({ key: "k", wait: "5s" }, async () => {
        await turns();
        return ++runs;
      }),
    );
    expect(await first).toBe(refused);
    const outcomes = await Promise.all(others);
    expect(outcomes.map(({ value }) => value)).toEqual(Array(20).fill(1));
    expect(outcomes.every(({ attempt }) => attempt === 2)).toBe(true);
    expect(store.calls).toMatchObject({ begin: 2, settle: 2, total: 4 });
  });

  test("those that wait without a cache share one begin (EN-3)", async () => {
    const { idempotency, store } = fixture({ cache: false });
    const all = Array.from({ length: 50 }, () =>
      idempotency.run({ key: "k", wait: "5s" }, () => turns()),
    );
    await Promise.all(all);
    expect(store.calls).toMatchObject({ begin: 2, settle: 1, total: 3 });
  });

  test("a handler that asks for its own key is told that it is busy instead of waiting for itself for ever", async () => {
    const { idempotency } = fixture();
    const outcome = await idempotency.run({ key: "k" }, async () => {
      const inner = await failure(idempotency.run({ key: "k" }, () => expect.unreachable()));
      return isSemelError(inner) ? inner.code : "none";
    });
    expect(outcome.value).toBe("operation-in-progress");
  });

  test("the answers to two callers are two values: what one changes, the other does not see", async () => {
    const { idempotency, another } = fixture();
    const ask = (from = idempotency) =>
      from.run({ key: "k" }, () => ({ items: [1], bytes: Uint8Array.of(1) }));
    const first = await ask();
    first.value.items.push(2);
    first.value.bytes[0] = 9;
    const second = await ask();
    expect(second.value).toEqual({ items: [1], bytes: Uint8Array.of(1) });
    second.value.items.push(3);
    second.value.bytes[0] = 8;
    expect((await ask()).value).toEqual({ items: [1], bytes: Uint8Array.of(1) });
    expect((await ask(another())).value).toEqual({ items: [1], bytes: Uint8Array.of(1) });
  });
});

describe("scopes", () => {
  test("two scopes never see each other's records, however they are spelt", async () => {
    const { idempotency } = fixture();
    const run = async (scope: string, key: string) =>
      (await idempotency.run({ scope, key }, () => `${scope}|${key}`)).value;
    for (const [scope, key] of [
      ["", "k"],
      ["a", "k"],
      ["a:b", "c"],
      ["a", "b:c"],
      ["1:a", "b"],
      ["", "1:ab"],
    ] as const) {
      expect(await run(scope, key)).toBe(`${scope}|${key}`);
    }
  });
});

describe("what it costs the store (PF-1)", () => {
  test("a new operation is a begin and a settle, a replay one begin, a cached replay nothing (EN-4)", async () => {
    const { idempotency, store } = fixture();
    await idempotency.run({ key: "k" }, () => 1);
    expect(store.calls).toMatchObject({ begin: 1, settle: 1, total: 2 });
    await idempotency.run({ key: "k" }, () => 2);
    expect(store.calls.total).toBe(2);

    const uncached = fixture({ cache: false });
    await uncached.idempotency.run({ key: "k" }, () => 1);
    await uncached.idempotency.run({ key: "k" }, () => 2);
    expect(uncached.store.calls).toMatchObject({ begin: 2, settle: 1, total: 3 });
  });

  test("a replay from the store is cached as well (EN-4)", async () => {
    const { idempotency, another, store } = fixture();
    await another().run({ key: "k" }, () => 1);
    for (let n = 0; n < 3; n++) {
      expect(await idempotency.run({ key: "k" }, () => 2)).toMatchObject({
        value: 1,
        replayed: true,
      });
    }
    expect(store.calls.total).toBe(1);
  });

  test("nothing is asked before the first operation", () => {
    const { store, clock } = fixture({ sweep: { every: "1m" } });
    expect(store.calls.total).toBe(0);
    expect(clock.pending).toBe(0);
  });
});

describe("mismatches (SM-2)", () => {
  test("another payload is refused while the first runs, and does not disturb it", async () => {
    const { idempotency, another } = fixture();
    const finish = deferred<string>();
    const first = idempotency.run({ key: "k", payload: 1 }, () => finish.promise);
    await turns();
    for (const from of [idempotency, another()]) {
      const error = await failure(from.run({ key: "k", payload: 2, wait: "5s" }, () => "x"));
      expect(error).toBeInstanceOf(KeyReused);
    }
    finish.resolve("first");
    expect((await first).value).toBe("first");
    expect((await another().run({ key: "k", payload: 1 }, () => "x")).value).toBe("first");
  });

  test("another payload is refused by the cache, by the store, and once held or open", async () => {
    const { idempotency, another } = fixture();
    const wrong = (key: string, from = idempotency) =>
      failure(from.run({ key, payload: "wrong" }, () => expect.unreachable()));
    await idempotency.run({ key: "done", payload: "right" }, () => 1);
    await failure(
      idempotency.run({ key: "held", payload: "right", onError: "hold" }, () => {
        throw new Error("unsure");
      }),
    );
    await failure(
      idempotency.run({ key: "open", payload: "right" }, () => {
        throw new Error("no");
      }),
    );
    for (const key of ["done", "held", "open"]) {
      expect(await wrong(key)).toMatchObject({ code: "key-reused", retry: "new-key" });
      expect(await wrong(key, another())).toMatchObject({ code: "key-reused" });
    }
  });

  test("another payload is refused after the lease lapsed", async () => {
    const engine = fixture({ lease: "1s", onCrash: "rerun" });
    await crashed(engine, { key: "k", payload: 1 });
    await engine.clock.advance(10_000);
    const error = await failure(engine.idempotency.run({ key: "k", payload: 2 }, () => 2));
    expect(error).toBeInstanceOf(KeyReused);
  });

  test("the refusal reveals nothing of the stored payload", async () => {
    const { idempotency } = fixture();
    await idempotency.run({ key: "k", payload: "secret-1" }, () => 1);
    const error = (await failure(idempotency.run({ key: "k", payload: 2 }, () => 2))) as Error;
    expect(JSON.stringify([error, error.message, Object.entries(error)])).not.toMatch(/secret|v1:/);
    expect(error.cause).toBeUndefined();
  });

  test("an honest duplicate is answered while a wrong one is asking the store", async () => {
    const { idempotency, another, plan } = fixture();
    await another().run({ key: "k", payload: "right" }, () => "first");
    const reply = deferred();
    plan.push({ method: "begin", call: 1, effect: "delay-reply", until: reply.promise });
    const wrong = failure(idempotency.run({ key: "k", payload: "wrong" }, () => "x"));
    await turns();
    const right = idempotency.run({ key: "k", payload: "right" }, () => "x");
    reply.resolve();
    expect(await wrong).toBeInstanceOf(KeyReused);
    expect(await right).toEqual({ value: "first", replayed: true, attempt: 1 });
  });

  test("a wrong duplicate is refused while the honest one is asking the store for a replay", async () => {
    const { idempotency, another, plan } = fixture();
    await another().run({ key: "k", payload: "right" }, () => "first");
    const reply = deferred();
    plan.push({ method: "begin", call: 1, effect: "delay-reply", until: reply.promise });
    const right = idempotency.run({ key: "k", payload: "right" }, () => "x");
    await turns();
    const wrong = failure(idempotency.run({ key: "k", payload: "wrong" }, () => "x"));
    reply.resolve();
    expect((await right).value).toBe("first");
    expect(await wrong).toBeInstanceOf(KeyReused);
  });

  test("a changed selection is no mismatch, the same one is (EN-1)", async () => {
    const { idempotency, another } = fixture();
    const payload = { amount: 1, sentAt: "now" };
    await idempotency.run({ key: "k", payload }, () => "first");
    const fingerprint = { exclude: ["/sentAt"] };
    for (const from of [idempotency, another()]) {
      const outcome = await from.run(
        { key: "k", payload: { amount: 1, sentAt: "later" }, fingerprint },
        () => "x",
      );
      expect(outcome).toMatchObject({ value: "first", replayed: true });
    }
    const stays = another();
    const error = await failure(
      stays.run({ key: "k", payload: { ...payload, amount: 2 } }, () => 2),
    );
    expect(error).toBeInstanceOf(KeyReused);
  });

  test("a changed selection finds an operation that still runs, in this process and in another (EN-1)", async () => {
    const { idempotency, another } = fixture();
    const finish = deferred<number>();
    const first = idempotency.run({ key: "k", payload: { a: 1 } }, () => finish.promise);
    await turns();
    for (const from of [idempotency, another()]) {
      const request = { key: "k", payload: { a: 1 }, fingerprint: { include: ["/a"] } };
      expect(await failure(from.run(request, () => 2))).toBeInstanceOf(OperationBusy);
    }
    finish.resolve(1);
    await first;
  });

  test("the parts that count are chosen by pointers or by a function (EN-1)", async () => {
    const { idempotency } = fixture({ cache: false });
    const cases = [
      { exclude: ["/meta/sentAt"] },
      { include: ["/amount", "/meta/to"] },
      (payload: { amount: number; meta: { to: string } }) => [payload.amount, payload.meta.to],
    ];
    for (const [index, fingerprint] of cases.entries()) {
      const run = (amount: number, sentAt: string) =>
        idempotency.run(
          { key: `k${index}`, payload: { amount, meta: { to: "a", sentAt } }, fingerprint },
          () => amount,
        );
      await run(1, "now");
      expect((await run(1, "later")).value).toBe(1);
      expect(await failure(run(2, "now"))).toBeInstanceOf(KeyReused);
    }
  });

  test("a selection that throws, and a payload without a canonical form, run nothing", async () => {
    const { idempotency, store } = fixture();
    const broken = new Error("broken selection");
    const fingerprint = () => {
      throw broken;
    };
    expect(await failure(idempotency.run({ key: "k", payload: 1, fingerprint }, () => 1))).toBe(
      broken,
    );
    const error = await failure(idempotency.run({ key: "k", payload: { f() {} } }, () => 1));
    expect(error).toMatchObject({ code: "payload-invalid" });
    expect(store.calls.total).toBe(0);
  });
});

describe("other kinds of operation", () => {
  test("a key that was used for an HTTP response is not answered with its bytes", async () => {
    const { idempotency, another } = fixture();
    const request = (from: typeof idempotency, resultKind: "http" | "value") =>
      from.request({ key: "k", scope: "", fingerprint: "h1:x", resultKind });
    const first = await idempotency.begin(request(idempotency, "http"));
    if (first.kind !== "run") return expect.unreachable();
    const bytes = Buffer.from("response");
    await first.attempt.settle({
      kind: "complete",
      result: { kind: "http", omitted: false, bytes },
    });
    for (const from of [idempotency, another()]) {
      expect(await from.begin(request(from, "value"))).toEqual({ kind: "mismatch" });
      expect(await from.begin(request(from, "http"))).toMatchObject({ kind: "replay" });
      expect(await failure(from.run({ key: "k" }, () => 1))).toBeInstanceOf(KeyReused);
    }
  });
});

test("the record's id is what stores are asked for", async () => {
  const { idempotency, store } = fixture();
  await idempotency.run({ key: "k", scope: "tenant" }, () => 1);
  expect(await store.read(recordId("tenant", "k"))).toMatchObject({ key: "k", scope: "tenant" });
});

test("an instance over a store that is not wrapped works alike", async () => {
  const { another } = fixture({ store: memoryStore() });
  expect((await another().run({ key: "k" }, async () => 1)).value).toBe(1);
});
