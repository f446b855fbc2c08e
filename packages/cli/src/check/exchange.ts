// Sends one request exactly as told, on a connection of its own, and takes whatever comes back.

import { type ClientRequest, request as httpRequest, type IncomingMessage } from "node:http";
import { request as httpsRequest } from "node:https";

export type HeaderLine = readonly [name: string, value: string];

export interface Outgoing {
  method: string;
  url: URL;
  /** Every line besides `Host`, `Connection` and those that frame the body. */
  headers: readonly HeaderLine[];
  body: Buffer | undefined;
  /** @default "length" */
  framing?: "length" | "chunked";
  /** Sends the body only after the server's 100, or after a second (RFC 9110 §10.1.1). */
  expectsContinue?: boolean;
  /** Leaves without waiting for an answer: with half of the body sent, or with all of it. */
  leaves?: "half-way" | "after-body";
  timeoutMs: number;
}

export interface Answer {
  /** 0 when there was none. */
  status: number;
  /** Names in lower case. */
  headers: readonly HeaderLine[];
  body: Buffer;
  /** Why there was no answer. */
  trouble?: string;
}

/** Larger answers are no answers of an API. */
const ANSWER_BYTES_MAX = 16 * 2 ** 20;
/** How long a body waits for a 100 that need not come. */
const CONTINUE_MS = 1_000;
/** Between the last byte of a client that leaves and its leaving, so that the server has read it. */
const LEAVE_MS = 50;

/** @returns an answer with status 0 when there is none: that is a finding, not an exception */
export function exchange(outgoing: Outgoing): Promise<Answer> {
  return new Promise((resolve) => {
    const request = open(outgoing);
    const timer = setTimeout(
      () => request.destroy(new Error(`no answer within ${outgoing.timeoutMs} ms`)),
      outgoing.timeoutMs,
    );
    const settle = (answer: Answer) => {
      clearTimeout(timer);
      resolve(answer);
    };
    // Stays: a connection may break more than once, and after the answer.
    request.on("error", (error: NodeJS.ErrnoException) => settle(unanswered(told(error))));
    request.on("close", () => settle(unanswered("the connection was closed without an answer")));
    request.on("response", (response) => collect(response, settle));
    transmit(request, outgoing);
  });
}

function open({ url, method, headers, ...outgoing }: Outgoing): ClientRequest {
  const send = url.protocol === "https:" ? httpsRequest : httpRequest;
  const lines = [["Host", url.host], ...headers, ["Connection", "close"], ...framing(outgoing)];
  return send(url, { method, agent: false, headers: lines.flat() });
}

function framing({
  body,
  framing,
  expectsContinue,
}: Pick<Outgoing, "body" | "framing" | "expectsContinue">): HeaderLine[] {
  if (body === undefined) return [];
  const lines: HeaderLine[] = [
    framing === "chunked"
      ? ["Transfer-Encoding", "chunked"]
      : ["Content-Length", String(body.byteLength)],
  ];
  if (expectsContinue) lines.push(["Expect", "100-continue"]);
  return lines;
}

function transmit(request: ClientRequest, { body, expectsContinue, leaves }: Outgoing): void {
  const leave = () => setTimeout(() => request.destroy(new Error("left")), LEAVE_MS);
  if (leaves === "half-way" && body) {
    request.write(body.subarray(0, Math.floor(body.byteLength / 2)), leave);
    return;
  }
  if (leaves === "after-body") request.once("finish", leave);
  if (!expectsContinue) {
    request.end(body);
    return;
  }
  const proceed = () => {
    clearTimeout(timer);
    if (!request.writableEnded) request.end(body);
  };
  const timer = setTimeout(proceed, CONTINUE_MS);
  request.once("continue", proceed);
  // A final answer instead of the 100: the body is not wanted, but the connection must end.
  request.once("response", proceed);
  request.once("close", () => clearTimeout(timer));
  request.flushHeaders();
}

function collect(response: IncomingMessage, settle: (answer: Answer) => void): void {
  const chunks: Buffer[] = [];
  let length = 0;
  response.on("data", (chunk: Buffer) => {
    chunks.push(chunk);
    length += chunk.byteLength;
    if (length > ANSWER_BYTES_MAX) response.destroy(new Error("the answer has no end"));
  });
  response.on("error", (error) => settle(unanswered(`the answer broke off: ${told(error)}`)));
  response.on("end", () => {
    const headers: HeaderLine[] = [];
    for (let i = 0; i < response.rawHeaders.length; i += 2) {
      headers.push([response.rawHeaders[i]!.toLowerCase(), response.rawHeaders[i + 1]!]);
    }
    settle({ status: response.statusCode ?? 0, headers, body: Buffer.concat(chunks) });
  });
}

function told(error: NodeJS.ErrnoException): string {
  return error.message || error.code || "the connection failed";
}

export function unanswered(trouble: string): Answer {
  return { status: 0, headers: [], body: Buffer.alloc(0), trouble };
}

/** The first line of a header. */
export function headerOf(answer: Answer, name: string): string | undefined {
  return answer.headers.find(([other]) => other === name)?.[1];
}

/** All lines of a header. */
export function headerLinesOf(answer: Answer, name: string): string[] {
  return answer.headers.filter(([other]) => other === name).map(([, value]) => value);
}

/** Whether the operation was accepted: 2xx or 3xx. */
export function isAccepted({ status }: Answer): boolean {
  return status >= 200 && status < 400;
}
