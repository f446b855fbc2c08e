// The service behind: opens requests to it, and tells a service that was never reached from an
// exchange that broke off (GW-3a).

import type { IncomingMessage } from "node:http";
import { type ClientRequest, Agent as HttpAgent, request as httpRequest } from "node:http";
import { Agent as HttpsAgent, request as httpsRequest } from "node:https";

/**
 * Below the shortest time that common servers keep idle connections for, so that requests seldom
 * meet one that is just being closed.
 */
const IDLE_MS = 1_000;

export interface UpstreamRequest {
  method: string;
  /** Path and query, or `*`. */
  path: string;
  /** Names and values in turn, framing included. */
  headers: string[];
}

export class Upstream {
  readonly origin: URL;
  readonly timeoutMs: number;
  readonly #agent: HttpAgent;

  constructor(origin: URL, timeoutMs: number) {
    this.origin = origin;
    this.timeoutMs = timeoutMs;
    const options = { keepAlive: true, timeout: IDLE_MS };
    this.#agent = this.#isTls ? new HttpsAgent(options) : new HttpAgent(options);
  }

  get #isTls(): boolean {
    return this.origin.protocol === "https:";
  }

  /**
   * Begins a request. Its body is still to be written.
   *
   * @param connection `"fresh"` for requests whose outcome must be known: a kept connection may be
   * closed by the other side in the moment it is used, and then nobody knows who read what
   */
  open(head: UpstreamRequest, connection: "fresh" | "kept"): UpstreamCall {
    const { protocol, hostname, port } = this.origin;
    const send = this.#isTls ? httpsRequest : httpRequest;
    const request = send({
      protocol,
      // `URL` writes IPv6 addresses in brackets, sockets want them bare.
      hostname: hostname.replace(/^\[(.*)\]$/, "$1"),
      port,
      ...head,
      agent: connection === "fresh" ? false : this.#agent,
      timeout: this.timeoutMs,
    });
    return new UpstreamCall(request, this.timeoutMs, this.#isTls ? "secureConnect" : "connect");
  }

  /** Closes idle connections. */
  close(): void {
    this.#agent.destroy();
  }
}

/** How an exchange came to nothing. */
export interface Breakage {
  /** False: not a byte of the request can have been read, which proves that nothing happened. */
  isReached: boolean;
  isTimeout: boolean;
  message: string;
}

/** One exchange with the upstream. */
export class UpstreamCall {
  readonly request: ClientRequest;
  /** The head of the final answer. */
  readonly answer: Promise<IncomingMessage>;
  #isReached = false;
  #isTimeout = false;

  constructor(request: ClientRequest, timeoutMs: number, connected: "connect" | "secureConnect") {
    this.request = request;
    request.once("socket", (socket) => {
      if (request.reusedSocket) this.#isReached = true;
      else socket.once(connected, () => (this.#isReached = true));
    });
    request.once("timeout", () => {
      this.#isTimeout = true;
      request.destroy(new Error(`silent for ${timeoutMs} ms`));
    });
    this.answer = new Promise((resolve, reject) => {
      request.once("response", resolve);
      request.on("error", reject);
      request.once("close", () => reject(new Error("closed without an answer")));
    });
    // Whoever waits hears of it; whoever has stopped waiting need not.
    this.answer.catch(() => {});
  }

  breakage(error: unknown): Breakage {
    const { message = String(error), code } = error as { message?: string; code?: string };
    return {
      isReached: this.#isReached,
      isTimeout: this.#isTimeout,
      // Several addresses were tried in vain: the error of errors has a code, but no message.
      message: message || code || "unknown error",
    };
  }
}
