// Several requests on one connection before the first answer (RFC 9112 §9.3.2), which no client
// library sends.

import { connect as connectTcp, isIP } from "node:net";
import { connect as connectTls } from "node:tls";
import { type Answer, type HeaderLine, unanswered } from "./exchange.ts";

/**
 * @param url where
 * @param requests each with all of its header lines, but for `Host`, `Content-Length` and `Connection`
 * @returns an answer for each request, in order; those that the server did not give have status 0
 */
export function pipeline(
  url: URL,
  requests: readonly { method: string; headers: readonly HeaderLine[]; body: Buffer }[],
  timeoutMs: number,
): Promise<Answer[]> {
  return new Promise((resolve) => {
    const port = Number(url.port || (url.protocol === "https:" ? 443 : 80));
    const host = url.hostname.replace(/^\[(.*)\]$/, "$1");
    const socket =
      url.protocol === "https:"
        ? connectTls({ host, port, ...(isIP(host) ? {} : { servername: host }) })
        : connectTcp({ host, port });
    const received: Buffer[] = [];
    let trouble = "the connection was closed without an answer";
    const timer = setTimeout(() => {
      trouble = `no answer within ${timeoutMs} ms`;
      socket.destroy();
    }, timeoutMs);
    socket.on("data", (chunk: Buffer) => received.push(chunk));
    socket.on("error", (error) => {
      trouble = error.message;
    });
    socket.on("close", () => {
      clearTimeout(timer);
      const answers = answersIn(Buffer.concat(received));
      resolve(requests.map((_, index) => answers[index] ?? unanswered(trouble)));
    });
    const last = requests.length - 1;
    socket.write(
      Buffer.concat(
        requests.map((request, index) =>
          bytesOf(url, request, index === last ? "close" : "keep-alive"),
        ),
      ),
    );
  });
}

function bytesOf(
  url: URL,
  { method, headers, body }: { method: string; headers: readonly HeaderLine[]; body: Buffer },
  connection: string,
): Buffer {
  const lines: HeaderLine[] = [
    ["Host", url.host],
    ...headers,
    ["Content-Length", String(body.byteLength)],
    ["Connection", connection],
  ];
  const head = lines.map(([name, value]) => `${name}: ${value}\r\n`).join("");
  const start = `${method} ${url.pathname}${url.search} HTTP/1.1\r\n`;
  return Buffer.concat([Buffer.from(`${start}${head}\r\n`, "latin1"), body]);
}

/** The whole answers in the bytes of a connection; a broken last one is not among them. */
export function answersIn(bytes: Buffer): Answer[] {
  const answers: Answer[] = [];
  let at = 0;
  while (at < bytes.byteLength) {
    const headEnd = bytes.indexOf("\r\n\r\n", at);
    if (headEnd < 0) break;
    const [statusLine = "", ...lines] = bytes.toString("latin1", at, headEnd).split("\r\n");
    const status = Number(/^HTTP\/1\.[01] (\d{3})/.exec(statusLine)?.[1]);
    if (!status) break;
    const headers = lines.map((line): HeaderLine => {
      const colon = line.indexOf(":");
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
    });
    const framed = bodyAt(bytes, headEnd + 4, status, new Map(headers));
    if (!framed) break;
    at = framed.end;
    if (status >= 200) answers.push({ status, headers, body: framed.body });
  }
  return answers;
}

/** RFC 9112 §6.3, as far as answers to unsafe methods go. */
function bodyAt(
  bytes: Buffer,
  start: number,
  status: number,
  headers: ReadonlyMap<string, string>,
): { body: Buffer; end: number } | undefined {
  if (status < 200 || status === 204 || status === 304) {
    return { body: Buffer.alloc(0), end: start };
  }
  if (/\bchunked$/i.test(headers.get("transfer-encoding") ?? "")) return chunkedAt(bytes, start);
  const length = headers.get("content-length");
  const end = length === undefined ? bytes.byteLength : start + Number(length);
  return end > bytes.byteLength ? undefined : { body: bytes.subarray(start, end), end };
}

function chunkedAt(bytes: Buffer, start: number): { body: Buffer; end: number } | undefined {
  const chunks: Buffer[] = [];
  let at = start;
  for (;;) {
    const lineEnd = bytes.indexOf("\r\n", at);
    const size = Number.parseInt(bytes.toString("latin1", at, lineEnd), 16);
    if (lineEnd < 0 || Number.isNaN(size)) return undefined;
    const data = lineEnd + 2;
    if (size === 0) {
      const trailersEnd = bytes.indexOf("\r\n\r\n", lineEnd);
      return trailersEnd < 0 ? undefined : { body: Buffer.concat(chunks), end: trailersEnd + 4 };
    }
    if (data + size + 2 > bytes.byteLength) return undefined;
    chunks.push(bytes.subarray(data, data + size));
    at = data + size + 2;
  }
}
