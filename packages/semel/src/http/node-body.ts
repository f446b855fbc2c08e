// Reads the body of a `node:http` request for its fingerprint, and leaves it to be read again by
// whatever comes after: body parsers, pipes, the handler.

import { EventEmitter } from "node:events";
import type { IncomingMessage } from "node:http";
import { BodyIncomplete, BodyTooLarge, InvalidOption } from "../errors.ts";
import type { Body } from "./body-fingerprint.ts";

/** Whether the request announces a body (RFC 9112 §6.3, RFC 9113 §8.1). */
export function hasBody(request: IncomingMessage): boolean {
  // Over HTTP/2 no header need say so: a body is what comes after the head.
  if (isHttp2(request)) return request.stream?.endAfterHeaders !== true;
  const length = request.headers["content-length"];
  return (length !== undefined && length !== "0") || "transfer-encoding" in request.headers;
}

/** What `node:http2` hands out in the place of an `IncomingMessage`. */
interface Http2Request extends IncomingMessage {
  /** Gone when the stream has closed. */
  stream?: { endAfterHeaders: boolean; destroy(error: Error): void };
}

export function isHttp2(request: IncomingMessage): request is Http2Request {
  return request.httpVersionMajor >= 2;
}

/** Whether the client is known to have left, and its body with it. */
export function hasLeft(request: IncomingMessage): boolean {
  return request.readableAborted || (isHttp2(request) && request.aborted);
}

/** Whether all of the body has come, read or not. */
function isWhole(request: IncomingMessage): boolean {
  // There, `complete` says that it was read to its end, or that it was aborted.
  if (!isHttp2(request)) return request.complete;
  return (request as unknown as ReadableInside)._readableState.ended && !request.aborted;
}

/** Whether somebody already read the body, or began to. */
export function isConsumed(request: IncomingMessage): boolean {
  return request.readableDidRead || request.readableEnded;
}

/** Whether somebody reads the body already, or will as soon as it comes. */
export function isTaken(request: IncomingMessage): boolean {
  if (isConsumed(request) || request.readableFlowing === true) return true;
  return request.listenerCount("data") > 0 || request.listenerCount("readable") > 0;
}

/**
 * What is left of a body that was read before.
 *
 * @param parsed what a parser made of it
 * @param rawBody its bytes, or its text, where somebody has kept them
 * @throws {InvalidOption} when nothing is left: bodies that differ would look the same
 */
export function bodyLeft(request: IncomingMessage, parsed: unknown, rawBody?: unknown): Body {
  // What is being read is not whole yet.
  if (request.readableEnded) {
    if (rawBody instanceof Uint8Array) return { bytes: rawBody };
    if (typeof rawBody === "string") return { bytes: Buffer.from(rawBody) };
    if (parsed !== undefined) return { parsed };
  }
  throw new InvalidOption(
    "Something before idempotent() reads the request's body, or listens to it, and leaves neither its bytes or text as `req.rawBody` nor a parsed `req.body`, so that requests cannot be told apart: mount idempotent() before it, or have it leave one of them before it goes on",
  );
}

/**
 * Reads the whole body and puts it back, so that it can be read as if nobody had.
 *
 * @returns bytes that may be the stream's own, and must not be changed
 * @throws {BodyTooLarge} as soon as it is known
 * @throws {BodyIncomplete} when the client stops half-way
 */
export function peekBody(
  request: IncomingMessage,
  bytesMax: number,
): Uint8Array | Promise<Uint8Array> {
  const declared = Number(request.headers["content-length"]);
  if (declared > bytesMax) throw new BodyTooLarge(bytesMax);
  const arrived = arrivedBody(request, declared);
  if (arrived && arrived.length <= bytesMax) return arrived;
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let length = 0;
    const settle = (error?: Error) => {
      off.call(request, "readable", onReadable);
      request.off("error", onError).off("close", onClose);
      if (error) return reject(error);
      if (length > 0) putBack(request, Buffer.concat(chunks, length));
      resolve(chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks, length));
    };
    const readOn = () => {
      // The end of the stream must not be read, or nobody could be given the body again: what was
      // read is put back in the same turn as the last of it came.
      while (request.readableLength > 0) {
        const read: Buffer | string | null = request.read();
        if (read === null) break;
        // Text, where somebody has set an encoding.
        const chunk = typeof read === "string" ? Buffer.from(read, encodingOf(request)) : read;
        chunks.push(chunk);
        length += chunk.length;
        if (length > bytesMax) return settle(new BodyTooLarge(bytesMax));
      }
      if (isWhole(request)) settle();
    };
    const onReadable = () => {
      try {
        readOn();
      } catch (error) {
        // Thrown by a listener, it would end the process.
        settle(error as Error);
      }
    };
    const onError = (cause: Error) => settle(new BodyIncomplete({ cause }));
    const onClose = () => settle(new BodyIncomplete());
    on.call(request, "readable", onReadable);
    request.on("error", onError).on("close", onClose);
    if (request.destroyed) onClose();
    else if (isWhole(request) || request.readableLength > 0) onReadable();
    else request.read(0);
  });
}

/**
 * A body that has come in one piece with its head, as small ones do: it is looked at where it lies, and
 * nothing is read, listened to or put back.
 */
function arrivedBody(request: IncomingMessage, declared: number): Buffer | undefined {
  const { readableLength, destroyed } = request;
  if (readableLength === 0 || destroyed) return undefined;
  if (!isWhole(request) && readableLength !== declared) return undefined;
  const { buffer } = (request as unknown as ReadableInside)._readableState;
  const [only] = buffer ?? [];
  return only instanceof Buffer && only.length === readableLength ? only : undefined;
}

/** Past a stream's own `on`, which would read on by itself, over the end of an empty body. */
const { on, off } = EventEmitter.prototype;

/** In which the request's body is read as text, where it is. */
function encodingOf(request: IncomingMessage): BufferEncoding | undefined {
  return request.readableEncoding ?? undefined;
}

function putBack(request: IncomingMessage, body: Buffer): void {
  // What has been decoded is not decoded again.
  const encoding = encodingOf(request);
  if (encoding) request.unshift(body.toString(encoding), encoding);
  else request.unshift(body);
  // What asks whether a body was touched (`readableDidRead`), such as `fetch`, shall hear that it
  // was not.
  (request as unknown as ReadableInside)._readableState.dataEmitted = false;
}

interface ReadableInside {
  _readableState: {
    dataEmitted: boolean;
    /** Nothing more comes. */
    ended: boolean;
    /** What waits to be read: a list of its own kind, or an array, as Node's version has it. */
    buffer?: Iterable<unknown>;
  };
}

/**
 * Lets what nobody will read flow off. Node does so by itself only where nobody has begun to read,
 * and a body left half-read would stop the connection.
 */
export function discardBody(request: IncomingMessage): void {
  if (!request.readableEnded) request.resume();
}
