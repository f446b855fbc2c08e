// What the tests of the Redis store share: clients of every kind, and power over stored records that
// the contract does not give.

import { Cluster, Redis } from "ioredis";
import { createClient, createCluster } from "redis";
import { recordId } from "../../src/key.ts";
import type { AttemptToken, Claim, Ending, Store } from "../../src/store.ts";
import { connectionOf, type RedisClient } from "../../src/stores/redis/clients.ts";
import { Keyspace, SHARDS } from "../../src/stores/redis/keyspace.ts";
import { type RedisStoreOptions, redisStore } from "../../src/stores/redis.ts";
import { newOwner } from "../../src/testing/claims.ts";
import type { StoreHarness } from "../../src/testing/index.ts";
import { startRedis } from "../servers/redis.ts";
import type { PrivateServer } from "../servers/server.ts";

export const DAY_MS = 86_400_000;

export interface OpenClient {
  readonly client: RedisClient;
  close(): Promise<void>;
}

export interface ClientKind {
  readonly name: string;
  readonly isCluster: boolean;
  open(ports: readonly number[]): Promise<OpenClient>;
}

/** A closed connection says so; what it says is of no use to a test. */
const ignore = () => {};

export const ioredisKind: ClientKind = {
  name: "ioredis",
  isCluster: false,
  async open([port]) {
    const client = new Redis({ port: port!, host: "127.0.0.1" }).on("error", ignore);
    return { client, close: async () => client.disconnect() };
  },
};

export const nodeRedisKind: ClientKind = {
  name: "redis",
  isCluster: false,
  async open([port]) {
    const client = createClient({ socket: { port: port!, host: "127.0.0.1" } }).on("error", ignore);
    await client.connect();
    return { client, close: async () => client.destroy() };
  },
};

export const ioredisClusterKind: ClientKind = {
  name: "the cluster client of ioredis",
  isCluster: true,
  async open(ports) {
    const client = new Cluster(ports.map((port) => ({ host: "127.0.0.1", port })));
    client.on("error", ignore);
    return { client, close: async () => client.disconnect() };
  },
};

export const nodeRedisClusterKind: ClientKind = {
  name: "the cluster client of redis",
  isCluster: true,
  async open(ports) {
    const rootNodes = ports.map((port) => ({ socket: { host: "127.0.0.1", port } }));
    const client = createCluster({ rootNodes }).on("error", ignore);
    await client.connect();
    return { client, close: async () => client.destroy() };
  },
};

let prefixes = 0;

/** A prefix that no other test of any process has. */
export function newPrefix(): string {
  return `semel-test-${process.pid}-${++prefixes}-${newOwner().slice(0, 8)}:`;
}

/**
 * Moves the times of all records of an index back; the server's own expiry follows. A record that
 * has thereby expired is gone. ARGV[2] is the keys' beginning; an index of a shard has its own.
 */
const ELAPSE = `
local ms, prefix, places = tonumber(ARGV[1]), ARGV[2], redis.call('ZRANGE', KEYS[1], 0, -1)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function earlier(text, at)
  local value = struct.unpack('>I6', text, at)
  return struct.pack('>I6', value == 0 and 0 or math.max(value - ms, 1))
end
for n = 1, #places do
  redis.call('ZINCRBY', KEYS[1], -ms, places[n])
  local key = keyOf(prefix, places[n])
  local text = redis.call('GET', key)
  if text and #text >= 48 then
    text = string.sub(text, 1, 22) .. earlier(text, 23) .. earlier(text, 29) .. earlier(text, 35)
      .. string.sub(text, 41)
    if string.byte(text, 22) == 1 then
      text = string.sub(text, 1, -7) .. earlier(text, #text - 5)
    end
    local expires = struct.unpack('>I6', text, 29)
    if expires == 0 then redis.call('SET', key, text)
    elseif expires <= now then redis.call('DEL', key)
    else redis.call('SET', key, text, 'PXAT', expires) end
  end
end
return 0
`;

