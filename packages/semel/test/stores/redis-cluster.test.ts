import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { redisStore } from "../../src/stores/redis.ts";
import { type PrivateCluster, redisBinariesMissing, startRedisCluster } from "../servers/redis.ts";
import { conformance, titled } from "./redis-conformance.ts";
import {
  acquire,
  claimOf,
  ioredisClusterKind,
  ioredisKind,
  newPrefix,
  nodeRedisClusterKind,
  nodeRedisKind,
} from "./redis-fixture.ts";

const missing = await redisBinariesMissing();

describe.skipIf(missing)(titled("redisStore on a Cluster", missing), () => {
  let cluster: PrivateCluster;
  const ports = () => cluster.ports;

  beforeAll(async () => {
    cluster = (await startRedisCluster())!;
  });

  afterAll(async () => {
    await cluster?.close();
  });

  describe("by the cluster client of ioredis", () => conformance(ioredisClusterKind, ports));
  describe("by the cluster client of redis", () => conformance(nodeRedisClusterKind, ports));

  it.each([ioredisClusterKind, nodeRedisClusterKind])(
    "spreads records over all nodes by $name",
    async (kind) => {
      const { client, close } = await kind.open(ports());
      const prefix = newPrefix();
      const store = redisStore(client, { prefix });
      const claims = Array.from({ length: 300 }, (_, n) => claimOf(`k${n}`));
      await Promise.all(claims.map((claim) => acquire(store, claim)));
      expect((await store.list({ limit: 1_000 })).records).toHaveLength(300);
      for (const port of ports()) {
        const node = await ioredisKind.open([port]);
        const found = (await (node.client as never as { keys(p: string): Promise<string[]> }).keys(
          `${prefix}*`,
        )) as string[];
        const records = found.filter((key) => !key.endsWith("index"));
        expect(records.length).toBeGreaterThan(60);
        await node.close();
      }
      await close();
    },
  );

  it.each([ioredisKind, nodeRedisKind])(
    "asks for a cluster client when it is given $name",
    async (kind) => {
      const { client, close } = await kind.open(ports());
      await expect(redisStore(client).begin(claimOf("k"))).rejects.toMatchObject({
        code: "store-unusable",
        message: expect.stringMatching(/cluster client/),
      });
      await close();
    },
  );

  it("refuses `wait`, for which it cannot ask", async () => {
    const { client, close } = await ioredisClusterKind.open(ports());
    const wait = { replicas: 1, timeout: "1s" } as const;
    expect(() => redisStore(client, { wait })).toThrow(/min-replicas-to-write/);
    await close();
  });
});
