// What can be wrong with a Redis or Valkey server that keeps records.

import type { Redis } from "ioredis";
import type { OpenRedis } from "../stores/servers.ts";
import { clockFinding, type Diagnosis, type Finding, mend, note, ok } from "./finding.ts";

export async function diagnoseRedis({ client }: OpenRedis): Promise<Diagnosis> {
  const info = fieldsOf(await client.info());
  const appendfsync = await setting(client, "appendfsync");
  const minReplicas = await setting(client, "min-replicas-to-write");
  const { finding: clock } = await clockFinding(async () => {
    const [seconds, micros] = await client.time();
    return Number(seconds) * 1_000 + Number(micros) / 1_000;
  });
  const findings = [
    versionOf(info),
    roleOf(info),
    eviction(info),
    persistence(info, appendfsync),
    replication(info, minReplicas),
    clock,
  ];
  return { findings, windows: windowsOf(info, appendfsync) };
}

type Info = ReadonlyMap<string, string>;

function fieldsOf(info: string): Info {
  const lines = info.split("\r\n").filter((line) => line.includes(":"));
  return new Map(lines.map((line) => line.split(":", 2) as [string, string]));
}

/** `undefined` where the user, or the service, does not let it be asked. */
async function setting(client: Redis, name: string): Promise<string | undefined> {
  const answer = await client.config("GET", name).catch(() => []);
  return (answer as string[])[1];
}

function versionOf(info: Info): Finding {
  const version = info.get("valkey_version") ?? info.get("redis_version") ?? "unknown";
  const name = info.has("valkey_version") ? "Valkey" : "Redis";
  const [major = 0, minor = 0] = (info.get("redis_version") ?? "").split(".").map(Number);
  const isOld = major < 6 || (major === 6 && minor < 2);
  return isOld
    ? mend("version", `${name} ${version}`, "Semel needs Redis 6.2 or newer, or Valkey")
    : ok("version", `${name} ${version}`);
}

function roleOf(info: Info): Finding {
  if (info.get("cluster_enabled") === "1") {
    return mend(
      "role",
      "a node of a Redis Cluster",
      "This command speaks to single servers; the library takes a cluster client",
    );
  }
  return info.get("role") === "master"
    ? ok("role", "primary")
    : mend("role", "a replica", "Give the address of the primary");
}

function eviction(info: Info): Finding {
  const policy = info.get("maxmemory_policy") ?? "noeviction";
  const isBounded = info.get("maxmemory") !== "0";
  if (policy === "noeviction") return ok("eviction", "maxmemory-policy is noeviction");
  const remedy =
    "Set maxmemory-policy to noeviction: an operation whose record was evicted runs again";
  return isBounded
    ? mend("eviction", `maxmemory-policy is ${policy}`, remedy)
    : note("eviction", `maxmemory-policy is ${policy}, without effect as maxmemory is 0`, remedy);
}

function persistence(info: Info, appendfsync: string | undefined): Finding {
  if (info.get("aof_enabled") !== "1") {
    return mend(
      "persistence",
      "no append-only file",
      "Set appendonly yes (and appendfsync always where no loss at all is acceptable): a restart forgets operations, which then run again",
    );
  }
  if (appendfsync === undefined) {
    return note("persistence", "append-only file; appendfsync is not told to this user");
  }
  return appendfsync === "always"
    ? ok("persistence", "append-only file, appendfsync always")
    : note(
        "persistence",
        `append-only file, appendfsync ${appendfsync}`,
        "Set appendfsync always where losing the last moments is not acceptable",
      );
}

function replication(info: Info, minReplicas: string | undefined): Finding {
  const replicas = info.get("connected_slaves") ?? "0";
  const guard = minReplicas === undefined ? "" : `, min-replicas-to-write ${minReplicas}`;
  return ok("replication", `${replicas} replicas${guard}`);
}

function windowsOf(info: Info, appendfsync: string | undefined): string[] {
  const again = "those operations run again when they are retried";
  const windows: string[] = [];
  if (info.get("aof_enabled") !== "1") {
    windows.push(
      `Redis without an append-only file: a restart forgets what no snapshot has; ${again}.`,
    );
  } else if (appendfsync !== "always") {
    windows.push(
      `Redis with appendfsync ${appendfsync ?? "(not known)"}: a crash of the server's machine, or a kill of the server, may forget about the last second of claims and results (with "no", more); ${again}.`,
    );
  }
  windows.push(
    `Redis without WAIT: a failover may forget claims and results that were acknowledged in the last moments; ${again}. The gateway does not use WAIT; an application may (\`wait\` of redisStore), which narrows this window and does not close it.`,
  );
  if (info.get("maxmemory_policy") !== "noeviction") {
    windows.push(
      `Redis with maxmemory-policy ${info.get("maxmemory_policy")}: under memory pressure it may forget any record; ${again}. Semel refuses to run on it once maxmemory is set.`,
    );
  }
  return windows;
}
