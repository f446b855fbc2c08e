import { randomBytes } from "node:crypto";
import { Queue } from "bullmq";
import { afterAll } from "vitest";
import { redisSource } from "../servers/redis.ts";
import { findServer } from "../servers/server.ts";
import { exactlyOnce } from "./exactly-once.ts";

const found = await findServer(redisSource);
afterAll(() => ("url" in found ? found.close() : undefined));

exactlyOnce({
  broker: "bullmq",
  missing: "reason" in found ? found.reason : undefined,
  async open() {
    const { hostname, port } = new URL("url" in found ? found.url : "");
    const connection = { host: hostname, port: Number(port || 6379) };
    const queue = `semel-${randomBytes(6).toString("hex")}`;
    const admin = new Queue(queue, { connection });
    return {
      address: { connection, queue },
      async close() {
        await admin.obliterate({ force: true });
        await admin.close();
      },
    };
  },
});
