// What is needed of `@aws-sdk/client-sqs`, by structure, and what a queue says of itself.

import { Gathering } from "../gathering.ts";
import { failuresOf, SQS_BATCH_MAX, type SqsFailure } from "../producers/sqs.ts";

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
  /** Asked once, for how long the queue keeps messages; it need not be allowed. */
  getQueueAttributes?(input: {
    QueueUrl: string;
    AttributeNames: "MessageRetentionPeriod"[];
  }): Promise<{ Attributes?: Partial<Record<string, string>> | undefined }>;
}

/** SQS hides no message for longer than 12 hours. */
export const VISIBILITY_MAX_SECONDS = 43_200;

/**
 * Deletes messages, those that are deleted at once ten at a time.
 *
 * @returns a function that rejects unless the message is gone
 */
export function deleter(
  client: SqsClient,
  queueUrl: string,
): (message: SqsMessage) => Promise<void> {
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
  return async ({ ReceiptHandle }) => {
    const failure = await deleting.ask(ReceiptHandle!);
    if (failure) throw failure;
  };
}

/** For how long a queue keeps a message, and so may deliver it; 0 when it does not say. */
export async function keptMs(client: SqsClient, queueUrl: string): Promise<number> {
  try {
    const answer = await client.getQueueAttributes?.({
      QueueUrl: queueUrl,
      AttributeNames: ["MessageRetentionPeriod"],
    });
    return Number(answer?.Attributes?.["MessageRetentionPeriod"] ?? 0) * 1_000;
  } catch {
    // A consumer needs no permission for it.
    return 0;
  }
}
