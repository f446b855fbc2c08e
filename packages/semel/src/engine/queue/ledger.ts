// What is queued, for administrators: who waits, who was given up and why, and what to do about it.

import type { Codec } from "../../codec.ts";
import { InvalidOption } from "../../errors.ts";
import { assertInteger, assertKnownOptions, assertOneOf, shown } from "../../options.ts";
import type { QueueKind, QueueState, Store, StoredItem, StoreQueue } from "../../store.ts";
import { withoutQueue } from "../effects/effects.ts";
import { uuidOf } from "../uuid.ts";
import type { Contents } from "./contents.ts";
import type { Nudges } from "./nudges.ts";

/** An item as administrators see it; times in milliseconds, by the store's clock. */
export interface QueuedRecord {
  /** A UUID. */
  id: string;
  /** Of the durable operation, or of the effect. */
  name: string;
  /** Of the operation's record, as they are stored. */
  scope: string;
  key: string;
  /** The id of the operation's record. */
  operation: string;
  /** Which of its operation's it is: those of one operation are done in this order. */
  place: number;
  state: QueueState;
  /** How often it was begun. */
  attempts: number;
  /** How many of those have not ended: they run, or died with their process. */
  unended: number;
  /** Until it is due; 0 or less: now. `null` unless waiting. */
  dueInMs: number | null;
  /** Why it last failed. */
  error: string | null;
  ageMs: number;
  createdAt: number;
  /** Until it is forgotten; `null`: kept. */
  expiresInMs: number | null;
}

export interface QueuedQuery {
  name?: string;
  /** The id of an operation's record: those of this one. */
  operation?: string;
  state?: QueueState;
  /** 1 to 1,000. @default 100 */
  limit?: number;
  /** The `cursor` of the page before. */
  cursor?: string;
}

export interface QueuedStats {
  waiting: number;
  done: number;
  dead: number;
  /** How long the one has been due that is due for the longest time; `null`: none is. */
  oldestDueMs: number | null;
}

const STATES = ["waiting", "done", "dead"];
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

export interface LedgerParts {
  readonly store: Store;
  readonly contents: Contents;
  readonly codec: Codec;
  readonly nudges: Nudges;
}

/** What is queued of one kind. */
export class Ledger {
  readonly #parts: LedgerParts;
  readonly #kind: QueueKind;

  /** @internal */
  constructor(parts: LedgerParts, kind: QueueKind) {
    this.#parts = parts;
    this.#kind = kind;
  }

  /** Newest first, a page at a time. */
  async list(query: QueuedQuery = {}): Promise<{ items: QueuedRecord[]; cursor?: string }> {
    assertKnownOptions(query, ["name", "operation", "state", "limit", "cursor"], "list()");
    const { name, operation, state, limit = 100, cursor } = query;
    if (state !== undefined) assertOneOf(state, STATES, "state");
    assertInteger(limit, "limit", 1, 1_000);
    const page = await this.#queue.list({
      kind: this.#kind,
      limit,
      ...(name !== undefined && { name }),
      ...(operation !== undefined && { operation }),
      ...(state !== undefined && { state }),
      ...(cursor !== undefined && { cursor }),
    });
    return { ...page, items: page.items.map(recordOf) };
  }

  /**
   * One of them, with what was recorded, or `undefined`.
   *
   * @throws {RecordUnreadable} when that is encrypted with a key that is not here, or damaged
   */
  async get(id: string): Promise<(QueuedRecord & { payload: unknown }) | undefined> {
    const item = await this.#read(id);
    if (item === undefined) return undefined;
    const { value } = this.#parts.contents.unseal(item);
    return { ...recordOf(item), payload: this.#parts.codec.decode(value) };
  }

  /** One of them, without what was recorded, which need not be readable here; or `undefined`. */
  async find(id: string): Promise<QueuedRecord | undefined> {
    const item = await this.#read(id);
    return item && recordOf(item);
  }

  /**
   * Has one that waits, or was given up, be due now, as if it had never been tried.
   *
   * @returns `false`: it is done, being done right now, or not there
   */
  async revive(id: string): Promise<boolean> {
    const isRevived = await this.#queue.revive(digitsOf(id));
    if (isRevived) this.#parts.nudges.ring(this.#kind);
    return isRevived;
  }

  /**
   * Forgets one: it is not done any more.
   *
   * @returns `false`: it is being done right now, or not there
   */
  async remove(id: string): Promise<boolean> {
    return this.#queue.remove(digitsOf(id));
  }

  async stats(): Promise<QueuedStats> {
    const { states, oldestDueMs } = await this.#queue.stats();
    return { ...states[this.#kind], oldestDueMs: oldestDueMs[this.#kind] };
  }

  async #read(id: string): Promise<StoredItem | undefined> {
    const item = await this.#queue.read(digitsOf(id));
    return item?.kind === this.#kind ? item : undefined;
  }

  get #queue(): StoreQueue {
    const { store } = this.#parts;
    if (store.queue === undefined) throw withoutQueue(store);
    return store.queue;
  }
}

function digitsOf(id: string): string {
  if (typeof id === "string" && UUID.test(id)) return id.replaceAll("-", "");
  throw new InvalidOption(`An id is a UUID in lower case, got ${shown(id)}`);
}

function recordOf(item: StoredItem): QueuedRecord {
  const { id, name, scope, key, operation, place, state, started, finished, dueInMs } = item;
  const { error, ageMs, createdAt, expiresInMs } = item;
  return {
    ...{ id: uuidOf(id), name, scope, key, operation, place, state, attempts: started },
    ...{ unended: started - finished, dueInMs, error, ageMs, createdAt, expiresInMs },
  };
}
