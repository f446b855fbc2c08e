// What plain JavaScript, and a call written from memory, gets wrong: refused at once, by name, and not by
// the first request.

import "reflect-metadata";
import { NestFactory } from "@nestjs/core";
import { describe, expect, test } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { InvalidOption } from "../../src/errors.ts";
import * as express from "../../src/frameworks/express.ts";
import * as fastify from "../../src/frameworks/fastify.ts";
import * as fetch from "../../src/frameworks/fetch.ts";
import * as hono from "../../src/frameworks/hono.ts";
import * as koa from "../../src/frameworks/koa.ts";
import { SemelModule } from "../../src/frameworks/nestjs.ts";
import * as node from "../../src/frameworks/node.ts";
import { idempotentTool } from "../../src/mcp/index.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { webhook } from "../../src/webhooks/index.ts";

type Adapter = (idempotency?: unknown, options?: unknown, handler?: unknown) => unknown;

const handler = () => {};
const options = { scope: "shared" };
const loose = (adapter: unknown) => adapter as Adapter;

/** Registers the plugin as Fastify does. */
const onFastify: Adapter = (idempotency, given) => {
  const done = (error?: Error) => {
    if (error) throw error;
  };
  const hooks = { addHook: () => {} };
  loose(fastify.idempotent)(hooks, { idempotency, ...(given as object) }, done);
};

const ADAPTERS: [string, Adapter, given?: object][] = [
  ["idempotent() of express", loose(express.idempotent)],
  ["idempotent() of node", loose(node.idempotent)],
  ["idempotent() of fetch", loose(fetch.idempotent)],
  ["idempotent() of hono", loose(hono.idempotent)],
  ["idempotent() of koa", loose(koa.idempotent)],
  ["idempotent of fastify", onFastify],
  ["transactional() of express", loose(express.transactional)],
  ["transactional() of node", loose(node.transactional)],
  ["transactional() of fetch", loose(fetch.transactional)],
  ["transactional() of hono", loose(hono.transactional)],
  ["transactional() of koa", loose(koa.transactional)],
  ["transactional() of fastify", loose(fastify.transactional)],
  ["webhook()", loose(webhook), { scope: "orders", verify: async () => ({ id: "1" }) }],
  ["idempotentTool()", loose(idempotentTool), { scope: "shared", tool: "charge" }],
];

describe.each(ADAPTERS)("%s", (_, adapt, given = options) => {
  test.each([
    ["nothing", undefined],
    ["a store", memoryStore()],
    ["the function that makes a store", memoryStore],
    ["the options of an instance", { store: memoryStore() }],
  ])("refuses %s for an Idempotency", (_, wrong) => {
    const adapting = () => adapt(wrong, given, handler);
    expect(adapting).toThrow(InvalidOption);
    expect(adapting).toThrow(
      "`idempotency` must be an Idempotency, as `new Idempotency({ store })` makes it",
    );
  });

  test("refuses to be given no options", () => {
    const idempotency = new Idempotency({ store: memoryStore() });
    expect(() => adapt(idempotency)).toThrow(InvalidOption);
  });
});

test.each([
  ["node", node.idempotent],
  ["fetch", fetch.idempotent],
])("idempotent() of %s refuses to be given no handler", (_, idempotent) => {
  const idempotency = new Idempotency({ store: memoryStore() });
  expect(() => loose(idempotent)(idempotency, options)).toThrow("idempotent() takes a handler");
});

test("idempotent of fastify says that it is a plugin when it is called as the others are", () => {
  const idempotency = new Idempotency({ store: memoryStore() });
  const called = () => loose(fastify.idempotent)(idempotency, options);
  expect(called).toThrow(InvalidOption);
  expect(called).toThrow("await app.register(idempotent");
});

test.each([undefined, {}, memoryStore()])(
  "SemelModule refuses what is no Idempotency, nor the options of one",
  async (wrong) => {
    const module = SemelModule.forRoot({ idempotency: wrong as never });
    const starting = NestFactory.createApplicationContext(module, {
      logger: false,
      abortOnError: false,
    });
    await expect(starting).rejects.toThrow("`idempotency` of SemelModule must be an Idempotency");
  },
);
