// A consumer in a process of its own, to be killed. It handles one message up to a point, says so, and
// goes no further.
//
//   node consumer-process.mjs '{ "broker": …, "address": …, "database": …, "point": … }'

import { createInbox } from "../../dist/engine/inbox/inbox.js";
import { Idempotency } from "../../dist/index.js";
import { sqliteStore } from "../../dist/stores/sqlite.js";

const { broker, address, database, point } = JSON.parse(process.argv[2]);
const never = new Promise(() => {});
// Nothing that waits for a broker would keep the process alive.
setInterval(() => {}, 1_000_000);

const records = await open();
const transactions = await open();
const store = sqliteStore(records, { transactions });
const settle = store.settle.bind(store);
store.settle = async (ending) => {
  const answer = await settle(ending);
  console.log("recorded");
  await never;
  return answer;
};
const idempotency = new Idempotency({ store, cache: false });
const inbox = createInbox(idempotency, "suite", { lease: 400 });
const write = (on) => on.prepare("INSERT INTO effects VALUES (?)").run("one");
const options =
  point === "recorded"
    ? { handler: () => write(records) }
    : {
        async transaction(tx) {
          write(tx);
          console.log("written");
          await never;
        },
      };

const CONSUMERS = {
  async nats({ servers, stream }) {
    const { connect } = await import("@nats-io/transport-node");
    const { jetstream } = await import("@nats-io/jetstream");
    const { consumeJetStream } = await import("../../dist/consumers/nats.js");
    const consumer = await jetstream(await connect({ servers })).consumers.get(stream, "billing");
    consumeJetStream(inbox, consumer, options);
  },
  async rabbitmq({ url, queue }) {
    const { connect } = await import("amqplib");
    const { consumeRabbit } = await import("../../dist/consumers/rabbitmq.js");
    consumeRabbit(inbox, await (await connect(url)).createChannel(), queue, options);
  },
  async "redis-streams"({ url, ...where }) {
    const { Redis } = await import("ioredis");
    const { consumeStream } = await import("../../dist/consumers/redis-streams.js");
    const client = new Redis(url);
    const source = { ...where, client, blocking: client.duplicate() };
    consumeStream(inbox, source, { ...options, name: "killed", claimIdle: 300 });
  },
  async kafka({ broker, topic, group }) {
    const { Kafka, logLevel } = await import("kafkajs");
    const { eachMessage } = await import("../../dist/consumers/kafka.js");
    const kafka = new Kafka({ brokers: [broker], logLevel: logLevel.NOTHING });
    const timing = {
      sessionTimeout: 3_500,
      rebalanceTimeout: 3_500,
      heartbeatInterval: 100,
      maxWaitTimeInMs: 50,
    };
    const consumer = kafka.consumer({ groupId: group, ...timing });
    await consumer.connect();
    await consumer.subscribe({ topic, fromBeginning: true });
    const handle = eachMessage(inbox, options);
    await consumer.run({
      eachMessage: async (delivery) => {
        if (delivery.message.headers["idempotency-key"].toString() !== "first") {
          await handle(delivery);
        }
      },
    });
  },
  async sqs({ endpoint, queueUrl }) {
    const { SQS } = await import("@aws-sdk/client-sqs");
    const { consumeSqs } = await import("../../dist/consumers/sqs.js");
    const credentials = { accessKeyId: "any", secretAccessKey: "any" };
    const client = new SQS({ endpoint, region: "us-east-1", credentials });
    consumeSqs(inbox, client, queueUrl, { ...options, visibilityTimeout: "2s", waitTime: "1s" });
  },
  async mqtt({ url, topic, clientId, qos }) {
    const { connect } = await import("mqtt");
    const { consumeMqtt } = await import("../../dist/consumers/mqtt.js");
    const session = { clean: false, properties: { sessionExpiryInterval: 600 } };
    const client = connect(url, { protocolVersion: 5, clientId, ...session });
    consumeMqtt(inbox, client, topic, { ...options, qos, deadLetter: () => {} });
    await new Promise((resolve) => client.once("connect", resolve));
  },
  async bullmq({ connection, queue }) {
    const { Worker } = await import("bullmq");
    const { bullProcessor } = await import("../../dist/consumers/bullmq.js");
    const timing = { lockDuration: 600, stalledInterval: 300 };
    const named = { id: ({ data }) => data.id, payload: ({ data }) => data.body };
    const processor = bullProcessor(inbox, { ...options, ...named });
    const worker = new Worker(queue, processor, { connection, ...timing });
    await worker.waitUntilReady();
  },
};
await CONSUMERS[broker](address);
console.log("ready");

async function open() {
  const builtin = process.getBuiltinModule?.("node:sqlite");
  if (builtin) return new builtin.DatabaseSync(database);
  const { default: Database } = await import("libsql");
  return new Database(database);
}
