// Finds slots by record id: hash tables of slot numbers, 256 of them, so that the one that has to
// grow is small and the growth is not felt.

import { getRandomValues } from "node:crypto";

const SHARD_BITS = 8;
const CAPACITY_MIN = 8;
/** Beyond this share a table doubles: a search for what is absent must end soon. */
const LOAD_MAX = 3 / 4;

/** Tells what the index does not keep itself. */
export interface SlotIds {
  /** The words of the id at a slot. */
  word(slot: number, index: 0 | 1 | 2 | 3): number;
}

interface Shard {
  /** Slot numbers plus one; 0 where there is none. A power of two long. */
  slots: Uint32Array;
  /**
   * A byte of the hash beside each, so that the search for another id need not look at the record,
   * which lies somewhere else and takes longer to fetch than all of the search.
   */
  tags: Uint8Array;
  count: number;
}

/** The four words of an id. */
export type IdWords = Uint32Array;

export class SlotIndex {
  readonly #ids: SlotIds;
  #shards: (Shard | undefined)[] = [];
  // Keys are chosen by clients: without a secret they could make all of theirs collide.
  readonly #secret = getRandomValues(new Uint32Array(4)).map((word) => word | 1);

  constructor(ids: SlotIds) {
    this.#ids = ids;
  }

  find(words: IdWords): number | undefined {
    const hash = this.#hash(words[0]!, words[1]!, words[2]!, words[3]!);
    const shard = this.#shards[hash >>> (32 - SHARD_BITS)];
    if (shard === undefined) return undefined;
    const { slots, tags } = shard;
    const mask = slots.length - 1;
    const tag = tagOf(hash);
    for (let at = hash & mask; slots[at] !== 0; at = (at + 1) & mask) {
      if (tags[at] === tag && this.#hasId(slots[at]! - 1, words)) return slots[at]! - 1;
    }
    return undefined;
  }

  /** Adds a slot whose id is not there yet. */
  add(slot: number): void {
    const hash = this.#hashAt(slot);
    const number = hash >>> (32 - SHARD_BITS);
    const shard = this.#shards[number] ?? emptyShard(CAPACITY_MIN);
    this.#shards[number] = shard;
    if (shard.count + 1 > shard.slots.length * LOAD_MAX) this.#grow(shard);
    insert(shard, hash, slot + 1);
  }

  /** Removes a slot that is there, while its id can still be told. */
  delete(slot: number): void {
    const hash = this.#hashAt(slot);
    const shard = this.#shards[hash >>> (32 - SHARD_BITS)]!;
    const { slots, tags } = shard;
    const mask = slots.length - 1;
    let gap = hash & mask;
    while (slots[gap] !== slot + 1) gap = (gap + 1) & mask;
    // What follows moves up where the gap would hide it from its search.
    for (let at = (gap + 1) & mask; slots[at] !== 0; at = (at + 1) & mask) {
      const home = this.#hashAt(slots[at]! - 1) & mask;
      if (((at - home) & mask) < ((at - gap) & mask)) continue;
      slots[gap] = slots[at]!;
      tags[gap] = tags[at]!;
      gap = at;
    }
    slots[gap] = 0;
    shard.count--;
  }

  clear(): void {
    this.#shards = [];
  }

  #grow(shard: Shard): void {
    const old = shard.slots;
    Object.assign(shard, emptyShard(old.length * 2));
    for (const entry of old) if (entry !== 0) insert(shard, this.#hashAt(entry - 1), entry);
  }

  #hasId(slot: number, words: IdWords): boolean {
    const ids = this.#ids;
    return (
      ids.word(slot, 0) === words[0] &&
      ids.word(slot, 1) === words[1] &&
      ids.word(slot, 2) === words[2] &&
      ids.word(slot, 3) === words[3]
    );
  }

  #hashAt(slot: number): number {
    const ids = this.#ids;
    return this.#hash(ids.word(slot, 0), ids.word(slot, 1), ids.word(slot, 2), ids.word(slot, 3));
  }

  #hash(a: number, b: number, c: number, d: number): number {
    const secret = this.#secret;
    const sum =
      Math.imul(a, secret[0]!) +
      Math.imul(b, secret[1]!) +
      Math.imul(c, secret[2]!) +
      Math.imul(d, secret[3]!);
    // Murmur's finish: the shard is in the high bits, the place in the low ones.
    let mixed = sum | 0;
    mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b);
    mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
    return (mixed ^ (mixed >>> 16)) >>> 0;
  }
}

function emptyShard(capacity: number): Shard {
  return { slots: new Uint32Array(capacity), tags: new Uint8Array(capacity), count: 0 };
}

/** Bits of the hash that neither the shard nor, in all but huge tables, the place is made of. */
function tagOf(hash: number): number {
  return (hash >>> 16) & 0xff;
}

function insert(shard: Shard, hash: number, entry: number): void {
  const { slots, tags } = shard;
  const mask = slots.length - 1;
  let at = hash & mask;
  while (slots[at] !== 0) at = (at + 1) & mask;
  slots[at] = entry;
  tags[at] = tagOf(hash);
  shard.count++;
}
