// MQTT through `mqtt`: a message of QoS 1 or 2 is acknowledged after the commit, one that is busy or
// failed is kept until it is done with, the connection is kept alive meanwhile (MSG-2).

import type { Inbox } from "../engine/inbox/inbox.ts";
import { InvalidOption } from "../errors.ts";
import { assertMethods, assertOneOf } from "../options.ts";
import { ID_NAME } from "../producers/effect.ts";
import { type ConsumeOptions, type Consumption, endOf, Intake } from "./consumption.ts";
import type { MessageHandler } from "./deliveries.ts";
import {
  assertLastingSession,
  type MqttConsumer,
  type MqttMessage,
  sessionMs,
} from "./mqtt-client.ts";

export { type MqttPublisher, type MqttPublishOptions, publishMqtt } from "../producers/mqtt.ts";
export type { ConsumeOptions, Consumption } from "./consumption.ts";
export type { BatchHandler, DeliveryReport, MessageHandler } from "./deliveries.ts";
export type { MqttConsumer, MqttMessage, MqttPacket } from "./mqtt-client.ts";

export interface MqttOptions extends ConsumeOptions<MqttMessage> {
  /** @default 1 */
  qos?: 1 | 2 | undefined;
  /**
   * Keeps a dead letter, before it is acknowledged and so lost to the broker: publish it to a topic of
   * its own, through another client, as this one hears nothing while it handles a message.
   */
  deadLetter: (message: MqttMessage, reason: string) => unknown;
}

/**
 * Consumes a topic of MQTT through an inbox, one message after the other: for more at once, several
 * clients share a subscription, `$share/<group>/<topic>`.
 *
 * The id is the user property `idempotency-key` of MQTT 5, which {@link publishMqtt} sets; MQTT has none
 * of its own that outlives a connection.
 *
 * @param client not yet connected, with `clean: false` and in MQTT 5 a `sessionExpiryInterval`, so that
 * what it has not acknowledged and what comes meanwhile is kept for it
 * @throws {InvalidOption}
 * @example
 * const client = mqtt.connect(url, { protocolVersion: 5, clientId: "billing-1", clean: false,
 *   properties: { sessionExpiryInterval: 604_800 } });
 * const consumption = consumeMqtt(inbox, client, "orders", { handler, deadLetter });
 * await consumption.closed;
 */
export function consumeMqtt<Transaction>(
  inbox: Inbox<Transaction>,
  client: MqttConsumer,
  topic: string,
  options: MqttOptions & MessageHandler<MqttMessage, Transaction>,
): Consumption {
  const { qos = 1, deadLetter } = options;
  const intake = new Intake(inbox, options, "consumeMqtt()", ["qos", "deadLetter"]);
  assertMethods(client, "client", ["subscribeAsync", "handleMessage", "sendPing", "on"]);
  assertMethods(options, "options", ["deadLetter"]);
  assertOneOf(String(qos), ["1", "2"], "qos");
  if (client.connected) {
    throw new InvalidOption(
      "`client` is connected, and may have acknowledged messages that nobody handled: call consumeMqtt() right after connect()",
    );
  }
  assertLastingSession(client);
  inbox.expectRedelivery(sessionMs(client), "the MQTT session");
  let connections = 0;
  // Before the acknowledgement, of QoS 2 too: `mqtt` keeps what it has received in memory only.
  client.options.customHandleAcks = (topic, payload, packet, done) =>
    void receive({ topic, payload, packet }, () => done(0));
  client.handleMessage = (packet, done) => {
    const { qos, topic, payload } = packet;
    if (qos > 0) done();
    else void receive({ topic, payload: Buffer.from(payload), packet }, done);
  };
  const ended = endOf(intake.stopping);
  client.on("close", () => {
    connections++;
    if (!client.reconnecting) ended.fail(new Error("The MQTT client was closed"));
  });
  return intake.start(async () => {
    const onConnect = () => client.subscribeAsync(topic, { qos }).catch(ended.fail);
    // Afterwards the client subscribes again by itself, where the broker has lost the session.
    client.once("connect", onConnect);
    await ended.promise.finally(() => client.removeListener("connect", onConnect));
  });

  async function receive(message: MqttMessage, acknowledge: () => void): Promise<void> {
    const header = message.packet.properties?.userProperties?.[ID_NAME];
    const named = { id: Array.isArray(header) ? header[0] : header, payload: message.payload };
    const connection = connections;
    const isDone = await intake.keep(message, named, {
      ...(client.keepalive > 0 && { heartbeat: { everyMs: client.keepalive * 333, beat } }),
      reject: (reason) => deadLetter(message, reason),
    });
    // On another connection the broker delivers it again, and its number may be another message's.
    if (isDone && connection === connections) acknowledge();
  }

  /** While a message is handled the client reads nothing, and would take the broker for dead. */
  function beat(): void {
    if (!client.connected) return;
    client.sendPing();
    client.reschedulePing(true);
  }
}
