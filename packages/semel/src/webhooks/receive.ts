// From a request to a delivery that is known to be its sender's; nothing is asked of the store.

import type { IncomingMessage } from "node:http";
import { BodyTooLarge, InvalidOption, isSemelError, KeyMissing } from "../errors.ts";
import type { HttpLayer } from "../http/exchange.ts";
import { copyBody } from "../http/fetch-body.ts";
import { hasBody, isConsumed, peekBody } from "../http/node-body.ts";
import type { HttpResponse } from "../http/response.ts";
import { shown } from "../options.ts";
import {
  type Delivery,
  type UnverifiedDelivery,
  type Verified,
  verifiedDelivery,
} from "./delivery.ts";
import type { WebhookOptions } from "./options.ts";

/** Not the address: no signature covers it, and the endpoint's scope stands for it. */
export const TARGET = "/";

/** A delivery, or what its sender is answered at once. */
export type Received = { delivery: Delivery } | { answer: HttpResponse };

/**
 * Reads a request and verifies it.
 *
 * @throws {InvalidOption} when the body is gone, or the verifier is none
 */
export async function receive(
  layer: HttpLayer<Delivery>,
  options: WebhookOptions,
  method: string | undefined,
  read: (bytesMax: number) => Promise<UnverifiedDelivery>,
): Promise<Received> {
  if (method !== "POST") {
    return { answer: problem(405, "Method Not Allowed", [["allow", "POST"]]) };
  }
  let unverified: UnverifiedDelivery;
  try {
    unverified = await read(layer.policy.bodyBytesMax);
  } catch (error) {
    if (!isSemelError(error) || error instanceof InvalidOption) throw error;
    return { answer: layer.problem(error) };
  }
  const verified = await verify(options, unverified);
  // Nothing of the reason: it would tell whoever tries how near they came.
  if (verified === undefined) return { answer: problem(401, "Unauthorized") };
  const id = options.id ? options.id(verifiedDelivery(unverified, "")) : verified.id;
  if (id !== undefined) return { delivery: verifiedDelivery(unverified, id) };
  return { answer: layer.problem(new KeyMissing("The delivery carries no id; nothing ran")) };
}

async function verify(
  { verify, onRejected }: WebhookOptions,
  delivery: UnverifiedDelivery,
): Promise<Verified | undefined> {
  let verified: unknown;
  try {
    verified = await verify(delivery);
  } catch (error) {
    told(onRejected, error);
    return undefined;
  }
  // One that answers `false` must not let in what it refused.
  if (typeof verified === "object" && verified !== null) return verified;
  throw new InvalidOption(
    `\`verify\` must return an object such as { id }, and throw for what it cannot verify; it returned ${shown(verified)}`,
  );
}

/** Whoever sends what is not a sender's gets 401, whatever hears of it. */
function told(onRejected: WebhookOptions["onRejected"], reason: unknown): void {
  try {
    onRejected?.(reason);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    process.emitWarning(`\`onRejected\` threw: ${message}`, { code: "SEMEL_ON_REJECTED" });
  }
}

/**
 * The exact bytes of a `Request`, which can still be read.
 *
 * @throws {InvalidOption} when it was read before
 */
export async function fetchBody(request: Request, bytesMax: number): Promise<Uint8Array> {
  if (!request.bodyUsed) return copyBody(request, bytesMax);
  throw new InvalidOption(
    "The body of this request was read before, and a signature covers its exact bytes: pass the request on unread, and use `delivery.json()` or `delivery.body` in the handler",
  );
}

/**
 * The exact bytes of a `node:http` request: its stream, or what a parser kept of it.
 *
 * @throws {InvalidOption} when only a parsed form is left
 * @throws {BodyTooLarge} also for what a parser has kept
 */
export async function nodeBody(message: IncomingMessage, bytesMax: number): Promise<Uint8Array> {
  if (!hasBody(message)) return new Uint8Array(0);
  // A copy: what a handler does to its delivery must not be read from the stream.
  if (!isConsumed(message)) return Buffer.from(await peekBody(message, bytesMax));
  const { rawBody, body } = message as { rawBody?: unknown; body?: unknown };
  const kept = [rawBody, body].find((bytes) => bytes instanceof Uint8Array);
  if (kept && kept.byteLength > bytesMax) throw new BodyTooLarge(bytesMax);
  if (kept) return kept;
  throw new InvalidOption(
    "The body of this request was parsed before, and a signature covers its exact bytes: mount the webhook before body parsers, or use `express.raw({ type: () => true })` on its route, or keep the bytes with `express.json({ verify: (req, _res, bytes) => { req.rawBody = bytes; } })`",
  );
}

/** A header's lines, joined as in the Fetch standard. */
export function nodeHeader(message: IncomingMessage, name: string): string | undefined {
  const value = message.headers[name.toLowerCase()];
  return Array.isArray(value) ? value.join(", ") : value;
}

/** A refusal that is not about a key. */
export function problem(
  status: number,
  title: string,
  headers: HttpResponse["headers"] = [],
): HttpResponse {
  return {
    status,
    headers: [
      ["content-type", "application/problem+json"],
      ["cache-control", "no-store"],
      ...headers,
    ],
    body: Buffer.from(JSON.stringify({ title, status })),
  };
}
