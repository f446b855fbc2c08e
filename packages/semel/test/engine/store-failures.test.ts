// A store that loses replies, fails, hangs or is full (SM-16, SM-17, SM-22, SM-23b).

import { describe, expect, test } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { RecordUnreadable, StoreFull, StoreUnavailable, StoreUnusable } from "../../src/errors.ts";
import { recordId } from "../../src/key.ts";
import type { Claim, Store } from "../../src/store.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { manualClock } from "../../src/testing/manual-clock.ts";
import { crashed, deferred, eventsDuring, failure, fixture, isSettled, turns } from "./fixture.ts";

const NEVER = new Promise<never>(() => {});
const ID = recordId("", "k");
const run = (engine: { idempotency: Idempotency }, value = "ran") =>
  engine.idempotency.run({ key: "k" }, () => value);
const refuse = () => expect.unreachable("the handler ran");

describe("a begin whose reply is lost (SM-16)", () => {
  test("is asked again with the same owner, and the handler runs once", async () => {
    const engine = fixture();
    engine.plan.push({ method: "begin", call: 1, effect: "fail-after" });
    const outcome = run(engine);
    await engine.clock.advance(100);
    expect(await outcome).toEqual({ value: "ran", replayed: false, attempt: 1 });
    expect(engine.store.calls.begin).toBe(2);
  });

  test("or that a driver sends twice is one claim", async () => {
    const engine = fixture();
    engine.plan.push({ method: "begin", call: 1, effect: "twice" });
    expect((await run(engine)).attempt).toBe(1);
  });

  test("twice is an error within the bound; the claim is given back and the next request runs", async () => {
    const engine = fixture();
    engine.plan.push({ method: "begin", call: 1, effect: "fail-after" });
    engine.plan.push({ method: "begin", call: 2, effect: "fail-after" });
    const first = failure(engine.idempotency.run({ key: "k" }, refuse));
    await engine.clock.advance(100);
    expect(await first).toBeInstanceOf(StoreUnavailable);
    await engine.clock.advance(500);
    expect(await engine.store.read(ID)).toMatchObject({ state: "open", attempt: 0 });
    expect(await run(engine)).toEqual({ value: "ran", replayed: false, attempt: 1 });
    await engine.clock.advance(60_000);
    expect(engine.clock.pending).toBe(0);
  });
});

describe("a store that fails at begin (SM-22)", () => {
  test("runs nothing: StoreUnavailable, with the store's error, in bounded time", async () => {
    const engine = fixture();
    const broken = new Error("connection refused");
    engine.plan.push({ method: "begin", effect: "fail-before", error: broken });
    const first = failure(engine.idempotency.run({ key: "k", wait: "1m" }, refuse));
    await engine.clock.advance(2_000);
    expect(await first).toMatchObject({
      code: "store-unavailable",
      retry: "same-key",
      cause: broken,
    });
    engine.plan.length = 0;
    expect((await run(engine)).attempt).toBe(1);
  });

  test("by throwing at once is a failure like any other", async () => {
    const clock = manualClock();
    const records = memoryStore({ clock });
    let calls = 0;
    const store: Store = new Proxy(records, {
      get(target, name: keyof Store) {
        if (name === "begin") {
          return (claim: Claim) => {
            if (++calls === 1) throw new TypeError("no connection");
            return target.begin(claim);
          };
        }
        const member = target[name];
        return typeof member === "function" ? member.bind(target) : member;
      },
    });
    const idempotency = new Idempotency({ store, clock });
    const outcome = idempotency.run({ key: "k" }, () => 1);
    await clock.advance(100);
    expect((await outcome).value).toBe(1);
  });

  test("and says that an administrator has to act is not asked again", async () => {
    for (const error of [new StoreUnusable("not migrated"), new StoreFull("full")]) {
      const engine = fixture();
      engine.plan.push({ method: "begin", effect: "fail-before", error });
      expect(await failure(engine.idempotency.run({ key: "k" }, refuse))).toBe(error);
      expect(engine.store.calls.total).toBe(1);
    }
  });

  test("fails all who asked at once alike, and is asked once for them", async () => {
    const engine = fixture();
    engine.plan.push({ method: "begin", effect: "fail-before" });
    const all = [1, 2, 2, 3].map((payload) =>
      failure(engine.idempotency.run({ key: "k", payload }, refuse)),
    );
    await engine.clock.advance(2_000);
    for (const error of await Promise.all(all)) expect(error).toBeInstanceOf(StoreUnavailable);
    expect(engine.store.calls.begin).toBe(2);
  });
});

