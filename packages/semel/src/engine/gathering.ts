// Merges writes: what is added while one is under way leaves together as the next one.

export class Gathering<Item> {
  readonly #write: (items: Item[]) => Promise<void>;
  readonly #itemsMax: number;
  #next: { items: Item[]; written: Promise<void> } | undefined;
  #last: Promise<void> = Promise.resolve();

  /** @param itemsMax the most that one write may carry */
  constructor(
    write: (items: Item[]) => Promise<void>,
    itemsMax: number = Number.POSITIVE_INFINITY,
  ) {
    this.#write = write;
    this.#itemsMax = itemsMax;
  }

  /** Resolves, or rejects, with the write that carries it. */
  add(item: Item): Promise<void> {
    if (this.#next === undefined || this.#next.items.length >= this.#itemsMax) {
      const items: Item[] = [];
      const written = this.#last.then(() => {
        if (this.#next?.items === items) this.#next = undefined;
        return this.#write(items);
      });
      this.#last = written.catch(() => {});
      this.#next = { items, written };
    }
    this.#next.items.push(item);
    return this.#next.written;
  }
}
