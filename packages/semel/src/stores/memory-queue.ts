// The queue of the memory store (EN-7, EN-8). Every method is synchronous up to its answer, which is
// what makes it atomic.

import { writableError } from "../error-text.ts";
import type {
  AttemptToken,
  ItemClaim,
  ItemEnding,
  ItemPage,
  ItemQuery,
  ItemToken,
  QueueItem,
  QueueStats,
  RenewAnswer,
  SettleAnswer,
  StoredItem,
  StoreQueue,
} from "../store.ts";
import { type Item, Items } from "./memory-items.ts";
import { NewestPage } from "./memory-listing.ts";
import {
  assertAdding,
  assertClaim,
  assertEndings,
  assertId,
  assertItemQuery,
  assertRenewal,
  isHandOn,
} from "./queue-checks.ts";

/** What the queue asks of the store that it belongs to. */
interface Surroundings {
  /** In whole milliseconds. */
  now(): number;
  isRunning(attempt: AttemptToken, now: number): boolean;
  /** Throws when there is no room for so much. */
  makeRoom(items: number, bytes: number, now: number): void;
  nextTurn(): Promise<void>;
}

/** How many items one turn of the event loop looks through at most. */
const TURN_ITEMS_MAX = 2_000;

export class MemoryQueue implements StoreQueue {
  readonly #items: Items;
  readonly #store: Surroundings;

  constructor(items: Items, store: Surroundings) {
    this.#items = items;
    this.#store = store;
  }

