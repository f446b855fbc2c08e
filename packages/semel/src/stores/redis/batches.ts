// Sends scripts with the items of a batch, and takes their answers apart. A batch is one command;
// on Redis Cluster its records share a hash slot.

import { StoreUnavailable } from "../../errors.ts";
import type { RecordId } from "../../store.ts";
import type { RedisConnection } from "./clients.ts";
import { isUnknownScript, storeError } from "./errors.ts";
import type { Keyspace } from "./keyspace.ts";
import type { IndexNumber } from "./packing.ts";
import { CODES, type RedisScript } from "./scripts.ts";

/** A batch that would take more bytes than this leaves in parts. */
const BATCH_BYTES_MAX = 1_048_576;

/** How many replicas have to have a write, and how long to wait for them. */
export interface ReplicaWait {
  replicas: number;
  timeoutMs: number;
}

/** What a script says of one item: a code, or a record's bytes. */
export interface ScriptAnswer {
  value: number | Buffer;
  /** The server's time, in milliseconds since the Unix epoch. */
  now: number;
  /** False when the replicas that were asked for have not confirmed what was written. */
  isReplicated: boolean;
}

interface Part<Item> {
  items: Item[];
  packed: Buffer[];
  indexes: Map<number, IndexNumber>;
  bytes: number;
}

export class RedisBatches {
  readonly #connection: RedisConnection;
  readonly #keyspace: Keyspace;
  readonly #prepare: () => Promise<void>;
  readonly #publish: string;
  readonly #wait: ReplicaWait | undefined;
  #isReady = false;
  #preparing: Promise<void> | undefined;

  /** @param prepare is called before the first command, until it has succeeded once */
  constructor(
    connection: RedisConnection,
    keyspace: Keyspace,
    prepare: () => Promise<void>,
    options: { publish: boolean; wait: ReplicaWait | undefined },
  ) {
    this.#connection = connection;
    this.#keyspace = keyspace;
    this.#prepare = prepare;
    this.#publish = options.publish ? "1" : "0";
    this.#wait = options.wait;
  }

  /**
   * Answers item by item, in order.
   *
   * @throws {SemelError} when the whole batch failed; nothing is known to be written then
   */
  async ask<Item extends { readonly id: RecordId }>(
    script: RedisScript,
    items: readonly Item[],
    pack: (item: Item, index: IndexNumber) => Buffer,
  ): Promise<(ScriptAnswer | Error)[]> {
    const parts = this.#parts(items, pack);
    if (parts.length === 1) return this.#askPart(script, parts[0]!);
    const answers = parts.map((part) =>
      this.#askPart(script, part).catch((error: Error) => part.items.map(() => error)),
    );
    return (await Promise.all(answers)).flat();
  }

  /** Where a script's items are rare: one alone. */
  async askOne<Item extends { readonly id: RecordId }>(
    script: RedisScript,
    item: Item,
    pack: (item: Item, index: IndexNumber) => Buffer,
  ): Promise<ScriptAnswer> {
    const [answer] = await this.ask(script, [item], pack);
    if (answer instanceof Error) throw answer;
    return answer!;
  }

