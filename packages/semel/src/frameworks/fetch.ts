// Everything that serves `Request → Response`: Next.js route handlers, Bun, Deno, Workers, SvelteKit.

import type { Idempotency } from "../engine/idempotency.ts";
import { HttpLayer } from "../http/exchange.ts";
import { captureFetchResponse, copyBody, toResponse } from "../http/fetch-body.ts";
import { setOperation } from "../http/operation-of.ts";
import type { HttpOptions } from "../http/options.ts";

export type { HttpOperation } from "../http/exchange.ts";
export { operationOf } from "../http/operation-of.ts";
export type { HttpOptions } from "../http/options.ts";
export { httpResult } from "../http/response.ts";

/**
 * Makes a fetch handler idempotent. Further arguments (a context, parameters) are passed on.
 *
 * @throws {InvalidOption} when an option is unknown or out of bounds
 * @returns a handler that rejects with what the handler, or a function in the options, throws
 * @example
 * export const POST = idempotent(idempotency, { scope: (request) => accountOf(request) }, pay);
 */
export function idempotent<Rest extends unknown[]>(
  idempotency: Idempotency,
  options: HttpOptions<Request>,
  handler: (request: Request, ...rest: Rest) => Response | Promise<Response>,
): (request: Request, ...rest: Rest) => Promise<Response> {
  const layer = new HttpLayer(idempotency, options);
  return async (request, ...rest) => {
    const { pathname, search } = new URL(request.url);
    const decision = await layer.decide({
      request,
      method: request.method,
      target: pathname + search,
      headerLines: (name) => headerLines(request, name),
      body: async (bytesMax) => ({ bytes: await copyBody(request, bytesMax) }),
    });
    if (decision.kind === "pass") return handler(request, ...rest);
    if (decision.kind === "respond") return toResponse(decision.response);
    const { exchange } = decision;
    setOperation(request, exchange);
    try {
      const response = await handler(request, ...rest);
      return await captureFetchResponse(response, exchange, request.signal);
    } catch (error) {
      exchange.failed(error);
      await exchange.fail(error);
      throw error;
    }
  };
}

/** `Headers` has joined repeated lines with a comma, which a bare key may not contain. */
function headerLines(request: Request, name: string): string[] {
  const value = request.headers.get(name);
  return value === null ? [] : [value];
}
