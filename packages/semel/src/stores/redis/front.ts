// Redis in front of a durable store (ST-6): copies of finished results, which all processes share and
// which the server forgets by itself. It may lose or evict any of them.

import { InvalidOption } from "../../errors.ts";
import { assertKnownOptions } from "../../options.ts";
import type { RecordId } from "../../store.ts";
import type { Front } from "../tiered.ts";
import { connectionOf, type RedisClient } from "./clients.ts";

export interface RedisFrontOptions {
  /** What every key begins with. @default "semel-front:" */
  prefix?: string | undefined;
}

/**
 * A front in Redis or Valkey, on a server or a Cluster. Unlike the store in Redis it needs neither
 * persistence nor an eviction policy that keeps everything: a copy that is gone costs a look into the
 * durable store.
 *
 * @param client of `ioredis` (or `iovalkey`) or of `redis`; it is never closed here
 * @throws {InvalidOption} when the client is neither, or an option is wrong
 * @example const store = tieredStore({ truth: postgresStore(pool), front: redisFront(new Redis()) });
 */
export function redisFront(client: RedisClient, options: RedisFrontOptions = {}): Front {
  assertKnownOptions(options, ["prefix"], "redisFront()");
  const { prefix = "semel-front:" } = options;
  if (typeof prefix !== "string") throw new InvalidOption("`prefix` must be a string");
  const connection = connectionOf(client);
  return {
    async get(id: RecordId) {
      const key = prefix + id;
      // Sent together, in one round trip; both go to the one server that has the key.
      const [bytes, remainingMs] = await Promise.all([
        connection.send(key, ["GET", key]),
        connection.send(key, ["PTTL", key]),
      ]);
      // Less than nothing where it ended between the two.
      if (!(bytes instanceof Uint8Array) || Number(remainingMs) <= 0) return undefined;
      return { bytes, remainingMs: Number(remainingMs) };
    },
    async set(id, bytes, lifeMs) {
      const key = prefix + id;
      const value = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      const life = String(Math.max(1, Math.floor(lifeMs)));
      await connection.send(key, ["SET", key, value, "PX", life]);
    },
    async delete(id) {
      await connection.send(prefix + id, ["DEL", prefix + id]);
    },
  };
}
