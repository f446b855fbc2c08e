// What both ways of consuming Kafka share: a message with where it came from, its name, its options.

import { ID_NAME } from "../producers/effect.ts";
import type { DeliveryOptions, Named } from "./deliveries.ts";
import { idOfBytes } from "./message-id.ts";

type HeaderValue = Buffer | string;

/** A `KafkaMessage` of `kafkajs`. */
export interface KafkaMessage {
  readonly offset: string;
  readonly key: Buffer | null;
  readonly value: Buffer | null;
  readonly headers?: Readonly<Record<string, HeaderValue | HeaderValue[] | undefined>>;
}

/** A message with where it came from. */
export interface KafkaRecord {
  readonly topic: string;
  readonly partition: number;
  readonly message: KafkaMessage;
}

export interface KafkaOptions<Delivery> extends DeliveryOptions<Delivery> {
  /**
   * Keeps a dead letter, before its offset is passed: send it to a topic of its own. @default it stays
   * in its topic as far as that keeps it
   */
  deadLetter?: ((delivery: Delivery, reason: string) => unknown) | undefined;
  /**
   * Ends the wait for a message that is to be delivered again: abort it before `consumer.disconnect()`,
   * which waits for handlers. The offset stays where it is.
   */
  signal?: AbortSignal | undefined;
}

/** `kafkajs` sends one only when its `heartbeatInterval` has passed. */
export const HEARTBEAT_MS = 500;

export function namedBy({ topic, partition, message }: KafkaRecord): Named {
  const header = message.headers?.[ID_NAME];
  const id = idOfBytes(Array.isArray(header) ? header[0] : header);
  return { id: id || `${topic}:${partition}:${message.offset}`, payload: message.value };
}

/** Keeps `kafkajs` from passing the offset of what was not handled; it delivers it again. */
export class Stopped extends Error {
  override readonly name = "Stopped";
  constructor() {
    super("Consuming was stopped before the message was handled; it will be delivered again");
  }
}
