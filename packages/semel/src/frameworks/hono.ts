// Hono 4, on every runtime that it serves. On Node, where Hono stands behind `@hono/node-server`, the
// request's body is read and put back below the Fetch standard, and a response's body is taken from
// where that server keeps it: neither a clone of the request nor a second response has to be made.

import { IncomingMessage, ServerResponse } from "node:http";
import type { Idempotency } from "../engine/idempotency.ts";
import { NotApplied, StoreUnavailable } from "../errors.ts";
import type { Body } from "../http/body-fingerprint.ts";
import {
  type Exchange,
  HttpLayer,
  type HttpOperation,
  type IncomingRequest,
} from "../http/exchange.ts";
import {
  captureFetchResponse,
  copyBody,
  toResponse,
  wholeResponse,
  withBody,
} from "../http/fetch-body.ts";
import { hasBody, isConsumed, peekBody } from "../http/node-body.ts";
import { headerLines } from "../http/node-exchange.ts";
import { isBeyondAscii } from "../http/node-headers.ts";
import { setOperation } from "../http/operation-of.ts";
import type { HttpOptions } from "../http/options.ts";
import { whenQueuedInVain } from "../http/queued-response.ts";
import type { HttpResponse } from "../http/response.ts";
import { makeInTransaction, transactionalLayer } from "../http/transactional.ts";

export type { HttpOperation } from "../http/exchange.ts";
export { operationOf } from "../http/operation-of.ts";
export type { HttpOptions } from "../http/options.ts";
export { httpResult } from "../http/response.ts";

/** What the middleware sets on the context: `new Hono<{ Variables: SemelVariables }>()`. */
export interface SemelVariables {
  /** The operation that a request is, when it carries a key and runs (HTTP-15). */
  operation?: HttpOperation | undefined;
}

/**
 * What is used of Hono's context. Name your own type, as in `idempotent<Context<Env>>(…)`, to have what
 * your middleware sets checked.
 */
export interface HonoContext {
  // biome-ignore lint/suspicious/noExplicitAny: bindings and variables are the application's
  env: any;
  error: Error | undefined;
  req: {
    method: string;
    url: string;
    raw: Request;
    // biome-ignore lint/suspicious/noExplicitAny: promises of bodies in every form
    bodyCache: any;
    header(name: string): string | undefined;
  };
  res: Response;
  finalized: boolean;
  // biome-ignore lint/suspicious/noExplicitAny: overloaded by the application's variables
  get: any;
  // biome-ignore lint/suspicious/noExplicitAny: overloaded by the application's variables
  set: any;
  // biome-ignore lint/suspicious/noExplicitAny: overloaded by body and status
  newResponse: any;
  header(name: string, value: string, options: { append: boolean }): void;
  // biome-ignore lint/suspicious/noExplicitAny: Hono's own union of numbers
  status(status: any): void;
}

/**
 * Middleware that makes the handlers behind it idempotent. Put it behind what authenticates, so that
 * `scope` knows the caller. What is put behind it is part of the operation.
 *
 * @throws {InvalidOption} when an option is unknown or out of bounds
 * @example
 * app.post("/charges", idempotent(idempotency, { scope: (c) => c.get("accountId") }), handler);
 */
export function idempotent<Context extends HonoContext>(
  idempotency: Idempotency,
  options: HttpOptions<Context>,
): (c: Context, next: () => Promise<void>) => Promise<Response | undefined> {
  const layer = new HttpLayer(idempotency, options);
  return async (c, next) => {
    const decision = await layer.decide(incomingRequest(c));
    if (decision.kind === "pass") {
      await next();
      return undefined;
    }
    if (decision.kind === "respond") return answered(c, decision.response);
    const { exchange } = decision;
    if (hasLeft(c)) {
      // The client left, and its body with it, while the store was asked. Nothing ran.
      await exchange.fail(new NotApplied());
      return c.newResponse(null, { status: 400 });
    }
    setOperation(c, exchange);
    c.set("operation", exchange);
    try {
      await exchange.calling(next);
      if (isAnswered(c)) {
        if (c.error instanceof NotApplied) exchange.notApplied();
        await exchange.overtaken();
        return undefined;
      }
      if (c.error) exchange.failed(c.error);
      await settle(c, exchange);
      return undefined;
    } catch (error) {
      exchange.failed(error);
      await exchange.fail(error);
      throw error;
    }
  };
}

