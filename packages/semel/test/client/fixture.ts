// Real servers for the client: a payments service behind Semel, a proxy that cuts its connections at
// a given byte, and sockets that do as a test tells them.

import { once } from "node:events";
import type { IncomingMessage, ServerResponse } from "node:http";
import { connect, createServer, type Socket } from "node:net";
import { onTestFinished } from "vitest";
import type { ClientEvent, ClientOptions } from "../../src/client/index.ts";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { idempotent, type NodeOptions } from "../../src/frameworks/node.ts";
import type { Store } from "../../src/store.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { listen } from "../frameworks/node-server.ts";

/** What a request looked like to the server. */
export interface SeenRequest {
  method: string;
  url: string;
  headers: IncomingMessage["headers"];
  body: string;
}

export interface PaymentService {
  url: string;
  port: number;
  /** Bodies of the payments that were made, in order; each is one effect. */
  payments: string[];
  /** Every request that arrived, those that Semel answered included. */
  seen: SeenRequest[];
}

export interface PaymentServiceOptions extends Partial<NodeOptions> {
  store?: Store;
  /** Runs before Semel; true when it answered, or broke the connection. */
  front?: (request: IncomingMessage, response: ServerResponse) => boolean;
  /** Awaited after the effect, before the answer. */
  beforeAnswer?: (body: string) => Promise<unknown> | undefined;
  /** Answers instead of the payment's own 201. */
  answer?: (response: ServerResponse, body: string) => void;
}

/** Starts a payments service that `semel/node` guards. */
export async function paymentService(options: PaymentServiceOptions = {}): Promise<PaymentService> {
  const { store = memoryStore(), front, beforeAnswer, answer, ...nodeOptions } = options;
  const idempotency = new Idempotency({ store, sweep: false });
  const payments: string[] = [];
  const seen: SeenRequest[] = [];
  const guarded = idempotent(
    idempotency,
    { scope: "shared", ...nodeOptions },
    async (request, response) => {
      const body = await bodyOf(request);
      payments.push(body);
      await beforeAnswer?.(body);
      if (answer) return answer(response, body);
      response.writeHead(201, { "content-type": "application/json" });
      response.end(JSON.stringify({ payment: payments.length, order: body }));
    },
  );
  const { port, close, server } = await listen((request, response) => {
    const entry = { ...line(request), headers: request.headers, body: "" };
    seen.push(entry);
    // Not by reading: what is read here would be missing there.
    const push = request.push.bind(request);
    request.push = (chunk: Buffer | null) => {
      entry.body += chunk?.toString("latin1") ?? "";
      return push(chunk);
    };
    if (!front?.(request, response)) void guarded(request, response);
  });
  onTestFinished(async () => {
    server.closeAllConnections();
    await close();
    await idempotency.close();
  });
  return { url: `http://127.0.0.1:${port}/payments`, port, payments, seen };
}

function line({ method, url }: IncomingMessage): { method: string; url: string } {
  return { method: method ?? "", url: url ?? "" };
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  let body = "";
  for await (const chunk of request) body += (chunk as Buffer).toString("latin1");
  return body;
}

/** Listens on a bare socket. @returns its address */
export async function rawServer(
  onConnection: (socket: Socket, index: number) => void,
): Promise<string> {
  const sockets = new Set<Socket>();
  let connections = 0;
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.on("close", () => sockets.delete(socket));
    onConnection(socket, connections++);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(async () => {
    for (const socket of sockets) socket.destroy();
    server.close();
    await once(server, "close");
  });
  return `http://127.0.0.1:${(server.address() as { port: number }).port}/payments`;
}

/** Where a connection breaks, counted in bytes that pass; and how. */
export interface Cut {
  request?: number;
  response?: number;
  how: "reset" | "end";
}

/** A proxy that cuts each connection as it is told: `cuts` are taken in order, then none. */
export async function cuttingProxy(port: number): Promise<{ url: string; cuts: Cut[] }> {
  const cuts: Cut[] = [];
  const url = await rawServer((client) => {
    const cut = cuts.shift();
    const upstream = connect(port, "127.0.0.1");
    let requestBytes = 0;
    let responseBytes = 0;
    const breakOff = () => {
      upstream.destroy();
      if (cut?.how === "end") client.end();
      else client.resetAndDestroy();
    };
    upstream.on("error", () => {});
    client.on("close", () => upstream.destroy());
    upstream.on("close", () => client.end());
    if (cut?.request === 0) return breakOff();
    client.on("data", (chunk) => {
      const left = (cut?.request ?? Number.POSITIVE_INFINITY) - requestBytes;
      requestBytes += chunk.byteLength;
      if (chunk.byteLength < left) upstream.write(chunk);
      else upstream.write(chunk.subarray(0, left), breakOff);
    });
    upstream.on("data", (chunk) => {
      const left = (cut?.response ?? Number.POSITIVE_INFINITY) - responseBytes;
      responseBytes += chunk.byteLength;
      if (chunk.byteLength < left) client.write(chunk);
      // What is sent before a reset may be lost with it: the reset waits until it has left.
      else if (left > 0) client.write(chunk.subarray(0, left), breakOff);
      else breakOff();
    });
  });
  return { url, cuts };
}

/** Records a client's events, and waits for them. */
export function recorder(): {
  events: ClientEvent[];
  onEvent: NonNullable<ClientOptions["onEvent"]>;
  next(type: ClientEvent["type"]): Promise<ClientEvent>;
} {
  const events: ClientEvent[] = [];
  const waiting = new Set<(event: ClientEvent) => void>();
  return {
    events,
    onEvent(event) {
      events.push(event);
      for (const look of waiting) look(event);
    },
    next: (type) =>
      new Promise((resolve) => {
        const look = (event: ClientEvent) => {
          if (event.type !== type) return;
          waiting.delete(look);
          resolve(event);
        };
        waiting.add(look);
      }),
  };
}

/** A promise that is resolved from outside. */
export function gate<T = void>(): { opened: Promise<T>; open: (value: T) => void } {
  let open!: (value: T) => void;
  const opened = new Promise<T>((resolve) => {
    open = resolve;
  });
  return { opened, open };
}

/** Retries without noticeable pauses. */
export const FAST = { base: 1, cap: 1 } as const;
