// The inbox without a broker: what each delivery comes to.

import { setImmediate as turn } from "node:timers/promises";
import { expect, test, vi } from "vitest";
import { Idempotency, type IdempotencyOptions } from "../../src/engine/idempotency.ts";
import { createInbox, type InboxOptions } from "../../src/engine/inbox/inbox.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { manualClock } from "../../src/testing/manual-clock.ts";
import { overriding } from "./overriding.ts";

const message = { id: "m-1", payload: { amount: 5 } };
const boom = new Error("boom");
const fail = () => {
  throw boom;
};

function setUp(options: InboxOptions = {}, engine: Partial<IdempotencyOptions> = {}) {
  const clock = manualClock();
  const store = memoryStore({ clock });
  const process = () => {
    const idempotency = new Idempotency({ store, clock, cache: false, ...engine });
    return { idempotency, inbox: createInbox(idempotency, "billing", options) };
  };
  return { clock, store, process, ...process() };
}

/** A handler that waits to be let go, and says when it has begun. */
function gate() {
  let open = () => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  let begin = () => {};
  const begun = new Promise<void>((resolve) => {
    begin = resolve;
  });
  const handler = () => {
    begin();
    return opened;
  };
  return { handler, begun, open };
}

test("MSG-1: a message is processed once, its redeliveries are duplicates", async () => {
  const { inbox, process } = setUp();
  const handler = vi.fn(() => ({ large: "x".repeat(1_000) }));
  expect(await inbox.process(message, handler)).toBe("processed");
  expect(await inbox.process(message, handler)).toBe("duplicate");
  expect(await process().inbox.process(message, handler)).toBe("duplicate");
  expect(handler).toHaveBeenCalledTimes(1);
});

test("MSG-1: the record is compact: nothing of the handler's value is kept", async () => {
  const { inbox, store } = setUp();
  await inbox.process(message, () => "x".repeat(1_000));
  const { records } = await store.list({ limit: 10 });
  const record = await store.read(records[0]!.id);
  expect(record).toMatchObject({ scope: "inbox/7:billing", key: "m-1", state: "completed" });
  expect(record!.result!.byteLength).toBeLessThan(8);
});

test("nobody else can name the record of a message", async () => {
  const { inbox, idempotency } = setUp();
  for (const scope of ["inbox/7:billing", "operation/4:ride/acme"]) {
    await expect(idempotency.run({ scope, key: message.id }, fail)).rejects.toMatchObject({
      code: "scope-missing",
      message: expect.stringContaining("Semel's own"),
    });
  }
  expect(await inbox.process(message, () => {})).toBe("processed");
});

test("MSG-1: two consumers handle a message each", async () => {
  const { inbox, idempotency } = setUp();
  const other = createInbox(idempotency, "shipping");
  expect(await inbox.process(message, () => {})).toBe("processed");
  expect(await other.process(message, () => {})).toBe("processed");
});

test("a delivery while another is handled is busy, and says for how long", async () => {
  const { inbox, process } = setUp({ lease: "20s" });
  const { handler, begun, open } = gate();
  const first = inbox.deliver(message, handler);
  await begun;
  const second = await process().inbox.deliver(message, fail);
  expect(second).toEqual({ kind: "busy", retryAfterMs: 20_000 });
  await expect(inbox.process(message, fail)).rejects.toMatchObject({
    code: "operation-in-progress",
    retryAfterMs: 20_000,
  });
  open();
  expect(await first).toEqual({ kind: "processed" });
});

test("MSG-2: the same id with another payload is a mismatch, and runs nothing", async () => {
  const { inbox } = setUp();
  await inbox.process(message, () => {});
  const delivery = await inbox.deliver({ id: "m-1", payload: { amount: 6 } }, fail);
  expect(delivery).toMatchObject({ kind: "mismatch", error: { code: "key-reused" } });
});

