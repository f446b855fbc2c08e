// `semel/koa` against the conformance suite of frameworks, with both majors that it serves.

import { Readable } from "node:stream";
import { setTimeout } from "node:timers/promises";
import koa3, { type Context, type Middleware } from "koa";
import koa2 from "koa2";
import { afterEach, describe, expect, expectTypeOf, test } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { NotApplied } from "../../src/errors.ts";
import { type HttpOperation, idempotent, operationOf } from "../../src/frameworks/koa.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import {
  field,
  frameworkCases,
  json,
  RawClient,
  reasonToSkip,
  requestText,
  type Served,
  send,
} from "../../src/testing/framework-suite/index.ts";
import { closedGate } from "./gate.ts";
import { koaHarness } from "./koa-harness.ts";
import { listen } from "./node-server.ts";

const MAJORS = { "Koa 3": koa3, "Koa 2": koa2 };

for (const [name, Koa] of Object.entries(MAJORS)) {
  const harness = koaHarness(name, Koa);

  describe(`semel/koa with ${name}`, () => {
    for (const frameworkCase of frameworkCases) {
      if (reasonToSkip(frameworkCase, harness) !== undefined) continue;
      test(frameworkCase.name, () => frameworkCase.run(harness));
    }
  });

  describe(`semel/koa in applications of ${name}`, () => {
    let served: Served | undefined;
    afterEach(() => served?.close());

    /** Serves middleware, the guard among it, and keeps what the application reports. */
    async function serving(...middleware: (Middleware | "guard")[]) {
      const app = new Koa();
      const reported: Error[] = [];
      app.on("error", (error) => reported.push(error));
      const idempotency = new Idempotency({ store: memoryStore(), onError: "hold" });
      const guard = idempotent<Context>(idempotency, { scope: "shared" });
      for (const each of middleware) app.use(each === "guard" ? guard : each);
      served = await listen(app.callback());
      const { port } = served;
      const post = (key = "k") => send(port, { path: "/", headers: { "idempotency-key": key } });
      return { port, post, reported };
    }

    const codeOf = async (reply: ReturnType<typeof send>) => json(await reply)["code"];

    test("HTTP-15: the operation is on ctx.state, and found by the context and by the request", async () => {
      const seen: unknown[] = [];
      const { post } = await serving("guard", (context) => {
        seen.push(context.state["operation"], operationOf(context), operationOf(context.req));
        context.body = "done";
      });
      await post();
      expect(seen[0]).toMatchObject({ key: "k", attempt: 1 } satisfies Partial<HttpOperation>);
      expect(new Set(seen).size).toBe(1);
      expect(seen).toHaveLength(3);
    });

    test("HTTP-12: ctx.throw is a verdict by its status, and the application hears of it", async () => {
      let runs = 0;
      const { post, reported } = await serving("guard", (context) => {
        runs++;
        context.throw(422, "no such account");
      });
      expect((await post()).body.toString()).toBe("no such account");
      const again = await post();
      expect([again.status, field(again, "idempotency-status")]).toEqual([422, "replayed"]);
      expect(again.body.toString()).toBe("no such account");
      expect([runs, reported.length]).toEqual([1, 1]);
    });

    test("ctx.throw of a passing status follows onError", async () => {
      const { post } = await serving("guard", (context) => context.throw(503));
      expect((await post()).status).toBe(503);
      expect(await codeOf(post())).toBe("outcome-unknown");
    });

    test("what middleware outside makes of an error is what counts", async () => {
      let runs = 0;
      const translates: Middleware = async (context, next) => {
        try {
          await next();
        } catch (error) {
          context.status = 404;
          context.body = { error: (error as Error).message };
        }
      };
      const { post, reported } = await serving(translates, "guard", () => {
        runs++;
        throw new Error("no such account");
      });
      const first = await post();
      const again = await post();
      expect([first.status, again.body.toString()]).toEqual([404, first.body.toString()]);
      expect([field(again, "idempotency-status"), runs]).toEqual(["replayed", 1]);
      expect(reported).toEqual([]);
    });

    test("SM-24: NotApplied releases, whatever middleware outside answers", async () => {
      let runs = 0;
      const translates: Middleware = async (context, next) => {
        await next().catch(() => {
          context.body = "sorry";
        });
      };
      const { post } = await serving(translates, "guard", () => {
        runs++;
        throw new NotApplied();
      });
      for (let run = 1; run <= 2; run++) {
        expect(field(await post(), "idempotency-status")).toBe("released");
        expect(runs).toBe(run);
      }
    });

    const LIMITS: Record<string, Middleware> = {
      "that throws": (context, next) =>
        Promise.race([next(), setTimeout(20).then(() => context.throw(503))]),
      "that answers": async (context, next) => {
        const late = await Promise.race([next(), setTimeout(20, true)]);
        if (late) context.status = 503;
      },
    };

    for (const [how, limit] of Object.entries(LIMITS)) {
      test(`SM-24: a time limit outside ${how} does not release what is at work yet`, async () => {
        let runs = 0;
        const gate = closedGate();
        const app = new Koa().use(limit);
        app.silent = true;
        const idempotency = new Idempotency({ store: memoryStore() });
        app.use(idempotent<Context>(idempotency, { scope: "shared" })).use(async (context) => {
          runs++;
          await gate.opened;
          context.body = "charged";
        });
        served = await listen(app.callback());
        const post = () => send(served!.port, { path: "/", headers: { "idempotency-key": "k" } });
        const first = await post();
        expect([first.status, field(first, "idempotency-status")]).toEqual([503, "unknown"]);
        expect(await codeOf(post())).toBe("outcome-unknown");
        gate.open();
        expect(await codeOf(post())).toBe("outcome-unknown");
        expect(runs).toBe(1);
        expect((await idempotency.get({ key: "k" }))?.reason).toBe("handler-timeout");
      });
    }

    test("middleware outside that ends a broken stream politely does not make it a result", async () => {
      const polite: Middleware = (context, next) =>
        next().catch(() => {
          context.res.end("sorry");
        });
      const { post } = await serving(polite, "guard", (context) => {
        context.respond = false;
        context.res.write("half");
        throw new Error("broken");
      });
      await expect(post()).rejects.toThrow();
      expect(await codeOf(post())).toBe("outcome-unknown");
    });

    test("a handler that takes the response over, and fails half-way, is broken off", async () => {
      const { post, reported } = await serving("guard", (context) => {
        context.respond = false;
        context.res.write("half");
        throw new Error("broken");
      });
      await expect(post()).rejects.toThrow();
      expect(await codeOf(post())).toBe("outcome-unknown");
      expect(reported.map(({ message }) => message)).toEqual(["broken"]);
    });

    test("a body that fails before its first byte is no result", async () => {
      const { post } = await serving("guard", (context) => {
        context.body = new Readable({
          read() {
            this.destroy(new Error("no such file"));
          },
        });
      });
      await post().catch(() => undefined);
      expect(await codeOf(post())).toBe("outcome-unknown");
    });

    test("SM-24: a body that fails half-way with NotApplied releases", async () => {
      let runs = 0;
      const { post } = await serving("guard", (context) => {
        runs++;
        const halves = async function* () {
          yield "half";
          throw new NotApplied();
        };
        context.body = Readable.from(halves());
      });
      await expect(post()).rejects.toThrow();
      await expect(post()).rejects.toThrow();
      expect(runs).toBe(2);
    });

    test("SM-23: a connection that breaks is reported, and the handler's answer still counts", async () => {
      let proceed = () => {};
      const held = new Promise<void>((resolve) => {
        proceed = resolve;
      });
      let begin = () => {};
      const begun = new Promise<void>((resolve) => {
        begin = resolve;
      });
      const { port, post, reported } = await serving("guard", async (context) => {
        begin();
        await held;
        context.body = { writable: context.writable };
      });
      const client = await RawClient.connect(port);
      client.write(requestText("/", { "Idempotency-Key": "k" }));
      await begun;
      await client.leave();
      for (let n = 0; n < 5; n++) expect(await codeOf(post())).toBe("operation-in-progress");
      proceed();
      let reply = await post();
      for (let n = 0; n < 1_000 && reply.status === 409; n++) reply = await post();
      expect(field(reply, "idempotency-status")).toBe("replayed");
      expect(json(reply)).toEqual({ writable: true });
      expect(reported).toMatchObject([{ code: "ECONNRESET", headerSent: true }]);
    });

    test("middleware outside sees a replay as answered", async () => {
      const seen: unknown[] = [];
      const watches: Middleware = async (context, next) => {
        await next();
        seen.push([context.status, context.headerSent, context.response.get("content-type")]);
        context.set("X-Late", "too late for a replay");
      };
      const { post } = await serving(watches, "guard", (context) => {
        context.status = 201;
        context.body = { paid: true };
      });
      const first = await post();
      const again = await post();
      expect(again.body).toEqual(first.body);
      expect(seen[0]).toEqual([201, false, "application/json; charset=utf-8"]);
      expect(seen[1]).toEqual([201, true, "application/json; charset=utf-8"]);
    });

    test("a replay that middleware outside sends later, as compression does, is sent alone", async () => {
      const later: Middleware = (context, next) => {
        const { res } = context;
        const { end } = res;
        res.end = ((...given: Parameters<typeof end>) => {
          setImmediate(() => end.apply(res, given));
          return res;
        }) as typeof end;
        return next();
      };
      const { post } = await serving(later, "guard", (context) => {
        context.body = { paid: true };
      });
      expect(json(await post())).toEqual({ paid: true });
      const again = await post();
      expect([field(again, "idempotency-status"), json(again)]).toEqual([
        "replayed",
        { paid: true },
      ]);
    });

    test("a request without a key is left alone", async () => {
      const { port } = await serving("guard", (context) => {
        context.body = { operation: context.state["operation"] ?? null };
      });
      expect(json(await send(port, { path: "/" }))).toEqual({ operation: null });
    });
  });
}

