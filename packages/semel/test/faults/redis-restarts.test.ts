// Redis that is killed, or stalled, in a storm of operations. What a failover and a server without
// persistence lose is looked at in `stores/redis-failover.test.ts`.

import { once } from "node:events";
import { Redis } from "ioredis";
import { createClient } from "redis";
import { afterEach, describe, expect, it } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import type { Store } from "../../src/store.ts";
import { redisStore } from "../../src/stores/redis.ts";
import { redisBinariesMissing, startRedis } from "../servers/redis.ts";
import type { PrivateServer } from "../servers/server.ts";
import { leaseMode, Storm } from "./storm.ts";

const missing = await redisBinariesMissing();

interface Opened {
  store: Store;
  close(): void;
}

const clients = [
  {
    name: "ioredis",
    async open(port: number): Promise<Opened> {
      const client = new Redis({
        port,
        host: "127.0.0.1",
        enableOfflineQueue: false,
        commandTimeout: 1_000,
        socketTimeout: 1_000,
        retryStrategy: () => 20,
      }).on("error", () => {});
      await once(client, "ready");
      return { store: redisStore(client), close: () => client.disconnect() };
    },
  },
  {
    name: "redis",
    async open(port: number): Promise<Opened> {
      const client = createClient({
        disableOfflineQueue: true,
        socket: { port, host: "127.0.0.1", socketTimeout: 1_000, reconnectStrategy: () => 20 },
      }).on("error", () => {});
      await client.connect();
      return { store: redisStore(client), close: () => client.destroy() };
    },
  },
];

describe.skipIf(missing)(`Redis in a storm${missing ? ` (skipped: ${missing})` : ""}`, () => {
  const closings: (() => unknown)[] = [];

  afterEach(async () => {
    for (const close of closings.splice(0).toReversed()) await close();
  });

  async function start(...args: string[]): Promise<PrivateServer> {
    const server = (await startRedis(["--appendonly", "yes", ...args]))!;
    closings.push(() => server.close());
    return server;
  }

  async function open({ open: connect }: (typeof clients)[number], server: PrivateServer) {
    const { store, close } = await connect(server.port);
    closings.push(close);
    const common = { store, sweep: false, cache: false } as const;
    return {
      idempotency: new Idempotency({ ...common, storeTimeout: "1s", completionRetry: "60s" }),
      witness: new Idempotency(common),
    };
  }

  it.each(clients)(
    "SM-21: keeps what it acknowledged through kill -9 with a file that is always synced, has no second effect, and goes on, through $name",
    async (kind) => {
      const server = await start("--appendfsync", "always");
      const { idempotency, witness } = await open(kind, server);
      const storm = new Storm(idempotency, leaseMode());
      for (let kills = 0; kills < 3; kills++) {
        await storm.more(200);
        await server.kill();
        await server.start();
      }
      await storm.more(200);
      await storm.end();
      const answers = JSON.stringify(await storm.audit(witness));
      console.log(`redis (${kind.name}), always, 3 times kill -9: ${answers}`);
    },
    300_000,
  );

  it("with a file that is synced every second, forgets no more than the last two seconds through kill -9", async () => {
    const server = await start("--appendfsync", "everysec");
    const { idempotency, witness } = await open(clients[0]!, server);
    const storm = new Storm(idempotency, leaseMode());
    await storm.more(2_000);
    const killedAt = performance.now();
    await server.kill();
    await server.start();
    await storm.end();
    await expect
      .poll(() => witness.stats().catch(() => undefined), { timeout: 20_000 })
      .toBeDefined();
    const { acknowledged, acknowledgedAt } = storm;
    const states = await Promise.all(
      acknowledged.map(async (key) => (await witness.get({ key }))?.state),
    );
    const lost = states.flatMap((state, n) => (state === "completed" ? [] : [acknowledgedAt[n]!]));
    // Redis writes within a second, or two while the disk is slow (redis.conf, "appendfsync").
    expect(lost.filter((at) => killedAt - at > 2_000)).toEqual([]);
    console.log(
      `redis (ioredis), everysec, kill -9: ${lost.length} of ${acknowledged.length} acknowledged results lost`,
    );
  });

  it.each(clients)(
    "refuses newcomers within a bound while the server is stalled, and goes on when it is not, through $name",
    async (kind) => {
      const server = await start();
      const { idempotency, witness } = await open(kind, server);
      const storm = new Storm(idempotency, leaseMode());
      await storm.more(200);
      await server.signal("SIGSTOP");
      try {
        await storm.refusesNewcomers(idempotency);
      } finally {
        await server.signal("SIGCONT");
      }
      await storm.more(200);
      await storm.end();
      const answers = JSON.stringify(await storm.audit(witness));
      console.log(`redis (${kind.name}), a stall: ${answers}`);
    },
    300_000,
  );
});
