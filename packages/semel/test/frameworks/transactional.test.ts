// `transactional()` of the frameworks that are served on `node:http` by themselves.

import express5 from "express";
import express4 from "express4";
import { afterAll } from "vitest";
import { transactional as onExpress } from "../../src/frameworks/express.ts";
import { transactional as onFetch } from "../../src/frameworks/fetch.ts";
import { transactional as onNode, operationOf } from "../../src/frameworks/node.ts";
import {
  closeServers,
  mysqlBackend,
  pgBackend,
  sqliteBackends,
} from "../engine/transaction-backends.ts";
import { bridge } from "./fetch-harness.ts";
import { listen } from "./node-server.ts";
import { type TransactionalHarness, transactionalSuite } from "./transactional-suite.ts";

const node: TransactionalHarness = {
  name: "node:http",
  canRepeat: false,
  serve: async (idempotency, options, handle) =>
    listen(
      onNode(
        idempotency,
        { ...options, reportError: () => {} } as never,
        async (request, response, transaction) => {
          const chunks: Buffer[] = [];
          for await (const chunk of request) chunks.push(chunk);
          const { sku } = JSON.parse(Buffer.concat(chunks).toString());
          const operation = operationOf(request);
          const { status, body, headers } = await handle({ sku, transaction, operation });
          response.writeHead(status, { "content-type": "application/json", ...headers });
          // In two pieces: both wait for the commit.
          response.write(body.slice(0, 1));
          response.end(body.slice(1));
        },
      ),
    ),
};

function expressOf(name: string, create: typeof express5): TransactionalHarness {
  return {
    name,
    canRepeat: true,
    async serve(idempotency, options, handle) {
      const app = create();
      app.set("env", "test");
      app.post(
        "/",
        create.json(),
        onExpress(
          idempotency,
          options as never,
          async (request: express5.Request, response: express5.Response, transaction) => {
            const operation = operationOf(request);
            const call = { sku: request.body.sku, transaction, operation };
            const { status, body, headers } = await handle(call);
            response
              .status(status)
              .set({ ...headers })
              .type("json")
              .send(body);
          },
        ),
      );
      return listen(app);
    },
  };
}

const fetchHarness: TransactionalHarness = {
  name: "fetch",
  canRepeat: true,
  serve: async (idempotency, options, handle) => {
    const handler = onFetch(idempotency, options as never, async (request, transaction) => {
      const { sku } = (await request.json()) as { sku: string };
      const { status, body, headers } = await handle({
        sku,
        transaction,
        operation: operationOf(request),
      });
      return new Response(body, {
        status,
        headers: { "content-type": "application/json", ...headers },
      });
    });
    return listen(bridge(handler));
  },
};

const [sqlite] = sqliteBackends;
transactionalSuite(node, pgBackend);
transactionalSuite(node, mysqlBackend);
for (const each of [node, expressOf("Express 5", express5), fetchHarness]) {
  transactionalSuite(each, sqlite!);
}
transactionalSuite(expressOf("Express 4", express4 as never), sqlite!);
transactionalSuite(fetchHarness, pgBackend);

afterAll(closeServers);
