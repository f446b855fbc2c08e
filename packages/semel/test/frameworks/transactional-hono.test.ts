// `transactional()` of `semel/hono`, behind `@hono/node-server` and without a server.

import { getRequestListener } from "@hono/node-server";
import { type Context, Hono } from "hono";
import { setCookie } from "hono/cookie";
import { cors } from "hono/cors";
import { HTTPException } from "hono/http-exception";
import { stream } from "hono/streaming";
import { validator } from "hono/validator";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import {
  type HttpOptions,
  operationOf,
  type SemelVariables,
  transactional,
} from "../../src/frameworks/hono.ts";
import type { Served } from "../../src/testing/framework-suite/index.ts";
import { sqliteBackends } from "../engine/transaction-backends.ts";
import { bridge } from "./fetch-harness.ts";
import { listen } from "./node-server.ts";
import { fresh, openShop, Serialise, type Shop } from "./transactional-shop.ts";
import { type TransactionalHarness, transactionalSuite } from "./transactional-suite.ts";

const [sqlite] = sqliteBackends;

function honoOf(
  name: string,
  listenerOf: (app: Hono) => Parameters<typeof listen>[0],
): TransactionalHarness {
  return {
    name,
    canRepeat: true,
    async serve(idempotency, options, handle) {
      // As Hono's own, without its log.
      const app = new Hono().onError((_, c) => c.text("Internal Server Error", 500));
      app.post(
        "/",
        transactional(idempotency, options as never, async (c: Context, transaction) => {
          const { sku } = await c.req.json();
          const { status, body, headers } = await handle({
            sku,
            transaction,
            operation: operationOf(c),
          });
          c.header("Content-Type", "application/json");
          return c.body(body, status as 200, { ...headers });
        }),
      );
      return listen(listenerOf(app));
    },
  };
}

transactionalSuite(
  honoOf("Hono on Node", (app) => getRequestListener(app.fetch)),
  sqlite!,
);
transactionalSuite(
  honoOf("Hono elsewhere", (app) => bridge(async (request) => app.fetch(request))),
  sqlite!,
);

type Post = (key: string | undefined, init?: RequestInit, path?: string) => Promise<Response>;
type App = Hono<{ Variables: SemelVariables }>;

const status = (response: Response) => response.headers.get("idempotency-status");

/** How requests reach an application. */
const WAYS: Record<string, (app: App) => Promise<{ fetch: App["request"]; served?: Served }>> = {
  "through a socket": async (app) => {
    const served = await listen(getRequestListener(app.fetch));
    const origin = `http://127.0.0.1:${served.port}`;
    return { served, fetch: async (path, init) => fetch(`${origin}${path}`, init) };
  },
  "through `app.request`": async (app) => ({ fetch: app.request }),
};

