// What publishers have in common, and what each refuses.

import { randomBytes } from "node:crypto";
import { jetstream } from "@nats-io/jetstream";
import { connect as connectNats } from "@nats-io/transport-node";
import { connect as connectRabbit } from "amqplib";
import { Queue } from "bullmq";
import { Redis } from "ioredis";
import { connectAsync } from "mqtt";
import { afterAll, describe, expect, expectTypeOf, test } from "vitest";
import { publishBull } from "../../src/consumers/bullmq.ts";
import { publishKafka } from "../../src/consumers/kafka.ts";
import { publishMqtt } from "../../src/consumers/mqtt.ts";
import { publishJetStream } from "../../src/consumers/nats.ts";
import { publishRabbit } from "../../src/consumers/rabbitmq.ts";
import { publishStream } from "../../src/consumers/redis-streams.ts";
import { publishSqs } from "../../src/consumers/sqs.ts";
import type { Deliver } from "../../src/engine/effects/relay.ts";
import type { Effect } from "../../src/producers/effect.ts";
import { mosquittoSource } from "../servers/mosquitto.ts";
import { natsSource } from "../servers/nats.ts";
import { rabbitmqSource } from "../servers/rabbitmq.ts";
import { redisSource } from "../servers/redis.ts";
import { findServer } from "../servers/server.ts";
import { startSqs } from "../servers/sqs.ts";

const effectOf = (id: string, payload: unknown = { sku: "lamp" }): Effect => {
  return { id, name: "order-placed", payload, scope: "shop", key: "order-1" };
};
const name = () => `semel-${randomBytes(6).toString("hex")}`;
const [rabbit, mqtt, redis, nats] = await Promise.all([
  findServer(rabbitmqSource),
  findServer(mosquittoSource),
  findServer(redisSource),
  findServer(natsSource),
]);
const sqs = await startSqs();
afterAll(async () => {
  for (const server of [rabbit, mqtt, redis, nats]) if ("url" in server) await server.close();
  await sqs.close();
});
const urlOf = (server: typeof rabbit) => ("url" in server ? server.url : "");
const reasonOf = (server: typeof rabbit) =>
  "reason" in server ? ` (skipped: ${server.reason})` : "";

test("every publisher fits the relay", () => {
  for (const publish of [
    publishBull,
    publishKafka,
    publishMqtt,
    publishJetStream,
    publishRabbit,
    publishStream,
    publishSqs,
  ]) {
    expectTypeOf<ReturnType<typeof publish>>().toExtend<Deliver>();
  }
});

describe.skipIf("reason" in rabbit)(`RabbitMQ${reasonOf(rabbit)}`, () => {
  test("MSG-2: a message that no queue takes is an error, unless that is wanted", async () => {
    const connection = await connectRabbit(urlOf(rabbit));
    const channel = await connection.createConfirmChannel();
    const nowhere = name();
    await expect(publishRabbit(channel, nowhere)(effectOf("e-1"))).rejects.toThrow(
      "No queue takes",
    );
    await publishRabbit(channel, nowhere, { mandatory: false })(effectOf("e-1"));
    const { queue } = await channel.assertQueue(name(), { exclusive: true });
    await publishRabbit(channel, queue)(effectOf("e-1"));
    const message = await channel.get(queue, { noAck: true });
    expect(message).toMatchObject({
      properties: { messageId: "e-1", type: "order-placed", deliveryMode: 2 },
    });
    expect(message ? message.content.toString() : "").toBe('{"sku":"lamp"}');
    await connection.close();
    await expect(publishRabbit(channel, queue)(effectOf("e-2"))).rejects.toThrow(/closed/i);
  });

  test("a channel without confirmations is refused", async () => {
    const connection = await connectRabbit(urlOf(rabbit));
    const channel = await connection.createChannel();
    expect(() => publishRabbit(channel as never, "orders")).toThrow("`channel` must have");
    await connection.close();
  });
});

