import { afterAll, beforeAll, describe, it } from "vitest";
import { storeCases } from "../../src/testing/index.ts";
import { redisBinariesMissing, redisSource, startRedisCluster } from "../servers/redis.ts";
import { findServer } from "../servers/server.ts";
import {
  type ClientKind,
  harnessOf,
  ioredisClusterKind,
  ioredisKind,
  nodeRedisClusterKind,
  nodeRedisKind,
  type OpenClient,
} from "./redis-fixture.ts";

const server = await findServer(redisSource);
const serverMissing = "reason" in server ? server.reason : undefined;
const clusterMissing = await redisBinariesMissing();

function titled(title: string, missing: string | undefined): string {
  return missing === undefined ? title : `${title} (skipped: ${missing})`;
}

function conformance(kind: ClientKind, ports: () => readonly number[]): void {
  let clients: OpenClient[];

  beforeAll(async () => {
    clients = await Promise.all([kind.open(ports()), kind.open(ports())]);
  });

  afterAll(async () => {
    for (const { close } of clients) await close();
  });

  for (const storeCase of storeCases) {
    it(storeCase.name, async () => {
      const harness = harnessOf(clients[0]!.client, clients[1]!.client, {
        evictionPolicy: "warn",
      });
      try {
        await storeCase.run(harness);
      } finally {
        await harness.close?.();
      }
    });
  }
}

describe.skipIf(serverMissing)(titled("redisStore on a server", serverMissing), () => {
  const ports = () => ("url" in server ? [Number(new URL(server.url).port || 6379)] : []);

  afterAll(async () => {
    if ("url" in server) await server.close();
  });

  describe("by ioredis", () => conformance(ioredisKind, ports));
  describe("by redis", () => conformance(nodeRedisKind, ports));
});

describe.skipIf(clusterMissing)(titled("redisStore on a Cluster", clusterMissing), () => {
  let cluster: Awaited<ReturnType<typeof startRedisCluster>>;

  beforeAll(async () => {
    cluster = await startRedisCluster();
  });

  afterAll(async () => {
    await cluster?.close();
  });

  describe(`by ${ioredisClusterKind.name}`, () =>
    conformance(ioredisClusterKind, () => cluster!.ports));
  describe(`by ${nodeRedisClusterKind.name}`, () =>
    conformance(nodeRedisClusterKind, () => cluster!.ports));
});