/** Everything under a prefix, by its indexes; orphans expire or go with the server. */
const WIPE = `
local places = redis.call('ZRANGE', KEYS[1], 0, -1)
for n = 1, #places do
  local key = keyOf(ARGV[2], places[n])
  redis.call('DEL', key, key .. ':journal')
end
redis.call('DEL', KEYS[1])
return 0
`;

const KEY_OF = `
local function keyOf(prefix, id)
  local hex = string.gsub(id, '.', function(c) return string.format('%02x', string.byte(c)) end)
  return string.format('%s{%02x}%s', prefix, string.byte(id) % ${SHARDS}, hex)
end
`;

/** The same for the items of some shards' queues. */
const ELAPSE_ITEMS = `
local ms = tonumber(ARGV[1])
local function earlier(text, at)
  local value = struct.unpack('>I6', text, at)
  return struct.pack('>I6', value == 0 and 0 or math.max(value - ms, 1))
end
for i = 1, #KEYS do
  local shard = string.gsub(KEYS[i], 'turns:0$', '')
  for kind = 0, 1 do
    for _, name in ipairs({'waiting', 'dead', 'done', 'fading'}) do
      local list = shard .. 'items:' .. kind .. ':' .. name
      for _, id in ipairs(redis.call('ZRANGE', list, 0, -1)) do
        redis.call('ZINCRBY', list, -ms, id)
        local item = shard .. 'item:' .. id
        local text = redis.call('HGET', item, 'm')
        if text then
          local length = struct.unpack('>I2', text, 82)
          redis.call('ZADD', shard .. 'turns:' .. kind, 'XX', 'INCR', -ms, id)
          local due = shard .. 'due:' .. kind .. ':' .. string.sub(text, 88, 87 + length)
          redis.call('ZADD', due, 'XX', 'INCR', -ms, id)
          text = string.sub(text, 1, 31) .. earlier(text, 32) .. earlier(text, 38) .. earlier(text, 44)
            .. string.sub(text, 50)
          redis.call('HSET', item, 'm', text)
          local expires = struct.unpack('>I6', text, 44)
          if expires ~= 0 then redis.call('PEXPIREAT', item, string.format('%.0f', expires)) end
        end
      end
    end
  end
end
return 0
`;

const WIPE_ITEMS = `
for i = 1, #KEYS do
  local shard = string.gsub(KEYS[i], 'turns:0$', '')
  for kind = 0, 1 do
    for _, name in ipairs({'waiting', 'dead', 'done', 'fading'}) do
      local list = shard .. 'items:' .. kind .. ':' .. name
      for _, id in ipairs(redis.call('ZRANGE', list, 0, -1)) do
        local text = redis.call('HGET', shard .. 'item:' .. id, 'm')
        if text then
          local length = struct.unpack('>I2', text, 82)
          redis.call('DEL', shard .. 'line:' .. kind .. ':' .. string.sub(text, 50, 81))
          redis.call('DEL', shard .. 'due:' .. kind .. ':' .. string.sub(text, 88, 87 + length))
        end
        redis.call('DEL', shard .. 'item:' .. id)
      end
      redis.call('DEL', list, shard .. 'turns:' .. kind)
    end
  end
end
return 0
`;

async function overIndexes(
  client: RedisClient,
  prefix: string,
  source: string,
  ms: number,
): Promise<void> {
  const connection = connectionOf(client);
  const { indexes } = new Keyspace(prefix, connection.isCluster);
  await Promise.all(
    indexes.map((index) =>
      connection.send(index, ["eval", KEY_OF + source, "1", index, String(ms), prefix]),
    ),
  );
}

async function overQueues(
  client: RedisClient,
  prefix: string,
  source: string,
  ms: number,
): Promise<void> {
  const connection = connectionOf(client);
  const { queues } = new Keyspace(prefix, connection.isCluster);
  const groups = connection.isCluster ? queues.map((key) => [key]) : [queues];
  await Promise.all(
    groups.map((keys) =>
      connection.send(keys[0]!, ["eval", source, String(keys.length), ...keys, String(ms)]),
    ),
  );
}

export async function elapse(client: RedisClient, prefix: string, ms: number): Promise<void> {
  await overIndexes(client, prefix, ELAPSE, ms);
  await overQueues(client, prefix, ELAPSE_ITEMS, ms);
}

