// Koa 2 and 3.

import type { IncomingMessage, ServerResponse } from "node:http";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { systemClock } from "../clock.ts";
import type { Idempotency } from "../engine/idempotency.ts";
import { exposedHeaders } from "../http/cors.ts";
import { type Exchange, HttpLayer } from "../http/exchange.ts";
import { admitNodeRequest, type NodeRequest } from "../http/node-exchange.ts";
import { breakOff, setReason } from "../http/node-headers.ts";
import { answerInTransaction } from "../http/node-transactional.ts";
import { operationOf, setOperation } from "../http/operation-of.ts";
import type { HttpOptions } from "../http/options.ts";
import type { HttpResponse } from "../http/response.ts";
import { transactionalLayer } from "../http/transactional.ts";
import { bounded } from "../retry.ts";

export type { HttpOperation } from "../http/exchange.ts";
export { operationOf } from "../http/operation-of.ts";
export type { HttpOptions } from "../http/options.ts";
export { httpResult } from "../http/response.ts";

/**
 * What is used of Koa's context; both majors have it. Name your own type, as in
 * `idempotent<Context>(…)`, to have what your middleware adds checked.
 */
export interface KoaContext {
  req: IncomingMessage;
  res: ServerResponse;
  originalUrl: string;
  request: object;
  response: { res: ServerResponse };
  status: number;
  message: string;
  type: string;
  body: unknown;
  app: { emit(event: "error", error: unknown, context: unknown): boolean };
  // biome-ignore lint/suspicious/noExplicitAny: what middleware leaves here is unknown
  state: any;
  onerror(error: unknown): void;
  respond?: boolean | undefined;
  // biome-ignore lint/suspicious/noExplicitAny: what middleware adds, such as `ctx.session`, is unknown
  [property: string]: any;
}

/**
 * Middleware that makes everything behind it idempotent. Mount it after what authenticates, so that
 * `scope` knows the caller; body parsers may come before or after it. The handler finds its operation
 * as `ctx.state.operation`, or by `operationOf(ctx)`.
 *
 * @throws {InvalidOption} when an option is unknown or out of bounds
 * @example
 * app.use(idempotent(idempotency, { scope: (ctx) => ctx.state.user?.accountId }));
 */
export function idempotent<Context extends KoaContext>(
  idempotency: Idempotency,
  options: HttpOptions<Context>,
): (context: Context, next: () => Promise<unknown>) => Promise<void> {
  const layer = new HttpLayer(idempotency, options);
  return async (context, next) => {
    const { req, res } = context;
    const admitted = await admitNodeRequest(layer, req, res, factsOf(context));
    if (admitted === "answered") {
      // Also where middleware outside, such as compression, sends the answer a little later.
      context.respond = false;
      return;
    }
    if (admitted === "pass") return void (await next());
    setOperation(context, admitted);
    context.state.operation = admitted;
    veilDeparture(context);
    observeErrors(context, admitted);
    admitted.isHandling = true;
    try {
      await admitted.calling(next);
      admitted.isHandling = false;
    } catch (error) {
      admitted.isHandling = false;
      admitted.failed(error);
      throw error;
    }
  };
}

function factsOf<Context extends KoaContext>(context: Context): NodeRequest<Context> {
  return {
    request: context,
    // Not `url`, from which mounting middleware cuts its prefix.
    target: context.originalUrl,
    parsedBody: () => (context.request as { body?: unknown }).body,
  };
}

/**
 * The last middleware of a route, whose writes and whose response are one database transaction
 * (HTTP-16): what it leaves in `ctx` is stored in it, and Koa sends it after the commit. One that
 * throws, and a response that is not stored, roll it back; when the database asks for it, it is called
 * again, with `ctx` as it was before. A request without a key runs in a transaction as well,
 * unrecorded. Answers that it did not make leave at once, as replays do.
 *
 * @param handler is given the store's own transaction: a `pg` client, a `mysql2` connection, …
 * @throws {InvalidOption} when an option is wrong, or the store has no transactions
 * @example
 * router.post("/orders", bodyParser(), transactional(idempotency, { scope }, async (ctx, client) => {
 *   await client.query("INSERT INTO orders (sku) VALUES ($1)", [ctx.request.body.sku]);
 *   ctx.status = 201;
 *   ctx.body = { sku: ctx.request.body.sku };
 * }));
 */
export function transactional<Transaction, Context extends KoaContext>(
  idempotency: Idempotency<Transaction>,
  options: HttpOptions<Context>,
  handler: (context: Context, transaction: Transaction) => unknown,
): (context: Context) => Promise<void> {
  const layer = transactionalLayer(idempotency, options, handler);
  return async (context) => {
    const held = new HeldContext(context);
    let isDelivered = false;
    const handle = async (transaction: Transaction) => {
      held.reset();
      const operation = operationOf(context.req);
      if (operation) {
        setOperation(context, operation);
        context.state.operation = operation;
      }
      await handler(context, transaction);
      await held.render(layer.policy.operation.leaseMs);
    };
    const deliver = (response: HttpResponse) => {
      isDelivered = true;
      held.deliver(response);
    };
    try {
      const { req, res } = context;
      await answerInTransaction(layer, req, res, factsOf(context), handle, { deliver });
    } catch (error) {
      held.giveBack();
      throw error;
    }
    if (isDelivered) return;
    held.giveBack();
    context.respond = false;
  };
}

