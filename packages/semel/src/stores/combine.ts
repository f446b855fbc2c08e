// Merges what is asked of a store at about the same time into batches (ST-12), so that throughput
// grows with concurrency instead of with round trips, while every caller still gets its own answer.

import { StoreUnavailable, StoreUnusable } from "../errors.ts";
import type { RecordId } from "../store.ts";

export interface CombineOptions<Item, Answer> {
  /**
   * Sends one batch and answers item by item, in the batch's order; an `Error` among the answers is
   * that item's alone. It must be safe to send an item again after `send` failed as a whole.
   */
  send(items: readonly Item[]): readonly (Answer | Error)[] | Promise<readonly (Answer | Error)[]>;
  /** The most items in a batch. */
  itemsMax: number;
  /** The most batches under way at once. */
  inFlightMax: number;
  /**
   * When a batch leaves: `"turn"` collects what one turn of the event loop asks for; `"idle"` sends
   * a lone item at once, and what comes while `inFlightMax` batches are under way leaves together.
   */
  collect: "turn" | "idle";
  /**
   * Whether a record may occur more than once in a batch, in the order asked; otherwise the second
   * waits until the first is answered, as an SQL upsert needs it. Batches that are under way at once
   * would overtake each other, so `inFlightMax` must be 1. @default false
   */
  repeats?: boolean;
}

interface Pending<Item, Answer> {
  readonly item: Item;
  resolve(answer: Answer): void;
  reject(error: unknown): void;
}

/**
 * Makes the function that asks for one item and is answered for it alone. Batches are sorted by id,
 * so that several processes lock the same rows in the same order and cannot deadlock; what is asked
 * about one record keeps its order.
 *
 * @example const begin = combine({ send: beginAll, itemsMax: 100, inFlightMax: 2, collect: "idle" });
 */
export function combine<Item extends { readonly id: RecordId }, Answer>(
  options: CombineOptions<Item, Answer>,
): (item: Item) => Promise<Answer> {
  const combiner = new Combiner(options);
  return (item) => combiner.ask(item);
}

class Combiner<Item extends { readonly id: RecordId }, Answer> {
  readonly #options: CombineOptions<Item, Answer>;
  #ready: Pending<Item, Answer>[] = [];
  /** For each record that is ready or under way, what has to wait behind it. */
  readonly #behind = new Map<RecordId, Pending<Item, Answer>[]>();
  #inFlight = 0;
  #isScheduled = false;

  constructor(options: CombineOptions<Item, Answer>) {
    this.#options = options;
  }

  ask(item: Item): Promise<Answer> {
    return new Promise((resolve, reject) => {
      this.#enqueue({ item, resolve, reject });
      this.#proceed();
    });
  }

  #enqueue(pending: Pending<Item, Answer>): void {
    if (!this.#options.repeats) {
      const behind = this.#behind.get(pending.item.id);
      if (behind !== undefined) {
        behind.push(pending);
        return;
      }
      this.#behind.set(pending.item.id, []);
    }
    this.#ready.push(pending);
  }

  /** Lets the next item about this record, if there is one, take its turn. */
  #release(id: RecordId): void {
    if (this.#options.repeats) return;
    const next = this.#behind.get(id)?.shift();
    if (next !== undefined) this.#ready.push(next);
    else this.#behind.delete(id);
  }

  #proceed(): void {
    if (this.#options.collect === "idle") this.#dispatch();
    else if (!this.#isScheduled && this.#ready.length > 0 && this.#hasRoom()) {
      this.#isScheduled = true;
      setImmediate(() => {
        this.#isScheduled = false;
        this.#dispatch();
      });
    }
  }

  #hasRoom(): boolean {
    return this.#inFlight < this.#options.inFlightMax;
  }

  #dispatch(): void {
    while (this.#ready.length > 0 && this.#hasRoom()) {
      // Stable, so that what repeats a record keeps its order.
      const batch = this.#ready.splice(0, this.#options.itemsMax).sort(byId);
      this.#inFlight++;
      void this.#deliver(batch).finally(() => {
        this.#inFlight--;
        for (const { item } of batch) this.#release(item.id);
        this.#proceed();
      });
    }
  }

  /** Never rejects: a failure is its items' answer. */
  async #deliver(batch: readonly Pending<Item, Answer>[]): Promise<void> {
    try {
      await this.#send(batch);
    } catch (error) {
      if (batch.length === 1 || isOfTheStore(error)) rejectAll(batch, error);
      else await this.#deliverSingly(batch);
    }
  }

  /** Finds the item that fails a batch, so that no other fails with it. */
  async #deliverSingly(batch: readonly Pending<Item, Answer>[]): Promise<void> {
    for (const [index, pending] of batch.entries()) {
      try {
        await this.#send([pending]);
      } catch (error) {
        // Every further item would only wait for the same failure.
        if (isOfTheStore(error)) return rejectAll(batch.slice(index), error);
        pending.reject(error);
      }
    }
  }

  async #send(batch: readonly Pending<Item, Answer>[]): Promise<void> {
    const answers = await this.#options.send(batch.map(({ item }) => item));
    if (answers.length !== batch.length) {
      throw new StoreUnavailable(
        `The store gave ${answers.length} answers to a batch of ${batch.length}`,
      );
    }
    for (const [index, { resolve, reject }] of batch.entries()) {
      const answer = answers[index];
      if (answer instanceof Error) reject(answer);
      else resolve(answer as Answer);
    }
  }
}

function rejectAll(batch: readonly { reject(error: unknown): void }[], error: unknown): void {
  for (const { reject } of batch) reject(error);
}

/** Whether the store as a whole failed, so that no item is to blame and none need be tried again. */
function isOfTheStore(error: unknown): boolean {
  return error instanceof StoreUnavailable || error instanceof StoreUnusable;
}

function byId(one: { item: { id: RecordId } }, other: { item: { id: RecordId } }): number {
  const [a, b] = [one.item.id, other.item.id];
  return a < b ? -1 : a > b ? 1 : 0;
}
