// A server of the official SDK in a process of its own, on stdio or Streamable HTTP, to be killed at the
// worst moments. Its effect is a line in a file; what it does next is told to it through files.
//
//   node server.mjs '{ "transport": "stdio" | "http", "database": …, "effects": …, "gate": …,
//     "steps": …, "options": … }'
//
// While the file `gate` exists, a handler that has made its effect waits. Over HTTP it prints its port.

import { randomUUID } from "node:crypto";
import { appendFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { setTimeout as delay } from "node:timers/promises";
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StdioServerTransport } from "@modelcontextprotocol/sdk/server/stdio.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import { z } from "zod";
import { Idempotency } from "../../dist/index.js";
import { idempotentTool, keyArgument } from "../../dist/mcp/index.js";
import { sqliteStore } from "../../dist/stores/sqlite.js";

const { transport, database, effects, gate, steps, options, onCrash } = JSON.parse(process.argv[2]);
const store = sqliteStore(await open(database));
await store.migrate();
const idempotency = new Idempotency({ store, cache: false, ...options });

/** Makes the effect, as a bank would. */
async function charge(amount, key) {
  appendFileSync(effects, `${amount} ${key}\n`);
  while (existsSync(gate)) await delay(5);
}

function chargesOf(key) {
  return existsSync(effects)
    ? readFileSync(effects, "utf8")
        .split("\n")
        .filter((line) => line.endsWith(` ${key}`)).length
    : 0;
}

const receipt = (amount, key) => ({
  content: [
    { type: "text", text: `charged ${amount}` },
    { type: "image", data: Buffer.from("receipt").toString("base64"), mimeType: "image/png" },
  ],
  structuredContent: { amount, key },
});

/** Looks whether the charge of a crashed attempt was made. */
const probe = async ({ key }) => {
  if (chargesOf(key) === 0) return { outcome: "not-applied" };
  return { outcome: "applied", value: receipt(100, key) };
};

function server() {
  const mcp = new McpServer({ name: "bank", version: "1.0.0" });
  const shared = {
    scope: "shared",
    ...(onCrash && { onCrash: onCrash === "probe" ? probe : onCrash }),
  };
  mcp.registerTool(
    "charge",
    { inputSchema: { amount: z.number(), idempotencyKey: keyArgument(z.string()).optional() } },
    idempotentTool(
      idempotency,
      { tool: "charge", ...shared },
      async ({ amount }, extra, operation) => {
        await charge(amount, operation.key);
        if (extra.signal.aborted) throw new Error("a begun attempt was cancelled");
        return receipt(amount, operation.key);
      },
    ),
  );
  mcp.registerTool(
    "pay-out",
    { inputSchema: { amount: z.number(), idempotencyKey: keyArgument(z.string()) } },
    idempotentTool(
      idempotency,
      { ...shared, tool: "pay-out", scope: (extra) => extra.authInfo?.clientId },
      async ({ amount }, _extra, operation) => {
        await charge(amount, operation.key);
        return receipt(amount, operation.key);
      },
    ),
  );
  mcp.registerTool(
    "charge-in-steps",
    { inputSchema: { amount: z.number(), idempotencyKey: keyArgument(z.string()) } },
    idempotentTool(
      idempotency,
      { tool: "charge-in-steps", ...shared },
      async ({ amount }, _extra, operation) => {
        await operation.step("charge", async () => {
          appendFileSync(effects, `${amount} ${operation.key}\n`);
        });
        writeFileSync(`${steps}${operation.key}`, "");
        while (existsSync(gate)) await delay(5);
        return receipt(amount, operation.key);
      },
    ),
  );
  mcp.registerTool(
    "transfer",
    { inputSchema: { amount: z.number() } },
    idempotentTool(
      idempotency,
      { tool: "transfer", ...shared, derive: "session-and-arguments" },
      async ({ amount }, _extra, operation) => {
        await charge(amount, operation.key);
        return receipt(amount, operation.key);
      },
    ),
  );
  return mcp;
}

if (transport === "stdio") await server().connect(new StdioServerTransport());
else {
  const sessions = new Map();
  const http = createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request) body += chunk;
    // As a middleware that has verified a token.
    const tenant = request.headers.authorization;
    if (tenant) request.auth = { token: tenant, clientId: tenant, scopes: [] };
    const known = sessions.get(request.headers["mcp-session-id"]);
    if (known) return known.handleRequest(request, response, body ? JSON.parse(body) : undefined);
    const isStateless = request.url === "/stateless";
    const fresh = new StreamableHTTPServerTransport({
      sessionIdGenerator: isStateless ? undefined : randomUUID,
      onsessioninitialized: (id) => sessions.set(id, fresh),
    });
    await server().connect(fresh);
    return fresh.handleRequest(request, response, body ? JSON.parse(body) : undefined);
  });
  http.listen(0, "127.0.0.1", () => console.log(http.address().port));
}

async function open(path) {
  const builtin = process.getBuiltinModule?.("node:sqlite");
  if (builtin) return new builtin.DatabaseSync(path);
  const { default: Database } = await import("libsql");
  return new Database(path);
}
