// Items of the DynamoDB store: what they hold, and whether this version can read them.

import { InvalidOption, RecordUnreadable, StoreFull } from "../../errors.ts";
import type { CrashPolicy, RecordId, RecordState } from "../../store.ts";

export const FORMAT = 1;
/** DynamoDB's bound of an item is 400 KB; the rest of the record needs a little. */
const BYTES_MAX = 390_000;

/** An item as stored. Times are milliseconds since the Unix epoch; `ttl` is seconds. */
export interface Item {
  id: RecordId;
  scope: string;
  key: string;
  fingerprint: string;
  format: number;
  state: RecordState;
  attempt: number;
  owner: string;
  crashes: number;
  onCrash: CrashPolicy;
  leaseUntil?: number;
  result?: Uint8Array;
  reason?: string;
  journal?: Uint8Array[];
  createdAt: number;
  updatedAt: number;
  expiresAt?: number;
  ttl?: number;
}

/** The owner of what was never claimed. */
export const NOBODY = "0".repeat(32);

/** `undefined` takes an attribute away. */
export type Changes = { [Name in keyof Item]?: Item[Name] | undefined };

const STATES = ["running", "completed", "held", "open", "void"];

export function isReadable(item: Item): boolean {
  try {
    assertReadable(item);
    return true;
  } catch {
    return false;
  }
}

/** @throws {RecordUnreadable} when it is damaged, or of a newer version (SM-23b) */
export function assertReadable(item: Item): void {
  if (item.format > FORMAT) {
    throw new RecordUnreadable(
      `Record ${item.id} has format ${item.format}, newer than the ${FORMAT} that this version of Semel reads; upgrade Semel`,
    );
  }
  const isWhole =
    item.format === FORMAT &&
    STATES.includes(item.state) &&
    typeof item.owner === "string" &&
    item.owner.length === 32 &&
    ["hold", "rerun", "probe"].includes(item.onCrash) &&
    (item.state === "running") === (item.leaseUntil !== undefined) &&
    (item.state === "completed") === item.result instanceof Uint8Array &&
    (item.state === "held") === (item.reason !== undefined);
  if (!isWhole) throw new RecordUnreadable(`Record ${item.id} is damaged`);
}

export function newestFirst(
  one: { createdAt: number; id: string },
  other: { createdAt: number; id: string },
): number {
  return other.createdAt - one.createdAt || (one.id < other.id ? -1 : one.id > other.id ? 1 : 0);
}

/** @throws {InvalidOption} */
export function parseCursor(cursor: string): { createdAt: number; id: string } {
  const match = /^(\d+)\/([0-9a-f]{32})$/.exec(cursor);
  if (match) return { createdAt: Number(match[1]), id: match[2]! };
  throw new InvalidOption("`cursor` is not one that a previous page of this list ended with");
}

/** @throws {StoreFull} when no item could have them */
export function assertFits(bytes: Uint8Array, what: string): void {
  if (bytes.byteLength <= BYTES_MAX) return;
  throw new StoreFull(`DynamoDB keeps items of 400 KB; this ${what} has ${bytes.byteLength} bytes`);
}
