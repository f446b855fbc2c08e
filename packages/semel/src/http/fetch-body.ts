// Bodies of the Fetch standard: requests read for their fingerprint, responses captured as they flow.

import { BodyIncomplete, BodyTooLarge } from "../errors.ts";
import type { Exchange } from "./exchange.ts";
import type { HttpResponse } from "./response.ts";

/**
 * Reads a copy of a request's body; the request itself can still be read.
 *
 * @throws {BodyTooLarge} as soon as it is known
 * @throws {BodyIncomplete} when the client stops half-way
 */
export async function copyBody(request: Request, bytesMax: number): Promise<Uint8Array> {
  if (Number(request.headers.get("content-length")) > bytesMax) throw new BodyTooLarge(bytesMax);
  if (request.body === null) return new Uint8Array(0);
  const reader = request.clone().body!.getReader();
  const chunks: Uint8Array[] = [];
  let length = 0;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return Buffer.concat(chunks, length);
      length += value.byteLength;
      if (length > bytesMax) throw new BodyTooLarge(bytesMax);
      chunks.push(value);
    }
  } catch (cause) {
    // Not awaited: a tee's branch is cancelled only when both are.
    reader.cancel().catch(() => {});
    if (cause instanceof BodyTooLarge) throw cause;
    throw new BodyIncomplete({ cause });
  }
}

/**
 * Ends an operation by its response, and returns the response that may leave. What is whole within
 * one turn of the event loop waits for its record; what is a stream flows, and only its end waits.
 */
export async function captureFetchResponse(
  response: Response,
  exchange: Exchange,
): Promise<Response> {
  const head = { status: response.status, headers: [...response.headers] };
  const collected = new Collected(exchange.resultBytesMax);
  if (response.body === null) return settled(response, head, collected, exchange);
  const reader = response.body.getReader();
  let next = reader.read();
  const turn = new Promise<"streaming">((resolve) => setTimeout(resolve, 0, "streaming"));
  try {
    for (;;) {
      const read = await Promise.race([next, turn]);
      if (read === "streaming") return streamed(response, head, collected, reader, next, exchange);
      if (read.done) return await settled(response, head, collected, exchange);
      collected.add(bytesOf(read.value));
      // Too large to keep: no reason to hold it in memory any longer.
      next = reader.read();
      if (!collected.whole) return streamed(response, head, collected, reader, next, exchange);
    }
  } catch (error) {
    await exchange.fail(error);
    throw error;
  }
}

type Read = Awaited<ReturnType<ReadableStreamDefaultReader<unknown>["read"]>>;
type Head = Omit<HttpResponse, "body">;

/** What a body has been so far, up to the bound. */
class Collected {
  readonly #bytesMax: number;
  /** All of it, until it grows over the bound; then what has not been sent yet. */
  chunks: Uint8Array[] = [];
  length = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  get whole(): boolean {
    return this.length <= this.#bytesMax;
  }

  add(chunk: Uint8Array): void {
    this.length += chunk.byteLength;
    // Copied: the producer may reuse its buffer.
    this.chunks.push(chunk.slice());
  }

  forget(): void {
    this.chunks = [];
  }

  bytes(): Uint8Array {
    return this.whole ? Buffer.concat(this.chunks) : new Uint8Array(0);
  }
}

async function settled(
  response: Response,
  head: Head,
  collected: Collected,
  exchange: Exchange,
): Promise<Response> {
  const body = collected.bytes();
  const answer = await exchange.respond({ ...head, body }, true);
  if ("replacement" in answer) return toResponse(answer.replacement);
  return withBody(response, answer.headers, response.body === null ? null : body);
}

/** Passes a stream through; its end waits for the record. */
function streamed(
  response: Response,
  head: Head,
  collected: Collected,
  reader: ReadableStreamDefaultReader<unknown>,
  pending: Promise<Read>,
  exchange: Exchange,
): Response {
  const declared = Number(response.headers.get("content-length") ?? Number.POSITIVE_INFINITY);
  const sent = [...collected.chunks];
  let next = pending;
  let withheld: Uint8Array | undefined;
  if (!collected.whole) collected.forget();

  /** Reads on; resolves to a chunk that may leave, or to nothing at the end. */
  const read = async (): Promise<Uint8Array | undefined> => {
    for (;;) {
      const { done, value } = await next;
      if (done) return undefined;
      const chunk = bytesOf(value);
      next = reader.read();
      collected.add(chunk);
      if (!collected.whole) collected.forget();
      if (collected.length < declared) return chunk;
      withheld = withheld ? Buffer.concat([withheld, chunk]) : chunk;
    }
  };
  const finish = () => exchange.respond({ ...head, body: collected.bytes() }, collected.whole);

  let isPulling = false;
  let clientGone = false;
  // The client left. What the handler still produces is collected to its end (SM-23).
  const drainRest = () => drain(read, finish, exchange);

  const body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      const waiting = sent.shift();
      if (waiting) return controller.enqueue(waiting);
      isPulling = true;
      let chunk: Uint8Array | undefined;
      try {
        chunk = await read();
      } catch (error) {
        await exchange.fail(error);
        throw error;
      }
      isPulling = false;
      if (clientGone && chunk) return drainRest();
      if (chunk) return controller.enqueue(chunk);
      const answer = await finish();
      if (clientGone) return;
      if ("replacement" in answer) throw new Error("another attempt answers this request");
      if (withheld) controller.enqueue(withheld);
      controller.close();
    },
    cancel() {
      clientGone = true;
      if (!isPulling) drainRest();
    },
  });
  return withBody(response, exchange.streamingHeaders(response.status), body);
}

function drain(
  read: () => Promise<Uint8Array | undefined>,
  finish: () => Promise<unknown>,
  exchange: Exchange,
): void {
  const toTheEnd = async () => {
    while (await read()) {
      // Collected by `read`.
    }
    await finish();
  };
  toTheEnd().catch((error) => exchange.fail(error));
}

function bytesOf(chunk: unknown): Uint8Array {
  if (chunk instanceof Uint8Array) return chunk;
  throw new TypeError("A response body must be a stream of Uint8Array");
}

function withBody(
  response: Response,
  added: HttpResponse["headers"],
  body: Uint8Array | ReadableStream<Uint8Array> | null,
): Response {
  const headers = new Headers(response.headers);
  for (const [name, value] of added) headers.set(name, value);
  const { status, statusText } = response;
  return new Response(body, { status, statusText, headers });
}

/** A response that no handler made, in the Fetch standard's form. */
export function toResponse({ status, headers, body }: HttpResponse): Response {
  const isBodiless = status === 204 || status === 205 || status === 304;
  return new Response(isBodiless ? null : body, {
    status,
    headers: headers.map(([name, value]): [string, string] => [name, value]),
  });
}
