// Amazon SQS through `SQS` of `@aws-sdk/client-sqs`: a poller. Deleted after the commit, made visible
// again after a pause while busy or failed, kept invisible while the handler runs; the messages of a
// group in their order (MSG-2).

import { type Duration, durationMs } from "../duration.ts";
import type { Inbox } from "../engine/inbox/inbox.ts";
import { InvalidOption } from "../errors.ts";
import { assertInteger, assertMethods } from "../options.ts";
import { ID_NAME } from "../producers/effect.ts";
import { SQS_BATCH_MAX } from "../producers/sqs.ts";
import { type ConsumeOptions, type Consumption, Intake } from "./consumption.ts";
import type { MessageHandler, Settling } from "./deliveries.ts";
import { Groups } from "./groups.ts";
import {
  deleter,
  keptMs,
  type SqsClient,
  type SqsMessage,
  VISIBILITY_MAX_SECONDS,
} from "./sqs-client.ts";

export { publishSqs, type SqsPublishOptions, type SqsSender } from "../producers/sqs.ts";
export type { ConsumeOptions, Consumption } from "./consumption.ts";
export type { BatchHandler, DeliveryReport, MessageHandler } from "./deliveries.ts";
export type { SqsClient, SqsMessage } from "./sqs-client.ts";
export { type SqsBatchResponse, type SqsRecord, sqsHandler } from "./sqs-lambda.ts";

export interface SqsOptions extends ConsumeOptions<SqsMessage> {
  /**
   * How long a message stays invisible after its consumer died; extended while it is handled. Whole
   * seconds. @default "30s"
   */
  visibilityTimeout?: Duration | undefined;
  /** How long one poll waits, and `close()` at most: 1 to 20 whole seconds. @default "5s" */
  waitTime?: Duration | undefined;
  /**
   * Keeps a dead letter, which is then deleted. @default it is left to the queue's redrive policy, whose
   * `maxReceiveCount` should be above the inbox's `attemptsMax`
   */
  deadLetter?: ((message: SqsMessage, reason: string) => unknown) | undefined;
}

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
  const visibility = secondsOf(visibilityTimeout, "visibilityTimeout", VISIBILITY_MAX_SECONDS);
  const wait = secondsOf(waitTime, "waitTime", 20);
  const isFifo = queueUrl.endsWith(".fifo");
  const forget = deleter(client, queueUrl);

  return intake.start(async () => {
    inbox.expectRedelivery(await keptMs(client, queueUrl), "the queue");
    await intake.poll(async (room) => {
      const { Messages = [] } = await client.receiveMessage({
        QueueUrl: queueUrl,
        MaxNumberOfMessages: Math.min(room, SQS_BATCH_MAX),
        WaitTimeSeconds: wait,
        VisibilityTimeout: visibility,
        MessageAttributeNames: ["All"],
        MessageSystemAttributeNames: ["All"],
      });
      receive(Messages);
    });
  });

  function receive(messages: readonly SqsMessage[]): void {
    const groups = new Groups();
    // What a poll brings after consuming was stopped is given back, unhandled.
    const before = intake.stopping.aborted ? Promise.resolve(false) : undefined;
    for (const message of messages) {
      // Standard queues have groups as well, for fairness, and know no order.
      const group = isFifo ? message.Attributes?.["MessageGroupId"] : undefined;
      const id = message.MessageAttributes?.[ID_NAME]?.StringValue || message.MessageId;
      const named = { id, payload: message.Body };
      void groups.begin(group, (after = before) =>
        intake.receive(message, named, settlingOf(message), after),
      );
    }
  }

  function settlingOf(message: SqsMessage): Settling {
    const named = { QueueUrl: queueUrl, ReceiptHandle: message.ReceiptHandle! };
    const hide = (seconds: number) =>
      client.changeMessageVisibility({ ...named, VisibilityTimeout: seconds });
    return {
      heartbeat: { everyMs: (visibility * 1_000) / 3, beat: () => hide(visibility) },
      ack: () => forget(message),
      retry: (delayMs) => hide(Math.min(Math.ceil(delayMs / 1_000), VISIBILITY_MAX_SECONDS)),
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
