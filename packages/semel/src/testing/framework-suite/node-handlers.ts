// The catalogue's handlers on a `node:http` response, for every framework that hands it out.

import { createReadStream } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { NotApplied, type SemelError } from "../../errors.ts";
import type { HttpOperation } from "../../http/exchange.ts";
import {
  ANSWERS,
  DRIP,
  EVENTS,
  EVERY_BYTE,
  GIVEN,
  patterned,
  type Route,
  SENT_HEADERS,
} from "./catalogue.ts";
import type { Stage } from "./stage.ts";

export type NodeRouteHandler = (
  request: IncomingMessage,
  response: ServerResponse,
) => void | Promise<void>;

/** The two halves of a stream that the case holds apart. */
export async function* dripping(stage: Stage): AsyncGenerator<Buffer> {
  yield Buffer.from(DRIP[0]);
  await stage.pass("drip");
  yield Buffer.from(DRIP[1]);
}

/** {@link DRIP}, of which nothing comes before the gate. */
export async function* beginningLate(stage: Stage): AsyncGenerator<Buffer> {
  await stage.pass("drip");
  yield Buffer.from(DRIP.join(""));
}

/** `settings.bytes` bytes in chunks of 64 kB. */
export function* flood(stage: Stage): Generator<Buffer> {
  const bytes = patterned(stage.settings.bytes);
  for (let at = 0; at < bytes.length; at += 65_536) yield bytes.subarray(at, at + 65_536);
}

