// Keeps in order what comes and goes with every operation. A `Set` would too, but V8's hash tables
// point to the table that takes their place when they are full: once one of them lies in the old
// generation, everything that passes through its successors outlives its use until the next major
// collection, and most of a busy process's time goes into moving it about.

/** What can be in one chain. */
export interface Link<Self> {
  before: Self | undefined;
  after: Self | undefined;
}

export class Chain<Item extends Link<Item>> {
  #first: Item | undefined;
  #last: Item | undefined;

  /** The one that was added before all others that are there. */
  get first(): Item | undefined {
    return this.#first;
  }

  has(item: Item): boolean {
    return item.before !== undefined || this.#first === item;
  }

  /** @param item is in no chain */
  add(item: Item): void {
    item.before = this.#last;
    if (this.#last) this.#last.after = item;
    else this.#first = item;
    this.#last = item;
  }

  /** @param item is in this chain or in none */
  delete(item: Item): void {
    if (!this.has(item)) return;
    const { before, after } = item;
    if (before) before.after = after;
    else this.#first = after;
    if (after) after.before = before;
    else this.#last = before;
    item.before = undefined;
    item.after = undefined;
  }

  toEnd(item: Item): void {
    if (this.#last === item) return;
    this.delete(item);
    this.add(item);
  }
}
