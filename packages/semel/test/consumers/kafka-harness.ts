// Kafka for the consumer suite: kcat's mock cluster, which speaks the protocol, with a group of kafkajs.

import { randomBytes } from "node:crypto";
import { connect, type Socket } from "node:net";
import {
  type ConsumerRunConfig,
  type ISocketFactory,
  Kafka,
  logLevel,
  type Producer,
} from "kafkajs";
import {
  type BatchHandler,
  eachBatch,
  eachMessage,
  type KafkaRecord,
} from "../../src/consumers/kafka.ts";
import type { Inbox } from "../../src/engine/inbox/inbox.ts";
import { kafkaSource } from "../servers/kafka.ts";
import { findServer } from "../servers/server.ts";
import { type BrokerHarness, type Consume, consumptionOf, optionsOf, type Topic } from "./suite.ts";

const found = await findServer(kafkaSource);
const url = "url" in found ? found.url : "";
export const closeKafka = () => ("url" in found ? found.close() : undefined);
/** The mock cluster lets a group wait for 3 s before its first members are told of each other. */
const SESSION_MS = 3_500;

export const kafkaHarness: BrokerHarness = {
  name: "kafka",
  missing: "reason" in found ? found.reason : undefined,
  redeliverAfterMs: SESSION_MS,
  isSilent: true,
  isConcurrent: true,
  // Once in some dozens of runs, the mock cluster leaves members of a group without their partitions.
  retries: 2,
  open: () => openTopic(url.replace("kafka://", ""), "eachMessage"),
};

export const kafkaBatchHarness: BrokerHarness = {
  ...kafkaHarness,
  name: "kafka, in batches",
  kind: "kafka",
  open: () => openTopic(url.replace("kafka://", ""), "eachBatch"),
};

/** What `kafkajs` says of connections that tests break is of no interest. */
export function kafkaOf(broker: string, socketFactory?: ISocketFactory): Kafka {
  const retry = { initialRetryTime: 50, retries: 20, maxRetryTime: 500 };
  const settings = { brokers: [broker], logLevel: logLevel.NOTHING, requestTimeout: 10_000, retry };
  return new Kafka({ ...settings, ...(socketFactory && { socketFactory }) });
}

export function consumerOf(kafka: Kafka, groupId: string) {
  return kafka.consumer({
    groupId,
    sessionTimeout: SESSION_MS,
    rebalanceTimeout: 12_000,
    heartbeatInterval: 100,
    maxWaitTimeInMs: 50,
    allowAutoTopicCreation: true,
  });
}

async function openTopic(broker: string, way: "eachMessage" | "eachBatch"): Promise<Topic> {
  const kafka = kafkaOf(broker);
  const [producer, admin] = [kafka.producer(), kafka.admin()];
  await Promise.all([producer.connect(), admin.connect()]);
  const topic = `semel-${randomBytes(6).toString("hex")}`;
  const [dead, group] = [`${topic}-dead`, `${topic}-group`];
  const letters: string[] = [];
  await send(producer, topic, { "idempotency-key": "first" }, FIRST);
  return {
    address: { broker, topic, group },
    publish: (id, body) => send(producer, topic, { "idempotency-key": id }, body),
    async consume<Transaction>(inbox: Inbox<Transaction>, options: Consume<Transaction>) {
      const sockets: Socket[] = [];
      let isCut = false;
      const own = kafkaOf(broker, ({ host, port, onConnect }) => {
        const socket = connect(isCut ? 1 : port, host, onConnect);
        sockets.push(socket);
        return socket;
      });
      const consumer = consumerOf(own, group);
      await consumer.connect();
      await consumer.subscribe({ topic, fromBeginning: true });
      const stop = new AbortController();
      options.signal?.addEventListener("abort", () => stop.abort(), { once: true });
      const bodyOf = ({ message }: KafkaRecord) => String(message.value);
      const shared = {
        signal: stop.signal,
        async deadLetter({ message }: KafkaRecord) {
          await send(producer, dead, {}, String(message.value));
          letters.push(String(message.value));
        },
      };
      // The first message makes the topic be there, and is nobody's.
      const isFirst = ({ value }: { value: Buffer | null }) => String(value) === FIRST;
      await consumer.run({
        partitionsConsumedConcurrently: 4,
        ...(way === "eachMessage" ? inTurn() : inBatches()),
      });
      function inTurn(): ConsumerRunConfig {
        const one = eachMessage(inbox, { ...shared, ...optionsOf(options, bodyOf) });
        return { eachMessage: async (given) => (isFirst(given.message) ? undefined : one(given)) };
      }
      function inBatches(): ConsumerRunConfig {
        const batched = optionsOf(options, bodyOf, true) as BatchHandler<KafkaRecord, Transaction>;
        const many = eachBatch(inbox, { ...shared, ...batched });
        return {
          eachBatch(given) {
            const messages = given.batch.messages.filter((message) => !isFirst(message));
            const { topic, partition } = given.batch;
            return many({ ...given, batch: { topic, partition, messages } });
          },
        };
      }
      const consumption = consumptionOf(() => {
        stop.abort();
        const disconnected = consumer.disconnect().catch(() => {});
        // Without its connections it waits for answers to what it has asked.
        return isCut ? Promise.resolve() : disconnected;
      });
      options.signal?.addEventListener("abort", consumption.close, { once: true });
      return {
        consumption,
        async cut() {
          isCut = true;
          for (const socket of sockets) socket.destroy();
        },
        close: consumption.close,
      };
    },
    deadLetters: async () => letters,
    async remaining() {
      const [offsets, committed] = await Promise.all([
        admin.fetchTopicOffsets(topic),
        admin.fetchOffsets({ groupId: group, topics: [topic] }),
      ]);
      const passed = new Map(
        committed[0]!.partitions.map(({ partition, offset }) => [partition, Number(offset)]),
      );
      return offsets.reduce((sum, { partition, high }) => {
        return sum + Number(high) - Math.max(0, passed.get(partition) ?? 0);
      }, 0);
    },
    async close() {
      await Promise.all([producer.disconnect(), admin.disconnect()]);
    },
  };
}

const FIRST = "the topic is there";

async function send(
  producer: Producer,
  topic: string,
  headers: Record<string, string>,
  value: string,
): Promise<void> {
  await producer.send({ topic, acks: -1, messages: [{ headers, value }] });
}
