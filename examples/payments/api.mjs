// A small payments service that knows nothing of idempotency: every POST charges once more, and every
// fourth charge loses its answer, as networks and crashing servers do.

import { createServer } from "node:http";

const BODY_CHARACTERS_MAX = 10_000;

/**
 * @typedef {{ id: number, amount: number, currency: string }} Charge
 * @param {(line: string) => void} print
 */
export function paymentsApi(print) {
  /** @type {Charge[]} */
  const charges = [];

  return createServer(async (request, response) => {
    const path = request.url?.split("?", 1)[0];
    if (path !== "/payments") return answer(response, 404, { error: "There is only /payments" });
    if (request.method === "GET") return answer(response, 200, { charges });
    if (request.method !== "POST") return answer(response, 405, { error: "Use GET or POST" });

    const order = await readOrder(request);
    if (typeof order === "string") return answer(response, 400, { error: order });

    // No key is looked at, nothing is compared: asked twice, it charges twice.
    const charge = { id: charges.length + 1, ...order };
    charges.push(charge);
    print(`api: charged ${charge.amount} ${charge.currency} (charge ${charge.id})`);
    if (charge.id % 4 === 0) {
      print(`api: … and lost the answer to charge ${charge.id}: the connection is cut`);
      request.socket.destroy();
      return;
    }
    answer(response, 201, charge);
  });
}

/**
 * @param {import("node:http").ServerResponse} response
 * @param {number} status
 * @param {unknown} body
 */
function answer(response, status, body) {
  response.writeHead(status, { "Content-Type": "application/json" });
  response.end(`${JSON.stringify(body)}\n`);
}

/**
 * @param {import("node:http").IncomingMessage} request
 * @returns {Promise<{ amount: number, currency: string } | string>} the order, or what is wrong with it
 */
async function readOrder(request) {
  let text = "";
  for await (const chunk of request.setEncoding("utf8")) {
    text += chunk;
    if (text.length > BODY_CHARACTERS_MAX) return "The body is too large";
  }
  let order;
  try {
    order = JSON.parse(text);
  } catch {
    return "The body must be JSON";
  }
  const { amount, currency = "EUR" } = order ?? {};
  if (!Number.isSafeInteger(amount) || amount <= 0) {
    return "`amount` must be a positive whole number of cents";
  }
  if (typeof currency !== "string" || !/^[A-Z]{3}$/.test(currency)) {
    return "`currency` must be three capital letters, such as EUR";
  }
  return { amount, currency };
}
