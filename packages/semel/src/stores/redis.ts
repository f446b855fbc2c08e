// Keeps records in Redis or Valkey (ST-5), each as one string, and what its steps did as another: a
// transition is one script over all records that are asked about at the same time, retention is the
// server's own expiry.

import { type Duration, durationMs } from "../duration.ts";
import { InvalidOption } from "../errors.ts";
import { assertInteger, assertKnownOptions, assertOneOf } from "../options.ts";
import type {
  BeginAnswer,
  Claim,
  DeleteAnswer,
  Ending,
  JournalEntry,
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
  StoreQueue,
  StoreStats,
  UnusedAttempt,
  VoidAnswer,
  VoidRequest,
} from "../store.ts";
import { combine } from "./combine.ts";
import { type Question, RedisBatches, type ReplicaWait } from "./redis/batches.ts";
import { connectionOf, type RedisClient, type RedisConnection } from "./redis/clients.ts";
import { Keyspace } from "./redis/keyspace.ts";
import { RedisListing } from "./redis/listing.ts";
import { RedisNotifications, type RedisSubscriber } from "./redis/notifications.ts";
import {
  ADVANCE,
  APPEND,
  DELETE,
  GIVE_BACK,
  READ,
  RENEW,
  RESOLVE,
  VOID,
} from "./redis/questions.ts";
import { RedisQueue } from "./redis/queue.ts";
import { checkServers, type EvictionPolicy } from "./redis/server-check.ts";

export type { RedisClient } from "./redis/clients.ts";
export type { RedisSubscriber } from "./redis/notifications.ts";

export interface RedisStoreOptions {
  /** What every key begins with; without braces, which place keys on a cluster. @default "semel:" */
  prefix?: string | undefined;
  /**
   * What to do about a server that may evict keys, and so forget that an operation ran. `"refuse"`:
   * nothing runs until it is mended; `"warn"`: a process warning. @default "refuse"
   */
  evictionPolicy?: EvictionPolicy | undefined;
  /**
   * How many replicas have to confirm a claim or a result before it counts, and for how long to wait
   * for them. Narrows what a failover may forget; does not close it (`docs/guarantees.md`). Not on
   * Redis Cluster. @default none
   */
  wait?: { replicas: number; timeout: Duration } | undefined;
  /**
   * A second client, such as `client.duplicate()`, that hears of results, so that duplicates that
   * wait need not poll. Every process has to have one, as those with one publish. @default none
   */
  subscriber?: RedisSubscriber | undefined;
}

/** Bounds for how long one script keeps the server. */
const BATCH_ITEMS_MAX = 128;
/** So that the next can leave while one is under way; more would be smaller ones. */
const BATCHES_IN_FLIGHT_MAX = 2;
/** Smaller ones cost more, for what a command takes besides, than a server that never waits saves. */
const BATCH_SHARED_FROM = 32;
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
  return new RedisRecords(connection, new Keyspace(prefix, connection.isCluster), {
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

interface Identified {
  readonly id: RecordId;
}

interface Settings {
  evictionPolicy: EvictionPolicy;
  wait: ReplicaWait | undefined;
  notifications: RedisNotifications | undefined;
}

class RedisRecords implements Store {
  readonly name = "redis";
  readonly queue: StoreQueue;
  readonly subscribe?: (id: RecordId, wake: () => void) => () => void;
  readonly #keyspace: Keyspace;
  readonly #batches: RedisBatches;
  readonly #listing: RedisListing;
  readonly #advance: (item: Claim | Ending) => Promise<BeginAnswer | SettleAnswer>;
  readonly #append: (entry: JournalEntry) => Promise<SettleAnswer>;
  readonly #renew: (renewal: Renewal) => Promise<RenewAnswer>;
  readonly #read: (item: Identified) => Promise<StoredRecord | undefined>;

  constructor(connection: RedisConnection, keyspace: Keyspace, settings: Settings) {
    const { evictionPolicy, wait, notifications } = settings;
    const check = () => checkServers(connection, evictionPolicy);
    const publish = notifications !== undefined;
    this.#keyspace = keyspace;
    this.#batches = new RedisBatches(connection, keyspace, check, { publish, wait });
    this.#listing = new RedisListing(this.#batches);
    this.#advance = this.#combined(ADVANCE);
    this.#append = this.#combined(APPEND);
    this.#renew = this.#combined(RENEW);
    this.#read = this.#combined(READ);
    this.queue = new RedisQueue(this.#batches, keyspace);
    if (notifications) {
      this.subscribe = (id, wake) => notifications.subscribe(keyspace.record(id), wake);
    }
  }

  /** ST-12. On Redis Cluster a batch has one hash slot, so that every shard has batches of its own. */
  #combined<Item extends Identified, Answer>(
    question: Question<Item, Answer>,
  ): (item: Item) => Promise<Answer> {
    const combiners = this.#keyspace.indexes.map(() =>
      combine<Item, Answer>({
        send: (items) => this.#batches.ask(question, items),
        itemsMax: BATCH_ITEMS_MAX,
        inFlightMax: BATCHES_IN_FLIGHT_MAX,
        // Commands cost more than what is in them, to clients and to the server alike.
        collect: "turn",
        shareFrom: BATCH_SHARED_FROM,
      }),
    );
    // Not async: a promise more for every call would be a good part of what it costs.
    return (item) => {
      try {
        question.assert(item);
      } catch (error) {
        return Promise.reject(error);
      }
      return combiners[this.#keyspace.indexOf(item.id)]!(item);
    };
  }

  begin(claim: Claim): Promise<BeginAnswer> {
    return this.#advance(claim) as Promise<BeginAnswer>;
  }

  settle(ending: Ending): Promise<SettleAnswer> {
    return this.#advance(ending) as Promise<SettleAnswer>;
  }

  async giveBack(unused: UnusedAttempt): Promise<SettleAnswer> {
    return this.#batches.askOne(GIVE_BACK, unused);
  }

  append(entry: JournalEntry): Promise<SettleAnswer> {
    return this.#append(entry);
  }

  renew(renewal: Renewal): Promise<RenewAnswer> {
    return this.#renew(renewal);
  }

  read(id: RecordId): Promise<StoredRecord | undefined> {
    return this.#read({ id });
  }

  async resolve(resolution: Resolution): Promise<ResolveAnswer> {
    return this.#batches.askOne(RESOLVE, resolution);
  }

  async void(request: VoidRequest): Promise<VoidAnswer> {
    return this.#batches.askOne(VOID, request);
  }

  async delete(id: RecordId): Promise<DeleteAnswer> {
    return this.#batches.askOne(DELETE, { id });
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
