// A broker that may deliver a message again after the inbox has forgotten it is warned of, where it says
// for how long.

import { randomBytes } from "node:crypto";
import { AckPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect as connectNats } from "@nats-io/transport-node";
import { connect as connectMqtt } from "mqtt";
import { afterAll, afterEach, describe, expect, test, vi } from "vitest";
import { consumeMqtt } from "../../src/consumers/mqtt.ts";
import { consumeJetStream } from "../../src/consumers/nats.ts";
import { consumeSqs } from "../../src/consumers/sqs.ts";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { createInbox } from "../../src/engine/inbox/inbox.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { startSqs } from "../servers/sqs.ts";
import { closeMosquitto, mqttHarness, url as mqttUrl } from "./mqtt-harness.ts";
import { natsHarness, url as natsUrl } from "./nats-harness.ts";
import { until } from "./suite.ts";

const sqs = await startSqs();
afterAll(async () => {
  await sqs.close();
  await closeMosquitto();
});

const warn = vi.spyOn(process, "emitWarning").mockImplementation(() => {});
afterEach(() => warn.mockClear());
const said = () => warn.mock.calls.map(([text]) => String(text));

const DAY_S = 86_400;
const name = () => `semel-${randomBytes(6).toString("hex")}`;
const inboxFor = (retention: `${number}d`) =>
  createInbox(new Idempotency({ store: memoryStore() }), "billing", { retention });

/** Consumes until a message was handled: by then what there is to say was said. */
function handling() {
  let handled = 0;
  return { handler: () => void handled++, done: () => until(() => handled > 0) };
}

describe("SQS, by the retention period of the queue", () => {
  const consumed = async (retention: `${number}d`, isAllowed = true) => {
    const { client } = sqs;
    const { QueueUrl } = await client.createQueue({
      QueueName: name(),
      Attributes: { MessageRetentionPeriod: String(14 * DAY_S) },
    });
    await client.sendMessage({ QueueUrl, MessageBody: "one" });
    const { handler, done } = handling();
    const refused = { getQueueAttributes: () => Promise.reject(new Error("AccessDenied")) };
    const asked = isAllowed ? client : Object.assign(Object.create(client), refused);
    const consumption = consumeSqs(inboxFor(retention), asked, QueueUrl!, {
      handler,
      waitTime: "1s",
    });
    await done();
    await consumption.close();
    return said();
  };

  test("MSG-2: a shorter memory is warned of", async () => {
    expect(await consumed("13d")).toEqual([
      `The inbox of "billing" remembers messages for ${13 * DAY_S}000 ms, but the queue may deliver one again for ${14 * DAY_S}000 ms: set a longer \`retention\``,
    ]);
  });

  test("a memory as long is not, nor is a queue that may not be asked", async () => {
    expect(await consumed("14d")).toEqual([]);
    expect(await consumed("1d", false)).toEqual([]);
  });
});

describe.skipIf(natsHarness.missing)("JetStream, by `ack_wait` and `max_deliver`", () => {
  const consumed = async (max_deliver: number) => {
    const connection = await connectNats({ servers: natsUrl });
    const [js, manager] = [jetstream(connection), await jetstreamManager(connection)];
    const stream = name();
    await manager.streams.add({ name: stream, subjects: [stream] });
    await manager.consumers.add(stream, {
      durable_name: "billing",
      ack_policy: AckPolicy.Explicit,
      ack_wait: 3_600 * 1e9,
      max_deliver,
    });
    await js.publish(stream, "one");
    const { handler, done } = handling();
    const consumer = await js.consumers.get(stream, "billing");
    const consumption = consumeJetStream(inboxFor("1d"), consumer, { handler });
    await done();
    await consumption.close();
    await manager.streams.delete(stream);
    await connection.close();
    return said();
  };

  test("MSG-2: a shorter memory is warned of", async () => {
    expect(await consumed(25)).toEqual([
      expect.stringContaining("the JetStream consumer may deliver one again for 90000000 ms"),
    ]);
  });

  test("a memory as long is not, nor is a consumer without a bound", async () => {
    expect(await consumed(24)).toEqual([]);
    expect(await consumed(-1)).toEqual([]);
  });
});

describe.skipIf(mqttHarness(1).missing)("MQTT, by the session's expiry", () => {
  const consumed = async (sessionExpiryInterval: number) => {
    const topic = name();
    const settings = { protocolVersion: 5, clientId: topic, reconnectPeriod: 0 } as const;
    const client = connectMqtt(mqttUrl, {
      ...settings,
      clean: false,
      properties: { sessionExpiryInterval },
    });
    const consumption = consumeMqtt(inboxFor("7d"), client, topic, {
      handler() {},
      deadLetter() {},
    });
    await new Promise((resolve) => client.once("connect", resolve));
    await consumption.close();
    await client.endAsync();
    const last = connectMqtt(mqttUrl, { ...settings, clean: true });
    await new Promise((resolve) => last.once("connect", resolve));
    await last.endAsync();
    return said();
  };

  test("MSG-2: a shorter memory is warned of, and one that is not for ever where the session is", async () => {
    expect(await consumed(7 * DAY_S + 1)).toEqual([
      expect.stringContaining("the MQTT session may deliver one again for 604801000 ms"),
    ]);
    warn.mockClear();
    expect(await consumed(0xffff_ffff)).toEqual([expect.stringContaining("again at any time")]);
  });

  test("a memory as long is not", async () => {
    expect(await consumed(7 * DAY_S)).toEqual([]);
  });
});
