// `transactional()` on Fastify 5 and 4.

import fastify5 from "fastify";
import fastify4 from "fastify4";
import { afterAll, expect, test } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { idempotent, operationOf, transactional } from "../../src/frameworks/fastify.ts";
import { field, send } from "../../src/testing/framework-suite/index.ts";
import { closeServers, pgBackend, sqliteBackends } from "../engine/transaction-backends.ts";
import { type TransactionalHarness, transactionalSuite } from "./transactional-suite.ts";

type Fastify = ReturnType<typeof fastify5>;

async function listening(app: Fastify) {
  await app.listen({ port: 0, host: "127.0.0.1" });
  const { port } = app.server.address() as { port: number };
  const close = async () => {
    app.server.closeAllConnections();
    await app.close();
  };
  return { port, close };
}

/** @param how a handler gives its answer */
function harnessOf(
  name: string,
  create: () => Fastify,
  how: "returns" | "sends",
): TransactionalHarness {
  return {
    name: `${name}, a handler that ${how}`,
    canRepeat: true,
    async serve(idempotency, options, handle) {
      const app = create();
      const handler = transactional(
        idempotency,
        options as never,
        async (request, reply, transaction) => {
          const operation = operationOf(request);
          const { sku } = request.body as { sku: string };
          const { status, body, headers } = await handle({ sku, transaction, operation });
          const answered = reply as unknown as { code(status: number): typeof answered } & {
            headers(headers: object): typeof answered;
            send(payload: string): typeof answered;
          };
          answered.code(status).headers({ "content-type": "application/json", ...headers });
          if (how === "returns") return body;
          return void answered.send(body);
        },
      );
      app.post("/", handler as never);
      return listening(app);
    },
  };
}

const [sqlite] = sqliteBackends;
const majors = { "Fastify 5": fastify5, "Fastify 4": fastify4 };
for (const [name, create] of Object.entries(majors)) {
  for (const how of ["returns", "sends"] as const) {
    transactionalSuite(harnessOf(name, create as never, how), sqlite!);
  }
}
transactionalSuite(harnessOf("Fastify 5", fastify5, "returns"), pgBackend);

test("HTTP-16: beside the plugin, a transactional route answers for itself", async () => {
  const stage = await sqlite!.open();
  const client = await stage.connect();
  const idempotency = new Idempotency({ store: client.store, sweep: false });
  const app = fastify5();
  await app.register(idempotent, { idempotency, scope: "shared" });
  app.setErrorHandler((error, _request, reply) => reply.code(418).send({ why: String(error) }));
  app.post(
    "/",
    { config: { idempotency: false } } as never,
    transactional(idempotency, { scope: "shared" }, async (_request, _reply, transaction) => {
      await client.insert(transaction, "once");
      throw new Error("no stock");
    }) as never,
  );
  const { port, close } = await listening(app);
  const answer = await send(port, { path: "/", headers: { "idempotency-key": "k" } });
  expect([answer.status, answer.body.toString()]).toEqual([418, '{"why":"Error: no stock"}']);
  expect(field(answer, "idempotency-status")).toBe("released");
  expect(await stage.skus()).toEqual([]);
  await close();
  await idempotency.close();
  await stage.close();
});

afterAll(closeServers);
