// Writes that an attempt must not lose, such as its end: tried again for a bounded time, because what
// they record has happened (SM-22).

import type { Clock } from "../clock.ts";
import type { Deadlines } from "../deadlines.ts";
import { type ErrorCode, isSemelError, StoreUnavailable } from "../errors.ts";
import { backoffMs, bounded, breather } from "../retry.ts";

export interface Persistence {
  readonly clock: Clock;
  random(): number;
  /** How long a write is retried, in milliseconds. */
  readonly completionRetryMs: number;
  /** Bounds the first try of every write; see {@link tryMsOf}. */
  readonly writes: Deadlines;
}

/** How a write ended. */
export type Persisted<Answer> =
  | { kind: "answered"; answer: Answer }
  /** The store failed for the whole bounded time; the write may have happened all the same. */
  | { kind: "unrecorded"; error: unknown };

const BACKOFF = { baseMs: 25, capMs: 1_000 };
/** How long one write may take before it is sent again, and what the last one gets at least. */
const TRY_MS = { max: 2_000, min: 250 };

/** How long a try may take when so much time is left; the first one has the whole of it. */
export function tryMsOf(leftMs: number): number {
  return Math.max(TRY_MS.min, Math.min(TRY_MS.max, leftMs));
}

/**
 * Sends a write until it is answered.
 *
 * @param write is called again after a failure and after a silence, and must bear that; it is told
 * what time it is
 */
export function persist<Answer>(
  host: Persistence,
  write: (now: number) => Promise<Answer>,
): Promise<Persisted<Answer>> {
  const now = host.clock.now();
  const deadline = now + host.completionRetryMs;
  let written: Promise<Answer>;
  try {
    written = write(now);
  } catch (error) {
    return persistAgain(host, write, deadline, undefined, error);
  }
  // Chained, as nearly every write is answered at once.
  return host.writes.within(written, lateAnswer, now).then(answered, (error: unknown) => {
    const dueAt = now + tryMsOf(host.completionRetryMs);
    const late = overslept(host.clock, dueAt, error);
    return persistAgain(host, write, deadline + late, written, error);
  });
}

function answered<Answer>(answer: Answer): Persisted<Answer> {
  return { kind: "answered", answer };
}

/**
 * How much longer than it was to a write was waited for. A process that stood still for longer than its
 * lease may have been succeeded. It has not tried meanwhile, and the answer may be there already: if
 * that time counted and it gave up now, it would give its caller another answer than its successor's
 * callers got (SM-20).
 */
function overslept(clock: Clock, dueAt: number, error: unknown): number {
  return silences.has(error as object) ? Math.max(0, clock.now() - dueAt) : 0;
}

/** The first try has failed, or was not answered in time. */
async function persistAgain<Answer>(
  { clock, random }: Persistence,
  write: (now: number) => Promise<Answer>,
  givesUpAt: number,
  first: Promise<Answer> | undefined,
  firstError: unknown,
): Promise<Persisted<Answer>> {
  let deadline = givesUpAt;
  let tried = first;
  let thrown = firstError;
  for (let tries = 0; ; tries++) {
    const error = thrown instanceof AggregateError ? thrown.errors.at(-1) : thrown;
    const delayMs = backoffMs(BACKOFF, tries, random);
    if (isFinal(error) || clock.now() + delayMs >= deadline) return { kind: "unrecorded", error };
    await breather(clock, delayMs);
    const isUnanswered = silences.has(error as object);
    const now = clock.now();
    const tryMs = tryMsOf(deadline - now);
    try {
      const written = write(now);
      // A write that hangs may yet be answered while the next one is on its way.
      tried = isUnanswered ? Promise.any([tried!, written]) : written;
      return answered(await bounded(clock, tried, tryMs, lateAnswer));
    } catch (again) {
      thrown = again;
      deadline += overslept(clock, now + tryMs, again);
    }
  }
}

/** Errors that stand for no answer at all. */
const silences = new WeakSet<object>();

function lateAnswer(): StoreUnavailable {
  const error = new StoreUnavailable("The store did not confirm the end of an attempt in time");
  silences.add(error);
  return error;
}

/** Errors that trying again cannot mend. */
function isFinal(error: unknown): boolean {
  return hasCode(error, "store-full") || hasCode(error, "record-unreadable");
}

export function hasCode(error: unknown, code: ErrorCode): boolean {
  return isSemelError(error) && error.code === code;
}
