// NATS servers with JetStream for tests: the one that is found, or a private one.

import { execFile } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import {
  freePort,
  killGroup,
  type PrivateServer,
  type ServerSource,
  signalTree,
  startProcess,
} from "./server.ts";

export const natsSource: ServerSource = {
  name: "NATS with JetStream",
  variable: "SEMEL_TEST_NATS_URL",
  standardUrl: "nats://127.0.0.1:4222",
  answers,
  start: () => startNats(),
};

/** A server says what it is as soon as somebody connects. */
function answers(url: string): Promise<boolean> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve) => {
    const socket = connect(Number(port || 4222), hostname);
    const end = (answer: boolean) => {
      socket.destroy();
      resolve(answer);
    };
    socket.setTimeout(1_000, () => end(false));
    socket.once("data", (data) => end(/^INFO .*"jetstream": ?true/.test(data.toString())));
    socket.once("error", () => end(false));
  });
}

/** Starts a server that keeps its streams in a folder of its own. */
export async function startNats(): Promise<PrivateServer | undefined> {
  try {
    await promisify(execFile)("nats-server", ["--version"]);
  } catch {
    return undefined;
  }
  const folder = await mkdtemp(join(tmpdir(), "semel-nats-"));
  const port = await freePort();
  const url = `nats://127.0.0.1:${port}`;
  const args = [
    "--addr",
    "127.0.0.1",
    "--port",
    String(port),
    "--jetstream",
    "--store_dir",
    folder,
  ];
  const start = () => startProcess("nats-server", args, { cwd: folder }, () => answers(url));
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
