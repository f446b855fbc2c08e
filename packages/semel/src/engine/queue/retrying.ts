// How what failed is tried again: a bounded number of times, with growing pauses of full jitter.

import { type Duration, durationMs } from "../../duration.ts";
import { InvalidOption } from "../../errors.ts";
import { publish } from "../../events.ts";
import { assertInteger } from "../../options.ts";
import { type Backoff, backoffMs } from "../../retry.ts";
import type { RecordId } from "../../store.ts";
import { messageOf } from "../execution.ts";

export interface RetryOptions {
  /** How often it is tried, crashed tries included. */
  attemptsMax?: number | undefined;
  /** The n-th pause is random, up to `base · 2^n`. @default "1s" */
  base?: Duration | undefined;
  /** The longest pause. @default "1h" */
  cap?: Duration | undefined;
  /** Whether trying again may help; one that throws says yes. @default always */
  isRetryable?: ((error: unknown) => boolean) | undefined;
}

export const RETRY_OPTIONS = ["attemptsMax", "base", "cap", "isRetryable"];

/** {@link RetryOptions}, checked. */
export interface Retrying {
  readonly attemptsMax: number;
  readonly backoff: Backoff;
  readonly isRetryable: (error: unknown) => boolean;
}

/** @throws {InvalidOption} */
export function retryingOf(
  options: RetryOptions,
  defaults: { attemptsMax: number },
  where: string,
): Retrying {
  const { attemptsMax = defaults.attemptsMax, base = "1s", cap = "1h" } = options;
  const { isRetryable = () => true } = options;
  assertInteger(attemptsMax, `${where}attemptsMax`, 1, 1_000_000);
  if (typeof isRetryable !== "function") {
    throw new InvalidOption(`\`${where}isRetryable\` must be a function of the error`);
  }
  const backoff = {
    baseMs: durationMs(base, `${where}base`, { minMs: 1 }),
    capMs: durationMs(cap, `${where}cap`, { minMs: 1 }),
  };
  return { attemptsMax, backoff, isRetryable };
}

/**
 * Whether trying again may help. A predicate that throws says nothing about that: what failed is tried
 * again, within its bound, and the mistake is told.
 *
 * @param id of the record, for whoever is told
 */
export function isWorthRetrying({ isRetryable }: Retrying, error: unknown, id: RecordId): boolean {
  try {
    return isRetryable(error);
  } catch (thrown) {
    const message = `isRetryable() threw: ${messageOf(thrown)}`;
    publish(() => ({ type: "misuse", id, message }));
    return true;
  }
}

/** The pause after a number of failures, in whole milliseconds. */
export function retryAfterMs(
  { backoff }: Retrying,
  failures: number,
  random: () => number,
): number {
  return Math.round(backoffMs(backoff, Math.max(0, failures - 1), random));
}
