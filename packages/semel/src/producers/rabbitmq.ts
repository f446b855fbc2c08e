// Effects to RabbitMQ: the id as `message_id`, confirmed by the broker, refused where no queue takes them.

import { InvalidOption } from "../errors.ts";
import { assertMethods } from "../options.ts";
import {
  type PerEffect,
  type Publish,
  type PublishOptions,
  perEffect,
  publisher,
} from "./effect.ts";

/** `await connection.createConfirmChannel()` of `amqplib`. */
export interface RabbitPublisher {
  publish(
    exchange: string,
    routingKey: string,
    content: Buffer,
    options: { messageId: string; type: string; persistent: boolean; mandatory: boolean },
    confirmed: (error: unknown) => void,
  ): unknown;
  waitForConfirms(): Promise<void>;
  on(event: "return", listener: (message: Returned) => void): unknown;
}

interface Returned {
  readonly properties: { readonly messageId?: unknown };
}

export interface RabbitPublishOptions extends PublishOptions {
  /** The exchange. @default "" that which passes a message to the queue of its routing key's name */
  exchange?: string | undefined;
  /** Fails where no queue takes a message, which the broker would drop. @default true */
  mandatory?: boolean | undefined;
}

/**
 * Publishes effects to an exchange, persistently; resolves once the broker has confirmed a message.
 * RabbitMQ knows no duplicates; the consumer's inbox does, by the property `message_id`.
 *
 * @param routingKey with the default exchange, a queue's name
 * @throws {InvalidOption}
 * @example relay({ "order-placed": publishRabbit(await connection.createConfirmChannel(), "orders") });
 */
export function publishRabbit(
  channel: RabbitPublisher,
  routingKey: PerEffect<string>,
  options: RabbitPublishOptions = {},
): Publish {
  // Without confirmations nobody would ever know whether the broker has it.
  assertMethods(channel, "channel", ["publish", "waitForConfirms", "on"]);
  const routingKeyOf = perEffect(routingKey, "routingKey");
  const { exchange = "", mandatory = true } = options;
  if (typeof exchange !== "string") throw new InvalidOption("`exchange` must be a string");
  const returned = new Set<unknown>();
  channel.on("return", ({ properties }) => returned.add(properties.messageId));
  return publisher("publishRabbit()", options, ["exchange", "mandatory"], (effect, content) => {
    const { id: messageId, name: type } = effect;
    const to = routingKeyOf(effect);
    return new Promise<void>((resolve, reject) => {
      const settings = { messageId, type, persistent: true, mandatory };
      channel.publish(exchange, to, content, settings, (error) => {
        // What is returned is confirmed as well, afterwards.
        const isReturned = returned.delete(messageId);
        if (error) reject(error);
        else if (isReturned) reject(new Error(`No queue takes messages for ${to}`));
        else resolve();
      });
    });
  });
}
