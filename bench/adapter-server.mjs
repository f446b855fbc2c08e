// The servers of `http-adapters.mjs`, each in its own process: one framework with the same handler, and
// nothing, empty turns, Semel or a peer before it.

import { createServer } from "node:http";
import { createRequire } from "node:module";
import { join } from "node:path";
import { REDIS_URL } from "./servers.mjs";

const [framework, subject, store, prefix] = process.argv.slice(2);
const DIST = "../packages/semel/dist";
/** What Semel's adapters are tested against; peers have what they ask for in this folder. */
const ofSemel = createRequire(join(import.meta.dirname, "../packages/semel/package.json"));
const TYPE = "application/json; charset=utf-8";
let executed = 0;

const FRAMEWORKS = {
  "node:http": nodeHttp,
  Express: onExpress,
  Fastify: onFastify,
  Hono: onHono,
  Koa: onKoa,
  "Nest on Express": onNest,
};

const port = await FRAMEWORKS[framework]();
process.send({ port });
process.on("message", () => {
  const { user, system } = process.cpuUsage();
  process.send({ cpuMicros: user + system, executed });
});
process.on("disconnect", () => process.exit());

function charge(order) {
  executed++;
  return JSON.stringify({ charged: order.amount, order: order.order }).padEnd(200);
}

/** Two pieces of a stream, a moment apart: the first must not wait for the second. */
async function* pieces() {
  executed++;
  yield Buffer.from("first\n");
  await new Promise((resolve) => setTimeout(resolve, 50));
  yield Buffer.from("second\n");
}

async function idempotency() {
  const { Idempotency } = await import(`${DIST}/index.js`);
  return new Idempotency({ store: await storeOf(), sweep: false, cache: false });
}

async function storeOf() {
  if (store === "memory") {
    const { memoryStore } = await import(`${DIST}/stores/memory.js`);
    return memoryStore({ entriesMax: 2 ** 24, bytesMax: 2 ** 34 });
  }
  const { Redis } = await import("ioredis");
  const { redisStore } = await import(`${DIST}/stores/redis.js`);
  return redisStore(new Redis(REDIS_URL), { prefix: `${prefix}:` });
}

async function turns() {
  const count = subject === "deferred-1" ? 1 : subject === "deferred-2" ? 2 : 0;
  for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setImmediate(resolve));
}

/**
 * Without a limit on idle connections, which closes them under a load that a busy machine has stalled.
 */
async function listening(server) {
  server.keepAliveTimeout = 0;
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return server.address().port;
}

async function nodeHttp() {
  const handler = async (request, response) => {
    await turns();
    if (request.url === "/stream") {
      for await (const piece of pieces()) response.write(piece);
      return response.end();
    }
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = charge(JSON.parse(Buffer.concat(chunks).toString()));
    response.writeHead(201, { "content-type": TYPE }).end(body);
  };
  if (subject !== "semel") return listening(createServer(handler));
  const { idempotent } = await import(`${DIST}/frameworks/node.js`);
  return listening(createServer(idempotent(await idempotency(), { scope: "shared" }, handler)));
}

async function onExpress() {
  const express = ofSemel("express");
  const app = express();
  if (subject === "peer") await expressIdempotency(app);
  else app.use(express.json());
  const guards = [];
  if (subject === "semel") {
    const { idempotent } = await import(`${DIST}/frameworks/express.js`);
    guards.push(idempotent(await idempotency(), { scope: "shared" }));
  }
  app.post("/charges", ...guards, async (request, response) => {
    if (request.isHit?.()) return;
    await turns();
    response.status(201).type(TYPE).send(charge(request.body));
  });
  app.post("/stream", ...guards, async (_request, response) => {
    for await (const piece of pieces()) response.write(piece);
    response.end();
  });
  return listening(createServer(app));
}

/** `express-idempotency`, which looks at the parsed body and hooks what Express sends. */
async function expressIdempotency(app) {
  const { default: library } = await import("express-idempotency");
  const express = ofSemel("express");
  let dataAdapter;
  if (store === "Redis") {
    const { default: adapter } = await import("express-idempotency-redis-adapter");
    dataAdapter = new adapter.default({ connectionConfig: { url: REDIS_URL } });
    await dataAdapter.connect();
  }
  app.use((request, _response, next) => {
    request.headers["idempotency-key"] = `${prefix}:${request.headers["idempotency-key"]}`;
    request.isHit = () => library.getSharedIdempotencyService().isHit(request);
    next();
  });
  app.use(express.json());
  app.use(library.idempotency(dataAdapter ? { dataAdapter } : {}));
}

