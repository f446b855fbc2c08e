// Fastify 4 and 5. A payload that Fastify has serialised is recorded in `onSend`, before anything is
// written; streams, and what a handler writes to `reply.raw`, are captured where their bytes are written.

import { EventEmitter } from "node:events";
import {
  type IncomingHttpHeaders,
  type IncomingMessage,
  type ServerResponse,
  validateHeaderName,
  validateHeaderValue,
} from "node:http";
import type { Readable } from "node:stream";
import type { Idempotency } from "../engine/idempotency.ts";
import { BodyTooLarge, InvalidOption, NotApplied, StoreUnavailable } from "../errors.ts";
import type { Body } from "../http/body-fingerprint.ts";
import { Exchange, HttpLayer, type HttpOperation } from "../http/exchange.ts";
import {
  bodyLeft,
  discardBody,
  hasBody,
  hasLeft,
  isConsumed,
  peekBody,
} from "../http/node-body.ts";
import { captureResponse } from "../http/node-capture.ts";
import { headerLines } from "../http/node-exchange.ts";
import { assertSendableReason, isBeyondAscii } from "../http/node-headers.ts";
import { answerInTransaction } from "../http/node-transactional.ts";
import { operationOf as operationOfMessage, setOperation } from "../http/operation-of.ts";
import { type HttpOptions, laidOver } from "../http/options.ts";
import { eachField, type HttpResponse } from "../http/response.ts";
import { transactionalLayer } from "../http/transactional.ts";
import { turnEnd } from "../http/turn.ts";
import { assertOneOf } from "../options.ts";

export type { HttpOperation } from "../http/exchange.ts";
export type { HttpOptions } from "../http/options.ts";
export { httpResult } from "../http/response.ts";

/**
 * What is used of Fastify's request; both majors have it. Name your own type, as in
 * `idempotent<FastifyRequest>`, to have what your decorators add checked.
 */
export interface FastifyRequestLike {
  raw: IncomingMessage;
  method: string;
  originalUrl: string;
  headers: IncomingHttpHeaders;
  body: unknown;
  // biome-ignore lint/suspicious/noExplicitAny: what plugins add, such as `request.user`, is unknown here
  [property: string]: any;
}

/** Options of the plugin: those of every framework, the engine, and where in a request it stands. */
export interface FastifyOptions<Request = FastifyRequestLike> extends HttpOptions<Request> {
  idempotency: Idempotency;
  /**
   * Where keys are looked up. `"preHandler"` comes last, so that all that authenticates has had its
   * say before an answer is replayed; a request that fails its schema is refused before and is not
   * recorded. `"preValidation"` comes before the schema: its 400 is the operation's result, and a
   * stored answer is replayed even where the schema has changed since.
   *
   * @default "preHandler"
   */
  hook?: Stage | undefined;
}

/**
 * `config.idempotency` of a route: options that take the place of the plugin's, or `false` for a route
 * that keeps no keys.
 */
export type RouteIdempotency<Request = FastifyRequestLike> =
  | false
  | Partial<FastifyOptions<Request>>;

type Stage = "preHandler" | "preValidation";
type Done = (error?: unknown, payload?: unknown) => void;
// biome-ignore lint/suspicious/noExplicitAny: hooks of every kind
type Hook = (...given: any[]) => void;

interface Reply {
  readonly raw: ServerResponse;
  readonly statusCode: number;
  readonly sent: boolean;
  code(status: number): unknown;
  header(name: string, value: unknown): unknown;
  removeHeader(name: string): unknown;
  getHeaders(): Record<string, unknown>;
  send(): unknown;
}

/** The options of a route as `onRoute` hooks see and change them. */
type RouteOptions = { method: string | string[]; url: string; config?: object } & Partial<
  Record<Stage | "preParsing", Hook | Hook[]>
>;

/** What is used of a Fastify instance. */
interface Instance {
  // biome-ignore lint/suspicious/noExplicitAny: overloaded for every hook, differently in each major
  addHook(name: any, hook: any): unknown;
}

