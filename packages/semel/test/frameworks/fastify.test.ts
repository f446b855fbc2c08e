// `semel/fastify` against the conformance suite of frameworks, with both majors that it serves.

import { gunzipSync, gzipSync } from "node:zlib";
import compress from "@fastify/compress";
import { type FastifyInstance, type FastifyRequest, fastify as fastify5 } from "fastify";
import { fastify as fastify4 } from "fastify4";
import { afterEach, describe, expect, test } from "vitest";
import { Idempotency, type IdempotencyOptions } from "../../src/engine/idempotency.ts";
import { NotApplied } from "../../src/errors.ts";
import {
  type FastifyOptions,
  idempotent,
  operationOf,
  type RouteIdempotency,
} from "../../src/frameworks/fastify.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import {
  field,
  frameworkCases,
  reasonToSkip,
  type Sending,
  send,
} from "../../src/testing/framework-suite/index.ts";
import { fastifyHarness } from "./fastify-harness.ts";

declare module "fastify" {
  interface FastifyContextConfig {
    idempotency?: RouteIdempotency<FastifyRequest>;
  }
  interface FastifyRequest {
    account?: string;
  }
}

/** Cases that a major cannot have, by a part of their names, with the reason. */
const ALWAYS_PARSED = {
  "a body that a parser refuses": "Fastify parses before any hook that could know the key",
};
const MAJORS = {
  "Fastify 5": { fastify: fastify5, cannot: ALWAYS_PARSED },
  "Fastify 4": {
    fastify: fastify4,
    cannot: ALWAYS_PARSED,
  },
};

