// A disk that a test can fill: a tmpfs of its own.

import { execFile } from "node:child_process";
import { chmod, mkdtemp, open, rm, rmdir, statfs } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);
const BLOCK = Buffer.alloc(64 * 1024, 1);

export interface SmallDisk {
  readonly folder: string;
  /** Takes all of the room but so much; more, when it is called again. */
  fill(leaveBytes: number): Promise<void>;
  /** Gives the room back. */
  free(): Promise<void>;
  close(): Promise<void>;
}

/** Mounts one, or says why the kernel does not let this process do so. */
export async function smallDisk(sizeMiB: number): Promise<SmallDisk | { reason: string }> {
  const folder = await mkdtemp(join(tmpdir(), "semel-disk-"));
  try {
    await run("mount", ["-t", "tmpfs", "-o", `size=${sizeMiB}m`, "semel-test", folder]);
  } catch (error) {
    await rmdir(folder);
    const { message } = error as Error;
    if (!/superuser|permission|permitted|denied/i.test(message)) throw error;
    return { reason: `a tmpfs cannot be mounted here: ${message.trim()}` };
  }
  await chmod(folder, 0o755);
  const balloon = join(folder, "balloon");
  return {
    folder,
    async fill(leaveBytes) {
      const file = await open(balloon, "a");
      try {
        for (;;) {
          const { bavail, bsize } = await statfs(folder);
          const bytes = Math.min(BLOCK.length, bavail * bsize - leaveBytes);
          if (bytes <= 0) return;
          await file.write(BLOCK.subarray(0, bytes));
        }
      } catch (error) {
        // A server may take the last of it meanwhile.
        if ((error as NodeJS.ErrnoException).code !== "ENOSPC") throw error;
      } finally {
        await file.close();
      }
    },
    free: () => rm(balloon, { force: true }),
    async close() {
      await run("umount", ["-l", folder]);
      await rmdir(folder);
    },
  };
}