test("HTTP-14: Koa 3's other kinds of body are answered once and replayed exactly", async () => {
  const bodies: Record<string, () => unknown> = {
    "/blob": () => new Blob(["from a blob"], { type: "text/plain" }),
    "/web": () => new Blob(["from a web stream"]).stream(),
    "/response": () => new Response("from a response", { status: 202 }),
  };
  const app = new koa3();
  const idempotency = new Idempotency({ store: memoryStore() });
  let runs = 0;
  app.use(idempotent<Context>(idempotency, { scope: "shared" }));
  app.use((context) => {
    runs++;
    context.body = bodies[context.path]!();
  });
  const { port, close } = await listen(app.callback());
  for (const path of Object.keys(bodies)) {
    const headers = { "idempotency-key": path };
    const first = await send(port, { path, headers });
    const again = await send(port, { path, headers });
    expect(first.body.toString()).toMatch(/^from a /);
    expect([again.status, again.body]).toEqual([first.status, first.body]);
    expect(field(again, "idempotency-status")).toBe("replayed");
  }
  expect(runs).toBe(3);
  await close();
});

test("the middleware's types are Koa's", () => {
  const idempotency = new Idempotency({ store: memoryStore() });
  const guard = idempotent<Context>(idempotency, { scope: (context) => context.get("x-tenant") });
  expectTypeOf(guard).toExtend<Middleware>();
  expectTypeOf(idempotent(idempotency, { scope: "shared" })).toExtend<Middleware>();
  new koa3().use(guard);
});
