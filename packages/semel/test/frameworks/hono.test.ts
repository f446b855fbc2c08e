// `semel/hono` against the conformance suite of frameworks, and with applications of its own, behind
// `@hono/node-server` and without a server.

import { connect } from "node:net";
import { gunzipSync } from "node:zlib";
import { getRequestListener } from "@hono/node-server";
import { type Context, Hono } from "hono";
import { bodyLimit } from "hono/body-limit";
import { compress } from "hono/compress";
import { setCookie } from "hono/cookie";
import { cors } from "hono/cors";
import { HTTPException } from "hono/http-exception";
import { timeout } from "hono/timeout";
import { validator } from "hono/validator";
import { afterEach, describe, expect, test } from "vitest";
import { Idempotency, type IdempotencyOptions } from "../../src/engine/idempotency.ts";
import { NotApplied } from "../../src/errors.ts";
import {
  type HttpOptions,
  idempotent,
  operationOf,
  type SemelVariables,
} from "../../src/frameworks/hono.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import {
  frameworkCases,
  reasonToSkip,
  type Served,
} from "../../src/testing/framework-suite/index.ts";
import { closedGate } from "./gate.ts";
import { honoHarness } from "./hono-harness.ts";
import { listen } from "./node-server.ts";

describe("semel/hono behind @hono/node-server", () => {
  for (const frameworkCase of frameworkCases) {
    if (reasonToSkip(frameworkCase, honoHarness) !== undefined) continue;
    test(frameworkCase.name, () => frameworkCase.run(honoHarness));
  }
});

type App = Hono<{ Variables: SemelVariables & { account: string } }>;
type Send = (path: string, init?: RequestInit) => Promise<Response>;

const status = (response: Response) => response.headers.get("idempotency-status");
const JSON_TYPE = { "content-type": "application/json" };

/** How requests reach an application. */
const WAYS: Record<string, (app: App) => Promise<{ send: Send; served?: Served }>> = {
  "through a socket": async (app) => {
    const served = await listen(getRequestListener(app.fetch));
    return { served, send: (path, init) => fetch(`http://127.0.0.1:${served.port}${path}`, init) };
  },
  "through `app.request`": async (app) => ({ send: async (path, init) => app.request(path, init) }),
};

