// Where a record is kept, and the index that lists it. On Redis Cluster they share a hash slot, so that
// one script may write both: every shard of the keys has an index of its own. A server has one index,
// so that a batch is one write to it.

import type { RecordId } from "../../store.ts";

/**
 * Enough that a cluster's nodes share the load evenly, few enough that a listing may ask them all.
 * Fixed for good: records are found by it.
 */
export const SHARDS = 128;

/** What the key of a record's journal ends in, after the key of the record. */
export const JOURNAL_SUFFIX = ":journal";

const TAGS = Array.from({ length: SHARDS }, (_, shard) => shard.toString(16).padStart(2, "0"));

export class Keyspace {
  /** The keys of the indexes: one for each shard on a Cluster, and otherwise one. */
  readonly indexes: readonly string[];
  readonly #prefixes: readonly string[];

  constructor(prefix: string, isCluster: boolean) {
    this.#prefixes = TAGS.map((tag) => `${prefix}{${tag}}`);
    this.indexes = isCluster ? this.#prefixes.map((own) => `${own}index`) : [`${prefix}index`];
  }

  /** `semel:{2a}` and the id. */
  record(id: RecordId): string {
    return this.#prefixes[shardOf(id)] + id;
  }

  /** Which of the indexes lists it. */
  indexOf(id: RecordId): number {
    return this.indexes.length === 1 ? 0 : shardOf(id);
  }

  /** A key of each shard's queue, from which scripts make the others. */
  get queues(): string[] {
    return this.#prefixes.map((own) => `${own}turns:0`);
  }
}

/** A shard is told by seven bits of the id, which is evenly spread. Any text has one. */
export function shardOf(id: RecordId): number {
  return (digitAt(id, 0) * 16 + digitAt(id, 1)) & (SHARDS - 1);
}

/** The value of a lowercase hexadecimal digit. */
function digitAt(id: RecordId, at: number): number {
  const code = id.charCodeAt(at);
  return code < 58 ? code - 48 : code - 87;
}
