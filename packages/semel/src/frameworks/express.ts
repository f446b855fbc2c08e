// Express 4 and 5.

import type { IncomingMessage, ServerResponse } from "node:http";
import type { Idempotency } from "../engine/idempotency.ts";
import { Exchange, HttpLayer } from "../http/exchange.ts";
import { admitNodeRequest } from "../http/node-exchange.ts";
import { operationOf } from "../http/operation-of.ts";
import type { HttpOptions } from "../http/options.ts";

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
    admitNodeRequest(layer, request, response, {
      request,
      // Not `url`, from which mounted routers cut their prefix.
      target: request.originalUrl,
      parsedBody: () => request.body,
    }).then((admitted) => {
      if (admitted === "answered") return;
      if (typeof admitted === "object") observeErrors(request);
      next();
    }, next);
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
