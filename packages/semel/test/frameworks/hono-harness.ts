// `semel/hono` under the conformance suite of frameworks, behind `@hono/node-server`: the same handlers
// said in Hono's own way where it has one, and as plain responses where it has none.

import type { RequestListener } from "node:http";
import { getRequestListener, type HttpBindings } from "@hono/node-server";
import { type Context, Hono, type MiddlewareHandler } from "hono";
import { HTTPException } from "hono/http-exception";
import { stream, streamSSE } from "hono/streaming";
import type { HttpOperation } from "../../src/frameworks/hono.ts";
import { type HttpOptions, idempotent, operationOf } from "../../src/frameworks/hono.ts";
import {
  ANSWERS,
  counted,
  DRIP,
  EVERY_BYTE,
  type FrameworkHarness,
  fetchHandlers,
  GIVEN,
  headersOf,
  patterned,
  type Route,
  type Served,
  type ServeSetup,
  type Stage,
} from "../../src/testing/framework-suite/index.ts";
import { listen } from "./node-server.ts";

type Variables = { parsed: unknown };
type Env = { Bindings: HttpBindings; Variables: Variables };
type HonoContext = Context<Env>;
type HonoHandler = (c: HonoContext) => Response | Promise<Response>;

/** What Hono says in its own words. */
function honoHandlers(stage: Stage): Partial<Record<Route, HonoHandler>> {
  return {
    json: (c) => c.json(JSON.parse(ANSWERS.json.body)),
    number: (c) => c.json(0),
    text: (c) => c.text(ANSWERS.text.body),
    created: (c) => {
      c.header("Location", ANSWERS.created.location);
      return c.json({ id: 7 }, 201);
    },
    "no-content": (c) => c.body(null, 204),
    found: (c) => c.redirect(ANSWERS.found.location),
    "see-other": async (c) => c.redirect(ANSWERS["see-other"].location, 303),
    empty: (c) => c.text(""),
    bare: (c) => c.body(null),
    gzip: (c) => {
      c.header("Content-Encoding", "gzip");
      return c.body(ANSWERS.gzip.body as Uint8Array<ArrayBuffer>, 200, {
        "Content-Type": "application/json",
      });
    },
    binary: (c) => c.body(EVERY_BYTE, 200, { "Content-Type": stage.settings.contentType }),
    large: (c) => c.body(new Uint8Array(patterned(stage.settings.bytes))),
    given: (c) => {
      const { status, headers } = stage.settings;
      for (const [name, value] of headersOf(headers)) c.header(name, value, { append: true });
      const body = [204, 205, 304].includes(status) ? null : GIVEN;
      return c.newResponse(body, status as 200);
    },
    "early-hints": (c) => {
      c.env.outgoing.writeEarlyHints({ link: "</style.css>; rel=preload" });
      return c.text("after hints");
    },
    "destroys-connection": async (c) => {
      const run = stage.runs("destroys-connection");
      c.env.incoming.socket.destroy();
      await stage.pass("slow");
      return c.json({ run });
    },
    drip: (c) =>
      stream(c, async (stream) => {
        await stream.write(DRIP[0]);
        await stage.pass("drip");
        await stream.write(DRIP[1]);
      }),
    events: (c) =>
      streamSSE(c, async (stream) => {
        await stream.writeSSE({ data: "one" });
        await stage.pass("events");
        await stream.writeSSE({ data: "two" });
      }),
    echo: async (c) => {
      const body = await c.req.arrayBuffer();
      stage.notes.push({ ends: 1, bytes: body.byteLength });
      return c.body(body, 200, { "Content-Type": "application/octet-stream" });
    },
    parsed: async (c) => c.json((c.get("parsed") as object) ?? null),
    edits: async (c) => {
      const body = c.get("parsed") as Record<string, unknown>;
      for (const name of Object.keys(body)) delete body[name];
      Object.assign(body, { edited: true });
      return c.json({ run: stage.runs("edits") });
    },
  };
}

/** Reads the body by Hono's own means, as validators do. */
const parse: MiddlewareHandler<Env> = async (c, next) => {
  const type = c.req.header("content-type");
  if (type === "application/json") {
    const parsed = await c.req.json().catch(() => {
      throw new HTTPException(400, { message: "Malformed JSON" });
    });
    c.set("parsed", parsed);
  } else if (type === "application/x-www-form-urlencoded") {
    c.set("parsed", await c.req.parseBody());
  } else if (type) c.set("parsed", await c.req.text());
  return next();
};

export const honoHarness: FrameworkHarness = honoHarnessOn(listen);

/** The harness, on a server of its own kind. */
export function honoHarnessOn(
  serve: (listener: RequestListener) => Promise<Served>,
): FrameworkHarness {
  return {
    name: "hono",
    cannot: {
      "failing-after-answer": "a handler ends by returning its response",
      reason: "@hono/node-server sends no reason phrase",
      trailers: "a Response has no trailers",
    },
    async serve(setup) {
      const handle = getRequestListener(honoApp(setup).fetch);
      return serve((request, response) => {
        setup.outside?.(request, response);
        void handle(request, response);
      });
    },
  };
}

export function honoApp({ idempotency, options, stage, parsers }: ServeSetup): Hono {
  const operations = new WeakMap<Request, HttpOperation>();
  const plain = Object.entries(fetchHandlers(stage, (request) => operations.get(request)));
  const handlers: Record<string, HonoHandler> = counted(
    {
      ...Object.fromEntries(
        plain.map(([route, say]) => [route, (c: HonoContext) => say(c.req.raw)]),
      ),
      ...honoHandlers(stage),
    },
    stage,
  );
  const field = (c: HonoContext, name: string) => c.req.header(name);
  const routeOptions = { scope: "shared", ...options(field) } as HttpOptions<HonoContext>;
  const guard = idempotent(idempotency, routeOptions);
  const routes = new Hono<Env>();
  for (const [route, handler] of Object.entries(handlers)) {
    if (parsers === "before") routes.use(`/${route}`, parse);
    routes.use(`/${route}`, guard, async (c, next) => {
      const operation = operationOf(c);
      if (operation) operations.set(c.req.raw, operation);
      await next();
    });
    if (parsers === "after") routes.use(`/${route}`, parse);
    routes.all(`/${route}`, handler);
  }
  // As Hono's own, without its log.
  const app = new Hono().onError((error, c) =>
    error instanceof HTTPException ? error.getResponse() : c.text("Internal Server Error", 500),
  );
  return app.route("/one", routes).route("/two", routes).route("/", routes);
}
