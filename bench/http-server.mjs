// The servers of `http-memory.mjs`, each in its own process: one handler, with different things
// before it.

import { createServer } from "node:http";

const SUBJECTS = {
  bare: () => handler,
  "deferred-1": () => deferred(1),
  "deferred-2": () => deferred(2),
  semel: () => semel({}),
  "semel-uncached": () => semel({ cache: false }),
  peer,
};

let executed = 0;
const listener = await SUBJECTS[process.argv[2]]();
const server = createServer(listener);
server.listen(0, "127.0.0.1", () => process.send({ port: server.address().port }));
process.on("message", () => {
  const { user, system } = process.cpuUsage();
  process.send({ cpuMicros: user + system, executed });
});
process.on("disconnect", () => process.exit());

/** What every server does in the end: reads JSON, answers 200 bytes of it. */
async function handler(request, response) {
  answer(response, charge(await jsonOf(request)));
}

async function jsonOf(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return JSON.parse(Buffer.concat(chunks).toString());
}

function charge(order) {
  executed++;
  return JSON.stringify({ charged: order.amount, order: order.order }).padEnd(200);
}

function answer(response, body) {
  response.writeHead(201, { "content-type": "application/json; charset=utf-8" });
  response.end(body);
}

/** As many empty turns of the event loop as there would be calls to a store. */
function deferred(turns) {
  return async (request, response) => {
    for (let turn = 0; turn < turns; turn++) await new Promise((resolve) => setImmediate(resolve));
    await handler(request, response);
  };
}

async function semel(options) {
  const { Idempotency } = await import("../packages/semel/dist/index.js");
  const { memoryStore } = await import("../packages/semel/dist/stores/memory.js");
  const { idempotent } = await import("../packages/semel/dist/frameworks/node.js");
  const store = memoryStore({ entriesMax: 2 ** 24, bytesMax: 2 ** 34 });
  return idempotent(new Idempotency({ store, ...options }), { scope: "shared" }, handler);
}

/** As its plugins for Express and Fastify do it: the parsed body before, the response after. */
async function peer() {
  const { Idempotency } = await import("@node-idempotency/core");
  const { MemoryStorageAdapter } = await import("@node-idempotency/storage-adapter-memory");
  const idempotency = new Idempotency(new MemoryStorageAdapter());
  return async (request, response) => {
    const body = await jsonOf(request);
    const { headers, url: path, method } = request;
    const params = { headers, path, method, body };
    const replay = await idempotency.onRequest(params);
    if (replay !== undefined) {
      answer(response, replay.body);
      return;
    }
    const charged = charge(body);
    await idempotency.onResponse(params, {
      body: charged,
      additional: { statusCode: 201, headers: { "content-type": "application/json" } },
    });
    answer(response, charged);
  };
}
