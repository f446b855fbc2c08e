// `semel/nestjs` under the conformance suite of frameworks, on Express and on Fastify: the same
// handlers said in Nest's own way where it has one. Decorators are called by hand: no transformer in
// use here knows parameter decorators.

import "reflect-metadata";
import { createReadStream } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { Readable } from "node:stream";
import {
  All,
  type CallHandler,
  Controller,
  type ExecutionContext,
  Header,
  HttpCode,
  type INestApplication,
  type ModuleMetadata,
  type NestApplicationOptions,
  type NestInterceptor,
  Redirect,
  Req,
  Res,
  StreamableFile,
  type Type,
  UseInterceptors,
} from "@nestjs/common";
import { NestFactory } from "@nestjs/core";
import { ExpressAdapter, type NestExpressApplication } from "@nestjs/platform-express";
import { FastifyAdapter, type NestFastifyApplication } from "@nestjs/platform-fastify";
import express from "express";
import {
  CurrentOperation,
  type HttpOperation,
  Idempotent,
  type NestRequest,
  operationOf,
  SemelModule,
} from "../../src/frameworks/nestjs.ts";
import {
  ANSWERS,
  counted,
  DRIP,
  EVERY_BYTE,
  type FrameworkHarness,
  GIVEN,
  nodeHandlers,
  patterned,
  type Route,
  SENT_HEADERS,
  type Served,
  type ServeSetup,
  type Stage,
} from "../../src/testing/framework-suite/index.ts";

export type Platform = "Express" | "Fastify";

/** What both platforms' responses have. */
export interface NestResponse {
  raw?: ServerResponse;
  header(name: string, value: string | readonly string[]): unknown;
  status(status: number): unknown;
  send(body?: unknown): unknown;
  hijack?(): unknown;
}

/** A method of a controller, what decorates it, and what decorates its parameters. */
interface Method {
  handler: (...given: never[]) => unknown;
  decorators: readonly MethodDecorator[];
  parameters: readonly ParameterDecorator[];
}

/** Makes a controller as a class body with decorators would. */
export function controller(
  name: string,
  decorators: readonly ClassDecorator[],
  methods: Record<string, Method>,
): Type {
  const { [name]: Class } = { [name]: class {} } as Record<string, Type>;
  const { prototype } = Class!;
  for (const [key, { handler, decorators, parameters }] of Object.entries(methods)) {
    const value = { [key]: (...given: never[]) => handler(...given) }[key]!;
    const descriptor = { value, configurable: true, writable: true };
    Object.defineProperty(prototype, key, descriptor);
    parameters.forEach((decorate, index) => {
      decorate(prototype, key, index);
    });
    for (const decorate of [...decorators].reverse()) decorate(prototype, key, descriptor);
  }
  for (const decorate of [...decorators].reverse()) decorate(Class!);
  return Class!;
}

/** The parameters of methods that answer by what they return. */
const OWN = [Req(), Res({ passthrough: true }), CurrentOperation()];

type OwnHandler = (
  request: NestRequest,
  response: NestResponse,
  operation: HttpOperation | undefined,
) => unknown;

/** What Nest says in its own words, and the decorators that say the rest. */
function nestHandlers(stage: Stage): Partial<Record<Route, [OwnHandler, ...MethodDecorator[]]>> {
  return {
    ...answering(stage),
    ...streaming(stage),
    throws: [
      () => {
        throw new Error("the handler broke");
      },
    ],
    operation: [
      (_request, _response, operation) => {
        const { key, scope, attempt, signal } = operation ?? {};
        return { key, scope, attempt, aborted: signal?.aborted };
      },
    ],
    "declares-not-applied": [(_request, _response, operation) => operation?.notApplied()],
    "declares-hold": [
      (request) => {
        operationOf(request)?.hold("unsure");
        return "who knows";
      },
    ],
    parsed: [
      ({ body }) => JSON.stringify(body ?? null),
      Header("Content-Type", "application/json; charset=utf-8"),
    ],
    edits: [
      (request) => {
        const body = request.body as Record<string, unknown>;
        for (const name of Object.keys(body)) delete body[name];
        body["edited"] = true;
        return { run: stage.runs("edits") };
      },
    ],
  };
}

