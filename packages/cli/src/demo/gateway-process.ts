// A gateway in a process of its own, so that it can be killed.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { Failure } from "../failure.ts";

const MAIN = fileURLToPath(new URL("../main.js", import.meta.url));

export class GatewayProcess {
  readonly #args: string[];
  #child: ChildProcess | undefined;
  #url = "";

  constructor(flags: readonly string[]) {
    this.#args = [MAIN, "gateway", "--listen", "127.0.0.1:0", "--json", ...flags];
  }

  get url(): string {
    return this.#url;
  }

  /** @throws {Failure} when it does not come up */
  async start(): Promise<void> {
    const child = spawn(process.execPath, this.#args, {
      stdio: ["ignore", "pipe", "inherit"],
      env: withoutFlags(process.env),
    });
    this.#child = child;
    const lines = createInterface(child.stdout!);
    const ended = once(child, "exit").then(() => {
      throw new Failure("the gateway of the demonstration did not start");
    });
    const listening = new Promise<string>((resolve) => {
      lines.on("line", (line) => {
        const { event, address } = JSON.parse(line) as { event: string; address?: string };
        if (event === "listening") resolve(address!);
      });
    });
    this.#url = await Promise.race([listening, ended]);
    // It will end, when it is told to.
    ended.catch(() => {});
  }

  /** As a crash: nothing is finished, nothing is said. */
  async kill(): Promise<void> {
    const child = this.#child;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, "exit");
    child.kill("SIGKILL");
    await exited;
  }
}

/** What is set for another gateway is not for this one. */
function withoutFlags(environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const entries = Object.entries(environment).filter(([name]) => !name.startsWith("SEMEL_"));
  return Object.fromEntries(entries);
}
