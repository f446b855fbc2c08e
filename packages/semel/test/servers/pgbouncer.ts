// A private pgbouncer in transaction mode, where no session outlives a transaction.

import { existsSync } from "node:fs";
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { accepts, freePort, killGroup, startProcess } from "./server.ts";

const folder = ["/usr/sbin", ...(process.env["PATH"] ?? "").split(":")].find((candidate) =>
  existsSync(join(candidate, "pgbouncer")),
);

/** Why none can be started; empty when one can. */
export const missingPgbouncer = folder ? "" : " (skipped: pgbouncer is not installed)";

/** Starts one in front of a server. */
export async function startPgbouncer(
  serverUrl: string,
): Promise<{ url: string; close(): Promise<void> }> {
  const server = new URL(serverUrl);
  const database = server.pathname.slice(1);
  const port = await freePort();
  const files = await mkdtemp(join(tmpdir(), "semel-pgbouncer-"));
  await chmod(files, 0o755);
  const file = join(files, "pgbouncer.ini");
  const target = `host=${server.hostname} port=${server.port || 5432} dbname=${database} user=${server.username}`;
  await writeFile(
    file,
    `[databases]
${database} = ${target}${server.password && ` password=${server.password}`}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 4
`,
  );
  const isRoot = process.getuid?.() === 0;
  const drop = isRoot ? ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] : ["env"];
  const [command = "", ...args] = [...drop, join(folder ?? "", "pgbouncer"), "-q", file];
  const child = await startProcess(command, args, { cwd: "/" }, () => accepts(port));
  return {
    url: `postgres://${server.username}@127.0.0.1:${port}/${database}`,
    async close() {
      await killGroup(child);
      await rm(files, { recursive: true });
    },
  };
}
