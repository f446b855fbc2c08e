// Kafka's `eachBatch`: many messages with one call of the handler, and their marks with one statement.

import type { Delivery, Inbox } from "../engine/inbox/inbox.ts";
import { assertInteger, assertMethods } from "../options.ts";
import {
  assertDeliveryOptions,
  type BatchHandler,
  beating,
  messageOf,
  paused,
  RETRY_LATER_MS,
  RETRY_MS_MIN,
  reported,
} from "./deliveries.ts";
import {
  HEARTBEAT_MS,
  type KafkaMessage,
  type KafkaOptions,
  type KafkaRecord,
  namedBy,
  Stopped,
} from "./kafka-record.ts";

/** What `kafkajs` gives to `eachBatch`. */
export interface KafkaBatch {
  readonly batch: {
    readonly topic: string;
    readonly partition: number;
    readonly messages: readonly KafkaMessage[];
  };
  resolveOffset(offset: string): void;
  heartbeat(): Promise<void>;
  commitOffsetsIfNecessary(): Promise<void>;
  isRunning(): boolean;
  isStale(): boolean;
}

export interface KafkaBatchOptions extends KafkaOptions<KafkaRecord> {
  /** How many messages are handled together at most. @default 500 */
  size?: number;
}

interface Item {
  id: string | undefined;
  payload: unknown;
  record: KafkaRecord;
}

/**
 * Makes the `eachBatch` of a consumer. Of what is handled together, messages that failed are handled
 * again, one by one, after the others: where their order matters, use {@link eachMessage}.
 *
 * @throws {InvalidOption}
 * @example
 * await consumer.run({
 *   eachBatch: eachBatch(inbox, { transactionBatch: (client, records) => insertAll(client, records) }),
 * });
 */
export function eachBatch<Transaction>(
  inbox: Inbox<Transaction>,
  options: KafkaBatchOptions & BatchHandler<KafkaRecord, Transaction>,
): (batch: KafkaBatch) => Promise<void> {
  const own = ["deadLetter", "signal", "size"];
  assertDeliveryOptions(inbox, options, "eachBatch()", own, ["batch", "transactionBatch"]);
  const { size = 500, signal, id: idOf, payload: payloadOf } = options;
  assertInteger(size, "size", 1, 10_000);
  if (signal !== undefined) assertMethods(signal, "signal", ["addEventListener"]);

  return async (given) => {
    const { topic, partition, messages } = given.batch;
    const items = messages.map((message): Item => {
      const record = { topic, partition, message };
      const named = namedBy(record);
      return {
        id: idOf ? idOf(record) : named.id,
        payload: payloadOf ? payloadOf(record) : named.payload,
        record,
      };
    });
    const stopBeating = beating({ everyMs: HEARTBEAT_MS, beat: () => given.heartbeat() });
    try {
      for (let at = 0; at < items.length; at += size) {
        const part = items.slice(at, at + size);
        await insist(part, given);
        given.resolveOffset(part.at(-1)!.record.message.offset);
        await given.commitOffsetsIfNecessary();
      }
    } finally {
      stopBeating();
    }
  };

  /** Delivers again what is not done with. Throws rather than let `kafkajs` pass what was not handled. */
  async function insist(items: readonly Item[], { isRunning, isStale }: KafkaBatch): Promise<void> {
    for (let left = items; left.length > 0; ) {
      if (!isRunning() || isStale() || signal?.aborted) throw new Stopped();
      const deliveries = await deliver(left);
      const delays = await Promise.all(
        left.map(({ record }, index) => settle(record, deliveries[index]!)),
      );
      left = left.filter((_, index) => delays[index]! > 0);
      if (left.length > 0) await paused(Math.max(...delays), signal);
    }
  }

  async function deliver(items: readonly Item[]): Promise<Delivery[]> {
    const { batch, transactionBatch } = options;
    const recordsOf = (fresh: readonly Item[]) => fresh.map(({ record }) => record);
    try {
      return batch
        ? await inbox.processBatch(items, (fresh) => batch(recordsOf(fresh)))
        : await inbox.transactionBatch(items, (tx, fresh) =>
            transactionBatch(tx, recordsOf(fresh)),
          );
    } catch (error) {
      return items.map(() => ({ kind: "failed", attempt: 0, error, retryAfterMs: RETRY_LATER_MS }));
    }
  }

  /** @returns after how many milliseconds it is to be delivered again; 0: it is done with */
  async function settle(message: KafkaRecord, delivery: Delivery): Promise<number> {
    let delayMs = 0;
    let unsettled: unknown;
    switch (delivery.kind) {
      case "processed":
      case "duplicate":
        break;
      case "busy":
      case "failed":
        delayMs = Math.max(RETRY_MS_MIN, delivery.retryAfterMs);
        break;
      default:
        try {
          await options.deadLetter?.(message, `${delivery.kind}: ${messageOf(delivery.error)}`);
        } catch (error) {
          unsettled = error;
          delayMs = RETRY_LATER_MS;
        }
    }
    reported(options, { message, delivery, ...(unsettled !== undefined && { unsettled }) });
    return delayMs;
  }
}
