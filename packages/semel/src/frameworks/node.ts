// `node:http` and everything that serves `(request, response)`.

import type { IncomingMessage, ServerResponse } from "node:http";
import type { Idempotency } from "../engine/idempotency.ts";
import { type Exchange, HttpLayer } from "../http/exchange.ts";
import { admitNodeRequest } from "../http/node-exchange.ts";
import type { HttpOptions } from "../http/options.ts";

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
  reportError?: (error: unknown, request: IncomingMessage) => void;
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
  { reportError = console.error, ...options }: NodeOptions,
  handler: NodeHandler,
): (request: IncomingMessage, response: ServerResponse) => Promise<void> {
  const layer = new HttpLayer(idempotency, options);
  return async (request, response) => {
    let exchange: Exchange | undefined;
    try {
      const admitted = await admitNodeRequest(layer, request, response, {
        request,
        // Not `url`, from which mounting frameworks cut their prefix.
        target: (request as { originalUrl?: string }).originalUrl ?? request.url ?? "/",
        parsedBody: () => (request as { body?: unknown }).body,
      });
      if (typeof admitted === "object") exchange = admitted;
      if (admitted !== "answered") await handler(request, response);
    } catch (error) {
      exchange?.failed(error);
      reportError(error, request);
      answerFailure(response);
    }
  };
}

/** Ends a response whose handler failed; where an answer has begun, breaks it off. */
function answerFailure(response: ServerResponse): void {
  if (response.headersSent) {
    if (!response.writableEnded) response.destroy();
    return;
  }
  // What the handler said of its own body is not true of this one.
  for (const name of response.getHeaderNames()) response.removeHeader(name);
  response.statusCode = 500;
  response.statusMessage = "";
  response.setHeader("content-type", "application/problem+json");
  response.end(JSON.stringify({ title: "Internal Server Error", status: 500 }));
}
