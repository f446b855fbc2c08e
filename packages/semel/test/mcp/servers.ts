// Servers in processes of their own, and clients of the official SDK that talk to them.

import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import type { CallToolResult } from "@modelcontextprotocol/sdk/types.js";

export type TransportName = "stdio" | "http";

export interface Caller {
  client: Client;
  /** Kills the server that this client talks to. */
  kill(): void;
}

export interface Call {
  name: string;
  arguments: Record<string, unknown>;
  _meta?: Record<string, unknown>;
}

/** One database, whatever process opens it, and everything that was started on it. */
export class Stage {
  readonly #folder = mkdtempSync(join(tmpdir(), "semel-mcp-"));
  readonly #children: ChildProcess[] = [];
  readonly #clients: Client[] = [];
  #http: Promise<{ port: number; child: ChildProcess }> | undefined;

  /** A client of its own; on stdio with a server of its own, over HTTP of the one that runs. */
  async connect(
    transport: TransportName,
    settings: object = {},
    path = "/mcp",
    tenant?: string,
  ): Promise<Caller> {
    const client = new Client({ name: "agent", version: "1.0.0" });
    this.#clients.push(client);
    if (transport === "stdio") {
      const args = this.#arguments(transport, settings);
      const stdio = new StdioClientTransport({ command: process.execPath, args });
      await client.connect(stdio);
      const pid = stdio.pid!;
      return { client, kill: () => process.kill(pid, "SIGKILL") };
    }
    this.#http ??= this.#serve(settings);
    const { port, child } = await this.#http;
    const url = new URL(`http://127.0.0.1:${port}${path}`);
    const requestInit = tenant === undefined ? {} : { headers: { authorization: tenant } };
    // Its types and the strictest compiler disagree on an absent session.
    await client.connect(
      new StreamableHTTPClientTransport(url, { requestInit }) as Parameters<Client["connect"]>[0],
    );
    return {
      client,
      kill: () => {
        child.kill("SIGKILL");
        this.#http = undefined;
      },
    };
  }

  async #serve(settings: object): Promise<{ port: number; child: ChildProcess }> {
    const child = spawn(process.execPath, this.#arguments("http", settings), {
      stdio: ["ignore", "pipe", "inherit"],
    });
    this.#children.push(child);
    for await (const line of createInterface({ input: child.stdout! })) {
      return { port: Number(line), child };
    }
    throw new Error("the server ended before it listened");
  }

  #arguments(transport: TransportName, settings: object): string[] {
    const all = {
      transport,
      database: join(this.#folder, "semel.db"),
      effects: join(this.#folder, "effects"),
      gate: join(this.#folder, "gate"),
      steps: join(this.#folder, "step-"),
      options: { lease: "300ms" },
      ...settings,
    };
    return ["--no-warnings", join(import.meta.dirname, "server.mjs"), JSON.stringify(all)];
  }

  closeGate(): void {
    writeFileSync(join(this.#folder, "gate"), "");
  }

  openGate(): void {
    rmSync(join(this.#folder, "gate"), { force: true });
  }

  /** What was done to the world, in order. */
  effects(): string[] {
    const file = join(this.#folder, "effects");
    // Whole lines: the file is there before what is written to it.
    return existsSync(file) ? readFileSync(file, "utf8").split("\n").slice(0, -1) : [];
  }

  async untilEffects(count: number): Promise<void> {
    while (this.effects().length < count) await delay(5);
  }

  /** Waits until the server says that the step is saved. */
  async untilStepSaved(key: string): Promise<void> {
    while (!existsSync(join(this.#folder, `step-${key}`))) await delay(5);
  }

  async close(): Promise<void> {
    this.openGate();
    for (const client of this.#clients) await client.close();
    for (const child of this.#children) child.kill("SIGKILL");
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

export async function call(
  { client }: Caller,
  params: Call,
  options?: { signal?: AbortSignal; timeout?: number },
): Promise<CallToolResult> {
  return (await client.callTool(params, undefined, options)) as CallToolResult;
}

export function codeOf(result: CallToolResult): unknown {
  return result.isError ? result.structuredContent?.["code"] : undefined;
}

/** Does what the tool error says: calls again while the first call runs. */
export async function callUntilKnown(caller: Caller, params: Call): Promise<CallToolResult> {
  for (;;) {
    const result = await call(caller, params);
    if (codeOf(result) !== "operation-in-progress") return result;
    await delay(20);
  }
}
