// What an error of Redis, or of its client, means, and what to do about it. Redis tells its errors
// apart by their first word; in a script, older versions put it after a dash.

import {
  isSemelError,
  RecordUnreadable,
  type SemelError,
  StoreFull,
  StoreUnavailable,
  StoreUnusable,
} from "../../errors.ts";
import type { RedisConnection } from "./clients.ts";

const CODES =
  /\b(OOM|READONLY|NOPERM|NOAUTH|WRONGPASS|WRONGTYPE|MISCONF|NOREPLICAS|CROSSSLOT|MOVED)\b/;

/** The server does not know the script by its digest. */
export function isUnknownScript(error: unknown): boolean {
  return messageOf(error).startsWith("NOSCRIPT");
}

/** The error of the contract that says what to do about a client's; the client's is its cause. */
export function storeError(error: unknown, connection: RedisConnection): SemelError {
  if (isSemelError(error)) return error;
  const options = { cause: error };
  const message = messageOf(error);
  switch (CODES.exec(message)?.[1]) {
    case "OOM":
      return new StoreFull(
        "Redis has reached `maxmemory`; nothing was written. Give it more memory, or shorten `retention`",
        options,
      );
    case "READONLY":
      // A failover makes a replica of a primary, so that this may pass by itself.
      return new StoreUnavailable(
        "Redis is a read-only replica here; connect to the primary, and let the client follow a failover (ioredis: `reconnectOnError`; or Sentinel, or Cluster)",
        options,
      );
    case "NOPERM":
      return forbidden(message, options);
    case "NOAUTH":
    case "WRONGPASS":
      return new StoreUnusable(
        "Redis asks for a password that the client did not give, or refuses it; set the client's credentials",
        options,
      );
    case "WRONGTYPE":
      return new RecordUnreadable("A key under the store's prefix is no record", options);
    case "MISCONF":
      return new StoreUnusable(
        "Redis refuses writes because it cannot persist them; look at its log and at the room on its disk",
        options,
      );
    case "NOREPLICAS":
      return new StoreUnavailable(
        "Redis has fewer replicas at hand than `min-replicas-to-write` demands",
        options,
      );
    case "CROSSSLOT":
    case "MOVED":
      if (connection.isCluster) break;
      return new StoreUnusable(
        "This server is part of a Redis Cluster; pass a cluster client (`new Cluster()` of ioredis, `createCluster()` of redis)",
        options,
      );
  }
  if (/can't (run|access)|unknown command/i.test(message)) return forbidden(message, options);
  if (message.includes("user_script")) {
    return new StoreUnusable(
      `Redis cannot run the store's scripts (${message}); it must be Redis 6.2 or newer, or Valkey`,
      options,
    );
  }
  if (connection.isClosed) {
    return new StoreUnusable(
      "The Redis client is not connected: it was closed, gave up reconnecting, or never connected; connect it, and keep it open until `idempotency.close()` has resolved",
      options,
    );
  }
  return new StoreUnavailable(`Redis did not answer: ${message}`, options);
}

function forbidden(message: string, options: { cause: unknown }): StoreUnusable {
  return new StoreUnusable(
    `Redis refuses a command that the store needs (${message}); let its user run EVAL, EVALSHA, INFO, TIME, WAIT, PUBLISH, DEL, PERSIST, PEXPIREAT and the commands of strings and sorted sets on the store's prefix`,
    options,
  );
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
