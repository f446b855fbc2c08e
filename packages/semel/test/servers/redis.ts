// Redis servers for tests: the one that is found, and private ones: a server, a replica of one, and
// a Cluster of three.

import { execFile } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { promisify } from "node:util";
import {
  freePort,
  killGroup,
  type PrivateServer,
  type ServerSource,
  signalTree,
  startProcess,
} from "./server.ts";

export const redisSource: ServerSource = {
  name: "Redis",
  variable: "SEMEL_TEST_REDIS_URL",
  standardUrl: "redis://127.0.0.1:6379",
  answers: async (url) => (await ask(url, "PING"))?.startsWith("+PONG") ?? false,
  start: () => startRedis(),
};

const run = promisify(execFile);

/** One inline command, and the first that comes back; `undefined` when nobody answers. */
function ask(url: string, command: string): Promise<string | undefined> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve) => {
    const socket = connect(Number(port || 6379), hostname);
    const end = (answer: string | undefined) => {
      socket.destroy();
      resolve(answer);
    };
    socket.setTimeout(1_000, () => end(undefined));
    socket.once("connect", () => socket.write(`${command}\r\n`));
    socket.once("data", (data) => end(data.toString()));
    socket.once("error", () => end(undefined));
  });
}

/** Why there are no private servers; `undefined` when there can be. */
export async function redisBinariesMissing(): Promise<string | undefined> {
  try {
    await run("redis-server", ["--version"]);
    return undefined;
  } catch {
    const reason = "no redis-server binary on this machine";
    if (process.env["SEMEL_REQUIRE_SERVICES"]) throw new Error(reason);
    return reason;
  }
}

/**
 * Starts a server that keeps nothing on disk, unless the arguments say otherwise.
 *
 * @param args options of `redis-server`, such as `["--appendonly", "yes"]`
 */
export async function startRedis(args: readonly string[] = []): Promise<PrivateServer | undefined> {
  if (await redisBinariesMissing()) return undefined;
  const folder = await mkdtemp(join(tmpdir(), "semel-redis-"));
  const port = await freePort();
  const url = `redis://127.0.0.1:${port}`;
  const options = ["--port", String(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""];
  const isReady = async () => (await ask(url, "PING"))?.startsWith("+PONG") ?? false;
  const start = () => startProcess("redis-server", [...options, ...args], { cwd: folder }, isReady);
  let process = await start();
  return {
    url,
    port,
    signal: (signal) => signalTree(process.pid!, signal),
    kill: () => killGroup(process),
    async start() {
      process = await start();
    },
    async close() {
      await killGroup(process);
      await rm(folder, { recursive: true, force: true });
    },
  };
}

export interface PrivateCluster {
  readonly ports: readonly number[];
  close(): Promise<void>;
}

/** Starts a Cluster of three primaries without replicas. */
export async function startRedisCluster(): Promise<PrivateCluster | undefined> {
  if (await redisBinariesMissing()) return undefined;
  const options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "5000"];
  const nodes = await Promise.all([1, 2, 3].map(() => startRedis(options)));
  const ports = nodes.map((node) => node!.port);
  const addresses = ports.map((port) => `127.0.0.1:${port}`);
  await run("redis-cli", ["--cluster", "create", ...addresses, "--cluster-yes"]);
  for (const port of ports) await isWhole(port);
  return {
    ports,
    async close() {
      await Promise.all(nodes.map((node) => node!.close()));
    },
  };
}

async function isWhole(port: number): Promise<void> {
  for (let tries = 0; tries < 600; tries++) {
    const info = await ask(`redis://127.0.0.1:${port}`, "CLUSTER INFO");
    if (info?.includes("cluster_state:ok")) return;
    await delay(50);
  }
  throw new Error("the Redis Cluster was not whole within 30 s");
}
