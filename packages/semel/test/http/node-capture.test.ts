// What handlers may do to a captured `node:http` response, beyond what the conformance suite of
// frameworks asks of every adapter.

import type { IncomingMessage, ServerResponse } from "node:http";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { afterEach, describe, expect, test } from "vitest";
import { Idempotency, type IdempotencyOptions } from "../../src/engine/idempotency.ts";
import { idempotent, type NodeHandler, type NodeOptions } from "../../src/frameworks/node.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import {
  field,
  RawClient,
  type Reply,
  requestText,
  send,
  until,
} from "../../src/testing/framework-suite/index.ts";
import { faultyStore } from "../../src/testing/index.ts";
import { listen } from "../frameworks/node-server.ts";

const close: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const each of close.splice(0)) await each();
});

/** Serves one handler, and posts to it under one key. */
async function serving(
  handler: NodeHandler,
  options: Partial<NodeOptions> = {},
  engine: Partial<IdempotencyOptions> = {},
) {
  const idempotency = new Idempotency({ store: memoryStore(), ...engine });
  const errors: Error[] = [];
  let runs = 0;
  const listener = idempotent(
    idempotency,
    { scope: "shared", reportError: (error) => errors.push(error as Error), ...options },
    (request, response) => {
      runs++;
      return handler(request, response);
    },
  );
  const served = await listen((request, response) => void listener(request, response));
  close.push(() => {
    served.server.closeAllConnections();
    return served.close();
  });
  const post = (body?: string) =>
    send(served.port, { path: "/", headers: { "idempotency-key": "k" }, body });
  return { ...served, post, errors, idempotency, runs: () => runs };
}

/** The answer and its replay, which must be one. */
async function twice(handler: NodeHandler): Promise<Reply & { replay: Reply }> {
  const { post, runs } = await serving(handler);
  const first = await post();
  const replay = await post();
  expect(field(first, "idempotency-status")).toBe("executed");
  expect(field(replay, "idempotency-status")).toBe("replayed");
  expect(replay.status).toBe(first.status);
  expect(replay.body.equals(first.body)).toBe(true);
  expect(runs()).toBe(1);
  return { ...first, replay };
}

type Head = (response: ServerResponse) => unknown;

const HEADS: Record<string, Head> = {
  "an object": (response) => response.writeHead(201, { "Content-Type": "text/x", ETag: '"1"' }),
  "a reason and an object": (response) =>
    response.writeHead(201, "Fresh", { "Content-Type": "text/x", ETag: '"1"' }),
  "a flat array": (response) =>
    response.writeHead(201, ["Content-Type", "text/x", "ETag", '"1"', "Set-Cookie", "a=1"]),
  "an array of pairs": (response) =>
    response.writeHead(201, [
      ["Content-Type", "text/x"],
      ["ETag", '"1"'],
    ] as never),
  "setHeader before": (response) =>
    response.setHeader("Content-Type", "text/y").setHeader("ETag", '"1"').writeHead(201, {
      "content-type": "text/x",
    }),
  "setHeaders and a status": (response) => {
    response.setHeaders(new Map([["Content-Type", "text/x"]])).appendHeader("ETag", '"1"');
    response.statusCode = 201;
  },
};

