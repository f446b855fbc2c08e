import { once } from "node:events";
import { Redis } from "ioredis";
import { createClient } from "redis";
import { afterAll } from "vitest";
import { redisStore } from "../../src/stores/redis.ts";
import { PROXY_FAULTS } from "../../src/testing/fault-proxy.ts";
import { redisBinariesMissing, startRedis } from "../servers/redis.ts";
import { DURABLE, newPrefix } from "../stores/redis-fixture.ts";
import { describeFaults, type Subject } from "./enumeration.ts";

const server = await startRedis(DURABLE);
const reason = await redisBinariesMissing();
const missing = reason ? ` (skipped: ${reason})` : "";
const prefix = newPrefix();

afterAll(() => server?.close());

const common = {
  protocol: "redis",
  target: { host: "127.0.0.1", port: server?.port ?? 1 },
  // It connects by itself, before it is given to the store.
  phases: ["claim", "completion", "renewal"],
  kinds: PROXY_FAULTS,
} as const satisfies Partial<Subject>;

const ioredis: Subject = {
  ...common,
  name: "redis (ioredis)",
  async open(port, timeoutMs) {
    const client = new Redis({
      port,
      host: "127.0.0.1",
      enableOfflineQueue: false,
      commandTimeout: timeoutMs,
      socketTimeout: timeoutMs,
      retryStrategy: () => 20,
    }).on("error", () => {});
    await once(client, "ready");
    return { store: redisStore(client, { prefix }), close: async () => client.disconnect() };
  },
};

const nodeRedis: Subject = {
  ...common,
  name: "redis (redis)",
  async open(port, timeoutMs) {
    const client = createClient({
      disableOfflineQueue: true,
      socket: { port, host: "127.0.0.1", socketTimeout: timeoutMs, reconnectStrategy: () => 20 },
    }).on("error", () => {});
    await client.connect();
    return { store: redisStore(client, { prefix }), close: async () => client.destroy() };
  },
};

for (const subject of [ioredis, nodeRedis]) {
  describeFaults(subject, missing, async () => async () => {});
}
