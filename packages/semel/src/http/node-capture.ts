// Captures a `node:http` response where its bytes are written. What is one answer is held until its
// record is durable; what is a stream flows as it comes, and only its end waits (SM-21, HTTP-14).

import type { OutgoingHttpHeader, OutgoingHttpHeaders, ServerResponse } from "node:http";
import { types } from "node:util";
import { systemClock } from "../clock.ts";
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

/** The capture that a response is under. */
const captures = new WeakMap<ServerResponse, Capture>();

/**
 * The same accessors for every response, which stay when the capture ends: with ones of their own, or
 * without them again, responses would share no hidden class, and everything Node does to them would
 * be several times slower.
 */
const CAPTURED: PropertyDescriptorMap = {
  headersSent: {
    configurable: true,
    get(this: ServerResponse): boolean {
      return captures.get(this)?.isStreaming || inherited(this, "headersSent");
    },
  },
  writableNeedDrain: {
    configurable: true,
    get(this: ServerResponse): boolean {
      return !captures.get(this)?.isAbandoned && inherited(this, "writableNeedDrain");
    },
  },
};

function inherited(response: ServerResponse, name: "headersSent" | "writableNeedDrain"): boolean {
  return Reflect.get(Object.getPrototypeOf(response), name, response);
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
  /** It left before the handler had read the request's body. */
  #bodyLost = false;
  /** The handler was told that nobody listens. */
  #gaveUp = false;
  #cancelGrace: (() => void) | undefined;
  /** The bytes that complete a declared length, which wait for the record. */
  #withheld: Buffer | undefined;
  /** The headers as they were before the handler. */
  readonly #headersBefore: readonly [string, string][];

  constructor(response: ServerResponse, exchange: Exchange) {
    this.#response = response;
    this.#exchange = exchange;
    this.#headersBefore = headersOf(response);
    const { writeHead, write, end, flushHeaders, destroy, emit } = response;
    this.#original = { writeHead, write, end, flushHeaders, destroy, emit };
  }

  // What a handler writes to nobody never becomes a head; error handlers ask all the same.
  get isStreaming(): boolean {
    return this.#streaming;
  }

  get isAbandoned(): boolean {
    return this.#clientGone;
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
      this.#original.destroy.call(response, error);
      // The connection is closed already; nobody else would say so.
      if (this.#clientGone) this.#announceClose();
      return response;
    };
    response.emit = function emit(
      this: ServerResponse,
      ...event: Parameters<ServerResponse["emit"]>
    ) {
      if (event[0] === "close" && capture.#closed()) return true;
      return capture.#original.emit.apply(this, event);
    } as ServerResponse["emit"];
    captures.set(response, this);
    Object.defineProperties(response, CAPTURED);
    this.#exchange.onFailed = () => {
      // Nobody is left to whom an error handler could speak, and nothing would end this stream.
      if (!this.#ended && this.#clientGone && this.#streaming) response.destroy();
    };
  }

  #writeHead(
    status: number,
    reason: string | HeadersArgument | undefined,
    headers: HeadersArgument | undefined,
  ): void {
    const response = this.#response;
    if (this.#ended || this.#streaming) return;
    response.statusCode = checkedStatus(status);
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
    const response = this.#response;
    const status = checkedStatus(response.statusCode);
    if (this.#clientGone) this.#startGrace();
    else if (!response.headersSent) {
      const head = { status, headers: headersOf(response) };
      for (const [name, value] of this.#exchange.streamingHeaders(head)) {
        response.setHeader(name, value);
      }
      // Node would write an implicit head through the patched `writeHead`, which writes none.
      this.#original.writeHead.call(response, status);
    }
    this.#streaming = true;
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
    if (this.#length < this.#declaredLength() || bytes.byteLength === 0) {
      // Without the error: what was collected counts, whoever still hears it.
      const written = callback && (() => callback());
      return this.#original.write.call(this.#response, bytes, written as never);
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
    const bytes = chunk === undefined || chunk === null ? undefined : toBytes(chunk, encoding);
    checkedStatus(this.#response.statusCode);
    this.#ended = true;
    if (bytes) this.#collect(bytes);
    // Text leaves as text: Node sends it in one piece with the head. Bytes may not be the handler's.
    const last = typeof chunk === "string" ? chunk : bytes;
    // What can still fail is writing a head that Node refuses.
    this.#finish(() => endWith(this.#response, last, encoding, callback), callback).catch(
      (error) => {
        this.#uninstall();
        this.#response.destroy(error);
      },
    );
  }

  #declaredLength(): number {
    return Number(this.#response.getHeader("content-length") ?? Number.POSITIVE_INFINITY);
  }

  /** Ends the operation where what was answered is no result after all. */
  async #endWithoutResult(status: number): Promise<boolean> {
    const { failure } = this.#exchange;
    if (this.#streaming && failure) {
      await this.#exchange.fail(failure.error);
      return true;
    }
    if (this.#bodyLost && status >= 400 && status < 500) {
      // A verdict on a request that the handler never saw whole.
      await this.#exchange.fail(new Error("the client left before the handler read the request"));
      return true;
    }
    const declared = this.#declaredLength();
    const hasBody = status !== 204 && status !== 304;
    if (this.#streaming && hasBody && Number.isFinite(declared) && this.#length < declared) {
      await this.#exchange.broken("response-broken: it ended before its Content-Length");
      return true;
    }
    return false;
  }

  #collect(bytes: Uint8Array): void {
    this.#length += bytes.byteLength;
    if (this.#length > this.#exchange.resultBytesMax) {
      this.#tooLarge = true;
      this.#chunks = [];
    } else this.#chunks.push(bytes);
  }

  /** @param end ends the real response with what the handler ended it with */
  async #finish(end: () => void, callback: Callback | undefined): Promise<void> {
    const response = this.#response;
    const headers = headersOf(response);
    const status = response.statusCode;
    const reason = response.statusMessage;
    const body = this.#chunks.length === 1 ? this.#chunks[0]! : Buffer.concat(this.#chunks);
    this.#chunks = [];
    const whole = !this.#tooLarge;
    const isLost = await this.#endWithoutResult(status);
    const answer = isLost
      ? { headers: [] }
      : await this.#exchange.respond({ status, headers, body }, whole);
    this.#uninstall();
    if (this.#clientGone) return this.#announceClose();
    if (this.#streaming) {
      // Bytes of a superseded attempt have left already: break off rather than let two answers pass.
      if ("replacement" in answer || isLost) response.destroy();
      else {
        if (this.#withheld) response.write(this.#withheld);
        end();
      }
      return;
    }
    if ("replacement" in answer) {
      restoreHeaders(response, this.#headersBefore);
      if (callback) response.once("finish", callback);
      sendResponse(response, answer.replacement);
      return;
    }
    // As the handler left it: an error handler may have touched it since.
    response.statusCode = status;
    response.statusMessage = reason;
    restoreHeaders(response, headers);
    for (const [name, value] of answer.headers) response.setHeader(name, value);
    end();
  }

  #uninstall(): void {
    this.#cancelGrace?.();
    this.#exchange.onFailed = undefined;
    Object.assign(this.#response, this.#original);
    captures.delete(this.#response);
  }

  /**
   * The connection was closed before the answer was whole.
   *
   * @returns whether the handler is kept from hearing of it
   */
  #closed(): boolean {
    const { failure } = this.#exchange;
    if (failure && this.#streaming && !this.#ended) {
      // Not the client: the framework broke off what its handler had begun.
      void this.#breakOff(undefined);
      return false;
    }
    this.#shield();
    return true;
  }

  /**
   * The client went away before the answer was whole. Pipes and pipelines would stop, and the
   * handler's effect would have no record; so the response stays open towards the handler, for one
   * lease, and what it writes is collected.
   */
  #shield(): void {
    if (this.#clientGone) return;
    this.#clientGone = true;
    const response = this.#response as ServerResponse & { destroyed: boolean; _closed: boolean };
    response.destroyed = false;
    response._closed = false;
    this.#bodyLost = response.req.readableLength > 0;
    if (this.#ended) return;
    if (this.#streaming) this.#startGrace();
    // The connection will not drain any more; whoever waits for that goes on.
    process.nextTick(() => {
      if (!this.#ended) this.#original.emit.call(response, "drain");
    });
  }

  /** Endless streams must learn that nobody listens. One that began and never ends is no result. */
  #startGrace(): void {
    const { leaseMs } = this.#exchange;
    this.#cancelGrace = systemClock.schedule(leaseMs, () => {
      if (this.#ended) return;
      this.#gaveUp = true;
      this.#announceClose();
      this.#cancelGrace = systemClock.schedule(leaseMs, () => {
        if (!this.#ended) void this.#breakOff(undefined);
      });
    });
  }

  /** The handler, or a pipeline whose source failed, broke its own response off. */
  async #breakOff(error: Error | undefined): Promise<void> {
    this.#ended = true;
    this.#uninstall();
    if (this.#gaveUp) {
      await this.#exchange.broken("response-broken: the client left and the response did not end");
      return;
    }
    const cause = error ?? this.#exchange.failure?.error;
    await this.#exchange.fail(cause ?? new Error("the response was destroyed before its end"));
  }

  #announceClose(): void {
    const response = this.#response as ServerResponse & { destroyed: boolean; _closed: boolean };
    response.destroyed = true;
    response._closed = true;
    this.#original.emit.call(response, "close");
  }
}

function endWith(
  response: ServerResponse,
  last: Chunk | undefined,
  encoding: BufferEncoding | undefined,
  callback: Callback | undefined,
): void {
  if (last === undefined) response.end(callback as never);
  else response.end(last, encoding ?? "utf8", callback as never);
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
  for (const name of response.getHeaderNames()) {
    const value = response.getHeader(name);
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

/** As Node checks it, and as early: what cannot be sent must not become a result. */
function checkedStatus(status: number): number {
  const checked = Number(status) | 0;
  if (checked >= 100 && checked <= 999) return checked;
  const error = new RangeError(`Invalid status code: ${status}`);
  throw Object.assign(error, { code: "ERR_HTTP_INVALID_STATUS_CODE" });
}

// Copied: the handler may reuse its buffer before the record is written.
function toBytes(chunk: Chunk, encoding: BufferEncoding | undefined): Buffer {
  if (typeof chunk === "string") return Buffer.from(chunk, encoding ?? "utf8");
  if (types.isUint8Array(chunk)) return Buffer.from(chunk);
  const error = new TypeError("A chunk of a response must be a string or a Uint8Array");
  throw Object.assign(error, { code: "ERR_INVALID_ARG_TYPE" });
}
