// An agent that repeats its calls: after it gave up waiting, and after its server was killed.

import { randomUUID } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { openBank } from "./bank.mjs";

const folder = mkdtempSync(join(tmpdir(), "semel-mcp-server-"));
const bank = openBank(join(folder, "ledger.jsonl"));

let { client, kill } = await connect();

console.log("1. The agent gives up waiting, and repeats its call.");
const first = { to: "Ada", amount: 10, idempotencyKey: randomUUID() };
await client
  .callTool({ name: "pay", arguments: first }, undefined, { timeout: 500 })
  .catch((error) => console.log(`   ${error.message}`));
console.log(`   ${await payUntilKnown(first)}`);

console.log("2. The server is killed after the money left, before the answer came.");
const second = { to: "Grace", amount: 20, idempotencyKey: randomUUID() };
const lost = client.callTool({ name: "pay", arguments: second });
lost.catch(() => {});
while (!bank.find(second.idempotencyKey)) await delay(10);
kill();
({ client, kill } = await connect());
console.log(`   ${await payUntilKnown(second)}`);

console.log(`The bank made ${bank.payments().length} payments:`);
for (const { to, amount } of bank.payments()) console.log(`   ${amount} to ${to}`);

await client.close();
rmSync(folder, { recursive: true, force: true });

/** Does what the tool says while the first call still runs: the same call, a little later. */
async function payUntilKnown(payment) {
  for (;;) {
    const { content, structuredContent } = await client.callTool({
      name: "pay",
      arguments: payment,
    });
    if (structuredContent?.code !== "operation-in-progress") return content[0].text;
    await delay(structuredContent.retryAfterMs);
  }
}

/** A server in a process of its own, as agents start them. */
async function connect() {
  const transport = new StdioClientTransport({
    command: process.execPath,
    args: ["--no-warnings", join(import.meta.dirname, "server.mjs"), folder],
  });
  const agent = new Client({ name: "agent", version: "1.0.0" });
  await agent.connect(transport);
  const { pid } = transport;
  return { client: agent, kill: () => process.kill(pid, "SIGKILL") };
}
