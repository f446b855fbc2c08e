// A service behind the gateway that is a bare socket: it keeps every byte that it gets, and reads
// requests out of them by itself, as another parser than Node's would.

import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { later } from "../processes.ts";

export interface SeenRequest {
  /** Method, target and version. */
  line: string;
  /** Field lines as they came. */
  fields: readonly string[];
  /** One character a byte. */
  body: string;
}

export interface RecordingUpstream {
  readonly url: string;
  /** Whole requests, in the order in which they came. */
  readonly seen: SeenRequest[];
  /** Every byte of every connection, one character each. */
  bytes(): string;
}

/** Answers the n-th request with `{"run":n}`, after what `answering` waits for. */
export async function recordingUpstream(
  answering?: (request: SeenRequest) => Promise<unknown>,
): Promise<RecordingUpstream> {
  const seen: SeenRequest[] = [];
  let bytes = "";
  const server = createServer((socket) => {
    let unread = "";
    socket.setEncoding("latin1").on("error", () => {});
    socket.on("data", async (chunk: string) => {
      bytes += chunk;
      unread += chunk;
      for (let next = read(unread); next; next = read(unread)) {
        unread = next.rest;
        seen.push(next.request);
        const body = JSON.stringify({ run: seen.length });
        await answering?.(next.request);
        socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
      }
    });
    later(() => socket.destroy());
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  later(() => server.close());
  const { port } = server.address() as AddressInfo;
  return { url: `http://127.0.0.1:${port}`, seen, bytes: () => bytes };
}

/** The first request of some bytes, if all of it is there. */
function read(text: string): { request: SeenRequest; rest: string } | undefined {
  const end = text.indexOf("\r\n\r\n");
  if (end < 0) return undefined;
  const [line = "", ...fields] = text.slice(0, end).split("\r\n");
  const value = (name: string) =>
    fields.find((field) => field.toLowerCase().startsWith(`${name}:`))?.slice(name.length + 1);
  const content = text.slice(end + 4);
  if (value("transfer-encoding")?.trim() === "chunked") {
    const bytes = chunkedLength(content);
    if (bytes === undefined) return undefined;
    const body = content.slice(0, bytes - LAST_CHUNK.length);
    return { request: { line, fields, body }, rest: content.slice(bytes) };
  }
  const length = Number(value("content-length") ?? 0);
  if (content.length < length) return undefined;
  return { request: { line, fields, body: content.slice(0, length) }, rest: content.slice(length) };
}

const LAST_CHUNK = "0\r\n\r\n";

/** How many bytes a chunked body takes, framing included, if all of it is there. */
function chunkedLength(text: string): number | undefined {
  let at = 0;
  while (!text.startsWith(LAST_CHUNK, at)) {
    const end = text.indexOf("\r\n", at);
    const size = Number.parseInt(text.slice(at, end), 16);
    if (end < 0 || !(size > 0)) return undefined;
    at = end + 2 + size + 2;
    if (at > text.length) return undefined;
  }
  return at + LAST_CHUNK.length;
}