function answering(stage: Stage): Partial<Record<Route, [OwnHandler, ...MethodDecorator[]]>> {
  return {
    json: [() => JSON.parse(ANSWERS.json.body)],
    number: [() => 0, Header("Content-Type", "application/json; charset=utf-8")],
    text: [() => ANSWERS.text.body, Header("Content-Type", "text/plain; charset=utf-8")],
    created: [() => ({ id: 7 }), HttpCode(201), Header("Location", ANSWERS.created.location)],
    "no-content": [() => undefined, HttpCode(204)],
    found: [() => undefined, Redirect(ANSWERS.found.location)],
    "see-other": [() => undefined, Redirect(ANSWERS["see-other"].location, 303)],
    temporary: [() => ({ url: ANSWERS.temporary.location }), Redirect("/overridden", 307)],
    empty: [() => ""],
    bare: [() => undefined],
    gzip: [
      () => new StreamableFile(ANSWERS.gzip.body, { type: "application/json" }),
      Header("Content-Encoding", "gzip"),
    ],
    binary: [() => new StreamableFile(EVERY_BYTE, { type: stage.settings.contentType })],
    given: [
      (_request, response) => {
        const { status, reason, headers } = stage.settings;
        if (reason !== "") Object.assign(response.raw ?? response, { statusMessage: reason });
        response.status(status);
        for (const [name, value] of Object.entries(headers)) response.header(name, value);
        return GIVEN;
      },
    ],
    large: [() => new StreamableFile(patterned(stage.settings.bytes))],
    slow: [
      async () => {
        const run = stage.runs("slow");
        await stage.pass("slow");
        return { run };
      },
    ],
    headers: [
      (_request, response) => {
        for (const kind of ["stored", "optional", "never"] as const) {
          for (const [name, value] of Object.entries(SENT_HEADERS[kind])) {
            response.header(name, value);
          }
        }
        response.header("Set-Cookie", [...SENT_HEADERS.cookies]);
        return "with headers";
      },
    ],
  };
}

function streaming(stage: Stage): Partial<Record<Route, [OwnHandler, ...MethodDecorator[]]>> {
  const file = () => createReadStream(stage.file.path);
  return {
    "large-stream": [
      () => {
        const bytes = patterned(stage.settings.bytes);
        const chunks = Array.from({ length: Math.ceil(bytes.length / 65_536) }, (_, index) =>
          bytes.subarray(index * 65_536, (index + 1) * 65_536),
        );
        return new StreamableFile(Readable.from(chunks));
      },
    ],
    pipe: [() => new StreamableFile(file())],
    file: [() => new StreamableFile(file(), { length: stage.file.bytes.length })],
    "drip-pipe": [() => new StreamableFile(Readable.from(dripping(stage)))],
    "drip-declared": [
      () => new StreamableFile(Readable.from(dripping(stage)), { length: DRIP.join("").length }),
    ],
    "throws-midstream": [() => new StreamableFile(Readable.from(failing(stage)))],
  };
}

async function* dripping(stage: Stage): AsyncGenerator<Buffer> {
  yield Buffer.from(DRIP[0]);
  await stage.pass("drip");
  yield Buffer.from(DRIP[1]);
}

async function* failing(stage: Stage): AsyncGenerator<Buffer> {
  yield Buffer.from(DRIP[0]);
  await stage.pass("drip");
  throw new Error("the source broke");
}

/** Routes whose handlers throw; Nest answers for them, so Fastify's reply is not taken over. */
const THROWING: readonly Route[] = ["rejects", "throws-after-answer", "not-applied"];

/** The whole catalogue as the methods of one controller. */
function methodsOf(stage: Stage): Record<string, Method> {
  const methods: Record<string, Method> = {};
  for (const [route, handler] of Object.entries(nodeHandlers(stage, operationOf))) {
    methods[route] = {
      handler: (request: NestRequest, response: NestResponse) => {
        if (!THROWING.includes(route as Route)) response.hijack?.();
        const message = (request["raw"] ?? request) as IncomingMessage;
        return handler(message, (response.raw ?? response) as ServerResponse);
      },
      decorators: [All(route)],
      parameters: [Req(), Res()],
    };
  }
  for (const [route, [handler, ...decorators]] of Object.entries(nestHandlers(stage))) {
    methods[route] = { handler, decorators: [All(route), ...decorators], parameters: OWN };
  }
  const handlers = counted(
    Object.fromEntries(Object.entries(methods).map(([route, { handler }]) => [route, handler])),
    stage,
  );
  for (const [route, method] of Object.entries(methods)) method.handler = handlers[route]!;
  return methods;
}

