// Where tests find Postgres, and how they start one of their own.

import { type ChildProcess, execFile } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync } from "node:fs";
import { chmod, chown, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import pg from "pg";
import {
  freePort,
  killGroup,
  type PrivateServer,
  type ServerSource,
  signalTree,
  startProcess,
} from "./server.ts";

const run = promisify(execFile);
/** Postgres refuses to run as root; `nobody` on Debian. */
const NOBODY = 65_534;

export const postgresSource: ServerSource = {
  name: "Postgres",
  variable: "SEMEL_TEST_POSTGRES_URL",
  standardUrl: "postgres://postgres@127.0.0.1:5432/test",
  answers: (url) => answers(url),
  start: () => startPostgres(),
};

/** A private Postgres that a test may kill, stall and start again; its database is `postgres`. */
export interface PrivatePostgres extends PrivateServer {
  /** Where its data is. */
  readonly folder: string;
  /** As `pg_ctl stop -m immediate` does it: without a checkpoint, so that its start is a recovery. */
  stopImmediately(): Promise<void>;
}

/**
 * Starts a private server.
 *
 * @param settings what is to be set beside the defaults, such as `{ synchronous_commit: "off" }`
 * @param under where the folder of its data is made
 * @returns `undefined` when this machine has no binaries
 */
export async function startPostgres(
  settings: Record<string, string> = {},
  under = tmpdir(),
): Promise<PrivatePostgres | undefined> {
  const bin = binaries();
  if (bin === undefined) return undefined;
  const isRoot = process.getuid?.() === 0;
  const as = isRoot
    ? ["setpriv", `--reuid=${NOBODY}`, `--regid=${NOBODY}`, "--clear-groups"]
    : ["env"];
  const [command, ...drop] = as as [string, ...string[]];
  const folder = await mkdtemp(join(under, "semel-postgres-"));
  await chmod(folder, 0o700);
  if (isRoot) await chown(folder, NOBODY, NOBODY);
  await run(
    command,
    [...drop, join(bin, "initdb"), "-D", folder, "-U", "postgres", "-A", "trust", "--no-sync"],
    { cwd: "/" },
  );
  const port = await freePort();
  const url = `postgres://postgres@127.0.0.1:${port}/postgres`;
  const all = {
    port: String(port),
    listen_addresses: "127.0.0.1",
    unix_socket_directories: "",
    ...settings,
  };
  const args = Object.entries(all).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
  const start = () =>
    startProcess(
      command,
      [...drop, join(bin, "postgres"), "-D", folder, ...args],
      { cwd: "/" },
      () => answers(url),
    );
  let child = await start();
  return {
    url,
    port,
    folder,
    signal: (signal) => signalTree(child.pid!, signal),
    kill: () => killAll(child),
    async stopImmediately() {
      const ended = once(child, "exit");
      process.kill(child.pid!, "SIGQUIT");
      await ended;
    },
    async start() {
      child = await start();
    },
    async close() {
      await killAll(child);
      await rm(folder, { recursive: true });
    },
  };
}

/** Its backends are in process groups of their own. */
async function killAll(child: ChildProcess): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) await signalTree(child.pid!, "SIGKILL");
  await killGroup(child);
}

/** The newest that Debian has installed, or the one in the path. */
function binaries(): string | undefined {
  const root = "/usr/lib/postgresql";
  const versions = existsSync(root) ? readdirSync(root).sort((a, b) => Number(b) - Number(a)) : [];
  const folders = [
    ...versions.map((version) => join(root, version, "bin")),
    ...(process.env["PATH"] ?? "").split(":"),
  ];
  return folders.find((folder) => existsSync(join(folder, "initdb")));
}

async function answers(url: string): Promise<boolean> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 2_000 });
  client.on("error", () => {});
  try {
    await client.connect();
    await client.query("SELECT 1");
    return true;
  } catch {
    return false;
  } finally {
    await client.end().catch(() => {});
  }
}
