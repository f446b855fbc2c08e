// One request to the admin listener: reads what it carries, and answers in JSON.

import type { IncomingMessage, ServerResponse } from "node:http";
import { jsonable } from "../output.ts";
import type { AdminProblem } from "./contract.ts";

/** An answer other than the one that was asked for. */
export class Refused extends Error {
  readonly status: number;
  readonly code: string;

  constructor(status: number, code: string, detail: string) {
    super(detail);
    this.status = status;
    this.code = code;
  }
}

const BODY_BYTES_MAX = 2 * 2 ** 20;

export function sendJson(response: ServerResponse, status: number, body: unknown): void {
  const text = JSON.stringify(body, jsonable);
  response.writeHead(status, {
    "Content-Type": "application/json",
    "Content-Length": Buffer.byteLength(text),
  });
  response.end(text);
}

export function sendProblem(response: ServerResponse, status: number, problem: AdminProblem): void {
  sendJson(response, status, problem);
}

/** @throws {Refused} when it is no JSON object, or too large */
export async function bodyOf(request: IncomingMessage): Promise<Record<string, unknown>> {
  if (!/^application\/json\b/i.test(request.headers["content-type"] ?? "")) {
    throw new Refused(415, "not-json", "Send application/json");
  }
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    length += chunk.length;
    if (length > BODY_BYTES_MAX) {
      throw new Refused(413, "too-large", `Send at most ${BODY_BYTES_MAX} bytes`);
    }
    chunks.push(chunk);
  }
  let body: unknown;
  try {
    body = JSON.parse(Buffer.concat(chunks).toString("utf8"));
  } catch {
    throw new Refused(400, "not-json", "The body is not JSON");
  }
  if (typeof body === "object" && body !== null && !Array.isArray(body)) {
    return body as Record<string, unknown>;
  }
  throw new Refused(400, "not-json", "The body must be a JSON object");
}

/** @throws {Refused} */
export function textIn(fields: Record<string, unknown>, name: string): string {
  const value = fields[name];
  if (typeof value === "string") return value;
  throw new Refused(400, "parameter-invalid", `"${name}" must be a string`);
}

/** A whole number in a query. @throws {Refused} */
export function numberIn(
  query: URLSearchParams,
  name: string,
  { min, max, without }: { min: number; max: number; without: number },
): number {
  const written = query.get(name);
  if (written === null) return without;
  const number = /^\d{1,16}$/.test(written) ? Number(written) : Number.NaN;
  if (number >= min && number <= max) return number;
  throw new Refused(400, "parameter-invalid", `"${name}" must be a number from ${min} to ${max}`);
}

/** One of a few words in a query. @throws {Refused} */
export function oneOfIn<Word extends string>(
  query: URLSearchParams,
  name: string,
  words: readonly Word[],
): Word | undefined {
  const written = query.get(name);
  if (written === null) return undefined;
  const word = words.find((one) => one === written);
  if (word) return word;
  throw new Refused(400, "parameter-invalid", `"${name}" must be one of ${words.join(", ")}`);
}
