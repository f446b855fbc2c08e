// Starts a recipe for trying it out: a bank, unless BANK_URL names one, the recipe's server on PORT
// (8787), and three curl lines.

import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";

/**
 * @param {() => Promise<import("node:http").RequestListener>} load imports the recipe, when what it needs is there
 * @param {{ path: string, body(amount: number): object }} example what to ask of it
 */
export async function start(load, { path, body }) {
  process.env.BANK_URL ??= await listen(bank(), 0);
  const port = Number(process.env.PORT ?? 8787);
  const address = await listen(createServer(await load()), port);
  const key = randomUUID();
  const curl = (/** @type {number} */ amount) =>
    `curl -i ${address}${path} -H 'Authorization: Bearer alice-token' -H 'Idempotency-Key: ${key}' -H 'Content-Type: application/json' -d '${JSON.stringify(body(amount))}'`;
  console.log(`
1. Pay:
   ${curl(1200)}

2. Pay again with the same key: the same receipt, and no second charge:
   ${curl(1200)}

3. The same key with another amount: 422, and nothing is charged:
   ${curl(9900)}

Ctrl-C ends it.`);
}

/**
 * @param {import("node:http").Server} server
 * @param {number} port
 */
async function listen(server, port) {
  server.listen(port, "127.0.0.1");
  await once(server, "listening");
  const address = /** @type {import("node:net").AddressInfo} */ (server.address());
  return `http://127.0.0.1:${address.port}`;
}

/** Charges as often as it is asked. */
function bank() {
  let charges = 0;
  return createServer(async (request, response) => {
    let text = "";
    for await (const chunk of request.setEncoding("utf8")) text += chunk;
    charges += 1;
    console.log(`bank: charge ${charges}: ${text}`);
    response.setHeader("Content-Type", "application/json");
    response.end(JSON.stringify({ charge: charges }));
  });
}