for (const [way, open] of Object.entries(WAYS)) {
  describe(`semel/hono in applications, ${way}`, () => {
    let served: Served | undefined;
    let idempotency: Idempotency;
    afterEach(async () => {
      await served?.close();
      served = undefined;
    });

    function guard(
      engine: Partial<IdempotencyOptions> = {},
      options: Partial<HttpOptions<Context>> = {},
    ) {
      idempotency = new Idempotency({ store: memoryStore(), ...engine });
      return idempotent<Context>(idempotency, { scope: "shared", ...options });
    }

    /** Serves an application, and sends it keyed POSTs. */
    async function serving(set: (app: App) => void): Promise<Send> {
      const app: App = new Hono();
      set(app);
      const opened = await open(app);
      served = opened.served;
      return (path, { headers, ...init } = {}) =>
        opened.send(path, {
          method: "POST",
          ...init,
          headers: { connection: "close", "idempotency-key": "k", ...headers },
        });
    }

    const stateOf = async () => (await idempotency.get({ key: "k" }))?.state;

    test("HTTP-15: the handler finds its operation, by the context and by `c.get`", async () => {
      const post = await serving((app) =>
        app.post("/a", guard(), (c) => {
          const operation = c.get("operation");
          return c.json({ key: operation?.key, same: operation === operationOf(c) });
        }),
      );
      expect(await (await post("/a")).json()).toEqual({ key: "k", same: true });
      const unkeyed = await post("/a", { method: "PUT" });
      expect(unkeyed.status).toBe(404);
    });

    test("EN-6: an error's response does not say that the operation may run again when it is held", async () => {
      const post = await serving((app) => {
        app.onError((error, c) => c.json({ error: error.name }, 500));
        app.post("/a", guard(), async (c) => {
          // It runs, and what comes of it cannot be kept.
          await operationOf(c)?.step("charge", () => () => {});
          return c.text("charged");
        });
      });
      const first = await post("/a");
      expect([first.status, status(first)]).toEqual([500, "unknown"]);
      expect(await (await post("/a")).json()).toMatchObject({ code: "outcome-unknown" });
    });

    test("SM-24: an application's `onError` answers: its verdict is stored", async () => {
      let runs = 0;
      const post = await serving((app) => {
        app.onError((error, c) => c.json({ error: error.message }, 422));
        app.post("/a", guard(), () => {
          runs++;
          throw new Error("no such account");
        });
      });
      const first = await post("/a");
      expect([first.status, status(first)]).toEqual([422, "executed"]);
      expect(await (await post("/a")).json()).toEqual({ error: "no such account" });
      expect(runs).toBe(1);
    });

    test("SM-24: NotApplied releases, whatever `onError` answers, a sub-application's too", async () => {
      const post = await serving((app) => {
        const inner = new Hono();
        inner.onError((_error, c) => c.text("sorry", 422));
        inner.post("/b", () => {
          throw new NotApplied();
        });
        app.use(guard({ onError: "hold" }));
        app.route("/a", inner);
      });
      const reply = await post("/a/b");
      expect([reply.status, status(reply)]).toEqual([422, "released"]);
      expect(await stateOf()).toBe("open");
    });

    test("an HTTPException of 401 is not stored, one of 404 is", async () => {
      const post = await serving((app) => {
        app.post("/:status", guard(), (c) => {
          throw new HTTPException(Number(c.req.param("status")) as 401, { message: "no" });
        });
      });
      expect(status(await post("/401"))).toBe("released");
      const headers = { "idempotency-key": "other" };
      expect(status(await post("/404", { headers }))).toBe("executed");
      expect(status(await post("/404", { headers }))).toBe("replayed");
    });

    test("what is thrown and is no Error releases, and is thrown on", async () => {
      const post = await serving((app) =>
        app.post("/a", guard(), () => {
          throw "text";
        }),
      );
      await post("/a").then(
        (reply) => expect(reply.status).toBe(500),
        (thrown) => expect(thrown).toBe("text"),
      );
      expect(await stateOf()).toBe("open");
    });

    test("routes of sub-applications and base paths are told apart", async () => {
      const post = await serving((app) => {
        const things = new Hono();
        things.post("/things", (c) => c.text(c.req.path));
        app.use(guard({ cache: false }));
        app.route("/one", things);
        app.basePath("/two").post("/things", (c) => c.text("two"));
      });
      expect(await (await post("/one/things")).text()).toBe("/one/things");
      expect(status(await post("/one/things"))).toBe("replayed");
      expect(status(await post("/two/things"))).toBe("mismatch");
      expect(status(await post("/one/things?x=1"))).toBe("mismatch");
    });

    test("middleware before it answers first, and what it set is on replays", async () => {
      let runs = 0;
      const post = await serving((app) => {
        app.use(cors({ origin: "https://shop.example" }), async (c, next) => {
          c.header("X-Request-Id", "from outside");
          if (c.req.header("authorization") !== "alice") return c.text("who are you?", 401);
          c.set("account", "alice");
          return next();
        });
        app.use(guard({}, { scope: (c) => c.get("account") }));
        app.post("/a", (c) => c.json({ run: ++runs }));
      });
      const headers = { authorization: "alice", origin: "https://shop.example" };
      await post("/a", { headers });
      expect((await post("/a")).status).toBe(401);
      const again = await post("/a", { headers });
      expect([status(again), await again.text()]).toEqual(["replayed", '{"run":1}']);
      expect(again.headers.get("access-control-allow-origin")).toBe("https://shop.example");
      expect(again.headers.get("x-request-id")).toBe("from outside");
    });

    test("HTTP-13: cookies are sent once and never replayed", async () => {
      const post = await serving((app) =>
        app.post("/a", guard(), (c) => {
          setCookie(c, "a", "1");
          setCookie(c, "b", "2");
          return c.body(null, 204);
        }),
      );
      expect((await post("/a")).headers.getSetCookie()).toHaveLength(2);
      const again = await post("/a");
      expect([again.status, again.headers.getSetCookie()]).toEqual([204, []]);
    });

    test("HTTP-14: an answer is stored before `compress`, and replayed to any client", async () => {
      const text = "text ".repeat(500);
      const post = await serving((app) => {
        app.use(compress(), guard());
        app.post("/a", (c) => c.text(text));
      });
      const zipped = await post("/a", { headers: { "accept-encoding": "gzip" } });
      expect(zipped.headers.get("content-encoding")).toBe("gzip");
      // `fetch` has unpacked what came through a socket.
      const bytes = Buffer.from(await zipped.arrayBuffer());
      expect(String(bytes[0] === 0x1f ? gunzipSync(bytes) : bytes)).toBe(text);
      const plain = await post("/a", { headers: { "accept-encoding": "identity" } });
      expect(plain.headers.get("content-encoding")).toBeNull();
      expect([status(plain), await plain.text()]).toEqual(["replayed", text]);
    });

    test("HTTP-13: middleware outside that rewrites answers does so once, also to replays", async () => {
      const post = await serving((app) => {
        app.use(async (c, next) => {
          await next();
          const { status } = c.res;
          const text = await c.res.text();
          const headers = new Headers(c.res.headers);
          c.res = undefined;
          c.res = new Response(`<${text}>`, { status, headers });
        });
        app.post("/a", guard(), (c) => c.text("a"));
      });
      expect(await (await post("/a")).text()).toBe("<a>");
      const again = await post("/a");
      expect([status(again), await again.text()]).toEqual(["replayed", "<a>"]);
    });

    const READS: Record<string, (c: Context) => Promise<unknown>> = {
      "c.req.json()": (c) => c.req.json(),
      "c.req.text() and then c.req.json()": async (c) => {
        await c.req.text();
        return c.req.json();
      },
      "c.req.arrayBuffer()": async (c) =>
        JSON.parse(Buffer.from(await c.req.arrayBuffer()).toString()),
      "c.req.raw.json()": (c) => c.req.raw.json(),
      "a clone of c.req.raw": (c) => c.req.raw.clone().json(),
      "the stream of c.req.raw": (c) => new Response(c.req.raw.body).json(),
    };
    for (const [how, read] of Object.entries(READS)) {
      test(`HTTP-5: the handler reads its body by ${how}`, async () => {
        const post = await serving((app) =>
          app.post("/a", guard(), async (c) => c.json((await read(c)) as object)),
        );
        const init = { body: '{"a":"ü"}', headers: JSON_TYPE };
        expect(await (await post("/a", init)).json()).toEqual({ a: "ü" });
        expect(status(await post("/a", init))).toBe("replayed");
        expect(status(await post("/a", { ...init, body: '{"a":2}' }))).toBe("mismatch");
      });
    }

    const READERS: Record<string, (c: Context) => Promise<unknown>> = {
      "c.req.json()": (c) => c.req.json(),
      "c.req.arrayBuffer()": (c) => c.req.arrayBuffer(),
      "c.req.blob()": (c) => c.req.blob(),
    };
    for (const [how, read] of Object.entries(READERS)) {
      test(`HTTP-5: middleware before it may have read the body by ${how}`, async () => {
        const post = await serving((app) => {
          app.use(async (c, next) => {
            await read(c);
            return next();
          }, guard());
          app.post("/a", async (c) => c.json(await c.req.json()));
        });
        const init = { body: '{"a":1}', headers: JSON_TYPE };
        expect(await (await post("/a", init)).json()).toEqual({ a: 1 });
        expect(status(await post("/a", init))).toBe("replayed");
        expect(status(await post("/a", { ...init, body: '{"a":2}' }))).toBe("mismatch");
      });
    }

    test("HTTP-5: forms of which middleware before it left no bytes are told apart, files included", async () => {
      const post = await serving((app) => {
        app.use(async (c, next) => {
          await c.req.formData();
          return next();
        }, guard());
        app.post("/a", async (c) => c.json([...(await c.req.formData()).keys()]));
      });
      const form = (content: string) => {
        const body = new FormData();
        body.set("name", "x");
        body.set("file", new File([content], "a.txt"));
        return { body };
      };
      expect(await (await post("/a", form("one"))).json()).toEqual(["name", "file"]);
      expect(status(await post("/a", form("one")))).toBe("replayed");
      expect(status(await post("/a", form("two")))).toBe("mismatch");
    });

    test("a validator behind it gives a verdict that is stored", async () => {
      let runs = 0;
      const post = await serving((app) => {
        const amount = validator("json", (value: { amount?: unknown }, c) =>
          typeof value.amount === "number" ? { amount: value.amount } : c.text("amount?", 400),
        );
        app.post("/a", guard(), amount, (c) => {
          runs++;
          return c.json(c.req.valid("json"));
        });
      });
      const wrong = { body: "{}", headers: JSON_TYPE };
      expect((await post("/a", wrong)).status).toBe(400);
      expect(status(await post("/a", wrong))).toBe("replayed");
      expect(runs).toBe(0);
    });

    test("HTTP-10: a body over the bound is refused before the handler", async () => {
      let runs = 0;
      const post = await serving((app) =>
        app.post("/a", guard({}, { maxBodyBytes: 10 }), (c) => c.json(++runs)),
      );
      const reply = await post("/a", { body: "x".repeat(11) });
      const { code } = (await reply.json()) as { code: string };
      expect([reply.status, code]).toEqual([413, "body-too-large"]);
      expect(runs).toBe(0);
    });

    test("options that do not exist are refused by name", () => {
      expect(() => guard({}, { methds: ["PUT"] } as never)).toThrow(/methds.*methods/);
    });
  });
}

