// Kafka for tests: a cluster that is named, or the mock cluster of librdkafka, which kcat starts: one
// broker that speaks the protocol, with topics and groups in memory.

import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { accepts, killGroup, type PrivateServer, type ServerSource, signalTree } from "./server.ts";

export const kafkaSource: ServerSource = {
  name: "Kafka",
  variable: "SEMEL_TEST_KAFKA_URL",
  standardUrl: "kafka://127.0.0.1:9092",
  answers(url) {
    const { hostname, port } = new URL(url);
    return accepts(Number(port || 9092), hostname);
  },
  start: startKafka,
};

/** Starts a mock cluster of one broker. What it has is gone when it ends. */
export async function startKafka(): Promise<PrivateServer | undefined> {
  try {
    await promisify(execFile)("kcat", ["-V"]);
  } catch {
    return undefined;
  }
  let { process, port } = await start();
  return {
    get url() {
      return `kafka://127.0.0.1:${port}`;
    },
    get port() {
      return port;
    },
    signal: (signal) => signalTree(process.pid!, signal),
    kill: () => killGroup(process),
    async start() {
      ({ process, port } = await start());
    },
    close: () => killGroup(process),
  };
}

/** It chooses a port, and says which one in its log. */
async function start(): Promise<{ process: ChildProcess; port: number }> {
  const mock = ["-X", "test.mock.num.brokers=1", "-d", "mock"];
  const child = spawn("kcat", ["-C", "-t", "warm", "-p", "0", "-b", "127.0.0.1:1", ...mock], {
    stdio: ["ignore", "ignore", "pipe"],
    detached: true,
  });
  child.unref();
  const lines = createInterface({ input: child.stderr });
  const ended = once(child, "exit").then(() => {
    throw new Error("kcat ended before its cluster was there");
  });
  const port = new Promise<number>((resolve) => {
    lines.on("line", (line) => {
      const found = /bootstrap\.servers=127\.0\.0\.1:(\d+)/.exec(line);
      if (found) resolve(Number(found[1]));
    });
  });
  ended.catch(() => {});
  return { process: child, port: await Promise.race([port, ended]) };
}
