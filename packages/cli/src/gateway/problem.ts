// What the gateway itself has to say, as RFC 9457 problem details like those of the HTTP layer.

import { type ServerResponse, STATUS_CODES } from "node:http";

export interface Problem {
  status: number;
  code: string;
  detail: string;
  /** What a keyed request's sender may do next (HTTP-11). */
  retry?: "same-key" | "new-key" | "never";
  headers?: Readonly<Record<string, string>>;
}

/** Answers with a problem, in place of whatever was prepared. */
export function sendProblem(response: ServerResponse, problem: Problem): void {
  const { status, code, detail, retry, headers = {} } = problem;
  for (const name of response.getHeaderNames()) response.removeHeader(name);
  response.statusCode = status;
  response.statusMessage = "";
  response.setHeader("Content-Type", "application/problem+json");
  response.setHeader("Cache-Control", "no-store");
  for (const name of Object.keys(headers)) response.setHeader(name, headers[name]!);
  const title = STATUS_CODES[status] ?? "Error";
  const type = `urn:semel:error:${code}`;
  response.end(JSON.stringify({ type, title, status, detail, code, ...(retry && { retry }) }));
}
