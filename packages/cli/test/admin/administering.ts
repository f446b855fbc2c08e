// Asks the admin listener of a real gateway, as the dashboard does and as scripts do.

import type { Decided, Overview, RecordsPage, RecordView } from "../../src/admin/contract.ts";
import { type GatewayProcess, gateway, upstream } from "../processes.ts";

export const TOKEN = "0123456789abcdef-token";

/** A gateway with its admin listener, in front of an upstream that counts what it does. */
export async function administered(...flags: string[]) {
  let charges = 0;
  const behind = await upstream((request, response) => {
    if (request.url === "/broken") return void request.socket.destroy();
    if (request.url === "/fails") return void response.writeHead(500).end();
    charges++;
    response.writeHead(201, { "Content-Type": "application/json" });
    response.end(JSON.stringify({ charge: charges }));
  });
  const process = await gateway(
    behind.url,
    ...["--scope", "header:X-Account", "--admin", "127.0.0.1:0", ...flags],
  );
  return { process, url: adminUrl(process), pay: paying(process.url), charges: () => charges };
}

export function adminUrl({ log }: GatewayProcess): string {
  const entry = log.find(({ event }) => event === "admin") ?? log.find((one) => one.address);
  return entry!.address!;
}

/** Sends a keyed request through the gateway. @returns its status and what became of it */
function paying(url: string) {
  return async (key: string, path = "/pay", body = "{}") => {
    const response = await fetch(url + path, {
      method: "POST",
      headers: { "x-account": "acme", "idempotency-key": key, "content-type": "application/json" },
      body,
    });
    return {
      status: response.status,
      fate: response.headers.get("idempotency-status"),
      text: await response.text(),
    };
  };
}

export const SCOPE = "x-account:acme";

interface Asked {
  method?: string;
  headers?: Record<string, string>;
  body?: unknown;
}

/** As the dashboard's own page asks. */
export async function ask(url: string, path: string, { method, headers, body }: Asked = {}) {
  const response = await fetch(url + path, {
    method: method ?? (body === undefined ? "GET" : "POST"),
    headers: {
      "x-semel-request": "test",
      ...(body !== undefined && { "content-type": "application/json" }),
      ...headers,
    },
    ...(body !== undefined && { body: typeof body === "string" ? body : JSON.stringify(body) }),
  });
  const text = await response.text();
  const isJson = response.headers.get("content-type") === "application/json";
  return {
    status: response.status,
    headers: response.headers,
    text,
    json: isJson ? JSON.parse(text) : undefined,
  };
}

export const api = {
  overview: async (url: string): Promise<Overview> => (await ask(url, "/-/api/overview")).json,
  records: async (url: string, query = ""): Promise<RecordsPage> =>
    (await ask(url, `/-/api/records?${query}`)).json,
  record: async (url: string, key: string, scope = SCOPE): Promise<RecordView> =>
    (await ask(url, `/-/api/record?${new URLSearchParams({ key, scope })}`)).json,
  decide: async (url: string, decision: string, body: object): Promise<Decided> =>
    (await ask(url, `/-/api/${decision}`, { body })).json,
};
