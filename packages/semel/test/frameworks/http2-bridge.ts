// HTTP/1.1 in front of an HTTP/2 server: what the suite's clients send reaches the adapter as streams of
// one HTTP/2 connection, and what they leave is reset.

import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from "node:http";
import {
  type ClientHttp2Session,
  connect,
  constants,
  createServer,
  type Http2ServerRequest,
  type Http2ServerResponse,
  type IncomingHttpHeaders as IncomingHttp2Headers,
} from "node:http2";
import type { AddressInfo } from "node:net";
import type { FrameworkFeature, Served } from "../../src/testing/framework-suite/index.ts";
import { listen } from "./node-server.ts";

/** What is not said over this bridge. */
export const BRIDGED: Partial<Record<FrameworkFeature, string>> = {
  "outer-middleware":
    "`end` of node:http2 calls `write`, which the stand-in for compression wraps too",
  informational: "the bridge passes no informational responses",
  reason: "HTTP/2 has no reason phrases",
  trailers: "the bridge passes no trailers",
};

/** Serves a listener by HTTP/2, behind a bridge. */
export async function listenByHttp2(
  listener: (request: Http2ServerRequest, response: Http2ServerResponse) => void,
): Promise<Served> {
  const server = createServer(listener);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return bridgeTo((server.address() as AddressInfo).port, async () => {
    await new Promise((resolve) => server.close(resolve));
  });
}

/** A bridge to an HTTP/2 server. */
export async function bridgeTo(port: number, closeServer: () => Promise<void>): Promise<Served> {
  const session = connect(`http://127.0.0.1:${port}`, { maxHeaderListPairs: 1_000 });
  session.on("error", () => {});
  const bridge = await listen((request, response) => pass(session, request, response));
  const close = async () => {
    await bridge.close();
    await new Promise<void>((resolve) => session.close(resolve));
    await closeServer();
  };
  return { port: bridge.port, close };
}

function pass(session: ClientHttp2Session, request: IncomingMessage, response: ServerResponse) {
  const { headers } = request;
  const hasBody = "transfer-encoding" in headers || Number(headers["content-length"] ?? 0) > 0;
  const head = { ":method": request.method!, ":path": request.url!, ...linesOf(request) };
  const stream = session.request(head, { endStream: !hasBody });
  if (hasBody) request.pipe(stream);
  // Not `close()`, which would send the end of the body first.
  const reset = () => stream.destroy(new Error("the client left"));
  request.on("error", reset);
  response.on("close", () => {
    if (!response.writableFinished) reset();
  });
  stream.on("response", (answer) => {
    response.writeHead(Number(answer[":status"]), answerLines(answer));
    stream.pipe(response);
  });
  stream.on("error", () => response.destroy());
  stream.on("aborted", () => response.destroy());
  stream.on("close", () => {
    if (!response.headersSent || stream.rstCode !== constants.NGHTTP2_NO_ERROR) response.destroy();
  });
}

const OF_A_CONNECTION = /^(?:connection|keep-alive|transfer-encoding|expect|host|upgrade)$/;

/** Every line, but those that HTTP/2 does not have. */
function linesOf({ rawHeaders }: IncomingMessage): Record<string, string[]> {
  const lines: Record<string, string[]> = {};
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = rawHeaders[i]!.toLowerCase();
    if (OF_A_CONNECTION.test(name)) continue;
    lines[name] ??= [];
    lines[name].push(rawHeaders[i + 1]!);
  }
  return lines;
}

function answerLines(headers: IncomingHttp2Headers): IncomingHttpHeaders {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !name.startsWith(":")));
}
