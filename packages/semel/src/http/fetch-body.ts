// Bodies of the Fetch standard: requests read for their fingerprint, responses captured as they flow.

import { systemClock } from "../clock.ts";
import { BodyIncomplete, BodyTooLarge } from "../errors.ts";
import { exposedHeaders } from "./cors.ts";
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
 *
 * @param signal aborts when the client leaves
 * @throws what the body throws while it is read, and for what is no response; the operation is not
 * ended then
 */
export async function captureFetchResponse(
  response: Response,
  exchange: Exchange,
  signal: AbortSignal,
): Promise<Response> {
  const head: Head = { status: checkedStatus(response), headers: [...response.headers] };
  const collected = new Collected(exchange.resultBytesMax);
  const source = response.body && new Source(response.body.getReader());
  if (source && !(await isWholeWithinTurn(source, collected))) {
    const stream = new Stream(source, collected, head, exchange);
    return withBody(response, exchange.streamingHeaders(head), stream.open(signal));
  }
  const body = collected.bytes();
  const answer = await exchange.respond({ ...head, body }, true);
  if ("replacement" in answer) return toResponse(answer.replacement);
  return withBody(response, answer.headers, source && body);
}

/**
 * Reads the whole of a response that is to leave later.
 *
 * @throws what the body throws while it is read, and for what is no response
 */
export async function wholeResponse(response: Response): Promise<HttpResponse> {
  const head = { status: checkedStatus(response), headers: [...response.headers] };
  return { ...head, body: new Uint8Array(await response.arrayBuffer()) };
}

type Read = Awaited<ReturnType<ReadableStreamDefaultReader<unknown>["read"]>>;
type Head = Omit<HttpResponse, "body">;

/** What cannot be sent must not become a result: `Response.error()`, or nothing at all. */
function checkedStatus(response: Response | undefined): number {
  const status = response?.status;
  if (typeof status === "number" && status >= 200 && status <= 599) return status;
  throw new TypeError(`The handler must return a Response with a status, it returned ${response}`);
}

/** A body that is read chunk by chunk; a read that was begun and left is taken up again. */
class Source {
  readonly #reader: ReadableStreamDefaultReader<unknown>;
  #begun: Promise<Read> | undefined;

  constructor(reader: ReadableStreamDefaultReader<unknown>) {
    this.#reader = reader;
  }

  begin(): Promise<Read> {
    if (this.#begun === undefined) {
      this.#begun = this.#reader.read();
      // Whoever takes it up hears of it; until then it must not count as unhandled.
      this.#begun.catch(() => {});
    }
    return this.#begun;
  }

  /** The next chunk, or `undefined` at the end. */
  async next(): Promise<Uint8Array | undefined> {
    const { done, value } = await this.begin();
    this.#begun = undefined;
    return done ? undefined : bytesOf(value);
  }

  cancel(): void {
    this.#reader.cancel(new Error("the client left")).catch(() => {});
  }
}

/** What a body has been so far, up to the bound. */
class Collected {
  readonly #bytesMax: number;
  /** All of it, until it grows over the bound. */
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

/** Reads until the end, the bound, or the end of this turn of the event loop. */
async function isWholeWithinTurn(source: Source, collected: Collected): Promise<boolean> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const turn = new Promise<"over">((resolve) => {
    timer = setTimeout(resolve, 0, "over");
  });
  try {
    while ((await Promise.race([source.begin(), turn])) !== "over") {
      const chunk = await source.next();
      if (chunk === undefined) return true;
      collected.add(chunk);
      // Too large to keep: no reason to hold it in memory any longer.
      if (!collected.whole) return false;
    }
    return false;
  } finally {
    clearTimeout(timer);
  }
}

/** A body that passes through; its end waits for the record. */
class Stream {
  readonly #source: Source;
  readonly #collected: Collected;
  readonly #head: Head;
  readonly #exchange: Exchange;
  readonly #declared: number;
  /** What was read before it was known that this is a stream. */
  readonly #waiting: Uint8Array[];
  /** The bytes that complete a declared length, which wait for the record. */
  #withheld: Uint8Array | undefined;
  #isReading = false;
  #clientGone = false;
  #gaveUp = false;
  #cleanUp = () => {};