/** Parses bodies inside of Semel's interceptor, with the parsers of Express on either platform. */
class ParsingInterceptor implements NestInterceptor {
  async intercept(context: ExecutionContext, next: CallHandler) {
    const request = context.switchToHttp().getRequest();
    const message = request.raw ?? request;
    for (const parse of [express.json(), express.urlencoded({ extended: false }), express.text()]) {
      await new Promise<void>((resolve, reject) => {
        parse(message, {} as never, (error?: unknown) => (error ? reject(error) : resolve()));
      });
    }
    if (message !== request) request.body = message.body;
    return next.handle();
  }
}

export interface ServeNestOptions extends NestApplicationOptions {
  /** Is done to the application before it listens. */
  set?: (app: INestApplication) => void;
  /** Where Fastify is to log. */
  fastifyLog?: { write(line: string): void };
}

/** Starts an application on 127.0.0.1, and tells where. */
export async function serveNest(
  platform: Platform,
  metadata: ModuleMetadata,
  { set, fastifyLog, ...options }: ServeNestOptions = {},
): Promise<Served & { app: INestApplication }> {
  const logger = fastifyLog ? { level: "warn", stream: fastifyLog } : false;
  const adapter = platform === "Express" ? new ExpressAdapter() : new FastifyAdapter({ logger });
  const root = { module: class App {}, ...metadata };
  const silent = { logger: false, abortOnError: false } as const;
  const app = await NestFactory.create(root, adapter, { ...silent, ...options });
  set?.(app);
  try {
    await app.listen(0, "127.0.0.1");
  } catch (error) {
    await app.close();
    throw error;
  }
  return { app, port: app.getHttpServer().address().port, close: () => app.close() };
}

/** An application that is ready, and does not listen. Bodies are left alone. */
export async function createNest(
  platform: Platform,
  metadata: ModuleMetadata,
): Promise<INestApplication> {
  const adapter = platform === "Express" ? new ExpressAdapter() : new FastifyAdapter();
  const root = { module: class App {}, ...metadata };
  const options = { logger: false, abortOnError: false, bodyParser: false } as const;
  const app = await NestFactory.create(root, adapter, options);
  if (platform === "Fastify") withoutParsers(app);
  await app.init();
  if (platform === "Fastify")
    await (app as NestFastifyApplication).getHttpAdapter().getInstance().ready();
  return app;
}

/** Bodies as `node:http` has them, which Fastify refuses unless it is told of their types. */
function withoutParsers(app: INestApplication): void {
  const instance = (app as NestFastifyApplication).getHttpAdapter().getInstance();
  instance.removeAllContentTypeParsers();
  instance.addContentTypeParser("*", (_request, _payload, done) => done(null));
}

/** The harness of one platform. */
export function nestHarness(name: string, platform: Platform): FrameworkHarness {
  return {
    name,
    cannot: {},
    async serve({ idempotency, options, outside, parsers, stage }: ServeSetup) {
      const field = (request: NestRequest, header: string) => request["headers"][header];
      const Routes = controller(
        "Routes",
        [
          Controller(["", "one", "two"]),
          ...(parsers === "after" ? [UseInterceptors(ParsingInterceptor)] : []),
          Idempotent(options(field)),
        ],
        methodsOf(stage),
      );
      const module = SemelModule.forRoot({ idempotency, defaults: { scope: "shared" } });
      return serveNest(
        platform,
        { imports: [module], controllers: [Routes] },
        {
          bodyParser: parsers === "before",
          set(app) {
            if (parsers === "before" && platform === "Express") {
              (app as NestExpressApplication).useBodyParser("text");
            }
            if (parsers !== "before" && platform === "Fastify") withoutParsers(app);
            if (outside) {
              app.use((request: object, response: object, next: () => void) => {
                outside(request, response);
                next();
              });
            }
          },
        },
      );
    },
  };
}
