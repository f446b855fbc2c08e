// HTTP clients of the suite: whole requests through `node:http`, and bytes on a bare socket where
// framing, or leaving in the middle, matters.

import { request as httpRequest, type IncomingMessage, type RequestOptions } from "node:http";
import { connect, type Socket } from "node:net";
import { inTime, until } from "./waiting.ts";

/** A response, whole. */
export interface Reply {
  status: number;
  /** Every field line by lower-case name. */
  headers: Record<string, string[]>;
  body: Buffer;
  trailers: Record<string, string | undefined>;
}

export interface Sending {
  method?: string;
  path: string;
  /** An array is sent as several field lines. */
  headers?: Record<string, string | readonly string[]>;
  body?: string | Uint8Array | readonly Uint8Array[] | undefined;
  agent?: RequestOptions["agent"];
}

/** The only line of a header. */
export function field(reply: Reply, name: string): string | undefined {
  const lines = reply.headers[name];
  if (lines !== undefined && lines.length > 1) {
    throw new Error(`${name} came ${lines.length} times: ${lines.join(" | ")}`);
  }
  return lines?.[0];
}

export function json(reply: Reply): Record<string, unknown> {
  return JSON.parse(reply.body.toString());
}

/** Sends a request; a body of several chunks goes chunked. */
export function send(port: number, sending: Sending): Promise<Reply> {
  return inTime(
    new Promise((resolve, reject) => {
      const { method = "POST", path, headers = {}, body, agent = false } = sending;
      const options = { host: "127.0.0.1", port, method, path, headers: { ...headers }, agent };
      const request = httpRequest(options as RequestOptions, (response) => {
        collect(response).then(resolve, reject);
      });
      request.on("error", reject);
      if (Array.isArray(body)) {
        for (const chunk of body) request.write(chunk);
        request.end();
      } else request.end(body);
    }),
    `an answer to ${sending.method ?? "POST"} ${sending.path}`,
  );
}

async function collect(response: IncomingMessage): Promise<Reply> {
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk);
  return {
    status: response.statusCode!,
    headers: linesByName(response.rawHeaders),
    body: Buffer.concat(chunks),
    trailers: { ...response.trailers },
  };
}

function linesByName(rawHeaders: readonly string[]): Record<string, string[]> {
  const headers: Record<string, string[]> = {};
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = rawHeaders[i]!.toLowerCase();
    headers[name] ??= [];
    headers[name].push(rawHeaders[i + 1]!);
  }
  return headers;
}

/** A bare connection. */
export class RawClient {
  readonly socket: Socket;
  #received = Buffer.alloc(0);

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on("error", () => {});
    socket.on("data", (chunk) => {
      this.#received = Buffer.concat([this.#received, chunk]);
    });
  }

  static async connect(port: number): Promise<RawClient> {
    const socket = connect({ host: "127.0.0.1", port });
    await inTime(
      new Promise((resolve, reject) => socket.once("connect", resolve).once("error", reject)),
      "a connection",
    );
    return new RawClient(socket);
  }

  /** What came so far, one character a byte. */
  get text(): string {
    return this.#received.toString("latin1");
  }

  get length(): number {
    return this.#received.length;
  }

  write(bytes: string | Uint8Array): void {
    this.socket.write(bytes);
  }

  /** Waits until the text received so far satisfies the pattern. */
  async receives(pattern: RegExp | string): Promise<void> {
    const isThere = () =>
      typeof pattern === "string" ? this.text.includes(pattern) : pattern.test(this.text);
    await until(isThere, `${pattern} (received ${JSON.stringify(this.text.slice(0, 2_000))})`);
  }

  /** Waits until the server has ended the connection. */
  async ended(): Promise<void> {
    await until(() => this.socket.destroyed || this.socket.readableEnded, "the connection's end");
  }

  /** Leaves without a word, as a client does whose machine dies. */
  async leave(): Promise<void> {
    const closed = new Promise((resolve) => this.socket.once("close", resolve));
    this.socket.resetAndDestroy();
    await closed;
  }
}

/** The text of a request with a body. */
export function requestText(
  path: string,
  headers: Record<string, string>,
  body = "",
  version = "1.1",
): string {
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  const length = body === "" ? "" : `Content-Length: ${Buffer.byteLength(body)}\r\n`;
  return `POST ${path} HTTP/${version}\r\nHost: localhost\r\n${lines.join("")}${length}\r\n${body}`;
}
