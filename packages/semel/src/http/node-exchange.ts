// The way in and out for every framework on `node:http`: reads the request, decides, answers or lets
// the handler run with its response captured.

import type { IncomingMessage, ServerResponse } from "node:http";
import { NotApplied } from "../errors.ts";
import type { Body } from "./body-fingerprint.ts";
import type { Exchange, HttpLayer, IncomingRequest } from "./exchange.ts";
import { discardBody, hasBody, isConsumed, peekBody } from "./node-body.ts";
import { captureResponse, sendResponse } from "./node-capture.ts";
import { setOperation } from "./operation-of.ts";

/** What differs between frameworks on `node:http`. */
export interface NodeRequest<Request> {
  request: Request;
  /** Path and query as the client sent them. */
  target: string;
  /** What a body parser made of the body, if one ran. */
  parsedBody(): unknown;
}

/**
 * Decides about a request and answers it, unless it is to run or to pass.
 *
 * @returns `"answered"`: nothing is left to do; `"pass"`: call the handler; or the exchange, whose
 * response is captured: call the handler
 */
export async function admitNodeRequest<Request>(
  layer: HttpLayer<Request>,
  message: IncomingMessage,
  response: ServerResponse,
  facts: NodeRequest<Request>,
): Promise<"answered" | "pass" | Exchange> {
  const method = message.method ?? "GET";
  const incoming: IncomingRequest<Request> = {
    request: facts.request,
    method,
    target: facts.target,
    headerLines: (name) => headerLines(message, name),
    body: (bytesMax) => bodyOf(message, bytesMax, facts.parsedBody),
  };
  const decision = await layer.decide(incoming);
  if (decision.kind === "pass") return "pass";
  if (decision.kind === "respond") {
    sendResponse(response, decision.response);
    discardBody(message);
    return "answered";
  }
  const { exchange } = decision;
  if (response.destroyed || message.readableAborted) {
    // The client left while the store was asked, and its body with it. Nothing ran.
    await exchange.fail(new NotApplied());
    return "answered";
  }
  response.once("close", () => {
    if (message.readableFlowing === null) discardBody(message);
  });
  setOperation(message, exchange);
  captureResponse(response, exchange);
  return exchange;
}

/** Every field line: `headers` joins repeated ones, and a repeated key must not pass as one. */
function headerLines(message: IncomingMessage, name: string): string[] {
  const lines: string[] = [];
  const { rawHeaders } = message;
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const field = rawHeaders[i]!;
    if (field.length === name.length && field.toLowerCase() === name)
      lines.push(rawHeaders[i + 1]!);
  }
  return lines;
}

async function bodyOf(
  message: IncomingMessage,
  bytesMax: number,
  parsedBody: () => unknown,
): Promise<Body> {
  if (!hasBody(message)) return { bytes: NOTHING };
  if (!isConsumed(message)) return { bytes: await peekBody(message, bytesMax) };
  // Verification hooks of body parsers keep the exact bytes here.
  const { rawBody } = message as { rawBody?: unknown };
  if (rawBody instanceof Uint8Array) return { bytes: rawBody };
  return { parsed: parsedBody() };
}

const NOTHING = new Uint8Array(0);