for (const [way, open] of Object.entries(WAYS)) {
  describe(`transactional() in applications of Hono, ${way}`, () => {
    let shop: Shop;
    let served: Served | undefined;
    beforeAll(async () => {
      shop = await openShop();
    });
    afterAll(() => shop.close());
    afterEach(async () => {
      await served?.close();
      served = undefined;
    });

    /** A handler that writes an order first. */
    const selling = (
      handler: (c: Context, transaction: unknown) => Response | Promise<Response>,
      options: Partial<HttpOptions<Context>> = {},
    ) =>
      transactional(
        shop.idempotency,
        { scope: "shared", ...options },
        async (c: Context, transaction) => {
          const sku = c.req.header("idempotency-key") ?? c.req.header("x-sku") ?? "";
          await shop.order(transaction, sku);
          return handler(c, transaction);
        },
      );

    async function serving(set: (app: App) => void): Promise<Post> {
      const app: App = new Hono();
      app.onError((error, c) =>
        error instanceof HTTPException ? error.getResponse() : c.text(error.message, 500),
      );
      set(app);
      const opened = await open(app);
      served = opened.served;
      return async (key, { headers, ...init } = {}, path = "/") =>
        opened.fetch(path, {
          method: "POST",
          body: '{"a":1}',
          ...init,
          headers: {
            connection: "close",
            "content-type": "application/json",
            ...(key !== undefined && { "idempotency-key": key }),
            ...(headers as Record<string, string>),
          },
        });
    }

    const READS: Record<string, (c: Context) => Promise<unknown>> = {
      "c.req.json()": (c) => c.req.json(),
      "c.req.text()": async (c) => JSON.parse(await c.req.text()),
      "c.req.arrayBuffer()": async (c) =>
        JSON.parse(Buffer.from(await c.req.arrayBuffer()).toString()),
    };
    test.each(Object.entries(READS))(
      "EN-5: a handler that reads by %s is called again when the database asks",
      async (_, read) => {
        const key = fresh();
        let runs = 0;
        const post = await serving((app) =>
          app.post(
            "/",
            selling(async (c) => {
              const body = await read(c);
              if (++runs === 1) throw new Serialise();
              return c.json({ runs, body });
            }),
          ),
        );
        const answer = await post(key);
        expect([answer.status, await answer.json()]).toEqual([200, { runs: 2, body: { a: 1 } }]);
        expect(await shop.committed(key)).toBe(1);
      },
    );

    test("EN-5: one that has read c.req.raw is not, and the client is told to try again", async () => {
      const key = fresh();
      let runs = 0;
      const post = await serving((app) =>
        app.post(
          "/",
          selling(async (c) => {
            const body = await c.req.raw.json();
            if (++runs === 1) throw new Serialise();
            return c.json(body as object);
          }),
        ),
      );
      const answer = await post(key);
      expect(answer.status).toBe(503);
      expect(await answer.json()).toMatchObject({ code: "store-unavailable", retry: "same-key" });
      expect([runs, await shop.committed(key)]).toEqual([1, 0]);
      expect((await post(key)).status).toBe(200);
      expect(await shop.committed(key)).toBe(1);
    });

    test("EN-5: called again, it finds the context as it was the first time", async () => {
      const key = fresh();
      let runs = 0;
      const post = await serving((app) => {
        app.use(async (c, next) => {
          c.header("X-Early", "yes");
          setCookie(c, "early", "1");
          await next();
        });
        app.post(
          "/",
          selling((c) => {
            runs++;
            setCookie(c, "run", String(runs));
            if (runs === 1) {
              c.status(418);
              c.header("X-Dropped", "yes");
              c.header("X-Early", "overwritten");
              throw new Serialise();
            }
            return c.text("done");
          }),
        );
      });
      const answer = await post(key);
      expect([answer.status, await answer.text(), runs]).toEqual([200, "done", 2]);
      expect(answer.headers.get("x-early")).toBe("yes");
      expect(answer.headers.get("x-dropped")).toBeNull();
      expect(answer.headers.getSetCookie()).toEqual([
        expect.stringContaining("early=1"),
        expect.stringContaining("run=2"),
      ]);
    });

    test("HTTP-13: what it throws rolls back whatever its status, and the answer says that the key is free", async () => {
      const [thrown, made] = [fresh(), fresh()];
      const post = await serving((app) =>
        app.post(
          "/",
          selling((c) => {
            c.header("X-Dropped", "yes");
            if (c.req.header("idempotency-key") === thrown) throw new Error("no stock");
            throw new HTTPException(422, { res: c.json({ sorry: true }, 422) });
          }),
        ),
      );
      const first = await post(thrown);
      expect([first.status, await first.text(), status(first)]).toEqual([
        500,
        "no stock",
        "released",
      ]);
      expect(first.headers.get("x-dropped")).toBeNull();
      const second = await post(made);
      expect([second.status, await second.json(), status(second)]).toEqual([
        422,
        { sorry: true },
        "released",
      ]);
      expect([await shop.committed(thrown), await shop.committed(made)]).toEqual([0, 0]);
      const unkeyed = await post(undefined, { headers: { "x-sku": thrown } });
      expect([unkeyed.status, status(unkeyed)]).toEqual([422, null]);
      expect(await shop.committed(thrown)).toBe(0);
    });

    test("HTTP-14: a stream is collected, and leaves whole after the commit", async () => {
      const key = fresh();
      const post = await serving((app) =>
        app.post(
          "/",
          selling((c) =>
            stream(c, async (out) => {
              await out.write("one, ");
              await out.write("two");
            }),
          ),
        ),
      );
      expect(await (await post(key)).text()).toBe("one, two");
      const again = await post(key);
      expect([status(again), await again.text()]).toEqual(["replayed", "one, two"]);
      expect(await shop.committed(key)).toBe(1);
    });

    test("a body that fails half-way rolls back, and is an error of the handler's", async () => {
      const key = fresh();
      const post = await serving((app) =>
        app.post(
          "/",
          selling(
            () =>
              new Response(
                new ReadableStream({
                  pull(controller) {
                    controller.error(new Error("the source broke"));
                  },
                }),
              ),
          ),
        ),
      );
      const answer = await post(key);
      expect([answer.status, await answer.text()]).toEqual([500, "the source broke"]);
      expect(await shop.committed(key)).toBe(0);
    });

    test("a handler that returns no response rolls back", async () => {
      const key = fresh();
      const post = await serving((app) =>
        app.post(
          "/",
          selling(() => undefined as never),
        ),
      );
      const answer = await post(key);
      expect([answer.status, await answer.text()]).toEqual([
        500,
        expect.stringContaining("must return a Response"),
      ]);
      expect(await shop.committed(key)).toBe(0);
    });

    test("cookies leave once, and what middleware outside sets is on replays", async () => {
      const key = fresh();
      const post = await serving((app) => {
        app.use(cors({ origin: "https://shop.example" }));
        app.post(
          "/",
          selling((c) => {
            setCookie(c, "a", "1");
            setCookie(c, "b", "2");
            return c.body(null, 204);
          }),
        );
      });
      const headers = { origin: "https://shop.example" };
      const first = await post(key, { headers });
      expect([first.status, first.headers.getSetCookie()]).toEqual([
        204,
        ["a=1; Path=/", "b=2; Path=/"],
      ]);
      const again = await post(key, { headers });
      expect([again.status, again.headers.getSetCookie()]).toEqual([204, []]);
      for (const answer of [first, again]) {
        expect(answer.headers.get("access-control-allow-origin")).toBe("https://shop.example");
      }
    });

    test("validators before it answer first, and leave the body to it", async () => {
      const key = fresh();
      const post = await serving((app) =>
        app.post(
          "/",
          validator("json", (value: { a?: unknown }, c) =>
            typeof value.a === "number" ? { a: value.a } : c.text("a?", 400),
          ),
          selling(async (c) => c.json({ ...(await c.req.json()), seen: true })),
        ),
      );
      const refused = await post(key, { body: "{}" });
      expect([refused.status, status(refused)]).toEqual([400, null]);
      expect(await (await post(key)).json()).toEqual({ a: 1, seen: true });
      expect(status(await post(key))).toBe("replayed");
    });

    test("HTTP-15: the operation is found by the context and by c.get", async () => {
      const key = fresh();
      const found: unknown[] = [];
      const post = await serving((app) =>
        app.post(
          "/",
          selling((c) => {
            found.push(c.get("operation"), operationOf(c));
            return c.body(null);
          }),
        ),
      );
      await post(key);
      expect(found[0]).toMatchObject({ key, attempt: 1 });
      expect(found[1]).toBe(found[0]);
      await post(undefined, { headers: { "x-sku": key } });
      expect(found.slice(2)).toEqual([undefined, undefined]);
    });

    test("HTTP-12: without a key, a response that is not stored rolls back as well", async () => {
      const sku = fresh();
      const post = await serving((app) => {
        app.post(
          "/:status",
          selling((c) => c.body(null, Number(c.req.param("status")) as 503)),
        );
      });
      const init = { headers: { "x-sku": sku } };
      expect((await post(undefined, init, "/503")).status).toBe(503);
      expect(await shop.committed(sku)).toBe(0);
      expect((await post(undefined, init, "/422")).status).toBe(422);
      expect(await shop.committed(sku)).toBe(1);
    });
  });
}

test("options, handlers and their types are checked where the route is set up", async () => {
  const shop = await openShop();
  const { idempotency } = shop;
  expect(() =>
    transactional(idempotency, { scop: "shared" } as never, () => new Response()),
  ).toThrow(/`scope`/);
  type Env = { Variables: SemelVariables & { account: string } };
  const app = new Hono<Env>();
  app.post(
    "/",
    transactional(idempotency, { scope: (c) => c.get("account") }, async (c: Context<Env>) =>
      c.json({ attempt: c.get("operation")?.attempt }),
    ),
  );
  expect(app.routes).toHaveLength(1);
  await shop.close();
});
