// What becomes of the items of durable operations when somebody decides about their records.

import { publish } from "../../events.ts";
import { queueItemId } from "../../key.ts";
import { pause } from "../../retry.ts";
import type { RecordId, ResolveAnswer, Store } from "../../store.ts";
import type { Persistence } from "../persist.ts";
import type { Nudges } from "../queue/nudges.ts";
import { UNFINISHED_MS } from "./definition.ts";

/** The item that has a durable operation be looked after. */
export function taskIdOf(operation: RecordId): string {
  return queueItemId(operation, "task", "");
}

export interface TasksHost extends Persistence {
  readonly store: Store;
  readonly nudges: Nudges;
}

/** Whoever found an operation held is about to say so. */
const CLAIMED_PAUSE_MS = 50;

export class Tasks {
  readonly #host: TasksHost;

  constructor(host: TasksHost) {
    this.#host = host;
  }

  /**
   * An operation that was held may run again: somebody has to look after it.
   *
   * @param resolve opens it; it is given how long a durable one is kept until it is finished
   */
  async open(
    operation: RecordId,
    resolve: (unfinishedMs: number | undefined) => Promise<ResolveAnswer>,
  ): Promise<ResolveAnswer> {
    const id = taskIdOf(operation);
    const isDurable = (await this.#host.store.queue?.read(id)) !== undefined;
    const answer = await resolve(isDurable ? UNFINISHED_MS : undefined);
    // Also where another one, who died since, has opened it before.
    const isOpen =
      answer.kind === "resolved" || (answer.kind === "refused" && answer.state === "open");
    if (isDurable && isOpen) await this.#revive(id);
    return answer;
  }

  /** An operation will not run any more. Where a worker has its item, it finds that out. */
  async end(operation: RecordId): Promise<void> {
    try {
      await this.#host.store.queue?.remove(taskIdOf(operation));
    } catch (error) {
      publish(() => ({ type: "background-failure", during: "remove", error }));
    }
  }

  /** What a worker has found out before is not to count: where it has the item, it is waited for. */
  async #revive(id: string): Promise<void> {
    const { clock, completionRetryMs } = this.#host;
    const queue = this.#host.store.queue!;
    const deadline = clock.now() + completionRetryMs;
    for (;;) {
      if (await queue.revive(id)) return this.#host.nudges.ring("task");
      const item = await queue.read(id);
      // It is gone, is being done, or will be found by the next who looks.
      if (item?.state !== "waiting" || clock.now() >= deadline) return;
      await pause(clock, CLAIMED_PAUSE_MS);
    }
  }
}
