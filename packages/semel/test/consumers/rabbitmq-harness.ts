// RabbitMQ for the consumer suite: a queue whose dead letters go to another one.

import { randomBytes } from "node:crypto";
import { type ConsumeMessage, connect } from "amqplib";
import { consumeRabbit } from "../../src/consumers/rabbitmq.ts";
import { rabbitmqSource } from "../servers/rabbitmq.ts";
import { findServer } from "../servers/server.ts";
import { type BrokerHarness, optionsOf } from "./suite.ts";

const found = await findServer(rabbitmqSource);
export const url = "url" in found ? found.url : "";

/** A connection whose loss is told by what uses it. */
export async function open() {
  const connection = await connect(url);
  connection.on("error", () => {});
  return connection;
}

export const rabbitmqHarness: BrokerHarness = {
  name: "rabbitmq",
  missing: "reason" in found ? found.reason : undefined,
  // Half an hour, by default.
  redeliverAfterMs: undefined,
  async open() {
    const connection = await open();
    const channel = await connection.createConfirmChannel();
    const queue = `semel-${randomBytes(6).toString("hex")}`;
    const dead = `${queue}-dead`;
    const letters: string[] = [];
    await channel.assertQueue(queue, { deadLetterExchange: "", deadLetterRoutingKey: dead });
    await channel.assertQueue(dead);
    return {
      address: { url, queue },
      async publish(id, body) {
        channel.sendToQueue(queue, Buffer.from(body), { messageId: id });
        await channel.waitForConfirms();
      },
      async consume(inbox, options) {
        const own = await open();
        const consumption = consumeRabbit(inbox, await own.createChannel(), queue, {
          ...optionsOf(options, ({ content }: ConsumeMessage) => content.toString()),
          ...(options.signal && { signal: options.signal }),
        });
        let isCut = false;
        return {
          consumption,
          async cut() {
            isCut = true;
            await own.close();
          },
          async close() {
            await consumption.close();
            if (!isCut) await own.close();
            isCut = true;
          },
        };
      },
      async deadLetters() {
        for (;;) {
          const letter = await channel.get(dead, { noAck: true });
          if (letter === false) return letters;
          letters.push(letter.content.toString());
        }
      },
      remaining: async () => (await channel.checkQueue(queue)).messageCount,
      async close() {
        await channel.deleteQueue(queue);
        await channel.deleteQueue(dead);
        await connection.close();
      },
    };
  },
};
