// The same small application behind every adapter: it takes whatever reaches its handler, and counts.

import type { IncomingMessage, RequestListener, Server, ServerResponse } from "node:http";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { getRequestListener } from "@hono/node-server";
import { All, Controller, Res, StreamableFile } from "@nestjs/common";
import express5, { type Request as ExpressRequest } from "express";
import express4 from "express4";
import { type FastifyRequest, fastify as fastify5 } from "fastify";
import { fastify as fastify4 } from "fastify4";
import { Hono, type Context as HonoContext } from "hono";
import koa3, { type Context } from "koa";
import koa2 from "koa2";
import { Idempotency, type IdempotencyOptions } from "../../src/engine/idempotency.ts";
import { idempotent as forExpress } from "../../src/frameworks/express.ts";
import { idempotent as forFastify } from "../../src/frameworks/fastify.ts";
import { idempotent as forFetch } from "../../src/frameworks/fetch.ts";
import { idempotent as forHono } from "../../src/frameworks/hono.ts";
import { idempotent as forKoa } from "../../src/frameworks/koa.ts";
import { Idempotent, type NestRequest, SemelModule } from "../../src/frameworks/nestjs.ts";
import { idempotent as forNode } from "../../src/frameworks/node.ts";
import type { HttpOptions } from "../../src/http/options.ts";
import type { Store } from "../../src/store.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import type { FieldOf } from "../../src/testing/framework-suite/index.ts";
import { bridge } from "../frameworks/fetch-harness.ts";
import {
  controller,
  createNest,
  type NestResponse,
  type Platform,
} from "../frameworks/nestjs-harness.ts";

/** What the handler answers. */
export interface Answered {
  status?: number;
  headers?: readonly (readonly [name: string, value: string])[];
  body?: string;
}

export interface Setup {
  /** Options of the route; `scope` is `"shared"` unless given. */
  http?: <Request>(field: FieldOf<Request>) => Partial<HttpOptions<Request>>;
  /** Answers the n-th run. @default {"run":n} */
  answer?: (run: number) => Answered | Promise<Answered>;
  store?: Store;
  engine?: Omit<Partial<IdempotencyOptions>, "store">;
  server?: (server: Server) => void;
}

export interface Application {
  readonly port: number;
  readonly store: Store;
  readonly idempotency: Idempotency;
  /** How often the handler ran. */
  runs(): number;
  close(): Promise<void>;
}

/** What an adapter's application is made of. */
interface Parts {
  idempotency: Idempotency;
  http: NonNullable<Setup["http"]>;
  handle: () => Promise<Required<Answered>>;
}

type Serving = (parts: Parts) => Promise<Server> | Server;

const shared = <Request>(parts: Parts, field: FieldOf<Request>): HttpOptions<Request> => ({
  scope: "shared",
  ...parts.http(field),
});

/** Answers on a `node:http` response; a header that Node refuses is the handler's failure. */
async function answerOn(response: ServerResponse, handle: Parts["handle"]): Promise<void> {
  const { status, headers, body } = await handle();
  response.statusCode = status;
  for (const [name, value] of headers) response.appendHeader(name, value);
  // Not as text: Node would write the head in the encoding of the text, UTF-8.
  response.end(Buffer.from(body));
}

function onNode(parts: Parts): Server {
  const field = (request: IncomingMessage, name: string) =>
    request.headers[name] as string | undefined;
  const options = { ...shared(parts, field), reportError: () => {} };
  return createServer(
    forNode(parts.idempotency, options, (_request, response) => answerOn(response, parts.handle)),
  );
}

function onExpress(create: typeof express5, parser?: "json"): Serving {
  return (parts) => {
    const app = create();
    app.set("env", "test");
    if (parser) app.use(create.json({ limit: "4mb", strict: false }));
    const field = (request: ExpressRequest, name: string) => request.get(name);
    app.use(forExpress<ExpressRequest>(parts.idempotency, shared(parts, field)));
    app.use((_request, response, next) => {
      answerOn(response, parts.handle).catch(next);
    });
    return createServer(app as RequestListener);
  };
}

function onFetch(parts: Parts): Server {
  const field = (request: Request, name: string) => request.headers.get(name) ?? undefined;
  const handler = forFetch(parts.idempotency, shared(parts, field), async () => {
    const { status, headers, body } = await parts.handle();
    const lines = headers.map(([name, value]): [string, string] => [name, value]);
    return new Response(body, { status, headers: lines });
  });
  return createServer(bridge(handler));
}

