// Sends scripts with the items of a batch, and takes their answers apart. A batch is one command;
// on Redis Cluster its records share a hash slot.

import { StoreUnavailable } from "../../errors.ts";
import type { RecordId } from "../../store.ts";
import type { RedisCommand, RedisConnection } from "./clients.ts";
import { isUnknownScript, storeError } from "./errors.ts";
import type { Keyspace } from "./keyspace.ts";
import { CODES, type RedisScript } from "./lua.ts";

/** A batch that would take more bytes than this leaves in parts. */
const BATCH_BYTES_MAX = 1_048_576;

/** How many replicas have to have a write, and how long to wait for them. */
export interface ReplicaWait {
  replicas: number;
  timeoutMs: number;
}

/** What a script says of one item: a code, a record's bytes, or those and its journal's. */
export type ScriptValue = number | Buffer | readonly [record: Buffer, journal: Buffer];

/** What a script says of all of its items. */
export interface ScriptReply {
  /** The server's time, in milliseconds since the Unix epoch. */
  readonly now: number;
  /** False when the replicas that were asked for have not confirmed what was written. */
  readonly isReplicated: boolean;
}

/** A script, and what it is asked and answers in the terms of the contract. */
export interface Question<Item, Answer> {
  readonly script: RedisScript;
  /** @throws {RangeError} when it cannot be packed */
  assert(item: Item): void;
  pack(items: readonly Item[]): Buffer;
  /** What it throws is the item's alone. */
  answer(item: Item, value: ScriptValue, reply: ScriptReply): Answer;
  /** About how many bytes an item takes, where that may be many. */
  bytesOf?(item: Item): number;
}

interface Identified {
  readonly id: RecordId;
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
  async ask<Item extends Identified, Answer>(
    question: Question<Item, Answer>,
    items: readonly Item[],
  ): Promise<(Answer | Error)[]> {
    const parts = partsOf(items, question);
    if (parts.length === 1) return this.#askPart(question, items);
    const answers = parts.map((part) =>
      this.#askPart(question, part).catch((error: Error) => part.map(() => error)),
    );
    return (await Promise.all(answers)).flat();
  }

  /** Where a script's items are rare: one alone. */
  async askOne<Item extends Identified, Answer>(
    question: Question<Item, Answer>,
    item: Item,
  ): Promise<Answer> {
    question.assert(item);
    const [answer] = await this.#askPart(question, [item]);
    if (answer instanceof Error) throw answer;
    return answer!;
  }

  /** Asks about records of all shards. */
  async askApart<Item extends Identified, Answer>(
    question: Question<Item, Answer>,
    items: readonly Item[],
  ): Promise<(Answer | Error)[]> {
    const answers = new Array<Answer | Error>(items.length);
    const groups = new Map<number, number[]>();
    for (const [at, { id }] of items.entries()) {
      const index = this.#keyspace.indexOf(id);
      const group = groups.get(index);
      if (group) group.push(at);
      else groups.set(index, [at]);
    }
    const asked = [...groups.values()].map(async (places) => {
      const answered = await this.ask(
        question,
        places.map((at) => items[at]!),
      );
      for (const [n, at] of places.entries()) answers[at] = answered[n]!;
    });
    await Promise.all(asked);
    return answers;
  }

  get isCluster(): boolean {
    return this.#connection.isCluster;
  }

  /** The indexes of all shards. */
  get indexes(): readonly string[] {
    return this.#keyspace.indexes;
  }

  /** Runs a script over each index. */
  async askIndexes(script: RedisScript, args: readonly (string | Buffer)[]): Promise<unknown[][]> {
    const replies = this.indexes.map((index) => this.run(script, [index], ["0", ...args]));
    return (await Promise.all(replies)).map(({ answers }) => answers);
  }

  /** Sends one script, by its digest if the server knows it. */
  async run(
    script: RedisScript,
    keys: readonly string[],
    args: readonly (string | Buffer)[],
  ): Promise<ScriptReply & { answers: unknown[] }> {
    try {
      if (!this.#isReady) await this.#getReady();
      const { reply, replicas } = await this.#evaluate(script, keys, args);
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

  async #evaluate(
    script: RedisScript,
    keys: readonly string[],
    args: readonly (string | Buffer)[],
  ): Promise<{ reply: unknown; replicas: number }> {
    const count = String(keys.length);
    try {
      return await this.#send(script, keys[0]!, ["evalsha", script.sha, count, ...keys, ...args]);
    } catch (error) {
      if (!isUnknownScript(error)) throw error;
      return this.#send(script, keys[0]!, ["eval", script.source, count, ...keys, ...args]);
    }
  }

  async #send(
    { isKept }: RedisScript,
    key: string,
    command: RedisCommand,
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

  async #askPart<Item extends Identified, Answer>(
    question: Question<Item, Answer>,
    items: readonly Item[],
  ): Promise<(Answer | Error)[]> {
    const keys = items.map(({ id }) => this.#keyspace.record(id));
    keys.push(this.indexes[this.#keyspace.indexOf(items[0]!.id)]!);
    const args = [String(items.length), question.pack(items), this.#publish];
    const reply = await this.run(question.script, keys, args);
    const values = reply.answers as ScriptValue[];
    if (values.length !== items.length) throw surprise(values.length, items.length);
    const answers: (Answer | Error)[] = [];
    for (const [at, value] of values.entries()) {
      // From here on the reply was too long.
      if (value === CODES.again) break;
      answers.push(answered(question, items[at]!, value, reply));
    }
    if (answers.length === items.length) return answers;
    return [...answers, ...(await this.#askPart(question, items.slice(answers.length)))];
  }
}

function answered<Item, Answer>(
  question: Question<Item, Answer>,
  item: Item,
  value: ScriptValue,
  reply: ScriptReply,
): Answer | Error {
  try {
    return question.answer(item, value, reply);
  } catch (error) {
    return error as Error;
  }
}

function partsOf<Item>(
  items: readonly Item[],
  { bytesOf }: Question<Item, unknown>,
): readonly (readonly Item[])[] {
  if (bytesOf === undefined) return [items];
  const parts: Item[][] = [];
  let bytes = Number.POSITIVE_INFINITY;
  for (const item of items) {
    if (bytes > BATCH_BYTES_MAX) {
      parts.push([]);
      bytes = 0;
    }
    parts.at(-1)!.push(item);
    bytes += bytesOf(item);
  }
  return parts;
}

function surprise(got: number, asked: number): StoreUnavailable {
  return new StoreUnavailable(`Redis gave ${got} answers to a batch of ${asked}`);
}