async function onFastify() {
  const { default: Fastify } = await import("fastify");
  const app = Fastify({ keepAliveTimeout: 0 });
  if (subject === "semel") {
    const { idempotent } = await import(`${DIST}/frameworks/fastify.js`);
    await app.register(idempotent, { idempotency: await idempotency(), scope: "shared" });
  }
  app.post("/charges", async (request, reply) => {
    await turns();
    reply.code(201).type(TYPE);
    return charge(request.body);
  });
  app.post("/stream", async (_request, reply) => {
    const { Readable } = await import("node:stream");
    return reply.send(Readable.from(pieces()));
  });
  await app.listen({ port: 0, host: "127.0.0.1" });
  return app.server.address().port;
}

async function onHono() {
  const { Hono } = await import(ofSemel.resolve("hono"));
  const { createAdaptorServer } = await import(ofSemel.resolve("@hono/node-server"));
  const app = new Hono();
  if (subject === "semel") {
    const { idempotent } = await import(`${DIST}/frameworks/hono.js`);
    app.use(idempotent(await idempotency(), { scope: "shared" }));
  }
  app.post("/charges", async (c) => {
    await turns();
    return c.body(charge(await c.req.json()), 201, { "content-type": TYPE });
  });
  app.post("/stream", () => new Response(ReadableStream.from(pieces())));
  return listening(createAdaptorServer({ fetch: app.fetch }));
}

async function onKoa() {
  const Koa = ofSemel("koa");
  const app = new (Koa.default ?? Koa)();
  app.use(async (ctx, next) => {
    const chunks = [];
    for await (const chunk of ctx.req) chunks.push(chunk);
    const text = Buffer.concat(chunks).toString();
    ctx.request.body = text === "" ? undefined : JSON.parse(text);
    await next();
  });
  if (subject === "semel") {
    const { idempotent } = await import(`${DIST}/frameworks/koa.js`);
    app.use(idempotent(await idempotency(), { scope: "shared" }));
  }
  app.use(async (ctx) => {
    if (ctx.path === "/stream") {
      const { Readable } = await import("node:stream");
      ctx.body = Readable.from(pieces());
      return;
    }
    await turns();
    ctx.status = 201;
    ctx.type = TYPE;
    ctx.body = charge(ctx.request.body);
  });
  return listening(createServer(app.callback()));
}

/** Nest as each side supports it: 12 for Semel, 10 for the peer, with the bare server of the same. */
async function onNest() {
  const isPeer = subject.startsWith("peer");
  const load = isPeer ? createRequire(import.meta.url) : ofSemel;
  load("reflect-metadata");
  const { Body, Controller, Header, HttpCode, Module, Post, Res } = load("@nestjs/common");
  const { NestFactory } = load("@nestjs/core");
  class Charges {
    async create(order) {
      await turns();
      return charge(order);
    }

    async stream(response) {
      for await (const piece of pieces()) response.write(piece);
      response.end();
    }
  }
  const imports = [];
  const decorators = [Post("charges"), HttpCode(201), Header("content-type", TYPE)];
  const streamDecorators = [Post("stream")];
  if (subject === "semel") {
    const { Idempotent, SemelModule } = load("semel/nestjs");
    imports.push(
      SemelModule.forRoot({ idempotency: await idempotency(), defaults: { scope: "shared" } }),
    );
    decorators.push(Idempotent());
    streamDecorators.push(Idempotent());
  } else if (subject === "peer") {
    const { Idempotent, NodeIdempotencyModule } = load("@node-idempotency/nestjs");
    const options = store === "Redis" ? { url: REDIS_URL } : {};
    imports.push(
      NodeIdempotencyModule.forRootAsync({
        storage: { adapter: store === "Redis" ? "redis" : "memory", options },
        cacheKeyPrefix: prefix,
      }),
    );
    decorators.push(Idempotent());
  }
  decorate(Charges, "create", [Body()], decorators);
  decorate(Charges, "stream", [Res()], streamDecorators);
  Controller()(Charges);
  class App {}
  Module({ imports, controllers: [Charges] })(App);
  const app = await NestFactory.create(App, { logger: false });
  await app.init();
  return listening(app.getHttpServer());
}

function decorate(Class, name, parameters, decorators) {
  const { prototype } = Class;
  parameters.forEach((parameter, index) => {
    parameter(prototype, name, index);
  });
  const descriptor = Object.getOwnPropertyDescriptor(prototype, name);
  for (const one of decorators) one(prototype, name, descriptor);
}
