// What a Redis that dies, and a replica that takes over, still know.

import { randomBytes } from "node:crypto";
import { Redis } from "ioredis";
import { afterEach, describe, expect, it } from "vitest";
import type { Claim, Store } from "../../src/store.ts";
import { connectionOf } from "../../src/stores/redis/clients.ts";
import { redisStore } from "../../src/stores/redis.ts";
import { redisBinariesMissing, startRedis } from "../servers/redis.ts";
import type { PrivateServer } from "../servers/server.ts";
import { titled } from "./redis-conformance.ts";
import { acquire, claimOf, complete, completion, DAY_MS } from "./redis-fixture.ts";

const missing = await redisBinariesMissing();

describe.skipIf(missing)(titled("redisStore, when servers die,", missing), () => {
  const servers: PrivateServer[] = [];
  const clients: Redis[] = [];

  afterEach(async () => {
    for (const client of clients.splice(0)) client.disconnect();
    for (const server of servers.splice(0)) await server.close();
  });

  async function start(...args: string[]): Promise<PrivateServer> {
    const server = (await startRedis(args))!;
    servers.push(server);
    return server;
  }

  function open(server: PrivateServer): Redis {
    const client = new Redis({
      port: server.port,
      enableOfflineQueue: false,
      autoResendUnfulfilledCommands: false,
      retryStrategy: () => 20,
    }).on("error", () => {});
    clients.push(client);
    return client;
  }

  async function ready(client: Redis): Promise<Redis> {
    await expect.poll(() => client.status, { timeout: 20_000 }).toBe("ready");
    return client;
  }

  /** A replica that has caught up once. */
  async function startReplica(primary: PrivateServer): Promise<PrivateServer> {
    const replica = await start();
    const client = await ready(open(replica));
    await client.replicaof("127.0.0.1", primary.port);
    const caughtUp = async () => /master_link_status:up/.test(await client.info("replication"));
    await expect.poll(caughtUp, { timeout: 20_000 }).toBe(true);
    return replica;
  }

  /** Claims and completes until the server is gone; gives what was acknowledged. */
  async function drive(store: Store, kill: () => Promise<void>) {
    const acknowledged = { claims: [] as Claim[], results: [] as Claim[] };
    let isOver = false;
    const callers = Array.from({ length: 32 }, async () => {
      while (!isOver) {
        const claim = claimOf(randomBytes(8).toString("hex"));
        try {
          const token = await acquire(store, claim);
          acknowledged.claims.push(claim);
          await store.settle(completion(token));
          acknowledged.results.push(claim);
        } catch {
          return;
        }
      }
    });
    await expect.poll(() => acknowledged.results.length, { timeout: 20_000 }).toBeGreaterThan(500);
    await kill();
    isOver = true;
    await Promise.all(callers);
    return acknowledged;
  }

  async function lostOf(
    store: Store,
    claims: readonly Claim[],
    isKept: (state?: string) => boolean,
  ) {
    const records = await Promise.all(claims.map(({ id }) => store.read(id)));
    return records.filter((record) => !isKept(record?.state)).length;
  }

  it("SM-21: keeps what was acknowledged through kill -9 with an append-only file synced always", async () => {
    const server = await start("--appendonly", "yes", "--appendfsync", "always");
    const client = await ready(open(server));
    const store = redisStore(client);
    const { claims, results } = await drive(store, () => server.kill());
    await server.start();
    await ready(client);
    expect(await lostOf(store, claims, (state) => state !== undefined)).toBe(0);
    expect(await lostOf(store, results, (state) => state === "completed")).toBe(0);
  });

  it("forgets everything with a server that keeps nothing on disk, and says so", async () => {
    const warned: string[] = [];
    const listener = (warning: Error & { code?: string }) => warned.push(warning.code ?? "");
    process.on("warning", listener);
    const server = await start();
    const client = await ready(open(server));
    const store = redisStore(client);
    await complete(store, claimOf("k"));
    await server.kill();
    await server.start();
    await ready(client);
    expect(await store.begin(claimOf("k"))).toMatchObject({ kind: "acquired", attempt: 1 });
    process.off("warning", listener);
    expect(warned).toContain("SEMEL_REDIS_NOT_DURABLE");
  });

  it("SM-18: the owner's nonce protects where a failover forgot the record", async () => {
    const server = await start();
    const client = await ready(open(server));
    const store = redisStore(client);
    const zombie = await acquire(store, claimOf("k"));
    await client.flushall();
    const successor = await acquire(store, claimOf("k"));
    expect(successor.attempt).toBe(zombie.attempt);
    expect(await store.settle(completion(zombie))).toEqual({ kind: "stale" });
    expect(await store.settle(completion(successor))).toEqual({ kind: "settled" });
  });

  it("ST-11a: with `wait`, a failover forgets nothing that was acknowledged", async () => {
    const primary = await start();
    const replica = await startReplica(primary);
    const wait = { replicas: 1, timeout: "1s" } as const;
    const store = redisStore(await ready(open(primary)), { wait });
    const { claims, results } = await drive(store, () => primary.kill());
    const promoted = await ready(open(replica));
    await promoted.replicaof("NO", "ONE");
    const successor = redisStore(promoted);
    expect(await lostOf(successor, claims, (state) => state !== undefined)).toBe(0);
    expect(await lostOf(successor, results, (state) => state === "completed")).toBe(0);
  });

  it("`wait`: what no replica confirmed has an unknown outcome, and the same owner asks again", async () => {
    const primary = await start();
    const replica = await startReplica(primary);
    const client = await ready(open(primary));
    const store = redisStore(client, { wait: { replicas: 1, timeout: "50ms" } });
    const patient = redisStore(client, { wait: { replicas: 1, timeout: "20s" } });
    await complete(patient, claimOf("done"));
    const running = await acquire(patient, claimOf("running"));
    await replica.signal("SIGSTOP");
    const claim = claimOf("k");
    const unknown = { code: "store-unavailable", message: expect.stringMatching(/replicas/) };
    await expect(store.begin(claim)).rejects.toMatchObject(unknown);
    await expect(
      store.void({ id: claimOf("v").id, scope: "tenant", key: "v", retentionMs: DAY_MS }),
    ).rejects.toMatchObject(unknown);
    // What they wrote is still on the primary alone, so that to ask again confirms nothing either.
    await expect(
      store.void({ id: claimOf("v").id, scope: "tenant", key: "v", retentionMs: DAY_MS }),
    ).rejects.toMatchObject(unknown);
    await expect(store.settle(completion(running))).rejects.toMatchObject(unknown);
    await expect(store.settle(completion(running))).rejects.toMatchObject(unknown);
    // Nothing is written for a replay, so that there is nothing to be confirmed.
    expect(await store.begin(claimOf("done"))).toMatchObject({ kind: "done" });
    await replica.signal("SIGCONT");
    const caughtUp = async () => Number(await connectionOf(client).send("", ["wait", "1", "1000"]));
    await expect.poll(caughtUp, { timeout: 20_000 }).toBe(1);
    expect(await patient.begin(claim)).toEqual({ kind: "acquired", attempt: 1, probe: false });
  });
});
