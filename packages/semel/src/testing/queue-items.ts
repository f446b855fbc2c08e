// Builders of what the suite asks a store's queue, and assertions on what comes back. Times are those
// of `claims.ts`.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { queueItemId, recordId } from "../key.ts";
import type {
  ItemClaim,
  ItemEnding,
  ItemPage,
  ItemQuery,
  ItemToken,
  QueueItem,
  Store,
  StoredItem,
  StoreQueue,
} from "../store.ts";
import { bytesOf, LEASE_MS, newOwner, RETENTION_MS, SETTLED } from "./claims.ts";
import { together } from "./store-harness.ts";

export type ItemParts = Partial<Omit<QueueItem, "id" | "payload">> & {
  payload?: Uint8Array | string;
  /** What makes it itself within its operation; by default all the rest. */
  label?: string;
};

export function queueOf(store: Store): StoreQueue {
  assert.ok(store.queue, `the ${store.name} store has no queue`);
  return store.queue;
}

/** The id of an operation that nobody has heard of. */
export function newOperation(): string {
  return recordId("tenant", `order-${randomBytes(8).toString("hex")}`);
}

/** An effect of a fresh operation, unless said otherwise. */
export function itemOf(parts: ItemParts = {}): QueueItem {
  const { label, payload = "payload", ...rest } = parts;
  const item = {
    kind: "effect",
    name: "email",
    operation: newOperation(),
    scope: "tenant",
    key: "order-42",
    place: 0,
    payload: bytesOf(payload),
    ...rest,
  } as const;
  const { operation, kind, place, name } = item;
  return { ...item, id: queueItemId(operation, kind, label ?? `${place}:${name}`) };
}

/** Effects of one operation, at places from 0 up. */
export function lineOf(count: number, parts: ItemParts = {}): QueueItem[] {
  const operation = parts.operation ?? newOperation();
  return Array.from({ length: count }, (_, place) => itemOf({ ...parts, operation, place }));
}

/** Adds items, each operation's in a call of their own, due now unless said otherwise. */
export async function add(queue: StoreQueue, items: readonly QueueItem[], dueInMs = 0) {
  const groups = new Map<string, QueueItem[]>();
  for (const item of items) {
    groups.set(item.operation, [...(groups.get(item.operation) ?? []), item]);
  }
  for (const group of groups.values()) {
    assert.deepEqual(await queue.add(group, { dueInMs }), SETTLED);
  }
}

/** A claim by a fresh owner, of what `itemOf` makes, unless said otherwise. */
export function itemClaim(parts: Partial<ItemClaim> = {}): ItemClaim {
  return {
    kind: "effect",
    names: ["email"],
    limit: 100,
    leaseMs: LEASE_MS,
    owner: newOwner(),
    ...parts,
  };
}

export interface Claimed extends StoredItem {
  readonly token: ItemToken;
}

/** Claims, and gives each item with the token of its claim. */
export async function claim(queue: StoreQueue, parts: Partial<ItemClaim> = {}): Promise<Claimed[]> {
  const asked = itemClaim(parts);
  const items = await queue.claim(asked);
  assert.ok(items.length <= asked.limit, `${items.length} items of at most ${asked.limit}`);
  return items.map((item) => ({
    ...item,
    token: { id: item.id, started: item.started, owner: asked.owner },
  }));
}

/** Claims the one item that there is to claim. */
export async function claimOne(
  queue: StoreQueue,
  parts: Partial<ItemClaim> = {},
): Promise<Claimed> {
  const items = await claim(queue, parts);
  assert.deepEqual(items.length, 1, `expected one item, got ${items.length}`);
  return items[0]!;
}

export function done({ id, started, owner }: ItemToken, retentionMs = RETENTION_MS): ItemEnding {
  return { id, started, owner, kind: "done", retentionMs };
}

export function retry(
  { id, started, owner }: ItemToken,
  dueInMs = 0,
  error: string | null = "refused",
): ItemEnding {
  return { id, started, owner, kind: "retry", dueInMs, error };
}

export function dead(
  { id, started, owner }: ItemToken,
  error = "refused for good",
  retentionMs: number | null = null,
): ItemEnding {
  return { id, started, owner, kind: "dead", error, retentionMs };
}

export function idsOf(items: readonly { id: string }[]): string[] {
  return items.map(({ id }) => id);
}

export async function mustReadItem(queue: StoreQueue, id: string): Promise<StoredItem> {
  const item = await queue.read(id);
  if (item === undefined) assert.fail("expected an item, got none");
  return item;
}

/** What is not delivered by then has been lost. */
const DELIVERY_MS_MAX = 30_000;

/**
 * Claims and finishes with many relays at once, spread over the queues, until so many items have been
 * delivered. @returns their ids, in the order of their delivery
 */
export async function deliver(
  queues: readonly StoreQueue[],
  relays: number,
  count: number,
): Promise<string[]> {
  const delivered: string[] = [];
  const until = performance.now() + DELIVERY_MS_MAX;
  const relay = async (queue: StoreQueue) => {
    while (delivered.length < count && performance.now() < until) {
      const claimed = await claim(queue, { limit: 5 });
      // Before their end: from then on others may be faster with what comes after them.
      delivered.push(...idsOf(claimed));
      const answers = await queue.finish(claimed.map(({ token }) => done(token)));
      assert.ok(answers.every(({ kind }) => kind === "settled"));
      if (claimed.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    }
  };
  await together(Array.from({ length: relays }, (_, n) => relay(queues[n % queues.length]!)));
  return delivered;
}

/** More pages than any case can need: a listing that does not end is cut off. */
const PAGES_MAX = 100;

export async function listItems(queue: StoreQueue, query: ItemQuery): Promise<StoredItem[]> {
  const items: StoredItem[] = [];
  let cursor: string | undefined;
  for (let page = 0; page < PAGES_MAX; page++) {
    const answer: ItemPage = await queue.list({
      ...query,
      ...(cursor !== undefined && { cursor }),
    });
    assert.ok(answer.items.length <= query.limit, "a page is longer than its limit");
    items.push(...answer.items);
    if (answer.cursor === undefined) return items;
    cursor = answer.cursor;
  }
  assert.fail(`a listing did not end after ${PAGES_MAX} pages`);
}

/** Demands that nothing was written between two reads. */
export function assertSameItem(after: StoredItem | undefined, before: StoredItem): void {
  assert.ok(after, "expected an item, got none");
  assert.deepEqual(timeless(after), timeless(before));
}

function timeless(item: StoredItem): unknown {
  const { dueInMs: _due, ageMs: _age, expiresInMs: _expiry, payload, ...rest } = item;
  return { ...rest, payload: Buffer.from(payload).toString("base64") };
}
