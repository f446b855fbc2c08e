// Adapters under the conformance suite of frameworks when their server speaks HTTP/2.

import type { IncomingMessage, RequestListener, ServerResponse } from "node:http";
import type { Http2ServerRequest, Http2ServerResponse } from "node:http2";
import { fastify } from "fastify";
import koa from "koa";
import { describe, test } from "vitest";
import { idempotent, operationOf } from "../../src/frameworks/node.ts";
import type { HttpOptions } from "../../src/http/options.ts";
import {
  counted,
  type FrameworkHarness,
  frameworkCases,
  nodeHandlers,
  type Route,
  reasonToSkip,
} from "../../src/testing/framework-suite/index.ts";
import { fastifyHarness } from "./fastify-harness.ts";
import { honoHarnessOn } from "./hono-harness.ts";
import { BRIDGED, bridgeTo, listenByHttp2 } from "./http2-bridge.ts";
import { koaHarness } from "./koa-harness.ts";

type Http2Listener = (request: Http2ServerRequest, response: Http2ServerResponse) => void;

/** `node:http2` has its own types for what is used alike. */
const serve = (listener: RequestListener) => listenByHttp2(listener as unknown as Http2Listener);

const node: FrameworkHarness = {
  name: "node",
  cannot: {
    mounting: "node:http2 has no routers",
    parsers: "node:http2 has no body parsers",
  },
  async serve({ idempotency, options, stage }) {
    const handlers = counted(nodeHandlers(stage, operationOf), stage);
    const field = (request: IncomingMessage, name: string) =>
      request.headers[name] as string | undefined;
    const routeOptions = { scope: "shared", ...options(field) } as HttpOptions<IncomingMessage>;
    const reportError = () => {};
    const handler = (request: IncomingMessage, response: ServerResponse) =>
      handlers[request.url!.slice(1).replace(/\?.*/, "") as Route](request, response);
    return serve(idempotent(idempotency, { ...routeOptions, reportError }, handler));
  },
};

const fastifyHere = fastifyHarness("Fastify", (() => fastify({ http2: true })) as never, false);

const LENGTHS = {
  "a Content-Length that is wrong": "RFC 9113 §8.1.1: node:http2 refuses to send it",
};

/** What differs over HTTP/2. */
interface OverHttp2 {
  harness: FrameworkHarness;
  /** The cases that are worth it again; all when absent. */
  only?: RegExp;
  /** Cases that it cannot have, by a part of their names, with the reason. */
  without: Record<string, string>;
}

/** Request bodies, answers, and clients that leave: what is written differently over HTTP/2. */
const DIFFERENT = /^(?:HTTP-5|HTTP-1[34]|SM-23):/;

const SERVED: readonly OverHttp2[] = [
  {
    harness: node,
    without: {
      ...LENGTHS,
    },
  },
  {
    harness: koaHarness("Koa", koa, serve),
    only: DIFFERENT,
    without: {
      ...LENGTHS,
      "bodies are parsed and told apart": "Koa's `is()` knows no body that no header speaks of",
    },
  },
  {
    harness: honoHarnessOn(serve),
    only: DIFFERENT,
    without: {
      ...LENGTHS,
      "server-sent events": "Hono sets Transfer-Encoding, which HTTP/2 forbids",
    },
  },
  {
    harness: {
      ...fastifyHere,
      async serve(setup) {
        const { port, close } = await fastifyHere.serve(setup);
        return bridgeTo(port, close);
      },
    },
    only: DIFFERENT,
    without: {
      ...LENGTHS,
      "204, 205 and 304": "Fastify sends a 205 with a length, which node:http2 refuses",
      "a body that a parser refuses": "Fastify parses before any hook that could know the key",
    },
  },
];

for (const { harness, only = /^/, without } of SERVED) {
  const cannot = { ...harness.cannot, ...BRIDGED };

  describe(`${harness.name} over HTTP/2`, () => {
    for (const frameworkCase of frameworkCases) {
      if (!only.test(frameworkCase.name)) continue;
      if (reasonToSkip(frameworkCase, { ...harness, cannot }) !== undefined) continue;
      const reason = Object.entries(without).find(([part]) => frameworkCase.name.includes(part));
      test(frameworkCase.name, async ({ skip }) => {
        if (reason) skip(reason[1]);
        await frameworkCase.run(harness);
      });
    }
  });
}
