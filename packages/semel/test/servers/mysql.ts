// A MariaDB or MySQL server for tests. Where the machine has none, a private one from MariaDB's
// binaries, which refuse to run as root.

import type { ChildProcess } from "node:child_process";
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { chown, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { createConnection } from "mysql2/promise";
import {
  freePort,
  killGroup,
  type PrivateServer,
  type ServerSource,
  signalTree,
  startProcess,
} from "./server.ts";

const BINARY = ["/usr/sbin/mariadbd", "/usr/sbin/mysqld"].find((path) => existsSync(path));
const INSTALL = "/usr/bin/mariadb-install-db";
const NOBODY = { user: 65_534, group: 65_534 };

async function answers(url: string): Promise<boolean> {
  try {
    const connection = await createConnection({ uri: url, connectTimeout: 2_000 });
    try {
      await connection.query("SELECT 1");
      return true;
    } finally {
      await connection.end();
    }
  } catch {
    return false;
  }
}

/** The command and its arguments as a user that the server accepts to run as. */
function unprivileged(command: string, args: string[]): [string, string[]] {
  if (process.getuid?.() !== 0) return [command, args];
  const { user, group } = NOBODY;
  const drop = [`--reuid=${user}`, `--regid=${group}`, "--clear-groups", command];
  return ["setpriv", [...drop, ...args]];
}

/**
 * Starts a private MariaDB with a database `test` and a user `root` without a password; `undefined`
 * when the machine has no binaries.
 *
 * @param settings further arguments, such as `--max-connections=5`
 * @param under where the folder of its data is made
 */
export async function startMysql(
  settings: string[] = [],
  under = tmpdir(),
): Promise<PrivateServer | undefined> {
  if (BINARY === undefined || !existsSync(INSTALL)) return undefined;
  const folder = await mkdtemp(join(under, "semel-mysql-"));
  if (process.getuid?.() === 0) await chown(folder, NOBODY.user, NOBODY.group);
  const data = join(folder, "data");
  const port = await freePort();
  const install = [
    "--no-defaults",
    `--datadir=${data}`,
    "--auth-root-authentication-method=normal",
  ];
  await promisify(execFile)(...unprivileged(INSTALL, [...install, "--skip-test-db"]));
  const [command, args] = unprivileged(BINARY, [
    "--no-defaults",
    `--datadir=${data}`,
    `--socket=${join(folder, "socket")}`,
    `--pid-file=${join(folder, "pid")}`,
    `--port=${port}`,
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    ...settings,
  ]);
  const url = `mysql://root@127.0.0.1:${port}/test`;
  const bare = `mysql://root@127.0.0.1:${port}`;
  let child: ChildProcess | undefined;
  const start = async () => {
    child = await startProcess(command, args, {}, () => answers(bare));
  };
  const kill = async () => {
    if (child !== undefined) await killGroup(child);
  };
  await start();
  const connection = await createConnection(bare);
  await connection.query("CREATE DATABASE IF NOT EXISTS test");
  await connection.end();
  return {
    url,
    port,
    signal: (signal) => signalTree(child!.pid!, signal),
    kill,
    start,
    close: async () => {
      await kill();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

export const mysqlSource: ServerSource = {
  name: "MySQL",
  variable: "SEMEL_TEST_MYSQL_URL",
  standardUrl: "mysql://root@127.0.0.1:3306/test",
  answers,
  start: () => startMysql(),
};
