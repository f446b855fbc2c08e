// The catalogue's handlers as `Request → Response`, for every framework that speaks the Fetch standard.

import { createReadStream } from "node:fs";
import { readFile } from "node:fs/promises";
import { Readable } from "node:stream";
import { NotApplied } from "../../errors.ts";
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
import { beginningLate, dripping, flood, heedSignal } from "./node-handlers.ts";
import type { Stage } from "./stage.ts";

/** The routes that a handler which returns its response can have. */
export type FetchRoute = Exclude<
  Route,
  | "throws-after-answer"
  | "ends-twice"
  | "destroys-connection"
  | "early-hints"
  | "trailers"
  | "received-trailers"
  | "parsed"
  | "edits"
>;

export type FetchRouteHandler = (request: Request) => Response | Promise<Response>;

/** The stream of a generator's chunks. */
export function streamOf(chunks: AsyncGenerator<Uint8Array>): ReadableStream<Uint8Array> {
  return new ReadableStream({
    async pull(controller) {
      const { done, value } = await chunks.next();
      if (done) controller.close();
      else controller.enqueue(value);
    },
    cancel: async () => {
      await chunks.return(undefined);
    },
  });
}

/** Every route of the catalogue that the Fetch standard can say. */
export function fetchHandlers(
  stage: Stage,
  operationOf: (request: Request) => HttpOperation | undefined,
): Record<FetchRoute, FetchRouteHandler> {
  return {
    ...answering(),
    ...streaming(stage),
    ...observing(stage, operationOf),
    binary: () =>
      new Response(EVERY_BYTE, { headers: { "content-type": stage.settings.contentType } }),
    large: () => new Response(patterned(stage.settings.bytes)),
    status: () => Response.json({ run: stage.runs("status") }, { status: stage.settings.status }),
    slow: async () => {
      const run = stage.runs("slow");
      await stage.pass("slow");
      return Response.json({ run });
    },
    given: () => {
      const { status, reason, headers } = stage.settings;
      const isBodiless = [204, 205, 304].includes(status);
      const init = { status, statusText: reason, headers: headersOf(headers) };
      return new Response(isBodiless ? null : GIVEN, init);
    },
    headers: () => {
      const { stored, optional, never, cookies } = SENT_HEADERS;
      const headers = new Headers({ ...stored, ...optional, ...never });
      for (const cookie of cookies) headers.append("set-cookie", cookie);
      return new Response("with headers", { headers });
    },
    throws: () => {
      throw new Error("the handler broke");
    },
    rejects: async () => {
      await stage.pass("rejects");
      throw new Error("the handler broke later");
    },
    "throws-midstream": () => new Response(streamOf(failing(stage))),
    "not-applied": async () => {
      throw new NotApplied(new Error("declined before anything happened"));
    },
  };
}

/** Lists become lines of their own. */
export function headersOf(given: Stage["settings"]["headers"]): Headers {
  const headers = new Headers();
  for (const [name, value] of Object.entries(given)) {
    for (const line of [value].flat()) headers.append(name, line);
  }
  return headers;
}

async function* failing(stage: Stage): AsyncGenerator<Uint8Array> {
  yield Buffer.from(DRIP[0]);
  // A turn of the event loop at least: what fails at once never becomes a stream.
  await new Promise((resolve) => setTimeout(resolve, 5));
  await stage.pass("drip");
  throw new Error("the source broke");
}

async function* late(chunks: AsyncGenerator<Uint8Array>): AsyncGenerator<Uint8Array> {
  await new Promise((resolve) => setTimeout(resolve, 5));
  yield* chunks;
}

async function* pieces(text: readonly string[]): AsyncGenerator<Uint8Array> {
  for (const piece of text) yield Buffer.from(piece);
}

const TEXT = { headers: { "content-type": "text/plain" } };

