// Carries one request to the upstream and its answer back. What a broken exchange says about an
// operation is decided here (GW-3a); the gateway itself never retries.

import type { IncomingMessage, ServerResponse } from "node:http";
import type { HttpOperation } from "semel/node";
import { TIMER_MS_MAX } from "../flags.ts";
import { noteBreakage } from "./access-log.ts";
import { fieldLines, requestHeaders } from "./headers.ts";
import type { GatewayOptions } from "./options.ts";
import { sendProblem } from "./problem.ts";
import { passHints, relay } from "./relay.ts";
import { scopeHeaders } from "./scope.ts";
import type { Breakage, Upstream, UpstreamCall, UpstreamRequest } from "./upstream.ts";

/** Methods that Node sends without a framing header when they have no body. */
const BODILESS = new Set(["GET", "HEAD", "DELETE", "OPTIONS", "TRACE"]);

/** The host that a client asked for, where its request line said something else than `Host`. */
const clientHosts = new WeakMap<IncomingMessage, string | undefined>();

export function setClientHost(request: IncomingMessage, host: string | undefined): void {
  clientHosts.set(request, host);
}

/** The upstream's head for a request, framed by `framing`. */
export function upstreamHead(
  request: IncomingMessage,
  options: GatewayOptions,
  framing: readonly string[],
  attempt?: number,
): UpstreamRequest {
  const headers = requestHeaders(request, {
    host: options.upstream.host,
    clientHost: clientHosts.get(request),
    trustForwarded: options.trustForwarded,
    scopeHeaders: scopeHeaders(options.scope),
    attempt,
  });
  headers.push(...framing);
  return { method: request.method ?? "GET", path: request.url ?? "/", headers };
}

/** Forwards a request that is an operation: whole, and to its end whatever the client does. */
export async function forwardOperation(
  request: IncomingMessage,
  response: ServerResponse,
  operation: HttpOperation,
  upstream: Upstream,
  options: GatewayOptions,
): Promise<void> {
  // Taken at once: a client that leaves would take what is not yet read with it.
  const body: Buffer = request.read() ?? Buffer.alloc(0);
  const isFramed = body.length > 0 || !BODILESS.has(request.method ?? "GET");
  const framing = isFramed ? ["Content-Length", String(body.length)] : [];
  const head = upstreamHead(request, options, framing, operation.attempt);
  const call = upstream.open(head, "fresh");
  // The HTTP layer tells us that the client is gone only when a stream has had a lease to end in
  // spite of it; after another one, nobody waits for that end any more.
  const abandon = () => {
    const graceMs = Math.min(options.leaseMs, TIMER_MS_MAX);
    setTimeout(() => call.request.destroy(new Error("the client left")), graceMs).unref();
  };
  response.once("close", abandon);
  passHints(call.request, response);
  try {
    call.request.end(body);
    await relay(await call.answer, response, { holdsShort: true });
  } catch (error) {
    const broken = call.breakage(error);
    if (broken.isReached) {
      operation.hold(`upstream-${broken.isTimeout ? "timeout" : "broken"}: ${broken.message}`);
    } else operation.notApplied();
    answerBroken(response, broken, true);
  } finally {
    response.off("close", abandon);
  }
}

/** Forwards any other request, as a stream that the client may break off. */
export async function forwardPlain(
  request: IncomingMessage,
  response: ServerResponse,
  upstream: Upstream,
  options: GatewayOptions,
): Promise<void> {
  const framing = framingOf(request);
  const call = upstream.open(upstreamHead(request, options, framing), "kept");
  let hasClientLeft = false;
  response.once("close", () => {
    hasClientLeft = !response.writableFinished;
    if (hasClientLeft) call.request.destroy();
  });
  passHints(call.request, response);
  request.pipe(call.request);
  try {
    await relay(await call.answer, response, { holdsShort: false });
    endUpload(request, call);
  } catch (error) {
    request.unpipe(call.request);
    call.request.destroy();
    if (!hasClientLeft) answerBroken(response, call.breakage(error), false);
  }
}

/** The framing headers as the client chose them. */
function framingOf(request: IncomingMessage): string[] {
  if ("transfer-encoding" in request.headers) return ["Transfer-Encoding", "chunked"];
  const [length] = fieldLines(request.rawHeaders, "content-length");
  if (length !== undefined) return ["Content-Length", length.trim()];
  return BODILESS.has(request.method ?? "GET") ? [] : ["Content-Length", "0"];
}

/** The upstream has answered without waiting for the rest of the body: it does not want it. */
function endUpload(request: IncomingMessage, { request: upload }: UpstreamCall): void {
  if (upload.writableEnded) return;
  request.unpipe(upload);
  upload.destroy();
}

function answerBroken(response: ServerResponse, broken: Breakage, isOperation: boolean): void {
  noteBreakage(response, broken.message);
  // The head has left: breaking off is the only way to say that this is not the whole answer.
  if (response.headersSent) {
    response.destroy();
    return;
  }
  if (!broken.isReached) {
    sendProblem(response, {
      status: 502,
      code: "upstream-unreachable",
      detail: "The service behind could not be reached; nothing ran",
      ...(isOperation && { retry: "same-key" }),
    });
    return;
  }
  const status = broken.isTimeout ? 504 : 502;
  const what = broken.isTimeout ? "did not answer in time" : "broke the exchange off";
  if (isOperation) {
    sendProblem(response, {
      status,
      code: "outcome-unknown",
      detail: `The service behind ${what}, and whether it did its work is unknown; this operation will not run again until it is resolved. Do not retry with a new key`,
      retry: "never",
    });
    return;
  }
  const code = broken.isTimeout ? "upstream-timeout" : "upstream-broken";
  sendProblem(response, { status, code, detail: `The service behind ${what}` });
}
