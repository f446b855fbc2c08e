// The queue of the Redis store (EN-7, EN-8): items are in the slot of their operation's record, and one
// script does what is asked of those of one server, or on Redis Cluster of one slot.

import { writableError } from "../../error-text.ts";
import { RecordUnreadable } from "../../errors.ts";
import { assertInteger } from "../../options.ts";
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
} from "../../store.ts";
import {
  assertAdding,
  assertClaim,
  assertEndings,
  assertId,
  assertItemQuery,
  assertRenewal,
} from "../queue-checks.ts";
import type { RedisBatches } from "./batches.ts";
import { type Keyspace, SHARDS, shardOf } from "./keyspace.ts";
import { CODES, type RedisScript } from "./lua.ts";
import { kept } from "./questions.ts";
import { listItems } from "./queue-listing.ts";
import {
  type ItemReply,
  itemArguments,
  KIND_CODES,
  unpackItem,
  unreadable,
} from "./queue-packing.ts";
import { ITEM_STATES, QUEUE_SCRIPTS } from "./queue-scripts.ts";

const SWEEP_LIMIT_MAX = 100_000;
/** So many items keep the server for one script. */
const ITEMS_TOGETHER = 200;
const NOBODY = Buffer.alloc(16);

export class RedisQueue implements StoreQueue {
  readonly #batches: RedisBatches;
  readonly #keyspace: Keyspace;
  /** A key of each shard. */
  readonly #keys: readonly string[];
  /** Where a sweep of a cluster goes on. */
  #swept = 0;

  constructor(batches: RedisBatches, keyspace: Keyspace) {
    this.#batches = batches;
    this.#keyspace = keyspace;
    this.#keys = keyspace.queues;
  }

  async add(
    items: readonly QueueItem[],
    options: { dueInMs: number; attempt?: AttemptToken },
  ): Promise<SettleAnswer> {
    assertAdding(items, options);
    const { dueInMs, attempt } = options;
    const { operation } = items[0]!;
    const { answers, isReplicated, now } = await this.#batches.run(
      QUEUE_SCRIPTS.add,
      [this.#keyspace.record(operation)],
      [
        ...["1", "", attempt ? "1" : "0", String(attempt?.attempt ?? 0)],
        attempt ? Buffer.from(attempt.owner, "hex") : NOBODY,
        String(dueInMs),
        ...items.flatMap(itemArguments),
      ],
    );
    const [value] = answers;
    if (value === CODES.unreadable) {
      throw new RecordUnreadable(
        `Record ${operation} is damaged, or from a newer version of Semel`,
      );
    }
    if (value === CODES.no) return { kind: "stale" };
    return kept({ now, isReplicated }, { kind: "settled" });
  }