function answering() {
  return {
    json: () =>
      new Response(ANSWERS.json.body, { headers: { "content-type": "application/json" } }),
    number: () => Response.json(0),
    text: () => new Response(ANSWERS.text.body),
    chunks: () => new Response(streamOf(pieces(["one", "two", "three"])), TEXT),
    "chunks-and-end": () => new Response(streamOf(late(pieces(["one", "twothree"]))), TEXT),
    created: () =>
      new Response(ANSWERS.created.body, {
        status: 201,
        headers: { "content-type": "application/json", location: ANSWERS.created.location },
      }),
    "no-content": () => new Response(null, { status: 204 }),
    found: () => new Response(null, { status: 302, headers: { location: ANSWERS.found.location } }),
    "see-other": () =>
      new Response("See it there", {
        status: 303,
        headers: { location: ANSWERS["see-other"].location },
      }),
    temporary: () => Response.redirect(ANSWERS.temporary.location, 307),
    empty: () => new Response(""),
    bare: () => new Response(),
    gzip: () =>
      new Response(ANSWERS.gzip.body, {
        headers: { "content-encoding": "gzip", "content-type": "application/json" },
      }),
    declared: () =>
      new Response(streamOf(late(pieces(["twelve ", "bytes"]))), {
        headers: { "content-type": "text/plain", "content-length": "12" },
      }),
  } satisfies Record<string, FetchRouteHandler>;
}

function streaming(stage: Stage) {
  const declared = { headers: { "content-length": String(DRIP.join("").length) } };
  return {
    "large-stream": () => new Response(Readable.toWeb(Readable.from(flood(stage))) as never),
    pipe: () => new Response(Readable.toWeb(createReadStream(stage.file.path)) as never),
    pipeline: () => {
      const { readable, writable } = new TransformStream();
      const source = Readable.toWeb(createReadStream(stage.file.path));
      // Fails when the client leaves and the stream is given up; nobody else waits for it.
      source.pipeTo(writable as never).catch(() => {});
      return new Response(readable);
    },
    file: async () => {
      const bytes = await readFile(stage.file.path);
      return new Response(new Blob([bytes]), {
        headers: { "content-length": String(bytes.length) },
      });
    },
    drip: () => new Response(streamOf(dripping(stage))),
    "drip-pipe": () => new Response(Readable.toWeb(Readable.from(dripping(stage))) as never),
    "late-pipe": () => new Response(Readable.toWeb(Readable.from(beginningLate(stage))) as never),
    "drip-pipeline": () => {
      const { readable, writable } = new TransformStream();
      streamOf(dripping(stage))
        .pipeTo(writable)
        .catch(() => {});
      return new Response(readable);
    },
    "drip-declared": () => new Response(streamOf(dripping(stage)), declared),
    "declared-late-end": () => {
      async function* lateEnd() {
        yield Buffer.from(DRIP.join(""));
        await stage.pass("drip");
      }
      return new Response(streamOf(lateEnd()), declared);
    },
    events: () => {
      async function* events() {
        yield Buffer.from(EVENTS[0]);
        await stage.pass("events");
        yield Buffer.from(EVENTS[1]);
      }
      return new Response(streamOf(events()), {
        headers: { "content-type": "text/event-stream" },
      });
    },
  } satisfies Record<string, FetchRouteHandler>;
}

function observing(stage: Stage, operationOf: (request: Request) => HttpOperation | undefined) {
  return {
    "declares-not-applied": (request) => {
      operationOf(request)?.notApplied();
      return new Response("not applied");
    },
    "declares-hold": (request) => {
      operationOf(request)?.hold("unsure");
      return new Response("who knows");
    },
    "declares-unknown": (request) => {
      operationOf(request)?.unknown("unsure");
      return new Response("who knows");
    },
    "heeds-signal": async (request) => {
      return new Response(await heedSignal(operationOf(request), stage));
    },
    operation: (request) => {
      const operation = operationOf(request);
      const { key, scope, attempt } = operation ?? {};
      return Response.json({ key, scope, attempt, aborted: operation?.signal.aborted });
    },
    echo: async (request) => {
      const body = new Uint8Array(await request.arrayBuffer());
      stage.notes.push({ ends: 1, bytes: body.length });
      return new Response(body, { headers: { "content-type": "application/octet-stream" } });
    },
  } satisfies Record<string, FetchRouteHandler>;
}
