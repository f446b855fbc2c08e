// One attempt: a request out, and its answer in, as whole as it has to be.

import { Limit, unlessAborted } from "./limit.ts";
import type { Settings } from "./options.ts";
import { concatenated } from "./request.ts";
import { type Answer, type Problem, problemOf } from "./verdict.ts";

/** What an attempt came to. */
export type AttemptOutcome =
  | { kind: "answer"; response: Response; answer: Answer; limit: Limit; isWhole: boolean }
  | { kind: "failure"; error: unknown };

/** Problems are read up to here, also where the answer would flow. */
const PROBLEM_BYTES_MAX = 65_536;

/**
 * Sends a request once.
 *
 * @param send makes the request
 * @param isBuffered whether an answer counts only when its body is here
 * @param parent ends the attempt as well
 */
export async function attemptOnce(
  settings: Settings,
  send: (signal: AbortSignal) => Promise<Response>,
  isBuffered: boolean,
  parent: AbortSignal,
): Promise<AttemptOutcome> {
  const { clock, attemptTimeoutMs, responseBytesMax } = settings;
  const limit = new Limit(clock, parent, attemptTimeoutMs, () => {
    const message = `The attempt got no whole answer within \`attemptTimeout\` (${attemptTimeoutMs} ms)`;
    return new DOMException(message, "TimeoutError");
  });
  let response: Response | undefined;
  try {
    response = await unlessAborted(send(limit.signal), limit.signal, discard);
    const bytesMax = bytesToRead(response, isBuffered, responseBytesMax);
    const { body, isWhole } = await unlessAborted(received(response, bytesMax), limit.signal);
    limit.stopTime();
    if (isWhole) limit.release();
    const problem = isProblem(response) && isWhole ? problemIn(body) : undefined;
    const { status, headers } = response;
    return { kind: "answer", response, answer: { status, headers, problem }, limit, isWhole };
  } catch (error) {
    if (response) discard(response);
    limit.release();
    return { kind: "failure", error };
  }
}

/** Gives up what is left of an answer, so that its connection can be used again. */
export function discard(response: Response): void {
  response.body?.cancel().catch(() => {});
}

function bytesToRead(response: Response, isBuffered: boolean, responseBytesMax: number): number {
  // It says whether to send again, however little of other answers is read.
  if (isProblem(response)) return Math.max(PROBLEM_BYTES_MAX, isBuffered ? responseBytesMax : 0);
  // An event stream is meant to be read while it comes.
  const isRead = isBuffered && mediaType(response) !== "text/event-stream";
  return isRead ? responseBytesMax : 0;
}

function isProblem(response: Response): boolean {
  return response.status >= 400 && mediaType(response) === "application/problem+json";
}

function mediaType({ headers }: Response): string {
  return (headers.get("content-type") ?? "").split(";", 1)[0]!.trim().toLowerCase();
}

function problemIn(body: Uint8Array): Problem | undefined {
  return problemOf(new TextDecoder().decode(body));
}

/**
 * Reads an answer's body up to a bound; the caller can still read all of it, from memory as far as
 * it was read here.
 */
async function received(
  response: Response,
  bytesMax: number,
): Promise<{ body: Uint8Array; isWhole: boolean }> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  if (response.body === null) return { body: concatenated(chunks, length), isWhole: true };
  if (bytesMax === 0) return { body: concatenated(chunks, length), isWhole: false };
  const reader = response.clone().body!.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return { body: concatenated(chunks, length), isWhole: true };
    chunks.push(value);
    length += value.byteLength;
    if (length > bytesMax) {
      // Not awaited: a branch is cancelled only when both are.
      reader.cancel().catch(() => {});
      return { body: concatenated(chunks, length), isWhole: false };
    }
  }
}