test("MSG-2: a message that always fails is poison after `attemptsMax`, in whatever process", async () => {
  const { process, inbox } = setUp({ attemptsMax: 3 });
  const handler = vi.fn(fail);
  expect(await inbox.deliver(message, handler)).toMatchObject({ kind: "failed", attempt: 1 });
  expect(await process().inbox.deliver(message, handler)).toMatchObject({ attempt: 2 });
  const third = await process().inbox.deliver(message, handler);
  expect(third).toEqual({ kind: "poison", attempt: 3, error: boom });
  const fourth = await process().inbox.deliver(message, handler);
  expect(fourth).toMatchObject({ kind: "poison", attempt: 4 });
  expect(handler).toHaveBeenCalledTimes(3);
  await expect(inbox.process(message, handler)).rejects.toMatchObject({ code: "operation-failed" });
  expect(handler).toHaveBeenCalledTimes(3);

  expect(await inbox.forget("m-1")).toBe("forgotten");
  expect(await inbox.process(message, () => {})).toBe("processed");
  expect(await inbox.forget("unknown")).toBe("absent");
});

test("MSG-1: outcomes are counted, poison among them", async () => {
  const { inbox } = setUp({ attemptsMax: 1 });
  await inbox.process(message, () => {});
  await inbox.process(message, () => {});
  await inbox.deliver({ id: "m-1", payload: "other" }, () => {});
  await inbox.deliver({ id: "bad" }, fail);
  await inbox.deliver({}, fail);
  await inbox.processBatch([{ id: "bad" }, { id: "new" }, { id: "m-1" }], () => {});
  expect(inbox.counts).toEqual({
    processed: 2,
    duplicate: 1,
    busy: 0,
    failed: 0,
    poison: 2,
    mismatch: 2,
    unidentified: 1,
  });
});

test("MSG-2: crashed deliveries count as failed ones do", async () => {
  const { process, clock } = setUp({ attemptsMax: 2, lease: "10s" });
  for (let crashes = 0; crashes < 2; crashes++) {
    const { idempotency, inbox } = process();
    const { handler, begun } = gate();
    void inbox.deliver(message, handler);
    await begun;
    // The process dies: its lease is renewed no more.
    const closed = idempotency.close({ deadline: 1 });
    await clock.advance(1);
    expect(await closed).toBe(1);
    await clock.advance(10_000);
  }
  const handler = vi.fn();
  expect(await process().inbox.deliver(message, handler)).toMatchObject({ kind: "poison" });
  expect(handler).not.toHaveBeenCalled();
});

test('with `onCrash: "hold"` a message whose consumer died is poison at once', async () => {
  const { process, clock } = setUp({ lease: "10s", onCrash: "hold" });
  const { idempotency, inbox } = process();
  const { handler, begun } = gate();
  void inbox.deliver(message, handler);
  await begun;
  const closed = idempotency.close({ deadline: 1 });
  await clock.advance(1);
  await closed;
  await clock.advance(10_000);
  expect(await process().inbox.deliver(message, fail)).toMatchObject({
    kind: "poison",
    error: { code: "outcome-unknown", reason: "lease-lapsed" },
  });
});

test("pauses between failures grow up to `retryDelayMax`", async () => {
  const { inbox } = setUp({ attemptsMax: 30, retryDelayMax: "4s" });
  const delays: number[] = [];
  for (let tries = 0; tries < 29; tries++) {
    const delivery = await inbox.deliver(message, fail);
    if (delivery.kind === "failed") delays.push(delivery.retryAfterMs);
  }
  expect(delays).toHaveLength(29);
  expect(delays[0]).toBeLessThanOrEqual(1_000);
  expect(Math.max(...delays)).toBeLessThanOrEqual(4_000);
});

test("a store that cannot be asked is a failure that counts as no attempt", async () => {
  const { inbox, store } = setUp({ attemptsMax: 1 });
  const down = overriding(store, { begin: () => Promise.reject(new Error("down")) });
  const broken = createInbox(new Idempotency({ store: down }), "billing", { attemptsMax: 1 });
  expect(await broken.deliver(message, fail)).toMatchObject({
    kind: "failed",
    attempt: 0,
    error: { code: "store-unavailable" },
  });
  expect(await inbox.process(message, () => {})).toBe("processed");
});

