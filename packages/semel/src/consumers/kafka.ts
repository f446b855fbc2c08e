// Kafka through `kafkajs`, and clients of its shape: an offset goes on after the commit of what was
// handled, a message that is busy or failed is kept until it is done with, the group's session is kept
// alive meanwhile (MSG-2).

import type { Inbox } from "../engine/inbox/inbox.ts";
import { assertMethods } from "../options.ts";
import { Deliveries, type MessageHandler } from "./deliveries.ts";
import {
  HEARTBEAT_MS,
  type KafkaOptions,
  type KafkaRecord,
  namedBy,
  Stopped,
} from "./kafka-record.ts";

export { type KafkaProducer, type KafkaPublishOptions, publishKafka } from "../producers/kafka.ts";
export type { BatchHandler, DeliveryReport, MessageHandler } from "./deliveries.ts";
export {
  eachBatch,
  type KafkaBatch,
  type KafkaBatchOptions,
} from "./kafka-batch.ts";
export type { KafkaMessage, KafkaOptions, KafkaRecord } from "./kafka-record.ts";

/** What `kafkajs` gives to `eachMessage`. */
export interface KafkaDelivery extends KafkaRecord {
  heartbeat(): Promise<void>;
}

/**
 * Makes the `eachMessage` of a consumer. Messages of a partition are handled in their order: one that
 * fails holds up those after it until it is handled, or a dead letter.
 *
 * The id is the header `idempotency-key`, which {@link publishKafka} sets; without it topic, partition
 * and offset, which is the same for redeliveries only.
 *
 * @throws {InvalidOption}
 * @example
 * await consumer.run({
 *   eachMessage: eachMessage(inbox, {
 *     handler: ({ message }) => bill(JSON.parse(String(message.value))),
 *     deadLetter: ({ message }) => producer.send({ topic: "orders.dead", messages: [message] }),
 *   }),
 * });
 */
export function eachMessage<Transaction>(
  inbox: Inbox<Transaction>,
  options: KafkaOptions<KafkaDelivery> & MessageHandler<KafkaDelivery, Transaction>,
): (delivery: KafkaDelivery) => Promise<void> {
  const { deadLetter, signal } = options;
  const deliveries = new Deliveries(inbox, options, "eachMessage()", ["deadLetter", "signal"]);
  if (signal !== undefined) assertMethods(signal, "signal", ["addEventListener"]);
  return async (delivery) => {
    const settling = {
      heartbeat: { everyMs: HEARTBEAT_MS, beat: () => delivery.heartbeat() },
      reject: (reason: string) => deadLetter?.(delivery, reason),
    };
    if (await deliveries.insist(delivery, namedBy(delivery), settling, { signal })) return;
    throw new Stopped();
  };
}