  constructor(source: Source, collected: Collected, head: Head, exchange: Exchange) {
    this.#source = source;
    this.#collected = collected;
    this.#head = head;
    this.#exchange = exchange;
    const length = head.headers.find(([name]) => name === "content-length")?.[1];
    this.#declared = Number(length ?? Number.POSITIVE_INFINITY);
    this.#waiting = [...collected.chunks];
    if (collected.length >= this.#declared) this.#withheld = this.#waiting.pop();
    if (!collected.whole) collected.forget();
  }

  open(signal: AbortSignal): ReadableStream<Uint8Array> {
    return new ReadableStream<Uint8Array>({
      start: (controller) => {
        const onAbort = () => {
          this.#leave();
          controller.error(signal.reason);
        };
        signal.addEventListener("abort", onAbort, { once: true });
        this.#cleanUp = () => signal.removeEventListener("abort", onAbort);
        if (signal.aborted) onAbort();
      },
      pull: (controller) => this.#pull(controller),
      cancel: () => this.#leave(),
    });
  }

  async #pull(controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> {
    const waiting = this.#waiting.shift();
    if (waiting) return controller.enqueue(waiting);
    this.#isReading = true;
    const chunk = await this.#advance();
    this.#isReading = false;
    if (this.#clientGone) {
      if (chunk) void this.#drain();
    } else if (chunk) controller.enqueue(chunk);
    else {
      if (this.#withheld) controller.enqueue(this.#withheld);
      controller.close();
    }
  }

  /** Reads on: to a chunk that may leave, or to the end of the body and with it of the operation. */
  async #advance(): Promise<Uint8Array | undefined> {
    try {
      for (;;) {
        const chunk = await this.#source.next();
        if (chunk === undefined) break;
        this.#collected.add(chunk);
        if (!this.#collected.whole) this.#collected.forget();
        if (this.#collected.length < this.#declared) return chunk;
        this.#withheld = this.#withheld ? Buffer.concat([this.#withheld, chunk]) : chunk;
      }
    } catch (error) {
      this.#cleanUp();
      await this.#exchange.fail(error);
      throw error;
    }
    this.#cleanUp();
    await this.#end();
    return undefined;
  }

  async #end(): Promise<void> {
    const collected = this.#collected;
    const isShort = Number.isFinite(this.#declared) && collected.length < this.#declared;
    if (this.#gaveUp || isShort) {
      const why = isShort
        ? "it ended before its Content-Length"
        : "the client left, it did not end";
      await this.#exchange.broken(`response-broken: ${why}`);
      throw new Error("the response ended before it was whole");
    }
    const body = collected.bytes();
    const answer = await this.#exchange.respond({ ...this.#head, body }, collected.whole);
    if ("replacement" in answer) throw new Error("another attempt answers this request");
  }

  /** The client left. What the handler still produces is collected, for one lease (SM-23). */
  #leave(): void {
    if (this.#clientGone) return;
    this.#clientGone = true;
    const removeListener = this.#cleanUp;
    const cancelGrace = systemClock.schedule(this.#exchange.leaseMs, () => {
      this.#gaveUp = true;
      this.#source.cancel();
    });
    this.#cleanUp = () => {
      removeListener();
      cancelGrace();
    };
    if (!this.#isReading) void this.#drain();
  }

  async #drain(): Promise<void> {
    try {
      while (await this.#advance()) {
        // Collected on the way.
      }
    } catch {
      // The operation has ended by it, and nobody else is there to be told.
    }
  }
}

function bytesOf(chunk: unknown): Uint8Array {
  if (chunk instanceof Uint8Array) return chunk;
  throw new TypeError("A response body must be a stream of Uint8Array");
}

/** A response with more headers, and with the body that was read from it. */
export function withBody(
  response: Response,
  added: HttpResponse["headers"],
  body: Uint8Array | ReadableStream<Uint8Array> | null,
): Response {
  const headers = new Headers(response.headers);
  for (const [name, value] of added) headers.set(name, value);
  const exposed = added.length > 0 ? exposedHeaders((name) => headers.get(name)) : undefined;
  if (exposed !== undefined) headers.set("access-control-expose-headers", exposed);
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