  async claim(claim: ItemClaim): Promise<StoredItem[]> {
    assertClaim(claim);
    if (!this.#batches.isCluster) return this.#claimFrom(this.#keys, claim, claim.limit);
    const turns = await this.#turnsOf(claim);
    const counts = new Map<string, number>();
    for (const key of turns) counts.set(key, (counts.get(key) ?? 0) + 1);
    const keys = [...counts.keys()];
    const claims = keys.map((key) => this.#claimFrom([key], claim, counts.get(key)!));
    const settled = await Promise.allSettled(claims);
    // What was claimed of the others would be nobody's until its lease has passed.
    if (settled.every(({ status }) => status === "rejected")) await Promise.all(claims);
    const given = new Map(
      settled.map((one, at) => [keys[at]!, one.status === "fulfilled" ? one.value : []]),
    );
    // Each shard gives its own in their order: put together, they are in the order of their turns.
    return turns.flatMap((key) => given.get(key)!.shift() ?? []);
  }

  /** Of which shard to claim an item, and another, so that they are those that are due for the longest. */
  async #turnsOf(claim: ItemClaim): Promise<string[]> {
    const { kind, names, limit } = claim;
    const ofEach = Math.min(limit, Math.ceil((2 * limit) / SHARDS) + 16);
    const args = ["0", "", String(KIND_CODES[kind]), String(ofEach), "", "", ...names];
    const replies = await Promise.all(
      this.#keys.map((key) => this.#batches.run(QUEUE_SCRIPTS.peek, [key], args)),
    );
    const due = replies.flatMap(({ answers }, shard) =>
      answers.map((time) => ({ time: Number(time), key: this.#keys[shard]! })),
    );
    due.sort((one, other) => one.time - other.time);
    return due.slice(0, limit).map(({ key }) => key);
  }

  async #claimFrom(
    keys: readonly string[],
    { kind, names, leaseMs, owner }: ItemClaim,
    limit: number,
  ): Promise<StoredItem[]> {
    const { answers, now } = await this.#batches.run(QUEUE_SCRIPTS.claim, keys, [
      ...["0", "", String(KIND_CODES[kind]), String(limit), String(leaseMs)],
      Buffer.from(owner, "hex"),
      ...names,
    ]);
    return answers.map((answer) => unpackItem(answer as ItemReply, now));
  }

  async renew(tokens: readonly ItemToken[], leaseMs: number): Promise<RenewAnswer[]> {
    assertRenewal(tokens, leaseMs);
    const answers = await this.#ask(QUEUE_SCRIPTS.renew, tokens, [String(leaseMs)], tokenArguments);
    return answers.map(({ value }) => ({ kind: value === CODES.done ? "renewed" : "stale" }));
  }

  async finish(endings: readonly ItemEnding[]): Promise<SettleAnswer[]> {
    assertEndings(endings);
    const answers = await this.#ask(QUEUE_SCRIPTS.finish, endings, [], endingArguments);
    return answers.map(({ value, now, isReplicated }) =>
      value === CODES.done ? kept({ now, isReplicated }, { kind: "settled" }) : { kind: "stale" },
    );
  }

  async read(id: string): Promise<StoredItem | undefined> {
    assertId(id, "id");
    const [item] = await this.#readAll([id], "1");
    if (item instanceof Error) throw item;
    return item;
  }

  async #readAll(
    ids: readonly string[],
    withPayloads: "0" | "1",
  ): Promise<(StoredItem | Error | undefined)[]> {
    const items = ids.map((id) => ({ id }));
    const answers = await this.#ask(QUEUE_SCRIPTS.read, items, [withPayloads], ({ id }) => [id]);
    return answers.map(({ value, now }, at) => {
      if (value === CODES.no) return undefined;
      if (value === CODES.unreadable) return unreadable(ids[at]!);
      return unpackItem(value as ItemReply, now);
    });
  }

  async list(query: ItemQuery): Promise<ItemPage> {
    assertItemQuery(query);
    const readItems = (ids: readonly string[]) => this.#readAll(ids, "0");
    const { operation } = query;
    const keys = operation === undefined ? this.#keys : [this.#keyOf(operation)];
    return listItems(this.#batches, keys, readItems, query);
  }

  revive(id: string): Promise<boolean> {
    return this.#change(QUEUE_SCRIPTS.revive, id);
  }

  remove(id: string): Promise<boolean> {
    return this.#change(QUEUE_SCRIPTS.remove, id);
  }

  async #change(script: RedisScript, id: string): Promise<boolean> {
    assertId(id, "id");
    const { answers } = await this.#batches.run(script, [this.#keyOf(id)], ["0", "", id]);
    return answers[0] === CODES.done;
  }

