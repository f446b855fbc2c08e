// The completed records of the memory store, packed: most of what it holds is finished and waits to
// be forgotten, so that it has to be small and cost the garbage collector nothing.

import type { RecordId } from "../store.ts";
import { Column, ExpiryQueue } from "./memory-column.ts";
import { SlotIndex } from "./memory-index.ts";
import { type FinishedRecord, ID_BYTES, PackedRecord, Packer, writeHex } from "./memory-packing.ts";
import { Slabs } from "./memory-slabs.ts";

/** What a record takes beside its bytes in a slab: its slot, its place in queue and index. */
const SLOT_BYTES = 48;
/** More slots than this are given back when the last record leaves. */
const KEPT_SLOTS_MAX = 2 ** 16;
/** In the column of slabs: the slot is free. Other values are numbers of slabs plus one. */
const FREE = 0;

/** A record, good until the archive changes. */
export interface ArchivedRecord {
  slot: number;
  expiresAt: number;
  packed: PackedRecord;
}

export class Archive {
  readonly #slabs = new Slabs();
  readonly #packer = new Packer();
  /** Where each slot's record lies. */
  readonly #slab = new Column("uint32");
  readonly #offset = new Column("uint32");
  readonly #expiry = new ExpiryQueue();
  readonly #index = new SlotIndex({ word: (slot, index) => this.#word(slot, index) });
  /** Free slots are chained by their offset, plus one. */
  #freeSlot = 0;
  #slots = 0;
  /** In order of completion, where that is asked for: slots plus one. */
  readonly #order: CompletionOrder | undefined;
  readonly #idBytes = new Uint8Array(ID_BYTES);
  readonly #idView = new DataView(this.#idBytes.buffer);
  readonly #idWords = new Uint32Array(ID_BYTES / 4);
  #size = 0;
  #bytes = 0;

  /** @param keepsOrder whether `oldest()` will be asked */
  constructor(keepsOrder: boolean) {
    this.#order = keepsOrder ? new CompletionOrder() : undefined;
  }