describe("heads", () => {
  for (const [how, writeHead] of Object.entries(HEADS)) {
    test(`by ${how} are sent and replayed`, async () => {
      for (const isStream of [false, true]) {
        const reply = await twice((_, response) => {
          writeHead(response);
          if (isStream) response.write("a");
          response.end("b");
        });
        for (const each of [reply, reply.replay]) {
          expect(each.status).toBe(201);
          expect(field(each, "content-type")).toBe("text/x");
          expect(field(each, "etag")).toBe('"1"');
        }
      }
    });
  }

  const LISTS = {
    flat: ["Set-Cookie", ["a=1", "b=2"], "ETag", '"1"', "set-cookie", "c=3"],
    pairs: [
      ["Set-Cookie", ["a=1", "b=2"]],
      ["ETag", '"1"'],
      ["set-cookie", "c=3"],
    ],
  };
  for (const [how, list] of Object.entries(LISTS)) {
    test(`of ${how} may have values of several lines`, async () => {
      const reply = await twice((_, response) => {
        response.writeHead(201, list as never).end("done");
      });
      expect(reply.headers["set-cookie"]).toEqual(["a=1", "b=2", "c=3"]);
      expect(field(reply.replay, "etag")).toBe('"1"');
    });
  }

  test("of a list without its last value are refused, as Node does", async () => {
    const { post, errors } = await serving((_, response) => {
      response.writeHead(201, ["ETag", '"1"', "X-Odd"]).end();
    });
    expect((await post()).status).toBe(500);
    expect(errors[0]).toMatchObject({ code: "ERR_INVALID_ARG_VALUE" });
  });

  test("of a status that was set as text are replayed", async () => {
    for (const chunked of [false, true]) {
      const reply = await twice((_, response) => {
        response.statusCode = "201" as never;
        if (chunked) response.write("do");
        response.end("ne");
      });
      expect(reply.status).toBe(201);
    }
  });

  test("with repeated lines keep them", async () => {
    const { headers, replay } = await twice((_, response) => {
      response.appendHeader("Link", "<a>").appendHeader("Link", "<b>");
      response.setHeader("Vary", ["Origin", "Accept"]);
      response.writeHead(200, ["Set-Cookie", "a=1", "Set-Cookie", "b=2"]);
      response.end();
    });
    expect(headers["set-cookie"]).toEqual(["a=1", "b=2"]);
    for (const each of [headers, replay.headers]) {
      expect(each["link"]).toEqual(["<a>", "<b>"]);
      expect(each["vary"]).toEqual(["Origin", "Accept"]);
    }
  });

  test("that Node would refuse are refused where Node does, and nothing is stored", async () => {
    const bad: NodeHandler[] = [
      (_, response) => response.writeHead(99),
      (_, response) => {
        response.statusCode = 1_000;
        response.end("x");
      },
      (_, response) => {
        response.statusCode = Number.NaN;
        response.write("x");
      },
      (_, response) => response.end(5 as never),
      (_, response) => response.write({} as never),
      (_, response) => response.write(null as never),
    ];
    for (const handler of bad) {
      const { post, errors, runs } = await serving(handler);
      for (let run = 1; run <= 2; run++) {
        expect((await post()).status).toBe(500);
        expect(runs()).toBe(run);
        expect(errors).toHaveLength(run);
      }
    }
  });

  const ENDINGS: Record<string, (response: ServerResponse) => unknown> = {
    "an end": (response) => response.end("done"),
    "a write": (response) => {
      response.write("do");
      response.end("ne");
    },
    flushing: (response) => {
      response.flushHeaders();
      response.end("done");
    },
    writeHead: (response) => response.writeHead(200, { ETag: '"1"' }).end("done"),
  };
  for (const [how, end] of Object.entries(ENDINGS)) {
    test(`by middleware that waits for them are sent, where ${how} is what makes them`, async () => {
      let heads = 0;
      const reply = await twice((_, response) => {
        // As `on-headers` does it, and with that sessions in cookies.
        const { writeHead } = response;
        response.writeHead = function wrapped(...given: unknown[]) {
          if (heads++ === 0)
            this.setHeader("Set-Cookie", "a=1").setHeader("Content-Language", "de");
          return Reflect.apply(writeHead, this, given);
        };
        end(response);
      });
      expect(field(reply, "set-cookie")).toBe("a=1");
      expect(field(reply.replay, "content-language")).toBe("de");
      expect(heads).toBe(1);
    });
  }

  test("of a handler that failed do not describe the answer to its failure", async () => {
    const { post } = await serving((_, response) => {
      response.writeHead(201, { "Content-Length": 3, "Content-Encoding": "gzip", ETag: '"1"' });
      throw new Error("too late");
    });
    const reply = await post();
    expect(reply.status).toBe(500);
    expect(JSON.parse(reply.body.toString())).toMatchObject({ status: 500 });
    expect(reply.headers["content-encoding"]).toBeUndefined();
    expect(reply.headers["etag"]).toBeUndefined();
  });
});