test("MSG-2: a claim whose answer comes too late counts as no attempt, alone and in a batch", async () => {
  const { clock, store, process } = setUp({ attemptsMax: 1 });
  const slow = overriding(store, {
    begin: async (claim) => {
      const answer = await store.begin(claim);
      await new Promise<void>((resolve) => void clock.schedule(300, resolve));
      return answer;
    },
  });
  const engine = new Idempotency({ store: slow, clock, cache: false, storeTimeout: 200 });
  const browned = createInbox(engine, "billing", { attemptsMax: 1 });
  const handler = vi.fn();
  for (let times = 0; times < 3; times++) {
    const deliveries = [
      browned.deliver(message, handler),
      browned.processBatch([{ id: "m-2" }], handler),
    ];
    await clock.advance(2_000);
    for (const delivery of (await Promise.all(deliveries)).flat()) {
      expect(delivery).toMatchObject({ kind: "failed", attempt: 0 });
    }
  }
  expect(handler).not.toHaveBeenCalled();
  for (const one of [message, { id: "m-2" }]) {
    expect(await process().inbox.process(one, handler)).toBe("processed");
  }
});

test("MSG-2: a message that was claimed while the engine closed counts as not tried", async () => {
  const { clock, store, process } = setUp({ attemptsMax: 1 });
  const closing = new Idempotency({
    clock,
    store: overriding(store, {
      begin: (claim) => {
        void closing.close({ deadline: 0 });
        return store.begin(claim);
      },
    }),
  });
  const late = await createInbox(closing, "billing").deliver(message, fail);
  expect(late).toMatchObject({ kind: "failed", attempt: 0, error: { code: "closed" } });
  expect(await process().inbox.process(message, () => {})).toBe("processed");
});

test("`concurrency` bounds the handlers of a process", async () => {
  const { inbox } = setUp({ concurrency: 2 });
  let running = 0;
  let most = 0;
  const handler = async () => {
    running++;
    most = Math.max(most, running);
    await turn();
    running--;
  };
  const ids = Array.from({ length: 10 }, (_, index) => String(index));
  await Promise.all(ids.map((id) => inbox.process({ id }, handler)));
  expect(most).toBe(2);
});

test("a signal ends the wait for a slot, and the handler never begins", async () => {
  const { inbox } = setUp({ concurrency: 1 });
  const { handler, begun, open } = gate();
  const first = inbox.process(message, handler);
  await begun;
  const stop = new AbortController();
  const late = vi.fn();
  const second = inbox.process({ id: "m-2", signal: stop.signal }, late);
  stop.abort(new Error("stopped"));
  await expect(second).rejects.toThrow("stopped");
  open();
  await first;
  expect(await inbox.process({ id: "m-3" }, () => {})).toBe("processed");
  expect(late).not.toHaveBeenCalled();
});

test("a message without an id is refused, hashed or named by a function, as `withoutId` says", async () => {
  const { inbox, idempotency } = setUp();
  expect(await inbox.deliver({ payload: 1 }, fail)).toMatchObject({ kind: "unidentified" });
  await expect(inbox.process({ payload: 1 }, fail)).rejects.toMatchObject({ code: "key-invalid" });

  const hashing = createInbox(idempotency, "hashing", { withoutId: "hash" });
  expect(await hashing.process({ payload: { a: 1, b: 2 } }, () => {})).toBe("processed");
  expect(await hashing.process({ payload: { b: 2, a: 1 } }, fail)).toBe("duplicate");
  expect(await hashing.process({ payload: { a: 2, b: 2 } }, () => {})).toBe("processed");
  expect(await hashing.deliver({}, fail)).toMatchObject({ kind: "unidentified" });

  const withoutId = ({ payload }: { payload?: unknown }) => (payload as { n?: string }).n;
  const naming = createInbox(idempotency, "naming", { withoutId });
  expect(await naming.process({ payload: { n: "1" } }, () => {})).toBe("processed");
  expect(await naming.process({ id: "1", payload: { n: "1" } }, fail)).toBe("duplicate");
  expect(await naming.deliver({ payload: {} }, fail)).toMatchObject({ kind: "unidentified" });
});

