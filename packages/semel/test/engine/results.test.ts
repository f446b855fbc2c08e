// What becomes of a handler's value: stored, compressed, too large, not storable, cached.

import { describe, expect, test } from "vitest";
import { jsonCodec } from "../../src/codec.ts";
import { open } from "../../src/engine/envelope.ts";
import { OperationHeld, ResultNotStored } from "../../src/errors.ts";
import { recordId } from "../../src/key.ts";
import { deferred, failure, fixture, turns } from "./fixture.ts";

const MINUTE_MS = 60_000;

describe("values (EN-2)", () => {
  const cyclic: { self?: unknown } = {};
  cyclic.self = cyclic;
  const VALUES: Record<string, unknown> = {
    undefined: undefined,
    null: null,
    "minus zero": -0,
    "not a number": Number.NaN,
    infinity: Number.NEGATIVE_INFINITY,
    bigint: 2n ** 70n,
    "text with a lone surrogate": "a\ud800b",
    date: new Date(0),
    "invalid date": new Date(Number.NaN),
    bytes: Uint8Array.of(0, 1, 255),
    "no bytes": new Uint8Array(0),
    numbers: Float64Array.of(1.5, Number.NaN),
    map: new Map<unknown, unknown>([[{ a: 1 }, new Set([1n])]]),
    "a sparse array": Object.assign([1], { 2: 3 }),
    "an object without prototype": Object.assign(Object.create(null), { a: undefined }),
    cycle: cyclic,
  };
  for (const [name, value] of Object.entries(VALUES)) {
    test(`${name} is the same for the first caller and for replays`, async () => {
      const { idempotency, another } = fixture();
      const run = (from: typeof idempotency) => from.run({ key: "k" }, () => value);
      expect((await run(idempotency)).value).toBe(value);
      expect(await run(idempotency)).toStrictEqual({ value, replayed: true, attempt: 1 });
      expect(await run(another())).toStrictEqual({ value, replayed: true, attempt: 1 });
    });
  }

  test("a repeated reference stays one object", async () => {
    const { idempotency, another } = fixture();
    const shared = { a: 1 };
    await idempotency.run({ key: "k" }, () => [shared, shared]);
    const { value } = await another().run({ key: "k" }, (): object[] => []);
    expect(value[0]).toBe(value[1]);
  });

  test("a view stores its own bytes only, not those of the memory behind it", async () => {
    const { idempotency, another, store } = fixture({ maxResultBytes: 4_000 });
    const memory = Buffer.alloc(2_000, "secret!!");
    memory.set([1, 2, 3, 4], 8);
    const value = {
      buffer: memory.subarray(8, 10),
      bytes: new Uint8Array(memory.buffer, memory.byteOffset + 8, 4),
      words: new Uint16Array(memory.buffer, memory.byteOffset + 8, 2),
      view: new DataView(memory.buffer, memory.byteOffset + 8, 4),
    };
    await idempotency.run({ key: "k" }, () => value);
    const record = await store.read(recordId("", "k"));
    const stored = Buffer.from((await open(record!.result!)).bytes).toString();
    expect(stored.length).toBeLessThan(300);
    expect(stored).not.toContain(Buffer.from("secret").toString("base64").slice(0, 6));
    const replay = (await another().run({ key: "k" }, () => value)).value;
    expect(replay.buffer).toStrictEqual(Buffer.of(1, 2));
    expect(replay.bytes).toEqual(Uint8Array.of(1, 2, 3, 4));
    expect(replay.words).toEqual(value.words.slice());
    expect(replay.view.getUint32(0)).toBe(0x01020304);
  });

  class Money {}
  const REFUSED: [string, () => unknown, RegExp][] = [
    [
      "an instance of a class",
      () => ({ list: [new Money()] }),
      /instance of Money, at `value\.list\[0\]`: store/,
    ],
    ["a function", () => ({ a: 1, f() {} }), /function.*value\.f/],
    ["a symbol", () => Symbol("s"), /[Ss]ymbol/],
    ["an error", () => new Error("x"), /instance of Error/],
  ];
  for (const [name, make, why] of REFUSED) {
    test(`${name} is refused: the operation is held, says why, and does not run again`, async () => {
      const { idempotency, another } = fixture();
      const error = await failure(idempotency.run({ key: "k" }, make));
      expect(error).toMatchObject({ code: "not-serializable", retry: "never" });
      expect((error as Error).message).toMatch(why);
      expect((error as Error).cause).toBeInstanceOf(Error);
      for (const from of [idempotency, another()]) {
        const again = await failure(from.run({ key: "k" }, () => expect.unreachable()));
        expect(again).toBeInstanceOf(OperationHeld);
        expect((again as OperationHeld).reason).toMatch(/^not-serializable: /);
        expect((again as OperationHeld).reason).toMatch(why);
      }
    });
  }
});

