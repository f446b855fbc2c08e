import { randomBytes } from "node:crypto";
import { afterAll } from "vitest";
import { kafkaSource } from "../servers/kafka.ts";
import { findServer } from "../servers/server.ts";
import { exactlyOnce } from "./exactly-once.ts";

const found = await findServer(kafkaSource);
afterAll(() => ("url" in found ? found.close() : undefined));

exactlyOnce({
  broker: "kafka",
  missing: "reason" in found ? found.reason : undefined,
  async open() {
    const broker = "url" in found ? found.url.replace("kafka://", "") : "";
    const topic = `semel-${randomBytes(6).toString("hex")}`;
    return { address: { broker, topic }, async close() {} };
  },
});
