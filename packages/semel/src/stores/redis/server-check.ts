// Looks, before the first operation, whether the server keeps what it is given: one that may evict
// keys forgets finished operations, and runs them again.

import { StoreUnusable } from "../../errors.ts";
import type { RedisConnection } from "./clients.ts";

export type EvictionPolicy = "refuse" | "warn";

/**
 * Checks every primary.
 *
 * @throws {StoreUnusable} when one may evict keys (unless only a warning is wanted), or is a node of
 * a Cluster that the client does not know as one
 */
export async function checkServers(
  connection: RedisConnection,
  evictionPolicy: EvictionPolicy,
): Promise<void> {
  const answers = await connection.sendToAll(["info"]);
  const servers = answers.map((answer) => fieldsOf(String(answer)));
  const evicting = servers.find(mayEvict);
  if (evicting) {
    const message = `Redis may evict records: its \`maxmemory-policy\` is "${evicting.get("maxmemory_policy")}", and an operation whose record is gone runs again. Set it to "noeviction"`;
    if (evictionPolicy === "refuse") {
      throw new StoreUnusable(
        `${message}, or pass \`evictionPolicy: "warn"\` to live with repeated effects`,
      );
    }
    process.emitWarning(message, { type: "SemelWarning", code: "SEMEL_REDIS_EVICTION" });
  }
  if (!connection.isCluster && servers.some((server) => server.get("cluster_enabled") === "1")) {
    throw new StoreUnusable(
      "This server is part of a Redis Cluster; pass a cluster client (`new Cluster()` of ioredis, `createCluster()` of redis)",
    );
  }
  if (servers.some((server) => server.get("aof_enabled") === "0")) {
    process.emitWarning(
      "Redis has no append-only file, so that a restart forgets operations, which then run again. Set `appendonly yes` (and `appendfsync always` where no loss at all is acceptable)",
      { type: "SemelWarning", code: "SEMEL_REDIS_NOT_DURABLE" },
    );
  }
}

function mayEvict(server: ReadonlyMap<string, string>): boolean {
  const policy = server.get("maxmemory_policy") ?? "noeviction";
  return policy !== "noeviction" && server.get("maxmemory") !== "0";
}

function fieldsOf(info: string): Map<string, string> {
  const lines = info.split("\r\n").filter((line) => line.includes(":"));
  return new Map(lines.map((line) => line.split(":", 2) as [string, string]));
}
