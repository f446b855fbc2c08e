// The bank that the recipes charge: a real server, which can be made to keep its callers waiting, to
// decline, and to break off after it has charged.

import { once } from "node:events";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";

export interface Bank {
  url: string;
  /** What it was asked to charge, in the order of arrival. */
  charges: { account: string; invoice: string; amount: number }[];
  /** From now on no answer leaves, until `release()`. */
  hold(): void;
  release(): void;
  /** How the next charge ends. */
  next: "receipt" | "declined" | "broken";
  /** Waits until so many charges have arrived. */
  arrived(count: number): Promise<void>;
  close(): Promise<void>;
}

export async function openBank(): Promise<Bank> {
  const waiting: (() => void)[] = [];
  let isHeld = false;
  let changed = () => {};
  const server = createServer(async (request, response) => {
    bank.charges.push(JSON.parse(await text(request)));
    const charge = bank.charges.length;
    const { next } = bank;
    bank.next = "receipt";
    changed();
    if (isHeld) await new Promise<void>((resolve) => waiting.push(resolve));
    end(response, next, charge);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const bank: Bank = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    charges: [],
    next: "receipt",
    hold() {
      isHeld = true;
    },
    release() {
      isHeld = false;
      for (const resolve of waiting.splice(0)) resolve();
    },
    arrived: (count) =>
      new Promise((resolve) => {
        changed = () => bank.charges.length >= count && resolve();
        changed();
      }),
    async close() {
      bank.release();
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
  return bank;
}

function end(response: ServerResponse, how: Bank["next"], charge: number): void {
  if (how === "broken") response.destroy();
  else if (how === "declined") response.writeHead(402).end();
  else response.end(JSON.stringify({ charge }));
}
