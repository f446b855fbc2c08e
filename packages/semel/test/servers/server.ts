// Where tests find their servers: by an environment variable, then on the standard port, then as a
// private one from binaries on this machine. Without any, tests skip with the reason, unless
// SEMEL_REQUIRE_SERVICES says that they must not.

import { type ChildProcess, type SpawnOptions, spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { setTimeout as delay } from "node:timers/promises";

/** A server that a test started, and may kill, stop and start again. */
export interface PrivateServer {
  readonly url: string;
  readonly port: number;
  /** Sends a signal to the whole server: once SIGSTOP has resolved it is stalled; SIGCONT lets it go on. */
  signal(signal: NodeJS.Signals): Promise<void>;
  /** `kill -9`, and waits for its end. */
  kill(): Promise<void>;
  /** Starts it again on the same port with the same data. */
  start(): Promise<void>;
  /** Ends it for good and removes its data. */
  close(): Promise<void>;
}

export interface ServerSource {
  name: string;
  /** The environment variable that names a running one. */
  variable: string;
  /** Tried when the variable is not set. */
  standardUrl: string;
  /** Asks whether a server that works answers there. */
  answers(url: string): Promise<boolean>;
  /** Starts a private one; `undefined` when this machine has no binaries. */
  start(): Promise<PrivateServer | undefined>;
}

export type FoundServer = { url: string; close(): Promise<void> } | { reason: string };

/** Finds a server, or says why there is none. */
export async function findServer(source: ServerSource): Promise<FoundServer> {
  const named = process.env[source.variable];
  const close = async () => {};
  if (named) {
    if (await source.answers(named)) return { url: named, close };
    throw new Error(`${source.variable} is set, but no ${source.name} answers there`);
  }
  if (await source.answers(source.standardUrl)) return { url: source.standardUrl, close };
  const server = await source.start();
  if (server) return { url: server.url, close: () => server.close() };
  const reason = `no ${source.name}: set ${source.variable}, run one on its standard port, or install its binaries`;
  if (process.env["SEMEL_REQUIRE_SERVICES"]) throw new Error(reason);
  return { reason };
}

/** A port that nothing listens on. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return port;
}

/** Whether something accepts connections there. */
export function accepts(port: number, host = "127.0.0.1"): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, host);
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}

/** Starts a program in a process group of its own, and waits until it is ready. */
export async function startProcess(
  command: string,
  args: readonly string[],
  options: SpawnOptions,
  isReady: () => Promise<boolean>,
): Promise<ChildProcess> {
  const child = spawn(command, args, { stdio: "ignore", ...options, detached: true });
  let failure: Error | undefined;
  child.once("error", (error) => {
    failure = error;
  });
  child.unref();
  for (let tries = 0; tries < 600; tries++) {
    if (failure) throw failure;
    if (child.exitCode !== null) throw new Error(`${command} ended with ${child.exitCode}`);
    if (await isReady()) return child;
    await delay(50);
  }
  signalGroup(child, "SIGKILL");
  throw new Error(`${command} was not ready within 30 s`);
}

/**
 * Signals a process with all that it has started. A stop is only asked for by its signal: threads that
 * run on another core may still answer. So it is waited for until none of them does.
 */
export async function signalTree(root: number, signal: NodeJS.Signals): Promise<void> {
  for (let tries = 0; tries < 2_000; tries++) {
    // Again, because what has not been stopped yet may start others.
    const tree = treeOf(root);
    for (const pid of tree) signalOne(pid, signal);
    if (signal !== "SIGSTOP" || tree.every(isStopped)) return;
    await delay(5);
  }
  throw new Error(`process ${root} was not stopped within 10 s`);
}

function signalOne(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // It has ended already.
  }
}

/** A process, those of its group, and the children of all of these. */
function treeOf(root: number): number[] {
  const tree = new Set([root]);
  const others = processes();
  for (let before = 0; before < tree.size; ) {
    before = tree.size;
    for (const { pid, parent, group } of others) {
      if (group === root || tree.has(parent)) tree.add(pid);
    }
  }
  return [...tree];
}

function processes(): { pid: number; parent: number; group: number }[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      const [, parent, group] = statOf(`/proc/${name}`) ?? [];
      return parent === undefined
        ? []
        : { pid: Number(name), parent: Number(parent), group: Number(group) };
    });
}

/** Whether no thread of it runs: each is stopped, or has ended. */
function isStopped(pid: number): boolean {
  const threads = `/proc/${pid}/task`;
  try {
    return readdirSync(threads).every((thread) => {
      const [state] = statOf(`${threads}/${thread}`) ?? ["X"];
      return ["T", "t", "Z", "X"].includes(state!);
    });
  } catch {
    return true;
  }
}

/** What Linux says of a process or a thread from its state on; `undefined` when it has ended. */
function statOf(path: string): string[] | undefined {
  try {
    // Its name, which comes before, may have anything in it but ends at the last parenthesis.
    return readFileSync(`${path}/stat`, "utf8").split(") ").at(-1)!.split(" ");
  } catch {
    return undefined;
  }
}

/** Signals a process and its group. */
function signalGroup(child: ChildProcess, signal: NodeJS.Signals): void {
  try {
    process.kill(-child.pid!, signal);
  } catch {
    // It has ended already.
  }
}

/** Ends a process and its children at once, and waits for it. */
export async function killGroup(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, "exit");
  signalGroup(child, "SIGKILL");
  await ended;
}
