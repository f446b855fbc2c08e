// A payments service that knows nothing of idempotency, as most do not: asked twice, it charges twice.

import { once } from "node:events";
import { createServer, type IncomingMessage, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as delay } from "node:timers/promises";

/** How long a charge takes: long enough to be interrupted. */
const CHARGE_MS = 400;

export class Payments {
  readonly #server: Server;
  #charges = 0;
  #onCharge: (() => void) | undefined;

  constructor() {
    this.#server = createServer(async (request, response) => {
      const { amount } = await orderOf(request);
      const charge = ++this.#charges;
      this.#onCharge?.();
      await delay(CHARGE_MS);
      response.writeHead(201, { "Content-Type": "application/json" });
      response.end(JSON.stringify({ charge, amount }));
    });
  }

  /** How often somebody was charged. */
  get charges(): number {
    return this.#charges;
  }

  /** @returns its address */
  async start(): Promise<string> {
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Resolves when the next charge has been made, and is not answered yet. */
  nextCharge(): Promise<void> {
    return new Promise((resolve) => {
      this.#onCharge = resolve;
    });
  }

  stop(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }
}

async function orderOf(request: IncomingMessage): Promise<{ amount?: number }> {
  let text = "";
  for await (const chunk of request.setEncoding("utf8")) text += chunk;
  return JSON.parse(text || "{}");
}
