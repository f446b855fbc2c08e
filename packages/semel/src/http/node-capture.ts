// Captures a `node:http` response where its bytes are written. What is one answer is held until its
// record is durable; what is a stream flows as it comes, and only its end waits (SM-21, HTTP-14).

import type { OutgoingHttpHeader, OutgoingHttpHeaders, ServerResponse } from "node:http";
import type { Exchange } from "./exchange.ts";
import type { HttpResponse } from "./response.ts";

type Chunk = string | Uint8Array;
type Callback = (error?: Error | null) => void;
type Patched = "writeHead" | "write" | "end" | "flushHeaders" | "destroy" | "emit";
type HeadersArgument = OutgoingHttpHeaders | OutgoingHttpHeader[];

/**
 * Takes over a response until the operation that makes it has ended.
 */
export function captureResponse(response: ServerResponse, exchange: Exchange): void {
  new Capture(response, exchange).install();
}

class Capture {
  readonly #response: ServerResponse;
  readonly #exchange: Exchange;
  readonly #original: Pick<ServerResponse, Patched>;
  #chunks: Uint8Array[] = [];
  #length = 0;
  #tooLarge = false;
  /** The head has left, and what is written flows. */
  #streaming = false;
  /** `end()` was called: the answer is whole. */
  #ended = false;
  /** The client is gone; the handler is not told before it is done (SM-23). */
  #clientGone = false;
  #cancelGrace: (() => void) | undefined;
  /** The bytes that complete a declared length, which wait for the record. */
  #withheld: Buffer | undefined;

  constructor(response: ServerResponse, exchange: Exchange) {
    this.#response = response;
    this.#exchange = exchange;
    const { writeHead, write, end, flushHeaders, destroy, emit } = response;
    this.#original = { writeHead, write, end, flushHeaders, destroy, emit };
  }