describe("writing", () => {
  test("calls back, once each, for writes and the end", async () => {
    const calls: string[] = [];
    await twice((_, response) => {
      response.write("a", () => calls.push("a"));
      response.write("62", "hex", () => calls.push("b"));
      response.end("c", "utf8", () => calls.push("end"));
    });
    await until(() => calls.length === 3, "every callback");
    expect(calls).toEqual(["a", "b", "end"]);
  });

  test("after the end changes nothing and does not crash", async () => {
    const late: unknown[] = [];
    const reply = await twice((_, response) => {
      response.end("whole");
      response.statusCode = 500;
      response.setHeader("x-late", "1");
      response.removeHeader("date");
      response.write("more", (error) => late.push(error));
      response.writeHead(404);
      response.end("again", () => late.push("ended"));
    });
    expect(reply.status).toBe(200);
    expect(reply.body.toString()).toBe("whole");
    expect(reply.headers["x-late"]).toBeUndefined();
    expect(late).toHaveLength(2);
    expect(late[0]).toBeInstanceOf(Error);
  });

  test("may reuse its buffer", async () => {
    const reply = await twice((_, response) => {
      const buffer = Buffer.from("one");
      response.write(buffer);
      buffer.write("two");
      response.end(buffer);
      buffer.fill("x");
    });
    expect(reply.body.toString()).toBe("onetwo");
    expect(reply.replay.body.toString()).toBe("onetwo");
  });

  test("fires finish and close once", async () => {
    const events: string[] = [];
    await twice((_, response) => {
      response.on("finish", () => events.push("finish")).on("close", () => events.push("close"));
      response.end("x");
    });
    await until(() => events.length === 2, "both events");
    expect(events).toEqual(["finish", "close"]);
  });

  test("shows a head as sent only when it left, during and after the capture", async () => {
    const seen: boolean[] = [];
    let captured: ServerResponse | undefined;
    await twice((_, response) => {
      captured = response;
      seen.push(response.headersSent);
      response.writeHead(200);
      response.write("a");
      seen.push(response.headersSent);
      response.end();
    });
    expect(seen).toEqual([false, true]);
    expect(captured!.headersSent).toBe(true);
    expect(captured!.writableEnded).toBe(true);
  });

  test("a body shorter than was declared is no result", async () => {
    const { post } = await serving((_, response) => {
      response.writeHead(200, { "Content-Length": 10 });
      response.write("half");
      response.end();
    });
    await expect(post()).rejects.toThrow();
    expect(JSON.parse((await post()).body.toString()).code).toBe("outcome-unknown");
  });

  test("informational responses pass", async () => {
    const reply = await twice((_, response) => {
      response.writeProcessing();
      response.writeEarlyHints({ link: "</a.css>; rel=preload" });
      response.end("after hints");
    });
    expect(reply.body.toString()).toBe("after hints");
  });
});

