import { randomBytes } from "node:crypto";
import { afterAll } from "vitest";
import { startSqs } from "../servers/sqs.ts";
import { exactlyOnce } from "./exactly-once.ts";

const { client, endpoint, close } = await startSqs();
afterAll(close);

exactlyOnce({
  broker: "sqs",
  missing: undefined,
  async open() {
    const name = `semel-${randomBytes(6).toString("hex")}`;
    const { QueueUrl } = await client.createQueue({ QueueName: name });
    return {
      address: { endpoint, queueUrl: QueueUrl },
      async close() {
        await client.deleteQueue({ QueueUrl });
      },
    };
  },
});
