// The admin listener: dashboard, its JSON API, live events, metrics and health, on an address of its own.

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { Idempotency } from "semel";
import type { ListenAddress } from "../flags.ts";
import type { AccessLog, RequestLine } from "../gateway/access-log.ts";
import { listen } from "../gateway/listen.ts";
import type { OpenStore } from "../stores/open.ts";
import { isFile, SqliteReader } from "../stores/sqlite-reader.ts";
import { Access, type Refusal } from "./access.ts";
import { Activity } from "./activity.ts";
import { Api, refusalOf } from "./api.ts";
import { Assets } from "./assets.ts";
import { StoreCensus } from "./census.ts";
import type { QueuedBody, Session } from "./contract.ts";
import { bodyOf, Refused, sendJson, sendProblem, textIn } from "./exchange.ts";
import type { Health } from "./health.ts";
import { hear } from "./hearing.ts";
import { Live } from "./live.ts";
import { Metrics } from "./metrics.ts";

export interface AdminOptions {
  listen: ListenAddress;
  /** Which flag says so, for messages. */
  flag: string;
  token: string | undefined;
  open: OpenStore;
  idempotency: Idempotency;
  health: Health;
  about: NonNullable<Session["about"]>;
  log: AccessLog;
}

/** Nothing is loaded from elsewhere, nothing is inline, and no other page may frame it. */
const SECURITY_HEADERS = {
  "Content-Security-Policy":
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "X-Content-Type-Options": "nosniff",
  "X-Frame-Options": "DENY",
  "Referrer-Policy": "no-referrer",
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Cache-Control": "no-store",
} as const;

const UNADMITTED: Refusal = {
  status: 401,
  code: "token-needed",
  detail: "Send the admin token as a bearer, or log in",
};

type Answer = (query: URLSearchParams, request: IncomingMessage) => Promise<unknown>;

export class AdminListener {
  readonly #options: AdminOptions;
  readonly #access: Access;
  readonly #server: Server;
  readonly #assets: Assets;
  readonly #reader: SqliteReader | undefined;
  readonly #api: Api;
  readonly #live: Live;
  readonly #activity = new Activity();
  readonly #census: StoreCensus;
  readonly #metrics: Metrics;
  readonly #ends: (() => void)[] = [];

  /** @throws {Failure} when the dashboard's files are missing */
  constructor(options: AdminOptions) {
    const { open, idempotency, listen: address, token, about } = options;
    this.#options = options;
    this.#access = new Access(token, address);
    this.#assets = new Assets();
    const { version } = about;
    const hasThread = open.kind === "sqlite" && isFile(open.path);
    this.#reader = hasThread ? new SqliteReader(open.path, open.table) : undefined;
    const reading = this.#reader?.store ?? open.store;
    this.#census = new StoreCensus(reading);
    this.#api = new Api({ reading, idempotency, activity: this.#activity });
    this.#live = new Live(this.#activity, this.#census, reading);
    this.#metrics = new Metrics(this.#census, { version, store: reading.name });
    this.#server = createServer((request, response) => void this.#serve(request, response));
  }

  /** @returns its address, as a URL */
  async start(): Promise<string> {
    const address = await listen(this.#server, this.#options.listen, this.#options.flag);
    this.#ends.push(
      this.#activity.start(),
      this.#metrics.start(),
      this.#live.start(),
      this.#hearDecisions(),
    );
    return address;
  }

  /** A request that the gateway has answered. */
  readonly onRequest = (line: RequestLine): void => this.#metrics.request(line);

