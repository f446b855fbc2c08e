// One way to speak to Redis through the clients that people have: `ioredis` (and `iovalkey`) and
// `redis`, each to a server or to a Cluster. The types are structural, so that neither is needed.

import { InvalidOption } from "../../errors.ts";

/** `new Redis()` or `new Cluster()` of `ioredis` or `iovalkey`. */
export interface IoredisClient {
  readonly status: string;
  callBuffer(command: string, ...args: (string | Buffer | number)[]): Promise<unknown>;
}

interface IoredisCluster extends IoredisClient {
  nodes(role: "master"): IoredisClient[];
}

/** `createClient()` of `redis`. */
export interface NodeRedisClient {
  readonly isOpen: boolean;
  sendCommand(args: (string | Buffer)[], options?: object): Promise<unknown>;
}

/** `createCluster()` of `redis`. */
export interface NodeRedisCluster {
  readonly isOpen: boolean;
  readonly masters: readonly unknown[];
  nodeClient(node: never): NodeRedisClient | Promise<NodeRedisClient>;
  sendCommand(
    firstKey: string | Buffer | undefined,
    isReadonly: boolean | undefined,
    args: (string | Buffer)[],
    options?: object,
  ): Promise<unknown>;
}

export type RedisClient = IoredisClient | NodeRedisClient | NodeRedisCluster;

export type RedisCommand = readonly [name: string, ...args: (string | Buffer)[]];

/** A client as the store uses it. Strings in replies are `Buffer`s. */
export interface RedisConnection {
  readonly isCluster: boolean;
  /** Whether it was closed for good, or never opened. */
  readonly isClosed: boolean;
  /** Asks the primary that has this key. */
  send(key: string, command: RedisCommand): Promise<unknown>;
  /** Asks every primary; of a cluster, those that answer, if there is one. */
  sendToAll(command: RedisCommand): Promise<unknown[]>;
}

/**
 * Recognises a client by its methods.
 *
 * @throws {InvalidOption} when it is neither of the two
 */
export function connectionOf(client: unknown): RedisConnection {
  const methods = client as Record<string, unknown> | null | undefined;
  const has = (name: string) => typeof methods?.[name] === "function";
  if (has("callBuffer")) {
    return has("nodes")
      ? ioredisCluster(client as IoredisCluster)
      : ioredisServer(client as IoredisClient);
  }
  if (has("sendCommand")) {
    return has("nodeClient")
      ? nodeRedisCluster(client as NodeRedisCluster)
      : nodeRedisServer(client as NodeRedisClient);
  }
  throw new InvalidOption(
    "`client` must be a client of `ioredis` (`new Redis()`, `new Cluster()`) or of `redis` (`createClient()`, `createCluster()`)",
  );
}

function ioredisServer(client: IoredisClient): RedisConnection {
  const send = ([name, ...args]: RedisCommand) => client.callBuffer(name, ...args);
  return {
    isCluster: false,
    get isClosed() {
      return client.status === "end";
    },
    send: (_key, command) => send(command),
    sendToAll: async (command) => [await send(command)],
  };
}

function ioredisCluster(client: IoredisCluster): RedisConnection {
  return {
    isCluster: true,
    get isClosed() {
      return client.status === "end";
    },
    // It finds the node by the keys of the command.
    send: (_key, [name, ...args]) => client.callBuffer(name, ...args),
    async sendToAll([name, ...args]) {
      // Its nodes are known once it has connected, as it does for any command.
      if (client.nodes("master").length === 0) await client.callBuffer("ping");
      return fulfilled(client.nodes("master").map((node) => node.callBuffer(name, ...args)));
    },
  };
}

/** `RESP_TYPES.BLOB_STRING` of `redis`: strings come as bytes. */
const AS_BYTES = { typeMapping: { 36: Buffer } };

function nodeRedisServer(client: NodeRedisClient): RedisConnection {
  return {
    isCluster: false,
    get isClosed() {
      return !client.isOpen;
    },
    send: (_key, command) => client.sendCommand([...command], AS_BYTES),
    sendToAll: async (command) => [await client.sendCommand([...command], AS_BYTES)],
  };
}

function nodeRedisCluster(client: NodeRedisCluster): RedisConnection {
  return {
    isCluster: true,
    get isClosed() {
      return !client.isOpen;
    },
    send: (key, command) => client.sendCommand(key, false, [...command], AS_BYTES),
    async sendToAll(command) {
      const ask = async (master: unknown) => {
        const node = await client.nodeClient(master as never);
        return node.sendCommand([...command], AS_BYTES);
      };
      return fulfilled(client.masters.map(ask));
    },
  };
}

/** A node that is down is none of the others' concern. */
async function fulfilled(calls: readonly Promise<unknown>[]): Promise<unknown[]> {
  const settled = await Promise.allSettled(calls);
  const answers = settled.filter((call) => call.status === "fulfilled").map(({ value }) => value);
  if (answers.length === 0) await Promise.all(calls);
  return answers;
}
