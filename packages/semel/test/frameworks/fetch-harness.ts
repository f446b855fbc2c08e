// `semel/fetch` under the conformance suite of frameworks, behind a small bridge from `node:http`.

import type { IncomingMessage, ServerResponse } from "node:http";
import { Readable } from "node:stream";
import { idempotent, operationOf } from "../../src/frameworks/fetch.ts";
import type { HttpOptions } from "../../src/http/options.ts";
import {
  counted,
  type FetchRoute,
  type FetchRouteHandler,
  type FrameworkHarness,
  fetchHandlers,
} from "../../src/testing/framework-suite/index.ts";
import { listen } from "./node-server.ts";

export const fetchHarness: FrameworkHarness = {
  name: "fetch",
  cannot: {
    connections: "a Request has no connection",
    informational: "a handler has one response to give",
    "failing-after-answer": "a handler ends by returning its response",
    mounting: "the Fetch standard has no routers",
    "outer-middleware": "there is no node:http response that middleware could patch",
    parsers: "the Fetch standard has no body parsers",
    trailers: "a Response has no trailers",
  },
  async serve({ idempotency, options, stage }) {
    const handlers = counted(fetchHandlers(stage, operationOf), stage);
    const field = (request: Request, name: string) => request.headers.get(name) ?? undefined;
    const routeOptions = { scope: "shared", ...options(field) } as HttpOptions<Request>;
    const handler: FetchRouteHandler = (request) =>
      handlers[new URL(request.url).pathname.slice(1) as FetchRoute](request);
    return listen(bridge(idempotent(idempotency, routeOptions, handler)));
  },
};

/** Serves a fetch handler on `node:http`. */
export function bridge(handler: FetchRouteHandler) {
  return (message: IncomingMessage, response: ServerResponse): void => {
    const gone = new AbortController();
    response.once("close", () => gone.abort());
    // What waits behind another answer on its connection is told nothing.
    if (response.socket === null) message.socket.once("close", () => gone.abort());
    const answered = async () => {
      const answer = await handler(requestOf(message, gone.signal));
      response.writeHead(answer.status, answer.statusText || undefined, headersOf(answer));
      await write(answer, response);
      // As Node does with a body that nobody has begun to read.
      if (!message.readableEnded) message.removeAllListeners("data").resume();
    };
    answered().catch(() => {
      if (response.headersSent) response.destroy();
      else response.writeHead(500, { "content-type": "text/plain" }).end("Internal Server Error");
    });
  };
}

function requestOf(message: IncomingMessage, signal: AbortSignal): Request {
  const headers = new Headers();
  for (let i = 0; i < message.rawHeaders.length; i += 2) {
    headers.append(message.rawHeaders[i]!, message.rawHeaders[i + 1]!);
  }
  const { method = "GET" } = message;
  const body = method === "GET" || method === "HEAD" ? null : Readable.toWeb(message);
  return new Request(`http://localhost${message.url}`, {
    method,
    headers,
    signal,
    body: body as ReadableStream<Uint8Array> | null,
    duplex: "half",
  } as RequestInit);
}

function headersOf(answer: Response): string[] {
  return [...answer.headers].flat();
}

async function write(answer: Response, response: ServerResponse): Promise<void> {
  const reader = answer.body?.getReader();
  if (reader === undefined) {
    response.end();
    return;
  }
  let goOn = () => {};
  response.on("drain", () => goOn());
  response.once("close", () => {
    goOn();
    reader.cancel().catch(() => {});
  });
  if (response.destroyed) await reader.cancel();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (response.write(value) || response.destroyed) continue;
    await new Promise<void>((resolve) => {
      goOn = resolve;
    });
  }
  response.end();
}
