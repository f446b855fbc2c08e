// Amazon SQS as an event source of AWS Lambda: what failed is reported message by message, so that only
// that is delivered again; the messages of a group in their order (MSG-2).

import type { Inbox } from "../engine/inbox/inbox.ts";
import { ID_NAME } from "../producers/effect.ts";
import { Deliveries, type DeliveryOptions, type MessageHandler, type Named } from "./deliveries.ts";
import { Groups } from "./groups.ts";

/** An `SQSRecord` of `@types/aws-lambda`. */
export interface SqsRecord {
  messageId: string;
  body: string;
  eventSourceARN: string;
  attributes: { MessageGroupId?: string | undefined };
  messageAttributes: Record<string, { stringValue?: string | undefined } | undefined>;
}

/** What Lambda is told: delivered again are these. */
export interface SqsBatchResponse {
  batchItemFailures: { itemIdentifier: string }[];
}

export interface SqsLambdaOptions<Record> extends DeliveryOptions<Record> {
  /**
   * Keeps a dead letter, which is then done with. @default it is reported as failed, and left to the
   * queue's redrive policy, whose `maxReceiveCount` should be above the inbox's `attemptsMax`
   */
  deadLetter?: ((record: Record, reason: string) => unknown) | undefined;
}

/**
 * Makes the handler of a Lambda function. Its event source mapping needs `ReportBatchItemFailures`;
 * without it Lambda takes a batch with failures for handled.
 *
 * The id is the message attribute `idempotency-key`; without it the message id. Of a FIFO queue, what
 * follows a failed message in its group is reported as failed, too, without being handled.
 *
 * @throws {InvalidOption}
 * @example
 * export const handler = sqsHandler(inbox, {
 *   handler: (record) => bill(JSON.parse(record.body)),
 * });
 */
export function sqsHandler<Record extends SqsRecord, Transaction>(
  inbox: Inbox<Transaction>,
  options: SqsLambdaOptions<Record> & MessageHandler<Record, Transaction>,
): (event: { Records: readonly Record[] }) => Promise<SqsBatchResponse> {
  const { deadLetter } = options;
  const deliveries = new Deliveries<Record, Transaction>(inbox, options, "sqsHandler()", [
    "deadLetter",
  ]);
  return async ({ Records }) => {
    const groups = new Groups();
    const done = Records.map((record) => {
      const isFifo = record.eventSourceARN.endsWith(".fifo");
      const group = isFifo ? record.attributes.MessageGroupId : undefined;
      return groups.begin(group, (after) => settle(record, after));
    });
    const isDone = await Promise.all(done);
    const failed = Records.filter((_, index) => !isDone[index]);
    return { batchItemFailures: failed.map(({ messageId }) => ({ itemIdentifier: messageId })) };
  };

  async function settle(record: Record, after: Promise<boolean> | undefined): Promise<boolean> {
    let isLeft = false;
    const settling = {
      ack: () => {},
      retry: () => {},
      async reject(reason: string) {
        isLeft = deadLetter === undefined;
        await deadLetter?.(record, reason);
      },
    };
    return (await deliveries.settle(record, namedBy(record), settling, after)) && !isLeft;
  }
}

function namedBy({ messageId, body, messageAttributes }: SqsRecord): Named {
  return { id: messageAttributes[ID_NAME]?.stringValue || messageId, payload: body };
}
