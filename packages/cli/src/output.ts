// How commands print: for people on a terminal, plain fields when piped, and JSON when asked for.

import type { colorsOf } from "./check/report/text.ts";

type Colors = ReturnType<typeof colorsOf>;

export interface Column<Row> {
  title: string;
  /** For people. */
  shown(row: Row): string;
  /** For programs, where it differs. */
  plain?(row: Row): string;
}

/** Aligned, with a head. */
export function tableOf<Row>(
  rows: readonly Row[],
  columns: readonly Column<Row>[],
  colors: Colors,
): string {
  const cells = rows.map((row) => columns.map(({ shown }) => clean(shown(row))));
  const titles = columns.map(({ title }) => title);
  const widths = titles.map((title, at) =>
    Math.max(title.length, ...cells.map((row) => row[at]!.length)),
  );
  const line = (row: readonly string[]) =>
    row.map((cell, at) => (at === row.length - 1 ? cell : cell.padEnd(widths[at]!))).join("  ");
  return linesOf([colors.bold(line(titles)), ...cells.map((row) => line(row).trimEnd())]);
}

/** A line a row, with tabs between its fields. */
export function fieldsOf<Row>(rows: readonly Row[], columns: readonly Column<Row>[]): string {
  return linesOf(
    rows.map((row) => columns.map(({ shown, plain = shown }) => clean(plain(row))).join("\t")),
  );
}

/** A JSON document on one line, so that many are JSON lines. */
export function jsonLine(value: unknown): string {
  return `${JSON.stringify(value, jsonable)}\n`;
}

export function linesOf(lines: readonly string[]): string {
  return lines.map((line) => `${line}\n`).join("");
}

/** What JSON cannot say, as well as it can. */
export function jsonable(_name: string, value: unknown): unknown {
  if (typeof value === "bigint") return String(value);
  if (value instanceof Map) return [...value];
  if (value instanceof Set) return [...value];
  return value;
}

/** What others have chosen must not steer the terminal, nor look like two lines or two fields. */
export function clean(text: string): string {
  return text.replace(
    /[\\\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu,
    (character) =>
      ESCAPES[character] ?? `\\u{${character.codePointAt(0)!.toString(16).padStart(4, "0")}}`,
  );
}

const ESCAPES: Record<string, string> = { "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t" };

/** The same for text of many lines. */
export function cleanLines(text: string): string {
  return text
    .split("\n")
    .map((line) => line.split("\t").map(clean).join("\t"))
    .join("\n");
}

const UNITS: readonly [unit: string, ms: number][] = [
  ["d", 86_400_000],
  ["h", 3_600_000],
  ["m", 60_000],
  ["s", 1_000],
];

/** `3 d`, `2 h`, `850 ms`: the largest unit of which there are two, or one. */
export function shownDuration(ms: number): string {
  const found = UNITS.find(([, unitMs]) => Math.abs(ms) >= 2 * unitMs) ?? UNITS.at(-1)!;
  return Math.abs(ms) < 1_000 ? `${Math.round(ms)} ms` : `${Math.round(ms / found[1])} ${found[0]}`;
}

export function shownBytes(bytes: number): string {
  if (bytes < 1_024) return `${bytes} B`;
  if (bytes < 2 ** 20) return `${(bytes / 2 ** 10).toFixed(1)} KiB`;
  if (bytes < 2 ** 30) return `${(bytes / 2 ** 20).toFixed(1)} MiB`;
  return `${(bytes / 2 ** 30).toFixed(1)} GiB`;
}
