// How records are shown, as a row and whole.

import { inspect } from "node:util";
import type { OperationRecord, QueueKind, RecordState } from "semel";
import type { QueuedRow } from "../admin/contract.ts";
import type { colorsOf } from "../check/report/text.ts";
import { type Column, clean, cleanLines, linesOf, shownDuration } from "../output.ts";
import { queuedWords } from "../queue/show.ts";
import type { FoundRecord, ShownResult } from "./look-up.ts";

type Colors = ReturnType<typeof colorsOf>;

export const RECORD_STATES = ["running", "completed", "held", "open", "void"] as const;

/** A lapsed attempt that nobody may repeat is held, though no request has come yet to find out. */
export function stateOf(record: OperationRecord): RecordState {
  const isLapsed = record.state === "running" && (record.leaseRemainingMs ?? 0) <= 0;
  return isLapsed && record.onCrash !== "rerun" ? "held" : record.state;
}

export const COLUMNS: readonly Column<OperationRecord>[] = [
  { title: "STATE", shown: stateOf },
  { title: "ATTEMPT", shown: ({ attempt }) => String(attempt) },
  {
    title: "AGE",
    shown: ({ ageMs }) => shownDuration(ageMs),
    plain: ({ ageMs }) => String(Math.round(ageMs)),
  },
  {
    title: "EXPIRES",
    shown: ({ expiresInMs }) => (expiresInMs === null ? "never" : shownDuration(expiresInMs)),
    plain: ({ expiresInMs }) => (expiresInMs === null ? "" : String(Math.round(expiresInMs))),
  },
  { title: "REASON", shown: reasonOf, plain: ({ reason }) => reason ?? "" },
  { title: "SCOPE", shown: ({ scope }) => scope || "-", plain: ({ scope }) => scope },
  { title: "KEY", shown: ({ key }) => key },
];

function reasonOf(record: OperationRecord): string {
  if (record.reason !== null) return record.reason;
  const isLapsed = record.state === "running" && (record.leaseRemainingMs ?? 0) <= 0;
  return isLapsed ? "lease-lapsed" : "-";
}

/** As JSON: with the state that a request would find. */
export function recordJson(record: OperationRecord): OperationRecord {
  return { ...record, state: stateOf(record) };
}

export function resultJson(result: ShownResult | undefined): unknown {
  if (result?.kind !== "http") return result ?? null;
  const text = textOf(result.body);
  const { body, ...rest } = result;
  return {
    ...rest,
    ...(text === undefined ? { bodyBase64: body.toString("base64") } : { body: text }),
  };
}

export function recordText(
  { record, result, steps }: FoundRecord,
  queued: readonly QueuedRow[],
  colors: Colors,
): string {
  const { attempt, crashes, leaseRemainingMs, expiresInMs, reason, fingerprint } = record;
  const at = (time: number) => new Date(time).toISOString();
  const rows: [name: string, value: string | undefined][] = [
    ["key", record.key],
    ["scope", record.scope || "(none)"],
    ["state", stateOf(record)],
    ["reason", reason ?? undefined],
    ["attempt", crashes === 0 ? String(attempt) : `${attempt}, ${crashes} taken over`],
    ["created", `${at(record.createdAt)}, ${shownDuration(record.ageMs)} ago`],
    ["changed", at(record.updatedAt)],
    ["lease", leaseRemainingMs === null ? undefined : leaseOf(leaseRemainingMs)],
    ["expires", expiresInMs === null ? "when resolved" : `in ${shownDuration(expiresInMs)}`],
    ["on crash", record.onCrash],
    ["payload", fingerprint || undefined],
    ["steps", stepsLine(steps)],
    ["durable", queuedLine(queued, "task")],
    ["effects", queuedLine(queued, "effect")],
    ["id", record.id],
  ];
  const lines = rows.flatMap(([name, value]) =>
    value === undefined ? [] : [`${colors.dim(name.padEnd(8))}  ${clean(value)}`],
  );
  return linesOf(result ? [...lines, ...resultLines(result, colors)] : lines);
}

function stepsLine(steps: FoundRecord["steps"]): string | undefined {
  if (steps === undefined) return "cannot be read here";
  const shown = steps.map(({ name, state, attempt }) => {
    const what = state === "begun" ? "begun, nobody knows whether it ran" : state;
    return `${name} (${what}, attempt ${attempt})`;
  });
  return shown.join(", ") || undefined;
}

function queuedLine(queued: readonly QueuedRow[], kind: QueueKind): string | undefined {
  return (
    queued
      .filter((item) => item.kind === kind)
      .map(queuedWords)
      .join(", ") || undefined
  );
}

function leaseOf(ms: number): string {
  return ms > 0 ? `for ${shownDuration(ms)} more` : `lapsed ${shownDuration(-ms)} ago`;
}

function resultLines(result: ShownResult, colors: Colors): string[] {
  const head = (text: string) => `${colors.dim("result".padEnd(8))}  ${text}`;
  switch (result.kind) {
    case "value":
      return [head("value"), "", cleanLines(inspect(result.value, { depth: 8 }))];
    case "failure":
      return [head(`failure: ${clean(result.message)}`)];
    case "unreadable":
      return [head(`cannot be read here: ${clean(result.message)}`)];
    case "not-stored":
      return [head(`too large to be kept${result.status ? `, HTTP ${result.status}` : ""}`)];
    case "http": {
      const { status, headers, body } = result;
      const fields = headers.map(([name, value]) => `${name}: ${clean(value)}`);
      const text = textOf(body);
      const shown = text === undefined ? `(${body.length} bytes, not text)` : cleanLines(text);
      return [head(`HTTP ${status}`), "", ...fields, ...(body.length > 0 ? ["", shown] : [])];
    }
  }
}

/** `undefined` when it is no UTF-8. */
function textOf(body: Buffer): string | undefined {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(body);
  } catch {
    return undefined;
  }
}
