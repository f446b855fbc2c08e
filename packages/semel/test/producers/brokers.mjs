// Each broker, as a publisher and as a consumer of one topic, in processes of their own.

/** A database that two processes write to. */
export async function databaseAt(path) {
  const builtin = process.getBuiltinModule?.("node:sqlite");
  const { default: Database } = builtin
    ? { default: builtin.DatabaseSync }
    : await import("libsql");
  const database = new Database(path);
  database.exec(
    "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 5000",
  );
  return database;
}

const QUIET = () => {};
const mqttSession = (clientId) => ({
  protocolVersion: 5,
  clientId,
  clean: false,
  reconnectPeriod: 50,
  properties: { sessionExpiryInterval: 600, receiveMaximum: 200 },
});

async function kafkaOf(broker) {
  const { Kafka, logLevel } = await import("kafkajs");
  return new Kafka({ brokers: [broker], logLevel: logLevel.NOTHING });
}

async function sqsOf(endpoint) {
  const { SQS } = await import("@aws-sdk/client-sqs");
  const credentials = { accessKeyId: "any", secretAccessKey: "any" };
  return new SQS({ endpoint, region: "us-east-1", credentials });
}

/** By broker, what publishes an effect. */
export const PUBLISHERS = {
  async nats({ servers, stream }) {
    const { connect } = await import("@nats-io/transport-node");
    const { jetstream } = await import("@nats-io/jetstream");
    const { publishJetStream } = await import("../../dist/consumers/nats.js");
    return publishJetStream(jetstream(await connect({ servers })), stream);
  },
  async rabbitmq({ url, queue }) {
    const { connect } = await import("amqplib");
    const { publishRabbit } = await import("../../dist/consumers/rabbitmq.js");
    return publishRabbit(await (await connect(url)).createConfirmChannel(), queue);
  },
  async redis({ url, stream }) {
    const { Redis } = await import("ioredis");
    const { publishStream } = await import("../../dist/consumers/redis-streams.js");
    return publishStream(new Redis(url), stream);
  },
  async kafka({ broker, topic }) {
    const { publishKafka } = await import("../../dist/consumers/kafka.js");
    const producer = (await kafkaOf(broker)).producer();
    await producer.connect();
    return publishKafka(producer, topic);
  },
  async sqs({ endpoint, queueUrl }) {
    const { publishSqs } = await import("../../dist/consumers/sqs.js");
    return publishSqs(await sqsOf(endpoint), queueUrl);
  },
  async mqtt({ url, topic }) {
    const { connectAsync } = await import("mqtt");
    const { publishMqtt } = await import("../../dist/consumers/mqtt.js");
    return publishMqtt(await connectAsync(url, { protocolVersion: 5 }), topic, { qos: 1 });
  },
  async bullmq({ connection, queue }) {
    const { Queue } = await import("bullmq");
    const { publishBull } = await import("../../dist/consumers/bullmq.js");
    return publishBull(new Queue(queue, { connection }));
  },
};

function together(write, textOf) {
  return (tx, messages) => {
    for (const message of messages) write(tx, textOf(message));
  };
}

/** By broker, what consumes it, with `write` for the text of a message in its transaction. */
export const CONSUMERS = {
  async nats(inbox, { servers, stream }, write) {
    const { connect } = await import("@nats-io/transport-node");
    const { jetstream } = await import("@nats-io/jetstream");
    const { consumeJetStream } = await import("../../dist/consumers/nats.js");
    const consumer = await jetstream(await connect({ servers })).consumers.get(stream, "ledger");
    consumeJetStream(inbox, consumer, {
      transactionBatch: together(write, (message) => message.string()),
    });
  },
  async rabbitmq(inbox, { url, queue }, write) {
    const { connect } = await import("amqplib");
    const { consumeRabbit } = await import("../../dist/consumers/rabbitmq.js");
    const channel = await (await connect(url)).createChannel();
    consumeRabbit(inbox, channel, queue, {
      transactionBatch: together(write, ({ content }) => content.toString()),
    });
  },
  async redis(inbox, { url, stream }, write) {
    const { Redis } = await import("ioredis");
    const { consumeStream } = await import("../../dist/consumers/redis-streams.js");
    const client = new Redis(url);
    const source = { client, blocking: client.duplicate(), stream, group: "ledger" };
    consumeStream(inbox, source, {
      claimIdle: "1s",
      transactionBatch: together(write, ({ fields }) => fields.payload.toString()),
    });
  },
  async kafka(inbox, { broker, topic }, write) {
    const { eachBatch } = await import("../../dist/consumers/kafka.js");
    const timing = { sessionTimeout: 3_500, rebalanceTimeout: 3_500, heartbeatInterval: 500 };
    const consumer = (await kafkaOf(broker)).consumer({
      groupId: `${topic}-ledger`,
      maxWaitTimeInMs: 50,
      ...timing,
    });
    await consumer.connect();
    await consumer.subscribe({ topic, fromBeginning: true });
    const transactionBatch = together(write, ({ message }) => message.value.toString());
    await consumer.run({ eachBatch: eachBatch(inbox, { size: 250, transactionBatch }) });
  },
  async sqs(inbox, { endpoint, queueUrl }, write) {
    const { consumeSqs } = await import("../../dist/consumers/sqs.js");
    const client = await sqsOf(endpoint);
    consumeSqs(inbox, client, queueUrl, {
      visibilityTimeout: "3s",
      waitTime: "1s",
      transactionBatch: together(write, ({ Body }) => Body),
    });
  },
  async mqtt(inbox, { url, topic, clientId }, write) {
    const { connect } = await import("mqtt");
    const { consumeMqtt } = await import("../../dist/consumers/mqtt.js");
    const client = connect(url, mqttSession(clientId)).on("error", QUIET);
    consumeMqtt(inbox, client, topic, {
      transaction: (tx, { payload }) => write(tx, payload.toString()),
      deadLetter: QUIET,
    });
    await new Promise((resolve) => client.once("connect", resolve));
  },
  async bullmq(inbox, { connection, queue }, write) {
    const { Worker } = await import("bullmq");
    const { bullProcessor } = await import("../../dist/consumers/bullmq.js");
    const processor = bullProcessor(inbox, {
      transactionBatch: together(write, ({ data }) => JSON.stringify(data)),
    });
    const timing = { lockDuration: 1_000, stalledInterval: 500, maxStalledCount: 100 };
    const worker = new Worker(queue, processor, { connection, concurrency: 50, ...timing });
    await worker.waitUntilReady();
  },
};
