// Items of the queue as the scripts keep them and answer with them; for the form see
// `queue-scripts.ts`.

import { RecordUnreadable } from "../../errors.ts";
import type { QueueItem, QueueKind, QueueState, StoredItem } from "../../store.ts";
import { ITEM_FORMAT, ITEM_NAMES_AT, ITEM_STATES } from "./queue-scripts.ts";

/** The numbers that items keep for their kinds. */
export const KIND_CODES = { task: 0, effect: 1 } as const satisfies Record<QueueKind, number>;

const KINDS: readonly (QueueKind | undefined)[] = ["task", "effect"];
const STATES: readonly (QueueState | undefined)[] = ["waiting", "done", "dead"];

/** What a script answers with for an item: its id, its fields, its payload, its error. */
export type ItemReply = readonly [
  id: Buffer,
  fields: Buffer,
  payload: Buffer | null,
  error: Buffer | null,
];

/** The arguments that an item is added with. */
export function itemArguments(item: QueueItem): (string | Buffer)[] {
  const { id, operation, kind, place, name, scope, key, payload } = item;
  const { buffer, byteOffset, byteLength } = payload;
  const bytes = Buffer.from(buffer, byteOffset, byteLength);
  return [id, operation, String(KIND_CODES[kind]), String(place), name, scope, key, bytes];
}

/**
 * @param now the server's time, in milliseconds since the Unix epoch
 * @throws {RecordUnreadable} when no version of Semel would have written it, or a newer one has
 */
export function unpackItem([id, fields, payload, error]: ItemReply, now: number): StoredItem {
  const kind = KINDS[fields[1] ?? -1];
  const state = STATES[fields[2] ?? -1];
  const isWhole = fields.byteLength >= ITEM_NAMES_AT && fields[0] === ITEM_FORMAT;
  if (!isWhole || kind === undefined || state === undefined) throw unreadable(id.toString());
  const scopeAt = ITEM_NAMES_AT + fields.readUInt16BE(81);
  const keyAt = scopeAt + fields.readUInt16BE(83);
  const createdAt = fields.readUIntBE(31, 6);
  const expiresAt = fields.readUIntBE(43, 6);
  return {
    id: id.toString(),
    kind,
    name: fields.toString("utf8", ITEM_NAMES_AT, scopeAt),
    operation: fields.toString("latin1", 49, 81),
    scope: fields.toString("utf8", scopeAt, keyAt),
    key: fields.toString("utf8", keyAt),
    place: fields.readUInt32BE(3),
    // A copy of its own: the driver's buffer may hold a whole reply.
    payload: new Uint8Array(payload ?? []),
    state,
    started: fields.readUInt32BE(7),
    finished: fields.readUInt32BE(11),
    dueInMs: fields[2] === ITEM_STATES.waiting ? fields.readUIntBE(37, 6) - now : null,
    error: error === null ? null : error.toString(),
    ageMs: now - createdAt,
    createdAt,
    expiresInMs: expiresAt === 0 ? null : expiresAt - now,
  };
}

export function unreadable(id: string): RecordUnreadable {
  return new RecordUnreadable(
    `Item ${id} of the queue is damaged, or from a newer version of Semel`,
  );
}
