// Columns of numbers outside the JavaScript heap, and a queue in them. They grow chunk by chunk, so
// that growing copies nothing and never stalls.

const CHUNK_BITS = 14;
const CHUNK_LENGTH = 2 ** CHUNK_BITS;
const CHUNK_MASK = CHUNK_LENGTH - 1;

type NumberArray = Uint32Array | Float64Array;

/** Numbers by index; 0 where none was set. */
export class Column {
  readonly #make: (length: number) => NumberArray;
  #chunks: NumberArray[] = [];

  constructor(type: "uint32" | "float64") {
    this.#make =
      type === "uint32"
        ? (length) => new Uint32Array(length)
        : (length) => new Float64Array(length);
  }

  get(index: number): number {
    const chunk = this.#chunks[index >>> CHUNK_BITS];
    return chunk === undefined ? 0 : chunk[index & CHUNK_MASK]!;
  }

  set(index: number, value: number): void {
    const number = index >>> CHUNK_BITS;
    while (this.#chunks.length <= number) this.#chunks.push(this.#make(CHUNK_LENGTH));
    this.#chunks[number]![index & CHUNK_MASK] = value;
  }

  clear(): void {
    this.#chunks = [];
  }
}

const BRANCHES = 4;

/**
 * Items, which are small whole numbers, by the time at which each ends: the soonest first. A heap of
 * four branches, whose items know their place, so that any may be moved or taken out.
 */
export class ExpiryQueue {
  readonly #items = new Column("uint32");
  readonly #ends = new Column("float64");
  /** For each item its place plus one; 0 where it is not queued. */
  readonly #places = new Column("uint32");
  #size = 0;

  /** The item that ends first, if that is at `now` or before. */
  expired(now: number): number | undefined {
    return this.#size > 0 && this.#ends.get(0) <= now ? this.#items.get(0) : undefined;
  }

  /** When a queued item ends. */
  endOf(item: number): number {
    return this.#ends.get(this.#places.get(item) - 1);
  }

  /** Queues an item, or moves it to another end. */
  set(item: number, end: number): void {
    const place = this.#places.get(item);
    this.#settle(place === 0 ? this.#size++ : place - 1, item, end);
  }

  /** Takes an item out, if it is queued. */
  delete(item: number): void {
    const place = this.#places.get(item) - 1;
    if (place < 0) return;
    this.#places.set(item, 0);
    const last = --this.#size;
    if (place < last) this.#settle(place, this.#items.get(last), this.#ends.get(last));
  }

  clear(): void {
    this.#items.clear();
    this.#ends.clear();
    this.#places.clear();
    this.#size = 0;
  }

  /** Moves the gap at `from` to where an item belongs, and puts it there. */
  #settle(from: number, item: number, end: number): void {
    let gap = from;
    while (gap > 0) {
      const parent = Math.floor((gap - 1) / BRANCHES);
      if (this.#ends.get(parent) <= end) break;
      this.#put(gap, this.#items.get(parent), this.#ends.get(parent));
      gap = parent;
    }
    for (;;) {
      const child = this.#soonestChild(gap);
      if (child === undefined || this.#ends.get(child) >= end) break;
      this.#put(gap, this.#items.get(child), this.#ends.get(child));
      gap = child;
    }
    this.#put(gap, item, end);
  }

  #soonestChild(parent: number): number | undefined {
    const first = parent * BRANCHES + 1;
    if (first >= this.#size) return undefined;
    const last = Math.min(first + BRANCHES, this.#size);
    let soonest = first;
    for (let child = first + 1; child < last; child++) {
      if (this.#ends.get(child) < this.#ends.get(soonest)) soonest = child;
    }
    return soonest;
  }

  #put(place: number, item: number, end: number): void {
    this.#items.set(place, item);
    this.#ends.set(place, end);
    this.#places.set(item, place + 1);
  }
}
