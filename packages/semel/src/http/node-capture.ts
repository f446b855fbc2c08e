// Captures a `node:http` response where its bytes are written. What is one answer is held until its
// record is durable; what is a stream flows as it comes, and only its end waits (SM-21, HTTP-14).

import type { OutgoingHttpHeader, OutgoingHttpHeaders, ServerResponse } from "node:http";
import { types } from "node:util";
import { systemClock } from "../clock.ts";
import type { Answer } from "./exchange.ts";
import { isHttp2 } from "./node-body.ts";
import {
  addHeaders,
  assertSendableReason,
  breakOff,
  headersOf,
  isBeyondAscii,
  reasonOf,
  restoreHeaders,
  sendResponse,
  setHeaderPairs,
  setReason,
} from "./node-headers.ts";
import { isQueuedInVain, whenQueuedInVain } from "./queued-response.ts";
import type { HttpResponse, MadeResponse } from "./response.ts";
import { turnEnd } from "./turn.ts";

type Chunk = string | Uint8Array;
type Callback = (error?: Error | null) => void;
type Patched = "writeHead" | "write" | "end" | "flushHeaders" | "destroy" | "emit";
type HeadersArgument = OutgoingHttpHeaders | OutgoingHttpHeader[];

/** Whom a captured response is for. */
export interface ResponseTaker {
  /** Nothing leaves before the end, and what was made can be made again. */
  readonly isBuffered: boolean;
  /** Whether the handler is at work; `undefined` where nobody knows when it ends. */
  isHandling: boolean | undefined;
  /** It is the handler that answers, and not a time limit outside: it streams, or waits until it has answered. */
  isByHandler: boolean;
  /** How long a handler may go on when the client is gone. */
  readonly leaseMs: number;
  /** Bodies are collected up to here. */
  readonly resultBytesMax: number;
  /** What the handler threw. */
  readonly failure: { error: unknown } | undefined;
  onFailed: (() => void) | undefined;
  /** Headers for a head that leaves before the end. */
  streamingHeaders(head: Omit<HttpResponse, "body">): HttpResponse["headers"];
  /** The whole response; `undefined`: it was given up meanwhile. */
  respond(response: MadeResponse, whole: boolean): Promise<Answer | undefined>;
  fail(error: unknown): Promise<void>;
  broken(reason: string): Promise<void>;
}

/** A response that is captured. */
export interface CapturedResponse {
  /** Forgets what the handler made of it, so that it can be made again. */
  reset(): void;
  /** Forgets, and gives it back as it was before the handler. */
  release(): void;
}

/**
 * Takes over a response until the operation that makes it has ended.
 */
export function captureResponse(response: ServerResponse, taker: ResponseTaker): CapturedResponse {
  const capture = new Capture(response, taker);
  capture.install();
  return capture;
}

/** Where a response keeps its capture. */
const CAPTURE = Symbol("semel.capture");

type Captured = ServerResponse & { [CAPTURE]?: Capture | undefined };

/**
 * One set of accessors and methods for all responses, which stay when the capture ends: with ones of
 * their own, or without them again, responses would share no hidden class, and everything Node does
 * to them would be several times slower.
 */
const WRITABLE_ENDED: PropertyDescriptor = {
  configurable: true,
  get(this: Captured): boolean {
    return this[CAPTURE]?.isEnded || inherited(this, "writableEnded");
  },
};

/** What is not as Node says when the client is gone; before, these would only cost something. */
const ABANDONED: PropertyDescriptorMap = {
  headersSent: {
    configurable: true,
    get(this: Captured): boolean {
      return this[CAPTURE]?.isStreaming || inherited(this, "headersSent");
    },
  },
  writableNeedDrain: {
    configurable: true,
    get(this: Captured): boolean {
      return !this[CAPTURE]?.isAbandoned && inherited(this, "writableNeedDrain");
    },
  },
};

function inherited(
  response: ServerResponse,
  name: "headersSent" | "writableEnded" | "writableNeedDrain",
): boolean {
  return Reflect.get(Object.getPrototypeOf(response), name, response);
}

