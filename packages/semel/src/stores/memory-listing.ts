// A page of a listing, collected from records in any order.

import { InvalidOption } from "../errors.ts";
import type { ListPage, ListQuery, RecordId, RecordState, StoredRecord } from "../store.ts";

/** What places a record in a listing. */
interface Position {
  createdAt: number;
  id: RecordId;
}

/** What filters look at. */
interface Listed extends Position {
  scope: string;
}

/** How many pages' worth of records are collected before the worst of them are dropped. */
const SLACK = 2;

/** The newest records that match a query. */
export class NewestPage {
  readonly #query: ListQuery;
  readonly #now: number;
  readonly #after: Position | undefined;
  #records: StoredRecord[] = [];
  /** Nothing at or behind this can be on the page any more. */
  #last: Position | undefined;

  /** @throws {InvalidOption} when the cursor is none */
  constructor(query: ListQuery, now: number) {
    this.#query = query;
    this.#now = now;
    this.#after = query.cursor === undefined ? undefined : parseCursor(query.cursor);
  }

  /** Whether records of a state are asked for. */
  wants(state: RecordState): boolean {
    return this.#query.state === undefined || this.#query.state === state;
  }

  /** Adds a record if it matches and may be on the page; only then is it made. */
  offer(record: Listed, make: () => StoredRecord): void {
    const { scope, olderThanMs, limit } = this.#query;
    if (olderThanMs !== undefined && this.#now - record.createdAt < olderThanMs) return;
    if (this.#last !== undefined && newestFirst(this.#last, record) <= 0) return;
    if (this.#after !== undefined && newestFirst(this.#after, record) >= 0) return;
    if (scope !== undefined && record.scope !== scope) return;
    this.#records.push(make());
    if (this.#records.length >= SLACK * (limit + 1)) this.#sort();
  }

  finish(): ListPage {
    this.#sort();
    const { limit } = this.#query;
    const records = this.#records.slice(0, limit);
    const last = records.at(-1);
    const hasMore = this.#records.length > limit;
    return { records, ...(last && hasMore && { cursor: `${last.createdAt}/${last.id}` }) };
  }

  /** Keeps the page and one more, which tells that there is another page. */
  #sort(): void {
    this.#records.sort(newestFirst);
    // A record that completed while the listing was under way was met twice.
    const once = this.#records.filter(({ id }, index) => id !== this.#records[index - 1]?.id);
    this.#records = once.slice(0, this.#query.limit + 1);
    if (this.#records.length > this.#query.limit) this.#last = this.#records.at(-1);
  }
}

function newestFirst(one: Position, other: Position): number {
  if (one.createdAt !== other.createdAt) return other.createdAt - one.createdAt;
  if (one.id === other.id) return 0;
  return one.id < other.id ? -1 : 1;
}

function parseCursor(cursor: string): Position {
  const match = /^(\d{1,15})\/([0-9a-f]{32})$/.exec(cursor);
  if (match === null) {
    throw new InvalidOption("`cursor` is not one that a previous page of this list ended with");
  }
  return { createdAt: Number(match[1]), id: match[2]! };
}
