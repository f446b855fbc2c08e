// How what failed is tried again: a bounded number of times, with growing pauses of full jitter.

import { type Duration, durationMs } from "../../duration.ts";
import { InvalidOption } from "../../errors.ts";
import { assertInteger } from "../../options.ts";
import { type Backoff, backoffMs } from "../../retry.ts";

export interface RetryOptions {
  /** How often it is tried, crashed tries included. */
  attemptsMax?: number | undefined;
  /** The n-th pause is random, up to `base · 2^n`. @default "1s" */
  base?: Duration | undefined;
  /** The longest pause. @default "1h" */
  cap?: Duration | undefined;
  /** Whether trying again may help. @default always */
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

/** The pause after a number of failures, in whole milliseconds. */
export function retryAfterMs(
  { backoff }: Retrying,
  failures: number,
  random: () => number,
): number {
  return Math.round(backoffMs(backoff, Math.max(0, failures - 1), random));
}
