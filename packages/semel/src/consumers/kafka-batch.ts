// Kafka's `eachBatch`: many messages with one call of the handler, and their marks with one statement.

import type { Inbox } from "../engine/inbox/inbox.ts";
import { assertInteger, assertMethods } from "../options.ts";
import { type BatchHandler, beating, Deliveries } from "./deliveries.ts";
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
  size?: number | undefined;
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
  const { size = 500, signal, deadLetter } = options;
  const own = ["deadLetter", "signal", "size"];
  const handlers = ["batch", "transactionBatch"] as const;
  // Each batch has its own: those of other partitions neither wait for it nor fail with it.
  const open = () => new Deliveries(inbox, options, "eachBatch()", own, { handlers, size });
  // What is wrong about the options is told now, and not by the first batch.
  open();
  assertInteger(size, "size", 1, 10_000);
  if (signal !== undefined) assertMethods(signal, "signal", ["addEventListener"]);

  return async (given) => {
    const { topic, partition, messages } = given.batch;
    const deliveries = open();
    const isOver = () => !given.isRunning() || given.isStale();
    const insist = (message: KafkaMessage) => {
      const record = { topic, partition, message };
      const reject = (reason: string) => deadLetter?.(record, reason);
      return deliveries.insist(record, namedBy(record), { reject }, { signal, isOver });
    };
    const stopBeating = beating({ everyMs: HEARTBEAT_MS, beat: () => given.heartbeat() });
    try {
      for (let at = 0; at < messages.length; at += size) {
        const part = messages.slice(at, at + size);
        // Rather than let `kafkajs` pass what was not handled.
        if ((await Promise.all(part.map(insist))).includes(false)) throw new Stopped();
        given.resolveOffset(part.at(-1)!.offset);
        await given.commitOffsetsIfNecessary();
      }
    } finally {
      stopBeating();
    }
  };
}
