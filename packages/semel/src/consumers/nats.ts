// NATS JetStream: acknowledged after the commit, given back with a delay while busy, kept alive while
// the handler runs (MSG-2).

import type { Inbox } from "../engine/inbox/inbox.ts";
import { InvalidOption } from "../errors.ts";
import { assertMethods, shown } from "../options.ts";
import { type ConsumeOptions, type Consumption, Intake } from "./consumption.ts";
import type { MessageHandler, Settling } from "./deliveries.ts";

export { type JetStreamPublisher, publishJetStream } from "../producers/nats.ts";
export type { ConsumeOptions, Consumption } from "./consumption.ts";
export type { BatchHandler, DeliveryReport, MessageHandler } from "./deliveries.ts";

/** A `JsMsg` of `@nats-io/jetstream`. */
export interface JetStreamMessage {
  readonly data: Uint8Array;
  readonly headers?: { get(name: string): string } | undefined;
  readonly info: { readonly stream: string; readonly streamSequence: number };
  ack(): void;
  nak(delayMs?: number): void;
  working(): void;
  term(reason?: string): void;
}

/** A pull consumer of `@nats-io/jetstream`: `await js.consumers.get(stream, durable)`. */
export interface JetStreamConsumer<Message extends JetStreamMessage> {
  info(cached?: boolean): Promise<{
    config: { ack_policy?: string; ack_wait?: number; max_deliver?: number };
  }>;
  fetch(options: {
    max_messages: number;
    expires: number;
  }): Promise<AsyncIterable<Message> & { stop(): void }>;
}

export interface JetStreamOptions<Message> extends ConsumeOptions<Message> {
  /**
   * Keeps a dead letter, before JetStream is told to deliver it no more: publish it to a stream of
   * its own. @default it stays in its stream as far as that stream's limits keep it
   */
  deadLetter?: ((message: Message, reason: string) => unknown) | undefined;
  /** Sends the reason with `term()`, which needs NATS 2.11: older servers ignore such a `term`. @default false */
  termReason?: boolean | undefined;
}

const NANOSECONDS = 1_000_000;
const ACK_WAIT_DEFAULT = 30_000 * NANOSECONDS;
/** One pull waits this long for messages. */
const PULL_MS = 5_000;

/**
 * Consumes a JetStream pull consumer through an inbox.
 *
 * The id is the header `Nats-Msg-Id`, which is also the same when the publisher publishes again;
 * without it stream and sequence, which is the same for redeliveries only.
 *
 * @param consumer of `ack_policy` "explicit"; with another one `closed` rejects with `InvalidOption`
 * @throws {InvalidOption}
 * @example
 * const consumer = await jetstream(connection).consumers.get("ORDERS", "billing");
 * const consumption = consumeJetStream(inbox, consumer, {
 *   handler: (message) => bill(message.json()),
 * });
 * await consumption.closed;
 */
export function consumeJetStream<Message extends JetStreamMessage, Transaction>(
  inbox: Inbox<Transaction>,
  consumer: JetStreamConsumer<Message>,
  options: JetStreamOptions<Message> & MessageHandler<Message, Transaction>,
): Consumption {
  const intake = new Intake(inbox, options, "consumeJetStream()", ["deadLetter", "termReason"]);
  assertMethods(consumer, "consumer", ["info", "fetch"]);
  return intake.start(async () => {
    const { config } = await consumer.info(true);
    assertExplicit(config.ack_policy);
    const { ack_wait = ACK_WAIT_DEFAULT, max_deliver = -1 } = config;
    const ackWaitMs = ack_wait / NANOSECONDS;
    if (max_deliver > 0) inbox.expectRedelivery(ackWaitMs * max_deliver, "the JetStream consumer");
    // The client connects again by itself, until it is closed.
    await intake.poll((room) => pull(room, ackWaitMs / 3), isClosed);
  });

  async function pull(room: number, beatMs: number): Promise<void> {
    // No more than can be handled: what waits in a buffer has its time to be acknowledged run out.
    const batch = await consumer.fetch({ max_messages: room, expires: PULL_MS });
    const stop = () => batch.stop();
    if (intake.stopping.aborted) stop();
    intake.stopping.addEventListener("abort", stop, { once: true });
    try {
      for await (const message of batch) receive(message, beatMs);
    } finally {
      intake.stopping.removeEventListener("abort", stop);
    }
  }

  function receive(message: Message, everyMs: number): void {
    const { stream, streamSequence } = message.info;
    const id = message.headers?.get("Nats-Msg-Id") || `${stream}:${streamSequence}`;
    const settling: Settling = {
      heartbeat: { everyMs, beat: () => message.working() },
      ack: () => message.ack(),
      retry: (delayMs) => message.nak(delayMs),
      async reject(reason) {
        await options.deadLetter?.(message, reason);
        if (options.termReason) message.term(reason);
        else message.term();
      },
    };
    void intake.receive(message, { id, payload: message.data }, settling);
  }
}

/** "none" has the server take for handled what it has sent, "all" whatever came before what is acknowledged. */
function assertExplicit(policy: unknown): void {
  if (policy === "explicit") return;
  throw new InvalidOption(
    `\`consumer\` has the ack_policy ${shown(policy)}, with which messages that nobody handled are never delivered again; make a durable consumer with \`ack_policy: "explicit"\``,
  );
}

function isClosed(error: unknown): boolean {
  const name = error instanceof Error ? error.name : "";
  return name === "ClosedConnectionError" || name === "DrainingConnectionError";
}
