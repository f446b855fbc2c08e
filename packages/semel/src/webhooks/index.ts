// Webhooks (MSG-3): a delivery is verified first, then run once; its repetitions get the first answer.

import type { IncomingMessage, ServerResponse } from "node:http";
import type { Idempotency } from "../engine/idempotency.ts";
import type { Exchange, HttpLayer } from "../http/exchange.ts";
import { captureFetchResponse, toResponse } from "../http/fetch-body.ts";
import { admitNodeRequest, sendInTurn } from "../http/node-exchange.ts";
import { sendResponse } from "../http/node-headers.ts";
import { setOperation } from "../http/operation-of.ts";
import type { Delivery } from "./delivery.ts";
import { type WebhookOptions, webhookLayer } from "./options.ts";
import { fetchBody, nodeBody, nodeHeader, problem, receive, TARGET } from "./receive.ts";

export type { HttpOperation } from "../http/exchange.ts";
export { operationOf } from "../http/operation-of.ts";
export { httpResult } from "../http/response.ts";
export type { Delivery, UnverifiedDelivery, Verified, Verifier } from "./delivery.ts";
export { SignatureInvalid } from "./delivery.ts";
export type { WebhookOptions } from "./options.ts";
export type { StandardWebhook, StripeOptions } from "./verifiers.ts";
export { github, standardWebhooks, stripe } from "./verifiers.ts";

/** A webhook endpoint, for whatever serves it. */
export interface Webhook {
  /**
   * A handler for everything that serves `Request → Response`. Further arguments are passed on.
   *
   * @returns a handler that rejects with what `handler` throws, and with `InvalidOption` for a
   * request whose body was read before
   */
  fetch<Rest extends unknown[]>(
    handler: (request: Request, delivery: Delivery, ...rest: Rest) => Response | Promise<Response>,
  ): (request: Request, ...rest: Rest) => Promise<Response>;
  /**
   * A listener for `node:http`, and for everything that serves `(request, response)`, as Express
   * does. The body can still be read from the request.
   *
   * @returns a listener whose promise never rejects
   */
  node(
    handler: (request: IncomingMessage, response: ServerResponse, delivery: Delivery) => unknown,
  ): (request: IncomingMessage, response: ServerResponse) => Promise<void>;
}

/**
 * Makes a webhook endpoint that runs each delivery once. A delivery whose signature does not verify
 * gets 401, and the store is not asked; a repetition gets the first answer. After a 5xx, or when the
 * handler throws, the sender's next attempt runs again.
 *
 * @throws {InvalidOption} when an option is missing, unknown or out of bounds
 * @example
 * const payments = webhook(idempotency, { scope: "stripe-payments", verify: stripe(secret) });
 * export const POST = payments.fetch(async (request, delivery) => {
 *   await fulfil(delivery.json());
 *   return new Response(null, { status: 204 });
 * });
 */
export function webhook(idempotency: Idempotency, options: WebhookOptions): Webhook {
  const layer = webhookLayer(idempotency, options);
  return {
    fetch: (handler) => fetchHandler(layer, options, handler),
    node: (handler) => nodeHandler(layer, options, handler),
  };
}

type FetchHandler<Rest extends unknown[]> = (
  request: Request,
  delivery: Delivery,
  ...rest: Rest
) => Response | Promise<Response>;

function fetchHandler<Rest extends unknown[]>(
  layer: HttpLayer<Delivery>,
  options: WebhookOptions,
  handler: FetchHandler<Rest>,
): (request: Request, ...rest: Rest) => Promise<Response> {
  return async (request, ...rest) => {
    const received = await receive(layer, options, request.method, async (bytesMax) => ({
      body: await fetchBody(request, bytesMax),
      header: (name) => request.headers.get(name) ?? undefined,
    }));
    if ("answer" in received) return toResponse(received.answer);
    const { delivery } = received;
    const decision = await layer.decide({
      request: delivery,
      method: request.method,
      target: TARGET,
      headerLines: (name) => [request.headers.get(name) ?? []].flat(),
      body: async () => ({ bytes: delivery.body }),
    });
    if (decision.kind === "respond") return toResponse(decision.response);
    if (decision.kind === "pass") throw new Error("a delivery always has a key");
    const { exchange } = decision;
    setOperation(request, exchange);
    try {
      const response = await exchange.calling(() => handler(request, delivery, ...rest));
      return await captureFetchResponse(response, exchange, request.signal);
    } catch (error) {
      exchange.failed(error);
      await exchange.fail(error);
      throw error;
    }
  };
}

function nodeHandler(
  layer: HttpLayer<Delivery>,
  options: WebhookOptions,
  handler: (request: IncomingMessage, response: ServerResponse, delivery: Delivery) => unknown,
): (request: IncomingMessage, response: ServerResponse) => Promise<void> {
  const { reportError = console.error } = options;
  return async (request, response) => {
    let exchange: Exchange | undefined;
    try {
      const received = await receive(layer, options, request.method, async (bytesMax) => ({
        body: await nodeBody(request, bytesMax),
        header: (name) => nodeHeader(request, name),
      }));
      if ("answer" in received) return await sendInTurn(request, response, received.answer);
      const { delivery } = received;
      const admitted = await admitNodeRequest(layer, request, response, {
        request: delivery,
        target: TARGET,
        parsedBody: () => delivery.body,
      });
      if (typeof admitted !== "object") return;
      exchange = admitted;
      await exchange.calling(() => handler(request, response, delivery));
    } catch (error) {
      exchange?.failed(error);
      reportError(error);
      if (!response.headersSent) sendResponse(response, problem(500, "Internal Server Error"));
      else if (!response.writableEnded) response.destroy();
    }
  };
}
