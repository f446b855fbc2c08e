// `node:http` and everything that serves `(request, response)`.

import type { IncomingMessage, ServerResponse } from "node:http";
import type { Idempotency } from "../engine/idempotency.ts";
import { InvalidOption } from "../errors.ts";
import { type Exchange, HttpLayer } from "../http/exchange.ts";
import { admitNodeRequest, type NodeRequest } from "../http/node-exchange.ts";
import { breakOff, setReason } from "../http/node-headers.ts";
import { answerInTransaction } from "../http/node-transactional.ts";
import type { HttpOptions } from "../http/options.ts";
import { transactionalLayer } from "../http/transactional.ts";

export type { HttpOperation } from "../http/exchange.ts";
export { operationOf } from "../http/operation-of.ts";
export type { HttpOptions } from "../http/options.ts";
export { httpResult } from "../http/response.ts";

/** Options of `idempotent()` for `node:http`. */
export interface NodeOptions extends HttpOptions<IncomingMessage> {
  /**
   * Hears of what the handler, or a function in these options, throws; the client is answered with
   * 500 if no answer has begun. @default console.error
   */
  reportError?: ((error: unknown, request: IncomingMessage) => void) | undefined;
}

export type NodeHandler = (request: IncomingMessage, response: ServerResponse) => unknown;

/**
 * Makes a `node:http` handler idempotent.
 *
 * @throws {InvalidOption} when an option is unknown or out of bounds
 * @returns a listener for `createServer`; its promise never rejects
 * @example
 * createServer(idempotent(idempotency, { scope: (req) => accountOf(req) }, handler)).listen(3000);
 */
export function idempotent(
  idempotency: Idempotency,
  options: NodeOptions,
  handler: NodeHandler,
): (request: IncomingMessage, response: ServerResponse) => Promise<void> {
  const { reportError, http } = optionsOf(options);
  const layer = new HttpLayer(idempotency, http);
  if (typeof handler !== "function") throw new InvalidOption("idempotent() takes a handler");
  return async (request, response) => {
    let exchange: Exchange | undefined;
    try {
      const admitted = await admitNodeRequest(layer, request, response, factsOf(request));
      if (admitted === "answered") return;
      if (admitted === "pass") return void (await handler(request, response));
      exchange = admitted;
      exchange.isHandling = true;
      await exchange.calling(() => handler(request, response));
      exchange.isHandling = false;
    } catch (error) {
      if (exchange) exchange.isHandling = false;
      exchange?.failed(error);
      reportError(error, request);
      answerFailure(response);
    }
  };
}

/** A `node:http` handler that writes in a transaction. */
export type NodeTransactionalHandler<Transaction> = (
  request: IncomingMessage,
  response: ServerResponse,
  transaction: Transaction,
) => unknown;

/**
 * A `node:http` handler whose writes and whose response are one database transaction (HTTP-16): the
 * response is stored in it, and leaves after the commit. A handler that throws, and a response that
 * is not stored, roll it back; when the database asks for it, the handler is called again. A request
 * without a key runs in a transaction as well, unrecorded.
 *
 * @param handler is given the store's own transaction: a `pg` client, a `mysql2` connection, …
 * @throws {InvalidOption} when an option is wrong, or the store has no transactions
 * @example
 * createServer(transactional(idempotency, { scope }, async (request, response, client) => {
 *   await client.query("INSERT INTO orders (sku) VALUES ($1)", [await skuOf(request)]);
 *   response.writeHead(201).end();
 * })).listen(3000);
 */
export function transactional<Transaction>(
  idempotency: Idempotency<Transaction>,
  options: NodeOptions,
  handler: NodeTransactionalHandler<Transaction>,
): (request: IncomingMessage, response: ServerResponse) => Promise<void> {
  const { reportError, http } = optionsOf(options);
  const layer = transactionalLayer(idempotency, http, handler);
  return async (request, response) => {
    try {
      await answerInTransaction(layer, request, response, factsOf(request), (tx: Transaction) =>
        handler(request, response, tx),
      );
    } catch (error) {
      reportError(error, request);
      answerFailure(response);
    }
  };
}

/** Plain JavaScript may give none; what is missing then is said with the others. */
function optionsOf(options: NodeOptions | undefined) {
  const { reportError = console.error, ...http } = options ?? ({} as NodeOptions);
  return { reportError, http };
}

function factsOf(request: IncomingMessage): NodeRequest<IncomingMessage> {
  return {
    request,
    // Not `url`, from which mounting frameworks cut their prefix.
    target: (request as { originalUrl?: string }).originalUrl ?? request.url ?? "/",
    parsedBody: () => (request as { body?: unknown }).body,
  };
}

/** Ends a response whose handler failed; where an answer has begun, breaks it off. */
function answerFailure(response: ServerResponse): void {
  if (response.headersSent) {
    if (!response.writableEnded) breakOff(response);
    return;
  }
  // What the handler said of its own body is not true of this one.
  for (const name of response.getHeaderNames()) response.removeHeader(name);
  response.statusCode = 500;
  setReason(response, "");
  response.setHeader("content-type", "application/problem+json");
  response.end(JSON.stringify({ title: "Internal Server Error", status: 500 }));
}
