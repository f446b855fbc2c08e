// Keeps records in Redis or Valkey (ST-5), each as one string: a transition is one script over all
// records that are asked about at the same time, retention is the server's own expiry.

import { type Duration, durationMs } from "../duration.ts";
import { InvalidOption } from "../errors.ts";
import { assertInteger, assertKnownOptions, assertOneOf } from "../options.ts";
import type {
  BeginAnswer,
  Claim,
  DeleteAnswer,
  Ending,
  ListPage,
  ListQuery,
  RecordId,
  RenewAnswer,
  Renewal,
  Resolution,
  ResolveAnswer,
  SettleAnswer,
  Store,
  StoredRecord,
  StoreStats,
  VoidAnswer,
  VoidRequest,
} from "../store.ts";
import { combine } from "./combine.ts";
import {
  beginAnswer,
  kept,
  readAnswer,
  recordIn,
  renewAnswer,
  settleAnswer,
} from "./redis/answers.ts";
import { RedisBatches, type ReplicaWait, type ScriptAnswer } from "./redis/batches.ts";
import { connectionOf, type RedisClient, type RedisConnection } from "./redis/clients.ts";
import { Keyspace, SHARDS } from "./redis/keyspace.ts";
import { RedisListing } from "./redis/listing.ts";
import { RedisNotifications, type RedisSubscriber } from "./redis/notifications.ts";
import {
  assertPackable,
  type IndexNumber,
  packClaim,
  packEnding,
  packPlace,
  packRenewal,
  packResolution,
  packVoid,
} from "./redis/packing.ts";
import { CODES, type RedisScript, SCRIPTS } from "./redis/scripts.ts";
import { checkServers, type EvictionPolicy } from "./redis/server-check.ts";

export type { RedisClient } from "./redis/clients.ts";
export type { RedisSubscriber } from "./redis/notifications.ts";

export interface RedisStoreOptions {
  /** What every key begins with; without braces, which place keys on a cluster. @default "semel:" */
  prefix?: string;
  /**
   * What to do about a server that may evict keys, and so forget that an operation ran. `"refuse"`:
   * nothing runs until it is mended; `"warn"`: a process warning. @default "refuse"
   */
  evictionPolicy?: EvictionPolicy;
  /**
   * How many replicas have to confirm a claim or a result before it counts, and for how long to wait
   * for them. Narrows what a failover may forget; does not close it (`docs/guarantees.md`). Not on
   * Redis Cluster. @default none
   */
  wait?: { replicas: number; timeout: Duration };
  /**
   * A second client, such as `client.duplicate()`, that hears of results, so that duplicates that
   * wait need not poll. Every process has to have one, as those with one publish. @default none
   */
  subscriber?: RedisSubscriber;
}

/** Bounds for how long one script keeps the server. */
const BATCH_ITEMS_MAX = 128;
/** While one is under way the next collects: larger batches gain more than a second one would. */
const BATCHES_IN_FLIGHT_MAX = 1;
const NOTHING = Buffer.alloc(0);
const LIST_LIMIT_MAX = 1_000;
const SWEEP_LIMIT_MAX = 100_000;

/**
 * A store in Redis 6.2 or newer, or Valkey, through the caller's own client: `new Redis()` or
 * `new Cluster()` of `ioredis` (or `iovalkey`), `createClient()` or `createCluster()` of `redis`. The
 * client is never closed by the store.
 *
 * @throws {InvalidOption} when the client or an option is none that it knows
 * @example
 * const store = redisStore(new Redis("redis://localhost:6379", { enableOfflineQueue: false }));
 */
export function redisStore(client: RedisClient, options: RedisStoreOptions = {}): Store {
  assertKnownOptions(options, ["prefix", "evictionPolicy", "wait", "subscriber"], "redisStore()");
  const { prefix = "semel:", evictionPolicy = "refuse", wait, subscriber } = options;
  assertPrefix(prefix);
  assertOneOf(evictionPolicy, ["refuse", "warn"], "evictionPolicy");
  const connection = connectionOf(client);
  return new RedisRecords(connection, new Keyspace(prefix), {
    evictionPolicy,
    wait: wait && replicaWait(wait, connection),
    notifications: subscriber && new RedisNotifications(subscriber),
  });
}

function assertPrefix(prefix: unknown): void {
  if (typeof prefix === "string" && prefix !== "" && !/[{}]/.test(prefix)) return;
  throw new InvalidOption(
    "`prefix` must be a non-empty string without braces, which Redis Cluster places keys by",
  );
}

function replicaWait(
  wait: NonNullable<RedisStoreOptions["wait"]>,
  { isCluster }: RedisConnection,
): ReplicaWait {
  assertKnownOptions(wait, ["replicas", "timeout"], "wait");
  assertInteger(wait.replicas, "wait.replicas", 1, 100);
  if (isCluster) {
    throw new InvalidOption(
      "`wait` is not there on Redis Cluster; set `min-replicas-to-write` on its nodes instead",
    );
  }
  const timeoutMs = durationMs(wait.timeout, "wait.timeout", { minMs: 1, maxMs: 60_000 });
  return { replicas: wait.replicas, timeoutMs };
}

interface Settings {
  evictionPolicy: EvictionPolicy;
  wait: ReplicaWait | undefined;
  notifications: RedisNotifications | undefined;
}

