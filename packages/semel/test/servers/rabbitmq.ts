// RabbitMQ servers for tests: the one that is found, or a private one with an Erlang port mapper of its
// own, so that nothing of it is left behind.

import { existsSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect } from "amqplib";
import {
  freePort,
  killGroup,
  type PrivateServer,
  type ServerSource,
  signalTree,
  startProcess,
} from "./server.ts";

/** Not the one in the PATH: Debian's changes the user first. */
const BINARY = "/usr/lib/rabbitmq/bin/rabbitmq-server";

export const rabbitmqSource: ServerSource = {
  name: "RabbitMQ",
  variable: "SEMEL_TEST_RABBITMQ_URL",
  standardUrl: "amqp://guest:guest@127.0.0.1:5672",
  answers,
  start: () => startRabbitmq(),
};

async function answers(url: string): Promise<boolean> {
  try {
    const connection = await connect(url, { timeout: 1_000 });
    await connection.close();
    return true;
  } catch {
    return false;
  }
}

/** Starts a server without plugins. */
export async function startRabbitmq(): Promise<PrivateServer | undefined> {
  if (!existsSync(BINARY)) return undefined;
  const folder = await mkdtemp(join(tmpdir(), "semel-rabbitmq-"));
  const [port, mapperPort, clusterPort] = [await freePort(), await freePort(), await freePort()];
  const url = `amqp://guest:guest@127.0.0.1:${port}`;
  const env = {
    ...process.env,
    HOME: folder,
    ERL_EPMD_PORT: String(mapperPort),
    RABBITMQ_NODENAME: `semel${port}@localhost`,
    // This machine's own configuration is none of its concern.
    RABBITMQ_CONFIG_FILE: join(folder, "rabbitmq.conf"),
    RABBITMQ_CONF_ENV_FILE: join(folder, "environment"),
    RABBITMQ_DIST_PORT: String(clusterPort),
    RABBITMQ_MNESIA_BASE: folder,
    RABBITMQ_LOG_BASE: folder,
    RABBITMQ_PID_FILE: join(folder, "pid"),
    RABBITMQ_ENABLED_PLUGINS_FILE: join(folder, "plugins"),
  };
  await writeFile(join(folder, "rabbitmq.conf"), `listeners.tcp.1 = 127.0.0.1:${port}\n`);
  const script = `epmd -port ${mapperPort} & mapper=$!; ${BINARY}; kill $mapper`;
  const start = () => startProcess("sh", ["-c", script], { cwd: folder, env }, () => answers(url));
  let server = await start();
  return {
    url,
    port,
    signal: (signal) => signalTree(server.pid!, signal),
    kill: () => killGroup(server),
    async start() {
      server = await start();
    },
    async close() {
      await killGroup(server);
      await rm(folder, { recursive: true, force: true });
    },
  };
}
