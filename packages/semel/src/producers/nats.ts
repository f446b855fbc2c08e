// Effects to NATS JetStream: the id as `Nats-Msg-Id`, by which a stream knows what it got of late.

import { assertMethods } from "../options.ts";
import {
  type PerEffect,
  type Publish,
  type PublishOptions,
  perEffect,
  publisher,
} from "./effect.ts";

/** `jetstream(connection)` of `@nats-io/jetstream`. */
export interface JetStreamPublisher {
  publish(subject: string, data: Uint8Array, options: { msgID: string }): Promise<unknown>;
}

/**
 * Publishes effects to a subject; resolves once its stream has a message. A stream ignores what it got
 * within its `duplicate_window`; later, the consumer's inbox knows it.
 *
 * @throws {InvalidOption}
 * @example relay({ "order-placed": publishJetStream(jetstream(connection), "orders.placed") });
 */
export function publishJetStream(
  js: JetStreamPublisher,
  subject: PerEffect<string>,
  options: PublishOptions = {},
): Publish {
  assertMethods(js, "js", ["publish"]);
  const subjectOf = perEffect(subject, "subject");
  return publisher("publishJetStream()", options, [], (effect, data) =>
    js.publish(subjectOf(effect), data, { msgID: effect.id }),
  );
}
