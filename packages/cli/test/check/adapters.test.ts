// What Semel promises is seen from outside: the shop behind each adapter, and behind the gateway, fails
// no case (CLI-1).

import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import { serve } from "@hono/node-server";
import { Controller, Get, Patch, Post, Req, Res } from "@nestjs/common";
import { NestFactory } from "@nestjs/core";
import express, { type Request as ExpressRequest } from "express";
import Fastify from "fastify";
import { Hono } from "hono";
import Koa from "koa";
import { afterAll, expect, test } from "vitest";
import { idempotent as expressIdempotent } from "../../../semel/src/frameworks/express.ts";
import { idempotent as fastifyIdempotent } from "../../../semel/src/frameworks/fastify.ts";
import { idempotent as fetchIdempotent } from "../../../semel/src/frameworks/fetch.ts";
import { idempotent as honoIdempotent } from "../../../semel/src/frameworks/hono.ts";
import { idempotent as koaIdempotent } from "../../../semel/src/frameworks/koa.ts";
import { Idempotent, type NestRequest, SemelModule } from "../../../semel/src/frameworks/nestjs.ts";
import { idempotent as nodeIdempotent } from "../../../semel/src/frameworks/node.ts";
import { Idempotency } from "../../../semel/src/index.ts";
import { memoryStore } from "../../../semel/src/stores/memory.ts";
import { controller } from "../../../semel/test/frameworks/nestjs-harness.ts";
import { cleanUp, gateway, later, upstream } from "../processes.ts";
import { checked, ids, targetAt } from "./checking.ts";
import { type Sale, Shop } from "./shop.ts";

afterAll(cleanUp);

const OPTIONS = { required: true } as const;

function engine(): Idempotency {
  const idempotency = new Idempotency({ store: memoryStore() });
  later(() => idempotency.close());
  return idempotency;
}

/** The address of a shop behind an adapter. */
const SHOPS: Record<string, () => Promise<string>> = {
  node: async () => {
    const shop = new Shop();
    const keyed = nodeIdempotent(
      engine(),
      { ...OPTIONS, scope: ({ headers }) => headers.authorization },
      shop.listener,
    );
    const { url } = await upstream((request, response) =>
      // Whoever has no credential is turned away before, as by any authentication.
      shop.isCustomer(request.headers)
        ? keyed(request, response)
        : shop.listener(request, response),
    );
    return url;
  },

  express: () => expressShop("after"),

  fastify: async () => {
    const shop = new Shop();
    const app = Fastify();
    later(() => app.close());
    app.addHook("onRequest", async (request, reply) => {
      const path = request.url.split("?")[0]!;
      const aside = shop.aside(request.method, path, shop.isCustomer(request.headers));
      if (aside) await reply.code(aside.status).send(JSON.stringify(aside.value));
    });
    await app.register(fastifyIdempotent, {
      ...OPTIONS,
      idempotency: engine(),
      scope: (request) => request.headers.authorization,
    });
    app.route({
      method: ["POST", "PATCH"],
      url: "/charges",
      handler: async (request, reply) => {
        const { status, headers, value } = await shop.charge(request.url, undefined);
        return reply.code(status).headers(headers).send(value);
      },
    });
    app.get("/*", async () => "");
    return app.listen({ port: 0, host: "127.0.0.1" });
  },

  koa: async () => {
    const shop = new Shop();
    const app = new Koa();
    // Clients that break off are errors to Koa, which it writes to the console.
    app.silent = true;
    app.use(async (context, next) => {
      const aside = shop.aside(context.method, context.path, shop.isCustomer(context.headers));
      if (!aside) return next();
      context.status = aside.status;
      context.body = JSON.stringify(aside.value);
    });
    app.use(
      koaIdempotent(engine(), { ...OPTIONS, scope: (context) => context["get"]("authorization") }),
    );
    app.use(async (context) => {
      const body = await text(context.req);
      const { status, headers, value } = await shop.charge(context.search, body);
      context.status = status;
      context.set(headers);
      context.body = value as object;
    });
    return (await upstream(app.callback())).url;
  },

  fetch: async () => {
    const shop = new Shop();
    const keyed = fetchIdempotent(
      engine(),
      { ...OPTIONS, scope: (request) => request.headers.get("authorization") },
      async (request) => {
        const { search } = new URL(request.url);
        return responseOf(await shop.charge(search, await request.text()));
      },
    );
    return served(async (request) => asideOf(shop, request) ?? keyed(request));
  },

  hono: async () => {
    const shop = new Shop();
    const app = new Hono();
    app.use(async (c, next) => asideOf(shop, c.req.raw) ?? next());
    app.use(honoIdempotent(engine(), { ...OPTIONS, scope: (c) => c.req.header("authorization") }));
    app.all("/charges", async (c) => {
      const { search } = new URL(c.req.url);
      return responseOf(await shop.charge(search, await c.req.text()));
    });
    return served(app.fetch);
  },

  // Its parsers run before; with `rawBody` the bytes are still there.
  nestjs: () => nest({ rawBody: true }),

  "the gateway": async () => {
    const { url } = await upstream(new Shop().listener);
    return (await gateway(url, "--required")).url;
  },
};

