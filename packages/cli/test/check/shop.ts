// One small shop, served through every adapter of the library: `/charges` (with `?slow` and `?fail`) and
// `/count`. The shop itself knows nothing of keys.

import { randomUUID } from "node:crypto";
import type { IncomingHttpHeaders, RequestListener } from "node:http";

export interface Sale {
  status: number;
  headers: Record<string, string>;
  value: unknown;
}

const SLOW_MS = 500;

export class Shop {
  #charges = 0;

  count(): string {
    return String(this.#charges);
  }

  isCustomer(headers: Pick<IncomingHttpHeaders, "authorization">): boolean {
    return /^Bearer (?:alice|bob)$/.test(headers.authorization ?? "");
  }

  /** What is answered without authentication, or without an operation. */
  aside(method: string, path: string, isCustomer: boolean): Sale | undefined {
    if (path === "/count") return { status: 200, headers: {}, value: this.#charges };
    if (!isCustomer) return { status: 401, headers: {}, value: { error: "who are you?" } };
    if (/^(?:GET|HEAD)$/.test(method)) return { status: 200, headers: {}, value: [] };
    return undefined;
  }

  async charge(search: string, body: string | undefined): Promise<Sale> {
    if (search.includes("slow")) await new Promise((resolve) => setTimeout(resolve, SLOW_MS));
    if (search.includes("fail")) return { status: 500, headers: {}, value: { error: "closed" } };
    if (body !== undefined && !isJson(body)) {
      return { status: 400, headers: {}, value: { error: "this is no JSON" } };
    }
    const id = ++this.#charges;
    const headers = { location: `/charges/${id}`, "set-cookie": `session=${randomUUID()}` };
    return { status: 201, headers, value: { charge: id, receipt: randomUUID() } };
  }

  /** The shop as it is without an adapter. */
  readonly listener: RequestListener = async (request, response) => {
    const { pathname, search } = new URL(request.url!, "http://localhost");
    const body: Buffer[] = [];
    try {
      for await (const chunk of request) body.push(chunk);
    } catch {
      return; // It never came whole.
    }
    const sale =
      this.aside(request.method!, pathname, this.isCustomer(request.headers)) ??
      (await this.charge(search, Buffer.concat(body).toString()));
    response.writeHead(sale.status, { "content-type": "application/json", ...sale.headers });
    response.end(JSON.stringify(sale.value));
  };
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}
