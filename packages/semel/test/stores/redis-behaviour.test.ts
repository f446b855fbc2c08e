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
import { redisBinariesMissing, startRedis } from "../servers/redis.ts";
import type { PrivateServer } from "../servers/server.ts";
import { titled } from "./redis-conformance.ts";
import {
  acquire,
  claimOf,
  complete,
  completion,
  DAY_MS,
  elapse,
  ioredisKind,
  newPrefix,
  nodeRedisKind,
  type OpenClient,
} from "./redis-fixture.ts";

const missing = await redisBinariesMissing();
const RACE = fileURLToPath(new URL("redis-race.mjs", import.meta.url));
const DURABLE = ["--appendonly", "yes"];

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
  let server: PrivateServer;
  let opened: OpenClient[] = [];
  const others: PrivateServer[] = [];

  beforeAll(async () => {
    server = (await startRedis(DURABLE))!;
  });

  afterEach(async () => {
    for (const { close } of opened) await close();
    opened = [];
    for (const other of others.splice(0)) await other.close();
  });

  afterAll(async () => {
    await server?.close();
  });

  async function open(kind = ioredisKind, port = server.port): Promise<RedisClient> {
    const client = await kind.open([port]);
    opened.push(client);
    return client.client;
  }

  async function start(...args: string[]): Promise<PrivateServer> {
    const other = (await startRedis(args))!;
    others.push(other);
    return other;
  }

  async function fresh(options: RedisStoreOptions = {}, kind = ioredisKind) {
    const client = await open(kind);
    const prefix = newPrefix();
    return { client, prefix, store: redisStore(client, { prefix, ...options }) };
  }

  const send = (client: RedisClient, ...command: string[]) =>
    connectionOf(client).send(command[1] ?? "", command as [string, ...string[]]);

  /** What the process is warned of while something runs. */
  async function warnings(run: () => Promise<unknown>): Promise<string[]> {
    const codes: string[] = [];
    const listener = (warning: Error & { code?: string }) => codes.push(warning.code ?? "");
    process.on("warning", listener);
    await run();
    await new Promise(setImmediate);
    process.off("warning", listener);
    return codes.filter((code) => code.startsWith("SEMEL"));
  }

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
      const prefixed = new Redis({ port: server.port, keyPrefix: `app-${newPrefix()}` });
      opened.push({ client: prefixed, close: async () => prefixed.disconnect() });
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
      "needs two round trips for a new operation by $name, one for a replay or a renewal",
      async (kind) => {
        const { client, commands } = counting(await open(kind));
        const store = redisStore(client, { prefix: newPrefix() });
        await store.read(claimOf("warm").id);
        for (const claim of [claimOf("warm up"), claimOf("k")]) {
          commands.length = 0;
          const token = await acquire(store, claim);
          await store.renew({ ...token, leaseMs: 60_000, lapsedRetentionMs: null });
          await store.settle(completion(token));
          expect(await store.begin(claimOf(claim.key))).toMatchObject({ kind: "done" });
        }
        expect(commands).toEqual(["evalsha", "evalsha", "evalsha", "evalsha"]);
      },
    );

    it.each([ioredisKind, nodeRedisKind])(
      "ST-12: combines what is asked while a batch is under way, by $name",
      async (kind) => {
        const { client, commands } = counting(await open(kind));
        const store = redisStore(client, { prefix: newPrefix() });
        await complete(store, claimOf("warm"));
        commands.length = 0;
        const claims = Array.from({ length: 100 }, (_, n) => claimOf(`k${n}`));
        await Promise.all(claims.map((claim) => acquire(store, claim)));
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
      const offset = async () => /master_repl_offset:\d+/.exec(String(await send(client, "info")));
      const size = async () =>
        /aof_current_size:(\d+)/.exec(String(await send(client, "info")))![1];
      await offset();
      const before = await size();
      await store.begin(claimOf("done"));
      await store.begin(claimOf("busy"));
      await store.begin(claimOf("done", { fingerprint: "v1:other" }));
      expect(await size()).toBe(before);
    });
  });

  describe("when the server cannot be relied on", () => {
    it("refuses a server that may evict records, and says what to set", async () => {
      const evicting = await start("--maxmemory", "50mb", "--maxmemory-policy", "volatile-lru");
      const client = await open(ioredisKind, evicting.port);
      const store = redisStore(client);
      const refusal = {
        code: "store-unusable",
        message: expect.stringMatching(/volatile-lru.*noeviction/),
      };
      await expect(store.begin(claimOf("k"))).rejects.toMatchObject(refusal);
      await expect(store.stats()).rejects.toMatchObject(refusal);
      await send(client, "config", "set", "maxmemory-policy", "noeviction");
      await acquire(store, claimOf("k"));
    });

    it("only warns of eviction when told so, and of a server that keeps nothing on disk", async () => {
      const evicting = await start("--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru");
      const store = redisStore(await open(ioredisKind, evicting.port), { evictionPolicy: "warn" });
      const codes = await warnings(async () => {
        await acquire(store, claimOf("a"));
        await acquire(store, claimOf("b"));
      });
      expect(codes).toEqual(["SEMEL_REDIS_EVICTION", "SEMEL_REDIS_NOT_DURABLE"]);
    });

    it("does not warn of a server that keeps what it is given", async () => {
      const { store } = await fresh();
      expect(await warnings(() => acquire(store, claimOf("k")))).toEqual([]);
    });

    it("does not refuse a policy that does nothing for want of a limit", async () => {
      const unlimited = await start("--maxmemory-policy", "allkeys-lru", ...DURABLE);
      await acquire(redisStore(await open(ioredisKind, unlimited.port)), claimOf("k"));
    });

    it.each([ioredisKind, nodeRedisKind])(
      "says that it is full, by $name, and still replays",
      async (kind) => {
        const small = await start("--maxmemory", "6mb", ...DURABLE);
        const client = await open(kind, small.port);
        const store = redisStore(client);
        await complete(store, claimOf("done"));
        const token = await acquire(store, claimOf("large"));
        await send(client, "config", "set", "maxmemory", "1mb");
        const answers = await Promise.allSettled([
          store.begin(claimOf("done")),
          store.begin(claimOf("new")),
          store.begin(claimOf("another")),
          store.settle(completion(token, new Uint8Array(500_000))),
        ]);
        const full = { reason: { code: "store-full", cause: expect.anything() } };
        expect(answers).toMatchObject([{ value: { kind: "done" } }, full, full, full]);
        await send(client, "config", "set", "maxmemory", "100mb");
        expect(await store.settle(completion(token))).toEqual({ kind: "settled" });
        await acquire(store, claimOf("new"));
      },
    );

    it("says that a server is a replica, which replays and runs nothing", async () => {
      const { store, prefix } = await fresh();
      await complete(store, claimOf("done"));
      const replica = await start(...DURABLE);
      const client = await open(ioredisKind, replica.port);
      await send(client, "replicaof", "127.0.0.1", String(server.port));
      const reader = redisStore(client, { prefix });
      await expect.poll(() => reader.read(claimOf("done").id), { timeout: 20_000 }).toBeDefined();
      expect(await reader.begin(claimOf("done"))).toMatchObject({ kind: "done" });
      await expect(reader.begin(claimOf("new"))).rejects.toMatchObject({
        code: "store-unavailable",
        message: expect.stringMatching(/replica.*primary/),
      });
    });

    it.each([ioredisKind, nodeRedisKind])("says that $name was closed", async (kind) => {
      const client = await kind.open([server.port]);
      const store = redisStore(client.client, { prefix: newPrefix() });
      await acquire(store, claimOf("k"));
      await client.close();
      const closed = {
        code: "store-unusable",
        message: expect.stringMatching(/closed/),
        cause: expect.anything(),
      };
      await expect(store.begin(claimOf("k"))).rejects.toMatchObject(closed);
      await expect(store.stats()).rejects.toMatchObject(closed);
    });

    it("says that a client of redis never connected", async () => {
      const client = createClient({ socket: { port: server.port } });
      await expect(redisStore(client).begin(claimOf("k"))).rejects.toMatchObject({
        code: "store-unusable",
        message: expect.stringMatching(/never connected/),
      });
    });

    it("is unavailable at once while the server is away, and serves when it is back", async () => {
      const own = await start(...DURABLE, "--appendfsync", "always");
      const client = new Redis({
        port: own.port,
        enableOfflineQueue: false,
        autoResendUnfulfilledCommands: false,
        retryStrategy: () => 20,
      }).on("error", () => {});
      opened.push({ client, close: async () => client.disconnect() });
      const store = redisStore(client);
      await once(client, "ready");
      await complete(store, claimOf("k"));
      await own.kill();
      await expect(store.begin(claimOf("k"))).rejects.toMatchObject({ code: "store-unavailable" });
      await own.start();
      if (client.status !== "ready") await once(client, "ready");
      expect(await store.begin(claimOf("k"))).toMatchObject({ kind: "done" });
    });

    it("names what an ACL has to allow", async () => {
      const client = await open();
      await send(client, "acl", "setuser", "poor", "on", ">secret", "~*", "+@all", "-evalsha");
      const poor = new Redis({ port: server.port, username: "poor", password: "secret" });
      opened.push({ client: poor, close: async () => poor.disconnect() });
      await expect(redisStore(poor).begin(claimOf("k"))).rejects.toMatchObject({
        code: "store-unusable",
        message: expect.stringMatching(/EVALSHA/),
      });
    });

    it("asks for the password that is missing", async () => {
      const locked = await start();
      await send(await open(ioredisKind, locked.port), "config", "set", "requirepass", "secret");
      // Otherwise its own first look at the server is refused, and it tries for ever.
      const client = new Redis({ port: locked.port, enableReadyCheck: false });
      opened.push({ client, close: async () => client.disconnect() });
      await expect(redisStore(client).begin(claimOf("k"))).rejects.toMatchObject({
        code: "store-unusable",
        message: expect.stringMatching(/password/),
      });
    });
  });

  describe("as it keeps records", () => {
    const keyOf = (prefix: string, { id }: Claim) => new Keyspace(prefix).record(id);

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
        const indexes = new Keyspace(prefix).indexes;
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
      ["ioredis", () => new Redis({ port: server.port })],
      ["redis", () => createClient({ socket: { port: server.port } })],
    ])("hears by %s of every end of an operation, and of no other", async (_name, make) => {
      const subscriber = make();
      if ("connect" in subscriber && !("callBuffer" in subscriber)) await subscriber.connect();
      opened.push({
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
        await expect.poll(() => wakes).toBe(1);
        await complete(store, claimOf(`other of ${name} ${_name}`));
        await end(store, claim);
        await expect.poll(() => wakes).toBe(2);
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
    const children = Array.from({ length: 4 }, () => fork(RACE, [server.url, prefix]));
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