for (const [name, { fastify, cannot }] of Object.entries(MAJORS)) {
  const harness = fastifyHarness(name, fastify, name === "Fastify 4");

  describe(`semel/fastify with ${name}`, () => {
    for (const frameworkCase of frameworkCases) {
      if (reasonToSkip(frameworkCase, harness) !== undefined) continue;
      const reason = Object.entries(cannot).find(([part]) => frameworkCase.name.includes(part));
      test(frameworkCase.name, async ({ skip }) => {
        if (reason) skip(reason[1]);
        await frameworkCase.run(harness);
      });
    }
  });

  describe(`semel/fastify in applications of ${name}`, () => {
    let app: FastifyInstance;
    let idempotency: Idempotency;
    afterEach(() => app.close());

    function create(engine: Partial<IdempotencyOptions> = {}): FastifyInstance {
      idempotency = new Idempotency({ store: memoryStore(), ...engine });
      app = fastify();
      return app;
    }

    /** Registers the plugin; keys are shared unless told otherwise. */
    async function guard(
      instance: FastifyInstance = app,
      options: Partial<FastifyOptions<FastifyRequest>> = {},
    ): Promise<void> {
      await instance.register(idempotent<FastifyRequest>, {
        idempotency,
        scope: "shared",
        ...options,
      });
    }

    /** Sends a keyed POST through a real connection. */
    async function post(path: string, { headers, ...sending }: Omit<Sending, "path"> = {}) {
      if (!app.server.listening) await app.listen({ port: 0, host: "127.0.0.1" });
      const { port } = app.server.address() as { port: number };
      const all = { "idempotency-key": "k", ...headers };
      return send(port, { path, method: "POST", headers: all, ...sending });
    }

    const statusOf = (reply: Awaited<ReturnType<typeof post>>) =>
      field(reply, "idempotency-status");
    const stateOf = async (key = "k") => (await idempotency.get({ key }))?.state;
    const JSON_TYPE = { "content-type": "application/json" };

    test("a context that registers it is covered with those below, and no other", async () => {
      create();
      await app.register(async (inner) => {
        await guard(inner);
        inner.post("/inner", async () => "inner");
        await inner.register(async (below) => below.post("/below", async () => "below"));
      });
      app.post("/outer", async () => "outer");
      expect(statusOf(await post("/inner"))).toBe("executed");
      expect(statusOf(await post("/inner"))).toBe("replayed");
      expect(statusOf(await post("/below", { headers: { "idempotency-key": "b" } }))).toBe(
        "executed",
      );
      expect(statusOf(await post("/outer"))).toBeUndefined();
    });

    test("of two registrations around a route, the inner one decides", async () => {
      create();
      await guard(app, { scope: () => "outer" });
      await app.register(async (inner) => {
        await guard(inner, { scope: () => "inner", hook: "preValidation" });
        inner.post("/a", async (request) => operationOf(request)?.scope);
      });
      expect((await post("/a")).body.toString()).toBe("inner");
      expect(statusOf(await post("/a"))).toBe("replayed");
    });

    test("a route's config takes the place of the plugin's options, or turns them off", async () => {
      create();
      await guard(app, { methods: [] });
      app.put("/put", { config: { idempotency: { methods: ["PUT"], required: true } } }, () => "x");
      app.post("/off", { config: { idempotency: false } }, async () => "off");
      app.post("/as-told", async () => "as told");
      expect((await app.inject({ method: "PUT", url: "/put" })).statusCode).toBe(400);
      expect(statusOf(await post("/put", { method: "PUT" }))).toBe("executed");
      expect(statusOf(await post("/off"))).toBeUndefined();
      expect(statusOf(await post("/as-told"))).toBeUndefined();
    });

    test("what a route's config leaves undefined stays the plugin's", async () => {
      create();
      await guard(app, { required: true });
      const config = { idempotency: { required: undefined, retention: undefined } };
      app.post("/a", { config }, async () => "a");
      expect((await app.inject({ method: "POST", url: "/a" })).statusCode).toBe(400);
      expect(statusOf(await post("/a"))).toBe("executed");
    });

    test("a keyed request to a route declared before the plugin had loaded runs nothing", async () => {
      create();
      let runs = 0;
      app.register(idempotent<FastifyRequest>, { idempotency, scope: "shared" });
      app.post("/early", async () => ++runs);
      app.post("/off", { config: { idempotency: false } }, async () => "off");
      const reply = await post("/early");
      expect(reply.status).toBe(500);
      expect(reply.body.toString()).toContain("await app.register(idempotent, …)");
      expect(runs).toBe(0);
      expect((await app.inject({ method: "POST", url: "/early" })).statusCode).toBe(200);
      expect((await post("/off")).status).toBe(200);
    });

    test("options that do not exist are refused by name, the plugin's and a route's", async () => {
      create();
      const scope = "shared";
      await expect(async () =>
        app.register(idempotent, { idempotency, scope, retension: "1h" } as never),
      ).rejects.toThrow(/retension.*retention/);
      const other = fastify();
      await expect(async () =>
        other.register(idempotent, { idempotency, scope, hook: "onRequest" } as never),
      ).rejects.toThrow(/hook.*preValidation/);
      const third = fastify();
      await third.register(idempotent, { idempotency, scope });
      expect(() =>
        third.post("/a", { config: { idempotency: { requred: true } as never } }, () => "a"),
      ).toThrow(/requred.*required/);
      await Promise.allSettled([other.close(), third.close()]);
    });

    test("hooks that authenticate run before an answer is replayed, a route's own included", async () => {
      create();
      let runs = 0;
      app.decorateRequest("account", "");
      await guard(app, { scope: (request) => request.account });
      const preHandler = async (request: FastifyRequest) => {
        if (request.headers.authorization !== "alice") {
          throw Object.assign(new Error("who are you?"), { statusCode: 401 });
        }
        request.account = "alice";
      };
      app.post("/a", { preHandler }, async () => ++runs);
      const alice = { headers: { authorization: "alice" } };
      expect((await post("/a", alice)).status).toBe(200);
      expect((await post("/a")).status).toBe(401);
      expect(statusOf(await post("/a", alice))).toBe("replayed");
      expect(runs).toBe(1);
    });

    test("SM-24: an application's error handler answers: its verdict is stored", async () => {
      create();
      let runs = 0;
      app.setErrorHandler((error: Error, _request, reply) =>
        reply.code(422).send({ error: error.message }),
      );
      await guard();
      app.post("/a", async () => {
        runs++;
        throw new Error("no such account");
      });
      const first = await post("/a");
      expect([first.status, statusOf(first)]).toEqual([422, "executed"]);
      expect((await post("/a")).body.equals(first.body)).toBe(true);
      expect(runs).toBe(1);
    });

    test("SM-24: NotApplied releases, whatever the application's error handler answers", async () => {
      create({ onError: "hold" });
      app.setErrorHandler((_error, _request, reply) => reply.code(422).send({ sorry: true }));
      await guard();
      app.post("/a", async () => {
        throw new NotApplied();
      });
      expect(statusOf(await post("/a"))).toBe("released");
      expect(await stateOf()).toBe("open");
    });

    test("what throws while a scope is asked for reaches the application's error handler", async () => {
      create();
      app.setErrorHandler((error: Error, _request, reply) =>
        reply.code(418).send({ error: error.message }),
      );
      await guard(app, {
        scope: () => {
          throw new Error("no directory");
        },
      });
      app.post("/a", async () => "a");
      expect((await post("/a")).status).toBe(418);
    });

    const SCHEMA = {
      body: {
        type: "object",
        required: ["amount"],
        properties: { amount: { type: "integer" }, currency: { type: "string", default: "EUR" } },
      },
    };

    test("a request that fails its schema is refused before its key counts", async () => {
      create();
      await guard();
      app.post("/a", { schema: SCHEMA }, async (request) => request.body);
      expect((await post("/a", { headers: JSON_TYPE, body: "{}" })).status).toBe(400);
      expect(await stateOf()).toBeUndefined();
      const right = { headers: JSON_TYPE, body: '{"amount":"7"}' };
      const first = await post("/a", right);
      expect(JSON.parse(first.body.toString())).toEqual({ amount: 7, currency: "EUR" });
      expect(statusOf(await post("/a", right))).toBe("replayed");
      // What the schema made of a body does not hide what was sent.
      const likeFirst = { headers: JSON_TYPE, body: '{"amount":7,"currency":"EUR"}' };
      expect(statusOf(await post("/a", likeFirst))).toBe("mismatch");
    });

    test("with `preValidation`, what a schema refuses is the operation's result", async () => {
      create();
      await guard(app, { hook: "preValidation" });
      app.post("/a", { schema: SCHEMA }, async () => "ran");
      const wrong = { headers: JSON_TYPE, body: "{}" };
      const first = await post("/a", wrong);
      expect([first.status, statusOf(first)]).toEqual([400, "executed"]);
      const again = await post("/a", wrong);
      expect([again.status, statusOf(again)]).toEqual([400, "replayed"]);
      expect(again.body.equals(first.body)).toBe(true);
    });

    test("HTTP-5: two JSON texts of one value are two bodies, or one with `json`", async () => {
      create();
      await guard();
      app.post("/bytes", async () => "ok");
      app.post("/json", { config: { idempotency: { fingerprint: "json" } } }, async () => "ok");
      for (const [path, status] of [
        ["/bytes", "mismatch"],
        ["/json", "replayed"],
      ] as const) {
        const headers = { ...JSON_TYPE, "idempotency-key": path.slice(1) };
        await post(path, { headers, body: '{"a":1,"b":2}' });
        expect(statusOf(await post(path, { headers, body: '{ "b": 2, "a": 1 }' }))).toBe(status);
      }
    });

    test("bodies are bounded by Fastify's limit and by Semel's", async () => {
      create();
      await guard(app, { maxBodyBytes: 20 });
      app.post("/fastify", { bodyLimit: 10 }, async () => "ran");
      app.post("/semel", async () => "ran");
      const body = JSON.stringify("x".repeat(30));
      const byFastify = await post("/fastify", { headers: JSON_TYPE, body });
      expect([byFastify.status, field(byFastify, "content-type")]).not.toContain(
        "application/problem+json",
      );
      expect(byFastify.status).toBe(413);
      const bySemel = await post("/semel", { headers: JSON_TYPE, body });
      expect(JSON.parse(bySemel.body.toString()).code).toBe("body-too-large");
      expect(await stateOf()).toBeUndefined();
    });

    test("a body that is left to the handler as a stream is read whole, and counts", async () => {
      create();
      await guard();
      app.addContentTypeParser("application/octet-stream", (_request, payload, done) =>
        done(null, payload),
      );
      app.post("/upload", async (request) => {
        let bytes = 0;
        for await (const chunk of request.body as AsyncIterable<Buffer>) bytes += chunk.length;
        return { bytes };
      });
      const headers = { "content-type": "application/octet-stream" };
      const injected = await app.inject({
        method: "POST",
        url: "/upload",
        headers: { ...headers, "idempotency-key": "k" },
        payload: Buffer.alloc(10),
      });
      expect(injected.json().message).toContain("send this request through a socket");
      const first = await post("/upload", { headers, body: Buffer.alloc(100_000, 1) });
      expect(first.body.toString()).toBe('{"bytes":100000}');
      expect(statusOf(await post("/upload", { headers, body: Buffer.alloc(100_000, 1) }))).toBe(
        "replayed",
      );
      expect(statusOf(await post("/upload", { headers, body: Buffer.alloc(100_000, 2) }))).toBe(
        "mismatch",
      );
    });

    for (const order of ["before", "after"] as const) {
      test(`HTTP-13: an onSend hook registered ${order} Semel changes an answer and its replay once`, async () => {
        create();
        const wrap = () =>
          app.addHook("onSend", async (_request, reply, payload) => {
            reply.header("x-seen", "yes");
            return `<${payload ?? ""}>`;
          });
        if (order === "before") wrap();
        await guard();
        if (order === "after") wrap();
        app.post("/a", async () => "a");
        const first = await post("/a");
        const again = await post("/a");
        expect(first.body.toString()).toBe("<a>");
        expect(again.body.toString()).toBe("<a>");
        expect(statusOf(again)).toBe("replayed");
        expect(field(again, "x-seen")).toBe("yes");
      });
    }

    test("SM-21: what leaves has been recorded, and a later onSend hook sees it so", async () => {
      create();
      await guard();
      const seen: unknown[] = [];
      app.addHook("onSend", async () => {
        seen.push(await stateOf());
      });
      app.post("/a", async () => "a");
      await post("/a");
      expect(seen).toEqual(["completed"]);
    });

    test("an async handler may send without returning the reply", async () => {
      create();
      await guard();
      app.post("/a", async (_request, reply) => {
        reply.code(201).send({ sent: true });
      });
      const first = await post("/a");
      expect([first.status, first.body.toString()]).toEqual([201, '{"sent":true}']);
      expect((await post("/a")).body.equals(first.body)).toBe(true);
    });

    test("a hijacked reply is recorded as it is written", async () => {
      create();
      await guard();
      app.post("/a", (_request, reply) => {
        reply.hijack();
        reply.raw.writeHead(202, { "content-type": "text/plain" });
        reply.raw.write("by ");
        reply.raw.end("hand");
      });
      const first = await post("/a");
      const again = await post("/a");
      expect([again.status, again.body.toString()]).toEqual([202, "by hand"]);
      expect([statusOf(first), statusOf(again)]).toEqual(["executed", "replayed"]);
      expect(field(again, "content-type")).toBe("text/plain");
    });

    test("a reply whose response the handler destroys has no result", async () => {
      create();
      await guard();
      app.post("/a", (_request, reply) => {
        reply.hijack();
        reply.raw.destroy();
      });
      await expect(post("/a")).rejects.toThrow();
      await expect.poll(() => stateOf()).toBe("open");
    });

    test("a handler that finds nothing stores the application's 404; no route at all keeps no keys", async () => {
      create();
      app.setNotFoundHandler((_request, reply) => reply.code(404).send("nothing here"));
      let runs = 0;
      await app.register(async (inner) => {
        await guard(inner);
        inner.post("/things", (_request, reply) => {
          runs++;
          reply.callNotFound();
        });
      });
      await guard();
      expect(statusOf(await post("/things"))).toBe("executed");
      const again = await post("/things");
      expect([again.status, again.body.toString()]).toEqual([404, "nothing here"]);
      expect(runs).toBe(1);
      const nowhere = await post("/nowhere", { headers: { "idempotency-key": "other" } });
      expect([nowhere.status, statusOf(nowhere)]).toEqual([404, undefined]);
    });

    test("`inject` runs once and is replayed as a request from outside is", async () => {
      create();
      await guard();
      let runs = 0;
      app.post("/json", async (request) => ({ run: ++runs, body: request.body }));
      app.post("/raw", (_request, reply) => {
        reply.hijack();
        reply.raw.end(`raw ${++runs}`);
      });
      for (const url of ["/json", "/raw"]) {
        const request = {
          method: "POST",
          url,
          headers: { "idempotency-key": url.slice(1) },
          payload: { a: 1 },
        } as const;
        const first = await app.inject(request);
        const again = await app.inject(request);
        expect(first.headers["idempotency-status"]).toBe("executed");
        expect(again.headers["idempotency-status"]).toBe("replayed");
        expect(again.body).toBe(first.body);
        const other = await app.inject({ ...request, payload: { a: 2 } });
        expect(other.statusCode).toBe(422);
      }
      expect(runs).toBe(2);
    });
  });
}

