// BullMQ: a job completes after the commit, is delayed while busy or failed, and fails for good as a
// dead letter. The worker itself keeps its lock alive (MSG-2).

import type { Inbox } from "../engine/inbox/inbox.ts";
import { Deliveries, type DeliveryOptions, type MessageHandler, type Named } from "./deliveries.ts";

export { type BullPublishOptions, type BullQueue, publishBull } from "../producers/bullmq.ts";
export type { BatchHandler, DeliveryReport, MessageHandler } from "./deliveries.ts";

/** A `Job` of `bullmq`. */
export interface BullJob {
  readonly id?: string | undefined;
  readonly name: string;
  readonly data: unknown;
  /** When it was added. */
  readonly timestamp: number;
  readonly queueName: string;
  moveToDelayed(timestamp: number, token?: string): Promise<void>;
}

/**
 * Makes the processor of a worker. Retries are the inbox's: its `attemptsMax` counts, not the job's
 * `attempts`.
 *
 * The id is queue and job id. Where BullMQ counted the job id up by itself, the job's time is part of it,
 * because a queue that is emptied counts anew: it is then the same for redeliveries only.
 *
 * @returns a processor that returns how the job was settled
 * @throws {InvalidOption}
 * @example
 * const worker = new Worker("orders", bullProcessor(inbox, { handler: (job) => bill(job.data) }), {
 *   connection,
 *   maxStalledCount: 10,
 * });
 */
export function bullProcessor<Job extends BullJob, Transaction>(
  inbox: Inbox<Transaction>,
  options: DeliveryOptions<Job> & MessageHandler<Job, Transaction>,
): (job: Job, token?: string) => Promise<"settled"> {
  const deliveries = new Deliveries(inbox, options, "bullProcessor()");
  return async (job, token) => {
    let failure: Error | undefined = new Error("The job could not be given back to its queue");
    await deliveries.settle(job, namedBy(job), {
      ack() {
        failure = undefined;
      },
      async retry(delayMs) {
        await job.moveToDelayed(Date.now() + delayMs, token);
        failure = new Thrown("DelayedError", "The job will be processed later");
      },
      reject(reason) {
        failure = new Thrown("UnrecoverableError", reason);
      },
    });
    if (failure) throw failure;
    return "settled";
  };
}

function namedBy({ queueName, id, timestamp, data }: BullJob): Named {
  const isCounted = id === undefined || /^\d+$/.test(id);
  return { id: `${queueName}:${id}${isCounted ? `:${timestamp}` : ""}`, payload: data };
}

/** An error as `bullmq` knows its own: by name, so that its package need not be loaded here. */
class Thrown extends Error {
  override readonly name: string;
  constructor(name: "DelayedError" | "UnrecoverableError", message: string) {
    super(message);
    this.name = name;
  }
}
