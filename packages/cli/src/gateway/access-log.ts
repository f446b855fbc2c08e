// One line a request, without secrets: no keys, no credentials, no query.

import type { IncomingMessage, ServerResponse } from "node:http";
import colors from "picocolors";
import { jsonLog } from "../logger.ts";

export type LogFormat = "json" | "pretty" | "none";

/** Nothing was answered, because the client left before; by this status nginx's logs say so, too. */
const CLIENT_LEFT = 499;

export interface RequestLine {
  method: string;
  path: string;
  /** As it was answered; 499 when no answer had begun before the client left. */
  status: number;
  /** What became of its operation, if it is one: `Idempotency-Status`. */
  idempotency?: string;
  durationMs: number;
  /** The client left before the answer was whole. */
  clientLeft?: true;
  /** How the exchange with the upstream came to nothing. */
  broken?: string;
}

const breakages = new WeakMap<ServerResponse, string>();

/** Has the line of a request say how its exchange with the upstream came to nothing. */
export function noteBreakage(response: ServerResponse, message: string): void {
  breakages.set(response, message);
}

export class AccessLog {
  readonly #format: LogFormat;
  readonly #json = jsonLog();
  /** Also told of every request, whatever the format. */
  onRequest: ((line: RequestLine) => void) | undefined;

  constructor(format: LogFormat) {
    this.#format = format;
    // A reader that went away is no reason to stop serving.
    process.stdout.on("error", () => {});
  }

  /** Something about the gateway itself. */
  note(event: string, message: string, details: Record<string, unknown> = {}): void {
    const level = event === "error" ? "error" : "info";
    if (this.#format === "json") this.#json.logger[level]({ event, ...details }, message);
    else process.stdout.write(`${message}\n`);
  }

  /** Writes what is under way, before the process ends. */
  end(): Promise<void> {
    return this.#json.end();
  }

  /** Writes the line of a request when it has been answered. */
  watch(request: IncomingMessage, response: ServerResponse): void {
    if (this.#format === "none" && this.onRequest === undefined) return;
    const startedAt = performance.now();
    response.once("close", () => {
      const idempotency = response.getHeader("idempotency-status");
      const broken = breakages.get(response);
      this.request(request, {
        status: hasBegun(response) ? response.statusCode : CLIENT_LEFT,
        durationMs: Math.round(performance.now() - startedAt),
        ...(typeof idempotency === "string" && { idempotency }),
        ...(!response.writableFinished && { clientLeft: true as const }),
        ...(broken !== undefined && { broken }),
      });
    });
  }

  request(request: IncomingMessage, line: Omit<RequestLine, "method" | "path">): void {
    const path = pathOf(request.url ?? "/");
    const whole: RequestLine = { method: request.method ?? "GET", path, ...line };
    this.onRequest?.(whole);
    if (this.#format === "none") return;
    if (this.#format === "pretty") process.stdout.write(`${prettyLine(whole)}\n`);
    else
      this.#json.logger[line.broken === undefined ? "info" : "warn"]({
        event: "request",
        ...whole,
      });
  }
}

/** Whether any of an answer has left: what waits for its turn has a head, and no connection. */
function hasBegun({ writableFinished, headersSent, socket }: ServerResponse): boolean {
  return writableFinished || (headersSent && socket !== null);
}

/** The path without what may be secret: a query, a fragment, the credentials of a URL. */
export function pathOf(target: string): string {
  const isPath = target.startsWith("/") || target === "*";
  return isPath ? target.split(/[?#]/, 1)[0]! : "(not a path)";
}

function prettyLine(line: RequestLine): string {
  const { method, path, status, idempotency, durationMs, clientLeft, broken } = line;
  const paint = status >= 500 ? colors.red : status >= 400 ? colors.yellow : colors.green;
  return [
    colors.dim(new Date().toTimeString().slice(0, 8)),
    method,
    path,
    paint(String(status)),
    ...(idempotency ? [colors.cyan(idempotency)] : []),
    colors.dim(`${durationMs} ms`),
    ...(clientLeft ? [colors.dim("(client left)")] : []),
    ...(broken ? [colors.red(`upstream: ${broken}`)] : []),
  ].join(" ");
}