describe("clients that left", () => {
  /** Starts a request, waits until the handler has it and the client has left. */
  async function abandoned(handler: NodeHandler, options: Partial<NodeOptions> = {}) {
    let begun: ServerResponse | undefined;
    const server = await serving(async (request, response) => {
      begun = response;
      await handler(request, response);
    }, options);
    const client = await RawClient.connect(server.port);
    client.write(requestText("/", { "Idempotency-Key": "k" }, "body"));
    await until(() => begun, "the handler");
    return { ...server, client, response: begun! };
  }

  const gone = (request: IncomingMessage) => until(() => request.destroyed, "the departure");

  test("a handler is not told before it has ended, and then once", async () => {
    const events: string[] = [];
    const { client, response, post } = await abandoned(async (request, response) => {
      response.on("close", () => events.push("close"));
      await gone(request);
      events.push(`destroyed: ${response.destroyed}`);
      response.write("a", (error) => events.push(`written: ${error}`));
      response.end("b");
      events.push("ended");
    });
    await client.leave();
    await until(() => response.destroyed, "the announcement");
    const replay = await post("body");
    expect(replay.body.toString()).toBe("ab");
    await until(() => events.length === 4, "every event");
    expect(events.slice(0, 2)).toEqual(["destroyed: false", "ended"]);
    expect(events.slice(2).sort()).toEqual(["close", "written: undefined"]);
  });

  test("a pipeline whose source then fails ends as well, and is released", async () => {
    let isFirst = true;
    const { client, post, errors, runs } = await abandoned(async (request, response) => {
      async function* source() {
        yield "a";
        if (isFirst) await gone(request);
        isFirst = false;
        yield "b";
        throw new Error("the source broke");
      }
      await pipeline(source(), response);
    });
    await client.leave();
    await until(() => errors.length === 1, "the pipeline's end");
    expect(errors[0]?.message).toBe("the source broke");
    await post("body").catch(() => {});
    expect(runs()).toBe(2);
  });

  test("an endless stream learns of it after a lease, and is held", async () => {
    let closes = 0;
    const { client, post, idempotency } = await abandoned(
      (_, response) => {
        const timer = setInterval(() => response.write("tick"), 1);
        response.on("close", () => {
          closes++;
          clearInterval(timer);
        });
      },
      { lease: "30ms" },
    );
    await client.receives("tick");
    await client.leave();
    await until(() => closes > 0, "the announcement");
    const state = async () => (await idempotency.get({ key: "k" }))?.state;
    for (let tries = 0; (await state()) === "running" && tries < 1_000; tries++) {
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    const reply = await post("body");
    expect(JSON.parse(reply.body.toString()).code).toBe("outcome-unknown");
    expect(closes).toBe(1);
    expect((await idempotency.get({ key: "k" }))?.reason).toContain("response-broken");
  });

  /** The record of an operation that is in progress no more. */
  async function ended(idempotency: Idempotency) {
    for (let tries = 0; tries < 1_000; tries++) {
      const record = await idempotency.get({ key: "k" });
      if (record?.state !== "running") return record;
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    throw new Error("it is in progress for ever");
  }

  test("a handler that sees it and never answers does not keep its key busy", async () => {
    const { client, idempotency } = await abandoned(gone, { lease: "30ms" });
    await client.leave();
    const record = await ended(idempotency);
    expect(record).toMatchObject({ state: "held" });
    expect(record?.reason).toContain("response-broken");
  });

  test("a handler that is at work yet, or answers by a callback, is waited for", async () => {
    const late: Record<string, NodeHandler> = {
      "after four leases": async (request, response) => {
        await gone(request);
        await new Promise((resolve) => setTimeout(resolve, 120));
        response.end("late");
      },
      "by a callback": (request, response) => {
        void gone(request).then(() => setTimeout(() => response.end("late"), 15));
      },
    };
    for (const handler of Object.values(late)) {
      const { client, idempotency, post } = await abandoned(handler, { lease: "30ms" });
      await client.leave();
      expect(await ended(idempotency)).toMatchObject({ state: "completed" });
      expect((await post("body")).body.toString()).toBe("late");
    }
  });

  test("a pipeline that is told so is held, not released", async () => {
    const { client, post, errors } = await abandoned(
      async (_, response) => {
        async function* endless() {
          for (;;) {
            yield "tick";
            await new Promise((resolve) => setTimeout(resolve, 1));
          }
        }
        await pipeline(Readable.from(endless()), response);
      },
      { lease: "30ms" },
    );
    await client.receives("tick");
    await client.leave();
    await until(() => errors.length === 1, "the pipeline's end");
    expect(JSON.parse((await post("body")).body.toString()).code).toBe("outcome-unknown");
  });

  test("a verdict on a request that the handler could not read is not stored", async () => {
    const { client, post, runs } = await abandoned(async (request, response) => {
      if (runs() === 1) await gone(request);
      const chunks = await request.toArray().catch(() => undefined);
      response.writeHead(chunks ? 200 : 400).end(Buffer.concat(chunks ?? []));
    });
    await client.leave();
    for (;;) {
      const reply = await post("body");
      if (field(reply, "idempotency-status") === "in-progress") continue;
      expect(reply.status).toBe(200);
      expect(reply.body.toString()).toBe("body");
      break;
    }
    expect(runs()).toBe(2);
  });
});

describe("fenced handlers", () => {
  test("leave no header behind in the answer that stands instead", async () => {
    let now = Date.now();
    const clock = { now: () => now };
    const store = memoryStore({ clock });
    const faults = [{ method: "renew", effect: "fail-before" }] as const;
    let open = () => {};
    const opened = new Promise<void>((resolve) => {
      open = resolve;
    });
    let reached = false;
    const zombie = await serving(
      async (_, response) => {
        reached = true;
        await opened;
        response.setHeader("Set-Cookie", "zombie=1");
        response.writeHead(201, { "X-Zombie": "1", Location: "/zombie" }).end("zombie");
      },
      { onCrash: "rerun" },
      { store: faultyStore(store, faults), cache: false },
    );
    const winner = await serving(
      (_, response) => response.end("winner"),
      { onCrash: "rerun" },
      { store, cache: false },
    );
    const fenced = zombie.post();
    await until(() => reached, "the zombie");
    now += 31_000;
    expect((await winner.post()).body.toString()).toBe("winner");
    open();
    const reply = await fenced;
    expect(reply.body.toString()).toBe("winner");
    expect(field(reply, "idempotency-status")).toBe("replayed");
    for (const name of ["set-cookie", "x-zombie", "location"]) {
      expect(reply.headers[name]).toBeUndefined();
    }
  });
});

describe("connections that are not answered", () => {
  test("upgrades are left alone", async () => {
    const { server, port, runs } = await serving((_, response) => response.end());
    server.on("upgrade", (_request, socket) => {
      socket.end("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\nraw bytes");
    });
    const client = await RawClient.connect(port);
    const headers = { "Idempotency-Key": "k", Connection: "Upgrade", Upgrade: "echo" };
    client.write(requestText("/", headers));
    await client.ended();
    expect(client.text).toContain("raw bytes");
    expect(runs()).toBe(0);
  });

  test("an answer that is whole leaves before its response is destroyed", async () => {
    for (const isStream of [false, true]) {
      const { post, runs } = await serving((_, response) => {
        response.setHeader("Content-Length", 4);
        if (isStream) response.write("do");
        response.end(isStream ? "ne" : "done");
        response.destroy();
      });
      const first = await post();
      expect(first.body.toString()).toBe("done");
      expect(field(await post(), "idempotency-status")).toBe("replayed");
      expect(runs()).toBe(1);
    }
  });

  test("a client that waits to be told so is told to send its body, once", async () => {
    const { server, port } = await serving(async (request, response) => {
      response.writeContinue();
      response.end(Buffer.concat(await request.toArray()));
    });
    server.on("checkContinue", server.listeners("request")[0] as never);
    const client = await RawClient.connect(port);
    const head = requestText("/", { "Idempotency-Key": "k", Expect: "100-continue" }, "body");
    client.write(head.slice(0, -"body".length));
    await client.receives("HTTP/1.1 100 Continue");
    client.write("body");
    await client.receives("\r\n\r\nbody");
    expect(client.text.match(/100 Continue/g)).toHaveLength(1);
    client.socket.destroy();
  });

  test("a handler that destroys its response is released", async () => {
    const { post, runs } = await serving((_, response) => {
      response.destroy();
    });
    await expect(post()).rejects.toThrow();
    await expect(post()).rejects.toThrow();
    expect(runs()).toBe(2);
  });
});

test("A request that is an operation already is refused a second one, and ends", async () => {
  const inner = idempotent(
    new Idempotency({ store: memoryStore() }),
    { scope: "shared", reportError: (error) => refused.push(String(error)) },
    () => expect.unreachable(),
  );
  const refused: string[] = [];
  const { post } = await serving((request, response) => inner(request, response));
  expect((await post()).status).toBe(500);
  expect(refused).toEqual([expect.stringContaining("mounted twice")]);
});
