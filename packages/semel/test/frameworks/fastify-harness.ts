// `semel/fastify` under the conformance suite of frameworks, with Fastify 4 and 5: the same handlers
// said in Fastify's own way where it has one, and on `reply.raw` where it has none.

import { createReadStream } from "node:fs";
import type { IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { Readable } from "node:stream";
import type {
  FastifyInstance,
  FastifyPluginCallback,
  FastifyReply,
  FastifyRequest,
  fastify,
} from "fastify";
import { NotApplied } from "../../src/errors.ts";
import { type FastifyOptions, idempotent, operationOf } from "../../src/frameworks/fastify.ts";
import {
  ANSWERS,
  counted,
  DRIP,
  EVERY_BYTE,
  type FrameworkHarness,
  GIVEN,
  heedSignal,
  nodeHandlers,
  patterned,
  type Route,
  SENT_HEADERS,
  type ServeSetup,
  type Stage,
} from "../../src/testing/framework-suite/index.ts";

type FastifyHandler = (request: FastifyRequest, reply: FastifyReply) => unknown;

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

/** What Fastify says in its own words; `pipe`, `drip-pipe` and others stay on `reply.raw`. */
function fastifyHandlers(stage: Stage): Partial<Record<Route, FastifyHandler>> {
  const redirect = (reply: FastifyReply, status: number, location: string) =>
    reply.code(status).header("location", location).send();
  return {
    json: async () => JSON.parse(ANSWERS.json.body),
    number: (_, reply) => reply.send(0),
    text: async (_, reply) => reply.type("text/plain").send(ANSWERS.text.body),
    created: (_, reply) => {
      reply.code(201).header("location", ANSWERS.created.location).send({ id: 7 });
    },
    "no-content": (_, reply) => reply.code(204).send(),
    // In both majors' words: they disagree about the order of a redirect's arguments.
    found: (_, reply) => reply.redirect(ANSWERS.found.location),
    "see-other": (_, reply) => redirect(reply, 303, ANSWERS["see-other"].location),
    temporary: async (_, reply) => redirect(reply, 307, ANSWERS.temporary.location),
    empty: (_, reply) => reply.send(""),
    bare: (_, reply) => reply.send(),
    gzip: (_, reply) =>
      reply.header("content-encoding", "gzip").type("application/json").send(ANSWERS.gzip.body),
    binary: (_, reply) =>
      reply.type(stage.settings.contentType).send(Buffer.from(EVERY_BYTE.slice())),
    large: (_, reply) => reply.send(patterned(stage.settings.bytes)),
    status: (_, reply) => {
      // As bytes: to text of this type Fastify adds a charset.
      const body = Buffer.from(JSON.stringify({ run: stage.runs("status") }));
      reply.code(stage.settings.status).type("application/json").send(body);
    },
    given: (_, reply) => {
      const { status, reason, headers } = stage.settings;
      if (reason !== "") reply.raw.statusMessage = reason;
      reply.code(status).headers(headers).send(GIVEN);
    },
    "early-hints": (_, reply) => {
      reply.raw.writeEarlyHints({ link: "</style.css>; rel=preload" });
      reply.send("after hints");
    },
    "destroys-connection": async ({ raw }) => {
      const run = stage.runs("destroys-connection");
      raw.socket.destroy();
      await stage.pass("slow");
      return { run };
    },
    "ends-twice": (_, reply) => {
      reply.code(201).type("text/plain").send("whole");
      reply.send("again");
    },
    "heeds-signal": (request) => heedSignal(operationOf(request), stage),
    slow: async () => {
      const run = stage.runs("slow");
      await stage.pass("slow");
      return { run };
    },
    pipeline: (_, reply) => reply.send(createReadStream(stage.file.path)),
    file: async (_, reply) =>
      reply
        .header("content-length", stage.file.bytes.length)
        .send(createReadStream(stage.file.path)),
    drip: async (_, reply) => reply.send(Readable.from(dripping(stage))),
    headers: (_, reply) => {
      const { stored, optional, never, cookies } = SENT_HEADERS;
      reply.headers({ ...stored, ...optional, ...never });
      for (const cookie of cookies) reply.header("set-cookie", cookie);
      return reply.send("with headers");
    },
    "throws-after-answer": async (_, reply) => {
      reply.header("x-before", "kept").code(201).type("text/plain").send("answered");
      throw new Error("the handler broke after its answer");
    },
    "throws-midstream": (_, reply) => reply.send(Readable.from(failing(stage))),
    "not-applied": async () => {
      throw new NotApplied(new Error("declined before anything happened"));
    },
    "declares-not-applied": async (request) => {
      operationOf(request)?.notApplied();
      return "not applied";
    },
    "declares-hold": (request, reply) => {
      operationOf(request)?.hold("unsure");
      reply.send("who knows");
    },
    "declares-unknown": async (request) => {
      operationOf(request)?.unknown("unsure");
      return "who knows";
    },
    operation: async (request) => {
      const { key, scope, attempt, signal } = operationOf(request) ?? {};
      return { key, scope, attempt, aborted: signal?.aborted };
    },
    parsed: (request, reply) => reply.type("application/json").send(JSON.stringify(request.body)),
    edits: async (request) => {
      const body = request.body as Record<string, unknown>;
      for (const name of Object.keys(body ?? {})) delete body[name];
      Object.assign(body ?? {}, { edited: true });
      return { run: stage.runs("edits") };
    },
  };
}

/**
 * The harness of one major version.
 *
 * @param hijacks whether handlers that write to `reply.raw` hijack the reply before, as Fastify 4 needs
 */
export function fastifyHarness(
  name: string,
  create: typeof fastify,
  hijacks: boolean,
): FrameworkHarness {
  return {
    name,
    cannot: {},
    async serve(setup) {
      const app = create();
      await setUp(app, setup, hijacks);
      await app.listen({ port: 0, host: "127.0.0.1" });
      const { port } = app.server.address() as AddressInfo;
      return { port, close: () => app.close() };
    },
  };
}

async function setUp(app: FastifyInstance, setup: ServeSetup, hijacks: boolean): Promise<void> {
  const { stage, idempotency, outside, parsers } = setup;
  if (outside) {
    app.addHook("onRequest", (request, reply, done) => {
      outside(request.raw, reply.raw);
      done();
    });
  }
  // Parsers always stand before Semel: Fastify has parsed when its `preHandler` hooks run.
  if (parsers === "none") {
    app.removeAllContentTypeParsers();
    app.addContentTypeParser("*", (_request, _payload, done) => done(null));
  } else {
    const type = "application/x-www-form-urlencoded";
    app.addContentTypeParser(type, { parseAs: "string" }, (_request, body, done) =>
      done(null, Object.fromEntries(new URLSearchParams(body as string))),
    );
  }
  const field = (request: FastifyRequest, header: string) =>
    request.headers[header] as string | undefined;
  const options = { scope: "shared", ...setup.options(field), idempotency } as const;
  await app.register(idempotent<FastifyRequest>, options as FastifyOptions<FastifyRequest>);
  const ofMessage = (message: IncomingMessage) => operationOf({ raw: message });
  const raw = Object.entries(nodeHandlers(stage, ofMessage)).map(([route, handler]) => [
    route,
    ({ raw }: FastifyRequest, reply: FastifyReply) => {
      if (hijacks && route !== "throws" && route !== "rejects") reply.hijack();
      return handler(raw, reply.raw);
    },
  ]);
  const handlers: Record<string, FastifyHandler> = counted(
    { ...Object.fromEntries(raw), ...fastifyHandlers(stage) },
    stage,
  );
  const routes: FastifyPluginCallback = (context, _options, done) => {
    for (const [route, handler] of Object.entries(handlers)) context.all(`/${route}`, handler);
    done();
  };
  for (const prefix of ["/one", "/two", "/"]) await app.register(routes, { prefix });
}
