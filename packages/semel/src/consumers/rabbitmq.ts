// RabbitMQ through `amqplib`: acknowledged after the commit, requeued after a pause, dead-lettered
// through the queue's exchange (MSG-2).

import type { Inbox } from "../engine/inbox/inbox.ts";
import { assertMethods } from "../options.ts";
import { type ConsumeOptions, type Consumption, endOf, Intake } from "./consumption.ts";
import type { MessageHandler, Settling } from "./deliveries.ts";

export {
  publishRabbit,
  type RabbitPublisher,
  type RabbitPublishOptions,
} from "../producers/rabbitmq.ts";
export type { ConsumeOptions, Consumption } from "./consumption.ts";
export type { BatchHandler, DeliveryReport, MessageHandler } from "./deliveries.ts";

/** A `ConsumeMessage` of `amqplib`. */
export interface RabbitMessage {
  readonly content: Uint8Array;
  readonly fields: { readonly redelivered: boolean };
  readonly properties: { readonly messageId?: unknown };
}

/** A `Channel` of `amqplib`'s promise API, for this consumer alone. */
export interface RabbitChannel<Message> {
  prefetch(count: number): Promise<unknown>;
  consume(
    queue: string,
    onMessage: (message: Message | null) => void,
    options: { noAck: boolean },
  ): Promise<{ consumerTag: string }>;
  cancel(consumerTag: string): Promise<unknown>;
  ack(message: Message): void;
  nack(message: Message, allUpTo?: boolean, requeue?: boolean): void;
  once(event: string, listener: (error?: unknown) => void): unknown;
  removeListener(event: string, listener: (error?: unknown) => void): unknown;
}

export interface RabbitOptions<Message> extends ConsumeOptions<Message> {
  /**
   * Keeps a dead letter, which is then acknowledged. @default it is rejected, so that RabbitMQ passes
   * it to the queue's `x-dead-letter-exchange`, and drops it where the queue has none
   */
  deadLetter?: ((message: Message, reason: string) => unknown) | undefined;
}

/**
 * Consumes a queue of RabbitMQ through an inbox.
 *
 * The id is the property `message_id`, which the publisher sets; RabbitMQ has no other that is the
 * same at a redelivery.
 *
 * @param channel its own channel; the inbox's `concurrency` becomes its prefetch count
 * @throws {InvalidOption}
 * @example
 * const consumption = consumeRabbit(inbox, await connection.createChannel(), "orders", {
 *   handler: (message) => bill(JSON.parse(message.content.toString())),
 * });
 * await consumption.closed;
 */
export function consumeRabbit<Message extends RabbitMessage, Transaction>(
  inbox: Inbox<Transaction>,
  channel: RabbitChannel<Message>,
  queue: string,
  options: RabbitOptions<Message> & MessageHandler<Message, Transaction>,
): Consumption {
  const intake = new Intake(inbox, options, "consumeRabbit()", ["deadLetter"]);
  assertMethods(channel, "channel", ["prefetch", "consume", "cancel", "ack", "nack", "once"]);
  let onCancelled = () => {};
  const cancelled = new Promise<void>((resolve) => {
    onCancelled = resolve;
  });
  // An answer on the same channel: whoever closes the connection then loses no acknowledgement.
  const flush = () => channel.prefetch(inbox.concurrency);
  return intake.start(async () => {
    const ended = endOf(intake.stopping);
    const onClose = () => ended.fail(new Error("The channel to RabbitMQ was closed"));
    channel.once("error", ended.fail);
    channel.once("close", onClose);
    try {
      await channel.prefetch(inbox.concurrency);
      const { consumerTag } = await channel.consume(
        queue,
        (message) => {
          if (message === null)
            ended.fail(new Error(`RabbitMQ cancelled the consumer of ${queue}`));
          else if (intake.stopping.aborted) cancelled.then(() => requeue(message)).catch(() => {});
          else receive(message);
        },
        { noAck: false },
      );
      await ended.promise;
      await channel.cancel(consumerTag);
    } finally {
      onCancelled();
      channel.removeListener("error", ended.fail);
      channel.removeListener("close", onClose);
    }
  }, flush);

  function requeue(message: Message): void {
    channel.nack(message, false, true);
  }

  function receive(message: Message): void {
    const { messageId } = message.properties;
    const id = typeof messageId === "string" ? messageId : undefined;
    const settling: Settling = {
      ack: () => channel.ack(message),
      async retry(delayMs) {
        // RabbitMQ delivers again at once what it is given back, so it is kept for a while. When
        // consuming stops, others may have it, but not this consumer once more.
        await intake.pause(delayMs);
        if (intake.stopping.aborted) await cancelled;
        requeue(message);
      },
      async reject(reason) {
        if (options.deadLetter === undefined) return channel.nack(message, false, false);
        await options.deadLetter(message, reason);
        channel.ack(message);
      },
    };
    void intake.receive(message, { id, payload: message.content }, settling);
  }
}
