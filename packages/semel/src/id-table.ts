// Finds by an operation's id what comes and goes with it, as a `Map` would, whose tables cost too much
// there: see `chain.ts`.

import type { RecordId } from "./store.ts";

/** What can be in one table. */
export interface Row<Self> {
  readonly id: RecordId;
  /** The next one of its bucket. */
  next: Self | undefined;
}

const BUCKETS_MIN = 64;

export class IdTable<Item extends Row<Item>> {
  #buckets: (Item | undefined)[] = new Array(BUCKETS_MIN).fill(undefined);
  #size = 0;

  get size(): number {
    return this.#size;
  }

  get(id: RecordId): Item | undefined {
    let item = this.#buckets[this.#bucketOf(id)];
    while (item !== undefined && item.id !== id) item = item.next;
    return item;
  }

  has(id: RecordId): boolean {
    return this.get(id) !== undefined;
  }

  /** @param item is in no table, and no other of its id is in this one */
  add(item: Item): void {
    if (this.#size === this.#buckets.length) this.#grow();
    this.#place(item);
    this.#size++;
  }

  /** @returns whether it was there */
  delete(item: Item): boolean {
    const bucket = this.#bucketOf(item.id);
    let before: Item | undefined;
    let found = this.#buckets[bucket];
    while (found !== undefined && found !== item) {
      before = found;
      found = found.next;
    }
    if (found === undefined) return false;
    if (before) before.next = item.next;
    else this.#buckets[bucket] = item.next;
    item.next = undefined;
    this.#size--;
    return true;
  }

  #place(item: Item): void {
    const bucket = this.#bucketOf(item.id);
    item.next = this.#buckets[bucket];
    this.#buckets[bucket] = item;
  }

  #grow(): void {
    const smaller = this.#buckets;
    this.#buckets = new Array(2 * smaller.length).fill(undefined);
    for (const first of smaller) {
      for (let item = first; item !== undefined; ) {
        const { next } = item;
        this.#place(item);
        item = next;
      }
    }
  }

  /** Ids are digests, any part of which tells them apart. */
  #bucketOf(id: RecordId): number {
    let hash = 0;
    for (let at = id.length - HASHED; at < id.length; at++)
      hash = (31 * hash + id.charCodeAt(at)) | 0;
    return hash & (this.#buckets.length - 1);
  }
}

/** So many of an id's last characters, of four bits each, are looked at. */
const HASHED = 8;
