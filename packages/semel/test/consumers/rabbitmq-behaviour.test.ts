// What only RabbitMQ does: messages without an id, dead letters kept by the program, ends of channels.

import { randomBytes } from "node:crypto";
import type { Channel, ChannelModel } from "amqplib";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { consumeRabbit } from "../../src/consumers/rabbitmq.ts";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { createInbox } from "../../src/engine/inbox/inbox.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { open, rabbitmqHarness } from "./rabbitmq-harness.ts";
import { until } from "./suite.ts";

const skipped = rabbitmqHarness.missing ? ` (skipped: ${rabbitmqHarness.missing})` : "";

describe.skipIf(rabbitmqHarness.missing !== undefined)(`RabbitMQ${skipped}`, () => {
  let connection: ChannelModel;
  let channel: Channel;
  let queue: string;
  const inbox = () =>
    createInbox(new Idempotency({ store: memoryStore() }), "rabbit", {
      retryDelayMax: 20,
      attemptsMax: 1,
    });

  beforeEach(async () => {
    connection = await open();
    channel = await connection.createChannel();
    ({ queue } = await channel.assertQueue(`semel-${randomBytes(6).toString("hex")}`));
  });

  afterEach(async () => {
    const last = await connection.createChannel();
    await last.deleteQueue(queue);
    await connection.close();
  });

  const publish = (body: string, messageId?: string) =>
    channel.sendToQueue(queue, Buffer.from(body), messageId === undefined ? {} : { messageId });

  test("MSG-2: a message without `message_id` is a dead letter, unless `id` names it", async () => {
    const kinds: string[] = [];
    const letters: string[] = [];
    const consumption = consumeRabbit(inbox(), channel, queue, {
      handler: () => {},
      id: ({ content, properties }) =>
        content.toString() === "named" ? "from-the-body" : properties.messageId,
      deadLetter: ({ content }, reason) => {
        letters.push(`${content} ${reason}`);
      },
      onDelivery: ({ delivery }) => kinds.push(delivery.kind),
    });
    publish("named");
    publish("unnamed");
    await until(() => kinds.length === 2);
    await consumption.close();
    expect(kinds.toSorted()).toEqual(["processed", "unidentified"]);
    expect(letters).toEqual([
      expect.stringMatching(/^unnamed unidentified: The message has no id/),
    ]);
    expect((await channel.checkQueue(queue)).messageCount).toBe(0);
  });

  test("MSG-2: a dead letter that could not be kept is delivered again, and not lost", async () => {
    const reports: unknown[] = [];
    const consumption = consumeRabbit(inbox(), channel, queue, {
      handler: () => {
        throw new Error("cannot");
      },
      deadLetter: () => Promise.reject(new Error("no room")),
      onDelivery: ({ unsettled }) => reports.push(unsettled),
    });
    publish("one", "m-1");
    // Which puts an end to the pause before it is given back.
    await until(async () => (await channel.checkQueue(queue)).messageCount === 0);
    const closed = consumption.close();
    await closed;
    expect(reports).toEqual([expect.objectContaining({ message: "no room" })]);
    await until(async () => (await channel.checkQueue(queue)).messageCount === 1);
  });

  test("MSG-2: what fails while consuming stops is given back once, and its attempts are not used up", async () => {
    const others = createInbox(new Idempotency({ store: memoryStore() }), "stopping");
    const attempts: number[] = [];
    const consumption = consumeRabbit(others, channel, queue, {
      handler: (_message, { attempt }) => {
        attempts.push(attempt);
        void consumption.close();
        throw new Error("cannot");
      },
    });
    publish("one", "m-1");
    await consumption.closed;
    expect(attempts).toEqual([1]);
    await until(async () => (await channel.checkQueue(queue)).messageCount === 1);
  });

  test("`closed` rejects when the queue is deleted or does not exist", async () => {
    const consumption = consumeRabbit(inbox(), channel, queue, { handler: () => {} });
    const ended = consumption.closed.catch((error: Error) => error.message);
    const other = await connection.createChannel();
    // Once it consumes, the queue knows.
    await until(async () => (await other.checkQueue(queue)).consumerCount === 1);
    await other.deleteQueue(queue);
    expect(await ended).toContain("cancelled the consumer");

    const missing = await connection.createChannel();
    const none = consumeRabbit(inbox(), missing, `${queue}-none`, { handler: () => {} });
    await expect(none.closed).rejects.toThrow("NOT_FOUND");
  });

  test("options that are wrong are refused by name", () => {
    const consume = (options: object) => () =>
      consumeRabbit(inbox(), channel, queue, options as never);
    expect(consume({ handle: () => {} })).toThrow("did you mean `handler`");
    expect(consume({})).toThrow("takes one function of handler, transaction");
    expect(consume({ handler: () => {}, transaction: () => {} })).toThrow(
      "got handler and transaction",
    );
    expect(() => consumeRabbit(inbox(), {} as never, queue, { handler: () => {} })).toThrow(
      "`channel` must have the methods",
    );
  });
});
