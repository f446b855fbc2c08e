// JetStream for the consumer suite: a stream with a durable consumer, and a stream of dead letters.

import { randomBytes } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import { AckPolicy, type JsMsg, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";
import { consumeJetStream } from "../../src/consumers/nats.ts";
import { natsSource } from "../servers/nats.ts";
import { findServer } from "../servers/server.ts";
import { type BrokerHarness, optionsOf, type Topic } from "./suite.ts";

const found = await findServer(natsSource);
export const url = "url" in found ? found.url : "";
export const ACK_WAIT_MS = 600;
const NANOSECONDS = 1_000_000;

export const natsHarness: BrokerHarness = {
  name: "nats",
  missing: "reason" in found ? found.reason : undefined,
  redeliverAfterMs: ACK_WAIT_MS,
  open: () => openTopic(url),
};

/** The same with a handler of batches. */
export const natsBatchHarness: BrokerHarness = {
  ...natsHarness,
  name: "nats, in batches",
  kind: "nats",
  open: () => openTopic(url, true),
};

export async function openTopic(servers: string, isBatched = false): Promise<Topic> {
  const connection = await connect({ servers });
  const js = jetstream(connection);
  const manager = await jetstreamManager(connection);
  const stream = `SEMEL_${randomBytes(6).toString("hex")}`;
  const dead = `${stream}_DEAD`;
  const duplicate_window = 100 * NANOSECONDS;
  await manager.streams.add({ name: stream, subjects: [stream], duplicate_window });
  await manager.streams.add({ name: dead, subjects: [dead] });
  await manager.consumers.add(stream, {
    durable_name: "billing",
    ack_policy: AckPolicy.Explicit,
    ack_wait: ACK_WAIT_MS * NANOSECONDS,
  });
  return {
    address: { servers, stream },
    async publish(id, body) {
      // The server knows the id for a while, and drops what is published again.
      while ((await js.publish(stream, body, { msgID: id })).duplicate) await delay(20);
    },
    async consume(inbox, options) {
      const own = await connect({ servers, reconnectTimeWait: 50, maxReconnectAttempts: -1 });
      const source = await jetstream(own).consumers.get(stream, "billing");
      const consumption = consumeJetStream(inbox, source, {
        ...optionsOf(options, (message: JsMsg) => message.string(), isBatched),
        ...(options.signal && { signal: options.signal }),
        deadLetter: (message: JsMsg) => js.publish(dead, message.data),
        onTrouble: () => {},
      });
      return {
        consumption,
        cut: () => own.close(),
        async close() {
          await consumption.close();
          if (!own.isClosed()) await own.drain();
        },
      };
    },
    async deadLetters() {
      const { messages } = (await manager.streams.info(dead)).state;
      const places = Array.from({ length: messages }, (_, index) => index + 1);
      const letters = places.map((seq) => manager.streams.getMessage(dead, { seq }));
      return (await Promise.all(letters)).map((letter) => letter!.string());
    },
    async remaining() {
      const { num_pending, num_ack_pending } = await manager.consumers.info(stream, "billing");
      return num_pending + num_ack_pending;
    },
    async close() {
      await manager.streams.delete(stream);
      await manager.streams.delete(dead);
      await connection.close();
    },
  };
}
