import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { Redis } from "ioredis";
import { createClient } from "redis";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import type { Claim, Store } from "../../src/store.ts";
import { connectionOf, type RedisClient } from "../../src/stores/redis/clients.ts";
import { Keyspace } from "../../src/stores/redis/keyspace.ts";
import { type RedisStoreOptions, redisStore } from "../../src/stores/redis.ts";
import { redisBinariesMissing } from "../servers/redis.ts";
import { titled } from "./redis-conformance.ts";
import {
  acquire,
  type ClientKind,
  claimOf,
  complete,
  completion,
  DAY_MS,
  DURABLE,
  elapse,
  ioredisKind,
  keyOf,
  newPrefix,
  nodeRedisKind,
  RedisStage,
  send,
} from "./redis-fixture.ts";

const missing = await redisBinariesMissing();
const PATIENTLY = { timeout: 20_000 };
const RACE = fileURLToPath(new URL("redis-race.mjs", import.meta.url));

/** A client of the user's that counts what it is asked for. */
function counting(client: RedisClient) {
  const counted = { client, commands: [] as string[] };
  const original = client as unknown as Record<string, (...args: unknown[]) => Promise<unknown>>;
  const method = "callBuffer" in client ? "callBuffer" : "sendCommand";
  counted.client = new Proxy(client, {
    get(target, name) {
      if (name !== method) return Reflect.get(target, name, target);
      return (...args: unknown[]) => {
        counted.commands.push(String(Array.isArray(args[0]) ? args[0][0] : args[0]));
        return original[method]!.apply(target, args);
      };
    },
  });
  return counted;
}