const METHODS = {
  writeHead(
    this: Captured,
    status: number,
    reason?: string | HeadersArgument,
    headers?: HeadersArgument,
  ): ServerResponse {
    this[CAPTURE]!.writeHead(status, reason, headers);
    return this;
  },

  flushHeaders(this: Captured): void {
    this[CAPTURE]!.flushHeaders();
  },

  write(
    this: Captured,
    chunk: Chunk,
    encoding?: BufferEncoding | Callback,
    callback?: Callback,
  ): boolean {
    const capture = this[CAPTURE]!;
    if (typeof encoding === "function") return capture.write(chunk, undefined, encoding);
    return capture.write(chunk, encoding, callback);
  },

  end(
    this: Captured,
    chunk?: Chunk | Callback | null,
    encoding?: BufferEncoding | Callback,
    callback?: Callback,
  ): ServerResponse {
    const capture = this[CAPTURE]!;
    if (typeof chunk === "function") capture.end(undefined, undefined, chunk);
    else if (typeof encoding === "function") capture.end(chunk, undefined, encoding);
    else capture.end(chunk, encoding, callback);
    return this;
  },

  destroy(this: Captured, error?: Error): ServerResponse {
    this[CAPTURE]!.destroy(error);
    return this;
  },

  emit(this: Captured, ...event: Parameters<ServerResponse["emit"]>): boolean {
    return this[CAPTURE]!.emit(event);
  },
};

/** `Object.assign`, written out, which is ten times as fast. */
function patch(response: ServerResponse, methods: Pick<ServerResponse, Patched>): void {
  response.writeHead = methods.writeHead;
  response.write = methods.write;
  response.end = methods.end;
  response.flushHeaders = methods.flushHeaders;
  response.destroy = methods.destroy;
  response.emit = methods.emit;
}

class Capture implements CapturedResponse {
  readonly #response: ServerResponse;
  readonly #exchange: ResponseTaker;
  readonly #original: Pick<ServerResponse, Patched>;
  #chunks: Uint8Array[] = [];
  /** The whole body, where it is one text. */
  #text: string | undefined;
  #length = 0;
  #tooLarge = false;
  /** The head has left, and what is written flows. */
  #streaming = false;
  /** The headers of that head, without those of middleware that changes what is written, as compression. */
  #headersStreamed: [string, string][] = [];
  /** `writeHead()` was called. */
  #hasHead = false;
  /** `end()` was called: the answer is whole. */
  #ended = false;
  /** The client is gone; the handler is not told before it is done (SM-23). */
  #clientGone = false;
  /** It left before the handler had read the request's body. */
  #bodyLost = false;
  /** The handler was told that nobody listens. */
  #gaveUp = false;
  #cancelGrace: (() => void) | undefined;
  #unqueue: () => void = nothing;
  /** The response was destroyed when it was whole, before it could leave. */
  #destruction: { error: Error | undefined } | undefined;
  /** The response is the application's again. */
  #over = false;
  /** The bytes that complete a declared length, which wait for the record. */
  #withheld: Buffer | undefined;
  /** The headers as they were before the handler. */
  readonly #headersBefore: readonly [string, string][];

  constructor(response: ServerResponse, exchange: ResponseTaker) {
    this.#response = response;
    this.#exchange = exchange;
    this.#headersBefore = headersOf(response);
    const { writeHead, write, end, flushHeaders, destroy, emit } = response;
    this.#original = { writeHead, write, end, flushHeaders, destroy, emit };
  }

  // What a handler writes to nobody never becomes a head; error handlers ask all the same.
  get isStreaming(): boolean {
    return this.#streaming && !this.#over;
  }

  get isEnded(): boolean {
    return this.#ended && !this.#over;
  }

  get isAbandoned(): boolean {
    return this.#clientGone && !this.#over;
  }

