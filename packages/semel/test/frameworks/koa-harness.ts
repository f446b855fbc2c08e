// `semel/koa` under the conformance suite of frameworks, with Koa 2 and 3: the same handlers said in
// Koa's own way where it has one.

import { createReadStream } from "node:fs";
import type { RequestListener } from "node:http";
import { PassThrough, Readable } from "node:stream";
import type Koa from "koa";
import type { Context, Middleware } from "koa";
import { idempotent, operationOf } from "../../src/frameworks/koa.ts";
import type { HttpOptions } from "../../src/http/options.ts";
import {
  ANSWERS,
  counted,
  DRIP,
  EVENTS,
  EVERY_BYTE,
  type FrameworkHarness,
  GIVEN,
  heedSignal,
  nodeHandlers,
  patterned,
  type Route,
  SENT_HEADERS,
  type Served,
  type ServeSetup,
  type Stage,
} from "../../src/testing/framework-suite/index.ts";
import { listen } from "./node-server.ts";

type KoaHandler = (context: Context) => unknown;

/** What Koa says in its own words. */
function koaHandlers({ stage }: ServeSetup): Partial<Record<Route, KoaHandler>> {
  return {
    ...answering(stage),
    ...streaming(stage),
    operation: (context) => {
      const { key, scope, attempt, signal } = context.state["operation"] ?? {};
      context.body = { key, scope, attempt, aborted: signal?.aborted };
    },
    "declares-unknown": (context) => {
      operationOf(context)?.unknown("unsure");
      context.body = "who knows";
    },
    "heeds-signal": async (context) => {
      context.body = await heedSignal(operationOf(context), stage);
    },
    "declares-not-applied": (context) => {
      operationOf(context)?.notApplied();
      context.body = "not applied";
    },
    "declares-hold": (context) => {
      operationOf(context)?.hold("unsure");
      context.body = "who knows";
    },
    parsed: (context) => {
      context.type = "json";
      context.body = JSON.stringify(bodyOf(context) ?? null);
    },
    edits: (context) => {
      const body = bodyOf(context) as Record<string, unknown>;
      for (const name of Object.keys(body)) delete body[name];
      body["edited"] = true;
      context.body = { run: stage.runs("edits") };
    },
  };
}

function answering(stage: Stage): Partial<Record<Route, KoaHandler>> {
  return {
    json: (context) => {
      context.body = JSON.parse(ANSWERS.json.body);
    },
    number: (context) => {
      context.body = 0;
    },
    text: (context) => {
      context.body = ANSWERS.text.body;
    },
    created: (context) => {
      context.status = 201;
      context.set("Location", ANSWERS.created.location);
      context.body = { id: 7 };
    },
    "no-content": (context) => {
      context.status = 204;
    },
    found: (context) => context.redirect(ANSWERS.found.location),
    "see-other": (context) => {
      context.status = 303;
      context.redirect(ANSWERS["see-other"].location);
    },
    temporary: (context) => {
      context.status = 307;
      context.redirect(ANSWERS.temporary.location);
    },
    empty: (context) => {
      context.body = "";
    },
    bare: (context) => {
      context.body = null;
      context.status = 200;
    },
    gzip: (context) => {
      context.set({ "Content-Encoding": "gzip", "Content-Type": "application/json" });
      context.body = ANSWERS.gzip.body;
    },
    binary: (context) => {
      context.set("Content-Type", stage.settings.contentType);
      context.body = Buffer.from(EVERY_BYTE);
    },
    large: (context) => {
      context.body = patterned(stage.settings.bytes);
    },
    status: (context) => {
      context.status = stage.settings.status;
      context.set("Content-Type", "application/json");
      context.body = JSON.stringify({ run: stage.runs("status") });
    },
    given: (context) => {
      const { status, reason, headers } = stage.settings;
      for (const [name, value] of Object.entries(headers)) context.set(name, value);
      context.body = GIVEN;
      context.status = status;
      if (reason !== "") context.message = reason;
    },
    "early-hints": (context) => {
      context.res.writeEarlyHints({ link: "</style.css>; rel=preload" });
      context.body = "after hints";
    },
    "destroys-connection": async (context) => {
      const run = stage.runs("destroys-connection");
      context.req.socket.destroy();
      await stage.pass("slow");
      context.body = { run };
    },
    slow: async (context) => {
      const run = stage.runs("slow");
      await stage.pass("slow");
      context.body = { run };
    },
    headers: (context) => {
      for (const kind of ["stored", "optional", "never"] as const) context.set(SENT_HEADERS[kind]);
      context.set("Set-Cookie", [...SENT_HEADERS.cookies]);
      context.body = "with headers";
    },
  };
}

