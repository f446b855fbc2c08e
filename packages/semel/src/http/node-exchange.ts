// The way in and out for every framework on `node:http`: reads the request, decides, answers or lets
// the handler run with its response captured.

import type { IncomingMessage, ServerResponse } from "node:http";
import { InvalidOption, KeyInvalid, NotApplied } from "../errors.ts";
import type { Body, UploadedFile } from "./body-fingerprint.ts";
import type { Exchange, HttpLayer, IncomingRequest } from "./exchange.ts";
import { shareInlineCaches } from "./hidden-class.ts";
import { bodyLeft, discardBody, hasBody, hasLeft, isTaken, peekBody } from "./node-body.ts";
import { captureResponse } from "./node-capture.ts";
import { sendResponse } from "./node-headers.ts";
import { operationOf, setOperation } from "./operation-of.ts";
import type { HttpResponse } from "./response.ts";
import { turnEnd } from "./turn.ts";

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
 * @throws {InvalidOption} when the request is an operation already
 */
export async function admitNodeRequest<Request>(
  layer: HttpLayer<Request>,
  message: IncomingMessage,
  response: ServerResponse,
  facts: NodeRequest<Request>,
): Promise<"answered" | "pass" | Exchange> {
  const incoming = incomingRequest(message, response, facts);
  const decision = await layer.decide(incoming);
  if (decision.kind === "pass") return "pass";
  shareInlineCaches(message, response);
  if (decision.kind === "respond") {
    await sendInTurn(message, response, decision.response);
    return "answered";
  }
  const { exchange } = decision;
  if (response.destroyed || hasLeft(message)) {
    // The client left while the store was asked, and its body with it. Nothing ran.
    await exchange.fail(new NotApplied());
    return "answered";
  }
  // Node itself discards what nobody has begun to read, not what was read and put back.
  if ((message as { _consuming?: boolean })._consuming !== false) {
    response.on("close", () => {
      if (message.readableFlowing === null) discardBody(message);
    });
  }
  setOperation(message, exchange);
  captureResponse(response, exchange);
  return exchange;
}

/**
 * What the HTTP layer asks of a request.
 *
 * @throws {InvalidOption} when the request is an operation already
 */
export function incomingRequest<Request>(
  message: IncomingMessage,
  response: ServerResponse,
  facts: NodeRequest<Request>,
): IncomingRequest<Request> {
  if (operationOf(message) !== undefined) {
    throw new InvalidOption("`idempotent()` is mounted twice for this request; keep one of them");
  }
  return new IncomingNodeRequest(message, response, facts);
}

class IncomingNodeRequest<Request> implements IncomingRequest<Request> {
  readonly request: Request;
  readonly method: string;
  readonly target: string;
  readonly #message: IncomingMessage;
  readonly #response: ServerResponse;
  readonly #facts: NodeRequest<Request>;

  constructor(message: IncomingMessage, response: ServerResponse, facts: NodeRequest<Request>) {
    this.request = facts.request;
    this.method = message.method ?? "GET";
    this.target = facts.target;
    this.#message = message;
    this.#response = response;
    this.#facts = facts;
  }

  headerLines(name: string): readonly string[] {
    return headerLines(this.#message, name);
  }

  body(bytesMax: number): Body | Promise<Body> {
    const message = this.#message;
    if (!hasBody(message)) return { bytes: NOTHING };
    if (!isTaken(message)) {
      const bytes = peekBody(message, bytesMax);
      if (!(bytes instanceof Promise)) return { bytes };
      if (message.headers.expect !== undefined) inviteBody(message, this.#response);
      return bytes.then((bytes) => ({ bytes }));
    }
    // Verification hooks of body parsers keep the exact bytes here.
    const { rawBody } = message as { rawBody?: unknown };
    const left = bodyLeft(message, this.#facts.parsedBody(), rawBody);
    const files = filesOf(message);
    return "bytes" in left || files.length === 0 ? left : { ...left, files };
  }
}

/**
 * Tells a client that waits to be told so to send its body (RFC 9110 §10.1.1): a listener of `checkContinue` has to
 * do it, and would be called when the body is there. It may do it again.
 */
function inviteBody({ headers }: IncomingMessage, response: ServerResponse): void {
  const { _sent100: isInvited } = response as { _sent100?: boolean };
  if (isInvited !== false || headers.expect?.toLowerCase() !== "100-continue") return;
  response.writeContinue();
  response.writeContinue = (callback) => callback && process.nextTick(callback);
}

/** What `multer` has left beside the fields of a form: one file, a list of them, or lists by name. */
function filesOf(message: object): UploadedFile[] {
  const { file, files } = message as { file?: UploadedFile; files?: object };
  return [file ?? [], Object.values(files ?? {})].flat(2);
}

/** Sends a response that no handler made. */
export async function sendInTurn(
  message: IncomingMessage,
  response: ServerResponse,
  answer: HttpResponse,
): Promise<void> {
  await turnEnd();
  sendResponse(response, answer);
  discardBody(message);
}

/** How many lines of a head Node reads unless told otherwise; its documentation says twice that. */
const HEADER_LINES_MAX = 1_000;

/**
 * Every field line: `headers` joins repeated ones, and a repeated key must not pass as one.
 *
 * @throws {KeyInvalid} when Node may have dropped lines, which it does without a word: the key could
 * be among them, or the length of the body (`server.maxHeadersCount`)
 */
export function headerLines(message: IncomingMessage, name: string): string[] {
  const lines: string[] = [];
  const { rawHeaders } = message;
  const { socket } = message as { socket?: { server?: { maxHeadersCount?: number | null } } };
  const linesMax = socket?.server?.maxHeadersCount ?? HEADER_LINES_MAX;
  if (linesMax > 0 && rawHeaders.length >= 2 * linesMax) {
    throw new KeyInvalid(
      `The request may have more header lines than are read here (${linesMax}), and its key could be among those left out; send fewer`,
    );
  }
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const field = rawHeaders[i]!;
    if (field.length === name.length && field.toLowerCase() === name)
      lines.push(rawHeaders[i + 1]!);
  }
  return lines;
}

const NOTHING = new Uint8Array(0);