describe("a store that hangs at begin (SM-22)", () => {
  test("is given up after `storeTimeout`, and not before", async () => {
    for (const [options, timeoutMs] of [
      [{}, 2_000],
      [{ storeTimeout: "300ms" }, 300],
    ] as const) {
      const engine = fixture(options);
      engine.plan.push({ method: "begin", effect: "delay", until: NEVER });
      const first = engine.idempotency.run({ key: "k" }, refuse);
      first.catch(() => {});
      await engine.clock.advance(timeoutMs - 1);
      expect(await isSettled(first)).toBe(false);
      await engine.clock.advance(1);
      expect(await failure(first)).toBeInstanceOf(StoreUnavailable);
    }
  });

  test("and claimed all the same gets its claim back, though it never answers", async () => {
    const engine = fixture({ lease: "30s" });
    engine.plan.push({ method: "begin", call: 1, effect: "delay-reply", until: NEVER });
    const first = failure(engine.idempotency.run({ key: "k" }, refuse));
    await engine.clock.advance(2_000);
    expect(await first).toBeInstanceOf(StoreUnavailable);
    await engine.clock.advance(1_000);
    expect(await run(engine)).toEqual({ value: "ran", replayed: false, attempt: 1 });
  });

  test("and claimed all the same is released, and has counted, where it takes no attempt back", async () => {
    const engine = fixture();
    Object.assign(engine.store, { giveBack: undefined });
    engine.plan.push({ method: "begin", call: 1, effect: "delay-reply", until: NEVER });
    const first = failure(engine.idempotency.run({ key: "k" }, refuse));
    await engine.clock.advance(3_000);
    expect(await first).toBeInstanceOf(StoreUnavailable);
    expect(await engine.store.read(ID)).toMatchObject({ state: "open", attempt: 1 });
  });

  test("and claims later gets its claim back then", async () => {
    const engine = fixture({ lease: "30s" });
    const later = deferred();
    engine.plan.push({ method: "begin", call: 1, effect: "delay", until: later.promise });
    const first = failure(engine.idempotency.run({ key: "k" }, refuse));
    await engine.clock.advance(10_000);
    expect(await first).toBeInstanceOf(StoreUnavailable);
    expect(await engine.store.read(ID)).toBeUndefined();
    later.resolve();
    await engine.clock.advance(500);
    expect(await engine.store.read(ID)).toMatchObject({ state: "open" });
    expect((await run(engine)).value).toBe("ran");
  });

  test("is looked at again until it can be asked", async () => {
    const engine = fixture({ lease: "1m" });
    engine.plan.push({ method: "begin", call: 1, effect: "fail-after" });
    engine.plan.push({ method: "begin", call: 2, effect: "fail-before" });
    engine.plan.push({ method: "read", effect: "fail-before" });
    const events = await eventsDuring(async () => {
      const first = failure(engine.idempotency.run({ key: "k" }, refuse));
      await engine.clock.advance(10_000);
      expect(await first).toBeInstanceOf(StoreUnavailable);
    });
    expect(events).toContainEqual({
      type: "background-failure",
      during: "abandon",
      error: expect.any(StoreUnavailable),
    });
    engine.plan.length = 0;
    await engine.clock.advance(5_000);
    expect((await run(engine)).value).toBe("ran");
  });

  test("leaves the claim of a crashed attempt to its probe, which only knows what happened", async () => {
    const engine = fixture({ lease: "10s" });
    const probe = async () => ({ outcome: "applied", value: "found" }) as const;
    await crashed(engine, { key: "k", onCrash: probe });
    await engine.clock.advance(10_000);
    engine.plan.push({ method: "begin", call: 1, effect: "fail-after" });
    engine.plan.push({ method: "begin", call: 2, effect: "fail-before" });
    const lost = failure(engine.idempotency.run<string>({ key: "k", onCrash: probe }, refuse));
    await engine.clock.advance(1_000);
    expect(await lost).toBeInstanceOf(StoreUnavailable);
    expect(await engine.store.read(ID)).toMatchObject({ state: "running", attempt: 2 });
    await engine.clock.advance(10_000);
    // By whoever comes next: had it been released, a request without a probe would run the handler.
    const outcome = await engine.another().run<string>({ key: "k", onCrash: probe }, refuse);
    expect(outcome.value).toBe("found");
  });

  test("an answer that used up most of its lease is asked for again, so that no handler runs on a lapsed one", async () => {
    const engine = fixture({ lease: "1s", onCrash: "rerun" });
    const reply = deferred();
    engine.plan.push({ method: "begin", call: 1, effect: "delay-reply", until: reply.promise });
    const runs: string[] = [];
    const first = engine.idempotency.run({ key: "k", wait: "1m" }, () => {
      runs.push("first");
      return "first";
    });
    await engine.clock.advance(1_100);
    await engine.another().run({ key: "k" }, () => {
      runs.push("second");
      return "second";
    });
    reply.resolve();
    await engine.clock.advance(1_000);
    expect((await first).value).toBe("second");
    expect(runs).toEqual(["second"]);
  });
});