/**
 * A Fastify plugin that makes routes idempotent: those declared after it, in the context that
 * registers it and in the contexts below. Await it, and register it after what authenticates. Where
 * one is registered in a context and another further out, the inner one decides.
 *
 * @throws {InvalidOption} when an option is unknown or out of bounds, as a rejection of `register`;
 * for the options of a route, when the route is declared
 * @example
 * await app.register(idempotent, { idempotency, scope: (request) => request.user.accountId });
 * app.post("/charges", handler);
 * app.post("/search", { config: { idempotency: false } }, handler);
 */
export function idempotent<Request>(
  instance: Instance,
  options: FastifyOptions<Request>,
  done: (error?: Error) => void,
): void;
export function idempotent(
  instance: Instance,
  options: FastifyOptions,
  done: (error?: Error) => void,
): void;
export function idempotent(
  instance: Instance,
  options: FastifyOptions<never>,
  done: (error?: Error) => void,
): void {
  assertRegistered(done);
  try {
    const guard = new Guard(options as FastifyOptions<unknown>);
    instance.addHook("onRoute", (route: RouteOptions) => guard.add(route));
    instance.addHook("preParsing", guard.refuseEarlierRoute);
    instance.addHook("onSend", onSend);
    instance.addHook("onError", onError);
    done();
  } catch (error) {
    done(error as Error);
  }
}

Object.assign(idempotent, {
  // Its hooks are for the context that registers it, not for one of its own.
  [Symbol.for("skip-override")]: true,
  [Symbol.for("fastify.display-name")]: "semel",
  [Symbol.for("plugin-meta")]: { name: "semel", fastify: "4.x || 5.x" },
});

/**
 * The operation that a request is, when it carries a key and runs (HTTP-15).
 *
 * @example operationOf(request)?.signal.throwIfAborted();
 */
export function operationOf(request: { readonly raw: object }): HttpOperation | undefined {
  return operationOfMessage(request.raw);
}

/**
 * A handler whose writes and whose response are one database transaction (HTTP-16): the response is
 * stored in it, and leaves after the commit. A handler that throws, and a response that is not stored,
 * roll it back; when the database asks for it, a handler that has not answered yet is called again. A
 * request without a key runs in a transaction as well, unrecorded. The route takes no part in the
 * plugin, which may be registered or not.
 *
 * @param handler is given the store's own transaction: a `pg` client, a `mysql2` connection, …; it
 * returns the payload, or sends it
 * @throws {InvalidOption} when an option is wrong, or the store has no transactions
 * @example
 * app.post("/orders", transactional(idempotency, { scope }, async (request, reply, client) => {
 *   await client.query("INSERT INTO orders (sku) VALUES ($1)", [request.body.sku]);
 *   return reply.code(201).send({ sku: request.body.sku });
 * }));
 */
export function transactional<
  Transaction,
  Request extends FastifyRequestLike,
  Response extends FastifyReplyLike,
>(
  idempotency: Idempotency<Transaction>,
  options: HttpOptions<Request>,
  handler: (request: Request, reply: Response, transaction: Transaction) => unknown,
): (request: Request, reply: Response) => Promise<Response> {
  const layer = transactionalLayer(idempotency, options, handler);
  return async (request, reply) => {
    const facts = {
      request,
      target: request.originalUrl,
      // Fastify has none to give where nothing parsed the body.
      parsedBody: () => request.body,
    };
    const run = async (transaction: Transaction) => {
      const payload = await handler(request, reply, transaction);
      if (payload !== undefined && payload !== reply && !reply.sent) reply.send(payload);
    };
    await answerInTransaction(layer, request.raw, reply.raw, facts, run, {
      assertRepeatable: () => assertUnsent(reply),
    });
    return reply;
  };
}

/** Fastify sends a reply once. */
function assertUnsent(reply: FastifyReplyLike): void {
  if (!reply.sent) return;
  throw new StoreUnavailable(
    "The database asked for the transaction to be repeated, and the handler has sent its reply already. Nothing was committed: try again",
  );
}

/** What is used of Fastify's reply; both majors have it. */
export interface FastifyReplyLike {
  readonly raw: ServerResponse;
  readonly sent: boolean;
  send(payload?: unknown): unknown;
}

/** One registration of the plugin. */
class Guard {
  readonly #options: FastifyOptions<unknown>;
  readonly #layer: Layer;

  constructor(options: FastifyOptions<unknown>) {
    this.#options = options;
    this.#layer = layerOf(options);
  }

