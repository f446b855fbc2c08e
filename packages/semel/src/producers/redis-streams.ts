// Effects to Redis Streams: the id in a field of the entry.

import { assertInteger } from "../options.ts";
import {
  ID_NAME,
  type PerEffect,
  type Publish,
  type PublishOptions,
  perEffect,
  publisher,
} from "./effect.ts";
import { type RedisStreamClient, sender } from "./redis-stream-client.ts";

export interface StreamPublishOptions extends PublishOptions {
  /**
   * Trims the stream to about so many entries: choose far more than are ever waiting, as Redis trims what
   * nobody has handled as well. @default it is not trimmed
   */
  lengthMax?: number | undefined;
}

/**
 * Adds effects to a stream, with the fields `idempotency-key`, `name` and `payload`. Redis itself knows no
 * duplicates; the consumer's inbox does.
 *
 * @throws {InvalidOption}
 * @example relay({ "order-placed": publishStream(client, "orders") });
 */
export function publishStream(
  client: RedisStreamClient,
  stream: PerEffect<string>,
  options: StreamPublishOptions = {},
): Publish {
  const send = sender(client, "client");
  const streamOf = perEffect(stream, "stream");
  const { lengthMax } = options;
  if (lengthMax !== undefined) assertInteger(lengthMax, "lengthMax", 1, Number.MAX_SAFE_INTEGER);
  const trim = lengthMax === undefined ? [] : ["MAXLEN", "~", String(lengthMax)];
  return publisher("publishStream()", options, ["lengthMax"], (effect, body) => {
    const fields = [ID_NAME, effect.id, "name", effect.name, "payload", body];
    return send("XADD", streamOf(effect), ...trim, "*", ...fields);
  });
}
