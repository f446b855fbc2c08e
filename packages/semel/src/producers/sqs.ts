// Effects to Amazon SQS: the id in a message attribute, and on FIFO queues as the deduplication id.

import { InvalidOption } from "../errors.ts";
import { Gathering } from "../gathering.ts";
import { assertMethods } from "../options.ts";
import {
  type Effect,
  ID_NAME,
  operationOf,
  type Publish,
  type PublishOptions,
  publisher,
} from "./effect.ts";

/** `new SQS({})` of `@aws-sdk/client-sqs`. */
export interface SqsSender {
  sendMessageBatch(input: { QueueUrl: string; Entries: SqsEntry[] }): Promise<{
    Failed?: SqsFailure[] | undefined;
  }>;
}

interface SqsEntry {
  /** Of the entry in its batch. */
  Id: string;
  MessageBody: string;
  MessageAttributes: Record<string, { DataType: string; StringValue: string }>;
  MessageDeduplicationId?: string;
  MessageGroupId?: string;
}

/** What became of one entry of a batch that SQS refused. */
export interface SqsFailure {
  Id: string | undefined;
  Code: string | undefined;
  Message?: string | undefined;
}

/** SQS takes no more at once. */
export const SQS_BATCH_MAX = 10;
/** What is larger travels alone: a batch together may have no more than one message alone. */
const BYTES_TOGETHER = 200_000;
const BATCHES_AT_ONCE = 8;

export interface SqsPublishOptions extends PublishOptions {
  /** The group of a message in a FIFO queue. @default a digest of the operation's scope and key */
  group?: ((effect: Effect) => string) | undefined;
}

/**
 * Sends effects to a queue. A FIFO queue ignores what it got in the last five minutes; later, and on
 * standard queues, the consumer's inbox knows it.
 *
 * @throws {InvalidOption}
 * @example relay({ "order-placed": publishSqs(new SQS({}), queueUrl) });
 */
export function publishSqs(
  client: SqsSender,
  queueUrl: string,
  options: SqsPublishOptions = {},
): Publish {
  assertMethods(client, "client", ["sendMessageBatch"]);
  if (typeof queueUrl !== "string") throw new InvalidOption("`queueUrl` must be a string");
  const { group = operationOf } = options;
  if (typeof group !== "function") throw new InvalidOption("`group` must be a function");
  const isFifo = queueUrl.endsWith(".fifo");
  // What is published at once is sent together. In order, where there is one, and so one by one.
  const sending = new Gathering(
    (entries: readonly SqsEntry[]) => send(entries),
    together,
    isFifo ? 1 : BATCHES_AT_ONCE,
  );
  return publisher("publishSqs()", options, ["group"], async (effect, body) => {
    const failure = await sending.ask({
      Id: "",
      MessageBody: body.toString(),
      MessageAttributes: { [ID_NAME]: { DataType: "String", StringValue: effect.id } },
      ...(isFifo && { MessageDeduplicationId: effect.id, MessageGroupId: group(effect) }),
    });
    if (failure) throw failure;
  });

  async function send(entries: readonly SqsEntry[]): Promise<readonly (Error | undefined)[]> {
    const Entries = entries.map((entry, index) => ({ ...entry, Id: String(index) }));
    const { Failed = [] } = await client.sendMessageBatch({ QueueUrl: queueUrl, Entries });
    return failuresOf(entries, Failed);
  }
}

/** An error for each entry of a batch that failed. */
export function failuresOf(
  entries: readonly unknown[],
  failed: readonly SqsFailure[],
): (Error | undefined)[] {
  const failures = new Map(failed.map((failure) => [failure.Id, failure]));
  return entries.map((_, index) => {
    const failure = failures.get(String(index));
    return failure && new Error(`SQS refused it: ${failure.Message ?? failure.Code}`);
  });
}

/** How many of what waits fit into a batch. */
function together(waiting: readonly SqsEntry[]): number {
  let bytes = 0;
  const end = waiting.slice(0, SQS_BATCH_MAX).findIndex(({ MessageBody }) => {
    bytes += Buffer.byteLength(MessageBody);
    return bytes > BYTES_TOGETHER;
  });
  return end === -1 ? SQS_BATCH_MAX : Math.max(1, end);
}