test("an empty id is none", async () => {
  const { inbox, idempotency } = setUp();
  expect(await inbox.deliver({ id: "", payload: 1 }, fail)).toMatchObject({ kind: "unidentified" });
  const hashing = createInbox(idempotency, "hashing", { withoutId: "hash" });
  expect(await hashing.process({ id: "", payload: 1 }, () => {})).toBe("processed");
  expect(await hashing.process({ payload: 1 }, fail)).toBe("duplicate");
});

test("MSG-2: a payload that nothing can be compared with is told apart from a failure, alone and in a batch", async () => {
  const { inbox } = setUp();
  for (const payload of [{ amount: Number.NaN }, "\ud800", () => {}]) {
    expect(await inbox.deliver({ id: "bad", payload }, fail)).toMatchObject({
      kind: "unidentified",
      error: { code: "payload-invalid" },
    });
    const batch = [{ id: `a ${String(payload)}` }, { id: "bad", payload }, { id: "b" }];
    const deliveries = await inbox.processBatch(batch, () => {});
    expect(deliveries.map(({ kind }) => kind)).toContain("unidentified");
    expect(deliveries[0]).toEqual({ kind: "processed" });
  }
  expect(inbox.counts).toMatchObject({ failed: 0, unidentified: 6 });
});

test.each<[string, InboxOptions["withoutId"], string]>([
  ["throws", ({ payload }) => JSON.parse(String(payload)).id, "key-invalid"],
  ["names by no text", () => 42 as never, "key-invalid"],
  ["hashes what has no canonical form", "hash", "payload-invalid"],
])(
  "MSG-2: a message for which `withoutId` %s is unidentified, and harms no others",
  async (_, withoutId, code) => {
    const { inbox } = setUp({ withoutId: withoutId! });
    const bad = { payload: "{ no JSON \ud800" };
    expect(await inbox.deliver(bad, fail)).toMatchObject({ kind: "unidentified", error: { code } });
    await expect(inbox.process(bad, fail)).rejects.toMatchObject({ code });
    const deliveries = await inbox.processBatch([{ id: "a" }, bad, { id: "b" }], () => {});
    expect(deliveries.map(({ kind }) => kind)).toEqual(["processed", "unidentified", "processed"]);
  },
);

test.each([
  ["longer than a key may be", "x".repeat(256)],
  ["not ASCII", "commande-é"],
  ["with control characters", "a\nb"],
  ["looks like a hash", "sha256:abc"],
])("an id that is %s is hashed, and stays one message", async (_, id) => {
  const { inbox, store } = setUp();
  expect(await inbox.process({ id }, () => {})).toBe("processed");
  expect(await inbox.process({ id }, fail)).toBe("duplicate");
  expect((await store.list({ limit: 1 })).records[0]!.key).toMatch(/^sha256:[\w-]{43}$/);
});

test("MSG-1: a batch is claimed and recorded together, and only what is fresh is handled", async () => {
  const { inbox } = setUp();
  await inbox.process({ id: "b" }, () => {});
  const messages = ["a", "b", "c", "a"].map((id) => ({ id }));
  const handler = vi.fn();
  const deliveries = await inbox.processBatch(messages, handler);
  expect(deliveries.map(({ kind }) => kind)).toEqual([
    "processed",
    "duplicate",
    "processed",
    "duplicate",
  ]);
  expect(handler.mock.calls).toEqual([[[{ id: "a" }, { id: "c" }]]]);
  expect(await inbox.processBatch([], fail)).toEqual([]);
});

test("MSG-1: what else the messages of a batch have is handed to the handler as it is", async () => {
  const { inbox } = setUp();
  const messages = [{ id: "a", payload: 1, offset: "7" }];
  const handler = vi.fn();
  expect(await inbox.processBatch(messages, handler)).toEqual([{ kind: "processed" }]);
  expect(handler.mock.calls[0]![0][0]).toBe(messages[0]);
});

