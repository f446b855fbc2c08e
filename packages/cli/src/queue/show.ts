// How what is queued is shown, as a row and whole.

import { inspect } from "node:util";
import type { QueuedRow, QueuedView } from "../admin/contract.ts";
import type { colorsOf } from "../check/report/text.ts";
import { type Column, clean, cleanLines, linesOf, shownDuration } from "../output.ts";

type Colors = ReturnType<typeof colorsOf>;

export const COLUMNS: readonly Column<QueuedRow>[] = [
  { title: "STATE", shown: ({ state }) => state },
  { title: "ATTEMPTS", shown: ({ attempts }) => String(attempts) },
  {
    title: "AGE",
    shown: ({ ageMs }) => shownDuration(ageMs),
    plain: ({ ageMs }) => String(Math.round(ageMs)),
  },
  {
    title: "DUE",
    shown: ({ dueInMs }) => (dueInMs === null ? "-" : dueOf(dueInMs)),
    plain: ({ dueInMs }) => (dueInMs === null ? "" : String(Math.round(dueInMs))),
  },
  { title: "ID", shown: ({ id }) => id },
  { title: "NAME", shown: ({ name }) => name },
  { title: "SCOPE", shown: ({ scope }) => scope || "-", plain: ({ scope }) => scope },
  { title: "KEY", shown: ({ key }) => key },
  { title: "ERROR", shown: ({ error }) => error ?? "-", plain: ({ error }) => error ?? "" },
];

function dueOf(dueInMs: number): string {
  return dueInMs > 0 ? `in ${shownDuration(dueInMs)}` : `for ${shownDuration(-dueInMs)}`;
}

/** In a line, with its name: `mail (dead after 8 attempts: HTTP 503)`. */
export function queuedWords({ name, state, attempts, error }: QueuedRow): string {
  const times = attempts === 1 ? "1 attempt" : `${attempts} attempts`;
  const why = error === null || state === "done" ? "" : `: ${error}`;
  return `${name} (${state}${attempts > 0 ? ` after ${times}` : ""}${why})`;
}

export function queuedText({ item, payload }: QueuedView, colors: Colors): string {
  const { kind, attempts, unended, dueInMs, expiresInMs, ageMs, createdAt } = item;
  const at = new Date(createdAt).toISOString();
  const rows: [name: string, value: string | undefined][] = [
    ["id", item.id],
    ["kind", kind],
    ["name", item.name],
    ["state", item.state],
    ["attempts", unended > 0 ? `${attempts}, ${unended} of them without an end` : String(attempts)],
    ["error", item.error ?? undefined],
    ["due", dueInMs === null ? undefined : dueOf(dueInMs)],
    ["recorded", `${at}, ${shownDuration(ageMs)} ago`],
    ["expires", expiresInMs === null ? undefined : `in ${shownDuration(expiresInMs)}`],
    ["key", item.key],
    ["scope", item.scope || "(none)"],
    ["record", item.operation],
  ];
  const lines = rows.flatMap(([name, value]) =>
    value === undefined ? [] : [`${colors.dim(name.padEnd(8))}  ${clean(value)}`],
  );
  const head = colors.dim("payload".padEnd(8));
  return linesOf(
    "unreadable" in payload
      ? [...lines, `${head}  cannot be read here: ${clean(payload.unreadable)}`]
      : [...lines, head, "", cleanLines(inspect(payload.value, { depth: 8 }))],
  );
}
