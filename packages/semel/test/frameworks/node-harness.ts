// `semel/node` under the conformance suite of frameworks.

import type { IncomingMessage, ServerResponse } from "node:http";
import { idempotent, operationOf } from "../../src/frameworks/node.ts";
import type { HttpOptions } from "../../src/http/options.ts";
import {
  counted,
  type FrameworkHarness,
  nodeHandlers,
  type Route,
} from "../../src/testing/framework-suite/index.ts";
import { listen } from "./node-server.ts";

export const nodeHarness: FrameworkHarness = {
  name: "node",
  cannot: {
    mounting: "node:http has no routers",
    parsers: "node:http has no body parsers",
  },
  async serve({ idempotency, options, stage, outside }) {
    const handlers = counted(nodeHandlers(stage, operationOf), stage);
    const field = (request: IncomingMessage, name: string) =>
      request.headers[name] as string | undefined;
    const routeOptions = { scope: "shared", ...options(field) } as HttpOptions<IncomingMessage>;
    const reportError = (error: unknown) => {
      stage.notes.push({ reported: (error as Error).message });
    };
    const handler = (request: IncomingMessage, response: ServerResponse) => {
      const route = new URL(request.url!, "http://localhost").pathname.slice(1) as Route;
      return handlers[route](request, response);
    };
    const listener = idempotent(idempotency, { ...routeOptions, reportError }, handler);
    return listen((request, response) => {
      outside?.(request, response);
      void listener(request, response);
    });
  },
};