describe("the write that ends an attempt (SM-17, SM-22)", () => {
  test("whose reply is lost is read back: the true outcome, and no second execution", async () => {
    const engine = fixture();
    engine.plan.push({ method: "settle", call: 1, effect: "fail-after" });
    const first = run(engine);
    await engine.clock.advance(100);
    expect(await first).toEqual({ value: "ran", replayed: false, attempt: 1 });
    expect(engine.store.calls).toMatchObject({ settle: 2, read: 1 });
    expect((await engine.another().run({ key: "k" }, () => "x")).value).toBe("ran");
  });

  test("sent twice by a driver is read back as well", async () => {
    const engine = fixture();
    engine.plan.push({ method: "settle", call: 1, effect: "twice" });
    expect(await run(engine)).toMatchObject({ value: "ran", replayed: false });
  });

  test("of a release or a hold whose reply is lost is read back too", async () => {
    for (const [onError, state] of [
      ["release", "open"],
      ["hold", "held"],
    ] as const) {
      const engine = fixture({ onError });
      engine.plan.push({ method: "settle", call: 1, effect: "fail-after" });
      const error = new Error("no");
      const first = failure(
        engine.idempotency.run({ key: "k" }, () => {
          throw error;
        }),
      );
      await engine.clock.advance(100);
      expect(await first).toBe(error);
      expect(await engine.idempotency.status({ key: "k" })).toMatchObject({ state });
    }
  });

  test("is retried: failing twice and then succeeding is a success", async () => {
    const engine = fixture();
    for (const call of [1, 2]) engine.plan.push({ method: "settle", call, effect: "fail-before" });
    const first = run(engine);
    await engine.clock.advance(2_000);
    expect(await first).toMatchObject({ value: "ran", replayed: false });
    expect(engine.store.calls.settle).toBe(3);
    expect(await engine.idempotency.status({ key: "k" })).toMatchObject({ state: "completed" });
  });

  test("that hangs is sent again, and the late one does no harm", async () => {
    const engine = fixture();
    const late = deferred();
    engine.plan.push({ method: "settle", call: 1, effect: "delay", until: late.promise });
    const first = run(engine);
    await engine.clock.advance(4_000);
    expect(await first).toMatchObject({ value: "ran", replayed: false });
    late.resolve();
    await turns();
    expect((await engine.another().run({ key: "k" }, () => "x")).value).toBe("ran");
  });

  test("whose first sending is answered late counts, although a second one is on its way", async () => {
    const engine = fixture();
    const late = deferred();
    engine.plan.push({ method: "settle", call: 1, effect: "delay-reply", until: late.promise });
    engine.plan.push({ method: "settle", call: 2, effect: "delay", until: NEVER });
    const first = run(engine);
    await engine.clock.advance(3_500);
    expect(await isSettled(first)).toBe(false);
    late.resolve();
    expect(await first).toMatchObject({ value: "ran", replayed: false });
  });

  test("that fails for the whole bounded time: the caller gets the true value, the record follows `onCrash`", async () => {
    for (const onCrash of ["hold", "rerun"] as const) {
      for (const effect of ["fail-before", "delay"] as const) {
        const engine = fixture({ onCrash, lease: "30s" });
        engine.plan.push({ method: "settle", effect, until: NEVER } as never);
        const first = run(engine);
        first.catch(() => {});
        await engine.clock.advance(3_900);
        expect(await isSettled(first)).toBe(false);
        await engine.clock.advance(1_100);
        expect(await first).toEqual({ value: "ran", replayed: false, attempt: 1 });
        engine.plan.length = 0;
        await engine.clock.advance(30_000);
        if (onCrash === "rerun") expect((await run(engine, "again")).attempt).toBe(2);
        else expect(await failure(run(engine))).toMatchObject({ reason: "lease-lapsed" });
      }
    }
  });

  test("that fails after the handler threw: the caller gets the handler's error", async () => {
    const engine = fixture();
    engine.plan.push({ method: "settle", effect: "fail-before" });
    const error = new Error("no");
    const first = failure(
      engine.idempotency.run({ key: "k" }, () => {
        throw error;
      }),
    );
    await engine.clock.advance(5_000);
    expect(await first).toBe(error);
  });

  test("keeps its lease alive while it is retried", async () => {
    const engine = fixture({ lease: "1s", onCrash: "rerun" });
    engine.plan.push({ method: "settle", effect: "fail-before" });
    const first = run(engine);
    await engine.clock.advance(3_000);
    expect(await failure(engine.another().run({ key: "k" }, refuse))).toMatchObject({
      code: "operation-in-progress",
    });
    engine.plan.length = 0;
    await engine.clock.advance(1_000);
    expect(await first).toMatchObject({ value: "ran", replayed: false });
  });

  test("that a full store refuses: it completes without its result, and never runs again (ST-10)", async () => {
    const clock = manualClock();
    const records = memoryStore({ clock, bytesMax: 2_000 });
    const idempotency = new Idempotency({ store: records, clock });
    const large = "x".repeat(3_000);
    expect((await idempotency.run({ key: "k" }, () => large)).value).toBe(large);
    for (const from of [idempotency, new Idempotency({ store: records, clock })]) {
      expect(await failure(from.run({ key: "k" }, refuse))).toMatchObject({
        code: "result-not-stored",
      });
    }
  });

  test("is not retried when the record is damaged: the caller gets the true value", async () => {
    const engine = fixture();
    const error = new RecordUnreadable("damaged");
    engine.plan.push({ method: "settle", effect: "fail-before", error });
    expect((await run(engine)).value).toBe("ran");
    expect(engine.store.calls.settle).toBe(1);
  });

  test("a second time is reported and changes nothing", async () => {
    const engine = fixture();
    const request = engine.idempotency.request({ key: "k", scope: "", fingerprint: "v1:x" });
    const admission = await engine.idempotency.begin(request);
    if (admission.kind !== "run") return refuse();
    const { attempt } = admission;
    const events = await eventsDuring(async () => {
      const ends = [{ kind: "release" }, { kind: "hold", reason: "x" }] as const;
      const [one, two] = await Promise.all(ends.map((end) => attempt.settle(end)));
      expect(one).toEqual(two);
    });
    expect(events).toContainEqual(expect.objectContaining({ type: "misuse", id: ID }));
    expect(engine.store.calls.settle).toBe(1);
    expect(await engine.idempotency.status({ key: "k" })).toMatchObject({ state: "open" });
  });
});

