// The exchanges with clients that are going on: what a stop waits for, and what bounds clients that
// send too slowly or more than anybody will read.

import type { IncomingMessage, Server, ServerResponse } from "node:http";
import { Server as NetServer, type Socket } from "node:net";
import type { Duplex } from "node:stream";
import { setTimeout as delay } from "node:timers/promises";
import { isWhole } from "./framing.ts";

/** How long a client may go on sending what nobody reads, after its answer. */
const LINGER_MS = 5_000;
/** How long idle connections stay open after a stop has begun. */
const IDLE_GRACE_MS = 500;

/** One that is going on, and which it is of all. */
interface Exchange {
  readonly response: ServerResponse;
  readonly number: number;
}

export class Exchanges {
  readonly #server: Server;
  /**
   * With gaps. Not a `Set`: once a table of one lies in V8's old generation, all that passes through
   * those that take its place outlives its use, and the collector moves it about.
   */
  readonly #running: (Exchange | undefined)[] = [];
  readonly #gaps: number[] = [];
  /** A connection comes anew when it goes on without an upgrade. */
  readonly #connections = new WeakSet<Socket>();
  #begun = 0;
  #isStopping = false;
  #idle: (() => void) | undefined;

  constructor(server: Server) {
    this.#server = server;
    server.on("connection", (socket) => {
      if (this.#connections.has(socket)) return;
      this.#connections.add(socket);
      socket.once("close", () => this.#closed(socket));
    });
    // Left to itself, Node would cut whatever goes on.
    server.on("timeout", (socket) => this.#timedOut(socket));
  }

  /** @param uploadIdleMs how long the client may pause while it sends a body */
  begin(request: IncomingMessage, response: ServerResponse, uploadIdleMs: number): void {
    const place = this.#gaps.pop() ?? this.#running.length;
    this.#running[place] = { response, number: this.#begun++ };
    if (this.#isStopping) response.shouldKeepAlive = false;
    // Most bodies have come with their heads, and show when those have been read.
    process.nextTick(() => boundUpload(request, response, uploadIdleMs));
    response.once("close", () => {
      this.#running[place] = undefined;
      this.#gaps.push(place);
      if (this.#isIdle) this.#idle?.();
    });
  }

  /**
   * Ends a connection when the answers that are under way on it have been sent: what followed them
   * cannot be answered out of turn.
   *
   * @returns false when there are none
   */
  endAfterAnswers(socket: Duplex): boolean {
    const underWay = this.#responsesOn(socket);
    const last = underWay.at(-1);
    if (last && !last.headersSent) last.shouldKeepAlive = false;
    let left = underWay.length;
    for (const response of underWay) {
      response.once("close", () => {
        left--;
        if (left === 0) socket.end();
      });
    }
    return left > 0;
  }

  /**
   * Stops listening. Connections that are idle stay open for a moment: on one that closes just now, a
   * client may be sending its next request. What comes is served, and told that it is the last.
   *
   * @returns when nothing goes on any more, or after `deadlineMs`
   */
  async end(deadlineMs: number): Promise<void> {
    this.#isStopping = true;
    NetServer.prototype.close.call(this.#server);
    for (const response of this.#responses) {
      if (!response.headersSent) response.shouldKeepAlive = false;
    }
    if (await this.#hasConnections()) await delay(Math.min(IDLE_GRACE_MS, deadlineMs));
    this.#server.closeIdleConnections();
    if (this.#isIdle) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, deadlineMs);
      this.#idle = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  get #isIdle(): boolean {
    return this.#gaps.length === this.#running.length;
  }

  /** Of responses that wait for their turn, Node does not say that nobody waits for them any more. */
  #closed(socket: Socket): void {
    for (const response of this.#responsesOn(socket)) {
      if (response.socket === null && !response.writableFinished) response.emit("close");
    }
  }

  /** A connection that is idle has been kept for long enough, and an upload has stopped. */
  #timedOut(socket: Socket): void {
    const responses = this.#responsesOn(socket);
    const isAnswering = responses.length > 0 && responses.every(({ req }) => req.complete);
    if (!isAnswering) socket.destroy();
  }

  #responsesOn(socket: Duplex): ServerResponse[] {
    return inOrder(this.#running.filter((one) => one?.response.req.socket === socket));
  }

  get #responses(): ServerResponse[] {
    return inOrder(this.#running);
  }

  #hasConnections(): Promise<boolean> {
    return new Promise((resolve) => {
      this.#server.getConnections((_error, count) => resolve(count > 0));
    });
  }
}

/** In the order in which they began. */
function inOrder(running: readonly (Exchange | undefined)[]): ServerResponse[] {
  const present = running.filter((one) => one !== undefined);
  return present.sort((a, b) => a.number - b.number).map(({ response }) => response);
}

function boundUpload(
  request: IncomingMessage,
  response: ServerResponse,
  uploadIdleMs: number,
): void {
  const { socket } = request;
  if (isWhole(request) || response.destroyed) return;
  // It stays, because the next request may be coming already. `Exchanges` looks what goes on when it has
  // passed, and Node sets another one when the connection becomes idle.
  socket.setTimeout(uploadIdleMs);
  response.once("finish", () => {
    if (request.complete) return;
    setTimeout(() => request.complete || socket.destroy(), LINGER_MS).unref();
  });
}