/**
 * A handler whose writes and whose response are one database transaction (HTTP-16): the response is
 * stored in it, and leaves after the commit. A handler that throws, and a response that is not
 * stored, roll it back; when the database asks for it, the handler is called again, with the status and
 * the headers of the context as they were. A request without a key runs in a transaction as well,
 * unrecorded.
 *
 * @param handler is given the store's own transaction: a `pg` client, a `mysql2` connection, …
 * @throws {InvalidOption} when an option is wrong, or the store has no transactions
 * @example
 * app.post("/orders", transactional(idempotency, { scope }, async (c: Context, client) => {
 *   const { sku } = await c.req.json();
 *   await client.query("INSERT INTO orders (sku) VALUES ($1)", [sku]);
 *   return c.json({ sku }, 201);
 * }));
 */
export function transactional<Transaction, Context extends HonoContext>(
  idempotency: Idempotency<Transaction>,
  options: HttpOptions<Context>,
  handler: (c: Context, transaction: Transaction) => Response | Promise<Response>,
): (c: Context) => Promise<Response> {
  const layer = transactionalLayer(idempotency, options, handler);
  return async (c) => {
    const asked = await layer.identify(incomingRequest(c));
    if (asked.kind === "respond") return answered(c, asked.response);
    // The client left while its body was read. Nothing ran.
    if (hasLeft(c)) return c.newResponse(null, { status: 400 });
    const request = asked.kind === "operation" ? asked.request : undefined;
    const reset = resetter(c);
    let made: { response: Response; body: Uint8Array } | undefined;
    let runs = 0;
    try {
      const answer = await makeInTransaction<Context, Transaction>(
        layer,
        request,
        async (transaction, operation) => {
          if (runs++ > 0) reset();
          if (operation) setOperation(c, operation);
          c.set("operation", operation);
          const response = await handler(c, transaction);
          const whole = await wholeResponse(response);
          made = { response, body: whole.body };
          return whole;
        },
        () => assertRepeatable(c),
      );
      if ("replacement" in answer) {
        reset();
        return answered(c, answer.replacement);
      }
      const { response, body } = made!;
      return withBody(response, answer.headers, response.body && body);
    } catch (error) {
      reset();
      // For what an error handler answers.
      if (request) c.header("idempotency-status", "released", { append: false });
      throw error;
    }
  };
}

function incomingRequest<Context extends HonoContext>(c: Context): IncomingRequest<Context> {
  const { req } = c;
  const message = messageOf(c);
  return {
    request: c,
    method: req.method,
    target: targetOf(req.url, message),
    headerLines: (name) => {
      // Asked first: where Node may have dropped lines, a key that is not there may have been.
      const lines = message ? headerLines(message, name) : [];
      const value = req.header(name);
      if (value === undefined) return [];
      // `Headers` has joined repeated lines with a comma, which a bare key may not contain.
      return lines.length > 1 ? lines : [value];
    },
    body: (bytesMax) => bodyOf(c, message, bytesMax),
  };
}

/** A response that no handler made, with what outer middleware has set on the context. */
function answered(c: HonoContext, { status, headers, body }: HttpResponse): Response {
  return c.newResponse(body.byteLength === 0 ? null : body, { status, headers });
}

/** Whether the client is known to have left, and its body with it. */
function hasLeft(c: HonoContext): boolean {
  return messageOf(c)?.readableAborted || c.env?.outgoing?.destroyed || false;
}

/**
 * Whether an answer is on its way while nobody could have it from here: that of a time limit outside,
 * whose response stands where the handler's would.
 */
function isAnswered({ env }: HonoContext): boolean {
  const outgoing: unknown = env?.outgoing;
  return outgoing instanceof ServerResponse && outgoing.headersSent;
}

/** Makes a function that gives the context the status and the headers that it has now. */
function resetter(c: HonoContext): () => void {
  const blank: Response = c.newResponse(null);
  const { status } = blank;
  const before = [...blank.headers];
  return () => {
    // Both, or the context would take the next response for another of what it has sent.
    c.res = undefined as never;
    c.finalized = false;
    c.status(status);
    const { headers } = c.res;
    for (const name of [...headers.keys()]) headers.delete(name);
    for (const [name, value] of before) headers.append(name, value);
  };
}

