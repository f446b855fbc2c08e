// WebSocket and other upgrades, as raw tunnels. Whatever could carry a keyed request past the
// gateway is no tunnel: it is served as if the client had not asked to upgrade (RFC 9110 §7.8).

import { type IncomingMessage, type Server, ServerResponse } from "node:http";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import type { Exchanges } from "./exchanges.ts";
import { type Passage, setClientHost, upstreamHead } from "./forward.ts";
import { ambiguityOf, targetOf } from "./framing.ts";
import { connectionTokens, fieldLines, responseHeaders } from "./headers.ts";
import { sendProblem } from "./problem.ts";
import { relay } from "./relay.ts";
import type { Breakage, UpstreamCall } from "./upstream.ts";

/** Protocols in which requests could follow that the gateway would not see. */
const CARRIES_REQUESTS = /^(?:h2c?|http|tls)\b/i;

/** Hears of an upgrade that was answered, and how. */
export type Opened = (request: IncomingMessage, status: number) => void;

export class Tunnels {
  readonly #passage: () => Passage;
  readonly #sockets = new Set<Duplex>();

  constructor(passage: () => Passage) {
    this.#passage = passage;
  }

  /** Serves a server's upgrades. */
  serve(server: Server, exchanges: Exchanges, opened: Opened): void {
    server.on("upgrade", (request, socket, head) => {
      socket.on("error", destroyed);
      if (exchanges.endAfterAnswers(socket)) return;
      const target = targetOf(request);
      const isServed = target !== undefined && ambiguityOf(request) === undefined;
      if (!isServed || !isTunnel(request)) return continueWithout(server, request, socket, head);
      request.url = target.path;
      setClientHost(request, target.host);
      this.#open(request, socket, head, opened);
    });
  }

  /** Cuts every tunnel. */
  close(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  #open(request: IncomingMessage, client: Duplex, clientHead: Buffer, opened: Opened): void {
    const protocols = fieldLines(request.rawHeaders, "upgrade").join(", ");
    const framing = ["Connection", "Upgrade", "Upgrade", protocols];
    const passage = this.#passage();
    const call = passage.upstream.open(upstreamHead(request, passage, framing), {
      connection: "fresh",
      silenceMs: passage.silenceMs,
    });
    let isAgreed = false;
    this.#keep(client);
    client.once("close", () => call.request.destroy());
    call.request.once("upgrade", (answer, upstream, upstreamHead) => {
      isAgreed = true;
      this.#keep(upstream);
      const agreed = ["Connection", "Upgrade", "Upgrade", answer.headers.upgrade ?? protocols];
      const headers = [...agreed, ...responseHeaders(answer)];
      client.write(headBytes(`HTTP/1.1 101 ${answer.statusMessage}`, headers));
      client.write(upstreamHead);
      upstream.write(clientHead);
      upstream.on("error", () => upstream.destroy());
      upstream.once("close", () => client.destroy());
      client.once("close", () => upstream.destroy());
      client.pipe(upstream).pipe(client);
      opened(request, 101);
    });
    call.request.end();
    call.answer.then(
      (answer) => refuse(request, client, call, answer, opened),
      (error) => isAgreed || answerBroken(request, client, call.breakage(error), opened),
    );
  }

  #keep(socket: Duplex): void {
    this.#sockets.add(socket);
    socket.once("close", () => this.#sockets.delete(socket));
  }
}

/** The same for all, so that it can be taken off again. */
function destroyed(this: Duplex): void {
  this.destroy();
}

function isTunnel(request: IncomingMessage): boolean {
  const { method, headers, rawHeaders } = request;
  const hasBody = "transfer-encoding" in headers || (headers["content-length"] ?? "0") !== "0";
  const protocols = fieldLines(rawHeaders, "upgrade").flatMap((line) => line.split(","));
  return (
    method === "GET" && !hasBody && !protocols.some((name) => CARRIES_REQUESTS.test(name.trim()))
  );
}

/** The upstream did not agree: its answer is an ordinary one, and the connection's last. */
async function refuse(
  request: IncomingMessage,
  client: Duplex,
  call: UpstreamCall,
  answer: IncomingMessage,
  answered: Opened,
): Promise<void> {
  const response = lastResponse(request, client);
  answered(request, answer.statusCode!);
  try {
    await relay(answer, response, { holdsShort: false });
  } catch {
    call.request.destroy();
    client.destroy();
  }
}

function answerBroken(
  request: IncomingMessage,
  client: Duplex,
  { isReached, isTimeout }: Breakage,
  answered: Opened,
): void {
  if (client.destroyed) return;
  const status = isTimeout ? 504 : 502;
  const code = isReached ? "upstream-broken" : "upstream-unreachable";
  const detail = isReached
    ? "The service behind broke the exchange off"
    : "The service behind could not be reached";
  sendProblem(lastResponse(request, client), { status, code, detail });
  answered(request, status);
}

function lastResponse(request: IncomingMessage, client: Duplex): ServerResponse {
  const response = new ServerResponse(request);
  response.shouldKeepAlive = false;
  response.assignSocket(client as Socket);
  response.once("finish", () => client.end());
  return response;
}

/** Gives the connection back to the server, with the request as it is without the upgrade. */
function continueWithout(
  server: Server,
  request: IncomingMessage,
  socket: Duplex,
  rest: Buffer,
): void {
  const { method, url, httpVersion, rawHeaders } = request;
  const headers: string[] = [];
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
    const name = rawHeaders[i]!.toLowerCase();
    if (name === "upgrade" || name === "http2-settings" || name === "connection") continue;
    headers.push(rawHeaders[i]!, rawHeaders[i + 1]!);
  }
  const tokens = connectionTokens(rawHeaders).filter(
    (token) => token !== "" && token !== "upgrade" && token !== "http2-settings",
  );
  if (tokens.length > 0) headers.push("Connection", tokens.join(", "));
  const line = `${method} ${url} HTTP/${httpVersion}`;
  socket.unshift(Buffer.concat([headBytes(line, headers), rest]));
  // From here on it has the server's own; the next request may ask to upgrade again.
  socket.off("error", destroyed);
  server.emit("connection", socket);
}

function headBytes(line: string, headers: readonly string[]): Buffer {
  let head = `${line}\r\n`;
  for (let i = 0; i + 1 < headers.length; i += 2) head += `${headers[i]}: ${headers[i + 1]}\r\n`;
  return Buffer.from(`${head}\r\n`, "latin1");
}
