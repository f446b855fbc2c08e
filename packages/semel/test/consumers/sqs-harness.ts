// SQS for the consumer suite, on an emulator: through the poller, and through the handler of a Lambda
// function with what Lambda does around it.

import { randomBytes } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import type { Message, SQS } from "@aws-sdk/client-sqs";
import type { Consumption } from "../../src/consumers/consumption.ts";
import {
  consumeSqs,
  type SqsMessage,
  type SqsRecord,
  sqsHandler,
} from "../../src/consumers/sqs.ts";
import type { Inbox } from "../../src/engine/inbox/inbox.ts";
import { sqsClient, startSqs } from "../servers/sqs.ts";
import { type BrokerHarness, type Consume, consumptionOf, optionsOf, type Topic } from "./suite.ts";

const server = await startSqs();
export const closeSqs = () => server.close();
const VISIBILITY_SECONDS = 2;
const RECEIVES_MAX = 6;

type StartConsumer = <Transaction>(
  client: SQS,
  queueUrl: string,
  inbox: Inbox<Transaction>,
  options: Consume<Transaction>,
) => Consumption;

export const pollerHarness: BrokerHarness = {
  name: "sqs",
  missing: undefined,
  redeliverAfterMs: VISIBILITY_SECONDS * 1_000,
  // There is no connection that could end, only calls that fail.
  isSilent: true,
  isConcurrent: true,
  open: () => openTopic(poll),
};

export const lambdaHarness: BrokerHarness = {
  name: "sqs, in Lambda",
  kind: "sqs",
  missing: undefined,
  // Lambda itself sees to it that a batch stays invisible for as long as its function may run.
  redeliverAfterMs: undefined,
  isSilent: true,
  isConcurrent: true,
  open: () => openTopic(invoke),
};

async function openTopic(start: StartConsumer): Promise<Topic> {
  const { client, endpoint } = server;
  const name = `semel-${randomBytes(6).toString("hex")}`;
  const { QueueUrl: dead } = await client.createQueue({ QueueName: `${name}-dead` });
  const deadLetterTargetArn = (await attributesOf(dead!))["QueueArn"]!;
  const { QueueUrl } = await client.createQueue({
    QueueName: name,
    Attributes: {
      VisibilityTimeout: String(VISIBILITY_SECONDS),
      RedrivePolicy: JSON.stringify({ deadLetterTargetArn, maxReceiveCount: RECEIVES_MAX }),
    },
  });
  const queueUrl = QueueUrl!;
  const letters: string[] = [];
  return {
    address: { endpoint, queueUrl },
    async publish(id, body) {
      await client.sendMessage({
        QueueUrl,
        MessageBody: body,
        MessageAttributes: { "idempotency-key": { DataType: "String", StringValue: id } },
      });
    },
    async consume(inbox, options) {
      const own = sqsClient(endpoint);
      const consumption = start(own, queueUrl, inbox, options);
      return {
        consumption,
        async cut() {
          const refuse = () => async () => {
            throw new Error("There is no way to the server");
          };
          own.middlewareStack.add(refuse, { step: "initialize" });
        },
        async close() {
          await consumption.close();
          own.destroy();
        },
      };
    },
    async deadLetters() {
      // Who receives a message once too often finds it gone to the others.
      await client.receiveMessage({ QueueUrl, VisibilityTimeout: 0 });
      const { Messages = [] } = await client.receiveMessage({ QueueUrl: dead });
      letters.push(...Messages.map(({ Body }) => Body!));
      return letters;
    },
    async remaining() {
      const counts = await attributesOf(queueUrl);
      const of = (which: string) => Number(counts[`ApproximateNumberOfMessages${which}`]);
      return of("") + of("NotVisible") + of("Delayed");
    },
    async close() {
      await client.deleteQueue({ QueueUrl });
      await client.deleteQueue({ QueueUrl: dead });
    },
  };
}

async function attributesOf(queueUrl: string): Promise<Record<string, string>> {
  const { Attributes } = await server.client.getQueueAttributes({
    QueueUrl: queueUrl,
    AttributeNames: ["All"],
  });
  return Attributes ?? {};
}

const poll: StartConsumer = (client, queueUrl, inbox, options) => {
  return consumeSqs(inbox, client, queueUrl, {
    visibilityTimeout: `${VISIBILITY_SECONDS}s`,
    waitTime: "1s",
    ...optionsOf(options, ({ Body }: SqsMessage) => Body!),
    ...(options.signal && { signal: options.signal }),
    onTrouble: () => {},
  });
};

/** What Lambda does: it invokes the function with what it polls, and deletes what did not fail. */
const invoke: StartConsumer = (client, queueUrl, inbox, options) => {
  const lambda = sqsHandler(
    inbox,
    optionsOf(options, ({ body }: SQSRecord) => body),
  );
  let isStopped = false;
  const looping = (async () => {
    while (!isStopped) {
      try {
        const { Messages = [] } = await client.receiveMessage({
          QueueUrl: queueUrl,
          MaxNumberOfMessages: 10,
          WaitTimeSeconds: 1,
          MessageAttributeNames: ["All"],
          MessageSystemAttributeNames: ["All"],
        });
        if (isStopped || Messages.length === 0) continue;
        const { batchItemFailures } = await lambda({ Records: Messages.map(recordOf) });
        const failed = new Set(batchItemFailures.map(({ itemIdentifier }) => itemIdentifier));
        for (const { MessageId, ReceiptHandle } of Messages) {
          if (failed.has(MessageId!)) continue;
          await client.deleteMessage({ QueueUrl: queueUrl, ReceiptHandle });
        }
      } catch {
        await delay(50);
      }
    }
  })();
  const consumption = consumptionOf(() => {
    isStopped = true;
    return looping;
  });
  options.signal?.addEventListener("abort", consumption.close, { once: true });
  return consumption;
};

type SQSRecord = SqsRecord & { receiptHandle: string };

/** As Lambda writes it. */
function recordOf({ MessageId, ReceiptHandle, Body, Attributes, MessageAttributes }: Message) {
  const attributes = Object.entries(MessageAttributes ?? {}).map(([name, { StringValue }]) => [
    name,
    { stringValue: StringValue, dataType: "String" },
  ]);
  return {
    messageId: MessageId!,
    receiptHandle: ReceiptHandle!,
    body: Body!,
    eventSourceARN: "arn:aws:sqs:us-east-1:000000000000:suite",
    attributes: Attributes ?? {},
    messageAttributes: Object.fromEntries(attributes),
  };
}