  install(): void {
    const response = this.#response;
    const capture = this;
    response.writeHead = function writeHead(
      status: number,
      reason?: string | HeadersArgument,
      headers?: HeadersArgument,
    ) {
      capture.#writeHead(status, reason, headers);
      return response;
    } as ServerResponse["writeHead"];
    response.flushHeaders = () => {
      if (this.#ended || this.#streaming) return;
      this.#startStreaming();
      if (!this.#clientGone) this.#original.flushHeaders.call(response);
    };
    response.write = ((chunk: Chunk, encoding?: BufferEncoding | Callback, callback?: Callback) =>
      typeof encoding === "function"
        ? this.#write(chunk, undefined, encoding)
        : this.#write(chunk, encoding, callback)) as ServerResponse["write"];
    response.end = ((
      chunk?: Chunk | Callback | null,
      encoding?: BufferEncoding | Callback,
      callback?: Callback,
    ) => {
      if (typeof chunk === "function") this.#end(undefined, undefined, chunk);
      else if (typeof encoding === "function") this.#end(chunk, undefined, encoding);
      else this.#end(chunk, encoding, callback);
      return response;
    }) as ServerResponse["end"];
    response.destroy = (error?: Error) => {
      if (!this.#ended) void this.#breakOff(error);
      return this.#original.destroy.call(response, error);
    };
    response.emit = function emit(
      this: ServerResponse,
      ...event: Parameters<ServerResponse["emit"]>
    ) {
      if (event[0] === "close" && capture.#shields()) return true;
      return capture.#original.emit.apply(this, event);
    } as ServerResponse["emit"];
    // The client may have left while the store was asked.
    if (response.destroyed) this.#shields();
  }

  #writeHead(
    status: number,
    reason: string | HeadersArgument | undefined,
    headers: HeadersArgument | undefined,
  ): void {
    const response = this.#response;
    if (this.#ended || this.#streaming) return;
    response.statusCode = status;
    if (typeof reason === "string") response.statusMessage = reason;
    const given = typeof reason === "object" ? reason : headers;
    if (Array.isArray(given)) setHeaderPairs(response, given);
    else {
      for (const [name, value] of Object.entries(given ?? {})) {
        if (value !== undefined) response.setHeader(name, value);
      }
    }
  }

  #startStreaming(): void {
    if (this.#streaming) return;
    this.#streaming = true;
    const response = this.#response;
    if (this.#clientGone || response.headersSent) return;
    for (const [name, value] of this.#exchange.streamingHeaders(response.statusCode)) {
      response.setHeader(name, value);
    }
  }

  #write(
    chunk: Chunk,
    encoding: BufferEncoding | undefined,
    callback: Callback | undefined,
  ): boolean {
    if (this.#ended) {
      if (callback) process.nextTick(callback, new Error("write after end"));
      return false;
    }
    const bytes = toBytes(chunk, encoding);
    this.#startStreaming();
    this.#collect(bytes);
    if (this.#clientGone) {
      if (callback) process.nextTick(callback);
      return true;
    }
    const declared = Number(this.#response.getHeader("content-length") ?? Number.POSITIVE_INFINITY);
    if (this.#length < declared || bytes.byteLength === 0) {
      return this.#original.write.call(this.#response, bytes, callback as never);
    }
    this.#withheld = this.#withheld ? Buffer.concat([this.#withheld, bytes]) : bytes;
    if (callback) process.nextTick(callback);
    return true;
  }

  #end(
    chunk: Chunk | null | undefined,
    encoding: BufferEncoding | undefined,
    callback: Callback | undefined,
  ): void {
    if (this.#ended) {
      if (callback) process.nextTick(callback);
      return;
    }
    this.#ended = true;
    const bytes = chunk === undefined || chunk === null ? undefined : toBytes(chunk, encoding);
    if (bytes) this.#collect(bytes);
    void this.#finish(bytes, callback);
  }

  #collect(bytes: Uint8Array): void {
    this.#length += bytes.byteLength;
    if (this.#length > this.#exchange.resultBytesMax) {
      this.#tooLarge = true;
      this.#chunks = [];
    } else this.#chunks.push(bytes);
  }

  async #finish(last: Buffer | undefined, callback: Callback | undefined): Promise<void> {
    const response = this.#response;
    const headers = headersOf(response);
    const status = response.statusCode;
    const reason = response.statusMessage;
    const body = Buffer.concat(this.#chunks);
    this.#chunks = [];
    const whole = !this.#tooLarge;
    const answer = await this.#exchange.respond({ status, headers, body }, whole);
    this.#uninstall();
    if (this.#clientGone) return this.#announceClose();
    if (this.#streaming) {
      // Bytes of a superseded attempt have left already: break off rather than let two answers pass.
      if ("replacement" in answer) response.destroy();
      else {
        if (this.#withheld) response.write(this.#withheld);
        response.end(last ?? undefined, callback as never);
      }
      return;
    }
    if ("replacement" in answer) {
      sendResponse(response, answer.replacement);
      return;
    }
    // As the handler left it: an error handler may have touched it since.
    response.statusCode = status;
    response.statusMessage = reason;
    restoreHeaders(response, headers);
    for (const [name, value] of answer.headers) response.setHeader(name, value);
    response.end(last ?? undefined, callback as never);
  }

  #uninstall(): void {
    this.#cancelGrace?.();
    Object.assign(this.#response, this.#original);
  }

  /**
   * The client went away before the answer was whole. Pipes and pipelines would stop, and the
   * handler's effect would have no record; so the response stays open towards the handler, for one
   * lease, and what it writes is collected.
   */
  #shields(): boolean {
    if (this.#clientGone) return true;
    this.#clientGone = true;
    const response = this.#response as ServerResponse & { destroyed: boolean; _closed: boolean };
    response.destroyed = false;
    response._closed = false;
    const timer = setTimeout(() => this.#giveUp(), this.#exchange.leaseMs);
    timer.unref();
    this.#cancelGrace = () => clearTimeout(timer);
    return true;
  }

  /** Endless streams must learn that nobody listens. One that began and never ends is no result. */
  #giveUp(): void {
    if (this.#ended || !this.#streaming) return;
    this.#announceClose();
    const timer = setTimeout(() => {
      if (this.#ended) return;
      this.#ended = true;
      this.#uninstall();
      void this.#exchange.broken("response-broken: the client left and the response never ended");
    }, this.#exchange.leaseMs);
    timer.unref();
    this.#cancelGrace = () => clearTimeout(timer);
  }

  /** The handler, or a pipeline whose source failed, broke its own response off. */
  async #breakOff(error: Error | undefined): Promise<void> {
    this.#ended = true;
    this.#uninstall();
    await this.#exchange.fail(error ?? new Error("the response was destroyed before its end"));
  }

  #announceClose(): void {
    const response = this.#response as ServerResponse & { destroyed: boolean; _closed: boolean };
    response.destroyed = true;
    response._closed = true;
    this.#original.emit.call(response, "close");
  }
}

/** Sends a response that no handler made. */
export function sendResponse(
  response: ServerResponse,
  { status, headers, body }: HttpResponse,
): void {
  for (const name of response.getHeaderNames()) {
    // What the application's own middleware set stays; what describes another body does not.
    if (name.startsWith("content-") || name === "etag" || name === "transfer-encoding") {
      response.removeHeader(name);
    }
  }
  response.statusCode = status;
  response.statusMessage = "";
  const seen = new Set<string>();
  for (const [name, value] of headers) {
    if (seen.has(name)) response.appendHeader(name, value);
    else response.setHeader(name, value);
    seen.add(name);
  }
  response.end(body);
}

function headersOf(response: ServerResponse): [string, string][] {
  const fields: [string, string][] = [];
  for (const [name, value] of Object.entries(response.getHeaders())) {
    if (Array.isArray(value)) for (const item of value) fields.push([name, String(item)]);
    else if (value !== undefined) fields.push([name, String(value)]);
  }
  return fields;
}

function restoreHeaders(response: ServerResponse, headers: readonly [string, string][]): void {
  const wanted = new Map<string, string[]>();
  for (const [name, value] of headers) {
    const values = wanted.get(name);
    if (values) values.push(value);
    else wanted.set(name, [value]);
  }
  for (const name of response.getHeaderNames()) {
    if (!wanted.has(name)) response.removeHeader(name);
  }
  for (const [name, values] of wanted) {
    const current = response.getHeader(name);
    if (String(current) === values.join(",")) continue;
    response.setHeader(name, values.length === 1 ? values[0]! : values);
  }
}

function setHeaderPairs(response: ServerResponse, pairs: readonly unknown[]): void {
  const flat = pairs.flat() as string[];
  const names = new Set<string>();
  for (let i = 0; i + 1 < flat.length; i += 2) {
    const name = flat[i]!;
    if (names.has(name.toLowerCase())) response.appendHeader(name, flat[i + 1]!);
    else response.setHeader(name, flat[i + 1]!);
    names.add(name.toLowerCase());
  }
}

// Copied: the handler may reuse its buffer before the record is written.
function toBytes(chunk: Chunk, encoding: BufferEncoding | undefined): Buffer {
  return typeof chunk === "string" ? Buffer.from(chunk, encoding ?? "utf8") : Buffer.from(chunk);
}
