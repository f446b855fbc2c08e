// `transactional()` of `semel/koa`, with both majors.

import { createReadStream } from "node:fs";
import { PassThrough, Readable } from "node:stream";
import { gzipSync } from "node:zlib";
import koa3, { type Context, type Middleware } from "koa";
import koa2 from "koa2";
import { afterAll, afterEach, beforeAll, describe, expect, expectTypeOf, test } from "vitest";
import { idempotent, operationOf, transactional } from "../../src/frameworks/koa.ts";
import type { HttpOptions } from "../../src/http/options.ts";
import { field, json, type Reply, type Served } from "../../src/testing/framework-suite/index.ts";
import { closeServers, pgBackend, sqliteBackends } from "../engine/transaction-backends.ts";
import { listen } from "./node-server.ts";
import { fresh, openShop, poster, Serialise, type Shop, statusOf } from "./transactional-shop.ts";
import { type TransactionalHarness, transactionalSuite } from "./transactional-suite.ts";

const MAJORS = { "Koa 3": koa3, "Koa 2": koa2 };
const [sqlite] = sqliteBackends;

/** Leaves the parsed body on `ctx.request`, as Koa's body parsers do. */
async function parse(context: Context, next: () => Promise<unknown>): Promise<void> {
  const chunks: Buffer[] = [];
  for await (const chunk of context.req) chunks.push(chunk);
  const request = context.request as { body?: unknown };
  if (chunks.length > 0) request.body = JSON.parse(Buffer.concat(chunks).toString());
  await next();
}

function bodyOf({ request }: Context): unknown {
  return (request as { body?: unknown }).body;
}

function koaOf(name: string, Application: typeof koa3): TransactionalHarness {
  return {
    name,
    canRepeat: true,
    async serve(idempotency, options, handle) {
      const app = new Application();
      app.silent = true;
      app.use(parse);
      app.use(
        transactional(idempotency, options as never, async (context: Context, transaction) => {
          const operation = operationOf(context);
          const { sku } = bodyOf(context) as { sku: string };
          const answering = await handle({ sku, transaction, operation });
          context.status = answering.status;
          context.set({ ...answering.headers });
          context.type = "json";
          context.body = answering.body;
        }),
      );
      return listen(app.callback());
    },
  };
}

for (const [name, Application] of Object.entries(MAJORS)) {
  transactionalSuite(koaOf(name, Application), sqlite!);
}
transactionalSuite(koaOf("Koa 3", koa3), pgBackend);

afterAll(closeServers);

/** What handlers leave, in every way that Koa knows. */
const LEFT: Record<string, (context: Context) => unknown> = {
  "a string": (context) => {
    context.body = "text, ünï";
  },
  "a string that is HTML": (context) => {
    context.body = "<p>html</p>";
  },
  JSON: (context) => {
    context.status = 201;
    context.body = { id: 7 };
  },
  "a number": (context) => {
    context.body = 0;
  },
  "a Buffer": (context) => {
    context.body = Buffer.from([0, 255, 10]);
  },
  "an empty string": (context) => {
    context.body = "";
  },
  null: (context) => {
    context.body = null;
  },
  "null with 200": (context) => {
    context.body = null;
    context.status = 200;
  },
  "204 after a body": (context) => {
    context.body = { dropped: true };
    context.status = 204;
  },
  "a status alone": (context) => {
    context.status = 202;
  },
  nothing: () => {},
  "a redirect": (context) => context.redirect("/elsewhere"),
  cookies: (context) => {
    context.append("Set-Cookie", ["a=1", "b=2"]);
    context.body = "with cookies";
  },
  "a stream": (context) => {
    context.body = Readable.from(["one, ", "two"]);
  },
  "a file": (context) => {
    context.type = "text/plain";
    context.body = createReadStream(import.meta.filename);
  },
  "a stream with a length": (context) => {
    context.length = 4;
    context.body = new PassThrough().end("four");
  },
  "what it wrote to ctx.res": (context) => {
    context.respond = false;
    context.res.writeHead(201, { "content-type": "text/plain" });
    context.res.write("half, ");
    setImmediate(() => context.res.end("whole"));
  },
  "what it piped to ctx.res": (context) => {
    context.respond = false;
    context.res.statusCode = 200;
    Readable.from(["one, ", "two"]).pipe(context.res);
  },
};
const OF_KOA_3: typeof LEFT = {
  "a Blob": (context) => {
    context.body = new Blob(["from a blob"], { type: "text/plain" });
  },
  "a web stream": (context) => {
    context.body = new Blob(["from a web stream"]).stream();
  },
  "a Response": (context) => {
    context.body = new Response("from a response", { status: 202, headers: { "x-of": "it" } });
  },
};

/** What is the same in every answer of a server. */
const PASSING = ["date", "connection", "keep-alive", "idempotency-status", "idempotency-expires"];

/** An answer as its client reads it, however its end is told. */
function seen(reply: Reply): unknown {
  const fields = Object.entries(reply.headers).filter(
    ([name]) => ![...PASSING, "transfer-encoding", "content-length"].includes(name),
  );
  return { status: reply.status, body: reply.body.toString("latin1"), fields: fields.sort() };
}