test("MSG-1: what of a batch the store fails to claim harms no others, and is given back", async () => {
  const { store, process } = setUp();
  const down = new Error("down");
  const claimed: string[] = [];
  const flaky = overriding(store, {
    begin: async (claim) => {
      const answer = await store.begin(claim);
      // The reply is lost: the claim stands.
      if (claim.key === "b") throw down;
      claimed.push(claim.key);
      return answer;
    },
  });
  const idempotency = new Idempotency({ store: flaky, cache: false, storeTimeout: 1 });
  const inbox = createInbox(idempotency, "billing");
  const handler = vi.fn();
  const deliveries = await inbox.processBatch([{ id: "a" }, { id: "b" }, { id: "c" }], handler);
  expect(deliveries.map(({ kind }) => kind)).toEqual(["processed", "failed", "processed"]);
  expect(deliveries[1]).toMatchObject({ attempt: 0, error: { code: "store-unavailable" } });
  expect(handler.mock.calls).toEqual([[[{ id: "a" }, { id: "c" }]]]);
  await vi.waitFor(async () => {
    expect(await process().inbox.process({ id: "b" }, () => {})).toBe("processed");
  });
});

test("MSG-1: a batch of which others took a message over says what became of it there", async () => {
  const { inbox, store, clock, process } = setUp({ lease: "10s" });
  const { handler, begun, open } = gate();
  const { idempotency, inbox: frozen } = process();
  const batch = frozen.processBatch([{ id: "a" }, { id: "b" }], handler);
  await begun;
  // Its process stands still: nothing renews its leases, and another one takes a message over.
  const closed = idempotency.close({ deadline: 1 });
  await clock.advance(1);
  expect(await closed).toBe(2);
  await clock.advance(10_000);
  expect(await inbox.process({ id: "a" }, () => {})).toBe("processed");
  open();
  const kinds = (await batch).map(({ kind }) => kind);
  expect(kinds).toEqual(["duplicate", "processed"]);
  const { states } = await store.stats();
  expect(states).toMatchObject({ completed: 2, running: 0 });
});

test("MSG-1: what others took over while a batch was handled is not handled here as well", async () => {
  const { store, clock, inbox, process } = setUp({ lease: "9s" });
  await expect(inbox.process({ id: "a" }, fail)).rejects.toThrow("boom");
  let isCutOff = true;
  const renew: typeof store.renew = async (renewal) => {
    if (isCutOff) throw new Error("down");
    return store.renew(renewal);
  };
  const idempotency = new Idempotency({ store: overriding(store, { renew }), clock, cache: false });
  const { handler, begun, open } = gate();
  const handled: string[] = [];
  // What has failed before is handled behind the others.
  const batch = createInbox(idempotency, "billing", { lease: "9s" }).processBatch(
    [{ id: "a" }, { id: "b" }],
    (fresh) => {
      handled.push(...fresh.map(({ id }) => id));
      return handler();
    },
  );
  await begun;
  await clock.advance(9_000);
  expect(await process().inbox.process({ id: "a" }, () => {})).toBe("processed");
  isCutOff = false;
  await clock.advance(3_000);
  open();
  expect((await batch).map(({ kind }) => kind)).toEqual(["duplicate", "processed"]);
  expect(handled).toEqual(["b"]);
});

test("MSG-1: a batch is asked of the store in one turn each for its claims and its ends", async () => {
  const { store } = setUp();
  const turns: string[][] = [];
  const note = (what: string) => {
    if (turns.at(-1)?.at(0) !== what) turns.push([]);
    turns.at(-1)!.push(what);
  };
  const begin: typeof store.begin = (claim) => {
    note("begin");
    return store.begin(claim);
  };
  const settle: typeof store.settle = (ending) => {
    note("settle");
    return store.settle(ending);
  };
  const watched = overriding(store, { begin, settle });
  const inbox = createInbox(new Idempotency({ store: watched, cache: false }), "billing");
  const messages = Array.from({ length: 50 }, (_, index) => ({ id: String(index) }));
  await inbox.processBatch(messages, () => note("handler"));
  expect(turns.map((turn) => [turn[0], turn.length])).toEqual([
    ["begin", 50],
    ["handler", 1],
    ["settle", 50],
  ]);
});