  install(): void {
    const response = this.#response as Captured;
    response[CAPTURE] = this;
    patch(response, METHODS);
    Object.defineProperty(response, "writableEnded", WRITABLE_ENDED);
    this.#unqueue = whenQueuedInVain(response, () => this.#closed());
    this.#exchange.onFailed = () => {
      // Nobody is left to whom an error handler could speak, and nothing would end this stream.
      if (!this.#ended && this.#clientGone && this.#streaming) response.destroy();
    };
  }

  writeHead(
    status: number,
    reason: string | HeadersArgument | undefined,
    headers: HeadersArgument | undefined,
  ): void {
    const response = this.#response;
    if (this.#ended || this.#streaming) return;
    this.#hasHead = true;
    response.statusCode = checkedStatus(status);
    if (typeof reason === "string") setReason(response, reason);
    assertSendableReason(response);
    const given = typeof reason === "object" ? reason : headers;
    if (given === undefined || given === null) return;
    if (Array.isArray(given)) setHeaderPairs(response, given);
    else {
      for (const name of Object.keys(given)) {
        const value = given[name];
        if (value !== undefined) response.setHeader(name, value);
      }
    }
  }

  reset(): void {
    const response = this.#response;
    this.#ended = false;
    this.#hasHead = false;
    this.#chunks = [];
    this.#text = undefined;
    this.#length = 0;
    this.#tooLarge = false;
    response.statusCode = 200;
    setReason(response, "");
    restoreHeaders(response, this.#headersBefore);
  }

  release(): void {
    if (this.#over) return;
    this.reset();
    this.#uninstall();
    if (this.#clientGone) this.#announceClose();
  }

  flushHeaders(): void {
    if (this.#ended || this.#streaming || this.#exchange.isBuffered) return;
    this.#startStreaming();
    if (!this.#clientGone) this.#original.flushHeaders.call(this.#response);
  }

  destroy(error: Error | undefined): void {
    if (!this.#clientGone && isQueuedInVain(this.#response, error)) {
      this.#closed();
      return;
    }
    if (this.#ended && !this.#over && !this.#clientGone) {
      // What has been answered leaves before the connection goes, as it would if nobody recorded it.
      this.#destruction = { error };
      return;
    }
    if (!this.#ended) void this.#breakOff(error);
    if (isHttp2(this.#response.req)) breakOff(this.#response, error);
    else this.#original.destroy.call(this.#response, error);
    // The connection is closed already; nobody else would say so.
    if (this.#clientGone) this.#announceClose();
  }

  emit(event: Parameters<ServerResponse["emit"]>): boolean {
    if (event[0] === "close" && !this.#over && this.#closed()) return true;
    if (event[0] === "pipe") this.#exchange.isByHandler = true;
    // Over HTTP/2, Node says so of a response whose client has left, and pipelines would believe it.
    if (event[0] === "finish" && !this.#over) return true;
    return this.#original.emit.apply(this.#response, event);
  }

  /**
   * Lets middleware between the capture and the handler add its headers, such as a cookie: it waits for the
   * head that Node writes by itself, through what is by now the response's `writeHead`.
   */
  #completeHead(): void {
    const response = this.#response;
    if (this.#hasHead || response.writeHead === METHODS.writeHead) return;
    this.#hasHead = true;
    response.writeHead(response.statusCode);
  }

  #startStreaming(): void {
    if (this.#streaming) return;
    this.#completeHead();
    this.#exchange.isByHandler = true;
    const response = this.#response;
    const status = checkedStatus(response.statusCode);
    assertSendableReason(response);
    this.#headersStreamed = headersOf(response);
    if (this.#clientGone) this.#startGrace();
    else if (!response.headersSent) {
      const head = { status, headers: this.#headersStreamed };
      addHeaders(response, this.#exchange.streamingHeaders(head));
      // Node would write an implicit head through the patched `writeHead`, which writes none.
      this.#original.writeHead.call(response, status);
    }
    this.#streaming = true;
  }

  write(
    chunk: Chunk,
    encoding: BufferEncoding | undefined,
    callback: Callback | undefined,
  ): boolean {
    if (this.#ended) {
      if (callback) process.nextTick(callback, new Error("write after end"));
      return false;
    }
    const bytes = toBytes(chunk, encoding);
    const { isBuffered } = this.#exchange;
    if (!isBuffered) this.#startStreaming();
    this.#collect(bytes);
    if (this.#clientGone || isBuffered) {
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

  end(
    chunk: Chunk | null | undefined,
    encoding: BufferEncoding | undefined,
    callback: Callback | undefined,
  ): void {
    if (this.#ended) {
      if (callback) process.nextTick(callback);
      return;
    }
    const isText = typeof chunk === "string";
    const isWholeText = isText && encoding === undefined && this.#length === 0;
    const bytes =
      isWholeText || chunk === undefined || chunk === null ? undefined : toBytes(chunk, encoding);
    if (!this.#streaming) this.#completeHead();
    checkedStatus(this.#response.statusCode);
    assertSendableReason(this.#response);
    this.#ended = true;
    if (callback) this.#exchange.isByHandler = true;
    if (isWholeText) this.#collectText(chunk);
    else if (bytes) this.#collect(bytes);
    // Text leaves as text: Node sends it in one piece with the head. Bytes may not be the handler's.
    const last = isText ? chunk : bytes;
    void this.#finish({ last, encoding, callback });
  }

  #declaredLength(): number {
    return Number(this.#response.getHeader("content-length") ?? Number.POSITIVE_INFINITY);
  }

  /** Ends the operation where what was answered is no result after all. */
  #endWithoutResult(status: number): Promise<void> | undefined {
    const exchange = this.#exchange;
    if (this.#streaming && exchange.failure) return exchange.fail(exchange.failure.error);
    if (this.#bodyLost && status >= 400 && status < 500) {
      // A verdict on a request that the handler never saw whole.
      return exchange.fail(new Error("the client left before the handler read the request"));
    }
    if (!this.#streaming || status === 204 || status === 304) return undefined;
    const declared = this.#declaredLength();
    if (Number.isFinite(declared) && this.#length < declared) {
      return exchange.broken("response-broken: it ended before its Content-Length");
    }
    return undefined;
  }

  #collect(bytes: Uint8Array): void {
    this.#length += bytes.byteLength;
    if (this.#length > this.#exchange.resultBytesMax) {
      this.#tooLarge = true;
      this.#chunks = [];
    } else this.#chunks.push(bytes);
  }

  #collectText(text: string): void {
    this.#length = Buffer.byteLength(text);
    this.#tooLarge = this.#length > this.#exchange.resultBytesMax;
    if (!this.#tooLarge) this.#text = text;
  }

  #collected(): string | Uint8Array {
    const [chunks, text] = [this.#chunks, this.#text];
    this.#chunks = [];
    return text ?? (chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks));
  }

  /** Never rejects. */
  async #finish(end: End): Promise<void> {
    try {
      const response = this.#response;
      const body = this.#collected();
      // As it is sent: it may have been set as text, as by Express 4.
      const status = checkedStatus(response.statusCode);
      const reason = reasonOf(response);
      const headers = this.#streaming ? this.#headersStreamed : headersOf(response);
      const made = { status, headers, body };
      if ((response.req as { timedout?: boolean }).timedout) this.#timedOut();
      const loss = this.#endWithoutResult(status);
      const isLost = loss !== undefined;
      if (isLost) await loss;
      const answer = isLost ? LOST : await this.#exchange.respond(made, !this.#tooLarge);
      if (answer === undefined) return;
      await turnEnd();
      this.#uninstall();
      if (this.#clientGone) this.#announceClose();
      else if (this.#streaming) this.#endStream(answer, end);
      else this.#leave(answer, made, reason, end);
      if (this.#destruction && !this.#clientGone) response.destroy(this.#destruction.error);
    } catch (error) {
      // What can still fail is writing a head that Node refuses.
      this.#uninstall();
      breakOff(this.#response, error as Error);
    }
  }

  /** By the mark of `connect-timeout`: an error handler has answered, and the handler is at work. */
  #timedOut(): void {
    this.#exchange.isHandling = true;
    this.#exchange.isByHandler = false;
  }

  #endStream(answer: Answer, end: End): void {
    const response = this.#response;
    // Bytes of a superseded attempt have left already: break off rather than let two answers pass.
    if (answer === LOST || "replacement" in answer) breakOff(response);
    else {
      if (this.#withheld) response.write(this.#withheld);
      endWith(response, end);
    }
  }

  #leave(answer: Answer, made: MadeResponse, reason: string, end: End): void {
    const response = this.#response;
    if ("replacement" in answer) {
      restoreHeaders(response, this.#headersBefore);
      if (end.callback) response.once("finish", end.callback);
      sendResponse(response, answer.replacement);
      return;
    }
    // As the handler left it: an error handler may have touched it since.
    response.statusCode = made.status;
    setReason(response, reason);
    restoreHeaders(response, made.headers);
    addHeaders(response, answer.headers);
    const isLast = made.body.length === 0 || !this.#exchange.isBuffered;
    const last = isLast ? end : { ...end, last: made.body };
    endWith(response, isBeyondAscii(made.headers) ? inBytes(last) : last);
  }

  #uninstall(): void {
    this.#cancelGrace?.();
    this.#unqueue();
    this.#exchange.onFailed = undefined;
    this.#over = true;
    patch(this.#response, this.#original);
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
    Object.defineProperties(response, ABANDONED);
    reopen(response);
    this.#bodyLost = response.req.readableLength > 0;
    if (this.#ended) return;
    if (this.#streaming) this.#startGrace();
    else this.#awaitHandler(0);
    // The connection will not drain any more; whoever waits for that goes on.
    process.nextTick(() => {
      if (!this.#ended) this.#original.emit.call(response, "drain");
    });
  }

  /**
   * A handler that saw its client leave may never answer, and its key would be in progress for ever. One that
   * is at work is waited for; one that has returned may answer yet, by a callback.
   */
  #awaitHandler(leases: number): void {
    this.#cancelGrace = systemClock.schedule(this.#exchange.leaseMs, () => {
      if (this.#ended) return;
      const { isHandling } = this.#exchange;
      if (isHandling || leases < (isHandling === false ? 1 : UNKNOWN_LEASES)) {
        this.#awaitHandler(isHandling ? 0 : leases + 1);
        return;
      }
      this.#gaveUp = true;
      this.#announceClose();
      if (!this.#ended) void this.#breakOff(undefined);
    });
  }

  /** Endless streams must learn that nobody listens. One that began and never ends is no result. */
  #startGrace(): void {
    const { leaseMs } = this.#exchange;
    this.#cancelGrace?.();
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

/**
 * Over HTTP/2, a response whose stream has closed takes no headers any more, and the record would have
 * none: its own note of that, which has no name, is taken back.
 */
function reopen(response: ServerResponse): void {
  if (!isHttp2(response.req)) return;
  for (const symbol of Object.getOwnPropertySymbols(response)) {
    if (symbol.description !== "state") continue;
    const state: unknown = Reflect.get(response, symbol);
    if (typeof state === "object" && state !== null && "closed" in state) state.closed = false;
  }
}

/** What the handler ended its response with. */
interface End {
  last: Chunk | undefined;
  encoding: BufferEncoding | undefined;
  callback: Callback | undefined;
}

/** For how long a handler is waited for whose client has left, where nobody knows whether it is at work. */
const UNKNOWN_LEASES = 9;

const LOST: Answer = { headers: [] };

function nothing(): void {}

function endWith(response: ServerResponse, { last, encoding, callback }: End): void {
  if (last === undefined) response.end(callback as never);
  else response.end(last, encoding ?? "utf8", callback as never);
}

function inBytes({ last, encoding, callback }: End): End {
  return { last: last && toBytes(last, encoding), encoding: undefined, callback };
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
