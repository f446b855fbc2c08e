// A request in a form that can be sent again with identical bytes.

import { InvalidOption } from "../errors.ts";
import { RequestTooLarge } from "./errors.ts";
import type { RequestIdentity } from "./keys.ts";

export type FetchInput = string | URL | Request;

/** A request as each attempt sends it. */
export interface RepeatableRequest extends RequestIdentity {
  /** The caller's own input and init, for what fetch knows and this client does not. */
  input: FetchInput;
  init: RequestInit;
  headers: Headers;
  hasBody: boolean;
  mode: Request["mode"];
}

/** The method that fetch would send, in capitals. */
export function methodOf(input: FetchInput, init: RequestInit): string {
  return (init.method ?? (input instanceof Request ? input.method : "GET")).toUpperCase();
}

/**
 * Reads a request's body, so that every attempt sends the same bytes. A multipart body gets its
 * boundary here, once.
 *
 * @throws {RequestTooLarge} beyond the bound
 * @throws {TypeError} what fetch throws for a bad URL, a body that was read before, and the like
 */
export async function repeatable(
  input: FetchInput,
  init: RequestInit,
  bytesMax: number,
): Promise<RepeatableRequest> {
  // Not left to `Request`: some browsers send a stream as the text "[object ReadableStream]".
  const streamed =
    init.body instanceof ReadableStream ? await readWhole(init.body, bytesMax) : undefined;
  const request = new Request(input, {
    ...init,
    ...(streamed && { body: streamed }),
    // Asked for where `input` or `init` carry a stream of another kind.
    duplex: "half",
  });
  const body = streamed ?? (await bodyOf(request, bytesMax));
  const { url, headers, mode } = request;
  return {
    input,
    init,
    method: methodOf(input, init),
    url,
    headers: new Headers(headers),
    contentType: headers.get("content-type") ?? "",
    body: body ?? new Uint8Array(0),
    hasBody: body !== undefined,
    mode,
  };
}

/** `undefined` when the request has none. */
async function bodyOf(request: Request, bytesMax: number): Promise<Uint8Array | undefined> {
  if (request.body) return readWhole(request.body, bytesMax);
  // `null` says that there is none; without the property, as in older browsers, it is not known.
  if (request.body === null || request.method === "GET" || request.method === "HEAD") {
    return undefined;
  }
  const body = new Uint8Array(await request.arrayBuffer());
  if (body.byteLength > bytesMax) throw new RequestTooLarge(bytesMax);
  return body;
}

async function readWhole(stream: ReadableStream<unknown>, bytesMax: number): Promise<Uint8Array> {
  const reader = stream.getReader();
  const chunks: Uint8Array[] = [];
  let length = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return concatenated(chunks, length);
    if (!(value instanceof Uint8Array)) {
      reader.cancel().catch(() => {});
      throw new TypeError("A request body must be a stream of Uint8Array");
    }
    length += value.byteLength;
    if (length > bytesMax) {
      reader.cancel().catch(() => {});
      throw new RequestTooLarge(bytesMax);
    }
    // Copied: the producer may reuse its buffer.
    chunks.push(value.slice());
  }
}

/** Joins what was read in pieces. */
export function concatenated(chunks: readonly Uint8Array[], length: number): Uint8Array {
  const whole = new Uint8Array(length);
  let offset = 0;
  for (const chunk of chunks) {
    whole.set(chunk, offset);
    offset += chunk.byteLength;
  }
  return whole;
}

/**
 * Refuses bodies whose bytes are others each time they are made, where the request has to be known
 * again later.
 *
 * @throws {InvalidOption}
 */
export function assertLastingBody({ init, contentType }: RepeatableRequest): void {
  const isText = typeof init.body === "string";
  const isBytes = init.body instanceof ArrayBuffer || ArrayBuffer.isView(init.body);
  if (isText || isBytes || !contentType.startsWith("multipart/form-data")) return;
  throw new InvalidOption(
    'FormData is written with another boundary each time, so `storage` and `key: "hash"` cannot know such a request again; send JSON, URLSearchParams, or bytes with a boundary of your own. Nothing was sent',
  );
}