  async add(
    items: readonly QueueItem[],
    options: { dueInMs: number; attempt?: AttemptToken },
  ): Promise<SettleAnswer> {
    assertAdding(items, options);
    const { dueInMs, attempt } = options;
    const now = this.#store.now();
    if (attempt && !this.#store.isRunning(attempt, now)) return { kind: "stale" };
    const fresh = new Map<string, QueueItem>();
    for (const item of items) {
      if (!fresh.has(item.id) && !this.#at(item.id, now)) fresh.set(item.id, item);
    }
    let bytes = 0;
    for (const item of fresh.values()) bytes += Items.bytesFor(item);
    this.#store.makeRoom(fresh.size, bytes, now);
    for (const item of fresh.values()) this.#items.add(item, now + dueInMs, now);
    return { kind: "settled" };
  }

  async claim(claim: ItemClaim): Promise<StoredItem[]> {
    assertClaim(claim);
    const { kind, names, limit, leaseMs, owner } = claim;
    const now = this.#store.now();
    const claimed: StoredItem[] = [];
    while (claimed.length < limit) {
      const item = this.#items.due(kind, names, now);
      if (item === undefined) break;
      item.started++;
      this.#items.wait(item, now + leaseMs, owner);
      claimed.push(view(item, now));
    }
    return claimed;
  }

  async renew(tokens: readonly ItemToken[], leaseMs: number): Promise<RenewAnswer[]> {
    assertRenewal(tokens, leaseMs);
    const now = this.#store.now();
    return tokens.map((token) => {
      const item = this.#claimedBy(token);
      if (item === undefined) return { kind: "stale" };
      this.#items.wait(item, now + leaseMs, item.owner);
      return { kind: "renewed" };
    });
  }

  async finish(endings: readonly ItemEnding[]): Promise<SettleAnswer[]> {
    assertEndings(endings);
    const now = this.#store.now();
    return endings.map((ending) => {
      const item = this.#claimedBy(ending);
      if (item === undefined) return { kind: "stale" };
      if (isHandOn(ending)) item.started--;
      else item.finished++;
      if (ending.kind !== "done" && ending.error !== null) {
        this.#items.fail(item, writableError(ending.error));
      }
      if (ending.kind === "retry") this.#items.wait(item, now + ending.dueInMs, "");
      else {
        const { kind, retentionMs } = ending;
        this.#items.end(item, kind, retentionMs === null ? null : now + retentionMs);
      }
      return { kind: "settled" };
    });
  }

  async read(id: string): Promise<StoredItem | undefined> {
    assertId(id, "id");
    const now = this.#store.now();
    const item = this.#at(id, now);
    return item && view(item, now);
  }

  async list(query: ItemQuery): Promise<ItemPage> {
    assertItemQuery(query);
    const { kind, state, name, operation } = query;
    const now = this.#store.now();
    const page = new NewestPage<StoredItem>(query);
    let seen = 0;
    for (const item of this.#items.values()) {
      const isAsked =
        (kind === undefined || item.kind === kind) &&
        (state === undefined || item.state === state) &&
        (name === undefined || item.name === name) &&
        (operation === undefined || item.operation === operation);
      if (isAsked && !isExpired(item, now)) {
        page.offer(item, () => ({ ...view(item, now), payload: new Uint8Array(0) }));
      }
      if (++seen % TURN_ITEMS_MAX === 0) await this.#store.nextTurn();
    }
    const { listed, ...cursor } = page.finish();
    return { items: listed, ...cursor };
  }

  async revive(id: string): Promise<boolean> {
    assertId(id, "id");
    const now = this.#store.now();
    const item = this.#at(id, now);
    if (item === undefined || item.state === "done" || isClaimed(item, now)) return false;
    item.started = 0;
    item.finished = 0;
    this.#items.wait(item, now, "");
    return true;
  }

  async remove(id: string): Promise<boolean> {
    assertId(id, "id");
    const now = this.#store.now();
    const item = this.#at(id, now);
    if (item === undefined || isClaimed(item, now)) return false;
    this.#items.delete(item);
    return true;
  }

  async stats(): Promise<QueueStats> {
    const now = this.#store.now();
    const stats: QueueStats = {
      states: {
        task: { waiting: 0, done: 0, dead: 0 },
        effect: { waiting: 0, done: 0, dead: 0 },
      },
      oldestDueMs: { task: null, effect: null },
    };
    let seen = 0;
    for (const item of this.#items.values()) {
      if (++seen % TURN_ITEMS_MAX === 0) await this.#store.nextTurn();
      const { kind, state, dueAt } = item;
      if (isExpired(item, now)) continue;
      stats.states[kind][state]++;
      if (state !== "waiting" || dueAt > now) continue;
      stats.oldestDueMs[kind] = Math.max(stats.oldestDueMs[kind] ?? 0, now - dueAt);
    }
    return stats;
  }

  async sweep(limit: number): Promise<number> {
    for (let removed = 0; ; ) {
      const most = Math.min(limit - removed, TURN_ITEMS_MAX);
      const swept = this.#items.removeExpired(most, this.#store.now());
      removed += swept;
      if (swept < most || removed === limit) return removed;
      await this.#store.nextTurn();
    }
  }

  /** The item, unless it is absent or expired. */
  #at(id: string, now: number): Item | undefined {
    const item = this.#items.get(id);
    if (item === undefined || !isExpired(item, now)) return item;
    this.#items.delete(item);
    return undefined;
  }

  /** The item, if this very claim holds it. */
  #claimedBy({ id, started, owner }: ItemToken): Item | undefined {
    const item = this.#items.get(id);
    return item?.owner === owner && item.started === started ? item : undefined;
  }
}

function isExpired({ expiresAt }: Item, now: number): boolean {
  return expiresAt !== null && expiresAt <= now;
}

function isClaimed({ owner, dueAt }: Item, now: number): boolean {
  return owner !== "" && dueAt > now;
}

function view(item: Item, now: number): StoredItem {
  const { number: _number, owner: _owner, dueAt, expiresAt, ...fields } = item;
  return {
    ...fields,
    payload: item.payload.slice(),
    dueInMs: item.state === "waiting" ? dueAt - now : null,
    ageMs: now - item.createdAt,
    expiresInMs: expiresAt === null ? null : expiresAt - now,
  };
}
