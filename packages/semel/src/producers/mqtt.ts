// Effects to MQTT 5: the id in a user property, as MQTT knows no message by name.

import { InvalidOption } from "../errors.ts";
import { assertMethods, assertOneOf } from "../options.ts";
import {
  ID_NAME,
  type PerEffect,
  type Publish,
  type PublishOptions,
  perEffect,
  publisher,
} from "./effect.ts";

/** `connect()` of `mqtt`, with `protocolVersion: 5`. */
export interface MqttPublisher {
  readonly options: { protocolVersion?: number | undefined };
  publishAsync(
    topic: string,
    payload: Buffer,
    options: { qos: 1 | 2; properties: { userProperties: Record<string, string> } },
  ): Promise<unknown>;
}

export interface MqttPublishOptions extends PublishOptions {
  /** @default 1 */
  qos?: 1 | 2 | undefined;
}

/**
 * Publishes effects to a topic; resolves once the broker has a message. The broker drops it where no
 * session subscribes, and the client does not pass on that it does: let consumers subscribe first.
 *
 * @throws {InvalidOption}
 * @example relay({ "order-placed": publishMqtt(client, "orders") });
 */
export function publishMqtt(
  client: MqttPublisher,
  topic: PerEffect<string>,
  options: MqttPublishOptions = {},
): Publish {
  assertMethods(client, "client", ["publishAsync"]);
  const topicOf = perEffect(topic, "topic");
  const { qos = 1 } = options;
  assertOneOf(String(qos), ["1", "2"], "qos");
  if (client.options.protocolVersion !== 5) {
    throw new InvalidOption("`client` must speak MQTT 5 to carry ids: `protocolVersion: 5`");
  }
  return publisher("publishMqtt()", options, ["qos"], (effect, payload) => {
    const properties = { userProperties: { [ID_NAME]: effect.id } };
    return client.publishAsync(topicOf(effect), payload, { qos, properties });
  });
}