describe("semel/hono on Node", () => {
  test("HTTP-5: applications mounted under two prefixes are told apart", async () => {
    const idempotency = new Idempotency({ store: memoryStore() });
    const inner = new Hono();
    inner.post("/things", idempotent(idempotency, { scope: "shared" }), (c) => c.text("done"));
    const app = new Hono().mount("/one", inner.fetch).mount("/two", inner.fetch);
    const served = await listen(getRequestListener(app.fetch));
    const post = (path: string) =>
      fetch(`http://127.0.0.1:${served.port}${path}`, {
        method: "POST",
        headers: { connection: "close", "idempotency-key": "k" },
      });
    expect(status(await post("/one/things"))).toBe("executed");
    expect(status(await post("/two/things"))).toBe("mismatch");
    await served.close();
  });

  test("SM-24: `timeout` outside does not release what is at work yet", async () => {
    let runs = 0;
    const gate = closedGate();
    const idempotency = new Idempotency({ store: memoryStore() });
    const app = new Hono().use(timeout(20)).use(idempotent(idempotency, { scope: "shared" }));
    app.post("/", async (c) => {
      runs++;
      await gate.opened;
      return c.text("charged");
    });
    const served = await listen(getRequestListener(app.fetch));
    const post = () =>
      fetch(`http://127.0.0.1:${served.port}`, {
        method: "POST",
        headers: { connection: "close", "idempotency-key": "k" },
      });
    expect((await post()).status).toBe(504);
    expect(await (await post()).json()).toMatchObject({ code: "operation-in-progress" });
    gate.open();
    await new Promise(setImmediate);
    expect(await (await post()).json()).toMatchObject({ code: "outcome-unknown" });
    expect(runs).toBe(1);
    expect((await idempotency.get({ key: "k" }))?.reason).toBe("handler-timeout");
    await served.close();
  });

  test("HTTP-5: behind `bodyLimit`, a body that comes slowly is read once", async () => {
    const idempotency = new Idempotency({ store: memoryStore() });
    const app = new Hono();
    let reached = () => {};
    const limited = new Promise<void>((resolve) => {
      reached = resolve;
    });
    app.use(
      async (_c, next) => {
        reached();
        return next();
      },
      bodyLimit({ maxSize: 1_000 }),
      idempotent(idempotency, { scope: "shared" }),
    );
    app.post("/a", async (c) => c.text(await c.req.text()));
    const served = await listen(getRequestListener(app.fetch));
    const socket = connect(served.port, "127.0.0.1");
    const answer: Buffer[] = [];
    socket.on("data", (chunk) => answer.push(chunk));
    const ended = new Promise((resolve) => socket.once("close", resolve));
    const head = "Host: a\r\nIdempotency-Key: k\r\nConnection: close\r\nContent-Length: 10\r\n\r\n";
    socket.write(`POST /a HTTP/1.1\r\n${head}01234`);
    await limited;
    socket.write("56789");
    await ended;
    expect(Buffer.concat(answer).toString()).toMatch(/\r\n\r\n0123456789$/);
    await served.close();
  });

  test("types: the middleware is one for Hono, with its context named or not", () => {
    const idempotency = new Idempotency({ store: memoryStore() });
    type Env = { Variables: SemelVariables & { account: string } };
    const app = new Hono<Env>();
    app.post("/a", idempotent(idempotency, { scope: (c) => c.get("account") }), (c) => {
      const attempt: number | undefined = c.get("operation")?.attempt;
      return c.json({ attempt });
    });
    app.use(idempotent<Context<Env>>(idempotency, { scope: (c) => c.get("account") }));
    // @ts-expect-error: the application sets no such variable
    idempotent<Context<Env>>(idempotency, { scope: (c) => c.get("acount") });
    expect(app.routes).toHaveLength(3);
  });
});