export async function wipe(client: RedisClient, prefix: string): Promise<void> {
  await overIndexes(client, prefix, WIPE, 0);
  await overQueues(client, prefix, WIPE_ITEMS, 0);
}

export function keyOf(prefix: string, { id }: { id: string }): string {
  return new Keyspace(prefix, false).record(id);
}

/** Damages a record where it lies, and leaves its expiry. */
export async function damage(
  client: RedisClient,
  prefix: string,
  id: string,
  how: "garbage" | "newer",
): Promise<void> {
  const key = keyOf(prefix, { id });
  const [at, byte] = how === "newer" ? ["0", 2] : ["21", 99];
  await connectionOf(client).send(key, ["setrange", key, at as string, Buffer.of(byte as number)]);
}

export function harnessOf(
  client: RedisClient,
  other: RedisClient,
  options: RedisStoreOptions = {},
): StoreHarness {
  const prefix = newPrefix();
  return {
    store: redisStore(client, { prefix, ...options }),
    elapse: (ms) => elapse(client, prefix, ms),
    another: async () => redisStore(other, { prefix, ...options }),
    damage: (id, how) => damage(client, prefix, id, how),
    close: () => wipe(client, prefix),
  };
}

export function claimOf(key: string, parts: Partial<Claim> = {}): Claim {
  const scope = parts.scope ?? "tenant";
  return {
    id: recordId(scope, key),
    scope,
    key,
    fingerprint: "v1:payload",
    owner: newOwner(),
    leaseMs: 60_000,
    onCrash: "rerun",
    attemptsMax: 10,
    lapsedRetentionMs: DAY_MS,
    heldRetentionMs: null,
    ...parts,
  };
}

export function completion(
  { id, attempt, owner }: AttemptToken,
  result: Uint8Array = Buffer.from("result"),
): Ending {
  return { id, attempt, owner, kind: "complete", result, retentionMs: DAY_MS };
}

export async function acquire(store: Store, claim: Claim): Promise<AttemptToken> {
  const answer = await store.begin(claim);
  if (answer.kind !== "acquired") throw new Error(`not acquired, but ${answer.kind}`);
  return { id: claim.id, attempt: answer.attempt, owner: claim.owner };
}

export async function complete(store: Store, claim: Claim): Promise<void> {
  const { kind } = await store.settle(completion(await acquire(store, claim)));
  if (kind !== "settled") throw new Error(`not settled, but ${kind}`);
}

export function send(client: RedisClient, ...command: [string, ...string[]]): Promise<unknown> {
  return connectionOf(client).send(command[1] ?? "", command);
}

/** Options of a server that warns of nothing. */
export const DURABLE = ["--appendonly", "yes"];

/** A private server for the tests of a file, and what each of them opens besides. */
export class RedisStage {
  readonly #args: readonly string[];
  #server: PrivateServer | undefined;
  #opened: OpenClient[] = [];
  #others: PrivateServer[] = [];

  constructor(args: readonly string[]) {
    this.#args = args;
  }

  get port(): number {
    return this.#server!.port;
  }

  get url(): string {
    return this.#server!.url;
  }

  async start(): Promise<void> {
    this.#server = await startRedis(this.#args);
  }

  async startOther(...args: string[]): Promise<PrivateServer> {
    const server = (await startRedis(args))!;
    this.#others.push(server);
    return server;
  }

  /** Closed after the test. */
  keep(client: OpenClient): void {
    this.#opened.push(client);
  }

  async open(kind = ioredisKind, port = this.port): Promise<RedisClient> {
    const client = await kind.open([port]);
    this.keep(client);
    return client.client;
  }

  async fresh(options: RedisStoreOptions = {}, kind = ioredisKind) {
    const client = await this.open(kind);
    const prefix = newPrefix();
    return { client, prefix, store: redisStore(client, { prefix, ...options }) };
  }

  async clear(): Promise<void> {
    for (const { close } of this.#opened.splice(0)) await close();
    for (const server of this.#others.splice(0)) await server.close();
  }

  async close(): Promise<void> {
    await this.#server?.close();
  }
}
