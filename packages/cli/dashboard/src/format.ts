// Numbers as people read them.

const UNITS: readonly [unit: string, ms: number][] = [
  ["d", 86_400_000],
  ["h", 3_600_000],
  ["min", 60_000],
  ["s", 1_000],
];

/** `3 d`, `2 h`, `850 ms`, `0.4 ms`. */
export function duration(ms: number): string {
  const size = Math.abs(ms);
  if (size === 0) return "0";
  if (size < 0.1) return "< 0.1 ms";
  if (size < 1) return `${ms.toFixed(1)} ms`;
  if (size < 1_000) return `${Math.round(ms)} ms`;
  if (size < 10_000) return `${digits(ms / 1_000)} s`;
  const [unit, unitMs] = UNITS.find(([, one]) => size >= 2 * one) ?? UNITS.at(-1)!;
  return `${Math.round(ms / unitMs)} ${unit}`;
}

export function count(number: number): string {
  return number.toLocaleString("en");
}

/** A rate: with as many digits as say something. */
export function rate(perSecond: number): string {
  return perSecond < 10 ? digits(perSecond) : count(Math.round(perSecond));
}

/** On the axis of a chart of things, of which there are no halves. */
export function whole(number: number): string {
  return Number.isInteger(number) ? count(number) : "";
}

function digits(number: number): string {
  return number.toFixed(1).replace(/\.0$/, "");
}

export function bytes(size: number): string {
  if (size < 1_024) return `${size} B`;
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let value = size / 1_024;
  let unit = 0;
  while (value >= 1_024 && unit < units.length - 1) {
    value /= 1_024;
    unit++;
  }
  return `${value.toFixed(value < 10 ? 1 : 0)} ${units[unit]}`;
}

export function clockTime(at: number): string {
  return new Date(at).toLocaleTimeString("en-GB");
}

/** The time of today, or another day. */
export function shortTime(at: number): string {
  const date = new Date(at);
  const isToday = date.toDateString() === new Date().toDateString();
  return isToday
    ? clockTime(at)
    : date.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
}

export function dateTime(at: number): string {
  const date = new Date(at);
  const day = date.toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric" });
  return `${day}, ${date.toLocaleTimeString("en-GB")}`;
}

export function plural(number: number, one: string, many = `${one}s`): string {
  return `${count(number)} ${number === 1 ? one : many}`;
}
