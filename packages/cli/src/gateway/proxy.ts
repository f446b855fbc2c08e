// The gateway: a reverse proxy whose keyed requests go through the library's HTTP layer.

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { Idempotency, type Store } from "semel";
import type { Health } from "../admin/health.ts";
import type { AccessLog } from "./access-log.ts";
import { Audit } from "./audit.ts";
import type { KeySets } from "./callers/callers.ts";
import { keepingDecisions, longestRetentionMs } from "./decisions.ts";
import { Exchanges } from "./exchanges.ts";
import { setClientHost } from "./forward.ts";
import { ambiguityOf, targetOf } from "./framing.ts";
import { listen } from "./listen.ts";
import type { GatewayOptions } from "./options.ts";
import { type Problem, sendProblem } from "./problem.ts";
import { Routes } from "./routes.ts";
import { Tunnels } from "./tunnel.ts";

/** Longer than load balancers keep idle connections, so that they are the ones to close them. */
const KEEP_ALIVE_MS = 75_000;

/** What the library takes at most; how much is kept is a route's to say. */
export const RESULT_BYTES_MAX = 2 ** 30;

export class Gateway {
  readonly #log: AccessLog;
  readonly #health: Health;
  readonly #idempotency: Idempotency;
  readonly #keySets: KeySets = new Map();
  readonly #server: Server;
  readonly #exchanges: Exchanges;
  readonly #tunnels: Tunnels;
  /** What it would have stopped, in audit mode (GW-6). */
  readonly audit: Audit;
  #routes: Routes;
  /** Connections on which something ambiguous came. */
  readonly #distrusted = new WeakSet<Socket>();

  /** @throws {InvalidOption} when an option is out of bounds */
  constructor(store: Store, options: GatewayOptions, log: AccessLog, health: Health) {
    this.#log = log;
    this.#health = health;
    this.#idempotency = new Idempotency({
      store: keepingDecisions(store, () => longestRetentionMs(this.options)),
      maxResultBytes: RESULT_BYTES_MAX,
    });
    this.audit = new Audit(this.#idempotency, log);
    this.#routes = this.#routesOf(options);
    this.#server = createServer({
      insecureHTTPParser: false,
      // Refused with everything else that is ambiguous, and so with what follows it.
      requireHostHeader: false,
      keepAliveTimeout: KEEP_ALIVE_MS,
      // A long upload is fine as long as it moves; `Exchanges` sees to that.
      requestTimeout: 0,
      headersTimeout: 60_000,
    });
    // Beyond 1,000 lines Node would drop the rest of a head without a word, and with it what frames
    // the body, names the key or the caller; what bounds a head is its size.
    this.#server.maxHeadersCount = 0;
    this.#exchanges = new Exchanges(this.#server);
    this.#tunnels = new Tunnels(() => this.#routes.passage);
  }

  /** The one whose cache replays. */
  get idempotency(): Idempotency {
    return this.#idempotency;
  }

  /** What it serves by. */
  get options(): GatewayOptions {
    return this.#routes.options;
  }

  /**
   * Serves by other options from the next request on; where it listens stays as it is.
   *
   * @throws {InvalidOption} when one is out of bounds; nothing changes then
   */
  reload(options: GatewayOptions): void {
    const before = this.#routes;
    this.#routes = this.#routesOf(options);
    before.retire();
  }

  /** @returns the gateway's address, as a URL */
  async start(): Promise<string> {
    const server = this.#server;
    server.on("request", (request, response) => this.#serve(request, response));
    server.on("checkContinue", (request, response) => {
      if (this.#wantsBody(request)) response.writeContinue();
      this.#serve(request, response);
    });
    server.on("connect", (_request, socket) => {
      socket.on("error", () => socket.destroy());
      if (this.#exchanges.endAfterAnswers(socket)) return;
      socket.end(
        "HTTP/1.1 405 Method Not Allowed\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
      );
    });
    this.#tunnels.serve(server, this.#exchanges, (request, status) => {
      this.#log.request(request, { status, durationMs: 0 });
    });
    return listen(server, this.options.listen);
  }

  /**
   * Stops listening, lets what runs end, and cuts what is left at the deadline.
   *
   * @returns how many operations were cut; their leases are left to lapse
   */
  async stop(deadlineMs: number): Promise<number> {
    const startedAt = performance.now();
    this.#health.stopping();
    await this.#exchanges.end(deadlineMs);
    this.#tunnels.close();
    // Operations whose clients have left are still at work.
    const leftMs = Math.max(0, deadlineMs - (performance.now() - startedAt));
    const cut = await this.#idempotency.close({ deadline: leftMs });
    this.#server.closeAllConnections();
    this.#routes.retire();
    return cut;
  }

  #serve(request: IncomingMessage, response: ServerResponse): void {
    if (this.#distrusted.has(request.socket)) return;
    const routes = this.#routes;
    // The upstream's silence is noticed first when it is what holds the upload up.
    this.#exchanges.begin(request, response, routes.silenceMsMax + 1_000);
    if (this.#health.answers(request, response)) return;
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
    routes.serve(request, response).catch((error) => this.#failed(response, error));
  }

  /** What nobody foresaw: told to whoever runs the gateway, and to the client as little as can be. */
  #failed(response: ServerResponse, error: unknown): void {
    this.#log.note("error", `error: ${String(error)}`);
    if (response.headersSent) response.destroy();
    else
      sendProblem(response, { status: 500, code: "gateway-failed", detail: "The gateway failed" });
  }

  #routesOf(options: GatewayOptions): Routes {
    const { audit } = this;
    return new Routes(options, {
      ...{ idempotency: this.#idempotency, keySets: this.#keySets },
      ...{ log: this.#log, audit },
    });
  }

  /** Whether it is not known yet that the request will be refused, so that its body may come. */
  #wantsBody(request: IncomingMessage): boolean {
    if (this.#distrusted.has(request.socket)) return false;
    if (ambiguityOf(request) !== undefined || targetOf(request) === undefined) return false;
    return this.#routes.mayHaveBody(request, Number(request.headers["content-length"] ?? 0));
  }
}

const BAD_TARGET: Problem = {
  status: 400,
  code: "request-ambiguous",
  detail: "The request target must be a path, an http URL, or * with OPTIONS",
};
