// Reads the body of a `node:http` request for its fingerprint, and leaves it to be read again by
// whatever comes after: body parsers, pipes, the handler.

import type { IncomingMessage } from "node:http";
import { BodyIncomplete, BodyTooLarge } from "../errors.ts";

/** Whether the request announces a body (RFC 9112 §6.3). */
export function hasBody(request: IncomingMessage): boolean {
  const length = request.headers["content-length"];
  return (length !== undefined && length !== "0") || "transfer-encoding" in request.headers;
}

/** Whether somebody already read the body, or began to. */
export function isConsumed(request: IncomingMessage): boolean {
  return request.readableDidRead || request.readableEnded;
}

/**
 * Reads the whole body and puts it back, so that it can be read as if nobody had.
 *
 * @throws {BodyTooLarge} as soon as it is known
 * @throws {BodyIncomplete} when the client stops half-way
 */
export function peekBody(request: IncomingMessage, bytesMax: number): Promise<Uint8Array> {
  if (Number(request.headers["content-length"]) > bytesMax) {
    return Promise.reject(new BodyTooLarge(bytesMax));
  }
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let length = 0;
    const settle = (error?: Error) => {
      request.off("readable", onReadable).off("error", onError).off("close", onClose);
      if (error) return reject(error);
      const body = chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks, length);
      resolve(body);
    };
    const onReadable = () => {
      // The end of the stream must not be read, or nobody could be given the body again: what was
      // read is put back in the same turn as the last of it came.
      while (request.readableLength > 0) {
        const chunk: Buffer | null = request.read();
        if (chunk === null) break;
        chunks.push(chunk);
        length += chunk.length;
        if (length > bytesMax) return settle(new BodyTooLarge(bytesMax));
      }
      if (!request.complete) return;
      if (length > 0) request.unshift(Buffer.concat(chunks, length));
      settle();
    };
    const onError = (cause: Error) => settle(new BodyIncomplete({ cause }));
    const onClose = () => settle(new BodyIncomplete());
    request.on("readable", onReadable).on("error", onError).on("close", onClose);
    if (request.destroyed) onClose();
    else if (request.complete) onReadable();
  });
}
