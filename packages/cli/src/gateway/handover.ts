// Hands the listening sockets on to a process that is started anew, with what is installed and configured
// by then. Both accept connections until the old one stops, so that none is refused.

import { type ChildProcess, spawn } from "node:child_process";
import type { Server } from "node:http";
import { messageOf } from "../failure.ts";
import type { AccessLog } from "./access-log.ts";
import { HANDED_ON, listening } from "./listen.ts";

/** How long a successor may take until it serves. */
const START_MS = 60_000;
/** Standard streams, and the channel by which it says that it serves. */
const STREAMS = ["ignore", "inherit", "inherit", "ipc"] as const;

/** Tells a predecessor, if there is one, that this process serves. */
export function sayThatItServes(): void {
  if (process.send === undefined || !process.connected) return;
  process.send("serving", () => {
    // It may have ended meanwhile, and the channel with it.
    if (process.connected) process.disconnect();
  });
}

/** One that does not serve yet. */
let successor: ChildProcess | undefined;

/** Ends a successor that does not serve yet: who stops this process wants none in its place. */
export function endSuccessor(): void {
  successor?.removeAllListeners().kill();
}

/**
 * Starts a successor at every signal, until one serves.
 *
 * @param refusal why there can be none
 * @returns when one does
 */
export function handoverOn(
  signal: NodeJS.Signals,
  log: AccessLog,
  refusal: string | undefined,
): Promise<void> {
  let isStarting = false;
  return new Promise((resolve) => {
    process.on(signal, () => {
      if (isStarting) return;
      isStarting = true;
      const started = refusal ? Promise.reject(new Error(refusal)) : startSuccessor();
      started.then(
        (pid) => {
          log.note("handed-over", `Process ${pid} serves from now on`, { pid });
          resolve();
        },
        (error: unknown) => {
          isStarting = false;
          const reason = error instanceof Error ? error.message : messageOf(error);
          log.note("handover-failed", `Not handed over, and serving as before: ${reason}`, {
            reason,
          });
        },
      );
    });
  });
}

async function startSuccessor(): Promise<number> {
  const flags = [...listening.keys()];
  const descriptors = [...listening.values()].map(descriptorOf);
  const names = flags.map((flag, at) => `${flag}=${STREAMS.length + at}`).join(",");
  const child = spawn(process.execPath, [...process.execArgv, ...process.argv.slice(1)], {
    env: { ...process.env, [HANDED_ON]: names },
    stdio: [...STREAMS, ...descriptors],
  });
  successor = child;
  try {
    await serving(child);
  } catch (error) {
    child.kill("SIGKILL");
    throw error;
  } finally {
    successor = undefined;
  }
  child.unref();
  return child.pid!;
}

function descriptorOf(server: Server): number {
  const { _handle: handle } = server as Server & { _handle?: { fd?: number } };
  if (typeof handle?.fd === "number" && handle.fd >= 0) return handle.fd;
  throw new Error("sockets cannot be handed on here");
}

function serving(child: ChildProcess): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error("the new process took too long")), START_MS);
    const end = (settle: () => void) => {
      clearTimeout(timer);
      child.removeAllListeners();
      child.on("error", () => {});
      settle();
    };
    child.once("message", () => end(resolve));
    child.once("error", (error) => end(() => reject(error)));
    child.once("exit", (code, signal) => {
      end(() => reject(new Error(`the new process ended with ${signal ?? code}`)));
    });
  });
}
