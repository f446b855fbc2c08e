// Effects to Kafka: the id in a header, those of one operation in one partition and so in order.

import { assertMethods } from "../options.ts";
import {
  ID_NAME,
  operationOf,
  type PerEffect,
  type Publish,
  type PublishOptions,
  perEffect,
  publisher,
} from "./effect.ts";

/** A connected `producer()` of `kafkajs`. */
export interface KafkaProducer {
  send(record: {
    topic: string;
    acks: number;
    messages: { key: string | Buffer; value: Buffer; headers: Record<string, string> }[];
  }): Promise<unknown>;
}

export interface KafkaPublishOptions extends PublishOptions {
  /** The key of a message, which chooses its partition. @default a digest of the operation's scope and key */
  key?: PerEffect<string | Buffer> | undefined;
}

/**
 * Publishes effects to a topic; resolves once all replicas in sync have a message. A producer may send
 * twice what it got no answer for: the consumer's inbox knows it by its header `idempotency-key`.
 *
 * @throws {InvalidOption}
 * @example relay({ "order-placed": publishKafka(producer, "orders") });
 */
export function publishKafka(
  producer: KafkaProducer,
  topic: PerEffect<string>,
  options: KafkaPublishOptions = {},
): Publish {
  assertMethods(producer, "producer", ["send"]);
  const topicOf = perEffect(topic, "topic");
  const keyOf = perEffect(options.key ?? operationOf, "key");
  return publisher("publishKafka()", options, ["key"], (effect, value) =>
    producer.send({
      topic: topicOf(effect),
      acks: -1,
      messages: [{ key: keyOf(effect), value, headers: { [ID_NAME]: effect.id } }],
    }),
  );
}
