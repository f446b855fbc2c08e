// What the statements for batches are asked with: a parameter for each column of what is asked for.

import type { AttemptToken, Claim, Ending, JournalEntry, Renewal, SqlValue } from "../../store.ts";
import { CRASH_POLICY_CODES, STATE_CODES } from "../sql-record.ts";
import { COMPLETE_PARAMETERS, type HowMany } from "./statements.ts";

/** A larger result is not sent as text of SQL. */
const LITERAL_BYTES_MAX = 16_384;

/** Waits for other transactions no longer than this; a caller's transaction, for as long as it takes. */
type LockTimeout = string | null;

/** The parameters of `begin`, and of `beginMany` for more than one. */
export function beginParameters(
  claims: readonly Claim[],
  lockTimeout: LockTimeout,
  howMany = howManyOf(claims),
): SqlValue[] {
  return [
    ...columnsOf(claims, howMany, {
      own: [({ id }) => id, ({ key }) => key, ({ fingerprint }) => fingerprint, ownerOf],
      common: [
        ({ scope }) => scope,
        ({ onCrash }) => CRASH_POLICY_CODES[onCrash],
        ({ leaseMs }) => leaseMs,
        lifeMsOf,
        ({ attemptsMax }) => attemptsMax,
        lateMsOf,
      ],
    }),
    claims.length === 1,
    lockTimeout,
  ];
}

/** The parameters of `settle`. */
export function settleParameters(
  endings: readonly Ending[],
  lockTimeout: LockTimeout,
  howMany = howManyOf(endings),
): SqlValue[] {
  const state = { complete: "completed", release: "open", hold: "held" } as const;
  const results = inOnePiece(
    endings.map((ending) => (ending.kind === "complete" ? ending.result : null)),
  );
  return [
    ...columnsOf(endings, howMany, {
      own: [
        ({ id }) => id,
        ownerOf,
        (_, index) => results.starts[index]!,
        (_, index) => results.lengths[index]!,
      ],
      common: [
        ({ attempt }) => attempt,
        ({ kind }) => STATE_CODES[state[kind]],
        (ending) => (ending.kind === "hold" ? ending.reason : null),
        ({ retentionMs }) => retentionMs,
      ],
    }),
    results.piece,
    lockTimeout,
  ];
}

/** The parameters of `append`, and of `appendMany` for more than one. */
export function appendParameters(
  entries: readonly JournalEntry[],
  lockTimeout: LockTimeout,
): SqlValue[] {
  const { piece, starts, lengths } = inOnePiece(entries.map(({ bytes }) => bytes));
  return [
    ...columnsOf(entries, howManyOf(entries), {
      own: [({ id }) => id, ownerOf, (_, index) => starts[index]!, (_, index) => lengths[index]!],
      common: [({ attempt }) => attempt],
    }),
    piece,
    lockTimeout,
  ];
}

/** Bytes as one parameter, and where in it each has its part, from 1. */
export function inOnePiece(parts: readonly (Uint8Array | null)[]) {
  let start = 1;
  const starts = parts.map((part) => {
    const own = start;
    start += part?.byteLength ?? 0;
    return part && own;
  });
  return {
    piece: Buffer.concat(parts.filter((part) => part !== null)),
    starts,
    lengths: parts.map((part) => part?.byteLength ?? null),
  };
}

export function renewParameters(
  renewals: readonly Renewal[],
  lockTimeout: LockTimeout,
): SqlValue[] {
  return [
    ...columnsOf(renewals, howManyOf(renewals), {
      own: [({ id }) => id, ownerOf],
      common: [({ attempt }) => attempt, ({ leaseMs }) => leaseMs, lifeMsOf],
    }),
    lockTimeout,
  ];
}

export function completeParameters(
  claim: Claim,
  result: Uint8Array,
  retentionMs: number,
): SqlValue[] {
  return [
    ...[claim.id, claim.scope, claim.key, claim.fingerprint, claim.owner],
    ...[CRASH_POLICY_CODES[claim.onCrash], asBuffer(result), retentionMs, claim.attemptsMax],
    lateMsOf(claim),
  ];
}

/**
 * The same as SQL, for a statement that takes no parameters. What is more than plain letters and digits
 * is in hexadecimal, so that nothing can end a literal. `undefined` where that would be too long.
 */
export function completeLiterals(
  claim: Claim,
  result: Uint8Array,
  retentionMs: number,
): string[] | undefined {
  if (result.byteLength > LITERAL_BYTES_MAX) return undefined;
  const hex = (bytes: Uint8Array) => `decode('${asBuffer(bytes).toString("hex")}','hex')`;
  return completeParameters(claim, result, retentionMs).map((value, index) => {
    if (value instanceof Uint8Array) return hex(value);
    if (typeof value !== "string") return `${value}::${COMPLETE_PARAMETERS[index]}`;
    if (/^[\w:.-]*$/.test(value)) return `'${value}'`;
    return `convert_from(${hex(Buffer.from(value))},'UTF8')`;
  });
}

export function ownerOf({ owner }: AttemptToken | Claim): string {
  return owner;
}

function lifeMsOf({ leaseMs, lapsedRetentionMs }: Claim | Renewal): number | null {
  return lapsedRetentionMs === null ? null : leaseMs + lapsedRetentionMs;
}

function lateMsOf({ refuseLate }: Claim): number | null {
  return refuseLate ? refuseLate.sentAt + refuseLate.ageMaxMs : null;
}

/** Drivers disagree about a plain `Uint8Array`. */
export function asBuffer({ buffer, byteOffset, byteLength }: Uint8Array): Buffer {
  return Buffer.from(buffer, byteOffset, byteLength);
}

export function howManyOf(items: readonly unknown[]): HowMany {
  return items.length === 1 ? "one" : "many";
}

/** What one column has for an item. */
export type Column<Item> = (item: Item, index: number) => string | number | null;

/**
 * A parameter for each column: its value for one item, an array of its values for many. A common one
 * whose values are all the same is an array of that one.
 */
export function columnsOf<Item>(
  items: readonly Item[],
  howMany: HowMany,
  { own, common }: { own: readonly Column<Item>[]; common: readonly Column<Item>[] },
): SqlValue[] {
  if (howMany === "one") return [...own, ...common].map((column) => column(items[0]!, 0));
  return [
    ...own.map((column) => arrayOf(items.map(column))),
    ...common.map((column) => {
      const values = items.map(column);
      return arrayOf(values.every((value) => value === values[0]) ? values.slice(0, 1) : values);
    }),
  ];
}

/** An array as Postgres writes it, which every driver passes on unchanged. */
export function arrayOf(values: readonly (string | number | null)[]): string {
  const element = (value: string | number | null) =>
    typeof value === "string" ? quotedElement(value) : (value ?? "NULL");
  return `{${values.map(element).join()}}`;
}

/** Identifiers and digests need no quotes, which would be taken off one by one. */
function quotedElement(text: string): string {
  if (/^[\w:-]+$/.test(text) && text.toUpperCase() !== "NULL") return text;
  return `"${text.replace(/["\\]/g, "\\$&")}"`;
}
