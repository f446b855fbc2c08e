import { randomBytes } from "node:crypto";
import { connect } from "amqplib";
import { afterAll } from "vitest";
import { rabbitmqSource } from "../servers/rabbitmq.ts";
import { findServer } from "../servers/server.ts";
import { type ExactlyOnce, exactlyOnce } from "./exactly-once.ts";

const found = await findServer(rabbitmqSource);
afterAll(() => ("url" in found ? found.close() : undefined));

const onRabbit: ExactlyOnce = {
  broker: "rabbitmq",
  missing: "reason" in found ? found.reason : undefined,
  async open() {
    const url = "url" in found ? found.url : "";
    const connection = await connect(url);
    const channel = await connection.createChannel();
    const queue = `semel-${randomBytes(6).toString("hex")}`;
    await channel.assertQueue(queue);
    return {
      address: { url, queue },
      async close() {
        await channel.deleteQueue(queue);
        await connection.close();
      },
    };
  },
};

exactlyOnce(onRabbit);
// The relay itself, as the outbox.
exactlyOnce({ ...onRabbit, isRelay: true, messages: 1_000 });
