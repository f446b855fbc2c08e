// Checks of options that plain JavaScript callers need: an unknown name is refused, and the nearest
// right one is named.

import { InvalidOption } from "./errors.ts";

/**
 * Refuses options that do not exist.
 *
 * @param given what the user passed
 * @param known every name that exists
 * @param where the call, for the message
 * @throws {InvalidOption}
 */
export function assertKnownOptions(given: unknown, known: readonly string[], where: string): void {
  if (typeof given !== "object" || given === null) {
    throw new InvalidOption(
      `${where} takes an object of options, got ${given === null ? "null" : typeof given}`,
    );
  }
  for (const name of Object.keys(given)) {
    if (known.includes(name)) continue;
    const nearest = nearestName(name, known);
    throw new InvalidOption(
      `${where} has no option \`${name}\`${nearest ? `; did you mean \`${nearest}\`?` : `; it has ${known.join(", ")}`}`,
    );
  }
}

/** Refuses a value that is not one of the allowed literals. */
export function assertOneOf(value: unknown, allowed: readonly string[], option: string): void {
  if (typeof value === "string" && allowed.includes(value)) return;
  const nearest = typeof value === "string" ? nearestName(value, allowed) : undefined;
  throw new InvalidOption(
    `\`${option}\` must be one of ${allowed.map((item) => `"${item}"`).join(", ")}, got ${shown(value)}${nearest ? `; did you mean "${nearest}"?` : ""}`,
  );
}

/** Refuses a value that is neither true nor false, such as the text "false". */
export function assertBoolean(value: unknown, option: string): void {
  if (value === undefined || typeof value === "boolean") return;
  throw new InvalidOption(`\`${option}\` must be true or false, got ${shown(value)}`);
}

/** Refuses a value that is not a whole number within bounds. */
export function assertInteger(value: unknown, option: string, min: number, max: number): void {
  if (Number.isInteger(value) && (value as number) >= min && (value as number) <= max) return;
  throw new InvalidOption(
    `\`${option}\` must be a whole number from ${min} to ${max}, got ${shown(value)}`,
  );
}

/**
 * Refuses a value that lacks a method, as one made by plain JavaScript may.
 *
 * @param what the value should be, where the names of its methods do not tell
 */
export function assertMethods(
  value: unknown,
  option: string,
  methods: readonly string[],
  what = `must have the methods ${methods.join(", ")}`,
): void {
  const given = value as Record<string, unknown> | null | undefined;
  const missing = methods.filter((name) => typeof given?.[name] !== "function");
  if (missing.length === 0) return;
  throw new InvalidOption(`\`${option}\` ${what}; it lacks ${missing.join(", ")}`);
}

/** A value in a message: anything may have been passed. */
export function shown(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value);
  const isShort = (typeof value !== "object" || value === null) && typeof value !== "function";
  return isShort ? String(value) : typeof value;
}

/** The name that was most likely meant, if any is near. */
export function nearestName(name: string, known: readonly string[]): string | undefined {
  let best: string | undefined;
  let bestDistance = Math.max(2, Math.floor(name.length / 3)) + 1;
  for (const candidate of known) {
    const distance = editDistance(name.toLowerCase(), candidate.toLowerCase());
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance];
  }
  return best;
}

/** Levenshtein's distance, in one row. */
function editDistance(from: string, to: string): number {
  const row = Array.from({ length: to.length + 1 }, (_, index) => index);
  for (let i = 1; i <= from.length; i++) {
    let diagonal = row[0]!;
    row[0] = i;
    for (let j = 1; j <= to.length; j++) {
      const substituted = diagonal + (from[i - 1] === to[j - 1] ? 0 : 1);
      diagonal = row[j]!;
      row[j] = Math.min(substituted, diagonal + 1, row[j - 1]! + 1);
    }
  }
  return row[to.length]!;
}