describe("a codec of the user's own (EN-2)", () => {
  test("is used for values, replays and `get`", async () => {
    const codec = {
      encode: (value: unknown) => Buffer.from(`<${value}>`),
      decode: (bytes: Uint8Array) => Buffer.from(bytes).toString().slice(1, -1),
    };
    const { idempotency, another } = fixture({ codec });
    await idempotency.run({ key: "k" }, () => "v");
    expect((await another().run({ key: "k" }, () => "x")).value).toBe("v");
    expect(await idempotency.get({ key: "k" })).toMatchObject({ value: "v" });
  });

  test("bytes that it passes through belong to each caller alone", async () => {
    const same = (value: unknown) => value as Uint8Array;
    const { idempotency, another } = fixture({ codec: { encode: same, decode: same } });
    const run = async (from = idempotency) =>
      (await from.run({ key: "k" }, () => Uint8Array.of(1, 2))).value;
    (await run())[0] = 9;
    (await run())[0] = 8;
    (await run(another()))[0] = 7;
    expect(await run()).toEqual(Uint8Array.of(1, 2));
    expect(await run(another())).toEqual(Uint8Array.of(1, 2));
  });

  test("that returns something else than bytes, or throws, holds the operation", async () => {
    const { decode } = jsonCodec;
    const text = fixture({ codec: { encode: (value) => String(value) as never, decode } });
    const error = await failure(text.idempotency.run({ key: "k" }, () => 1));
    expect(error).toMatchObject({ code: "not-serializable" });
    expect((error as Error).message).toContain("must return a Uint8Array, it returned string");
    const odd = fixture({
      codec: {
        encode: () => {
          throw Object.create(null);
        },
        decode,
      },
    });
    expect(await failure(odd.idempotency.run({ key: "k" }, () => 1))).toMatchObject({
      code: "not-serializable",
    });
    expect(await odd.idempotency.status({ key: "k" })).toMatchObject({ state: "held" });
  });

  test("a stored value that it cannot decode is an error that runs nothing (SM-23b)", async () => {
    const { idempotency, another } = fixture();
    await idempotency.run({ key: "k" }, () => 1);
    const strict = another({
      codec: {
        encode: jsonCodec.encode,
        decode: () => {
          throw new Error("newer");
        },
      },
    });
    const error = await failure(strict.run({ key: "k" }, () => expect.unreachable()));
    expect(error).toMatchObject({ code: "record-unreadable", cause: new Error("newer") });
    expect(await failure(strict.get({ key: "k" }))).toMatchObject({ code: "record-unreadable" });
  });
});

describe("the size of results (ST-10)", () => {
  test("one at the bound is kept, one byte more is not: it completes, and duplicates are told", async () => {
    const text = "x".repeat(100);
    const bytes = jsonCodec.encode(text).byteLength;
    const kept = fixture({ maxResultBytes: bytes });
    await kept.idempotency.run({ key: "k" }, () => text);
    expect((await kept.another().run({ key: "k" }, () => "")).value).toBe(text);

    const { idempotency, another } = fixture({ maxResultBytes: bytes - 1 });
    expect((await idempotency.run({ key: "k" }, () => text)).value).toBe(text);
    for (const from of [idempotency, another()]) {
      const error = await failure(from.run({ key: "k" }, () => expect.unreachable()));
      expect(error).toBeInstanceOf(ResultNotStored);
      expect(error).toMatchObject({ code: "result-not-stored", retry: "never" });
      expect(await from.status({ key: "k" })).toMatchObject({ state: "completed" });
      expect(await from.get({ key: "k" })).not.toHaveProperty("value");
    }
  });

  test("the default bound is 1 MiB (SPEC §11)", async () => {
    const { idempotency, another } = fixture({ cache: false });
    const overhead = jsonCodec.encode("").byteLength;
    const atBound = "x".repeat(2 ** 20 - overhead);
    await idempotency.run({ key: "at" }, () => atBound);
    expect((await another().run({ key: "at" }, () => "")).value === atBound).toBe(true);
    await idempotency.run({ key: "above" }, () => `${atBound}x`);
    expect(await failure(another().run({ key: "above" }, () => ""))).toBeInstanceOf(
      ResultNotStored,
    );
  });

  test("large results are compressed in the store and replayed exactly", async () => {
    const { idempotency, another, store } = fixture({ cache: false });
    const text = "a result that repeats itself; ".repeat(1_000);
    await idempotency.run({ key: "k" }, () => text);
    const record = await store.read(recordId("", "k"));
    expect(record!.result!.byteLength).toBeLessThan(text.length / 10);
    expect((await another().run({ key: "k" }, () => "")).value).toBe(text);
  });
});