function streaming(stage: Stage): Partial<Record<Route, KoaHandler>> {
  return {
    "large-stream": (context) => {
      const bytes = patterned(stage.settings.bytes);
      const chunks = Array.from({ length: Math.ceil(bytes.length / 65_536) }, (_, index) =>
        bytes.subarray(index * 65_536, (index + 1) * 65_536),
      );
      context.body = Readable.from(chunks);
    },
    pipe: (context) => {
      context.body = createReadStream(stage.file.path);
    },
    file: (context) => {
      context.length = stage.file.bytes.length;
      context.body = createReadStream(stage.file.path);
    },
    "drip-pipe": (context) => {
      context.body = Readable.from(dripping(stage));
    },
    "drip-declared": (context) => {
      context.length = DRIP.join("").length;
      context.body = Readable.from(dripping(stage));
    },
    events: (context) => {
      const events = new PassThrough();
      context.type = "text/event-stream";
      context.flushHeaders();
      context.body = events;
      events.write(EVENTS[0]);
      void stage.pass("events").then(() => events.end(EVENTS[1]));
    },
    "throws-midstream": (context) => {
      context.body = Readable.from(failing(stage));
    },
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

function bodyOf({ request }: Context): unknown {
  return (request as { body?: unknown }).body;
}

/** Leaves the parsed body on `ctx.request`, as Koa's body parsers do. */
const parser: Middleware = async (context, next) => {
  const chunks: Buffer[] = [];
  for await (const chunk of context.req) chunks.push(chunk);
  const text = Buffer.concat(chunks).toString();
  const request = context.request as { body?: unknown };
  try {
    if (context.is("json")) request.body = JSON.parse(text);
    else if (context.is("urlencoded")) request.body = Object.fromEntries(new URLSearchParams(text));
    else if (context.is("text")) request.body = text;
  } catch {
    context.throw(400, "not JSON");
  }
  await next();
};

/** As `koa-mount` does. */
const mounts: Middleware = async (context, next) => {
  context.path = context.path.replace(/^\/(?:one|two)(?=\/)/, "");
  await next();
};

/** The harness of one major version. */
export function koaHarness(
  name: string,
  Application: typeof Koa,
  serve: (listener: RequestListener) => Promise<Served> = listen,
): FrameworkHarness {
  return {
    name,
    cannot: {},
    async serve(setup) {
      const { idempotency, options, outside, stage } = setup;
      const app = new Application();
      app.silent = true;
      if (outside) {
        app.use((context, next) => {
          outside(context.req, context.res);
          return next();
        });
      }
      const field = (context: Context, header: string) => context.get(header) || undefined;
      const routeOptions = { scope: "shared", ...options(field) } as HttpOptions<Context>;
      app.use(mounts);
      if (setup.parsers === "before") app.use(parser);
      app.use(idempotent<Context>(idempotency, routeOptions));
      if (setup.parsers === "after") app.use(parser);
      const ownWords = counted(koaHandlers(setup) as Record<string, KoaHandler>, stage);
      const bare = counted(nodeHandlers(stage, operationOf), stage);
      app.use((context) => {
        const route = context.path.slice(1) as Route;
        const handler = ownWords[route];
        if (handler) return handler(context);
        context.respond = false;
        context.res.statusCode = 200;
        return bare[route](context.req, context.res);
      });
      return serve(app.callback());
    },
  };
}
