// A server on stdio with a tool that an agent may repeat: the payment is made once for each key.
//
//   node server.mjs FOLDER

import { join } from "node:path";
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StdioServerTransport } from "@modelcontextprotocol/sdk/server/stdio.js";
import { Idempotency } from "semel";
import { idempotentTool, keyArgument } from "semel/mcp";
import { sqliteStore } from "semel/sqlite";
import { z } from "zod";
import { openBank } from "./bank.mjs";

const folder = process.argv[2] ?? ".";
const bank = openBank(join(folder, "ledger.jsonl"));
const store = sqliteStore(await open(join(folder, "semel.db")));
await store.migrate();
const idempotency = new Idempotency({ store, lease: "2s" });

/** @param {{ to: string, amount: number }} payment */
const receipt = ({ to, amount }) => ({
  content: [{ type: /** @type {const} */ ("text"), text: `Paid ${amount} to ${to}.` }],
});

const server = new McpServer({ name: "payments", version: "1.0.0" });

server.registerTool(
  "pay",
  {
    description: "Pays an amount to somebody.",
    inputSchema: {
      to: z.string(),
      amount: z.number().int().positive(),
      idempotencyKey: keyArgument(z.string()),
    },
  },
  idempotentTool(
    idempotency,
    {
      tool: "pay",
      // One process serves one client here. Over HTTP, name the account: (extra) => extra.authInfo?.clientId
      scope: "shared",
      // What a failure leaves unknown is not paid again.
      onError: "hold",
      // After a crash the bank is asked whether it paid.
      onCrash: async ({ key }) => {
        const payment = bank.find(key);
        return payment
          ? { outcome: "applied", value: receipt(payment) }
          : { outcome: "not-applied" };
      },
    },
    async ({ to, amount }, _extra, operation) => {
      return receipt(await bank.pay({ reference: operation.key, to, amount }));
    },
  ),
);

await server.connect(new StdioServerTransport());

/** @param {string} path */
async function open(path) {
  const builtin = process.getBuiltinModule?.("node:sqlite");
  if (builtin) return new builtin.DatabaseSync(path);
  const { default: Database } = await import("libsql");
  return new Database(path);
}