/** Hono keeps what is read by `c.req`; what is read of `c.req.raw` itself is gone. */
function assertRepeatable({ req }: HonoContext): void {
  if (!req.raw.bodyUsed || Object.keys(req.bodyCache).length > 0) return;
  throw new StoreUnavailable(
    "The database asked for the transaction to be repeated, and the handler has read `c.req.raw` already. Nothing was committed: try again",
  );
}

/** The request below the Fetch standard, on Node. */
function messageOf({ env }: HonoContext): IncomingMessage | undefined {
  return env?.incoming instanceof IncomingMessage ? env.incoming : undefined;
}

/** Path and query as the client sent them: `app.mount()` cuts its prefix from `url`. */
function targetOf(url: string, message: IncomingMessage | undefined): string {
  return message?.url ?? url.slice(url.indexOf("/", url.indexOf("//") + 2));
}

async function bodyOf(
  { req }: HonoContext,
  message: IncomingMessage | undefined,
  bytesMax: number,
): Promise<Body> {
  // Middleware before, such as a validator, has read it in one of these forms.
  const { arrayBuffer, blob, text, json, formData } = req.bodyCache;
  if (arrayBuffer) return { bytes: new Uint8Array(await arrayBuffer) };
  if (blob) return { bytes: new Uint8Array(await (await blob).arrayBuffer()) };
  if (text) return { bytes: Buffer.from(await text) };
  if (json) return { parsed: await json };
  if (formData) return { parsed: await fieldsOf(await formData) };
  if (message) {
    if (!hasBody(message)) return { bytes: new Uint8Array(0) };
    // A `Request` that middleware before has just made of the message begins to read it by now.
    await undefined;
    const isRead = isConsumed(message) || message.listenerCount("data") > 0;
    if (!isRead) return { bytes: await peekBody(message, bytesMax) };
  }
  return { bytes: await copyBody(req.raw, bytesMax) };
}

async function fieldsOf(form: FormData): Promise<unknown[]> {
  const fields = [...form].map(async ([name, value]) => {
    if (typeof value === "string") return [name, value];
    const bytes = Buffer.from(await value.arrayBuffer());
    return [name, value.name, value.type, bytes.toString("base64")];
  });
  return Promise.all(fields);
}

/** Ends the operation by the response that the handler, or an error handler, has made. */
async function settle(c: HonoContext, exchange: Exchange): Promise<void> {
  const response = c.res;
  const kept = keptBody(response);
  if (kept === undefined) {
    return setResponse(c, await captureFetchResponse(response, exchange, departure(c)));
  }
  const { status, headers } = response;
  const body = typeof kept === "string" ? Buffer.from(kept) : (kept ?? new Uint8Array(0));
  const isWhole = body.byteLength <= exchange.resultBytesMax;
  const lines = [...headers];
  const answer = await exchange.respond({ status, headers: lines, body }, isWhole);
  if ("replacement" in answer) return setResponse(c, toResponse(answer.replacement));
  if (kept !== null && messageOf(c) && isBeyondAscii(lines)) {
    return setResponse(c, withBody(response, answer.headers, body));
  }
  for (const [name, value] of answer.headers) headers.set(name, value);
}

/** Aborts when the client leaves, also where the answer waits behind others on its connection. */
function departure({ req, env }: HonoContext): AbortSignal {
  const { signal } = req.raw;
  if (!(env?.outgoing instanceof ServerResponse)) return signal;
  const inVain = new AbortController();
  whenQueuedInVain(env.outgoing, () => inVain.abort());
  return AbortSignal.any([signal, inVain.signal]);
}

function setResponse(c: HonoContext, response: Response): void {
  // A response takes on the headers of the one before, unless there is none.
  c.res = undefined as never;
  c.res = response;
}

/**
 * The body that the `Response` of `@hono/node-server` keeps, from which that server writes what it
 * sends: `[status, body, headers]`. Streams, other responses, and whatever looks otherwise in another
 * version, are captured as they flow.
 */
function keptBody(response: Response): string | Uint8Array | null | undefined {
  for (const symbol of Object.getOwnPropertySymbols(response)) {
    if (symbol.description !== "cache") continue;
    const kept: unknown = Reflect.get(response, symbol);
    if (!Array.isArray(kept) || kept.length !== 3 || kept[0] !== response.status) return undefined;
    const body: unknown = kept[1];
    if (typeof body === "string" || body instanceof Uint8Array || body === null) return body;
  }
  return undefined;
}
