// Somebody else's service, as far as it matters here: it charges, refunds, finds rockets and mails
// receipts, each once for an `Idempotency-Key`, and it knows what it has done.

import { createServer } from "node:http";
import { text } from "node:stream/consumers";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";

/** @param {{ slowMs?: number, print?: (line: string) => void }} [options] how long it takes to answer */
export function paymentProvider({ slowMs = 0, print = () => {} } = {}) {
  /** What was asked for, and what it came to, by key. */
  const answers = new Map();
  /** @type {{ path: string, key: string, ride: string, times: number }[]} */
  const ledger = [];

  return createServer(async (request, response) => {
    const path = request.url ?? "/";
    if (request.method === "GET") return answer(response, 200, ledger);
    const key = String(request.headers["idempotency-key"]);
    const body = JSON.parse(await text(request));
    const known = answers.get(key);
    if (known) ledger.find((entry) => entry.key === key).times++;
    const decided = known ?? decide(path, body, ledger.length + 1);
    if (!known) {
      answers.set(key, decided);
      ledger.push({ path, key, ride: body.ride, times: 1 });
      print(`provider: ${path.slice(1)} for ${body.ride}: ${JSON.stringify(decided.body)}`);
    }
    await delay(slowMs);
    answer(response, decided.status, decided.body);
  });
}

/**
 * @param {string} path
 * @param {{ ride: string, amount?: number, to?: string }} body
 * @param {number} number
 */
function decide(path, { amount = 0, to }, number) {
  if (path === "/charges" && amount > 1_000) {
    return { status: 402, body: { error: "The card was declined" } };
  }
  if (path === "/rockets" && to === "Mars") {
    return { status: 409, body: { error: "No rocket flies to Mars today" } };
  }
  if (path === "/rockets") return { status: 201, body: { rocket: `rocket-${number}` } };
  return { status: 201, body: { id: `${path.slice(1, -1)}-${number}` } };
}

/**
 * @param {import("node:http").ServerResponse} response
 * @param {number} status
 * @param {unknown} body
 */
function answer(response, status, body) {
  response.writeHead(status, { "Content-Type": "application/json" });
  response.end(JSON.stringify(body));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const server = paymentProvider({ slowMs: 300, print: (line) => console.log(line) });
  server.listen(Number(process.env.PORT ?? 0), "127.0.0.1", () => {
    const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
    console.log(`Listening on http://127.0.0.1:${port}`);
  });
}
