// Durations as people write them, turned into the milliseconds that the engine counts in.

import { InvalidOption } from "./errors.ts";
import { shown } from "./options.ts";

/** A length of time: a number of milliseconds, or a string such as `"250ms"`, `"30s"`, `"24h"`. */
export type Duration = number | `${number}${"ms" | "s" | "m" | "h" | "d"}`;

const UNIT_MS = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;
const WRITTEN = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)$/;
/** A century: anything longer is a mistake in units, and would overflow what stores keep. */
const DURATION_MS_MAX = 100 * 366 * UNIT_MS.d;

/**
 * Converts a duration to whole milliseconds.
 *
 * @param value what the user wrote
 * @param option the option's name, for the error
 * @param bounds the least and the largest value allowed, in milliseconds
 * @throws {InvalidOption} when it is not a duration, or out of bounds
 * @example durationMs("1.5s", "wait"); // 1500
 */
export function durationMs(
  value: Duration,
  option: string,
  bounds: { minMs?: number; maxMs?: number } = {},
): number {
  const ms = Math.round(parse(value, option));
  const { minMs = 0, maxMs = DURATION_MS_MAX } = bounds;
  if (ms < minMs || ms > maxMs) {
    throw new InvalidOption(
      `\`${option}\` must be between ${minMs} ms and ${maxMs} ms, got ${JSON.stringify(value)}`,
    );
  }
  return ms;
}

function parse(value: unknown, option: string): number {
  if (typeof value === "number" && Number.isFinite(value)) return value;
  if (typeof value === "string") {
    const match = WRITTEN.exec(value);
    if (match) return Number(match[1]) * UNIT_MS[match[2] as keyof typeof UNIT_MS];
  }
  throw new InvalidOption(
    `\`${option}\` must be milliseconds or a string such as "250ms", "30s", "5m", "24h" or "7d", got ${shown(value)}`,
  );
}
