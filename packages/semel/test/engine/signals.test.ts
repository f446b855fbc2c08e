// Callers that go away (SM-23), closing (EN-10), and timers (EN-14).

import { getEventListeners } from "node:events";
import { describe, expect, test } from "vitest";
import { Closed } from "../../src/errors.ts";
import { recordId } from "../../src/key.ts";
import { crash, deferred, failure, fixture, isSettled, turns } from "./fixture.ts";

const gone = new Error("the caller went away");
const refuse = () => expect.unreachable("the handler ran");

function caller() {
  const controller = new AbortController();
  const { signal } = controller;
  return {
    signal,
    leave: () => controller.abort(gone),
    listeners: () => getEventListeners(signal, "abort").length,
  };
}

describe("a caller that goes away (SM-23)", () => {
  test("before it asked runs nothing and asks nothing", async () => {
    const { idempotency, store } = fixture();
    const { signal, leave } = caller();
    leave();
    expect(await failure(idempotency.run({ key: "k", signal }, refuse))).toBe(gone);
    expect(store.calls.total).toBe(0);
  });

  test("while the store is asked is answered at once; the claim is given back unused", async () => {
    const { idempotency, plan, store } = fixture();
    const { signal, leave, listeners } = caller();
    const reply = deferred();
    plan.push({ method: "begin", call: 1, effect: "delay-reply", until: reply.promise });
    let runs = 0;
    const first = failure(idempotency.run({ key: "k", signal }, () => ++runs));
    await turns();
    leave();
    expect(await first).toBe(gone);
    reply.resolve();
    await turns();
    expect(runs).toBe(0);
    expect(await store.read(recordId("", "k"))).toMatchObject({ state: "open" });
    expect((await idempotency.run({ key: "k" }, () => 1)).attempt).toBe(1);
    expect(listeners()).toBe(0);
  });

  test("while it waits is answered at once, here and in another process; the attempt goes on", async () => {
    const { idempotency, another } = fixture();
    const finish = deferred<number>();
    const first = idempotency.run({ key: "k" }, () => finish.promise);
    await turns();
    for (const from of [idempotency, another()]) {
      const { signal, leave, listeners } = caller();
      const waiting = failure(from.run({ key: "k", wait: "1h", signal }, refuse));
      await turns();
      expect(listeners()).toBeGreaterThan(0);
      leave();
      expect(await waiting).toBe(gone);
      expect(listeners()).toBe(0);
    }
    finish.resolve(1);
    expect((await first).value).toBe(1);
  });

  test("while the handler runs is answered at once; the attempt completes and is replayed", async () => {
    const { idempotency, another } = fixture();
    const { signal, leave } = caller();
    const finish = deferred<string>();
    let aborted: boolean | undefined;
    const first = failure(
      idempotency.run({ key: "k", signal }, async (operation) => {
        const value = await finish.promise;
        aborted = operation.signal.aborted;
        return value;
      }),
    );
    await turns();
    leave();
    expect(await first).toBe(gone);
    finish.resolve("done");
    await turns();
    expect(aborted, "the operation's own signal is not the caller's").toBe(false);
    expect(await another().run({ key: "k" }, refuse)).toEqual({
      value: "done",
      replayed: true,
      attempt: 1,
    });
  });

  test("whose operation then fails causes no unhandled rejection", async () => {
    const { idempotency } = fixture();
    const { signal, leave } = caller();
    const finish = deferred<never>();
    const first = failure(idempotency.run({ key: "k", signal }, () => finish.promise));
    await turns();
    leave();
    expect(await first).toBe(gone);
    finish.reject(new Error("later"));
    await turns();
    expect(await idempotency.status({ key: "k" })).toMatchObject({ state: "open" });
  });

  test("leaves no listener on a signal that many requests share", async () => {
    const { idempotency, another, clock } = fixture({ cache: false });
    const { signal, listeners } = caller();
    const other = another();
    for (let n = 0; n < 20; n++) {
      const finish = deferred();
      const first = idempotency.run({ key: `k${n}`, signal }, () => finish.promise);
      await turns();
      const waiting = [idempotency, other].map((from) =>
        from.run({ key: `k${n}`, wait: "1m", signal }, refuse),
      );
      await clock.advance(1_000);
      finish.resolve();
      await clock.advance(1_000);
      await Promise.all([first, ...waiting]);
      await failure(
        idempotency.run({ key: `error${n}`, signal }, () => {
          throw new Error("no");
        }),
      );
    }
    expect(listeners()).toBe(0);
    await clock.advance(10_000);
    expect(clock.pending).toBe(0);
  });
});