  /** Asks about records of all shards. */
  async askApart<Item extends { readonly id: RecordId }>(
    script: RedisScript,
    items: readonly Item[],
    pack: (item: Item, index: IndexNumber) => Buffer,
  ): Promise<(ScriptAnswer | Error)[]> {
    if (!this.#connection.isCluster) return this.ask(script, items, pack);
    const answers = new Array<ScriptAnswer | Error>(items.length);
    const groups = new Map<number, number[]>();
    for (const [at, { id }] of items.entries()) {
      const shard = this.#keyspace.shardOf(id);
      groups.set(shard, [...(groups.get(shard) ?? []), at]);
    }
    const asked = [...groups.values()].map(async (places) => {
      const group = places.map((at) => items[at]!);
      const answered = await this.ask(script, group, pack);
      for (const [n, at] of places.entries()) answers[at] = answered[n]!;
    });
    await Promise.all(asked);
    return answers;
  }

  /** The indexes of all shards, in groups that one command may have. */
  get indexGroups(): string[][] {
    const { indexes } = this.#keyspace;
    return this.#connection.isCluster ? indexes.map((index) => [index]) : [indexes];
  }

  /** Runs a script over the indexes of all shards. */
  async askIndexes(script: RedisScript, args: readonly (string | Buffer)[]): Promise<unknown[][]> {
    const replies = this.indexGroups.map((keys) => this.run(script, keys, ["0", ...args]));
    return (await Promise.all(replies)).map(({ answers }) => answers);
  }

  /** Sends one script, by its digest if the server knows it. */
  async run(
    script: RedisScript,
    keys: readonly string[],
    args: readonly (string | Buffer)[],
  ): Promise<{ now: number; answers: unknown[]; isReplicated: boolean }> {
    try {
      if (!this.#isReady) await this.#getReady();
      const rest = [String(keys.length), ...keys, ...args];
      const { reply, replicas } = await this.#evaluate(script, keys[0]!, rest);
      const [now, ...answers] = reply as [number, ...unknown[]];
      const isReplicated = replicas >= (this.#wait?.replicas ?? 0);
      return { now: Number(now), answers, isReplicated };
    } catch (error) {
      throw storeError(error, this.#connection);
    }
  }

  /** Once it has succeeded; what failed is tried again by the next call. */
  async #getReady(): Promise<void> {
    this.#preparing ??= this.#prepare();
    try {
      await this.#preparing;
      this.#isReady = true;
    } finally {
      this.#preparing = undefined;
    }
  }

  async #evaluate(script: RedisScript, key: string, rest: readonly (string | Buffer)[]) {
    try {
      return await this.#send(script, key, ["evalsha", script.sha, ...rest]);
    } catch (error) {
      if (!isUnknownScript(error)) throw error;
      return this.#send(script, key, ["eval", script.source, ...rest]);
    }
  }

  async #send(
    { isKept }: RedisScript,
    key: string,
    command: readonly [string, ...(string | Buffer)[]],
  ): Promise<{ reply: unknown; replicas: number }> {
    const wait = isKept ? this.#wait : undefined;
    const sent = this.#connection.send(key, command);
    if (wait === undefined) return { reply: await sent, replicas: Number.POSITIVE_INFINITY };
    // Right behind, on the same connection: the server waits for what that connection wrote.
    const { replicas, timeoutMs } = wait;
    const waited = this.#connection.send(key, ["wait", String(replicas), String(timeoutMs)]);
    const [reply, confirmed] = await Promise.allSettled([sent, waited]);
    if (reply.status === "rejected") throw reply.reason;
    if (confirmed.status === "rejected") throw confirmed.reason;
    return { reply: reply.value, replicas: Number(confirmed.value) };
  }

  #parts<Item extends { readonly id: RecordId }>(
    items: readonly Item[],
    pack: (item: Item, index: IndexNumber) => Buffer,
  ): Part<Item>[] {
    const parts: Part<Item>[] = [];
    let part: Part<Item> | undefined;
    for (const item of items) {
      if (part === undefined || part.bytes > BATCH_BYTES_MAX) {
        part = { items: [], packed: [], indexes: new Map(), bytes: 0 };
        parts.push(part);
      }
      const shard = this.#keyspace.shardOf(item.id);
      const index = part.indexes.get(shard) ?? part.indexes.size + 1;
      part.indexes.set(shard, index);
      const packed = pack(item, index);
      part.items.push(item);
      part.packed.push(packed);
      part.bytes += packed.byteLength;
    }
    return parts;
  }

  async #askPart<Item extends { readonly id: RecordId }>(
    script: RedisScript,
    { items, packed, indexes }: Part<Item>,
  ): Promise<ScriptAnswer[]> {
    const keys = items.map(({ id }) => this.#keyspace.record(id));
    const indexKeys = [...indexes.keys()].map((shard) => this.#keyspace.index(shard));
    const { now, answers, isReplicated } = await this.run(
      script,
      [...keys, ...indexKeys],
      [String(keys.length), Buffer.concat(packed), this.#publish],
    );
    if (answers.length !== items.length) throw surprise(answers.length, items.length);
    const again: number[] = [];
    const answered = answers.map((answer, at) => {
      if (answer === CODES.again) again.push(at);
      return { value: answer as number | Buffer, now, isReplicated };
    });
    if (again.length > 0) {
      const rest = await this.#askPart(script, {
        items: again.map((at) => items[at]!),
        packed: again.map((at) => packed[at]!),
        indexes,
        bytes: 0,
      });
      for (const [n, at] of again.entries()) answered[at] = rest[n]!;
    }
    return answered;
  }
}

function surprise(got: number, asked: number): StoreUnavailable {
  return new StoreUnavailable(`Redis gave ${got} answers to a batch of ${asked}`);
}