  get size(): number {
    return this.#size;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** What the records' slabs take, wanted or not. */
  get slabBytes(): number {
    return this.#slabs.capacity;
  }

  find(id: RecordId): ArchivedRecord | undefined {
    if (this.#size === 0) return undefined;
    writeHex(id, this.#idBytes, 0);
    for (let word = 0; word < 4; word++) this.#idWords[word] = this.#idView.getUint32(4 * word);
    const slot = this.#index.find(this.#idWords);
    return slot === undefined ? undefined : this.#at(slot);
  }

  /** Makes the bytes of a record; `add` takes them before the next is packed. */
  pack(record: FinishedRecord, completedAt: number, resultLength: number): Uint8Array {
    return this.#packer.pack(record, completedAt, resultLength);
  }

  /** What a record will take. */
  static bytesFor(packed: Uint8Array, result: Uint8Array): number {
    return SLOT_BYTES + packed.length + result.length;
  }

  /** Adds a record whose id is not there yet. The result is copied. */
  add(packed: Uint8Array, result: Uint8Array, expiresAt: number): void {
    const length = packed.length + result.length;
    const number = this.#slabs.take(length);
    const slot = this.#takeSlot();
    const { bytes, used } = this.#slabs.get(number);
    bytes.set(packed, used - length);
    bytes.set(result, used - result.length);
    this.#slab.set(slot, number + 1);
    this.#offset.set(slot, used - length);
    this.#index.add(slot);
    this.#expiry.set(slot, expiresAt);
    this.#order?.add(slot);
    this.#size++;
    this.#bytes += SLOT_BYTES + length;
  }

  delete({ slot, packed }: ArchivedRecord): void {
    this.#index.delete(slot);
    this.#expiry.delete(slot);
    this.#order?.delete(slot);
    this.#slabs.release(this.#slab.get(slot) - 1, packed.length);
    this.#slab.set(slot, FREE);
    this.#offset.set(slot, this.#freeSlot);
    this.#freeSlot = slot + 1;
    this.#size--;
    this.#bytes -= SLOT_BYTES + packed.length;
    if (this.#size === 0) this.#giveBack();
    else this.#compact();
  }

  /** The record that ends first, if it has ended. */
  expired(now: number): ArchivedRecord | undefined {
    const slot = this.#expiry.expired(now);
    return slot === undefined ? undefined : this.#at(slot);
  }

  /** The record that completed first. */
  oldest(): ArchivedRecord | undefined {
    const slot = this.#order?.first();
    return slot === undefined ? undefined : this.#at(slot);
  }

  /** Every record, those of late first on the whole; it may change meanwhile. */
  *records(): Generator<ArchivedRecord> {
    for (let slot = this.#slots - 1; slot >= 0; slot--) {
      if (this.#slab.get(slot) !== FREE) yield this.#at(slot);
    }
  }

  #at(slot: number): ArchivedRecord {
    const slab = this.#slabs.get(this.#slab.get(slot) - 1);
    const packed = new PackedRecord(slab, this.#offset.get(slot));
    return { slot, expiresAt: this.#expiry.endOf(slot), packed };
  }

  #word(slot: number, index: number): number {
    const slab = this.#slabs.get(this.#slab.get(slot) - 1);
    return slab.view.getUint32(this.#offset.get(slot) + 4 * index);
  }

  #takeSlot(): number {
    if (this.#freeSlot === 0) return this.#slots++;
    const slot = this.#freeSlot - 1;
    this.#freeSlot = this.#offset.get(slot);
    return slot;
  }

  /** Moves what is left in the emptiest slabs, as long as too much memory lies idle. */
  #compact(): void {
    for (;;) {
      const number = this.#slabs.wasteful();
      if (number === undefined) return;
      const slab = this.#slabs.get(number);
      for (let offset = 0; slab.live > 0; ) {
        const { length } = new PackedRecord(slab, offset);
        const slot = this.#slotAt(number, offset);
        if (slot !== undefined)
          this.#move(slot, number, slab.bytes.subarray(offset, offset + length));
        offset += length;
      }
    }
  }

  /** The slot of the record that lies there; `undefined` when it has been deleted. */
  #slotAt(number: number, offset: number): number | undefined {
    const { view } = this.#slabs.get(number);
    for (let word = 0; word < 4; word++) {
      this.#idWords[word] = view.getUint32(offset + 4 * word);
    }
    const slot = this.#index.find(this.#idWords);
    if (slot === undefined) return undefined;
    const isThere = this.#slab.get(slot) === number + 1 && this.#offset.get(slot) === offset;
    return isThere ? slot : undefined;
  }

  #move(slot: number, from: number, record: Uint8Array): void {
    const to = this.#slabs.take(record.length);
    const { bytes, used } = this.#slabs.get(to);
    bytes.set(record, used - record.length);
    this.#slab.set(slot, to + 1);
    this.#offset.set(slot, used - record.length);
    this.#slabs.release(from, record.length);
  }

  /** An empty archive keeps no more than a small one needs. */
  #giveBack(): void {
    if (this.#slots <= KEPT_SLOTS_MAX) return;
    this.#slab.clear();
    this.#offset.clear();
    this.#expiry.clear();
    this.#index.clear();
    this.#order?.clear();
    this.#freeSlot = 0;
    this.#slots = 0;
  }
}

/** Slots in the order in which they were added; any may leave. */
class CompletionOrder {
  /** Slots plus one; slot 0 would be the end. */
  readonly #next = new Column("uint32");
  readonly #previous = new Column("uint32");
  #first = 0;
  #last = 0;

  first(): number | undefined {
    return this.#first === 0 ? undefined : this.#first - 1;
  }

  add(slot: number): void {
    const link = slot + 1;
    this.#next.set(link, 0);
    this.#previous.set(link, this.#last);
    if (this.#last === 0) this.#first = link;
    else this.#next.set(this.#last, link);
    this.#last = link;
  }

  delete(slot: number): void {
    const link = slot + 1;
    const [next, previous] = [this.#next.get(link), this.#previous.get(link)];
    if (previous === 0) this.#first = next;
    else this.#next.set(previous, next);
    if (next === 0) this.#last = previous;
    else this.#previous.set(next, previous);
  }

  clear(): void {
    this.#next.clear();
    this.#previous.clear();
    this.#first = 0;
    this.#last = 0;
  }
}
