// The items of the memory store's queue, in the orders that they are looked for in: by id, by place
// within their operation, by when they are due, and by their end.

import type { QueueItem, QueueState } from "../store.ts";
import { ExpiryQueue } from "./memory-column.ts";

export interface Item extends Readonly<QueueItem> {
  state: QueueState;
  started: number;
  finished: number;
  /** The nonce of the claim; empty: nobody's. */
  owner: string;
  /** When it may be claimed (again). */
  dueAt: number;
  error: string | null;
  readonly createdAt: number;
  /** `null`: kept. */
  expiresAt: number | null;
  /** What the queues of times know it by. */
  readonly number: number;
}

/** The waiting items of one operation and kind. */
interface Line {
  /** By place. */
  readonly waiting: Item[];
  /** Those whose turn it is: the first one, and others of the same place. */
  heads: readonly Item[];
}

/** What an item takes beside its texts and bytes, roughly. */
const ITEM_BYTES = 700;

export class Items {
  readonly #items = new Map<string, Item>();
  readonly #lines = new Map<string, Line>();
  /** Those whose turn it is, by kind and name, in the order in which they are due. */
  readonly #turns = new Map<string, ExpiryQueue>();
  readonly #expiry = new ExpiryQueue();
  readonly #numbered: (Item | undefined)[] = [];
  readonly #unusedNumbers: number[] = [];
  #bytes = 0;

  get size(): number {
    return this.#items.size;
  }

  get bytes(): number {
    return this.#bytes;
  }

  static bytesFor(item: QueueItem, error: string | null = null): number {
    const { name, scope, key, payload } = item;
    const characters = name.length + scope.length + key.length + (error?.length ?? 0);
    return ITEM_BYTES + 2 * characters + payload.length;
  }

  get(id: string): Item | undefined {
    return this.#items.get(id);
  }

  values(): Iterable<Item> {
    return this.#items.values();
  }

  add(item: QueueItem, dueAt: number, now: number): void {
    const { id, kind, name, operation, scope, key, place } = item;
    const added: Item = {
      ...{ id, kind, name, operation, scope, key, place },
      payload: item.payload.slice(),
      state: "waiting",
      started: 0,
      finished: 0,
      owner: "",
      dueAt,
      error: null,
      createdAt: now,
      expiresAt: null,
      number: this.#unusedNumbers.pop() ?? this.#numbered.length,
    };
    this.#numbered[added.number] = added;
    this.#items.set(id, added);
    this.#bytes += Items.bytesFor(added);
    this.#join(added);
  }

  /** Has it wait until a time, under a claim or none. */
  wait(item: Item, dueAt: number, owner: string): void {
    item.dueAt = dueAt;
    item.owner = owner;
    if (item.state === "waiting") {
      this.#arrange(this.#lines.get(lineOf(item))!);
      return;
    }
    item.state = "waiting";
    item.expiresAt = null;
    this.#expiry.delete(item.number);
    this.#join(item);
  }

  fail(item: Item, error: string): void {
    this.#bytes += Items.bytesFor(item, error) - Items.bytesFor(item, item.error);
    item.error = error;
  }

  end(item: Item, state: "done" | "dead", expiresAt: number | null): void {
    this.#leave(item);
    item.state = state;
    item.owner = "";
    item.expiresAt = expiresAt;
    if (expiresAt !== null) this.#expiry.set(item.number, expiresAt);
  }

  delete(item: Item): void {
    this.#leave(item);
    this.#expiry.delete(item.number);
    this.#numbered[item.number] = undefined;
    this.#unusedNumbers.push(item.number);
    this.#items.delete(item.id);
    this.#bytes -= Items.bytesFor(item, item.error);
  }

  /** Of a kind's items of these names whose turn it is, the one that is due for the longest. */
  due(kind: string, names: readonly string[], now: number): Item | undefined {
    let longest: Item | undefined;
    for (const name of names) {
      const number = this.#turns.get(turnsOf({ kind, name }))?.expired(now);
      const item = number === undefined ? undefined : this.#numbered[number];
      if (item && (longest === undefined || item.dueAt < longest.dueAt)) longest = item;
    }
    return longest;
  }

  /** @returns how many were removed */
  removeExpired(most: number, now: number): number {
    let removed = 0;
    for (; removed < most; removed++) {
      const number = this.#expiry.expired(now);
      if (number === undefined) break;
      this.delete(this.#numbered[number]!);
    }
    return removed;
  }

  #join(item: Item): void {
    const line = this.#lines.get(lineOf(item)) ?? { waiting: [], heads: [] };
    this.#lines.set(lineOf(item), line);
    let at = line.waiting.length;
    while (at > 0 && line.waiting[at - 1]!.place > item.place) at--;
    line.waiting.splice(at, 0, item);
    this.#arrange(line);
  }

  #leave(item: Item): void {
    if (item.state !== "waiting") return;
    const line = this.#lines.get(lineOf(item))!;
    line.waiting.splice(line.waiting.indexOf(item), 1);
    this.#arrange(line);
    if (line.waiting.length === 0) this.#lines.delete(lineOf(item));
  }

  /** Sees to it that those whose turn it is, and no others of the line, are found when due. */
  #arrange(line: Line): void {
    for (const item of line.heads) this.#turns.get(turnsOf(item))!.delete(item.number);
    const place = line.waiting[0]?.place;
    const behind = line.waiting.findIndex((item) => item.place !== place);
    line.heads = line.waiting.slice(0, behind === -1 ? undefined : behind);
    for (const item of line.heads) {
      const turns = this.#turns.get(turnsOf(item)) ?? new ExpiryQueue();
      this.#turns.set(turnsOf(item), turns);
      turns.set(item.number, item.dueAt);
    }
  }
}

function lineOf({ operation, kind }: { operation: string; kind: string }): string {
  return operation + kind;
}

function turnsOf({ kind, name }: { kind: string; name: string }): string {
  return `${kind}:${name}`;
}
