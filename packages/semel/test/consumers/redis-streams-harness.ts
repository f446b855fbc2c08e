// Redis Streams for the consumer suite, through each client.

import { randomBytes } from "node:crypto";
import { Redis } from "ioredis";
import { createClient } from "redis";
import {
  consumeStream,
  type RedisStreamClient,
  type StreamMessage,
} from "../../src/consumers/redis-streams.ts";
import { redisSource } from "../servers/redis.ts";
import { findServer } from "../servers/server.ts";
import { type BrokerHarness, optionsOf, type Topic } from "./suite.ts";

const found = await findServer(redisSource);
export const url = "url" in found ? found.url : "";
const missing = "reason" in found ? found.reason : undefined;
export const CLAIM_IDLE_MS = 300;

export interface OpenStreamClient {
  client: RedisStreamClient;
  close(): void;
}

export type OpenStream = (at: string) => Promise<OpenStreamClient>;

/** What a broken connection says is told by the commands that fail. */
const ignore = () => {};

export const openIoredis: OpenStream = async (at) => {
  const client = new Redis(at, { retryStrategy: () => 50 }).on("error", ignore);
  return { client, close: () => client.disconnect() };
};

export const openNodeRedis: OpenStream = async (at) => {
  const client = createClient({ url: at, socket: { reconnectStrategy: 50 } }).on("error", ignore);
  await client.connect();
  return { client, close: () => void (client.isOpen && client.destroy()) };
};

export function redisStreamsHarness(name: string, open: OpenStream): BrokerHarness {
  return {
    name,
    kind: "redis-streams",
    missing,
    redeliverAfterMs: CLAIM_IDLE_MS,
    open: () => openTopic(url, open),
  };
}

export async function openTopic(at: string, open: OpenStream): Promise<Topic> {
  const redis = new Redis(at).on("error", ignore);
  const stream = `semel:${randomBytes(6).toString("hex")}`;
  const group = "billing";
  await redis.xgroup("CREATE", stream, group, "0", "MKSTREAM");
  let consumers = 0;
  return {
    address: { url: at, stream, group },
    async publish(id, body) {
      await redis.xadd(stream, "*", "idempotency-key", id, "body", body);
    },
    async consume(inbox, options) {
      const [own, blocking] = [await open(at), await open(at)];
      const source = { client: own.client, blocking: blocking.client, stream, group };
      const consumption = consumeStream(inbox, source, {
        name: `consumer-${consumers++}`,
        claimIdle: CLAIM_IDLE_MS,
        ...optionsOf(options, ({ fields }: StreamMessage) => String(fields["body"])),
        ...(options.signal && { signal: options.signal }),
        onTrouble: ignore,
      });
      const cut = async () => {
        own.close();
        blocking.close();
      };
      return {
        consumption,
        cut,
        async close() {
          await consumption.close();
          await cut();
        },
      };
    },
    async deadLetters() {
      const letters = await redis.xrange(`${stream}:dead`, "-", "+");
      return letters.map(([, fields]) => fields[fields.indexOf("body") + 1]!);
    },
    async remaining() {
      const [state] = (await redis.xinfo("GROUPS", stream)) as unknown[][];
      const of = (name: string) => Number(state![state!.indexOf(name) + 1]);
      return of("pending") + of("lag");
    },
    async close() {
      await redis.del(stream, `${stream}:dead`);
      redis.disconnect();
    },
  };
}
