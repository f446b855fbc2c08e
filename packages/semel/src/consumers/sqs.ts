// Amazon SQS through `SQS` of `@aws-sdk/client-sqs`: a poller. Deleted after the commit, made visible
// again after a pause while busy or failed, kept invisible while the handler runs; the messages of a
// group in their order (MSG-2).

import { type Duration, durationMs } from "../duration.ts";
import type { Inbox } from "../engine/inbox/inbox.ts";
import { InvalidOption } from "../errors.ts";
import { Gathering } from "../gathering.ts";
import { assertInteger, assertMethods } from "../options.ts";
import { ID_NAME } from "../producers/effect.ts";
import { failuresOf, SQS_BATCH_MAX, type SqsFailure } from "../producers/sqs.ts";
import { type ConsumeOptions, type Consumption, Intake } from "./consumption.ts";
import type { MessageHandler, Settling } from "./deliveries.ts";

export { publishSqs, type SqsPublishOptions, type SqsSender } from "../producers/sqs.ts";
export type { ConsumeOptions, Consumption } from "./consumption.ts";
export type { BatchHandler, DeliveryReport, MessageHandler } from "./deliveries.ts";
export { type SqsBatchResponse, type SqsRecord, sqsHandler } from "./sqs-lambda.ts";

/** A `Message` of `@aws-sdk/client-sqs`. */
export interface SqsMessage {
  MessageId?: string | undefined;
  ReceiptHandle?: string | undefined;
  Body?: string | undefined;
  Attributes?: Partial<Record<string, string>> | undefined;
  MessageAttributes?: Record<string, { StringValue?: string | undefined }> | undefined;
}

/** `new SQS({})` of `@aws-sdk/client-sqs`. */
export interface SqsClient {
  receiveMessage(input: {
    QueueUrl: string;
    MaxNumberOfMessages: number;
    WaitTimeSeconds: number;
    VisibilityTimeout: number;
    MessageAttributeNames: string[];
    MessageSystemAttributeNames: "All"[];
  }): Promise<{ Messages?: SqsMessage[] | undefined }>;
  deleteMessageBatch(input: {
    QueueUrl: string;
    Entries: { Id: string; ReceiptHandle: string }[];
  }): Promise<{ Failed?: SqsFailure[] | undefined }>;
  changeMessageVisibility(input: {
    QueueUrl: string;
    ReceiptHandle: string;
    VisibilityTimeout: number;
  }): Promise<unknown>;
}

export interface SqsOptions extends ConsumeOptions<SqsMessage> {
  /**
   * How long a message stays invisible after its consumer died; extended while it is handled. Whole
   * seconds. @default "30s"
   */
  visibilityTimeout?: Duration;
  /** How long one poll waits, and `close()` at most: 1 to 20 whole seconds. @default "5s" */
  waitTime?: Duration;
  /**
   * Keeps a dead letter, which is then deleted. @default it is left to the queue's redrive policy, whose
   * `maxReceiveCount` should be above the inbox's `attemptsMax`
   */
  deadLetter?: (message: SqsMessage, reason: string) => unknown;
}

/** SQS hides no message for longer than 12 hours. */
const VISIBILITY_MAX = 43_200;

/**
 * Consumes a queue of SQS through an inbox.
 *
 * The id is the message attribute `idempotency-key`, which {@link publishSqs} sets; without it the
 * message id, which is the same for redeliveries only.
 *
 * @throws {InvalidOption}
 * @example
 * const consumption = consumeSqs(inbox, new SQS({}), queueUrl, {
 *   handler: (message) => bill(JSON.parse(message.Body)),
 * });
 * await consumption.closed;
 */
export function consumeSqs<Transaction>(
  inbox: Inbox<Transaction>,
  client: SqsClient,
  queueUrl: string,
  options: SqsOptions & MessageHandler<SqsMessage, Transaction>,
): Consumption {
  const own = ["visibilityTimeout", "waitTime", "deadLetter"];
  const intake = new Intake(inbox, options, "consumeSqs()", own);
  assertMethods(client, "client", [
    "receiveMessage",
    "deleteMessageBatch",
    "changeMessageVisibility",
  ]);
  if (typeof queueUrl !== "string") throw new InvalidOption("`queueUrl` must be a string");
  const { visibilityTimeout = "30s", waitTime = "5s", deadLetter } = options;
  const visibility = secondsOf(visibilityTimeout, "visibilityTimeout", VISIBILITY_MAX);
  const wait = secondsOf(waitTime, "waitTime", 20);
  const isFifo = queueUrl.endsWith(".fifo");

  const deleting = new Gathering(
    async (receipts: readonly string[]) => {
      const Entries = receipts.map((ReceiptHandle, index) => ({
        Id: String(index),
        ReceiptHandle,
      }));
      const { Failed = [] } = await client.deleteMessageBatch({ QueueUrl: queueUrl, Entries });
      return failuresOf(receipts, Failed);
    },
    () => SQS_BATCH_MAX,
    4,
  );

  return intake.start(async () => {
    for (let room = await intake.room(); room > 0; room = await intake.room()) {
      try {
        const { Messages = [] } = await client.receiveMessage({
          QueueUrl: queueUrl,
          MaxNumberOfMessages: Math.min(room, SQS_BATCH_MAX),
          WaitTimeSeconds: wait,
          VisibilityTimeout: visibility,
          MessageAttributeNames: ["All"],
          MessageSystemAttributeNames: ["All"],
        });
        receive(Messages);
      } catch (error) {
        await intake.trouble(error);
      }
    }
  });

  function receive(messages: readonly SqsMessage[]): void {
    const last = new Map<string, Promise<boolean>>();
    // What a poll brings after consuming was stopped is given back, unhandled.
    const before = intake.stopping.aborted ? Promise.resolve(false) : undefined;
    for (const message of messages) {
      // Standard queues have groups as well, for fairness, and know no order.
      const group = isFifo ? message.Attributes?.["MessageGroupId"] : undefined;
      const after = group === undefined ? before : (last.get(group) ?? before);
      const id = message.MessageAttributes?.[ID_NAME]?.StringValue || message.MessageId;
      const named = { id, payload: message.Body };
      const done = intake.receive(message, named, settlingOf(message), after);
      if (group !== undefined) last.set(group, done);
    }
  }

  async function forget({ ReceiptHandle }: SqsMessage): Promise<void> {
    const failure = await deleting.ask(ReceiptHandle!);
    if (failure) throw failure;
  }

  function settlingOf(message: SqsMessage): Settling {
    const named = { QueueUrl: queueUrl, ReceiptHandle: message.ReceiptHandle! };
    const hide = (seconds: number) =>
      client.changeMessageVisibility({ ...named, VisibilityTimeout: seconds });
    return {
      heartbeat: { everyMs: (visibility * 1_000) / 3, beat: () => hide(visibility) },
      ack: () => forget(message),
      retry: (delayMs) => hide(Math.min(Math.ceil(delayMs / 1_000), VISIBILITY_MAX)),
      async reject(reason) {
        // Once it is visible again, the redrive policy counts it.
        if (deadLetter === undefined) return;
        await deadLetter(message, reason);
        await forget(message);
      },
    };
  }
}

/** @throws {InvalidOption} */
function secondsOf(duration: Duration, option: string, max: number): number {
  const seconds = durationMs(duration, option) / 1_000;
  assertInteger(seconds, option, 1, max);
  return seconds;
}
