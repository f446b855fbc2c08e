// The servers of `fastify-stores.mjs`, each in its own process: one handler, with different things
// before it.

import Fastify from "fastify";
import { POSTGRES_URL, REDIS_URL } from "./servers.mjs";

const [subject, prefix] = process.argv.slice(2);
let executed = 0;

const SUBJECTS = {
  bare: (app) => app.post("/charges", handler),
  "deferred-1": (app) => deferred(app, 1),
  "deferred-2": (app) => deferred(app, 2),
  redis: async (app) => semel(app, await redisSemel()),
  postgres: async (app) => semel(app, await postgresSemel()),
  "node-idempotency": nodeIdempotency,
  powertools,
};

const { port, close } =
  subject === "express-idempotency" ? await expressIdempotency() : await fastify();
process.send({ port });
process.on("message", () => {
  const { user, system } = process.cpuUsage();
  process.send({ cpuMicros: user + system, executed });
});
process.on("disconnect", async () => {
  await close?.();
  process.exit();
});

async function fastify() {
  const app = Fastify();
  const end = await SUBJECTS[subject](app);
  await app.listen({ port: 0, host: "127.0.0.1" });
  return { port: app.server.address().port, close: typeof end === "function" ? end : undefined };
}

/** What every server does in the end: answers 200 bytes. */
async function handler(request, reply) {
  reply.code(201).type("application/json; charset=utf-8");
  return charge(request.body);
}

function charge(order) {
  executed++;
  return JSON.stringify({ charged: order.amount, order: order.order }).padEnd(200);
}

/** As many empty turns of the event loop as there would be calls to a store. */
function deferred(app, turns) {
  app.addHook("preHandler", async () => {
    for (let turn = 0; turn < turns; turn++) await new Promise((resolve) => setImmediate(resolve));
  });
  app.post("/charges", handler);
}

async function semel(app, { store, end }) {
  const { Idempotency } = await import("../packages/semel/dist/index.js");
  const { idempotent } = await import("../packages/semel/dist/frameworks/fastify.js");
  const idempotency = new Idempotency({ store, cache: false, sweep: false });
  await app.register(idempotent, { idempotency, scope: "shared" });
  app.post("/charges", handler);
  return end;
}

async function redisSemel() {
  const { Redis } = await import("ioredis");
  const { redisStore } = await import("../packages/semel/dist/stores/redis.js");
  return { store: redisStore(new Redis(REDIS_URL), { prefix: `${prefix}:` }) };
}

async function postgresSemel() {
  const { default: pg } = await import("pg");
  const { postgresStore } = await import("../packages/semel/dist/stores/postgres.js");
  const pool = new pg.Pool({ connectionString: POSTGRES_URL, max: 10 });
  const store = postgresStore(pool, { table: prefix });
  await store.migrate();
  return { store };
}

/** As its plugin for Fastify does it: the parsed body before, the response after. */
async function nodeIdempotency(app) {
  const { Idempotency } = await import("@node-idempotency/core");
  const { RedisStorageAdapter } = await import("@node-idempotency/storage-adapter-redis");
  const storage = new RedisStorageAdapter({ url: REDIS_URL });
  await storage.connect();
  const idempotency = new Idempotency(storage, { cacheKeyPrefix: prefix });
  app.post("/charges", async (request, reply) => {
    const { headers, method, body } = request;
    const params = { headers, path: "/charges", method, body };
    const replay = await idempotency.onRequest(params);
    reply.code(201).type("application/json; charset=utf-8");
    if (replay !== undefined) return replay.body;
    const charged = charge(body);
    await idempotency.onResponse(params, {
      body: charged,
      additional: { statusCode: 201, headers: { "content-type": "application/json" } },
    });
    return charged;
  });
}

/** It wraps functions: the key is in the payload, of which it makes one. */
async function powertools(app) {
  const { makeIdempotent, IdempotencyConfig } = await import("@aws-lambda-powertools/idempotency");
  const { CachePersistenceLayer } = await import("@aws-lambda-powertools/idempotency/cache");
  const { createClient } = await import("redis");
  const client = await createClient({ url: REDIS_URL }).connect();
  const config = new IdempotencyConfig({ eventKeyJmesPath: "key" });
  // Without a Lambda's context it writes a warning for each call.
  config.registerLambdaContext({ getRemainingTimeInMillis: () => 30_000 });
  const charged = makeIdempotent(async ({ order }) => charge(order), {
    persistenceStore: new CachePersistenceLayer({ client }),
    config,
    keyPrefix: prefix,
  });
  app.post("/charges", async (request, reply) => {
    reply.code(201).type("application/json; charset=utf-8");
    return charged({ key: request.headers["idempotency-key"], order: request.body });
  });
}

async function expressIdempotency() {
  const { default: express } = await import("express");
  const { default: library } = await import("express-idempotency");
  const { default: adapter } = await import("express-idempotency-redis-adapter");
  const dataAdapter = new adapter.default({ connectionConfig: { url: REDIS_URL } });
  await dataAdapter.connect();
  // It has no prefix: the keys of a run are told from others by the run.
  const app = express();
  app.use((request, _response, next) => {
    request.headers["idempotency-key"] = `${prefix}:${request.headers["idempotency-key"]}`;
    next();
  });
  app.use(express.json());
  app.use(library.idempotency({ dataAdapter }));
  app.post("/charges", (request, response) => {
    if (library.getSharedIdempotencyService().isHit(request)) return;
    response.status(201).type("application/json; charset=utf-8").send(charge(request.body));
  });
  const server = app.listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  return { port: server.address().port };
}
