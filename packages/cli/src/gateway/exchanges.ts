// The exchanges with clients that are going on: what a stop waits for, and what bounds clients that
// send too slowly or more than anybody will read.

import type { IncomingMessage, Server, ServerResponse } from "node:http";

/** How long a client may go on sending what nobody reads, after its answer. */
const LINGER_MS = 5_000;

export class Exchanges {
  readonly #server: Server;
  readonly #uploadIdleMs: number;
  readonly #running = new Set<ServerResponse>();
  #isStopping = false;
  #idle: (() => void) | undefined;

  constructor(server: Server, options: { uploadIdleMs: number }) {
    this.#server = server;
    this.#uploadIdleMs = options.uploadIdleMs;
  }

  begin(request: IncomingMessage, response: ServerResponse): void {
    this.#running.add(response);
    if (this.#isStopping) response.shouldKeepAlive = false;
    this.#boundUpload(request, response);
    response.once("close", () => {
      this.#running.delete(response);
      if (this.#running.size === 0) this.#idle?.();
    });
  }

  /** Stops listening. @returns when nothing goes on any more, or after `deadlineMs` */
  async end(deadlineMs: number): Promise<void> {
    this.#isStopping = true;
    this.#server.close();
    for (const response of this.#running) {
      if (!response.headersSent) response.shouldKeepAlive = false;
    }
    if (this.#running.size === 0) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, deadlineMs);
      this.#idle = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  #boundUpload(request: IncomingMessage, response: ServerResponse): void {
    const { socket } = request;
    if (request.complete) return;
    const onTimeout = () => {
      if (!request.complete) socket.destroy();
    };
    socket.setTimeout(this.#uploadIdleMs, onTimeout);
    response.once("finish", () => {
      if (request.complete) return;
      setTimeout(onTimeout, LINGER_MS).unref();
    });
    response.once("close", () => {
      socket.off("timeout", onTimeout);
      socket.setTimeout(0);
    });
  }
}
