// One small shop on Express behind each library, with that library's defaults, as its README shows.

import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { setTimeout as after } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const ROOT = new URL("../../../", import.meta.url);
export const MAIN = fileURLToPath(new URL("packages/cli/dist/main.js", ROOT));
/** The peers are dependencies of the benchmarks. */
const peers = createRequire(new URL("bench/package.json", ROOT));
const express = peers("express");
const json = express.json({ limit: "1mb" });

/** The columns of the table: what stands before the shop's handler, and whether it can demand keys. */
export const SUBJECTS = [
  { name: "no library", serve: () => shop([json]) },
  {
    name: "semel/express",
    version: () => versionIn("packages/semel/package.json"),
    flags: ["--required"],
    serve: semelExpress,
  },
  {
    name: "semel gateway",
    version: () => versionIn("packages/cli/package.json"),
    flags: ["--required"],
    serve: semelGateway,
  },
  {
    name: "node-idempotency (core)",
    version: () => versionIn("bench/node_modules/@node-idempotency/core/package.json"),
    flags: ["--required"],
    serve: nodeIdempotency,
  },
  {
    name: "express-idempotency",
    version: () => versionIn("bench/node_modules/express-idempotency/package.json"),
    serve: expressIdempotency,
  },
];

function versionIn(path) {
  return createRequire(import.meta.url)(fileURLToPath(new URL(path, ROOT))).version;
}

/**
 * @param before the middleware that stands before the handler, the parser of bodies among it
 * @param answers how the handler answers, where it has to tell its library
 */
async function shop(before, answers = (_request, response, sale) => send(response, sale)) {
  const app = express();
  app.set("env", "test");
  let charges = 0;
  app.get("/count", (_request, response) => response.json(charges));
  app.use((request, response, next) => {
    const isCustomer = /^Bearer (?:alice|bob)$/.test(request.get("authorization") ?? "");
    if (isCustomer) next();
    else response.status(401).json({ error: "who are you?" });
  });
  app.get("/charges", (_request, response) => response.json([]));
  app.use(...before);
  const charge = async (request, response, next) => {
    try {
      await answers(request, response, async () => {
        await after(request.query.slow === undefined ? 2 : 400);
        if (request.query.fail !== undefined)
          return { status: 500, headers: {}, body: { error: "closed" } };
        const id = ++charges;
        const headers = { Location: `/charges/${id}`, "Set-Cookie": `session=${randomUUID()}` };
        return { status: 201, headers, body: { charge: id, receipt: randomUUID() } };
      });
    } catch (error) {
      next(error);
    }
  };
  app.post("/charges", charge);
  app.patch("/charges", charge);
  const server = app.listen(0, "127.0.0.1");
  await once(server, "listening");
  const close = () => {
    server.close();
    server.closeAllConnections();
  };
  return { url: `http://127.0.0.1:${server.address().port}`, close };
}

async function send(response, sale) {
  const { status, headers, body } = await sale();
  response.status(status).set(headers).json(body);
}

async function semelExpress() {
  const { Idempotency } = await import("semel");
  const { memoryStore } = await import("semel/memory");
  const { idempotent } = await import("semel/express");
  const idempotency = new Idempotency({ store: memoryStore() });
  const scope = (request) => request.get("authorization");
  // Before the parser, so that the bytes are there to compare (docs/http.md).
  return shop([idempotent(idempotency, { scope, required: true }), json]);
}

async function semelGateway() {
  const behind = await shop([json]);
  const flags = ["--upstream", behind.url, "--listen", "127.0.0.1:0", "--store", "memory:"];
  const child = spawn(process.execPath, [MAIN, "gateway", ...flags, "--required", "--json"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const lines = createInterface(child.stdout);
  const [line] = await once(lines, "line");
  const close = () => {
    child.kill("SIGTERM");
    behind.close();
  };
  return { url: JSON.parse(line).address, close };
}

/** The core leaves what HTTP is to its plugins: statuses, mark and headers are those of its Express one. */
async function nodeIdempotency() {
  const { Idempotency, IdempotencyErrorCodes } = peers("@node-idempotency/core");
  const { MemoryStorageAdapter } = peers("@node-idempotency/storage-adapter-memory");
  const idempotency = new Idempotency(new MemoryStorageAdapter(), { enforceIdempotency: true });
  const STATUS = {
    [IdempotencyErrorCodes.IDEMPOTENCY_FINGERPRINT_MISSMATCH]: 422,
    [IdempotencyErrorCodes.REQUEST_IN_PROGRESS]: 409,
  };
  return shop([json], async (request, response, sale) => {
    const { headers, originalUrl: path, method, body } = request;
    const params = { headers, path, method, body };
    const replay = await idempotency.onRequest(params).catch((error) => {
      const status = STATUS[error.code] ?? 400;
      if (status === 409) response.set("Retry-After", "1");
      response.status(status);
      throw error;
    });
    if (replay !== undefined) {
      const { statusCode, contentType } = replay.additional;
      response.status(statusCode).set("Content-Type", contentType);
      response.set("Idempotent-Replayed", "true").send(replay.body);
      return;
    }
    await send(response, async () => {
      const sold = await sale();
      const additional = {
        statusCode: sold.status,
        contentType: "application/json; charset=utf-8",
      };
      await idempotency.onResponse(params, { body: sold.body, additional });
      return sold;
    });
  });
}

async function expressIdempotency() {
  const library = peers("express-idempotency");
  return shop([json, library.idempotency()], async (request, response, sale) => {
    const service = library.getSharedIdempotencyService();
    if (service.isHit(request)) return;
    await send(response, sale);
  });
}
