// Everything that serves `Request → Response`: Next.js route handlers, Bun, Deno, Workers, SvelteKit.

import type { Idempotency } from "../engine/idempotency.ts";
import { InvalidOption } from "../errors.ts";
import { HttpLayer, type IncomingRequest } from "../http/exchange.ts";
import {
  captureFetchResponse,
  copyBody,
  toResponse,
  wholeResponse,
  withBody,
} from "../http/fetch-body.ts";
import { setOperation } from "../http/operation-of.ts";
import type { HttpOptions } from "../http/options.ts";
import { makeInTransaction, transactionalLayer } from "../http/transactional.ts";

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
  if (typeof handler !== "function") throw new InvalidOption("idempotent() takes a handler");
  return async (request, ...rest) => {
    const decision = await layer.decide(
      incomingRequest(request, (bytesMax) => copyBody(request, bytesMax)),
    );
    if (decision.kind === "pass") return handler(request, ...rest);
    if (decision.kind === "respond") return toResponse(decision.response);
    const { exchange } = decision;
    setOperation(request, exchange);
    try {
      const response = await exchange.calling(() => handler(request, ...rest));
      return await captureFetchResponse(response, exchange, request.signal);
    } catch (error) {
      exchange.failed(error);
      await exchange.fail(error);
      throw error;
    }
  };
}

/**
 * A fetch handler whose writes and whose response are one database transaction (HTTP-16): the
 * response is stored in it, and leaves after the commit. A handler that throws, and a response that
 * is not stored, roll it back; when the database asks for it, the handler is called again, with the
 * same request anew. A request without a key runs in a transaction as well, unrecorded.
 *
 * @param handler is given the store's own transaction: a `pg` client, a `mysql2` connection, …
 * @throws {InvalidOption} when an option is wrong, or the store has no transactions
 * @example
 * export const POST = transactional(idempotency, { scope: accountOf }, async (request, client) => {
 *   const { sku } = await request.json();
 *   await client.query("INSERT INTO orders (sku) VALUES ($1)", [sku]);
 *   return Response.json({ sku }, { status: 201 });
 * });
 */
export function transactional<Transaction, Rest extends unknown[]>(
  idempotency: Idempotency<Transaction>,
  options: HttpOptions<Request>,
  handler: (
    request: Request,
    transaction: Transaction,
    ...rest: Rest
  ) => Response | Promise<Response>,
): (request: Request, ...rest: Rest) => Promise<Response> {
  const layer = transactionalLayer(idempotency, options, handler);
  return async (request, ...rest) => {
    let bytes: Uint8Array | undefined;
    const asked = await layer.identify(
      incomingRequest(request, async (bytesMax) => {
        bytes = await copyBody(request, bytesMax);
        return bytes;
      }),
    );
    if (asked.kind === "respond") return toResponse(asked.response);
    let made: { response: Response; body: Uint8Array } | undefined;
    const answer = await makeInTransaction<Request, Transaction>(
      layer,
      asked.kind === "operation" ? asked.request : undefined,
      async (transaction, operation) => {
        const given = request.bodyUsed ? new Request(request, { body: bytes! }) : request;
        if (operation) setOperation(given, operation);
        const response = await handler(given, transaction, ...rest);
        const whole = await wholeResponse(response);
        made = { response, body: whole.body };
        return whole;
      },
    );
    if ("replacement" in answer) return toResponse(answer.replacement);
    const { response, body } = made!;
    return withBody(response, answer.headers, response.body && body);
  };
}

function incomingRequest(
  request: Request,
  read: (bytesMax: number) => Promise<Uint8Array>,
): IncomingRequest<Request> {
  const { pathname, search } = new URL(request.url);
  return {
    request,
    method: request.method,
    target: pathname + search,
    headerLines: (name) => headerLines(request, name),
    body: async (bytesMax) => ({ bytes: await read(bytesMax) }),
  };
}

/** `Headers` has joined repeated lines with a comma, which a bare key may not contain. */
function headerLines(request: Request, name: string): string[] {
  const value = request.headers.get(name);
  return value === null ? [] : [value];
}