class RedisRecords implements Store {
  readonly name = "redis";
  readonly subscribe?: (id: RecordId, wake: () => void) => () => void;
  readonly #batches: RedisBatches;
  readonly #listing: RedisListing;
  readonly #begin: (claim: Claim) => Promise<BeginAnswer>;
  readonly #settle: (ending: Ending) => Promise<SettleAnswer>;
  readonly #renew: (renewal: Renewal) => Promise<RenewAnswer>;
  readonly #read: (item: { id: RecordId }) => Promise<StoredRecord | undefined>;

  constructor(connection: RedisConnection, keyspace: Keyspace, settings: Settings) {
    const { evictionPolicy, wait, notifications } = settings;
    const check = () => checkServers(connection, evictionPolicy);
    const publish = notifications !== undefined;
    this.#batches = new RedisBatches(connection, keyspace, check, { publish, wait });
    this.#listing = new RedisListing(this.#batches);
    if (notifications) {
      this.subscribe = (id, wake) => notifications.subscribe(keyspace.record(id), wake);
    }
    const combined = <Item extends { readonly id: RecordId }, Answer>(
      script: RedisScript,
      pack: (item: Item, index: IndexNumber) => Buffer,
      answer: (item: Item, given: ScriptAnswer) => Answer,
    ) => this.#combined(connection.isCluster, keyspace, script, pack, answer);
    this.#begin = combined(SCRIPTS.begin, packClaim, beginAnswer);
    this.#settle = combined(SCRIPTS.settle, packEnding, settleAnswer);
    this.#renew = combined(SCRIPTS.renew, packRenewal, renewAnswer);
    this.#read = combined(SCRIPTS.read, () => NOTHING, readAnswer);
  }

  /** ST-12. On Redis Cluster a batch has one hash slot, so that every shard has its own. */
  #combined<Item extends { readonly id: RecordId }, Answer>(
    isCluster: boolean,
    keyspace: Keyspace,
    script: RedisScript,
    pack: (item: Item, index: IndexNumber) => Buffer,
    answer: (item: Item, given: ScriptAnswer) => Answer,
  ): (item: Item) => Promise<Answer> {
    const combiner = () =>
      combine<Item, Answer>({
        send: (items) => this.#send(script, items, pack, answer),
        itemsMax: BATCH_ITEMS_MAX,
        inFlightMax: BATCHES_IN_FLIGHT_MAX,
        collect: "idle",
      });
    if (!isCluster) return combiner();
    const combiners = Array.from({ length: SHARDS }, combiner);
    return (item) => combiners[keyspace.shardOf(item.id)]!(item);
  }

  async #send<Item extends { readonly id: RecordId }, Answer>(
    script: RedisScript,
    items: readonly Item[],
    pack: (item: Item, index: IndexNumber) => Buffer,
    answer: (item: Item, given: ScriptAnswer) => Answer,
  ): Promise<(Answer | Error)[]> {
    const answers = await this.#batches.ask(script, items, pack);
    return answers.map((given, at) => {
      if (given instanceof Error) return given;
      try {
        return answer(items[at]!, given);
      } catch (error) {
        return error as Error;
      }
    });
  }

  async begin(claim: Claim): Promise<BeginAnswer> {
    assertPackable(claim);
    return this.#begin(claim);
  }

  async settle(ending: Ending): Promise<SettleAnswer> {
    assertPackable(ending);
    return this.#settle(ending);
  }

  async renew(renewal: Renewal): Promise<RenewAnswer> {
    assertPackable(renewal);
    return this.#renew(renewal);
  }

  async read(id: RecordId): Promise<StoredRecord | undefined> {
    assertPackable({ id });
    return this.#read({ id });
  }

  async resolve(resolution: Resolution): Promise<ResolveAnswer> {
    assertPackable(resolution);
    const given = await this.#batches.askOne(SCRIPTS.resolve, resolution, packResolution);
    if (given.value === CODES.done) return kept(given, { kind: "resolved" });
    if (given.value === CODES.no) return { kind: "absent" };
    return { kind: "refused", state: recordIn(resolution.id, given).state };
  }

  async void(request: VoidRequest): Promise<VoidAnswer> {
    assertPackable(request);
    const given = await this.#batches.askOne(SCRIPTS.void, request, packVoid);
    if (given.value === CODES.done) return kept(given, { kind: "voided" });
    switch (recordIn(request.id, given).state) {
      case "completed":
        return { kind: "completed" };
      case "running":
        return { kind: "busy" };
      default:
        return { kind: "voided" };
    }
  }

  async delete(id: RecordId): Promise<DeleteAnswer> {
    assertPackable({ id });
    const given = await this.#batches.askOne(SCRIPTS.forget, { id }, packPlace);
    if (given.value === CODES.done) return kept(given, { kind: "deleted" });
    if (given.value === CODES.no) return { kind: "absent" };
    recordIn(id, given);
    return { kind: "busy" };
  }

  async sweep(limit: number): Promise<number> {
    assertInteger(limit, "limit", 1, SWEEP_LIMIT_MAX);
    return this.#listing.sweep(limit);
  }

  async list(query: ListQuery): Promise<ListPage> {
    assertInteger(query.limit, "limit", 1, LIST_LIMIT_MAX);
    return this.#listing.list(query);
  }

  stats(): Promise<StoreStats> {
    return this.#listing.stats();
  }
}
