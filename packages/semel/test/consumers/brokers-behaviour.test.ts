// What only some brokers have: order in groups, ids of their own, clients that must not be connected, settings that lose messages.

import { randomBytes } from "node:crypto";
import { AckPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect as connectNats } from "@nats-io/transport-node";
import { Queue, Worker } from "bullmq";
import { Redis } from "ioredis";
import { connectAsync } from "mqtt";
import { afterAll, describe, expect, test } from "vitest";
import { bullProcessor } from "../../src/consumers/bullmq.ts";
import { eachBatch, eachMessage, type KafkaRecord } from "../../src/consumers/kafka.ts";
import { consumeMqtt } from "../../src/consumers/mqtt.ts";
import { consumeJetStream } from "../../src/consumers/nats.ts";
import { consumeStream } from "../../src/consumers/redis-streams.ts";
import { consumeSqs, sqsHandler } from "../../src/consumers/sqs.ts";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { createInbox, type InboxOptions } from "../../src/engine/inbox/inbox.ts";
import { InvalidOption } from "../../src/errors.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { startSqs } from "../servers/sqs.ts";
import { bullmqHarness, closeRedis, connection } from "./bullmq-harness.ts";
import { closeMosquitto, mqttHarness, url as mqttUrl } from "./mqtt-harness.ts";
import { natsHarness, url as natsUrl } from "./nats-harness.ts";
import { until } from "./suite.ts";

const sqs = await startSqs();
afterAll(async () => {
  await sqs.close();
  await closeRedis();
  await closeMosquitto();
});

const name = () => `semel-${randomBytes(6).toString("hex")}`;
const inboxOf = (options: InboxOptions = {}) =>
  createInbox(new Idempotency({ store: memoryStore() }), "behaviour", {
    retryDelayMax: 20,
    ...options,
  });

describe("SQS in Lambda", () => {
  const record = (messageId: string, group?: string, queue = "orders.fifo") => ({
    messageId,
    body: messageId,
    eventSourceARN: `arn:aws:sqs:eu-central-1:1:${queue}`,
    attributes: group === undefined ? {} : { MessageGroupId: group },
    messageAttributes: {},
  });
  const failing = (bad: string, handled: string[]) =>
    sqsHandler(inboxOf(), {
      async handler({ body }: ReturnType<typeof record>) {
        handled.push(body);
        await new Promise(setImmediate);
        if (body === bad) throw new Error("cannot");
      },
    });

  test("MSG-2: in a FIFO queue a group stops at what failed, and other groups go on", async () => {
    const handled: string[] = [];
    const records = [
      ["a1", "a"],
      ["b1", "b"],
      ["a2", "a"],
      ["a3", "a"],
      ["b2", "b"],
    ];
    const { batchItemFailures } = await failing(
      "a2",
      handled,
    )({
      Records: records.map(([id, group]) => record(id!, group)),
    });
    expect(batchItemFailures).toEqual([{ itemIdentifier: "a2" }, { itemIdentifier: "a3" }]);
    expect(handled.toSorted()).toEqual(["a1", "a2", "b1", "b2"]);
    expect(handled.indexOf("a1")).toBeLessThan(handled.indexOf("a2"));
  });

  test("MSG-2: in a standard queue groups are for fairness, and only what failed comes again", async () => {
    const handled: string[] = [];
    const handler = failing("a1", handled);
    const Records = [record("a1", "a", "orders"), record("a2", "a", "orders"), record("c")];
    const failures = { batchItemFailures: [{ itemIdentifier: "a1" }] };
    expect(await handler({ Records })).toEqual(failures);
    expect(await handler({ Records })).toEqual(failures);
    expect(handled.toSorted()).toEqual(["a1", "a1", "a2", "c"]);
  });

  test("MSG-2: a dead letter that is kept is done with, and one that cannot be kept is not", async () => {
    const kept: string[] = [];
    const handler = sqsHandler(inboxOf({ attemptsMax: 1 }), {
      handler: () => {
        throw new Error("cannot");
      },
      deadLetter({ body }: ReturnType<typeof record>, reason) {
        if (body === "full") throw new Error("no room");
        kept.push(`${body} ${reason}`);
      },
    });
    const { batchItemFailures } = await handler({ Records: [record("bad"), record("full")] });
    expect(batchItemFailures).toEqual([{ itemIdentifier: "full" }]);
    expect(kept).toEqual(["bad poison: cannot"]);
  });
});

