// Carries one request to the upstream and its answer back. What a broken exchange says about an
// operation is decided here (GW-3a); the gateway itself never retries.

import type { IncomingMessage, ServerResponse } from "node:http";
import type { HttpOperation } from "semel/node";
import { TIMER_MS_MAX } from "../flags.ts";
import { noteBreakage } from "./access-log.ts";
import { isWhole } from "./framing.ts";
import { fieldLines, requestHeaders } from "./headers.ts";
import { sendProblem } from "./problem.ts";
import { endWith, passHints, relay, type Tap } from "./relay.ts";
import type { Breakage, Upstream, UpstreamCall, UpstreamRequest } from "./upstream.ts";

/** How the requests of a route pass. */
export interface Passage {
  upstream: Upstream;
  trustForwarded: boolean;
  /** Headers that decide whose key it is. */
  scopeHeaders: readonly string[];
  /** How long the upstream may be silent, in milliseconds. */
  silenceMs: number;
  leaseMs: number;
  /** Whether the upstream can be asked what became of an operation. */
  isProbed: boolean;
}

/** Who sees what passes, without being in the way. */
export interface Watching {
  readonly sent: Tap & { whole(): void; broken(): void };
  readonly answered: Tap & { head(answer: IncomingMessage): void };
}

/** Methods that Node sends without a framing header when they have no body. */
const BODILESS = new Set(["GET", "HEAD", "DELETE", "OPTIONS", "TRACE"]);

/** Where a request keeps the host that its client asked for, which its line may say instead of `Host`. */
const CLIENT_HOST = Symbol("semel.client-host");

type Forwarded = IncomingMessage & { [CLIENT_HOST]?: string | undefined };

export function setClientHost(request: Forwarded, host: string | undefined): void {
  request[CLIENT_HOST] = host;
}

/** The upstream's head for a request, framed by `framing`. */
export function upstreamHead(
  request: Forwarded,
  { upstream, trustForwarded, scopeHeaders }: Passage,
  framing: readonly string[],
  attempt?: number,
): UpstreamRequest {
  const headers = requestHeaders(request, {
    host: upstream.origin.host,
    clientHost: request[CLIENT_HOST],
    trustForwarded,
    scopeHeaders,
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
  passage: Passage,
): Promise<void> {
  // Taken at once: a client that leaves would take what is not yet read with it.
  const body: Buffer = request.read() ?? NOTHING;
  const isFramed = body.length > 0 || !BODILESS.has(request.method ?? "GET");
  const framing = isFramed ? ["Content-Length", String(body.length)] : [];
  const head = upstreamHead(request, passage, framing, operation.attempt);
  const { upstream, silenceMs, leaseMs } = passage;
  const call = upstream.open(head, {
    connection: await upstream.connectionForOperation(),
    silenceMs,
  });
  // The HTTP layer tells us that the client is gone only when a stream has had a lease to end in
  // spite of it; after another one, nobody waits for that end any more.
  const abandon = () => {
    const graceMs = Math.min(leaseMs, TIMER_MS_MAX);
    setTimeout(() => call.request.destroy(new Error("the client left")), graceMs).unref();
  };
  response.once("close", abandon);
  passHints(call.request, response);
  try {
    endWith(call.request, body);
    await relay(await call.answer, response, { holdsShort: true });
  } catch (error) {
    const broken = call.breakage(error);
    if (broken.isReached) {
      operation.unknown(`upstream-${broken.isTimeout ? "timeout" : "broken"}: ${broken.message}`);
    } else operation.notApplied();
    answerBroken(response, broken, passage.isProbed ? "probed" : "held");
  } finally {
    response.off("close", abandon);
  }
}

/**
 * Forwards any other request, as a stream that the client may break off.
 *
 * @returns how it came to nothing, unless the answer was whole
 */
export async function forwardPlain(
  request: IncomingMessage,
  response: ServerResponse,
  passage: Passage,
  watching?: Watching,
): Promise<Breakage | undefined> {
  // What came together goes on together: most bodies are whole by then.
  await undefined;
  const connecting = { connection: "kept", silenceMs: passage.silenceMs } as const;
  const head = upstreamHead(request, passage, framingOf(request));
  const call = passage.upstream.open(head, connecting);
  let hasClientLeft = false;
  response.once("close", () => {
    hasClientLeft = !response.writableFinished;
    if (hasClientLeft) call.request.destroy();
  });
  passHints(call.request, response);
  upload(request, call, watching);
  try {
    const answer = await call.answer;
    watching?.answered.head(answer);
    await relay(answer, response, { holdsShort: false, tap: watching?.answered });
    endUpload(request, call);
    return undefined;
  } catch (error) {
    request.unpipe(call.request);
    call.request.destroy();
    const broken = call.breakage(error);
    if (!hasClientLeft) answerBroken(response, broken, undefined);
    return broken;
  }
}

const NOTHING = Buffer.alloc(0);

function upload(
  request: IncomingMessage,
  call: UpstreamCall,
  watching: Watching | undefined,
): void {
  const sent = watching?.sent;
  if (isWhole(request)) {
    const body: Buffer = request.read() ?? NOTHING;
    sent?.chunk(body);
    sent?.whole();
    endWith(call.request, body);
    return;
  }
  request.pipe(call.request);
  if (sent === undefined) return;
  request.on("data", (chunk: Buffer) => sent.chunk(chunk));
  request.once("end", () => sent.whole()).once("close", () => sent.broken());
}

/** The framing headers as the client chose them. */
function framingOf(request: IncomingMessage): string[] {
  if (fieldLines(request.rawHeaders, "transfer-encoding").length > 0) {
    return ["Transfer-Encoding", "chunked"];
  }
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

/** @param operation what becomes of it, where it is one and the upstream was reached */
function answerBroken(
  response: ServerResponse,
  broken: Breakage,
  operation: "held" | "probed" | undefined,
): void {
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
      ...(operation && { retry: "same-key" }),
    });
    return;
  }
  const status = broken.isTimeout ? 504 : 502;
  const what = broken.isTimeout ? "did not answer in time" : "broke the exchange off";
  if (operation === undefined) {
    const code = broken.isTimeout ? "upstream-timeout" : "upstream-broken";
    sendProblem(response, { status, code, detail: `The service behind ${what}` });
    return;
  }
  sendProblem(response, {
    ...{ status, code: "outcome-unknown", ...WHEN_UNKNOWN[operation] },
    detail: `The service behind ${what}, and whether it did its work is unknown; ${WHEN_UNKNOWN[operation].detail}. Do not retry with a new key`,
  });
}

const WHEN_UNKNOWN = {
  held: { retry: "never", detail: "this operation will not run again until it is resolved" },
  probed: { retry: "same-key", detail: "retry with the same key later, and the service is asked" },
} as const;
