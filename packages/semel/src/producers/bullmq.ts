// Effects to BullMQ: the id as the job's id, by which a queue knows a job that it still has.

import { hash } from "node:crypto";
import { InvalidOption } from "../errors.ts";
import { assertKnownOptions, assertMethods } from "../options.ts";
import type { Effect, Publish } from "./effect.ts";

/** A `Queue` of `bullmq`. */
export interface BullQueue {
  add(name: string, data: unknown, options: { jobId: string }): Promise<unknown>;
}

export interface BullPublishOptions {
  /** The data of a job; must be plain JSON. @default the payload */
  encode?: ((effect: Effect) => unknown) | undefined;
}

/**
 * Adds effects to a queue as jobs of the effect's name. A queue ignores a job whose id it still has; once
 * it has removed it, the worker's inbox knows it.
 *
 * @throws {InvalidOption}
 * @example relay({ "order-placed": publishBull(queue) });
 */
export function publishBull(queue: BullQueue, options: BullPublishOptions = {}): Publish {
  assertKnownOptions(options, ["encode"], "publishBull()");
  assertMethods(queue, "queue", ["add"]);
  const { encode = ({ payload }) => payload } = options;
  if (typeof encode !== "function") throw new InvalidOption("`encode` must be a function");
  return async (effect) => {
    effect.signal?.throwIfAborted();
    await queue.add(effect.name, encode(effect), { jobId: jobIdOf(effect.id) });
  };
}

/** BullMQ refuses numbers, which it counts up by itself, and colons, which part its keys. */
function jobIdOf(id: string): string {
  return /^\d+$|:/.test(id) ? `sha256-${hash("sha256", id, "hex")}` : id;
}