/** Koa's context while a transaction is open. */
class HeldContext {
  readonly #context: KoaContext;
  readonly #before: Pick<KoaContext, "onerror" | "respond">;
  /** What Koa keeps of body and status, which has no public way back. */
  readonly #responseBefore: Record<string, unknown>;
  #failure: { error: unknown } | undefined;

  constructor(context: KoaContext) {
    this.#context = context;
    this.#before = { onerror: context.onerror, respond: context.respond };
    this.#responseBefore = { ...context.response };
  }

  /** The context as it was before the handler, for the handler. */
  reset(): void {
    this.giveBack();
    this.#failure = undefined;
    veilDeparture(this.#context);
    this.#context.onerror = (error) => {
      if (error === null || error === undefined) return;
      // An answer to it would leave before the rollback.
      if (!reportDeparture(this.#context, error)) this.#failure ??= { error };
    };
  }

  /** The context as it was before the handler, for Koa. */
  giveBack(): void {
    const { response } = this.#context;
    for (const name of Object.keys(response)) {
      if (!(name in this.#responseBefore)) Reflect.deleteProperty(response, name);
    }
    Object.assign(response, this.#responseBefore);
    Object.assign(this.#context, this.#before);
  }

  /** Writes what the handler left, as Koa does after all middleware. */
  async render(leaseMs: number): Promise<void> {
    const { respond, res } = this.#context;
    if (respond !== false) res.end(await rendered(this.#context, leaseMs));
    if (this.#failure) throw this.#failure.error;
  }

  /** Leaves a response to Koa to send. */
  deliver({ status, headers, body }: HttpResponse): void {
    const context = this.#context;
    const { res } = context;
    Object.assign(context, this.#before);
    context.response.res = res;
    context.body = Buffer.from(body.buffer, body.byteOffset, body.byteLength);
    // The length, which Koa has set, is true of what the handler wrote to `ctx.res` as well.
    for (const name of res.getHeaderNames()) if (name !== LENGTH) res.removeHeader(name);
    for (const [name, value] of headers) if (name !== LENGTH) res.appendHeader(name, value);
    const exposed = exposedHeaders((name) => res.getHeader(name));
    if (exposed !== undefined) res.setHeader("access-control-expose-headers", exposed);
    res.statusCode = status;
    setReason(res, "");
  }
}

const LENGTH = "content-length";
const BODILESS = new Set([204, 205, 304]);

/** The body that Koa sends for what the handler left. */
async function rendered(
  context: KoaContext,
  leaseMs: number,
): Promise<string | Uint8Array | undefined> {
  if (BODILESS.has(context.status)) context.body = null;
  const { body } = context;
  if (body === null) {
    context.res.removeHeader("content-type");
    return undefined;
  }
  if (body === undefined) {
    context.type = "text";
    return context.message || String(context.status);
  }
  if (typeof body === "string" || Buffer.isBuffer(body)) return body;
  const stream = streamOf(body);
  if (stream === undefined) return Buffer.from(JSON.stringify(body));
  return bounded(systemClock, collected(stream), leaseMs, () => {
    stream.destroy?.();
    return new Error("The stream in ctx.body did not end: nothing was committed");
  });
}

type Source = NodeJS.ReadableStream & Partial<Pick<Readable, "destroy">>;

function streamOf(body: unknown): Source | undefined {
  if (body instanceof Blob) return Readable.from(body.stream());
  if (body instanceof ReadableStream) return Readable.from(body);
  if (body instanceof Response) return Readable.from(body.body ?? []);
  const { pipe } = body as Partial<Source>;
  return typeof pipe === "function" ? (body as Source) : undefined;
}

async function collected(stream: Source): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  await pipeline(stream, async (source: AsyncIterable<string | Uint8Array>) => {
    for await (const chunk of source) chunks.push(Buffer.from(chunk as Uint8Array));
  });
  return Buffer.concat(chunks);
}

/**
 * Koa asks the socket whether anybody listens, and destroys a body when nobody does; but the record
 * listens still (SM-23). Towards Koa's own response, the connection ends when the response does.
 */
function veilDeparture(context: KoaContext): void {
  const { res } = context;
  // What on-finished notes here is of the veiled response too.
  const veil: Record<PropertyKey, unknown> = { socket: null, __onFinished: undefined };
  context.response.res = new Proxy(res, {
    get(_, name) {
      if (Object.hasOwn(veil, name)) return veil[name];
      const value = Reflect.get(res, name);
      return typeof value === "function" ? value.bind(res) : value;
    },
    set: (_, name, value) => Reflect.set(Object.hasOwn(veil, name) ? veil : res, name, value),
  });
}

/** Hears of what fails outside of middleware, such as the stream that is the body. */
function observeErrors(context: KoaContext, exchange: Exchange): void {
  const { onerror, res } = context;
  context.onerror = (error) => {
    if (error === null || error === undefined) return;
    if (reportDeparture(context, error)) return;
    // Where the handler is at work yet, it is a time limit outside that has failed.
    if (!exchange.isHandling) exchange.failed(error);
    onerror.call(context, error);
    // Koa leaves a response open that had begun before its handler failed.
    if (res.headersSent && !res.writableEnded) breakOff(res);
  };
}

/**
 * Not the handler has failed, which goes on, but the connection: Koa tells of it and does no more.
 *
 * @returns whether it is so
 */
function reportDeparture(context: KoaContext, error: unknown): boolean {
  if (!(error instanceof Error) || error !== context.req.socket.errored) return false;
  context.app.emit("error", Object.assign(error, { headerSent: true }), context);
  return true;
}