  async stats(): Promise<QueueStats> {
    const stats: QueueStats = {
      states: {
        task: { waiting: 0, done: 0, dead: 0 },
        effect: { waiting: 0, done: 0, dead: 0 },
      },
      oldestDueMs: { task: null, effect: null },
    };
    for (const { answers, now } of await this.#askAll(QUEUE_SCRIPTS.tally, ["0", ""])) {
      for (const [kind, code] of Object.entries(KIND_CODES) as ["task" | "effect", number][]) {
        const [waiting, done, dead, due] = answers.slice(4 * code, 4 * code + 4).map(Number);
        stats.states[kind].waiting += waiting!;
        stats.states[kind].done += done!;
        stats.states[kind].dead += dead!;
        if (due! < 0 || due! > now) continue;
        stats.oldestDueMs[kind] = Math.max(stats.oldestDueMs[kind] ?? 0, now - due!);
      }
    }
    return stats;
  }

  async sweep(limit: number): Promise<number> {
    assertInteger(limit, "limit", 1, SWEEP_LIMIT_MAX);
    const groups = this.#batches.isCluster ? this.#keys.map((key) => [key]) : [this.#keys];
    let removed = 0;
    for (let n = 0; n < groups.length && removed < limit; n++) {
      const keys = groups[this.#swept++ % groups.length]!;
      for (let gone = -1; gone !== 0 && removed < limit; removed += gone) {
        const args = ["0", "", String(limit - removed)];
        const { answers } = await this.#batches.run(QUEUE_SCRIPTS.sweep, keys, args);
        gone = Number(answers[0]);
      }
    }
    return removed;
  }

  #keyOf(id: string): string {
    return this.#keys[shardOf(id)]!;
  }

  /** Asks about all shards. */
  #askAll(script: RedisScript, args: readonly string[]) {
    const groups = this.#batches.isCluster ? this.#keys.map((key) => [key]) : [this.#keys];
    return Promise.all(groups.map((keys) => this.#batches.run(script, keys, args)));
  }

  /** Asks about items, some together, on a cluster those of one shard. Answers come in their order. */
  async #ask<Item extends { readonly id: string }>(
    script: RedisScript,
    items: readonly Item[],
    args: readonly string[],
    argumentsOf: (item: Item) => (string | Buffer)[],
  ): Promise<{ value: unknown; now: number; isReplicated: boolean }[]> {
    const given = new Array<{ value: unknown; now: number; isReplicated: boolean }>(items.length);
    const groups = new Map<string, number[]>();
    for (const [at, { id }] of items.entries()) {
      const group = this.#batches.isCluster ? this.#keyOf(id) : "";
      groups.set(group, [...(groups.get(group) ?? []), at]);
    }
    const parts = [...groups.values()].flatMap((places) =>
      Array.from({ length: Math.ceil(places.length / ITEMS_TOGETHER) }, (_, n) =>
        places.slice(n * ITEMS_TOGETHER, (n + 1) * ITEMS_TOGETHER),
      ),
    );
    await Promise.all(
      parts.map(async (places) => {
        const keys = [...new Set(places.map((at) => this.#keyOf(items[at]!.id)))];
        const ofItems = places.flatMap((at) => [
          String(keys.indexOf(this.#keyOf(items[at]!.id)) + 1),
          ...argumentsOf(items[at]!),
        ]);
        const reply = await this.#batches.run(script, keys, ["0", "", ...args, ...ofItems]);
        const { answers, now, isReplicated } = reply;
        for (const [n, at] of places.entries())
          given[at] = { value: answers[n], now, isReplicated };
      }),
    );
    return given;
  }
}

function tokenArguments({ id, started, owner }: ItemToken): (string | Buffer)[] {
  return [id, String(started), Buffer.from(owner, "hex")];
}

function endingArguments(ending: ItemEnding): (string | Buffer)[] {
  const state = { done: "done", retry: "waiting", dead: "dead" } as const;
  const ms = ending.kind === "retry" ? ending.dueInMs : (ending.retentionMs ?? -1);
  const error = ending.kind === "done" ? null : ending.error;
  return [
    ...tokenArguments(ending),
    String(ITEM_STATES[state[ending.kind]]),
    String(ms),
    error === null ? "0" : "1",
    error === null ? "" : writableError(error),
  ];
}
