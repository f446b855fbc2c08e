// A page of a listing, collected from records or items in any order.

import { InvalidOption } from "../errors.ts";

/** What places a record or an item in a listing. */
interface Position {
  createdAt: number;
  /** 32 hexadecimal digits. */
  id: string;
}

/** How many pages' worth are collected before the worst are dropped. */
const SLACK = 2;

/** The newest of what is offered, behind the cursor. */
export class NewestPage<Listed extends Position> {
  readonly #limit: number;
  readonly #after: Position | undefined;
  #listed: Listed[] = [];
  /** Nothing at or behind this can be on the page any more. */
  #last: Position | undefined;

  /** @throws {InvalidOption} when the cursor is none */
  constructor({ limit, cursor }: { limit: number; cursor?: string }) {
    this.#limit = limit;
    this.#after = cursor === undefined ? undefined : parseCursor(cursor);
  }

  /** Adds what may be on the page; only then is it made. */
  offer(position: Position, make: () => Listed): void {
    if (this.#last !== undefined && newestFirst(this.#last, position) <= 0) return;
    if (this.#after !== undefined && newestFirst(this.#after, position) >= 0) return;
    this.#listed.push(make());
    if (this.#listed.length >= SLACK * (this.#limit + 1)) this.#sort();
  }

  finish(): { listed: Listed[]; cursor?: string } {
    this.#sort();
    const listed = this.#listed.slice(0, this.#limit);
    const last = listed.at(-1);
    const hasMore = this.#listed.length > this.#limit;
    return { listed, ...(last && hasMore && { cursor: `${last.createdAt}/${last.id}` }) };
  }

  /** Keeps the page and one more, which tells that there is another page. */
  #sort(): void {
    this.#listed.sort(newestFirst);
    // A record that completed while the listing was under way was met twice.
    const once = this.#listed.filter(({ id }, index) => id !== this.#listed[index - 1]?.id);
    this.#listed = once.slice(0, this.#limit + 1);
    if (this.#listed.length > this.#limit) this.#last = this.#listed.at(-1);
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