describe("the cache of results (EN-4)", () => {
  test("forgets after its lifetime", async () => {
    const { idempotency, store, clock } = fixture({ cache: { lifetime: "1m" } });
    await idempotency.run({ key: "k" }, () => 1);
    await clock.advance(MINUTE_MS - 1);
    await idempotency.run({ key: "k" }, () => 2);
    expect(store.calls.begin).toBe(1);
    await clock.advance(1);
    expect((await idempotency.run({ key: "k" }, () => 2)).value).toBe(1);
    expect(store.calls.begin).toBe(2);
  });

  test("keeps at most so many entries, and gives up the one least recently used", async () => {
    const { idempotency, store } = fixture({ cache: { entries: 2 } });
    const run = (key: string) => idempotency.run({ key }, () => key);
    await run("a");
    await run("b");
    await run("a");
    await run("c");
    expect(store.calls.begin).toBe(3);
    await run("a");
    await run("c");
    expect(store.calls.begin).toBe(3);
    await run("b");
    expect(store.calls.begin).toBe(4);
  });

  test("keeps at most so many bytes", async () => {
    const { idempotency, store } = fixture({ cache: { bytes: 5_000 } });
    const run = (key: string, length: number) => idempotency.run({ key }, () => "x".repeat(length));
    await run("large", 6_000);
    await run("large", 0);
    expect(store.calls.begin, "one that does not fit is not cached").toBe(2);
    await run("a", 1_500);
    await run("b", 1_500);
    await run("a", 0);
    await run("b", 0);
    expect(store.calls.begin).toBe(4);
    await run("c", 1_500);
    await run("a", 0);
    expect(store.calls.begin).toBe(6);
  });

  test("never outlives the record, even when the store's answer was slow", async () => {
    const { idempotency, another, plan, clock, store } = fixture({ retention: "10s" });
    const reply = deferred();
    plan.push({ method: "settle", call: 1, effect: "delay-reply", until: reply.promise });
    const first = idempotency.run({ key: "k" }, () => 1);
    await clock.advance(1_500);
    reply.resolve();
    await first;
    await clock.advance(8_499);
    expect((await idempotency.run({ key: "k" }, () => 2)).replayed).toBe(true);
    expect(store.calls.begin).toBe(1);
    await clock.advance(1);
    expect((await another().run({ key: "k" }, () => 3)).value).toBe(3);
    expect((await idempotency.run({ key: "k" }, () => 2)).value).toBe(3);
  });

  test("never outlives a record that it was filled from", async () => {
    const { idempotency, another, plan, clock } = fixture({ retention: "10s" });
    await another().run({ key: "k" }, () => 1);
    const reply = deferred();
    plan.push({ method: "begin", call: 1, effect: "delay-reply", until: reply.promise });
    const replay = idempotency.run({ key: "k" }, () => 2);
    await clock.advance(1_500);
    reply.resolve();
    expect((await replay).value).toBe(1);
    await clock.advance(8_500);
    expect((await idempotency.run({ key: "k" }, () => 2)).value).toBe(2);
  });

  test("forgets what this process deletes, and is off when told so", async () => {
    const { idempotency, store } = fixture();
    await idempotency.run({ key: "k" }, () => 1);
    expect(await idempotency.delete({ key: "k" })).toEqual({ kind: "deleted" });
    expect((await idempotency.run({ key: "k" }, () => 2)).value).toBe(2);
    expect(store.calls.begin).toBe(2);
    const off = fixture({ cache: false });
    await off.idempotency.run({ key: "k" }, () => 1);
    await off.idempotency.run({ key: "k" }, () => 1);
    expect(off.store.calls.begin).toBe(2);
  });

  test("does not remember again what was deleted while it was asked for", async () => {
    const { idempotency, another, plan } = fixture();
    await another().run({ key: "k" }, () => 1);
    const reply = deferred<void>();
    plan.push({ method: "begin", call: 1, effect: "delay-reply", until: reply.promise });
    const replay = idempotency.run({ key: "k" }, () => 2);
    await turns();
    expect(await idempotency.delete({ key: "k" })).toEqual({ kind: "deleted" });
    reply.resolve();
    expect((await replay).value).toBe(1);
    expect((await idempotency.run({ key: "k" }, () => 2)).value).toBe(2);
  });

  test("shows what another process deleted for at most its lifetime", async () => {
    const { idempotency, another, clock } = fixture({ cache: { lifetime: "1m" } });
    await idempotency.run({ key: "k" }, () => 1);
    await another().delete({ key: "k" });
    expect((await idempotency.run({ key: "k" }, () => 2)).value).toBe(1);
    await clock.advance(MINUTE_MS);
    expect((await idempotency.run({ key: "k" }, () => 2)).value).toBe(2);
  });
});
