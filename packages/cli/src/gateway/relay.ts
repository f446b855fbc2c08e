// Carries an answer back to the client as it comes.

import type { ClientRequest, IncomingMessage, ServerResponse } from "node:http";
import { fieldLines, responseHeaders } from "./headers.ts";

/** Answers up to here are waited for whole, where a whole answer is worth more than its start. */
const SHORT_BYTES = 64 * 2 ** 10;
/** Up to here bytes leave as text, in one piece with the head: two pieces cost more than the copy. */
const IN_ONE_PIECE_BYTES = 16 * 2 ** 10;
/** A client that takes nothing for so long is gone. */
export const READING_MS = 5 * 60_000;

/** Sees the bytes of a body as they pass. */
export interface Tap {
  chunk(bytes: Buffer): void;
}

/**
 * Relays an answer.
 *
 * @param options.holdsShort sends an answer of a declared, short length when it is whole. For
 * operations that loses nothing, because the last byte waits for the record in any case; and until
 * the head has left, a broken exchange can still be told as such
 * @throws when the upstream breaks off before the end
 */
export async function relay(
  answer: IncomingMessage,
  response: ServerResponse,
  { holdsShort, tap }: { holdsShort: boolean; tap?: Tap | undefined },
): Promise<void> {
  // What came together leaves together: most answers are complete by now.
  if (answer.complete) {
    const whole: Buffer = answer.read() ?? NOTHING;
    tap?.chunk(whole);
    writeHead(answer, response);
    endWith(response, whole);
    return;
  }
  const body = new Body(answer);
  if (tap) answer.on("data", (chunk: Buffer) => tap.chunk(chunk));
  if (holdsShort && declaredLength(answer) <= SHORT_BYTES) {
    const whole = await body.collected();
    writeHead(answer, response);
    endWith(response, whole);
    return;
  }
  writeHead(answer, response);
  response.flushHeaders();
  await body.pumpTo(response);
  response.end();
}

const NOTHING = Buffer.alloc(0);

/** Ends a request or a response with a body, in as few writes as there may be. */
export function endWith(message: ServerResponse | ClientRequest, body: Buffer): void {
  if (body.length === 0) message.end();
  else if (body.length > IN_ONE_PIECE_BYTES) message.end(body);
  else message.end(body.toString("latin1"), "latin1");
}

function writeHead(answer: IncomingMessage, response: ServerResponse): void {
  response.writeHead(answer.statusCode!, answer.statusMessage, responseHeaders(answer));
}

function declaredLength(answer: IncomingMessage): number {
  const [length] = fieldLines(answer.rawHeaders, "content-length");
  return length === undefined ? Number.POSITIVE_INFINITY : Number(length);
}

/** An answer's body, which may break off before anybody reads it. */
class Body {
  readonly #source: IncomingMessage;
  readonly #end: Promise<void>;

  constructor(source: IncomingMessage) {
    this.#source = source;
    this.#end = new Promise((resolve, reject) => {
      source.once("end", resolve);
      source.on("error", reject);
      source.once("close", () => {
        if (!source.readableEnded) reject(new Error("closed before its end"));
      });
    });
    this.#end.catch(() => {});
  }

  async collected(): Promise<Buffer> {
    const chunks: Buffer[] = [];
    this.#source.on("data", (chunk: Buffer) => chunks.push(chunk));
    await this.#end;
    return Buffer.concat(chunks);
  }

  /**
   * At the client's pace: the upstream is not silent while nobody listens to it. The HTTP layer sees to it
   * that a client that has left holds nothing up.
   */
  async pumpTo(response: ServerResponse): Promise<void> {
    const source = this.#source;
    const { socket } = source;
    const { timeout: silenceMs = 0 } = socket;
    const late = setTimeout(() => {
      if (!source.isPaused()) return;
      // Not the response, which would be the handler's doing. One that waits for its turn has no connection.
      if (response.socket) response.socket.destroy();
      else late.refresh();
    }, READING_MS).unref();
    const resume = () => {
      if (!source.isPaused()) return;
      socket.setTimeout(silenceMs);
      source.resume();
    };
    response.on("drain", resume);
    source.on("data", (chunk: Buffer) => {
      if (response.write(chunk)) return;
      source.pause();
      socket.setTimeout(0);
      late.refresh();
    });
    try {
      await this.#end;
    } finally {
      clearTimeout(late);
      response.off("drain", resume);
    }
  }
}

/** Passes 103 Early Hints on; 100 is the gateway's own to say, and 102 has no use. */
export function passHints(from: ClientRequest, response: ServerResponse): void {
  from.on("information", ({ statusCode, rawHeaders }) => {
    if (statusCode !== 103 || response.headersSent || response.req.httpVersion !== "1.1") return;
    const link = rawHeaders.filter((_, i) => i % 2 === 1 && /^link$/i.test(rawHeaders[i - 1]!));
    try {
      if (link.length > 0) response.writeEarlyHints({ link });
    } catch {
      // Node takes fewer forms of links than there are, and hints may be left out.
    }
  });
}
