import { afterAll, describe } from "vitest";
import { redisSource } from "../servers/redis.ts";
import { findServer } from "../servers/server.ts";
import { conformance, titled } from "./redis-conformance.ts";
import { ioredisKind, nodeRedisKind } from "./redis-fixture.ts";

const server = await findServer(redisSource);
const missing = "reason" in server ? server.reason : undefined;

describe.skipIf(missing)(titled("redisStore on a server", missing), () => {
  const ports = () => ("url" in server ? [Number(new URL(server.url).port || 6379)] : []);

  afterAll(async () => {
    if ("url" in server) await server.close();
  });

  describe("by ioredis", () => conformance(ioredisKind, ports));
  describe("by redis", () => conformance(nodeRedisKind, ports));
});