type Handler = (context: Context, transaction: unknown) => unknown;

for (const [name, Application] of Object.entries(MAJORS)) {
  describe(`transactional() in applications of ${name}`, () => {
    let shop: Shop;
    let served: Served | undefined;
    beforeAll(async () => {
      shop = await openShop();
    });
    afterAll(() => shop.close());
    afterEach(() => served?.close());

    /** Serves a handler that writes an order first, behind other middleware. */
    async function serving(
      handler: Handler,
      { outside = [], ...options }: Partial<HttpOptions<Context>> & { outside?: Middleware[] } = {},
    ) {
      const app = new Application();
      const reported: Error[] = [];
      app.on("error", (error) => reported.push(error));
      for (const each of [...outside, parse]) app.use(each);
      const last = transactional(
        shop.idempotency,
        { scope: "shared", ...options },
        async (context: Context, transaction) => {
          await shop.order(transaction, context.get("idempotency-key") || context.get("x-sku"));
          return handler(context, transaction);
        },
      );
      app.use(last);
      served = await listen(app.callback());
      return { post: poster(served.port), reported };
    }

    const ways = name === "Koa 3" ? { ...LEFT, ...OF_KOA_3 } : LEFT;
    test.each(Object.entries(ways))(
      "HTTP-14: %s leaves as Koa sends it, and is replayed",
      async (_, leave) => {
        const key = fresh();
        const plain = new Application();
        plain.use(leave);
        const expected = await listen(plain.callback());
        const wanted = await poster(expected.port)(undefined);
        await expected.close();
        const { post } = await serving(leave);
        const first = await post(key);
        expect(seen(first)).toEqual(seen(wanted));
        expect(statusOf(first)).toBe("executed");
        const again = await post(key);
        expect([again.status, again.body, statusOf(again)]).toEqual([
          wanted.status,
          wanted.body,
          "replayed",
        ]);
        expect(field(again, "content-type")).toBe(field(wanted, "content-type"));
        expect(await shop.committed(key)).toBe(1);
      },
    );

    test("EN-5: a handler that is called again finds ctx as it was the first time", async () => {
      const key = fresh();
      const found: unknown[] = [];
      let runs = 0;
      const early: Middleware = (context, next) => {
        context.set("X-Early", "yes");
        return next();
      };
      const { post } = await serving(
        (context) => {
          const { status, body, respond } = context;
          found.push([status, body, respond, context.response.headers, bodyOf(context)]);
          runs++;
          if (runs === 1) {
            context.status = 418;
            context.set("X-Dropped", "yes");
            context.append("Set-Cookie", "dropped=1");
            context.body = Readable.from(["dropped"]);
            context.respond = false;
            throw new Serialise();
          }
          context.body = { runs };
        },
        { outside: [early] },
      );
      const answer = await post(key, { body: '{"a":1}' });
      expect([answer.status, json(answer)]).toEqual([200, { runs: 2 }]);
      expect(field(answer, "x-early")).toBe("yes");
      expect([answer.headers["x-dropped"], answer.headers["set-cookie"]]).toEqual([
        undefined,
        undefined,
      ]);
      expect(found[0]).toEqual([404, undefined, undefined, { "x-early": "yes" }, { a: 1 }]);
      expect(found[1]).toEqual(found[0]);
      expect(await shop.committed(key)).toBe(1);
    });

    test("HTTP-13: ctx.throw rolls back whatever its status, and its answer says that the key is free", async () => {
      const key = fresh();
      const { post, reported } = await serving((context) => {
        context.body = "half of an answer";
        context.throw(422, "no such account");
      });
      for (const runs of [1, 2]) {
        const answer = await post(key);
        expect([answer.status, answer.body.toString()]).toEqual([422, "no such account"]);
        expect(statusOf(answer)).toBe("released");
        expect(reported).toHaveLength(runs);
      }
      expect(await shop.committed(key)).toBe(0);
    });

    test("middleware outside that answers an error finds ctx as it was, after the rollback", async () => {
      const key = fresh();
      let found: unknown;
      const polite: Middleware = async (context, next) => {
        context.status = 402;
        context.body = "early";
        try {
          await next();
        } catch (error) {
          const orders = await shop.committed(key);
          const { status, body, respond } = context;
          found = { orders, status, body, respond, headers: { ...context.response.headers } };
          context.status = 409;
          context.body = { sorry: (error as Error).message };
        }
      };
      const { post } = await serving(
        (context) => {
          context.body = { dropped: true };
          context.set("X-Dropped", "yes");
          context.respond = false;
          throw new Error("no stock");
        },
        { outside: [polite] },
      );
      const answer = await post(key);
      expect(found).toEqual({
        orders: 0,
        status: 402,
        body: "early",
        respond: undefined,
        headers: { "content-type": "text/plain; charset=utf-8", "content-length": "5" },
      });
      expect([answer.status, json(answer), statusOf(answer)]).toEqual([
        409,
        { sorry: "no stock" },
        "released",
      ]);
      expect(answer.headers["x-dropped"]).toBeUndefined();
    });

    test("middleware outside finds the first answer in ctx after the commit, and may change it", async () => {
      const key = fresh();
      const found: unknown[] = [];
      const zips: Middleware = async (context, next) => {
        await next();
        found.push([context.status, context.headerSent, await shop.committed(key)]);
        if (context.headerSent) return;
        context.set("Content-Encoding", "gzip");
        context.body = gzipSync(context.body as Buffer);
      };
      const { post } = await serving(
        (context) => {
          context.status = 201;
          context.body = { paid: true };
        },
        { outside: [zips] },
      );
      const first = await post(key);
      expect([first.status, field(first, "content-encoding")]).toEqual([201, "gzip"]);
      expect(first.body).toEqual(gzipSync('{"paid":true}'));
      const again = await post(key);
      expect([again.status, json(again)]).toEqual([201, { paid: true }]);
      expect(found).toEqual([
        [201, false, 1],
        [201, true, 1],
      ]);
    });

    test("a body that fails half-way rolls back, and Koa answers for it", async () => {
      const key = fresh();
      const { post, reported } = await serving((context) => {
        context.body = Readable.from(
          (async function* () {
            yield "half";
            throw new Error("the source broke");
          })(),
        );
      });
      const answer = await post(key);
      expect([answer.status, answer.body.toString()]).toEqual([500, "Internal Server Error"]);
      expect(statusOf(answer)).toBe("released");
      expect(reported.map(({ message }) => message)).toEqual(["the source broke"]);
      expect(await shop.committed(key)).toBe(0);
    });

    test("a body that does not end within a lease rolls back, and is destroyed", async () => {
      const key = fresh();
      const endless = new PassThrough();
      const { post } = await serving(
        (context) => {
          context.body = endless;
        },
        { lease: "100ms" },
      );
      expect((await post(key)).status).toBe(500);
      expect(endless.destroyed).toBe(true);
      expect(await shop.committed(key)).toBe(0);
    });

    test("an error that is told to ctx.onerror rolls back", async () => {
      const key = fresh();
      const { post, reported } = await serving((context) => {
        context.body = "looks well";
        context.onerror(null as never);
        context.onerror(new Error("told aside"));
      });
      const answer = await post(key);
      expect([answer.status, statusOf(answer)]).toEqual([500, "released"]);
      expect(reported.map(({ message }) => message)).toEqual(["told aside"]);
      expect(await shop.committed(key)).toBe(0);
    });

    test("HTTP-12: without a key, a response that is not stored rolls back as well", async () => {
      const sku = fresh();
      let status = 503;
      const { post } = await serving((context) => {
        context.status = status;
      });
      expect((await post(undefined, { headers: { "x-sku": sku } })).status).toBe(503);
      expect(await shop.committed(sku)).toBe(0);
      status = 422;
      expect((await post(undefined, { headers: { "x-sku": sku } })).status).toBe(422);
      expect(await shop.committed(sku)).toBe(1);
    });

    test('HTTP-15: after notApplied() the key may run again, with `onError: "store"` too', async () => {
      const key = fresh();
      let isRefused = true;
      const { post } = await serving(
        (context) => {
          if (isRefused) operationOf(context)?.notApplied();
          context.status = 200;
        },
        { onError: "store" },
      );
      expect(statusOf(await post(key))).toBe("released");
      isRefused = false;
      expect(statusOf(await post(key))).toBe("executed");
      expect(await shop.committed(key)).toBe(1);
    });

    test("HTTP-15: the operation is on ctx.state, and found by the context and by the request", async () => {
      const key = fresh();
      const found: unknown[] = [];
      const { post } = await serving((context) => {
        found.push(context.state["operation"], operationOf(context), operationOf(context.req));
        context.body = "done";
      });
      await post(key);
      expect(found[0]).toMatchObject({ key, attempt: 1 });
      expect(new Set(found).size).toBe(1);
      await post(undefined, { headers: { "x-sku": key } });
      expect(found.slice(3)).toEqual([undefined, undefined, undefined]);
    });

    test("behind idempotent() it is refused, and nothing runs", async () => {
      const key = fresh();
      const outside = [idempotent<Context>(shop.idempotency, { scope: "shared" })];
      const { post, reported } = await serving(() => {}, { outside });
      expect((await post(key)).status).toBe(500);
      expect(reported.map(({ message }) => message)).toEqual([
        expect.stringContaining("mounted twice"),
      ]);
      expect(await shop.committed(key)).toBe(0);
    });
  });
}

test("options and handlers are checked when the route is set up", async () => {
  const shop = await openShop();
  const { idempotency } = shop;
  const handler = () => {};
  expect(() => transactional(idempotency, { scop: "shared" } as never, handler)).toThrow(/`scope`/);
  expect(() => transactional(idempotency, { scope: "shared" }, undefined as never)).toThrow(
    /takes a handler/,
  );
  await shop.close();
});

test("the middleware's types are Koa's", () => {
  const create = (shop: Shop) =>
    transactional(shop.idempotency, { scope: (context) => context.ip }, (context: Context) => {
      context.body = "typed";
    });
  expectTypeOf(create).returns.toExtend<Middleware>();
});
