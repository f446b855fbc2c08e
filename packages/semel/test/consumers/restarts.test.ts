// Brokers that are killed and come back: clients that connect again by themselves go on consuming.

import { afterAll, expect, test } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { createInbox } from "../../src/engine/inbox/inbox.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { startNats } from "../servers/nats.ts";
import { startRedis } from "../servers/redis.ts";
import type { PrivateServer } from "../servers/server.ts";
import { openTopic as openNatsTopic } from "./nats-harness.ts";
import {
  openIoredis,
  openNodeRedis,
  openTopic as openRedisTopic,
} from "./redis-streams-harness.ts";
import { type Topic, until } from "./suite.ts";

const durable = ["--appendonly", "yes", "--appendfsync", "always"];
const [nats, redis] = await Promise.all([startNats(), startRedis(durable)]);
if (!(nats && redis) && process.env["SEMEL_REQUIRE_SERVICES"]) {
  throw new Error("no nats-server or redis-server binary on this machine");
}

afterAll(() => Promise.all([nats?.close(), redis?.close()]));

const brokers: [string, PrivateServer | undefined, (url: string) => Promise<Topic>][] = [
  ["NATS", nats, openNatsTopic],
  ["Redis, through ioredis,", redis, (url) => openRedisTopic(url, openIoredis)],
  ["Redis, through redis,", redis, (url) => openRedisTopic(url, openNodeRedis)],
];

for (const [name, server, open] of brokers) {
  const skipped = server ? "" : " (skipped: no binary on this machine)";
  test.skipIf(!server)(
    `MSG-2: ${name} killed and started again, is consumed on${skipped}`,
    async () => {
      const topic = await open(server!.url);
      const inbox = createInbox(new Idempotency({ store: memoryStore() }), "restarts");
      const handled: string[] = [];
      const consumer = await topic.consume(inbox, {
        handler: (body) => handled.push(body),
        onDelivery: () => {},
      });
      await topic.publish("m-1", "one");
      await until(() => handled.length === 1);
      await server!.kill();
      await server!.start();
      // The publisher's own connection has to come back first.
      await until(() =>
        topic.publish("m-2", "two").then(
          () => true,
          () => false,
        ),
      );
      await until(() => handled.includes("two"));
      await consumer.close();
      await until(async () => (await topic.remaining()) === 0);
      expect(handled).toEqual(["one", "two"]);
      await topic.close();
    },
  );

  test.skipIf(!server)(
    `MSG-2: ${name} killed in the middle of a batch, repeats nothing of it, and is told of all of it${skipped}`,
    async () => {
      const topic = await open(server!.url);
      const inbox = createInbox(new Idempotency({ store: memoryStore() }), "restarts");
      const handled: string[] = [];
      const done = new Set<string>();
      let letGo = () => {};
      const opened = new Promise<void>((resolve) => {
        letGo = resolve;
      });
      const bodies = Array.from({ length: 5 }, (_, index) => `body ${index}`);
      for (const body of bodies) await topic.publish(body, body);
      const consumer = await topic.consume(inbox, {
        async batch(given) {
          for (const body of given) {
            handled.push(body);
            await opened;
          }
        },
        onDelivery: ({ kind }, body) => {
          if (kind === "processed" || kind === "duplicate") done.add(body);
        },
      });
      await until(() => handled.length > 0);
      await server!.kill();
      letGo();
      // Handled and recorded, while there is nobody to acknowledge it to.
      await until(() => inbox.counts.processed > 0);
      await server!.start();
      await until(() => done.size === bodies.length);
      await until(() =>
        topic.remaining().then(
          (count) => count === 0,
          () => false,
        ),
      );
      await consumer.close();
      expect(handled.toSorted()).toEqual(bodies);
      await topic.close();
    },
  );
}