describe("semel/fastify with what Fastify 5 has", () => {
  const headers = { "idempotency-key": "k" };

  async function serving(set: (app: FastifyInstance) => void, around?: typeof compress) {
    const idempotency = new Idempotency({ store: memoryStore() });
    const app = fastify5();
    await app.register(idempotent, { idempotency, scope: "shared" });
    if (around) await app.register(around, { threshold: 0 });
    set(app);
    await app.listen({ port: 0, host: "127.0.0.1" });
    const { port } = app.server.address() as { port: number };
    const post = (more: Record<string, string> = {}, body?: Buffer) =>
      send(port, {
        path: "/a",
        method: "POST",
        headers: { ...headers, ...more },
        ...(body && { body }),
      });
    return { app, idempotency, post };
  }

  test("HTTP-14: an answer is stored before @fastify/compress, and replayed to any client", async () => {
    const { app, post } = await serving((app) => {
      app.post("/a", async () => ({ long: "text ".repeat(500) }));
    }, compress);
    const first = await post({ "accept-encoding": "gzip" });
    expect(field(first, "content-encoding")).toBe("gzip");
    const plain = await post();
    expect(field(plain, "idempotency-status")).toBe("replayed");
    expect(field(plain, "content-encoding")).toBeUndefined();
    expect(gunzipSync(first.body).equals(plain.body)).toBe(true);
    const zipped = await post({ "accept-encoding": "gzip" });
    expect(zipped.body.equals(first.body)).toBe(true);
    await app.close();
  });

  test("HTTP-14: a stream behind @fastify/compress is stored with its encoding", async () => {
    const { app, post } = await serving((app) => {
      app.post("/a", (_request, reply) =>
        reply.type("text/plain").send(new Blob(["text ".repeat(500)]).stream()),
      );
    }, compress);
    const first = await post({ "accept-encoding": "gzip" });
    const again = await post({ "accept-encoding": "gzip" });
    expect(field(again, "content-encoding")).toBe("gzip");
    expect(again.body.equals(first.body)).toBe(true);
    expect(gunzipSync(again.body).toString()).toBe("text ".repeat(500));
    await app.close();
  });

  test("HTTP-5: a body that @fastify/compress unpacks counts as it was sent", async () => {
    const { app, post } = await serving((app) => {
      app.post("/a", async (request) => request.body);
    }, compress);
    const packed = { "content-type": "application/json", "content-encoding": "gzip" };
    const first = await post(packed, gzipSync('{"a":1}'));
    expect(first.body.toString()).toBe('{"a":1}');
    expect(field(await post(packed, gzipSync('{"a":1}')), "idempotency-status")).toBe("replayed");
    expect(field(await post(packed, gzipSync('{"a":2}')), "idempotency-status")).toBe("mismatch");
    await app.close();
  });

  test("HTTP-14: a `Response` is recorded and replayed", async () => {
    const { app, post } = await serving((app) => {
      app.post("/a", async () => new Response("from fetch", { status: 203 }));
    });
    const first = await post();
    const again = await post();
    expect([again.status, again.body.toString()]).toEqual([203, "from fetch"]);
    expect(field(first, "idempotency-status")).toBe("executed");
    expect(field(again, "idempotency-status")).toBe("replayed");
    await app.close();
  });

  test("an operation whose handler outlives `handlerTimeout` is held: nobody knows its outcome", async () => {
    let finish = () => {};
    const finished = new Promise<string>((resolve) => {
      finish = () => resolve("late");
    });
    const { app, idempotency, post } = await serving((app) => {
      app.post("/a", { handlerTimeout: 20 }, () => finished);
    });
    expect((await post()).status).toBe(503);
    expect((await idempotency.get({ key: "k" }))?.state).toBe("held");
    expect(JSON.parse((await post()).body.toString()).code).toBe("outcome-unknown");
    finish();
    await app.close();
  });

  test("types: the plugin is one for Fastify, with or without its request named", async () => {
    const idempotency = new Idempotency({ store: memoryStore() });
    const app = fastify5({ logger: false });
    await app.register(idempotent, { idempotency, scope: (request) => request["user"].id });
    await app.register(idempotent<FastifyRequest>, {
      idempotency,
      scope: (request) => request.account,
    });
    // @ts-expect-error: `scope` must be given
    const missing: FastifyOptions = { idempotency };
    expect(missing).toBeDefined();
    await app.close();
  });
});