  add(route: RouteOptions): void {
    const own = (route.config as RouteConfig | undefined)?.idempotency;
    route.config = { ...route.config, [SEEN]: true };
    for (const stage of ["preParsing", "preValidation", "preHandler"] as const) {
      // Of a registration further out: this one decides.
      if (route[stage]) route[stage] = [route[stage]].flat().filter((hook) => !ours.has(hook));
    }
    if (own === false) return;
    const options = laidOver(this.#options, own ?? {});
    const layer = own === undefined ? this.#layer : layerOf(options);
    if (![route.method].flat().some((method) => layer.policy.methods.has(method))) return;
    // First to see the body, last to let the handler run.
    const { hook = "preHandler" } = options;
    route.preParsing = [collectBody(layer), ...[route.preParsing ?? []].flat()];
    route[hook] = [...[route[hook] ?? []].flat(), admit(layer)];
  }

  /** A route that hooks came too late for must not run as if there were no key. */
  readonly refuseEarlierRoute = (
    request: FastifyRequestLike,
    _reply: Reply,
    _payload: Readable,
    done: Done,
  ) => {
    if (!mayCarryKey(this.#layer, request) || request["is404"]) return done();
    const { config, url } = request["routeOptions"];
    if (SEEN in config || config.idempotency === false) return done();
    done(
      new InvalidOption(
        `${request.method} ${url} was declared before the plugin of semel/fastify had loaded, so it keeps no keys: write \`await app.register(idempotent, …)\` before the route, or give it \`config: { idempotency: false }\``,
      ),
    );
  };
}

/** The other adapters are called; this one would be a function that nobody calls. */
function assertRegistered(done: unknown): void {
  if (typeof done === "function") return;
  throw new InvalidOption(
    "idempotent() of semel/fastify is a plugin: `await app.register(idempotent, { idempotency, scope })`",
  );
}

type Layer = HttpLayer<unknown>;
type RouteConfig = { idempotency?: RouteIdempotency<unknown> };

/** In the config of every route that was declared when the plugin had loaded. */
const SEEN = Symbol("semel");

/** Hooks that the plugin added to routes. */
const ours = new WeakSet<Hook>();

function layerOf({ idempotency, hook, ...options }: FastifyOptions<unknown>): Layer {
  if (hook !== undefined) assertOneOf(hook, ["preHandler", "preValidation"], "hook");
  return new HttpLayer(idempotency, options);
}

function mayCarryKey({ policy }: Layer, { method, headers }: FastifyRequestLike): boolean {
  if (!policy.methods.has(method)) return false;
  return policy.key !== undefined || policy.headerName.toLowerCase() in headers;
}

/** A body as parsers read it, chunk by chunk. */
interface Passing {
  stream: Readable;
  chunks: Uint8Array[];
  length: number;
}

/** A property, as in `operation-of.ts`: a `WeakMap` costs the garbage collector more. */
const PASSING = Symbol("semel.passing");

type Collected = IncomingMessage & { [PASSING]?: Passing };

/** Past a stream's own `on`, which would make it flow. */
const listen = EventEmitter.prototype.on;

function collectBody(layer: Layer): Hook {
  const { bodyBytesMax } = layer.policy;
  const hook = (request: FastifyRequestLike, _reply: Reply, stream: Readable, done: Done) => {
    const { raw } = request;
    if (!mayCarryKey(layer, request) || !hasBody(raw) || stream.readableDidRead) return done();
    const passing: Passing = { stream, chunks: [], length: 0 };
    (raw as Collected)[PASSING] = passing;
    listen.call(stream, "data", (chunk: Uint8Array | string) => {
      const bytes = typeof chunk === "string" ? Buffer.from(chunk) : chunk;
      passing.length += bytes.length;
      if (passing.length <= bodyBytesMax) passing.chunks.push(bytes);
      else passing.chunks = [];
    });
    done();
  };
  ours.add(hook);
  return hook;
}

async function bodyOf({ raw, body }: FastifyRequestLike, bytesMax: number): Promise<Body> {
  if (!hasBody(raw)) return { bytes: NOTHING };
  const passed = (raw as Collected)[PASSING];
  if (passed?.stream.readableEnded) {
    if (passed.length > bytesMax) throw new BodyTooLarge(bytesMax);
    const { chunks } = passed;
    return { bytes: chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks) };
  }
  if (passed && !("complete" in raw)) {
    throw new Error(
      "`inject` cannot show Semel a body that no parser reads; send this request through a socket",
    );
  }
  // Left to the handler, as multipart uploads are.
  if (!isConsumed(raw)) return { bytes: await peekBody(raw, bytesMax) };
  return bodyLeft(raw, body ?? undefined);
}

const NOTHING = new Uint8Array(0);

/** The hook that lets a request run, or answers in its place. */
function admit(layer: Layer): Hook {
  const hook = (request: FastifyRequestLike, reply: Reply, done: Done) => {
    if (!layer.policy.methods.has(request.method)) return done();
    const { raw } = request;
    const decided = layer.decide({
      request,
      method: request.method,
      target: request.originalUrl,
      headerLines: (name) => headerLines(raw, name),
      body: (bytesMax) => bodyOf(request, bytesMax),
    });
    decided
      .then((decision) => {
        if (decision.kind === "pass") return done();
        if (decision.kind === "respond") return answer(request, reply, decision.response);
        const { exchange } = decision;
        if (reply.sent || reply.raw.destroyed || hasLeft(raw)) {
          // The client left, or a time limit answered it, while the store was asked. Nothing ran.
          return exchange.fail(new NotApplied());
        }
        setOperation(raw, exchange);
        watch(reply.raw, exchange, reply.getHeaders());
        exchange.calling(done);
        return undefined;
      })
      .catch(done);
  };
  ours.add(hook);
  return hook;
}

async function answer(
  { raw }: FastifyRequestLike,
  reply: Reply,
  response: HttpResponse,
): Promise<void> {
  await turnEnd();
  if (reply.sent) return;
  (reply.raw as Pending)[PENDING] = response;
  reply.send();
  discardBody(raw);
}

/** A request that runs and is not answered yet. */
interface Running {
  readonly exchange: Exchange;
  readonly headersBefore: Fields;
  readonly original: RawMethods;
  /** An answer is being recorded; what is sent from now on comes too late. */
  isSettling: boolean;
  isDisturbed: boolean;
}

type Fields = Readonly<Record<string, unknown>>;

/** What a reply is still to become: a replay or a refusal, or the end of what runs. */
const PENDING = Symbol("semel.pending");

type Pending = ServerResponse & { [PENDING]?: HttpResponse | Running | undefined };

/** Records what Fastify is about to write, or puts a stored answer in its place. */
function onSend(_request: unknown, reply: Reply, payload: unknown, done: Done) {
  const raw: Pending = reply.raw;
  const next = raw[PENDING];
  if (next === undefined) return done(null, payload);
  if (!("exchange" in next)) {
    raw[PENDING] = undefined;
    return done(null, put(reply, next));
  }
  if (next.isSettling) {
    // A second answer, such as that to an error after the first.
    next.isDisturbed = true;
    return;
  }
  if (isWhole(payload)) return settle(reply, next, payload);
  capture(raw, next);
  return done(null, payload);
}

function isWhole(payload: unknown): payload is string | Uint8Array | null | undefined {
  return typeof payload === "string" || payload instanceof Uint8Array || payload == null;
}

/** @returns what is written in the end */
async function settle(
  reply: Reply,
  run: Running,
  payload: string | Uint8Array | null | undefined,
): Promise<unknown> {
  const { exchange } = run;
  const raw: Pending = reply.raw;
  // Fastify looks at them only when it writes, and what cannot be sent is no result.
  const fields = reply.getHeaders();
  const headers = sendable(pairsOf(fields));
  assertSendableReason(raw);
  run.isSettling = true;
  setMethods(raw, run.original);
  const status = Number(raw.statusCode);
  const body = payload ?? NOTHING;
  const bytes = typeof body === "string" ? Buffer.byteLength(body) : body.byteLength;
  const isKept = bytes <= exchange.resultBytesMax;
  const answer = await exchange.respond({ status, headers, body }, isKept);
  await turnEnd();
  raw[PENDING] = undefined;
  if ("replacement" in answer) {
    resetHeaders(reply, run.headersBefore);
    return put(reply, answer.replacement);
  }
  if (run.isDisturbed) {
    raw.statusCode = status;
    resetHeaders(reply, fields);
  }
  for (const [name, value] of answer.headers) reply.header(name, value);
  return typeof payload === "string" && isBeyondAscii(headers) ? Buffer.from(payload) : payload;
}

/** @throws {TypeError} as Node does when it writes them */
function sendable(headers: [string, string][]): [string, string][] {
  for (const [name, value] of headers) {
    validateHeaderName(name);
    validateHeaderValue(name, value);
  }
  return headers;
}

function pairsOf(fields: Fields): [string, string][] {
  const pairs: [string, string][] = [];
  for (const name in fields) {
    const value = fields[name];
    if (Array.isArray(value)) for (const item of value) pairs.push([name, String(item)]);
    else if (value !== undefined) pairs.push([name, String(value)]);
  }
  return pairs;
}

function resetHeaders(reply: Reply, fields: Fields): void {
  for (const name of Object.keys(reply.getHeaders())) reply.removeHeader(name);
  for (const name in fields) reply.header(name, fields[name]);
}

/** Makes a reply the given response; headers that the application's own hooks set stay. */
function put(reply: Reply, { status, headers, body }: HttpResponse): Buffer | null {
  reply.raw.statusCode = status;
  eachField(headers, (name, value) => reply.header(name, value));
  if (body.byteLength === 0) return null;
  if (body instanceof Buffer) return body;
  return Buffer.from(body.buffer, body.byteOffset, body.byteLength);
}

type RawMethods = Pick<
  ServerResponse,
  "writeHead" | "write" | "end" | "flushHeaders" | "destroy" | "emit"
>;

/**
 * Whoever writes to `reply.raw` starts the capture, and a client that leaves does, whom a pipe that has
 * nothing to write yet must not hear of (SM-23). The same functions for every response.
 */
const STARTING: RawMethods = {
  writeHead: starting("writeHead"),
  write: starting("write"),
  end: starting("end"),
  flushHeaders: starting("flushHeaders"),
  destroy: starting("destroy"),
  emit(this: Pending, ...event: Parameters<ServerResponse["emit"]>): boolean {
    const run = this[PENDING];
    if (run === undefined || !("exchange" in run)) return Reflect.apply(this.emit, this, event);
    // Over HTTP/2, Node says so of a response whose client has left.
    if (event[0] === "finish") return true;
    if (event[0] !== "close") return Reflect.apply(run.original.emit, this, event);
    capture(this, run);
    return this.emit("close");
  },
};

function starting<Name extends keyof RawMethods>(name: Name): RawMethods[Name] {
  return function start(this: Pending, ...given: unknown[]): unknown {
    const run = this[PENDING];
    if (run && "exchange" in run) capture(this, run);
    return Reflect.apply(this[name], this, given);
  } as RawMethods[Name];
}

function watch(raw: Pending, exchange: Exchange, headersBefore: Fields): void {
  const { writeHead, write, end, flushHeaders, destroy, emit } = raw;
  const original = { writeHead, write, end, flushHeaders, destroy, emit };
  raw[PENDING] = { exchange, headersBefore, original, isSettling: false, isDisturbed: false };
  setMethods(raw, STARTING);
}

function setMethods(raw: ServerResponse, methods: RawMethods): void {
  raw.writeHead = methods.writeHead;
  raw.write = methods.write;
  raw.end = methods.end;
  raw.flushHeaders = methods.flushHeaders;
  raw.destroy = methods.destroy;
  raw.emit = methods.emit;
}

function capture(raw: Pending, { exchange, original }: Running): void {
  raw[PENDING] = undefined;
  setMethods(raw, original);
  captureResponse(raw, exchange);
  // The client left before: the capture must know that nobody listens.
  if (raw.destroyed) raw.emit("close");
}

function onError(
  request: FastifyRequestLike,
  _reply: unknown,
  error: { code?: unknown } | null | undefined,
  done: Done,
): void {
  const operation = operationOf(request);
  if (operation instanceof Exchange) {
    // The handler is still at work, and nobody knows how it ends.
    if (error?.code === "FST_ERR_HANDLER_TIMEOUT") operation.hold("handler-timeout");
    operation.failed(error);
  }
  done();
}
