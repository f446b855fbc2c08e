// Starts real gateways, upstreams and folders for tests, and ends them all again.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type RequestListener, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

export const MAIN = fileURLToPath(new URL("../dist/main.js", import.meta.url));

const cleanups: (() => unknown)[] = [];

/** Has something undone after the test. */
export function later(cleanup: () => unknown): void {
  cleanups.push(cleanup);
}

/** For `afterEach`: undoes everything, the last first. */
export async function cleanUp(): Promise<void> {
  for (let cleanup = cleanups.pop(); cleanup; cleanup = cleanups.pop()) await cleanup();
}

export async function folder(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), "semel-cli-"));
  later(() => rm(path, { recursive: true, force: true }));
  return path;
}

export interface Finished {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** Runs the command to its end. */
export function semel(...args: string[]): Promise<Finished> {
  return semelIn({}, ...args);
}

/** Runs the command to its end, with these variables in its environment besides. */
export async function semelIn(
  environment: Record<string, string>,
  ...args: string[]
): Promise<Finished> {
  const child = spawn(process.execPath, [MAIN, ...args], {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, ...environment },
  });
  later(() => child.kill("SIGKILL"));
  let stdout = "";
  let stderr = "";
  child.stdout.on("data", (chunk) => {
    stdout += chunk;
  });
  child.stderr.on("data", (chunk) => {
    stderr += chunk;
  });
  const [code] = await once(child, "close");
  return { code, stdout, stderr };
}

export interface LogEntry {
  event: string;
  address?: string;
  [name: string]: unknown;
}

export interface GatewayProcess {
  readonly url: string;
  readonly port: number;
  readonly child: ChildProcess;
  /** What it logged so far. */
  readonly log: LogEntry[];
  /** What it wrote to its standard error. */
  stderr(): string;
  /** Waits for a log entry. */
  logged(matches: (entry: LogEntry) => boolean): Promise<LogEntry>;
  /** Ends it. @returns its exit code, or the signal that killed it */
  end(signal: NodeJS.Signals): Promise<number | string>;
}

/** Starts a gateway on a free port, and waits until it listens. */
export function gateway(upstream: string, ...flags: string[]): Promise<GatewayProcess> {
  const store = flags.includes("--store") ? [] : ["--store", "memory:"];
  const args = ["gateway", "--upstream", upstream, "--listen", "127.0.0.1:0", "--json"];
  return started([...args, ...store, ...flags]);
}

/** Starts a command that goes on running, and waits until it listens. */
export async function started(
  args: readonly string[],
  environment: Record<string, string> = {},
): Promise<GatewayProcess> {
  const child = spawn(process.execPath, [MAIN, ...args], {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, ...environment },
  });
  const exited = new Promise<number | string>((resolve) => {
    child.once("exit", (code, signal) => resolve(signal ?? code ?? -1));
  });
  later(async () => {
    child.kill("SIGKILL");
    await exited;
  });
  const log: LogEntry[] = [];
  const waiting = new Set<() => void>();
  let stderr = "";
  child.stderr.on("data", (chunk) => {
    stderr += chunk;
  });
  createInterface(child.stdout).on("line", (line) => {
    log.push(JSON.parse(line));
    for (const look of waiting) look();
  });
  const logged = (matches: (entry: LogEntry) => boolean) =>
    new Promise<LogEntry>((resolve) => {
      const look = () => {
        const entry = log.find(matches);
        if (!entry) return;
        waiting.delete(look);
        resolve(entry);
      };
      waiting.add(look);
      look();
    });
  const listening = await Promise.race([
    logged((entry) => entry.event === "listening"),
    exited.then((end) => Promise.reject(new Error(`it ended (${end}): ${stderr}`))),
  ]);
  const url = listening.address!;
  return {
    url,
    port: Number(new URL(url).port),
    child,
    log,
    stderr: () => stderr,
    logged,
    end: async (signal) => {
      child.kill(signal);
      return exited;
    },
  };
}

export interface UpstreamServer {
  readonly url: string;
  readonly port: number;
  readonly server: Server;
  stop(): Promise<void>;
}

/** Serves a handler, on a free port unless one is given. */
export async function upstream(handler: RequestListener, port = 0): Promise<UpstreamServer> {
  const server = createServer(handler);
  server.listen(port, "127.0.0.1");
  await once(server, "listening");
  const stop = async () => {
    if (!server.listening) return;
    const closed = once(server, "close");
    server.close();
    server.closeAllConnections();
    await closed;
  };
  later(stop);
  const bound = (server.address() as AddressInfo).port;
  return { url: `http://127.0.0.1:${bound}`, port: bound, server, stop };
}

/** Something that a test waits for, settled from elsewhere. */
export function gate<T = void>(): { opened: Promise<T>; open(value: T): void } {
  let open: (value: T) => void = () => {};
  const opened = new Promise<T>((resolve) => {
    open = resolve;
  });
  return { opened, open: (value) => open(value) };
}