test("a batch that fails fails whole; what failed before is then handled alone", async () => {
  const { inbox } = setUp({ attemptsMax: 2 });
  const messages = ["good", "bad"].map((id) => ({ id }));
  const handler = vi.fn((fresh: readonly { id: string }[]) => {
    if (fresh.some(({ id }) => id === "bad")) throw boom;
  });
  const first = await inbox.processBatch(messages, handler);
  expect(first.map(({ kind }) => kind)).toEqual(["failed", "failed"]);
  const second = await inbox.processBatch([...messages, { id: "new" }], handler);
  expect(second.map(({ kind }) => kind)).toEqual(["processed", "poison", "processed"]);
  const groups = handler.mock.calls.map(([fresh]) => fresh.map(({ id }) => id));
  expect(groups).toEqual([["good", "bad"], ["new"], ["good"], ["bad"]]);
});

test("in a batch, what is busy, mismatched or unnamed is told, and harms no others", async () => {
  const { inbox, process } = setUp();
  await inbox.process(message, () => {});
  const { handler, begun, open } = gate();
  const running = process().inbox.process({ id: "busy" }, handler);
  await begun;
  const deliveries = await inbox.processBatch(
    [{ id: "busy" }, { id: "m-1", payload: "other" }, { id: undefined }, { id: "fresh" }],
    () => {},
  );
  expect(deliveries.map(({ kind }) => kind)).toEqual([
    "busy",
    "mismatch",
    "unidentified",
    "processed",
  ]);
  open();
  await running;
});

test("a broker that may deliver for longer than is remembered is warned of once", () => {
  const { inbox } = setUp({ retention: "1h" });
  const warn = vi.spyOn(process, "emitWarning").mockImplementation(() => {});
  inbox.expectRedelivery(3_600_000, "the broker");
  expect(warn).not.toHaveBeenCalled();
  inbox.expectRedelivery(3_600_001, "the broker");
  inbox.expectRedelivery(9_999_999, "the broker");
  expect(warn.mock.calls.map(([text]) => text)).toEqual([
    'The inbox of "billing" remembers messages for 3600000 ms, but the broker may deliver one again for 3600001 ms: set a longer `retention`',
  ]);
  const forever = setUp({ retention: "1h" }).inbox;
  forever.expectRedelivery(Number.POSITIVE_INFINITY, "the broker");
  expect(warn.mock.lastCall![0]).toContain("the broker may deliver one again at any time");
  warn.mockRestore();
});

test("options and messages that are wrong are refused by name", async () => {
  const { inbox, idempotency } = setUp();
  const make = (options: object) => () => createInbox(idempotency, "c", options);
  expect(make({ retentoin: 1 })).toThrow("did you mean `retention`");
  expect(make({ attemptsMax: 0 })).toThrow("`attemptsMax` must be a whole number");
  expect(make({ concurrency: 0 })).toThrow("`concurrency`");
  for (const never of [0, -1, Number.NaN, Number.POSITIVE_INFINITY, "soon", null, "1y"]) {
    expect(make({ retention: never })).toThrow("`retention` must be");
    expect(make({ lease: never })).toThrow("`lease` must be");
    expect(make({ retryDelayMax: never })).toThrow("`retryDelayMax` must be");
  }
  expect(make({ withoutId: "skip" })).toThrow("`withoutId` must be one of");
  expect(make({ onCrash: "probe" })).toThrow("`onCrash` must be one of");
  expect(() => createInbox(idempotency, "")).toThrow("name of its consumer");
  await expect(inbox.process({ id: 42 as never }, fail)).rejects.toThrow("must be a string");
  await expect(inbox.process({ ip: "1" } as never, fail)).rejects.toThrow("has no option `ip`");
  await expect(inbox.process(message, undefined as never)).rejects.toThrow("handler function");
  await expect(inbox.transaction(message, fail)).rejects.toThrow("has no transactions");
  await expect(inbox.process({ id: "1", payload: () => {} }, fail)).rejects.toMatchObject({
    code: "payload-invalid",
  });
});
