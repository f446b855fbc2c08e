import { randomBytes } from "node:crypto";
import { Redis } from "ioredis";
import { afterAll } from "vitest";
import { redisSource } from "../servers/redis.ts";
import { findServer } from "../servers/server.ts";
import { exactlyOnce } from "./exactly-once.ts";

const found = await findServer(redisSource);
afterAll(() => ("url" in found ? found.close() : undefined));

exactlyOnce({
  broker: "redis",
  missing: "reason" in found ? found.reason : undefined,
  async open() {
    const url = "url" in found ? found.url : "";
    const stream = `semel:${randomBytes(6).toString("hex")}`;
    const redis = new Redis(url);
    return {
      address: { url, stream },
      async close() {
        await redis.unlink(stream);
        redis.disconnect();
      },
    };
  },
});
