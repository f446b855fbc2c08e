// Every adapter in one process, on one store that forgets soon, to be asked what it still holds.
//
//   node --expose-gc service.mjs
//
// It tells its parent the adapters' ports, and answers "measure" by the heap after collection, the
// records, and what keeps the process alive.

import { createServer } from "node:http";
import { setImmediate as turn } from "node:timers/promises";
import { getRequestListener } from "@hono/node-server";
import express from "express";
import { fastify } from "fastify";
import { Hono } from "hono";
import Koa from "koa";
import { Idempotency } from "semel";
import { idempotent as forExpress } from "semel/express";
import { idempotent as forFastify } from "semel/fastify";
import { idempotent as forFetch } from "semel/fetch";
import { idempotent as forHono } from "semel/hono";
import { idempotent as forKoa } from "semel/koa";
import { memoryStore } from "semel/memory";
import { idempotent as forNode } from "semel/node";

const store = memoryStore();
const idempotency = new Idempotency({ store, retention: "20ms", cache: false });
const options = { scope: "shared" };

async function* pieces() {
  yield Buffer.from("one ");
  for (let turns = 0; turns < 5; turns++) await turn();
  yield Buffer.from("two");
}

/** A stream to `/stream`, a failure to `/fail`, otherwise the body that came. */
async function answerOn(request, response, url = request.url) {
  if (url === "/fail") throw new Error("the handler broke");
  if (url === "/stream") {
    for await (const piece of pieces()) response.write(piece);
    return response.end();
  }
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return response.end(Buffer.concat(chunks));
}

async function answerTo(request) {
  const { pathname } = new URL(request.url);
  if (pathname === "/fail") throw new Error("the handler broke");
  if (pathname === "/stream") return new Response(ReadableStream.from(pieces()));
  return new Response(await request.arrayBuffer());
}

const reportError = () => {};

function onExpress() {
  const app = express().set("env", "test");
  app.use(forExpress(idempotency, options));
  return app.use((request, response) => answerOn(request, response));
}

function onKoa() {
  const app = new Koa();
  app.silent = true;
  app.use(forKoa(idempotency, options));
  app.use((context) => {
    context.respond = false;
    context.res.statusCode = 200;
    return answerOn(context.req, context.res);
  });
  return app.callback();
}

function onHono() {
  const app = new Hono().onError((_error, c) => c.text("Internal Server Error", 500));
  app.all("*", forHono(idempotency, options), (c) => answerTo(c.req.raw));
  return getRequestListener(app.fetch);
}

async function onFastify() {
  const app = fastify();
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("*", (_request, _payload, done) => done(null));
  await app.register(forFastify, { ...options, idempotency });
  app.all("/*", async (request, reply) => {
    if (request.url === "/stream") return reply.send(ReadableStream.from(pieces()));
    reply.hijack();
    if (request.url === "/fail") reply.raw.statusCode = 500;
    return answerOn(request.raw, reply.raw, request.url === "/fail" ? "/" : request.url);
  });
  await app.ready();
  return app.routing;
}

function onFetch() {
  const handle = forFetch(idempotency, options, answerTo);
  const answered = (request) =>
    handle(request).catch(() => new Response("Internal Server Error", { status: 500 }));
  return getRequestListener(answered);
}

const LISTENERS = {
  node: forNode(idempotency, { ...options, reportError }, (request, response) =>
    answerOn(request, response),
  ),
  Express: onExpress(),
  Koa: onKoa(),
  Hono: onHono(),
  Fastify: await onFastify(),
  fetch: onFetch(),
};

const servers = {};
const ports = {};
for (const [name, listener] of Object.entries(LISTENERS)) {
  const server = createServer(listener);
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  servers[name] = server;
  ports[name] = server.address().port;
}

async function measure() {
  for (const server of Object.values(servers)) server.closeAllConnections();
  for (let rounds = 0; rounds < 6; rounds++) {
    for (let turns = 0; turns < 20; turns++) await turn();
    await idempotency.purge();
    globalThis.gc();
  }
  const resources = {};
  for (const name of process.getActiveResourcesInfo()) resources[name] = (resources[name] ?? 0) + 1;
  const { states } = await idempotency.stats();
  return { heapBytes: process.memoryUsage().heapUsed, resources, states };
}

process.on("warning", ({ name }) => process.send({ warning: name }));
process.on("message", async (message) => {
  if (message === "measure") process.send({ measured: await measure() });
});
process.on("disconnect", () => process.exit());
process.send({ ports });
