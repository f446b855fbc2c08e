// The gateway: a reverse proxy whose keyed requests go through the library's HTTP layer.

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { Idempotency, type Store } from "semel";
import { idempotent, operationOf } from "semel/node";
import type { AccessLog } from "./access-log.ts";
import { Exchanges } from "./exchanges.ts";
import { forwardOperation, forwardPlain, setClientHost } from "./forward.ts";
import { ambiguityOf, targetOf } from "./framing.ts";
import { fieldLines } from "./headers.ts";
import { listen } from "./listen.ts";
import type { GatewayOptions } from "./options.ts";
import { type Problem, sendProblem } from "./problem.ts";
import { scopeOf } from "./scope.ts";
import { Tunnels } from "./tunnel.ts";
import { Upstream } from "./upstream.ts";

/** Longer than load balancers keep idle connections, so that they are the ones to close them. */
const KEEP_ALIVE_MS = 75_000;

type Handler = (request: IncomingMessage, response: ServerResponse) => Promise<void>;

export class Gateway {
  readonly #options: GatewayOptions;
  readonly #log: AccessLog;
  readonly #idempotency: Idempotency;
  readonly #upstream: Upstream;
  readonly #server: Server;
  readonly #exchanges: Exchanges;
  readonly #tunnels: Tunnels;
  readonly #handle: Handler;
  /** Connections on which something ambiguous came. */
  readonly #distrusted = new WeakSet<Socket>();

  /** @throws {InvalidOption} when an option is out of bounds */
  constructor(store: Store, options: GatewayOptions, log: AccessLog) {
    this.#options = options;
    this.#log = log;
    this.#idempotency = new Idempotency({
      store,
      retention: options.retentionMs,
      lease: options.leaseMs,
      wait: options.waitMs,
      onCrash: options.onCrash,
      onError: options.onError,
      maxResultBytes: options.resultBytesMax,
    });
    this.#upstream = new Upstream(options.upstream, options.upstreamTimeoutMs);
    this.#handle = this.#handler();
    this.#server = createServer({
      insecureHTTPParser: false,
      // Refused with everything else that is ambiguous, and so with what follows it.
      requireHostHeader: false,
      keepAliveTimeout: KEEP_ALIVE_MS,
      // A long upload is fine as long as it moves; `Exchanges` sees to that.
      requestTimeout: 0,
      headersTimeout: 60_000,
    });
    this.#exchanges = new Exchanges(this.#server, {
      // The upstream's silence is noticed first when it is what holds the upload up.
      uploadIdleMs: options.upstreamTimeoutMs + 1_000,
    });
    this.#tunnels = new Tunnels(this.#upstream, options);
  }

  /** @returns the gateway's address, as a URL */
  async start(): Promise<string> {
    const server = this.#server;
    server.on("request", (request, response) => this.#serve(request, response));
    server.on("checkContinue", (request, response) => {
      if (!this.#isTooLarge(request)) response.writeContinue();
      this.#serve(request, response);
    });
    server.on("connect", (_request, socket) => {
      socket.on("error", () => socket.destroy());
      socket.end(
        "HTTP/1.1 405 Method Not Allowed\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
      );
    });
    this.#tunnels.serve(server, (request, status) => {
      this.#log.request(request, { status, durationMs: 0 });
    });
    return listen(server, this.#options.listen);
  }

  /**
   * Stops listening, lets what runs end, and cuts what is left at the deadline.
   *
   * @returns how many operations were cut; their leases are left to lapse
   */
  async stop(deadlineMs: number): Promise<number> {
    const startedAt = performance.now();
    await this.#exchanges.end(deadlineMs);
    this.#tunnels.close();
    // Operations whose clients have left are still at work.
    const leftMs = Math.max(0, deadlineMs - (performance.now() - startedAt));
    const cut = await this.#idempotency.close({ deadline: leftMs });
    this.#server.closeAllConnections();
    this.#upstream.close();
    return cut;
  }

  #serve(request: IncomingMessage, response: ServerResponse): void {
    if (this.#distrusted.has(request.socket)) return;
    this.#exchanges.begin(request, response);
    this.#log.watch(request, response);
    const target = targetOf(request);
    const problem = ambiguityOf(request) ?? (target ? undefined : BAD_TARGET);
    if (problem !== undefined || target === undefined) {
      // What follows on this connection, or has come already, cannot be trusted either.
      this.#distrusted.add(request.socket);
      response.shouldKeepAlive = false;
      sendProblem(response, problem ?? BAD_TARGET);
      return;
    }
    request.url = target.path;
    setClientHost(request, target.host);
    void this.#handle(request, response);
  }

  #handler(): Handler {
    const { scope, methods, required, bodyBytesMax } = this.#options;
    const upstream = this.#upstream;
    return idempotent(
      this.#idempotency,
      {
        scope: scopeOf(scope),
        methods,
        required,
        maxBodyBytes: bodyBytesMax,
        reportError: (error) => this.#log.note("error", `error: ${String(error)}`),
      },
      (request, response) => {
        const operation = operationOf(request);
        return operation
          ? forwardOperation(request, response, operation, upstream, this.#options)
          : forwardPlain(request, response, upstream, this.#options);
      },
    );
  }

  /** Whether the HTTP layer will refuse the body, so that it need not be sent at all. */
  #isTooLarge(request: IncomingMessage): boolean {
    const isKeyed = fieldLines(request.rawHeaders, "idempotency-key").length > 0;
    const length = Number(request.headers["content-length"] ?? 0);
    return isKeyed && length > this.#options.bodyBytesMax;
  }
}

const BAD_TARGET: Problem = {
  status: 400,
  code: "request-ambiguous",
  detail: "The request target must be a path, an http URL, or * with OPTIONS",
};