describe("close (EN-10)", () => {
  test("waits for what runs, and lets nothing new begin", async () => {
    const { idempotency } = fixture();
    const finish = deferred<number>();
    const first = idempotency.run({ key: "k" }, () => finish.promise);
    await turns();
    const closing = idempotency.close();
    const again = idempotency.close();
    const error = await failure(idempotency.run({ key: "new" }, refuse));
    expect(error).toBeInstanceOf(Closed);
    expect(error).toMatchObject({ code: "closed", retry: "same-key" });
    expect(await isSettled(closing)).toBe(false);
    finish.resolve(1);
    expect(await closing).toBe(0);
    expect(await again).toBe(0);
    expect((await first).value).toBe(1);
    expect(await idempotency.close()).toBe(0);
  });

  test("keeps leases alive until its deadline, then leaves them to lapse, and releases nothing", async () => {
    const { idempotency, store, clock } = fixture({ lease: "3s" });
    void idempotency.run({ key: "k" }, () => new Promise(() => {}));
    await turns();
    const closing = idempotency.close({ deadline: "9s" });
    await clock.advance(8_999);
    expect(await isSettled(closing)).toBe(false);
    expect(store.calls.renew).toBe(8);
    await clock.advance(1);
    expect(await closing).toBe(1);
    const renewals = store.calls.renew;
    await clock.advance(60_000);
    expect(store.calls).toMatchObject({ renew: renewals, settle: 0 });
    expect(clock.pending).toBe(0);
  });

  test("lets what outlives the deadline complete, if nobody took its lease", async () => {
    const { idempotency, another, clock } = fixture();
    const finish = deferred<number>();
    const first = idempotency.run({ key: "k" }, () => finish.promise);
    await turns();
    expect(await crash({ idempotency, clock })).toBe(1);
    finish.resolve(1);
    expect((await first).value).toBe(1);
    expect((await another().run({ key: "k" }, refuse)).value).toBe(1);
  });

  test("gives back a claim that arrives after it was called", async () => {
    const { idempotency, another, plan } = fixture();
    const reply = deferred();
    plan.push({ method: "begin", call: 1, effect: "delay-reply", until: reply.promise });
    const late = failure(idempotency.run({ key: "k" }, refuse));
    await turns();
    const closing = idempotency.close();
    reply.resolve();
    expect(await late).toBeInstanceOf(Closed);
    expect(await closing).toBe(0);
    expect((await another().run({ key: "k" }, () => 1)).value).toBe(1);
  });

  test("refuses those that wait, when the attempt that they wait for is released", async () => {
    const { idempotency } = fixture();
    const finish = deferred<never>();
    const first = failure(idempotency.run({ key: "k" }, () => finish.promise));
    await turns();
    const waiting = failure(idempotency.run({ key: "k", wait: "1m" }, refuse));
    await turns();
    const closing = idempotency.close();
    finish.reject(new Error("no"));
    expect(await waiting).toBeInstanceOf(Closed);
    await first;
    expect(await closing).toBe(0);
  });

  test("checks its options", async () => {
    const { idempotency } = fixture();
    expect(await failure(idempotency.close({ deadlin: 1 } as never))).toMatchObject({
      message: expect.stringContaining("did you mean `deadline`?"),
    });
  });
});