export async function bodyOf(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** Waits, in a first attempt, for the operation's signal, and notes what it aborted with. */
export async function heedSignal(
  operation: HttpOperation | undefined,
  stage: Stage,
): Promise<string> {
  const { signal, attempt } = operation!;
  if (attempt > 1) return "a successor's answer";
  if (!signal.aborted) await new Promise((resolve) => signal.addEventListener("abort", resolve));
  stage.notes.push({ aborted: (signal.reason as SemelError).code });
  return "an answer that nobody gets";
}

/** A source that fails after its first half. */
async function* failing(stage: Stage): AsyncGenerator<Buffer> {
  yield Buffer.from(DRIP[0]);
  await stage.pass("drip");
  throw new Error("the source broke");
}

/**
 * Every route of the catalogue, written with `writeHead`, `write`, `end` and streams alone. Counting
 * runs is left to {@link counted}.
 */
export function nodeHandlers(
  stage: Stage,
  operationOf: (request: IncomingMessage) => HttpOperation | undefined,
): Record<Route, NodeRouteHandler> {
  return {
    ...answering(),
    ...streaming(stage),
    ...failingRoutes(stage),
    ...observing(stage, operationOf),
    binary: (_, response) => {
      response.setHeader("Content-Type", stage.settings.contentType);
      response.end(EVERY_BYTE);
    },
    large: (_, response) => {
      response.end(patterned(stage.settings.bytes));
    },
    status: (_, response) => {
      sendRun(response, stage.runs("status"), stage.settings.status);
    },
    slow: async (_, response) => {
      const run = stage.runs("slow");
      await stage.pass("slow");
      sendRun(response, run);
    },
    given: (_, response) => {
      const { status, reason, headers } = stage.settings;
      response.statusCode = status;
      if (reason !== "") response.statusMessage = reason;
      for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
      response.end(GIVEN);
    },
    "destroys-connection": async (request, response) => {
      const run = stage.runs("destroys-connection");
      request.socket.destroy();
      await stage.pass("slow");
      sendRun(response, run);
    },
    headers: (_, response) => {
      for (const kind of ["stored", "optional", "never"] as const) {
        for (const [name, value] of Object.entries(SENT_HEADERS[kind])) {
          response.setHeader(name, value);
        }
      }
      response.setHeader("Set-Cookie", [...SENT_HEADERS.cookies]);
      response.end("with headers");
    },
    trailers: (_, response) => {
      response.writeHead(200, { Trailer: "X-Checksum" });
      response.write("with trailers");
      response.addTrailers({ "X-Checksum": "abc" });
      response.end();
    },
    "early-hints": (_, response) => {
      response.writeEarlyHints({ link: "</style.css>; rel=preload" });
      response.end("after hints");
    },
  };
}

/** The same handlers, each counting its runs. */
export function counted<Handlers extends Record<string, (...given: never[]) => unknown>>(
  handlers: Handlers,
  stage: Stage,
): Handlers {
  const entries = Object.entries(handlers).map(([route, handler]) => [
    route,
    (...given: never[]) => {
      stage.enter(route);
      return handler(...given);
    },
  ]);
  return Object.fromEntries(entries);
}

function sendRun(response: ServerResponse, run: number, status = 200): void {
  response.writeHead(status, { "Content-Type": "application/json" });
  response.end(JSON.stringify({ run }));
}

function answering() {
  return {
    json: (_, response) => {
      const body = Buffer.from(ANSWERS.json.body);
      response.writeHead(200, {
        "Content-Type": "application/json",
        "Content-Length": body.length,
      });
      response.end(body);
    },
    number: (_, response) => {
      response.writeHead(200, "Fine", ["Content-Type", "application/json"]);
      response.end("0", "latin1");
    },
    text: (_, response) => {
      response.setHeader("Content-Type", "text/plain; charset=latin1");
      response.end(Buffer.from(ANSWERS.text.body, "utf8"));
    },
    chunks: (_, response) => {
      response.writeHead(200, { "content-type": "text/plain" });
      response.write("one");
      response.write(Buffer.from("two"));
      response.write("dGhyZWU=", "base64");
      response.end();
    },
    "chunks-and-end": (_, response) => {
      response.writeHead(200, { "content-type": "text/plain" });
      response.write("one", () => response.write("two", "utf8", () => response.end("three")));
    },
    created: (_, response) => {
      response.statusCode = 201;
      response.setHeader("Location", ANSWERS.created.location);
      response.setHeader("Content-Type", "application/json");
      response.end(ANSWERS.created.body);
    },
    "no-content": (_, response) => {
      response.writeHead(204).end();
    },
    found: (_, response) => {
      response.writeHead(302, { Location: ANSWERS.found.location }).end();
    },
    "see-other": (_, response) => {
      response.writeHead(303, { Location: ANSWERS["see-other"].location }).end("See it there");
    },
    temporary: (_, response) => {
      response.writeHead(307, [["Location", ANSWERS.temporary.location]] as never).end();
    },
    empty: (_, response) => {
      response.setHeader("Content-Length", 0);
      response.end("");
    },
    bare: (_, response) => {
      response.end();
    },
    gzip: (_, response) => {
      response.writeHead(200, { "Content-Encoding": "gzip", "Content-Type": "application/json" });
      response.end(ANSWERS.gzip.body);
    },
    declared: (_, response) => {
      response.writeHead(200, { "Content-Type": "text/plain", "Content-Length": "12" });
      response.write("twelve ");
      response.write("bytes");
      response.end();
    },
  } satisfies Record<string, NodeRouteHandler>;
}

function streaming(stage: Stage) {
  return {
    "large-stream": (_, response) => pipeline(Readable.from(flood(stage)), response),
    pipe: (_, response) => {
      createReadStream(stage.file.path).pipe(response);
    },
    pipeline: (_, response) => pipeline(createReadStream(stage.file.path), response),
    file: (_, response) => {
      response.setHeader("Content-Length", stage.file.bytes.length);
      createReadStream(stage.file.path).pipe(response);
    },
    drip: async (_, response) => {
      for await (const half of dripping(stage)) response.write(half);
      response.end();
    },
    "drip-pipe": (_, response) => {
      Readable.from(dripping(stage)).pipe(response);
    },
    "late-pipe": (_, response) => {
      Readable.from(beginningLate(stage)).pipe(response);
    },
    "drip-pipeline": (_, response) => pipeline(dripping(stage), response),
    "drip-declared": async (_, response) => {
      response.setHeader("Content-Length", DRIP.join("").length);
      for await (const half of dripping(stage)) response.write(half);
      response.end();
    },
    "declared-late-end": async (_, response) => {
      response.setHeader("Content-Length", DRIP.join("").length);
      response.write(DRIP.join(""));
      await stage.pass("drip");
      response.end();
    },
    events: async (_, response) => {
      response.writeHead(200, { "Content-Type": "text/event-stream" });
      response.flushHeaders();
      response.write(EVENTS[0]);
      await stage.pass("events");
      response.end(EVENTS[1]);
    },
  } satisfies Record<string, NodeRouteHandler>;
}

function failingRoutes(stage: Stage) {
  return {
    throws: () => {
      throw new Error("the handler broke");
    },
    rejects: async () => {
      await stage.pass("rejects");
      throw new Error("the handler broke later");
    },
    "throws-after-answer": (_, response) => {
      response.setHeader("X-Before", "kept");
      response.writeHead(201, { "Content-Type": "text/plain" }).end("answered");
      throw new Error("the handler broke after its answer");
    },
    "ends-twice": (_, response) => {
      response.writeHead(201, { "Content-Type": "text/plain" }).end("whole");
      response.write("more");
      response.end("again");
    },
    "throws-midstream": async (_, response) => {
      for await (const half of failing(stage)) response.write(half);
    },
    "not-applied": async () => {
      throw new NotApplied(new Error("declined before anything happened"));
    },
  } satisfies Record<string, NodeRouteHandler>;
}

function observing(
  stage: Stage,
  operationOf: (request: IncomingMessage) => HttpOperation | undefined,
) {
  return {
    "declares-not-applied": (request, response) => {
      operationOf(request)?.notApplied();
      response.end("not applied");
    },
    "declares-hold": (request, response) => {
      operationOf(request)?.hold("unsure");
      response.end("who knows");
    },
    "declares-unknown": (request, response) => {
      operationOf(request)?.unknown("unsure");
      response.end("who knows");
    },
    "heeds-signal": async (request, response) => {
      response.end(await heedSignal(operationOf(request), stage));
    },
    operation: (request, response) => {
      const operation = operationOf(request);
      const { key, scope, attempt } = operation ?? {};
      response.setHeader("Content-Type", "application/json");
      response.end(JSON.stringify({ key, scope, attempt, aborted: operation?.signal.aborted }));
    },
    echo: async (request, response) => {
      let ends = 0;
      request.on("end", () => {
        ends++;
      });
      const body = await bodyOf(request);
      stage.notes.push({ ends, bytes: body.length });
      response.setHeader("Content-Type", "application/octet-stream");
      response.end(body);
    },
    "received-trailers": async (request, response) => {
      await bodyOf(request);
      response.setHeader("Content-Type", "application/json");
      response.end(JSON.stringify(request.trailers));
    },
    parsed: (request, response) => {
      response.setHeader("Content-Type", "application/json");
      response.end(JSON.stringify((request as { body?: unknown }).body ?? null));
    },
    edits: (request, response) => {
      const { body } = request as { body?: Record<string, unknown> };
      for (const name of Object.keys(body ?? {})) delete body![name];
      Object.assign(body ?? {}, { edited: true });
      sendRun(response, stage.runs("edits"));
    },
  } satisfies Record<string, NodeRouteHandler>;
}