function onKoa(Application: typeof koa3): Serving {
  return (parts) => {
    const app = new Application();
    app.silent = true;
    const field = (context: Context, name: string) => context.get(name) || undefined;
    app.use(forKoa<Context>(parts.idempotency, shared(parts, field)) as koa3.Middleware);
    app.use(async (context) => {
      const { status, headers, body } = await parts.handle();
      context.status = status;
      for (const [name, value] of headers) context.append(name, value);
      context.body = Buffer.from(body);
    });
    return createServer(app.callback());
  };
}

function onFastify(create: typeof fastify5): Serving {
  return async (parts) => {
    let server!: Server;
    const app = create({
      serverFactory: (listener) => {
        server = createServer(listener);
        return server;
      },
      bodyLimit: 4 * 2 ** 20,
    });
    app.removeAllContentTypeParsers();
    app.addContentTypeParser("*", { parseAs: "buffer" }, (_request, body, done) => {
      done(null, body);
    });
    const field = (request: FastifyRequest, name: string) =>
      request.headers[name] as string | undefined;
    const { idempotency } = parts;
    await app.register(forFastify<FastifyRequest>, { idempotency, ...shared(parts, field) });
    app.all("/*", async (_request, reply) => {
      const { status, headers, body } = await parts.handle();
      reply.code(status);
      for (const [name, value] of headers) reply.header(name, value);
      return reply.send(Buffer.from(body));
    });
    await app.ready();
    return server;
  };
}

function onHono(parts: Parts): Server {
  const app = new Hono().onError((_error, c) => c.text("Internal Server Error", 500));
  const field = (c: HonoContext, name: string) => c.req.header(name);
  app.all("*", forHono<HonoContext>(parts.idempotency, shared(parts, field)), async (c) => {
    const { status, headers, body } = await parts.handle();
    for (const [name, value] of headers) c.header(name, value, { append: true });
    return c.body(body, status as 200);
  });
  return createServer(getRequestListener(app.fetch));
}

function onNest(platform: Platform): Serving {
  return async (parts) => {
    const field = (request: NestRequest, name: string) => request["headers"][name];
    const Everything = controller("Everything", [Controller()], {
      answer: {
        handler: async (response: NestResponse) => {
          const { status, headers, body } = await parts.handle();
          response.status(status);
          const lines: Record<string, string[]> = Object.create(null);
          for (const [name, value] of headers) {
            lines[name] ??= [];
            lines[name].push(value);
          }
          for (const [name, values] of Object.entries(lines)) response.header(name, values);
          return new StreamableFile(Buffer.from(body));
        },
        decorators: [
          All(["/", platform === "Express" ? "*path" : "*"]),
          Idempotent(shared(parts, field)),
        ],
        parameters: [Res({ passthrough: true })],
      },
    });
    const { idempotency } = parts;
    const app = await createNest(platform, {
      imports: [SemelModule.forRoot({ idempotency, defaults: { scope: "shared" } })],
      controllers: [Everything],
    });
    return app.getHttpServer();
  };
}

export const ADAPTERS: Readonly<Record<string, Serving>> = {
  node: onNode,
  "Express 5": onExpress(express5),
  "Express 4": onExpress(express4),
  fetch: onFetch,
  "Koa 3": onKoa(koa3),
  "Koa 2": onKoa(koa2),
  "Fastify 5": onFastify(fastify5),
  "Fastify 4": onFastify(fastify4 as unknown as typeof fastify5),
  "Hono 4": onHono,
  "Nest 12 on Express": onNest("Express"),
  "Nest 12 on Fastify": onNest("Fastify"),
};

/** Where a parser before Semel has left nothing of the body but a value. */
export const PARSED: Readonly<Record<string, Serving>> = {
  "Express 5 after express.json()": onExpress(express5, "json"),
};

const running: Application[] = [];

/** Serves an application on a port of the system's choice. */
export async function serve(serving: Serving, setup: Setup = {}): Promise<Application> {
  const { store = memoryStore(), http = () => ({}), answer } = setup;
  const idempotency = new Idempotency({ ...setup.engine, store });
  let runs = 0;
  const handle = async () => {
    runs++;
    const body = JSON.stringify({ run: runs });
    return { status: 200, headers: [], body, ...(await answer?.(runs)) };
  };
  const server = await serving({ idempotency, http, handle });
  setup.server?.(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const close = async () => {
    await new Promise((resolve) => {
      server.close(resolve);
      server.closeAllConnections();
    });
    await idempotency.close({ deadline: "1ms" });
  };
  const { port } = server.address() as AddressInfo;
  const application = { port, store, idempotency, runs: () => runs, close };
  running.push(application);
  return application;
}

/** For `afterEach`: ends every application. */
export async function closeAll(): Promise<void> {
  for (let next = running.pop(); next; next = running.pop()) await next.close();
}
