// Does durable operations that wait (EN-7), in any process that has their definitions. Of any number of
// workers one runs an operation: its record decides, as for every other attempt.

import { InvalidOption, isSemelError } from "../../errors.ts";
import { assertKnownOptions, shown } from "../../options.ts";
import type { StoredItem } from "../../store.ts";
import type { Attempt } from "../attempt.ts";
import { withoutQueue } from "../effects/effects.ts";
import { messageOf } from "../execution.ts";
import type { Heartbeat } from "../heartbeat.ts";
import { type ItemEnd, Poller } from "../queue/poller.ts";
import { retryAfterMs } from "../queue/retrying.ts";
import {
  SERVICE_OPTIONS,
  type Service,
  type ServiceOptions,
  serviceOf,
  serviceSettings,
} from "../queue/service.ts";
import { attemptDurable, type DurableEnd } from "./attempts.ts";
import { type DurableHost, DurableOperation } from "./operation.ts";

export interface WorkerOptions extends ServiceOptions {
  /** What it can do, 1 to 100; others are left for other workers. */
  // biome-ignore lint/suspicious/noExplicitAny: whatever their inputs and values are
  operations: readonly DurableOperation<any, any>[];
  /** @default 10 */
  concurrency?: number;
}

/** Does durable operations until it is closed. */
export type Worker = Service;

export interface WorkerHost extends DurableHost {
  readonly heartbeat: Heartbeat;
}

const OPTIONS = [...SERVICE_OPTIONS, "operations"];
const OPERATIONS_MAX = 100;
/** When somebody else is at it: not all who ask come back at once. */
const BUSY_SPREAD_MS = 1_000;

/** @throws {InvalidOption} */
export function createWorker(host: WorkerHost, options: WorkerOptions): Worker {
  assertKnownOptions(options, OPTIONS, "worker()");
  const { queue } = host.store;
  if (queue === undefined) throw withoutQueue(host.store);
  const operations = operationsOf(options.operations);
  const working = new Working(host, operations);
  const poller = new Poller(host, queue, {
    ...serviceSettings(options, 10),
    kind: "task",
    names: [...operations.keys()],
    work: (item) => working.work(item),
    onDeadline: () => working.abandon(),
  });
  return serviceOf(poller);
}

function operationsOf(given: unknown): Map<string, DurableOperation> {
  if (!Array.isArray(given) || given.length < 1 || given.length > OPERATIONS_MAX) {
    throw new InvalidOption(
      `\`operations\` must be a list of 1 to ${OPERATIONS_MAX} durable operations; more workers may run at once`,
    );
  }
  const operations = new Map<string, DurableOperation>();
  for (const operation of given as unknown[]) {
    if (!(operation instanceof DurableOperation)) {
      throw new InvalidOption(
        `\`operations\` holds ${shown(operation)}, which is not made by operation()`,
      );
    }
    if (operations.has(operation.name)) {
      throw new InvalidOption(`\`operations\` holds two with the name "${operation.name}"`);
    }
    operations.set(operation.name, operation);
  }
  return operations;
}

class Working {
  readonly #host: WorkerHost;
  readonly #operations: ReadonlyMap<string, DurableOperation>;
  readonly #attempts = new Set<Attempt>();

  constructor(host: WorkerHost, operations: ReadonlyMap<string, DurableOperation>) {
    this.#host = host;
    this.#operations = operations;
  }

  /** What still runs goes on, but its lease is left to lapse. */
  abandon(): void {
    for (const attempt of this.#attempts) this.#host.heartbeat.remove(attempt);
  }

  /** Does an operation, as far as it is still to be done, and says what becomes of its item. */
  async work(item: StoredItem): Promise<ItemEnd> {
    const operation = this.#operations.get(item.name)!;
    const { retrying } = operation.definition;
    const retry = (error: unknown, failures = item.started): ItemEnd => ({
      kind: "retry",
      dueInMs: retryAfterMs(retrying, failures, this.#host.random),
      error: messageOf(error),
    });
    let asked: ReturnType<WorkerHost["contents"]["unseal"]>;
    try {
      asked = this.#host.contents.unseal(item);
    } catch (error) {
      return dead(`input-unreadable: ${messageOf(error)}`);
    }
    try {
      const admission = await this.#host.begin(operation.request(asked));
      switch (admission.kind) {
        case "run": {
          const { attempt } = admission;
          // Both count more than the attempts since somebody decided that it is to be tried again.
          const tries = Math.min(attempt.attempt, item.started);
          const end = await this.#attempt(operation, attempt, asked.value, tries);
          return this.#endAfter(end, (error) => retry(error, tries));
        }
        case "replay":
        case "void":
          return DONE;
        case "busy":
          return this.#later(admission.retryAfterMs);
        case "held":
          return dead(`held: ${admission.reason}`);
        case "mismatch":
          return dead("key-reused: its key stands for another input by now");
        case "late":
          return dead("key-expired");
      }
    } catch (error) {
      const isClosed = isSemelError(error) && error.code === "closed";
      return isClosed ? { kind: "retry", dueInMs: 0, error: null } : retry(error);
    }
  }

  async #attempt(
    { definition }: DurableOperation,
    attempt: Attempt,
    input: Uint8Array,
    tries: number,
  ): Promise<DurableEnd> {
    this.#attempts.add(attempt);
    try {
      return await attemptDurable(definition, attempt, input, tries, this.#host.codec);
    } finally {
      this.#attempts.delete(attempt);
    }
  }

  #endAfter(end: DurableEnd, retry: (error: unknown) => ItemEnd): ItemEnd {
    switch (end.kind) {
      case "completed":
      case "failed":
        return DONE;
      case "released":
        return retry(end.error);
      case "held":
        return dead(`held: ${end.reason}`);
      case "superseded":
        return this.#later(0);
      case "unrecorded":
        return retry("its end could not be recorded");
    }
  }

  #later(ms: number): ItemEnd {
    const dueInMs = Math.ceil(ms + this.#host.random() * BUSY_SPREAD_MS);
    return { kind: "retry", dueInMs, error: null };
  }
}

/** Its record remembers it, so that its item need not. */
const DONE: ItemEnd = { kind: "done", retentionMs: 0 };

function dead(error: string): ItemEnd {
  return { kind: "dead", error, retentionMs: null };
}