test("MSG-2: of a FIFO queue of SQS, the poller keeps the order of a group through a failure", async () => {
  const { client } = sqs;
  const { QueueUrl } = await client.createQueue({
    QueueName: `${name()}.fifo`,
    Attributes: { FifoQueue: "true" },
  });
  const send = (body: string, group: string) =>
    client.sendMessage({
      QueueUrl,
      MessageBody: body,
      MessageGroupId: group,
      MessageDeduplicationId: body,
    });
  for (const body of ["a1", "a2", "a3"]) await send(body, "a");
  await send("b1", "b");
  const done: string[] = [];
  let failures = 0;
  const consumption = consumeSqs(inboxOf(), client, QueueUrl!, {
    visibilityTimeout: "2s",
    waitTime: "1s",
    handler({ Body }) {
      if (Body === "a1" && failures++ === 0) throw new Error("once");
      done.push(Body!);
    },
  });
  await until(() => done.length === 4);
  await consumption.close();
  expect(done.filter((body) => body.startsWith("a"))).toEqual(["a1", "a2", "a3"]);
});

test("options of SQS that are wrong are refused by name", () => {
  const consume = (options: object) => () =>
    consumeSqs(inboxOf(), sqs.client, "https://queues/q", { handler() {}, ...options });
  expect(consume({ visibilityTimeout: "500ms" })).toThrow(
    "`visibilityTimeout` must be a whole number",
  );
  expect(consume({ waitTime: "30s" })).toThrow("`waitTime` must be a whole number from 1 to 20");
  expect(() => consumeSqs(inboxOf(), {} as never, "q", { handler() {} })).toThrow("`client` must");
});

