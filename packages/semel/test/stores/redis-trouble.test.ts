// What the store does about servers and clients that cannot be relied on.

import { once } from "node:events";
import { Redis } from "ioredis";
import { createClient } from "redis";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { type RedisStoreOptions, redisStore } from "../../src/stores/redis.ts";
import { redisBinariesMissing } from "../servers/redis.ts";
import { titled } from "./redis-conformance.ts";
import {
  acquire,
  type ClientKind,
  claimOf,
  complete,
  completion,
  DURABLE,
  ioredisKind,
  newPrefix,
  nodeRedisKind,
  RedisStage,
  send,
} from "./redis-fixture.ts";

const missing = await redisBinariesMissing();

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

describe.skipIf(missing)(titled("redisStore in trouble", missing), () => {
  const stage = new RedisStage(DURABLE);
  const open = (kind?: ClientKind, port?: number) => stage.open(kind, port);
  const fresh = (options?: RedisStoreOptions, kind?: ClientKind) => stage.fresh(options, kind);

  beforeAll(() => stage.start());
  afterEach(() => stage.clear());
  afterAll(() => stage.close());

  it("refuses a server that may evict records, and says what to set", async () => {
    const evicting = await stage.startOther(
      "--maxmemory",
      "50mb",
      "--maxmemory-policy",
      "volatile-lru",
    );
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
    const evicting = await stage.startOther(
      "--maxmemory",
      "50mb",
      "--maxmemory-policy",
      "allkeys-lru",
    );
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
    const unlimited = await stage.startOther("--maxmemory-policy", "allkeys-lru", ...DURABLE);
    await acquire(redisStore(await open(ioredisKind, unlimited.port)), claimOf("k"));
  });

  it.each([ioredisKind, nodeRedisKind])(
    "says that it is full, by $name, and still replays",
    async (kind) => {
      const small = await stage.startOther("--maxmemory", "6mb", ...DURABLE);
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
    const replica = await stage.startOther(...DURABLE);
    const client = await open(ioredisKind, replica.port);
    await send(client, "replicaof", "127.0.0.1", String(stage.port));
    const reader = redisStore(client, { prefix });
    await expect.poll(() => reader.read(claimOf("done").id), { timeout: 20_000 }).toBeDefined();
    expect(await reader.begin(claimOf("done"))).toMatchObject({ kind: "done" });
    await expect(reader.begin(claimOf("new"))).rejects.toMatchObject({
      code: "store-unavailable",
      message: expect.stringMatching(/replica.*primary/),
    });
  });

  it.each([ioredisKind, nodeRedisKind])("says that $name was closed", async (kind) => {
    const client = await kind.open([stage.port]);
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
    const client = createClient({ socket: { port: stage.port } });
    await expect(redisStore(client).begin(claimOf("k"))).rejects.toMatchObject({
      code: "store-unusable",
      message: expect.stringMatching(/never connected/),
    });
  });

  it("is unavailable at once while the server is away, and serves when it is back", async () => {
    const own = await stage.startOther(...DURABLE, "--appendfsync", "always");
    const client = new Redis({
      port: own.port,
      enableOfflineQueue: false,
      autoResendUnfulfilledCommands: false,
      retryStrategy: () => 20,
    }).on("error", () => {});
    stage.keep({ client, close: async () => client.disconnect() });
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
    const poor = new Redis({ port: stage.port, username: "poor", password: "secret" });
    stage.keep({ client: poor, close: async () => poor.disconnect() });
    await expect(redisStore(poor).begin(claimOf("k"))).rejects.toMatchObject({
      code: "store-unusable",
      message: expect.stringMatching(/EVALSHA/),
    });
  });

  it("asks for the password that is missing", async () => {
    const locked = await stage.startOther();
    await send(await open(ioredisKind, locked.port), "config", "set", "requirepass", "secret");
    // Otherwise its own first look at the server is refused, and it tries for ever.
    const client = new Redis({ port: locked.port, enableReadyCheck: false });
    stage.keep({ client, close: async () => client.disconnect() });
    await expect(redisStore(client).begin(claimOf("k"))).rejects.toMatchObject({
      code: "store-unusable",
      message: expect.stringMatching(/password/),
    });
  });
});
