// The service behind: opens requests to it, and tells a service that was never reached from an
// exchange that broke off (GW-3a).

import { ClientRequest, type IncomingMessage } from "node:http";
import { setImmediate as nextTurn } from "node:timers/promises";
import { type Connection, Connections, type ConnectionWish, Silence } from "./connections.ts";

/** What is below is no final answer (RFC 9110 §15.2); Node takes a 101 for one that agrees to nothing. */
const FINAL_MIN = 200;

export interface UpstreamRequest {
  method: string;
  /** Path and query, or `*`. */
  path: string;
  /** Names and values in turn, framing included. */
  headers: string[];
}

/** How a request is connected. */
export interface Connecting {
  /**
   * A kept connection may be closed by the other side in the moment it is used, and then nobody knows
   * who read what.
   */
  connection: "fresh" | "kept";
  /** How long the upstream may be silent. */
  silenceMs: number;
}

export class Upstream {
  readonly origin: URL;
  readonly #connections: Connections;

  constructor(origin: URL) {
    this.origin = origin;
    this.#connections = new Connections(origin);
  }

  /** Begins a request. Its body is still to be written. */
  open(head: UpstreamRequest, connecting: Connecting): UpstreamCall {
    return new UpstreamCall(this.#connections, this.origin.protocol, head, connecting);
  }

  /**
   * How a request whose outcome must be known is to be connected. A kept connection will do where the
   * upstream is known to keep them; whether it has closed one shows when the event loop has looked
   * around, which it has when this resolves. Restarting, an upstream loses requests on fresh
   * connections as well, in the moment between their being made and being accepted.
   */
  async connectionForOperation(): Promise<Connecting["connection"]> {
    if (!this.#connections.areTrusted) return "fresh";
    await nextTurn();
    return this.#connections.areTrusted ? "kept" : "fresh";
  }

  /** Closes connections as soon as they are idle. */
  close(): void {
    this.#connections.destroy();
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
export class UpstreamCall implements ConnectionWish {
  readonly isFresh: boolean;
  readonly silenceMs: number;
  readonly request: ClientRequest;
  /** The head of the final answer. */
  readonly answer: Promise<IncomingMessage>;
  #connection: Connection | undefined;
  #isTimeout = false;

  constructor(
    agent: Connections,
    protocol: string,
    { method, path, headers }: UpstreamRequest,
    { connection, silenceMs }: Connecting,
  ) {
    this.isFresh = connection === "fresh";
    this.silenceMs = silenceMs;
    const options = { method, path, headers, agent, protocol, wish: this };
    const request = new ClientRequest(options as unknown as string);
    this.request = request;
    // As for the client's head: what is not read could not be passed on.
    request.maxHeadersCount = 0;
    this.answer = new Promise((resolve, reject) => {
      let isAnswered = false;
      request.on("response", (answer) => {
        isAnswered = true;
        if (answer.statusCode! >= FINAL_MIN) return resolve(answer);
        reject(new Error(`its answer has status ${answer.statusCode}, which ends no exchange`));
        request.destroy();
      });
      request.on("error", (error) => {
        this.#isTimeout ||= error instanceof Silence;
        reject(error);
      });
      request.on("close", () => {
        // An error costs more to make than all the rest of this.
        if (!isAnswered) reject(new Error("closed without an answer"));
      });
    });
    // Whoever waits hears of it; whoever has stopped waiting need not.
    this.answer.catch(ignored);
  }

  connected(connection: Connection): void {
    this.#connection = connection;
  }

  breakage(error: unknown): Breakage {
    const { message = String(error), code } = error as { message?: string; code?: string };
    return {
      isReached: this.#connection?.isEstablished ?? false,
      isTimeout: this.#isTimeout,
      // Several addresses were tried in vain: the error of errors has a code, but no message.
      message: message || code || "unknown error",
    };
  }
}

function ignored(): void {}
