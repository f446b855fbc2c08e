// MQTT brokers for tests: the one that is found, or a private Mosquitto.

import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import {
  accepts,
  freePort,
  killGroup,
  type PrivateServer,
  type ServerSource,
  signalTree,
  startProcess,
} from "./server.ts";

export const mosquittoSource: ServerSource = {
  name: "MQTT broker",
  variable: "SEMEL_TEST_MQTT_URL",
  standardUrl: "mqtt://127.0.0.1:1883",
  answers(url) {
    const { hostname, port } = new URL(url);
    return accepts(Number(port || 1883), hostname);
  },
  start: startMosquitto,
};

/**
 * Starts a broker that listens on this machine alone, keeps sessions in memory, and drops nothing of
 * what waits for them: by default it does so from a thousand messages on.
 */
export async function startMosquitto(): Promise<PrivateServer | undefined> {
  const binary = await found();
  if (binary === undefined) return undefined;
  const port = await freePort();
  const isReady = () => accepts(port);
  const folder = await mkdtemp(join(tmpdir(), "semel-mosquitto-"));
  const settings = join(folder, "mosquitto.conf");
  await writeFile(
    settings,
    `listener ${port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n`,
  );
  const start = () => startProcess(binary, ["-c", settings], { cwd: folder }, isReady);
  let process = await start();
  return {
    url: `mqtt://127.0.0.1:${port}`,
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

/** Debian keeps it where only the superuser's `PATH` looks. */
async function found(): Promise<string | undefined> {
  for (const binary of ["mosquitto", "/usr/sbin/mosquitto"]) {
    try {
      await promisify(execFile)(binary, ["-h"]);
      return binary;
    } catch (error) {
      // `-h` ends with 3.
      if ((error as { code?: unknown }).code === 3) return binary;
    }
  }
  return undefined;
}
