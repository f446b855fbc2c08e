// BullMQ for the consumer suite: a queue and its workers, on Redis.

import { randomBytes } from "node:crypto";
import { type Job, Queue, Worker } from "bullmq";
import { Redis } from "ioredis";
import { bullProcessor } from "../../src/consumers/bullmq.ts";
import { redisSource } from "../servers/redis.ts";
import { findServer } from "../servers/server.ts";
import { type BrokerHarness, consumptionOf, optionsOf, type Topic } from "./suite.ts";

const found = await findServer(redisSource);
const url = new URL("url" in found ? found.url : "redis://127.0.0.1");
export const connection = { host: url.hostname, port: Number(url.port || 6379) };
export const closeRedis = () => ("url" in found ? found.close() : undefined);
const LOCK_MS = 600;

export const bullmqHarness: BrokerHarness = {
  name: "bullmq",
  missing: "reason" in found ? found.reason : undefined,
  redeliverAfterMs: LOCK_MS,
  isSilent: true,
  isConcurrent: true,
  open: openTopic,
};

async function openTopic(): Promise<Topic> {
  const name = `semel-${randomBytes(6).toString("hex")}`;
  const queue = new Queue(name, { connection });
  let published = 0;
  return {
    address: { connection, queue: name },
    async publish(id, body) {
      // A queue ignores a job whose id it still has.
      const data = { id, body, number: published++ };
      await queue.add("suite", data);
    },
    async consume(inbox, { payload = (body) => body, signal, ...options }) {
      const processor = bullProcessor(inbox, {
        ...optionsOf({ ...options, payload }, (job: Job): string => job.data.body),
        id: (job: Job) => job.data.id,
      });
      const { concurrency } = inbox;
      const timing = { lockDuration: LOCK_MS, stalledInterval: 300, maxStalledCount: 10 };
      // Of a connection that is given, the worker makes a second one for itself, which ends with it.
      const own = new Redis({ ...connection, maxRetriesPerRequest: null });
      own.on("error", () => {});
      const worker = new Worker(name, processor, { connection: own, concurrency, ...timing });
      worker.on("error", () => {});
      await worker.waitUntilReady();
      let isCut = false;
      const consumption = consumptionOf(async () => {
        if (!isCut) await worker.close();
        own.disconnect();
      });
      signal?.addEventListener("abort", consumption.close, { once: true });
      return {
        consumption,
        async cut() {
          // Its commands and its lock end with it; the handler does not know.
          isCut = true;
          void worker.close(true).catch(() => {});
          own.disconnect();
        },
        close: consumption.close,
      };
    },
    async deadLetters() {
      return (await queue.getFailed()).map((job) => job.data.body);
    },
    async remaining() {
      const { active, delayed, waiting } = await queue.getJobCounts();
      return active! + delayed! + waiting!;
    },
    async close() {
      await queue.obliterate({ force: true });
      await queue.close();
    },
  };
}