describe.skipIf(missing)(titled("redisStore", missing), () => {
  const stage = new RedisStage(DURABLE);
  const open = (kind?: ClientKind) => stage.open(kind);
  const fresh = (options?: RedisStoreOptions, kind?: ClientKind) => stage.fresh(options, kind);

  beforeAll(() => stage.start());
  afterEach(() => stage.clear());
  afterAll(() => stage.close());

  describe("as it is set up", () => {
    it("does no I/O before it is asked", async () => {
      const client = new Redis({ lazyConnect: true });
      redisStore(client);
      expect(client.status).toBe("wait");
      client.disconnect();
    });

    it.each([
      [{ prefx: "x" }, /did you mean `prefix`/],
      [{ prefix: "" }, /`prefix`/],
      [{ prefix: "app:{1}:" }, /braces/],
      [{ prefix: "}" }, /braces/],
      [{ evictionPolicy: "ignore" }, /`evictionPolicy`/],
      [{ wait: { replicas: 0, timeout: "1s" } }, /`wait.replicas`/],
      [{ wait: { replicas: 1, timeout: "never" } }, /`wait.timeout`/],
      [{ subscriber: {} }, /`subscriber`/],
    ])("refuses the options %j", async (options, message) => {
      const client = await open();
      expect(() => redisStore(client, options as RedisStoreOptions)).toThrow(message);
    });

    it.each([[undefined], [{}], ["redis://localhost"]])("refuses %j as a client", (client) => {
      expect(() => redisStore(client as never)).toThrow(/`client`/);
    });

    it("keeps stores of different prefixes apart, whatever client prefixes they have", async () => {
      const prefixed = new Redis({ port: stage.port, keyPrefix: `app-${newPrefix()}` });
      stage.keep({ client: prefixed, close: async () => prefixed.disconnect() });
      const client = await open();
      const prefix = newPrefix();
      const stores = [
        redisStore(client, { prefix }),
        redisStore(client, { prefix: `${prefix}b:` }),
        redisStore(prefixed, { prefix }),
      ];
      for (const store of stores) await complete(store, claimOf("k"));
      for (const store of stores) expect((await store.list({ limit: 9 })).records).toHaveLength(1);
    });
  });

  describe("as it talks to the server (PF-1)", () => {
    it.each([ioredisKind, nodeRedisKind])(
      "needs two round trips for a new operation by $name, one for a replay, a renewal or a step",
      async (kind) => {
        const { client, commands } = counting(await open(kind));
        const store = redisStore(client, { prefix: newPrefix() });
        await store.read(claimOf("warm").id);
        for (const claim of [claimOf("warm up"), claimOf("k")]) {
          commands.length = 0;
          const token = await acquire(store, claim);
          await store.renew({ ...token, leaseMs: 60_000, lapsedRetentionMs: null });
          await store.append!({ ...token, bytes: Buffer.from("done") });
          await store.settle(completion(token));
          expect(await store.begin(claimOf(claim.key))).toMatchObject({ kind: "done" });
        }
        expect(commands).toEqual(Array.from({ length: 5 }, () => "evalsha"));
      },
    );

    it.each([ioredisKind, nodeRedisKind])(
      "ST-12: combines what one turn of the event loop asks, by $name",
      async (kind) => {
        const { client, commands } = counting(await open(kind));
        const store = redisStore(client, { prefix: newPrefix() });
        await complete(store, claimOf("warm"));
        commands.length = 0;
        const claims = Array.from({ length: 100 }, (_, n) => claimOf(`k${n}`));
        await Promise.all(claims.map((claim) => acquire(store, claim)));
        // Shared out, so that the server works on one half while the client works on the other.
        expect(commands).toEqual(["evalsha", "evalsha"]);
      },
    );

    it("teaches the server its scripts again when they were flushed", async () => {
      const { client, store } = await fresh();
      await complete(store, claimOf("k"));
      await send(client, "script", "flush");
      expect(await store.begin(claimOf("k"))).toMatchObject({ kind: "done" });
      await send(client, "script", "flush");
      await Promise.all(["a", "b", "c"].map((key) => complete(store, claimOf(key))));
    });

    it("asks again, in parts, for replays that are too large for one reply", async () => {
      const { store } = await fresh();
      const keys = Array.from({ length: 12 }, (_, n) => `k${n}`);
      const resultOf = (n: number) => Buffer.alloc(400_000, n);
      const settled = keys.map(async (key, n) =>
        store.settle(completion(await acquire(store, claimOf(key)), resultOf(n))),
      );
      await Promise.all(settled);
      const answers = await Promise.all(keys.map((key) => store.begin(claimOf(key))));
      for (const [n, answer] of answers.entries()) {
        if (answer.kind !== "done") throw new Error(answer.kind);
        expect(resultOf(n).equals(answer.result)).toBe(true);
        expect(answer.result.buffer.byteLength).toBe(400_000);
      }
    });

    it("writes nothing to answer a duplicate", async () => {
      const { client, store } = await fresh();
      await complete(store, claimOf("done"));
      await acquire(store, claimOf("busy"));
      const written = async () =>
        /aof_buffer_length:0\b/.test(String(await send(client, "info", "persistence")));
      const size = async () => {
        // While it is being synchronised, what is to be written waits.
        await expect.poll(written, { timeout: 20_000 }).toBe(true);
        return /aof_current_size:(\d+)/.exec(String(await send(client, "info")))![1];
      };
      const before = await size();
      await store.begin(claimOf("done"));
      await store.begin(claimOf("busy"));
      await store.begin(claimOf("done", { fingerprint: "v1:other" }));
      expect(await size()).toBe(before);
    });
  });

  describe("as it keeps records", () => {
    it("SM-23b: leaves alone what is no record, which fails alone", async () => {
      const { client, store, prefix } = await fresh();
      const foreign = claimOf("foreign");
      await send(client, "lpush", keyOf(prefix, foreign), "mine");
      await acquire(store, claimOf("warm"));
      const [one, unreadable, other] = await Promise.allSettled([
        store.begin(claimOf("one")),
        store.begin(foreign),
        store.begin(claimOf("other")),
      ]);
      expect([one, other]).toMatchObject([
        { value: { kind: "acquired" } },
        { value: { kind: "acquired" } },
      ]);
      expect(unreadable).toMatchObject({ reason: { code: "record-unreadable" } });
      await expect(store.read(foreign.id)).rejects.toMatchObject({ code: "record-unreadable" });
      expect(String(await send(client, "type", keyOf(prefix, foreign)))).toBe("list");
      expect(await store.delete(foreign.id)).toEqual({ kind: "deleted" });
      await acquire(store, foreign);
    });

    it.each([0, 1, 20, 47, 60])(
      "SM-23b: reads no record that was cut to %d bytes",
      async (length) => {
        const { client, store, prefix } = await fresh();
        const claim = claimOf("k");
        await complete(store, claim);
        const whole = (await send(client, "get", keyOf(prefix, claim))) as Buffer;
        const cut = whole.subarray(0, length);
        await connectionOf(client).send("", ["set", keyOf(prefix, claim), cut]);
        const unreadable = { code: "record-unreadable" };
        await expect(store.begin(claimOf("k"))).rejects.toMatchObject(unreadable);
        await expect(store.read(claim.id)).rejects.toMatchObject(unreadable);
        expect((await store.list({ limit: 10 })).records).toEqual([]);
        expect(await store.delete(claim.id)).toEqual({ kind: "deleted" });
      },
    );

    it("SM-15: lets Redis forget, and keeps what is unresolved without an end", async () => {
      const { client, store, prefix } = await fresh();
      const ttl = async (claim: Claim) => Number(await send(client, "pttl", keyOf(prefix, claim)));
      const [done, kept, rerun] = [
        claimOf("done"),
        claimOf("kept", { onCrash: "hold", lapsedRetentionMs: null }),
        claimOf("rerun"),
      ];
      await complete(store, done);
      await acquire(store, kept);
      await acquire(store, rerun);
      expect(await ttl(done)).toBeGreaterThan(DAY_MS - 60_000);
      expect(await ttl(done)).toBeLessThanOrEqual(DAY_MS);
      expect(await ttl(kept)).toBe(-1);
      expect(await ttl(rerun)).toBeGreaterThan(DAY_MS);
    });

    it("SM-15: forgets what Redis has not yet removed, for whatever reason", async () => {
      const { client, store, prefix } = await fresh();
      const claim = claimOf("k");
      await complete(store, claim);
      const key = keyOf(prefix, claim);
      await send(client, "persist", key);
      const past = Buffer.of(0, 0, 0, 0, 0, 1);
      await connectionOf(client).send(key, ["setrange", key, "28", past]);
      expect(await store.read(claim.id)).toBeUndefined();
      expect(await store.delete(claim.id)).toEqual({ kind: "absent" });
      expect(await store.begin(claimOf("k"))).toMatchObject({ kind: "acquired", attempt: 1 });
    });

    it("SM-19: counts time by the server's clock, to the millisecond", async () => {
      const { client, store } = await fresh();
      const now = async () => {
        const [seconds, micros] = (await send(client, "time")) as [Buffer, Buffer];
        return Number(seconds) * 1_000 + Math.floor(Number(micros) / 1_000);
      };
      const before = await now();
      const claim = claimOf("k");
      await acquire(store, claim);
      const record = await store.read(claim.id);
      expect(record?.createdAt).toBeGreaterThanOrEqual(before);
      expect(record?.createdAt).toBeLessThanOrEqual(await now());
    });

    it.each([1.5, Number.NaN, -1, 2 ** 50, Number.POSITIVE_INFINITY])(
      "refuses a time of %d ms, which fails alone",
      async (ms) => {
        const { store } = await fresh();
        const token = await acquire(store, claimOf("k"));
        const [good, ...refused] = await Promise.allSettled([
          store.settle(completion(token)),
          store.begin(claimOf("lease", { leaseMs: ms })),
          store.begin(claimOf("lapsed", { lapsedRetentionMs: ms })),
          store.settle({ ...completion(token), retentionMs: ms }),
        ]);
        expect(good).toMatchObject({ value: { kind: "settled" } });
        for (const call of refused) expect(call).toMatchObject({ reason: expect.any(RangeError) });
      },
    );

    it("keeps what a century of retention asks for", async () => {
      const { store } = await fresh();
      const century = 100 * 366 * DAY_MS;
      const token = await acquire(store, claimOf("k", { leaseMs: century }));
      await store.settle({ ...completion(token), retentionMs: century });
      const answer = await store.begin(claimOf("k"));
      if (answer.kind !== "done") throw new Error(answer.kind);
      expect(answer.expiresInMs).toBeGreaterThan(century - 60_000);
      expect((await store.stats()).states.completed).toBe(1);
    });

    it.each(["", "active", "active-1-zz", "held-1-", "1"])(
      "refuses the cursor %j",
      async (cursor) => {
        const { store } = await fresh();
        await expect(store.list({ limit: 1, cursor })).rejects.toMatchObject({
          code: "option-invalid",
        });
      },
    );

    it("lists finished records by their end, the latest first, over many pages", async () => {
      const { store } = await fresh();
      const keys = Array.from({ length: 60 }, (_, n) => `k${n}`);
      for (const [n, key] of keys.entries()) {
        const token = await acquire(store, claimOf(key));
        await store.settle({ ...completion(token), retentionMs: DAY_MS + n * 1_000 });
      }
      const listed: string[] = [];
      let cursor: string | undefined;
      do {
        const page = await store.list({ limit: 7, ...(cursor !== undefined && { cursor }) });
        listed.push(...page.records.map(({ key }) => key));
        cursor = page.cursor;
      } while (cursor !== undefined);
      expect(listed).toEqual(keys.toReversed());
    });

    it("ST-9: forgets the places of records that ended unseen, wherever it meets them", async () => {
      const { client, store, prefix } = await fresh();
      const places = async () => {
        const indexes = new Keyspace(prefix, false).indexes;
        const counts = await Promise.all(indexes.map((index) => send(client, "zcard", index)));
        return counts.reduce((sum: number, count) => sum + Number(count), 0);
      };
      for (let n = 0; n < 30; n++) await acquire(store, claimOf(`k${n}`));
      await elapse(client, prefix, 60_000 + DAY_MS);
      expect(await places()).toBe(30);
      expect(await store.sweep(10)).toBe(10);
      expect(await places()).toBe(20);
      expect((await store.stats()).states.running).toBe(0);
      expect(await places()).toBe(0);
    });
  });

  describe("as it wakes those who wait (EN-3)", () => {
    it.each([
      ["ioredis", () => new Redis({ port: stage.port })],
      ["redis", () => createClient({ socket: { port: stage.port } })],
    ])("hears by %s of every end of an operation, and of no other", async (_name, make) => {
      const subscriber = make();
      if ("connect" in subscriber && !("callBuffer" in subscriber)) await subscriber.connect();
      stage.keep({
        client: subscriber,
        close: async () => {
          if ("destroy" in subscriber) subscriber.destroy();
          else subscriber.disconnect();
        },
      });
      const { store } = await fresh({ subscriber });
      const ends: [string, (store: Store, claim: Claim) => Promise<unknown>][] = [
        ["complete", async (s, c) => s.settle(completion(tokenOf(c)))],
        ["release", (s, c) => s.settle({ ...tokenOf(c), kind: "release", retentionMs: DAY_MS })],
        [
          "hold",
          (s, c) => s.settle({ ...tokenOf(c), kind: "hold", reason: "unsure", retentionMs: null }),
        ],
      ];
      for (const [name, end] of ends) {
        const claim = claimOf(`${name} ${_name}`);
        await acquire(store, claim);
        let wakes = 0;
        const stop = store.subscribe!(claim.id, () => wakes++);
        // The first comes when the subscription stands.
        await expect.poll(() => wakes, PATIENTLY).toBe(1);
        await complete(store, claimOf(`other of ${name} ${_name}`));
        await end(store, claim);
        await expect.poll(() => wakes, PATIENTLY).toBe(2);
        stop();
        stop();
        await store.void({ id: claim.id, scope: "tenant", key: claim.key, retentionMs: DAY_MS });
        expect(wakes).toBe(2);
      }
    });

    it("has no subscription without a client for it", async () => {
      expect((await fresh()).store.subscribe).toBeUndefined();
    });
  });

  it("gives each key to one of a hundred callers in four processes", async () => {
    const prefix = newPrefix();
    const children = Array.from({ length: 4 }, () => fork(RACE, [stage.url, prefix]));
    try {
      await Promise.all(children.map((child) => once(child, "message")));
      for (let round = 0; round < 5; round++) {
        const question = { key: `k${round}`, callers: 25 };
        const kinds = await Promise.all(children.map((child) => answerOf(child, question)));
        const acquired = kinds.flat().filter((kind) => kind === "acquired");
        const busy = kinds.flat().filter((kind) => kind === "busy");
        expect([acquired.length, busy.length]).toEqual([1, 99]);
      }
    } finally {
      await Promise.all(children.map(end));
    }
  });
});

const tokenOf = ({ id, owner }: Claim) => ({ id, owner, attempt: 1 });

async function answerOf(child: ChildProcess, question: object): Promise<string[]> {
  child.send(question);
  const [answer] = (await once(child, "message")) as [{ kinds?: string[]; error?: string }];
  if (answer.kinds === undefined) throw new Error(answer.error);
  return answer.kinds;
}

async function end(child: ChildProcess): Promise<void> {
  const exited = once(child, "exit");
  child.kill("SIGKILL");
  await exited;
}
