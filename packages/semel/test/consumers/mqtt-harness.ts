// MQTT for the consumer suite: clients with sessions that the broker keeps, which share a subscription.

import { randomBytes } from "node:crypto";
import { connect as connectTo } from "node:net";
import { connect, connectAsync, type MqttClient } from "mqtt";
import packets, { type Packet } from "mqtt-packet";
import { consumeMqtt, type MqttMessage } from "../../src/consumers/mqtt.ts";
import { mosquittoSource } from "../servers/mosquitto.ts";
import { findServer } from "../servers/server.ts";
import { type BrokerHarness, optionsOf, type Topic } from "./suite.ts";

const found = await findServer(mosquittoSource);
export const url = "url" in found ? found.url : "";
export const closeMosquitto = () => ("url" in found ? found.close() : undefined);
const KEEPALIVE_SECONDS = 1;
const SESSION = { clean: false, properties: { sessionExpiryInterval: 600 } };

export function mqttHarness(qos: 1 | 2): BrokerHarness {
  return {
    name: `mqtt, QoS ${qos}`,
    kind: "mqtt",
    missing: "reason" in found ? found.reason : undefined,
    // When the client gives up a broker of which it hears nothing.
    redeliverAfterMs: KEEPALIVE_SECONDS * 1_500,
    isConcurrent: true,
    open: () => openTopic(qos),
  };
}

const connected = (client: MqttClient) =>
  new Promise<unknown>((resolve) => client.once("connect", resolve));

async function openTopic(qos: 1 | 2): Promise<Topic> {
  const publisher = await connectAsync(url, { protocolVersion: 5 });
  const name = `semel/${randomBytes(6).toString("hex")}`;
  const topic = `$share/billing/${name}`;
  const letters: string[] = [];
  // A broker keeps a message for the session that it was sent to, so that who comes next goes on with it.
  const clientIds = [0, 1, 2].map((number) => `${name}/${number}`);
  const free = [...clientIds];
  const first = connect(url, { protocolVersion: 5, clientId: clientIds[0]!, ...SESSION });
  await connected(first);
  await first.subscribeAsync(topic, { qos });
  await first.endAsync();
  return {
    address: { url, topic, clientId: clientIds[0], qos },
    async publish(id, body) {
      const properties = { userProperties: { "idempotency-key": id } };
      await publisher.publishAsync(name, body, { qos, properties });
    },
    async consume(inbox, options) {
      const clientId = free.shift()!;
      const timing = { keepalive: KEEPALIVE_SECONDS, reconnectPeriod: 50 };
      const client = connect(url, { protocolVersion: 5, clientId, ...timing, ...SESSION });
      client.on("error", () => {});
      const consumption = consumeMqtt(inbox, client, topic, {
        qos,
        ...optionsOf(options, ({ payload }: MqttMessage) => String(payload)),
        ...(options.signal && { signal: options.signal }),
        deadLetter: ({ payload }) => letters.push(String(payload)),
      });
      await connected(client);
      let isOver = false;
      const end = async (isForced: boolean) => {
        if (isOver) return;
        isOver = true;
        free.unshift(clientId);
        await client.endAsync(isForced);
      };
      return {
        consumption,
        cut: () => end(true),
        async close() {
          await consumption.close();
          await end(false);
        },
      };
    },
    deadLetters: async () => letters,
    async remaining() {
      const counts = await Promise.all(clientIds.map((clientId) => unacknowledged(clientId)));
      return counts.reduce((sum, count) => sum + count, 0);
    },
    async close() {
      for (const clientId of clientIds) {
        await (await connectAsync(url, { protocolVersion: 5, clientId, clean: true })).endAsync();
      }
      await publisher.endAsync();
    },
  };

  /** What a broker sends in a session before a message that is published now, unacknowledged. */
  async function unacknowledged(clientId: string): Promise<number> {
    const { hostname, port } = new URL(url);
    const socket = connectTo(Number(port || 1883), hostname);
    const parser = packets.parser({ protocolVersion: 5 });
    socket.on("data", (bytes) => parser.parse(bytes));
    const send = (packet: Packet) => socket.write(packets.generate(packet, { protocolVersion: 5 }));
    const protocol = { protocolId: "MQTT", protocolVersion: 5 } as const;
    send({ cmd: "connect", clientId, keepalive: 0, ...protocol, ...SESSION });
    const last = `probe/${name}`;
    let count = 0;
    await new Promise<void>((resolve, reject) => {
      socket.once("error", reject);
      parser.on("packet", (packet) => {
        if (packet.cmd === "connack") {
          send({ cmd: "subscribe", messageId: 1, subscriptions: [{ topic: last, qos: 0 }] });
        } else if (packet.cmd === "suback") {
          const settings = { qos: 0, dup: false, retain: false } as const;
          send({ cmd: "publish", topic: last, payload: "", ...settings });
        } else if (packet.cmd === "publish") {
          if (packet.topic === last) resolve();
          else count++;
        }
      });
    }).finally(() => socket.destroy());
    return count;
  }
}
