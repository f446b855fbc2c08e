// Express 4 and 5.

import type { IncomingMessage, ServerResponse } from "node:http";
import type { Idempotency } from "../engine/idempotency.ts";
import { Exchange, HttpLayer } from "../http/exchange.ts";
import { admitNodeRequest, type NodeRequest } from "../http/node-exchange.ts";
import { answerInTransaction } from "../http/node-transactional.ts";
import { operationOf } from "../http/operation-of.ts";
import type { HttpOptions } from "../http/options.ts";
import { transactionalLayer } from "../http/transactional.ts";

export type { HttpOperation } from "../http/exchange.ts";
export { operationOf } from "../http/operation-of.ts";
export type { HttpOptions } from "../http/options.ts";
export { httpResult } from "../http/response.ts";

/**
 * What is used of Express's request; both majors have it. Name your own type, as in
 * `idempotent<Request>(…)`, to have what your middleware adds checked.
 */
export interface ExpressRequest extends IncomingMessage {
  originalUrl: string;
  body?: unknown;
  // biome-ignore lint/suspicious/noExplicitAny: what middleware adds, such as `req.auth`, is unknown here
  [property: string]: any;
}

type Next = (error?: unknown) => void;

/**
 * Middleware that makes the routes behind it idempotent. Mount it after what authenticates, so that
 * `scope` knows the caller; body parsers may come before or after it.
 *
 * @throws {InvalidOption} when an option is unknown or out of bounds
 * @example
 * app.post("/charges", idempotent(idempotency, { scope: (req) => req.auth.accountId }), handler);
 */
export function idempotent<Request extends ExpressRequest>(
  idempotency: Idempotency,
  options: HttpOptions<Request>,
): (request: Request, response: ServerResponse, next: Next) => void {
  const layer = new HttpLayer(idempotency, options);
  return (request, response, next) => {
    admitNodeRequest(layer, request, response, factsOf(request)).then((admitted) => {
      if (admitted === "answered") return;
      if (admitted === "pass") return next();
      observeErrors(request);
      admitted.calling(() => next());
    }, next);
  };
}

/**
 * A handler whose writes and whose response are one database transaction (HTTP-16): the response is
 * stored in it, and leaves after the commit. A handler that throws, and a response that is not
 * stored, roll it back; when the database asks for it, the handler is called again. A request without
 * a key runs in a transaction as well, unrecorded.
 *
 * @param handler is given the store's own transaction: a `pg` client, a `mysql2` connection, …
 * @throws {InvalidOption} when an option is wrong, or the store has no transactions
 * @example
 * app.post("/orders", express.json(), transactional(idempotency, { scope }, async (req, res, client) => {
 *   await client.query("INSERT INTO orders (sku) VALUES ($1)", [req.body.sku]);
 *   res.status(201).json({ sku: req.body.sku });
 * }));
 */
export function transactional<
  Transaction,
  Request extends ExpressRequest,
  Response extends ServerResponse = ServerResponse,
>(
  idempotency: Idempotency<Transaction>,
  options: HttpOptions<Request>,
  handler: (request: Request, response: Response, transaction: Transaction) => unknown,
): (request: Request, response: Response, next: Next) => void {
  const layer = transactionalLayer(idempotency, options, handler);
  return (request, response, next) => {
    answerInTransaction(layer, request, response, factsOf(request), (transaction: Transaction) =>
      handler(request, response, transaction),
    ).catch(next);
  };
}

function factsOf<Request extends ExpressRequest>(request: Request): NodeRequest<Request> {
  return {
    request,
    // Not `url`, from which mounted routers cut their prefix.
    target: request.originalUrl,
    parsedBody: () => request.body,
  };
}

/** The methods of routes that are observed. */
const observed = new WeakMap<object, Set<string>>();

/**
 * Hears what the handlers of a route throw, which Express shows to error handlers alone: one is
 * added to the end of the route. Without a route, as under `app.use`, the error handlers' response
 * speaks for itself.
 */
function observeErrors({ route, method = "POST" }: ExpressRequest): void {
  const name = method.toLowerCase();
  const routeMethods = route as Record<string, (handler: unknown) => void> | undefined;
  if (typeof routeMethods?.[name] !== "function") return;
  const methods = observed.get(routeMethods) ?? new Set();
  observed.set(routeMethods, methods);
  if (methods.has(name)) return;
  methods.add(name);
  routeMethods[name]((error: unknown, request: object, _response: object, next: Next) => {
    const operation = operationOf(request);
    if (operation instanceof Exchange) operation.failed(error);
    next(error);
  });
}