describe("ids that are bytes", () => {
  /** Numbers as eight bytes: from 128 on these are no UTF-8. */
  const binaryIds = [127n, 128n, 129n, 130n].map((number) => {
    const id = Buffer.alloc(8);
    id.writeBigUInt64BE(number);
    return id;
  });
  const textOf = (id: Buffer) => Buffer.from(`bytes:${id.toString("hex")}`);
  const replaced = Buffer.from("\ufffd");
  const ids = [...binaryIds, textOf(binaryIds[1]!), replaced, Buffer.from("order-ü")];

  const delivered = (id: Buffer, offset: number) => ({
    topic: "orders",
    partition: 0,
    message: {
      offset: String(offset),
      key: id,
      value: Buffer.from("+1"),
      headers: { "idempotency-key": id },
    },
    heartbeat: async () => {},
  });

  test("MSG-1: on Kafka, ids that are no text are told apart, and known again", async () => {
    const kinds: string[] = [];
    const handle = eachMessage(inboxOf(), {
      handler() {},
      onDelivery: ({ delivery }) => kinds.push(delivery.kind),
    });
    for (const [at, id] of ids.entries()) await handle(delivered(id, at));
    for (const [at, id] of ids.entries()) await handle(delivered(id, at + 100));
    expect(kinds).toEqual([...ids.map(() => "processed"), ...ids.map(() => "duplicate")]);
  });

  test("MSG-1: an id that was text before is the same: what was handled is not handled again", async () => {
    const inbox = inboxOf();
    await inbox.process({ id: "order-ü", payload: Buffer.from("+1") }, () => {});
    const handle = eachMessage(inbox, {
      handler() {
        throw new Error("again");
      },
    });
    await handle(delivered(Buffer.from("order-ü"), 1));
    expect(inbox.counts).toMatchObject({ duplicate: 1, failed: 0 });
  });

  test.each([
    ["bytes that were made text", (key: Buffer | null) => String(key)],
    ["half a character", () => "\ud800"],
  ])("MSG-1: an id of %s is another message's as well: a dead letter", async (_, named) => {
    const reasons: string[] = [];
    const handle = eachMessage(inboxOf(), {
      handler() {},
      id: ({ message }) => named(message.key),
      deadLetter: (_, reason) => reasons.push(reason),
    });
    for (const id of binaryIds.slice(1)) await handle(delivered(id, 1));
    const reason = expect.stringMatching(/^unidentified: The message's id was bytes.*U\+FFFD/);
    expect(reasons).toEqual([reason, reason, reason]);
  });

  test.skipIf(bullmqHarness.missing !== undefined)(
    "MSG-1: in Redis Streams, ids that are no text are told apart, and known again",
    async () => {
      const client = new Redis(connection);
      const [blocking, stream] = [client.duplicate(), name()];
      for (const id of [...ids, ...ids]) await client.xadd(stream, "*", "idempotency-key", id);
      const kinds: string[] = [];
      const source = { client, blocking, stream, group: "billing" };
      const consumption = consumeStream(inboxOf({ concurrency: 1 }), source, {
        handler() {},
        onDelivery: ({ delivery }) => kinds.push(delivery.kind),
      });
      await until(() => kinds.length === 2 * ids.length);
      await consumption.close();
      await client.del(stream);
      client.disconnect();
      blocking.disconnect();
      expect(kinds).toEqual([...ids.map(() => "processed"), ...ids.map(() => "duplicate")]);
    },
  );
});

describe("Kafka in batches", () => {
  const batchOf = (offsets: readonly number[], isStale = () => false) => {
    const resolved: string[] = [];
    const messages = offsets.map((offset) => ({
      offset: String(offset),
      key: null,
      value: Buffer.from(String(offset)),
    }));
    return {
      resolved,
      batch: { topic: "orders", partition: 0, messages },
      resolveOffset: (offset: string) => void resolved.push(offset),
      heartbeat: async () => {},
      commitOffsetsIfNecessary: async () => {},
      isRunning: () => true,
      isStale,
    };
  };
  const valuesOf = (records: readonly KafkaRecord[]) =>
    records.map(({ message }) => String(message.value));

  test("MSG-2: `size` messages are handled together, and their offset is passed before the next", async () => {
    const batches: string[][] = [];
    const handle = eachBatch(inboxOf(), {
      size: 2,
      batch: (records) => void batches.push(valuesOf(records)),
    });
    const given = batchOf([1, 2, 3, 4, 5]);
    await handle(given);
    expect(batches).toEqual([["1", "2"], ["3", "4"], ["5"]]);
    expect(given.resolved).toEqual(["2", "4", "5"]);
  });

  test("MSG-2: `size` may be more than what is handled at once, and batches do not wait for each other", async () => {
    const batches: string[][] = [];
    let letGo = () => {};
    const gone = new Promise<void>((resolve) => {
      letGo = resolve;
    });
    const handle = eachBatch(inboxOf({ concurrency: 2 }), {
      async batch(records) {
        batches.push(valuesOf(records));
        if (batches.length === 1) await gone;
      },
    });
    const [first, second] = [batchOf([1, 2, 3, 4, 5]), batchOf([11, 12, 13])];
    const slow = handle(first);
    await until(() => batches.length === 1);
    await handle(second);
    expect([first.resolved, second.resolved]).toEqual([[], ["13"]]);
    letGo();
    await slow;
    expect(first.resolved).toEqual(["5"]);
    expect(batches).toEqual([
      ["1", "2", "3", "4", "5"],
      ["11", "12", "13"],
    ]);
  });

  test.each(["taken back", "stopped"])(
    "MSG-2: a batch that is %s while a message fails passes no offset of it",
    async (how) => {
      const stop = new AbortController();
      let tries = 0;
      const handle = eachBatch(inboxOf({ attemptsMax: 1_000 }), {
        size: 2,
        signal: stop.signal,
        batch(records) {
          if (!valuesOf(records).includes("3")) return;
          if (++tries === 3 && how === "stopped") stop.abort();
          throw new Error("cannot");
        },
      });
      const given = batchOf([1, 2, 3, 4], () => how === "taken back" && tries >= 3);
      await expect(handle(given)).rejects.toThrow("it will be delivered again");
      expect(given.resolved).toEqual(["2"]);
    },
  );

  test("options that are wrong are refused when it is made", () => {
    const make = (options: object) => () => eachBatch(inboxOf(), options as never);
    expect(make({ handler() {} })).toThrow("has no option `handler`");
    expect(make({})).toThrow("takes one function of batch, transactionBatch; got none");
    expect(make({ batch() {}, size: 0 })).toThrow("`size` must be a whole number");
    expect(make({ batch() {}, signal: {} })).toThrow("`signal` must have the methods");
  });
});

describe.skipIf(bullmqHarness.missing !== undefined)("BullMQ", () => {
  test("MSG-2: a job whose id is no text fails for good, and one without is named by `withoutId`", async () => {
    const queue = new Queue(name(), { connection });
    const kinds: string[] = [];
    const inbox = inboxOf({ withoutId: "hash" });
    const worker = new Worker(
      queue.name,
      bullProcessor(inbox, {
        handler() {},
        id: (job) => (job.data as { id: string }).id,
        onDelivery: ({ delivery }) => kinds.push(delivery.kind),
      }),
      { connection },
    );
    for (const id of [7, { $gt: "" }, ["a"], null, undefined, ""]) await queue.add("order", { id });
    await until(() => kinds.length === 6);
    await worker.close();
    const [failed] = await queue.getFailed();
    expect(failed!.failedReason).toMatch(/^unidentified: A message's id must be a string/);
    // Three bodies that are not the same: null, nothing, and an empty text.
    expect(kinds.toSorted()).toEqual([
      "processed",
      "processed",
      "processed",
      "unidentified",
      "unidentified",
      "unidentified",
    ]);
    expect(inbox.counts).toMatchObject({ unidentified: 3, failed: 0 });
    await queue.obliterate({ force: true });
    await queue.close();
  });

  test("MSG-2: a job with an id of its own is known after its queue has forgotten it; counted jobs are not mixed up", async () => {
    const queue = new Queue(name(), { connection });
    const handled: unknown[] = [];
    const kinds: string[] = [];
    const inbox = inboxOf();
    const work = () =>
      new Worker(
        queue.name,
        bullProcessor(inbox, {
          handler: (job) => handled.push(job.data),
          onDelivery: ({ delivery }) => kinds.push(delivery.kind),
        }),
        { connection, removeOnComplete: { count: 0 } },
      );
    const first = work();
    await queue.add("order", "own", { jobId: "order-1" });
    await queue.add("order", "counted");
    await until(() => kinds.length === 2);
    await first.close();
    // The queue counts its jobs from 1 again.
    await queue.obliterate({ force: true });
    const second = work();
    await queue.add("order", "own", { jobId: "order-1" });
    await queue.add("order", "counted anew");
    await until(() => kinds.length === 4);
    await second.close();
    expect(kinds.toSorted()).toEqual(["duplicate", "processed", "processed", "processed"]);
    expect(handled.toSorted()).toEqual(["counted", "counted anew", "own"]);
    await queue.obliterate({ force: true });
    await queue.close();
  });
});

describe.skipIf(mqttHarness(1).missing !== undefined)("MQTT", () => {
  test("a client that is connected may have lost messages, and is refused", async () => {
    const client = await connectAsync(mqttUrl, { protocolVersion: 5 });
    const options = { handler() {}, deadLetter() {} };
    expect(() => consumeMqtt(inboxOf(), client, "orders", options)).toThrow(
      "call consumeMqtt() right",
    );
    await client.endAsync();
  });

  test("MSG-2: a message without an id is a dead letter, unless `withoutId` or `id` names it", async () => {
    const { connect } = await import("mqtt");
    const topic = name();
    const settings = { protocolVersion: 5, clientId: topic } as const;
    const properties = { sessionExpiryInterval: 600 };
    const client = connect(mqttUrl, { ...settings, clean: false, properties });
    const kinds: string[] = [];
    const letters: string[] = [];
    const consumption = consumeMqtt(inboxOf(), client, topic, {
      handler() {},
      id: ({ payload }) => (String(payload) === "named" ? "from-the-body" : undefined),
      deadLetter: ({ payload }, reason) => letters.push(`${payload} ${reason}`),
      onDelivery: ({ delivery }) => kinds.push(delivery.kind),
    });
    const publisher = await connectAsync(mqttUrl, { protocolVersion: 5 });
    // Retained, so that the subscription need not be there yet.
    await publisher.publishAsync(topic, "named", { qos: 1, retain: true });
    await until(() => kinds.length === 1);
    await publisher.publishAsync(topic, "unnamed", { qos: 1 });
    await publisher.publishAsync(topic, "unnamed", { qos: 0 });
    await until(() => kinds.length === 3);
    expect(kinds).toEqual(["processed", "unidentified", "unidentified"]);
    expect(letters[0]).toMatch(/^unnamed unidentified: The message has no id/);
    await publisher.publishAsync(topic, "", { qos: 1, retain: true });
    await consumption.close();
    await Promise.all([publisher.endAsync(), client.endAsync(true)]);
    await (await connectAsync(mqttUrl, { ...settings, clean: true })).endAsync();
  });

  test.each([
    ["is anew at every connection", { protocolVersion: 5 }, "`clean: false`"],
    ["is anew at every connection of MQTT 3.1.1", { protocolVersion: 4 }, "`clean: false`"],
    ["ends with its connection", { protocolVersion: 5, clean: false }, "`properties: { sessionEx"],
    [
      "ends with its connection, by 0",
      { protocolVersion: 5, clean: false, properties: { sessionExpiryInterval: 0 } },
      "`properties: { sessionEx",
    ],
  ] as const)("MSG-2: a client whose session %s is refused", async (_, settings, remedy) => {
    const { connect } = await import("mqtt");
    const client = connect(mqttUrl, { clientId: name(), ...settings });
    const consume = () =>
      consumeMqtt(inboxOf(), client, "orders", { handler() {}, deadLetter() {} });
    expect(consume).toThrow(InvalidOption);
    expect(consume).toThrow(remedy);
    await client.endAsync(true);
  });

  test("MSG-2: in MQTT 3.1.1 a session that is not clean has no end, and is taken", async () => {
    const { connect } = await import("mqtt");
    const settings = { protocolVersion: 4, clientId: name() } as const;
    const client = connect(mqttUrl, { ...settings, clean: false });
    const consumption = consumeMqtt(inboxOf(), client, name(), { handler() {}, deadLetter() {} });
    await consumption.close();
    await client.endAsync(true);
    await (await connectAsync(mqttUrl, { ...settings, clean: true })).endAsync();
  });
});

describe.skipIf(natsHarness.missing !== undefined)("JetStream", () => {
  test.each([AckPolicy.None, AckPolicy.All])(
    "MSG-2: a consumer of ack_policy %j loses what is not acknowledged, and is refused",
    async (ack_policy) => {
      const nats = await connectNats({ servers: natsUrl });
      const [js, manager, stream] = [jetstream(nats), await jetstreamManager(nats), name()];
      await manager.streams.add({ name: stream, subjects: [stream] });
      await manager.consumers.add(stream, { durable_name: "billing", ack_policy });
      await js.publish(stream, "one");
      const handled: string[] = [];
      const consumption = consumeJetStream(inboxOf(), await js.consumers.get(stream, "billing"), {
        handler: (message) => void handled.push(message.string()),
      });
      const refusal = await consumption.closed.catch((error: unknown) => error);
      expect(refusal).toBeInstanceOf(InvalidOption);
      expect(String(refusal)).toContain('`ack_policy: "explicit"`');
      expect(handled).toEqual([]);
      await manager.streams.delete(stream);
      await nats.close();
    },
  );
});
