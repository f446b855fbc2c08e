// What the queues of the SQL stores share: how kinds and states are kept as small numbers, how a row
// becomes the item that the contract speaks of, and what is said of many in one statement.

import { writableError } from "../error-text.ts";
import { RecordUnreadable } from "../errors.ts";
import type {
  ItemEnding,
  ItemToken,
  QueueKind,
  QueueState,
  QueueStats,
  StoredItem,
} from "../store.ts";
import { isHandOn } from "./queue-checks.ts";
import { bytes, integer, type SqlInteger } from "./sql-record.ts";

export const KIND_CODES = { task: 0, effect: 1 } as const satisfies Record<QueueKind, number>;
export const ITEM_STATE_CODES = {
  waiting: 0,
  done: 1,
  dead: 2,
} as const satisfies Record<QueueState, number>;

const KINDS: ReadonlyMap<number, QueueKind> = new Map(
  Object.entries(KIND_CODES).map(([kind, code]) => [code, kind as QueueKind]),
);
const STATES: ReadonlyMap<number, QueueState> = new Map(
  Object.entries(ITEM_STATE_CODES).map(([state, code]) => [code, state as QueueState]),
);

/** What a store selects of an item. Names are single words, as those of a `RecordRow`. */
export interface ItemRow {
  /** 32 hexadecimal digits, as is `operation`. */
  id: string;
  operation: string;
  kind: SqlInteger;
  name: string;
  scope: string;
  key: string;
  place: SqlInteger;
  state: SqlInteger;
  started: SqlInteger;
  finished: SqlInteger;
  /** Until it may be claimed (again), in milliseconds; `null`: it does not wait. */
  due: SqlInteger | null;
  error: string | null;
  /** Since it was added, in milliseconds. */
  age: SqlInteger;
  /** Milliseconds since the Unix epoch. */
  created: SqlInteger;
  /** What remains of its life, in milliseconds. */
  expires: SqlInteger | null;
  /** Not selected by a listing. */
  payload?: Uint8Array | ArrayBuffer;
}

/** @throws {RecordUnreadable} when no version of Semel would have written it */
export function storedItem(row: ItemRow): StoredItem {
  const kind = KINDS.get(Number(row.kind));
  const state = STATES.get(Number(row.state));
  if (kind === undefined || state === undefined) {
    throw new RecordUnreadable(
      `Item ${row.id} of the queue is damaged: its kind or state is unknown`,
    );
  }
  return {
    id: row.id,
    kind,
    name: row.name,
    operation: row.operation,
    scope: row.scope,
    key: row.key,
    place: Number(row.place),
    payload: bytes(row.payload ?? null) ?? new Uint8Array(0),
    state,
    started: Number(row.started),
    finished: Number(row.finished),
    dueInMs: integer(row.due),
    error: row.error,
    ageMs: Number(row.age),
    createdAt: Number(row.created),
    expiresInMs: integer(row.expires),
  };
}

/** A row of the statistics: items of one kind and state. */
export interface ItemCountRow {
  kind: SqlInteger;
  state: SqlInteger;
  items: SqlInteger;
  /** How long the first of them has been due, in milliseconds; `null`: none is. */
  oldest: SqlInteger | null;
}

export function queueStats(rows: readonly ItemCountRow[]): QueueStats {
  const stats: QueueStats = {
    states: {
      task: { waiting: 0, done: 0, dead: 0 },
      effect: { waiting: 0, done: 0, dead: 0 },
    },
    oldestDueMs: { task: null, effect: null },
  };
  for (const { kind, state, items, oldest } of rows) {
    const [kindName, stateName] = [KINDS.get(Number(kind)), STATES.get(Number(state))];
    if (kindName === undefined || stateName === undefined) continue;
    stats.states[kindName][stateName] = Number(items);
    if (stateName === "waiting" && oldest !== null) stats.oldestDueMs[kindName] = Number(oldest);
  }
  return stats;
}

/**
 * What an ending writes: its state, the time to the next attempt or to the end of its life, why; and
 * whether it is one at all, as what is handed on counts as not claimed.
 */
export function writtenBy(ending: ItemEnding): {
  state: number;
  afterMs: number | null;
  error: string | null;
  counts: boolean;
} {
  return { ...outcomeOf(ending), counts: !isHandOn(ending) };
}

function outcomeOf(ending: ItemEnding): Omit<ReturnType<typeof writtenBy>, "counts"> {
  switch (ending.kind) {
    case "done":
      return { state: ITEM_STATE_CODES.done, afterMs: ending.retentionMs, error: null };
    case "retry": {
      const error = ending.error === null ? null : writableError(ending.error);
      return { state: ITEM_STATE_CODES.waiting, afterMs: ending.dueInMs, error };
    }
    case "dead": {
      const { retentionMs, error } = ending;
      return { state: ITEM_STATE_CODES.dead, afterMs: retentionMs, error: writableError(error) };
    }
  }
}

/** Tokens as one statement may be asked about them: each once, and in the order of their items' ids. */
export interface Tokens<Token> {
  readonly asked: readonly Token[];
  /** For each that was given, its place among those that are asked about. */
  readonly placeOf: readonly number[];
  /** For each that was given, whether it is the first of those that are alike. */
  readonly isFirst: readonly boolean[];
}

export function eachOnce<Token extends ItemToken>(given: readonly Token[]): Tokens<Token> {
  const name = ({ id, started, owner }: Token) => `${id} ${started} ${owner}`;
  const distinct = new Map<string, Token>();
  const isFirst = given.map((token) => {
    const isNew = !distinct.has(name(token));
    if (isNew) distinct.set(name(token), token);
    return isNew;
  });
  const asked = inOrder([...distinct.values()]);
  const places = new Map(asked.map((token, place) => [name(token), place]));
  return { asked, placeOf: given.map((token) => places.get(name(token))!), isFirst };
}

/** By id, so that two that write the same rows do not wait for each other. */
export function inOrder<Item extends { readonly id: string }>(items: readonly Item[]): Item[] {
  return items.toSorted((one, other) => (one.id < other.id ? -1 : one.id > other.id ? 1 : 0));
}

/** Items as one statement may write them: each once, the first of those with one id. */
export function distinctItems<Item extends { readonly id: string }>(
  given: readonly Item[],
): Item[] {
  const distinct = new Map<string, Item>();
  for (const item of given) if (!distinct.has(item.id)) distinct.set(item.id, item);
  return inOrder([...distinct.values()]);
}
