// Where a record is kept: its key, and the shard whose index lists it. A record and its index share
// a hash slot, so that one script may write both on Redis Cluster.

import type { RecordId } from "../../store.ts";

/**
 * Enough that a cluster's nodes share the load evenly, few enough that a listing may ask them all.
 * Fixed for good: records are found by it.
 */
export const SHARDS = 128;

const TAGS = Array.from({ length: SHARDS }, (_, shard) => shard.toString(16).padStart(2, "0"));

export class Keyspace {
  readonly #prefix: string;

  constructor(prefix: string) {
    this.#prefix = prefix;
  }

  /** A shard is told by the first seven bits of the id, which is evenly spread. */
  shardOf(id: RecordId): number {
    return Number.parseInt(id.slice(0, 2), 16) % SHARDS;
  }

  /** `semel:{2a}` and the id. */
  record(id: RecordId): string {
    return `${this.#prefix}{${TAGS[this.shardOf(id)]}}${id}`;
  }

  index(shard: number): string {
    return `${this.#prefix}{${TAGS[shard]}}index`;
  }

  get indexes(): string[] {
    return TAGS.map((_, shard) => this.index(shard));
  }
}