async function expressShop(parser: "before" | "after"): Promise<string> {
  const shop = new Shop();
  const app = express();
  app.use((request, response, next) => {
    const aside = shop.aside(request.method, request.path, shop.isCustomer(request.headers));
    if (aside) response.status(aside.status).json(aside.value);
    else next();
  });
  if (parser === "before") app.use(express.json());
  app.use(
    expressIdempotent(engine(), {
      ...OPTIONS,
      scope: (request: ExpressRequest) => request.get("authorization"),
    }),
  );
  if (parser === "after") app.use(express.json());
  app.all("/charges", async (request, response) => {
    const { search } = new URL(request.originalUrl, "http://localhost");
    const { status, headers, value } = await shop.charge(search, undefined);
    response.status(status).set(headers).json(value);
  });
  return (await upstream(app)).url;
}

async function nest(options: { rawBody: boolean }): Promise<string> {
  const shop = new Shop();
  const decorated = (decorate: MethodDecorator) => ({
    decorators: [decorate, Idempotent()],
    parameters: [Req(), Res({ passthrough: true })],
    handler: async (request: ExpressRequest, response: express.Response) => {
      const { search } = new URL(request.originalUrl, "http://localhost");
      const { status, headers, value } = await shop.charge(search, undefined);
      response.status(status).set(headers);
      return value;
    },
  });
  const Charges = controller("Charges", [Controller("charges")], {
    charge: decorated(Post()),
    change: decorated(Patch()),
    all: { decorators: [Get()], parameters: [], handler: () => [] },
  });
  const scope = (request: NestRequest) => request["get"]("authorization");
  const module = SemelModule.forRoot({ idempotency: engine(), defaults: { ...OPTIONS, scope } });
  class Root {}
  const app = await NestFactory.create(
    { module: Root, imports: [module], controllers: [Charges] },
    { ...options, logger: false },
  );
  later(() => app.close());
  app.use((request: ExpressRequest, response: express.Response, next: () => void) => {
    const aside = shop.aside(request.method, request.path, shop.isCustomer(request.headers));
    if (aside) response.status(aside.status).json(aside.value);
    else next();
  });
  await app.listen(0, "127.0.0.1");
  return app.getUrl();
}

for (const [name, start] of Object.entries(SHOPS)) {
  test.concurrent(`a shop behind ${name} fails no case`, async () => {
    const report = await checked(targetAt(await start()));
    expect(report.cases.filter(({ verdict }) => verdict === "fail")).toEqual([]);
    // Nothing compresses here; everything else is asked.
    expect(ids(report, "skip")).toEqual(["encoding-agrees"]);
  });
}

/** Adapters that come after a parser are left with what it made of the payload. */
const PARSED: Record<string, () => Promise<string>> = {
  "express after express.json()": () => expressShop("before"),
  "nestjs without rawBody": () => nest({ rawBody: false }),
};

for (const [name, start] of Object.entries(PARSED)) {
  test.concurrent(`a shop behind ${name} fails number-collapse alone`, async () => {
    expect(ids(await checked(targetAt(await start())), "fail")).toEqual(["number-collapse"]);
  });
}

function asideOf(shop: Shop, request: Request): Response | undefined {
  const authorization = request.headers.get("authorization") ?? "";
  const aside = shop.aside(
    request.method,
    new URL(request.url).pathname,
    shop.isCustomer({ authorization }),
  );
  return aside && responseOf(aside);
}

function responseOf({ status, headers, value }: Sale): Response {
  return Response.json(value, { status, headers });
}

/** Serves a fetch handler as people do on Node. */
async function served(fetch: (request: Request) => Response | Promise<Response>): Promise<string> {
  const server = serve({ fetch, port: 0, hostname: "127.0.0.1" });
  later(() => server.close());
  if (!server.listening) await once(server, "listening");
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}
