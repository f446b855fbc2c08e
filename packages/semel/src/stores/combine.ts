// Merges what is asked of a store at about the same time into batches (ST-12), so that throughput
// grows with concurrency instead of with round trips, while every caller still gets its own answer.

import { StoreUnavailable, StoreUnusable } from "../errors.ts";
import { IdTable, type Row } from "../id-table.ts";
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
   * From how many items on they are shared out among `inFlightMax` batches where none is under way,
   * so that the server works on one while the client works on the answers to another. Smaller ones
   * cost both of them more than that saves. @default never
   */
  shareFrom?: number;
  /** What the combiners of a store have under way, where all of it counts for `shareFrom`. */
  traffic?: Traffic;
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

/** So many items of failed batches are sent at once: one may have to wait for others' locks. */
const SINGLY_MAX = 4;
/** An item that has waited for its turn for so long is not sent: whoever asked has given up. */
const SINGLY_MS_MAX = 2_000;

/** How many batches are under way. */
export interface Traffic {
  inFlight: number;
}

interface Pending<Item, Answer> extends Row<Pending<Item, Answer>> {
  readonly item: Item;
  resolve(answer: Answer): void;
  reject(error: unknown): void;
  /** What waits until this one is answered, in the order asked: rarely anything. */
  behind: Pending<Item, Answer>[] | undefined;
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
  readonly #traffic: Traffic;
  #ready: Pending<Item, Answer>[] = [];
  /** What is ready or under way, where a record may occur only once. */
  readonly #underWay = new IdTable<Pending<Item, Answer>>();
  #inFlight = 0;
  #isScheduled = false;
  /** Of failed batches, what is yet to be sent by itself. */
  readonly #suspects: { pending: Pending<Item, Answer>; since: number }[] = [];
  #suspectsUnderWay = 0;

  constructor(options: CombineOptions<Item, Answer>) {
    this.#options = options;
    this.#traffic = options.traffic ?? { inFlight: 0 };
  }

  ask(item: Item): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const { id } = item;
      this.#enqueue({ id, item, resolve, reject, behind: undefined, next: undefined });
      this.#proceed();
    });
  }

  #enqueue(pending: Pending<Item, Answer>): void {
    if (!this.#options.repeats) {
      const first = this.#underWay.get(pending.id);
      if (first !== undefined) {
        first.behind ??= [];
        first.behind.push(pending);
        return;
      }
      this.#underWay.add(pending);
    }
    this.#ready.push(pending);
  }

  /** Lets the next item about the same record, if there is one, take its turn. */
  #release(pending: Pending<Item, Answer>): void {
    if (this.#options.repeats) return;
    this.#underWay.delete(pending);
    const [next, ...others] = pending.behind ?? [];
    if (next === undefined) return;
    next.behind = others;
    this.#underWay.add(next);
    this.#ready.push(next);
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
    const itemsMax = this.#share();
    while (this.#ready.length > 0 && this.#hasRoom()) {
      // Stable, so that what repeats a record keeps its order.
      const batch = this.#nextBatch(itemsMax).sort(byId);
      this.#inFlight++;
      this.#traffic.inFlight++;
      void this.#deliver(batch).then((isDelivered) => {
        this.#inFlight--;
        this.#traffic.inFlight--;
        if (isDelivered) for (const pending of batch) this.#release(pending);
        this.#proceed();
      });
    }
  }

  /** The most items of a batch that leaves now. */
  #share(): number {
    const { itemsMax, inFlightMax, shareFrom = Number.POSITIVE_INFINITY } = this.#options;
    const { length } = this.#ready;
    if (length < shareFrom || this.#traffic.inFlight > 0) return itemsMax;
    return Math.min(itemsMax, Math.ceil(length / inFlightMax));
  }

  #nextBatch(itemsMax: number): Pending<Item, Answer>[] {
    if (this.#ready.length > itemsMax) return this.#ready.splice(0, itemsMax);
    const batch = this.#ready;
    this.#ready = [];
    return batch;
  }

  /**
   * Never rejects: a failure is its items' answer.
   *
   * @returns false when its items are sent one by one, and answered later
   */
  async #deliver(batch: readonly Pending<Item, Answer>[]): Promise<boolean> {
    try {
      await this.#send(batch);
      return true;
    } catch (error) {
      if (batch.length === 1 || isOfTheStore(error)) {
        rejectAll(batch, error);
        return true;
      }
    }
    if (this.#options.repeats) {
      await this.#deliverInOrder(batch);
      return true;
    }
    const since = performance.now();
    this.#suspects.push(...batch.map((pending) => ({ pending, since })));
    this.#proceedSingly();
    return false;
  }

  /** Finds the item that fails a batch, so that no other fails with it. */
  async #deliverInOrder(batch: readonly Pending<Item, Answer>[]): Promise<void> {
    for (const [index, pending] of batch.entries()) {
      const failure = await this.#deliverOne(pending);
      if (failure) return rejectAll(batch.slice(index), failure.error);
    }
  }

  /** The same, several at a time and beside other batches: which of them waits must not keep the others. */
  #proceedSingly(): void {
    while (this.#suspectsUnderWay < SINGLY_MAX) {
      const suspect = this.#suspects.shift();
      if (suspect === undefined) return;
      const { pending, since } = suspect;
      if (performance.now() - since > SINGLY_MS_MAX) {
        pending.reject(new StoreUnavailable(LOCKED));
        this.#release(pending);
        continue;
      }
      this.#suspectsUnderWay++;
      void this.#deliverOne(pending).then((failure) => {
        this.#suspectsUnderWay--;
        this.#release(pending);
        if (failure) this.#rejectSuspects(failure.error);
        this.#proceedSingly();
        this.#proceed();
      });
    }
  }

  /** Every further item would only wait for the same failure. */
  #rejectSuspects(error: unknown): void {
    for (const { pending } of this.#suspects.splice(0)) {
      pending.reject(error);
      this.#release(pending);
    }
  }

  /** @returns what the store as a whole failed with */
  async #deliverOne(pending: Pending<Item, Answer>): Promise<{ error: unknown } | undefined> {
    try {
      await this.#send([pending]);
    } catch (error) {
      pending.reject(error);
      if (isOfTheStore(error)) return { error };
    }
    return undefined;
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

const LOCKED = "Other transactions have too many records; ask again";

function rejectAll(batch: readonly { reject(error: unknown): void }[], error: unknown): void {
  for (const { reject } of batch) reject(error);
}

/** Whether the store as a whole failed, so that no item is to blame and none need be tried again. */
function isOfTheStore(error: unknown): boolean {
  return error instanceof StoreUnavailable || error instanceof StoreUnusable;
}

function byId(one: { id: RecordId }, other: { id: RecordId }): number {
  return one.id < other.id ? -1 : one.id > other.id ? 1 : 0;
}