describe.skipIf("reason" in mqtt)(`MQTT${reasonOf(mqtt)}`, () => {
  test("a client of MQTT 3.1.1, which cannot carry ids, is refused", async () => {
    const client = await connectAsync(urlOf(mqtt), { protocolVersion: 4 });
    expect(() => publishMqtt(client, "orders")).toThrow("must speak MQTT 5");
    await client.endAsync();
  });
});

describe.skipIf("reason" in nats)(`NATS${reasonOf(nats)}`, () => {
  test("a subject that no stream has is an error", async () => {
    const connection = await connectNats({ servers: urlOf(nats) });
    const publish = publishJetStream(jetstream(connection), name());
    await expect(publish(effectOf("e-1"))).rejects.toThrow();
    await connection.close();
  });
});

describe.skipIf("reason" in redis)(`Redis${reasonOf(redis)}`, () => {
  test("MSG-2: a queue of BullMQ has an effect once, whatever its id looks like", async () => {
    const { hostname, port } = new URL(urlOf(redis));
    const queue = new Queue(name(), { connection: { host: hostname, port: Number(port || 6379) } });
    const publish = publishBull(queue);
    for (const id of ["plain", "plain", "a:b", "a:b", "42", "42"]) await publish(effectOf(id));
    expect(await queue.getWaitingCount()).toBe(3);
    await queue.obliterate({ force: true });
    await queue.close();
  });

  test("a stream is trimmed when it is told to be, and an effect without a payload is null", async () => {
    const client = new Redis(urlOf(redis));
    const stream = name();
    await publishStream(client, () => stream, { lengthMax: 1_000 })({
      ...effectOf("e-1"),
      payload: undefined,
    });
    const [[, fields]] = (await client.xrange(stream, "-", "+")) as [[string, string[]]];
    expect(fields).toEqual(["idempotency-key", "e-1", "name", "order-placed", "payload", "null"]);
    await client.unlink(stream);
    client.disconnect();
  });
});

test("MSG-2: what SQS refuses of a batch fails by itself, and FIFO queues get their ids", async () => {
  const { client } = sqs;
  const { QueueUrl } = await client.createQueue({
    QueueName: `${name()}.fifo`,
    Attributes: { FifoQueue: "true" },
  });
  const publish = publishSqs(client, QueueUrl!);
  await Promise.all([publish(effectOf("e-1")), publish(effectOf("e-2")), publish(effectOf("e-1"))]);
  const { Messages } = await client.receiveMessage({
    QueueUrl,
    MessageAttributeNames: ["All"],
    MessageSystemAttributeNames: ["All"],
  });
  expect(Messages?.[0]).toMatchObject({
    Attributes: { MessageDeduplicationId: "e-1" },
    MessageAttributes: { "idempotency-key": { StringValue: "e-1" } },
  });
  const { Attributes } = await client.getQueueAttributes({ QueueUrl, AttributeNames: ["All"] });
  const { ApproximateNumberOfMessages: visible, ApproximateNumberOfMessagesNotVisible: taken } =
    Attributes!;
  expect(Number(visible) + Number(taken)).toBe(2);

  const half: Parameters<typeof publishSqs>[0] = {
    async sendMessageBatch({ Entries }) {
      const Failed = Entries.slice(1).map(({ Id }) => ({ Id, Code: "InternalError" }));
      return { Failed };
    },
  };
  const refused = publishSqs(half, "https://queues/orders");
  const outcomes = await Promise.allSettled(["e-1", "e-2"].map((id) => refused(effectOf(id))));
  expect(outcomes.map(({ status }) => status)).toEqual(["fulfilled", "rejected"]);
});

test("an effect that another relay has is not published, and wrong options are refused", async () => {
  const taken = { ...effectOf("e-1"), signal: AbortSignal.abort(new Error("taken over")) };
  const publish = publishSqs(sqs.client, "https://queues/orders");
  await expect(publish(taken)).rejects.toThrow("taken over");
  expect(() => publishSqs(sqs.client, "q", { enocde: 1 } as never)).toThrow(
    "did you mean `encode`",
  );
  expect(() => publishKafka({} as never, "orders")).toThrow("`producer` must have the methods");
});