  async stop(): Promise<void> {
    for (const end of this.#ends.splice(0)) end();
    await this.#reader?.close();
    if (!this.#server.listening) return;
    await new Promise((resolve) => {
      this.#server.close(resolve);
      this.#server.closeAllConnections();
    });
  }

  /** For whoever wants to know later who decided what: in it is the record's id, and no key. */
  #hearDecisions(): () => void {
    return hear((event) => {
      if (event.type !== "decided") return;
      const { type, ...decided } = event;
      const { decision, id, answer } = decided;
      this.#options.log.note(type, `${decision} of record ${id}: ${answer}`, decided);
    });
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    response.on("error", () => response.destroy());
    for (const [name, value] of Object.entries(SECURITY_HEADERS)) response.setHeader(name, value);
    try {
      await this.#answer(request, response);
    } catch (error) {
      const refused = refusalOf(error);
      if (refused === undefined) this.#options.log.note("error", `error: ${String(error)}`);
      if (response.headersSent) return void response.destroy();
      // The rest of a body that nobody reads.
      if (!request.complete) response.setHeader("Connection", "close");
      const {
        status = 500,
        code = "failed",
        message = "It failed; the log says how",
      } = refused ?? {};
      sendProblem(response, status, { code, detail: message });
    }
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { pathname: path, searchParams } = targetOf(request);
    if (this.#options.health.answers(request, response)) return;
    refuse(this.#access.misdirected(request));
    if (this.#assets.answers(request, response, path)) return;
    if (path === "/-/api/session") return this.#session(request, response);
    if (path === "/-/api/login") return this.#logIn(request, response);
    if (!this.#access.isAdmitted(request)) {
      response.setHeader("WWW-Authenticate", 'Bearer realm="semel"');
      refuse(UNADMITTED);
    }
    const isChange = request.method === "POST";
    if (isChange) refuse(this.#access.forged(request));
    if (path === "/-/metrics") return this.#sendMetrics(response);
    if (path === "/-/api/events") return this.#watch(request, response);
    if (path === "/-/api/logout" && isChange) {
      response.setHeader("Set-Cookie", this.#access.logOut(request));
      return sendJson(response, 200, {});
    }
    const answer = (isChange ? this.#changes : this.#questions)[path];
    if (answer === undefined) throw new Refused(404, "no-such-path", "There is nothing here");
    sendJson(response, 200, await answer(searchParams, request));
  }

  readonly #questions: Record<string, Answer> = {
    "/-/api/overview": () => this.#live.overview(),
    "/-/api/records": (query) => this.#api.records(query),
    "/-/api/record": (query) => this.#api.record(query),
    "/-/api/result": (query) => this.#api.result(query),
    "/-/api/queue": (query) => this.#api.queue(query),
    "/-/api/queued": (query) => this.#api.queued(query),
    "/-/api/stats": () => this.#census.again(),
  };

  readonly #changes: Record<string, Answer> = {
    "/-/api/resolve": (_query, request) => this.#decide("resolve", request),
    "/-/api/void": (_query, request) => this.#decide("void", request),
    "/-/api/delete": (_query, request) => this.#decide("delete", request),
    "/-/api/revive": (_query, request) => this.#decideQueued("revive", request),
    "/-/api/remove": (_query, request) => this.#decideQueued("remove", request),
  };

  async #decide(decision: "resolve" | "void" | "delete", request: IncomingMessage) {
    const decided = await this.#api[decision](await bodyOf(request));
    // Whoever looks sees it in the numbers at once.
    if (decided.done) void this.#census.again();
    return decided;
  }

  async #decideQueued(decision: "revive" | "remove", request: IncomingMessage) {
    const body = await bodyOf(request);
    const decided = await this.#api[decision](body);
    const { kind, id } = body as unknown as QueuedBody;
    const answer = decided.done ? "done" : "refused";
    const text = `${decision} of ${kind} ${id}: ${answer}`;
    this.#options.log.note("decided", text, { decision, kind, id, answer });
    if (decided.done) void this.#census.again();
    return decided;
  }

  #session(request: IncomingMessage, response: ServerResponse): void {
    const admitted = this.#access.isAdmitted(request);
    const { about } = this.#options;
    const session: Session = {
      admitted,
      hasToken: this.#access.needsToken,
      ...(admitted && { about }),
    };
    sendJson(response, 200, session);
  }

  async #logIn(request: IncomingMessage, response: ServerResponse): Promise<void> {
    if (request.method !== "POST") throw new Refused(405, "method", "Use POST");
    refuse(this.#access.forged(request));
    const cookie = this.#access.logIn(textIn(await bodyOf(request), "token"), request);
    if (cookie === undefined) throw new Refused(401, "token-wrong", "This is not the token");
    response.setHeader("Set-Cookie", cookie);
    sendJson(response, 200, {});
  }

  async #sendMetrics(response: ServerResponse): Promise<void> {
    const text = await this.#metrics.text();
    response.writeHead(200, { "Content-Type": this.#metrics.contentType });
    response.end(text);
  }

  #watch(request: IncomingMessage, response: ServerResponse): void {
    if (request.method !== "GET") throw new Refused(405, "method", "Use GET");
    if (this.#live.watch(response)) return;
    throw new Refused(503, "too-many", "Too many are watching; close a page");
  }
}

/** @throws {Refused} when it is none, such as `//[` */
function targetOf({ url = "/" }: IncomingMessage): URL {
  if (URL.canParse(url, "http://admin")) return new URL(url, "http://admin");
  throw new Refused(400, "target-invalid", "The request's target is no path");
}

function refuse(refusal: Refusal | undefined): void {
  if (refusal) throw new Refused(refusal.status, refusal.code, refusal.detail);
}