describe("a record that this version cannot read (SM-23b)", () => {
  const results: [string, Uint8Array][] = [
    ["a newer format", Uint8Array.of(2, 0, 1)],
    ["an unknown kind", Uint8Array.of(1, 0x0f, 1)],
    ["an unknown flag", Uint8Array.of(1, 0x80, 1)],
    ["nothing", new Uint8Array(0)],
    ["damaged compression", Uint8Array.of(1, 0x20, 0xff, 0xff)],
    ["damaged text", Uint8Array.of(1, 0, 0xff, 0xff)],
  ];
  for (const [name, result] of results) {
    test(`${name} is an error that runs nothing, and other keys work`, async () => {
      const engine = fixture();
      const claim: Claim = {
        id: ID,
        scope: "",
        key: "k",
        fingerprint: "old:x",
        owner: "0".repeat(32),
        leaseMs: 1_000,
        onCrash: "hold",
        attemptsMax: 10,
        lapsedRetentionMs: null,
        heldRetentionMs: null,
      };
      await engine.store.begin(claim);
      const { owner } = claim;
      const ending = { kind: "complete", id: ID, attempt: 1, owner, result, retentionMs: 1e6 };
      await engine.store.settle(ending as never);
      for (let n = 0; n < 2; n++) {
        const error = await failure(engine.idempotency.run({ key: "k" }, refuse));
        expect(error).toMatchObject({ code: "record-unreadable", retry: "never" });
      }
      expect(await failure(engine.idempotency.get({ key: "k" }))).toMatchObject({
        code: "record-unreadable",
      });
      expect((await engine.idempotency.run({ key: "other" }, () => 1)).value).toBe(1);
    });
  }

  test("is not retried at begin", async () => {
    const engine = fixture();
    const error = new RecordUnreadable("from the future");
    engine.plan.push({ method: "begin", effect: "fail-before", error });
    expect(await failure(engine.idempotency.run({ key: "k" }, refuse))).toBe(error);
    expect(engine.store.calls.begin).toBe(1);
  });
});
