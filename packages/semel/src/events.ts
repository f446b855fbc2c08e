// What happens inside, published on `node:diagnostics_channel` for whoever listens; free when nobody
// does. `docs/observability.md` has the list.

import { channel } from "node:diagnostics_channel";
import type { ErrorCode } from "./errors.ts";

/**
 * One message on the channel `semel:event`. Operations appear by the ids of their records, which are
 * digests: no key, no scope, no payload and no result is in any of them.
 */
export type SemelEvent =
  /**
   * A request was let in (`run`) or answered; once for each, when its wait is over. `cached`: without
   * the store. `failed`: the store could not be asked, nothing ran, and `code` says why.
   */
  | {
      type: "admitted";
      id: string;
      store: string;
      admission: "run" | "replay" | "busy" | "mismatch" | "held" | "void" | "late" | "failed";
      attempt?: number;
      cached: boolean;
      code?: ErrorCode;
      durationMs: number;
    }
  /**
   * An attempt ended. `durationMs`: since it was let in. `rollback`: of a transaction, which left
   * nothing. `leave`: nobody knows what it did, and its lease is left to lapse, for a probe to find out. `superseded`: another attempt took over, and nothing was written; `unrecorded`: the store
   * failed for the whole bounded time.
   */
  | {
      type: "settled";
      id: string;
      store: string;
      attempt: number;
      ending: "complete" | "release" | "hold" | "rollback" | "leave";
      outcome: "settled" | "superseded" | "unrecorded";
      durationMs: number;
    }
  | {
      type: "step";
      id: string;
      attempt: number;
      name: string;
      outcome: "ran" | "replayed" | "failed" | "undone";
      durationMs: number;
    }
  /** What became of an item of the queue; `id` is that of its operation's record. */
  | {
      type: "task" | "effect";
      id: string;
      item: string;
      name: string;
      outcome: "recorded" | "done" | "retry" | "handed-on" | "dead" | "lost";
      error?: string;
    }
  /** The lease of a running attempt was extended. */
  | { type: "renewed"; id: string; attempt: number }
  /** Another attempt took over from one that still runs here: what it produces is discarded. */
  | { type: "lease-lost"; id: string; attempt: number }
  /** An administrator decided; `answer` is the store's. */
  | { type: "decided"; id: string; decision: "resolve" | "void" | "delete"; answer: string }
  /** Expired records were removed. */
  | { type: "swept"; removed: number }
  /** The store failed behind the caller's back: in a heartbeat, a sweep, an abandoned claim, a tier's front. */
  | {
      type: "background-failure";
      during: "renew" | "sweep" | "abandon" | "front" | "claim" | "finish" | "remove";
      error: unknown;
    }
  /** A programming error that was kept away from the user's request. */
  | { type: "misuse"; id: string; message: string };

/**
 * What became of a request. Of every request exactly one event says so; only `transaction()` tries
 * again when it was `superseded`.
 */
export type OperationOutcome =
  /** It ran, and its result is kept. */
  | "executed"
  /** It ran, or was about to, and may run again. */
  | "released"
  /** It ran, and nobody knows what it did: it runs no more until resolved. */
  | "held"
  /** It ran too long: another attempt took over. */
  | "superseded"
  /** It ran, and the store could not be told. */
  | "unrecorded"
  | "replayed"
  | "busy"
  | "mismatch"
  /** It did not run, because the operation is held. */
  | "outcome-unknown"
  | "void"
  | "late"
  /** It did not run, because the store could not be asked. */
  | "failed";

const OF_ADMISSION = {
  run: undefined,
  replay: "replayed",
  busy: "busy",
  mismatch: "mismatch",
  held: "outcome-unknown",
  void: "void",
  late: "late",
  failed: "failed",
} as const satisfies Record<string, OperationOutcome | undefined>;

const OF_ENDING = {
  complete: "executed",
  release: "released",
  hold: "held",
  rollback: "released",
  leave: "held",
} as const satisfies Record<string, OperationOutcome>;

/**
 * What became of the request that an event is the last one of; `undefined` for every other event.
 *
 * @example
 * subscribe("semel:event", (event) => {
 *   const outcome = outcomeOfEvent(event as SemelEvent);
 *   if (outcome) operations.inc({ outcome });
 * });
 */
export function outcomeOfEvent(event: SemelEvent): OperationOutcome | undefined {
  if (event.type === "admitted") return OF_ADMISSION[event.admission];
  if (event.type !== "settled") return undefined;
  return event.outcome === "settled" ? OF_ENDING[event.ending] : event.outcome;
}

/** One message on the channel `semel:work`: code of the user's is about to be called. */
export interface SemelWork {
  /** The handler of an operation, or one of its steps. */
  readonly kind: "operation" | "step";
  readonly id: string;
  readonly attempt: number;
  readonly store: string;
  /** Of the step. */
  readonly name?: string;
  /**
   * Calls the work. A subscriber may replace it, to call the one before it in a context of its own; it
   * must do so at once, and return what that returns.
   */
  call: (work: () => unknown) => unknown;
}

const events = channel("semel:event");
const works = channel("semel:work");

/** Whether anybody listens: what only they need is not measured otherwise. */
export function isObserved(): boolean {
  return events.hasSubscribers || works.hasSubscribers;
}

/** Publishes what `make` returns; `make` is not called when nobody listens. */
export function publish(make: () => SemelEvent): void {
  if (events.hasSubscribers) events.publish(make());
}

/** Calls the user's code, in the context of whoever listens to `semel:work`. */
export function calling<Returned>(
  describe: () => Omit<SemelWork, "call">,
  work: () => Returned,
): Returned {
  if (!works.hasSubscribers) return work();
  const message: SemelWork = { ...describe(), call: (inner) => inner() };
  works.publish(message);
  return message.call(work) as Returned;
}
