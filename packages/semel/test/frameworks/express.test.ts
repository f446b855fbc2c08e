// `semel/express` against the conformance suite of frameworks, with both majors that it serves.

import express5 from "express";
import express4 from "express4";
import { afterEach, describe, expect, test } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { NotApplied } from "../../src/errors.ts";
import { idempotent } from "../../src/frameworks/express.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import {
  field,
  frameworkCases,
  reasonToSkip,
  type Served,
  send,
} from "../../src/testing/framework-suite/index.ts";
import { expressHarness } from "./express-harness.ts";
import { closedGate } from "./gate.ts";
import { listen } from "./node-server.ts";

const MAJORS = { "Express 5": express5, "Express 4": express4 };

for (const [name, express] of Object.entries(MAJORS)) {
  const harness = expressHarness(name, express);

  describe(`semel/express with ${name}`, () => {
    for (const frameworkCase of frameworkCases) {
      if (reasonToSkip(frameworkCase, harness) !== undefined) continue;
      test(frameworkCase.name, () => frameworkCase.run(harness));
    }
  });

  describe(`semel/express in applications of ${name}`, () => {
    let served: Served | undefined;
    afterEach(() => served?.close());

    /** Serves an application, and sends it a keyed request. */
    async function serving(set: (app: express5.Express, guard: express5.Handler) => void) {
      const app = express();
      app.set("env", "test");
      const idempotency = new Idempotency({ store: memoryStore(), onError: "hold" });
      set(app, idempotent<express5.Request>(idempotency, { scope: "shared" }));
      served = await listen(app);
      const { port } = served;
      return (path: string, key = "k", method = "POST") =>
        send(port, { path, method, headers: { "idempotency-key": key } });
    }

    test("middleware for a whole router guards every route of it", async () => {
      let runs = 0;
      const post = await serving((app, guard) => {
        const router = express.Router();
        router.use(guard);
        router.post("/a", (_, response) => response.json(++runs));
        app.use("/v1", router);
      });
      expect((await post("/v1/a")).body.toString()).toBe("1");
      expect((await post("/v1/a")).body.toString()).toBe("1");
      expect((await post("/v1/missing", "other")).status).toBe(404);
      expect(field(await post("/v1/missing", "other"), "idempotency-status")).toBe("replayed");
    });

    test("what a handler throws is heard without changing which routes there are", async () => {
      let runs = 0;
      const post = await serving((app, guard) => {
        app.post("/a", guard, () => {
          runs++;
          throw new NotApplied();
        });
      });
      for (let run = 1; run <= 3; run++) {
        expect((await post("/a")).status).toBe(500);
        expect(runs).toBe(run);
      }
      expect((await post("/a", "k", "GET")).status).toBe(404);
      const options = await post("/a", "k", "OPTIONS");
      expect(field(options, "allow")).toBe("POST");
    });

    test("an application's own error handler answers, and its verdict is stored", async () => {
      let runs = 0;
      const post = await serving((app, guard) => {
        app.post("/a", guard, (_request, _response, next) => {
          runs++;
          next(Object.assign(new Error("no such account"), { status: 422 }));
        });
        app.use(((error, _request, response, _next) => {
          response.status(error.status).json({ error: error.message });
        }) as express5.ErrorRequestHandler);
      });
      const first = await post("/a");
      expect(first.status).toBe(422);
      expect(field(await post("/a"), "idempotency-status")).toBe("replayed");
      expect(runs).toBe(1);
    });

    test("an error handler that ends a stream politely does not make it a result", async () => {
      const post = await serving((app, guard) => {
        app.post("/a", guard, (_request, response) => {
          response.write("half");
          throw new Error("broken");
        });
        app.use(((_error, _request, response, _next) => {
          response.end("sorry");
        }) as express5.ErrorRequestHandler);
      });
      await expect(post("/a")).rejects.toThrow();
      expect(JSON.parse((await post("/a")).body.toString()).code).toBe("outcome-unknown");
    });

    test("a key of one route is no key of another, whatever each counts of a body", async () => {
      let runs = 0;
      const options = [{}, { fingerprint: "json" }, { fingerprint: { exclude: ["/at"] } }] as const;
      const post = await serving((app) => {
        const idempotency = new Idempotency({ store: memoryStore() });
        for (const [index, option] of options.entries()) {
          const guard = idempotent<express5.Request>(idempotency, { scope: "shared", ...option });
          app.post(`/${index}`, guard, (_, response) => response.json(++runs));
        }
      });
      expect((await post("/0")).status).toBe(200);
      for (const path of ["/1", "/2"]) expect((await post(path)).status).toBe(422);
      expect(field(await post("/0"), "idempotency-status")).toBe("replayed");
      expect(runs).toBe(1);
    });

    for (const place of ["outside", "inside"]) {
      test(`SM-24: \`connect-timeout\` ${place} does not release what is at work yet`, async () => {
        let runs = 0;
        const gate = closedGate();
        // As `connect-timeout` does it.
        const limit: express5.Handler = (request, _response, next) => {
          setTimeout(() => {
            Object.assign(request, { timedout: true });
            next(Object.assign(new Error("Response timeout"), { status: 503 }));
          }, 20);
          next();
        };
        const post = await serving((app) => {
          const guard = idempotent<express5.Request>(new Idempotency({ store: memoryStore() }), {
            scope: "shared",
          });
          const guards = place === "outside" ? [limit, guard] : [guard, limit];
          app.post("/a", ...guards, async (request, response) => {
            runs++;
            await gate.opened;
            if (!("timedout" in request)) response.json("charged");
          });
        });
        const first = await post("/a");
        expect([first.status, field(first, "idempotency-status")]).toEqual([503, "unknown"]);
        gate.open();
        expect(JSON.parse((await post("/a")).body.toString()).code).toBe("outcome-unknown");
        expect(runs).toBe(1);
      });
    }

    /** Serves a route behind middleware that reads the body, and posts bodies to it under one key. */
    async function reading(read: (request: express5.Request) => Promise<unknown> | undefined) {
      const idempotency = new Idempotency({ store: memoryStore() });
      const errors: { code?: string }[] = [];
      const app = express();
      let runs = 0;
      app.use((request, _response, next) => {
        Promise.resolve(read(request)).then(() => next(), next);
      });
      app.post("/", idempotent<express5.Request>(idempotency, { scope: "shared" }), (_, response) =>
        response.json(++runs),
      );
      app.use(((error, _request, response, _next) => {
        errors.push(error);
        response.status(500).end();
      }) as express5.ErrorRequestHandler);
      served = await listen(app);
      const { port } = served;
      const post = (body: string | Uint8Array[]) =>
        send(port, { path: "/", headers: { "idempotency-key": "k" }, body });
      return { post, errors, runs: () => runs };
    }

    const PARSERS: Record<string, (request: express5.Request) => Promise<unknown>> = {
      "bytes of which are kept": async (request) => {
        Object.assign(request, { rawBody: Buffer.concat(await request.toArray()) });
      },
      "text of which is kept": async (request) => {
        request.setEncoding("utf8");
        Object.assign(request, { rawBody: (await request.toArray()).join("") });
      },
      "files of which are kept in memory": async (request) => {
        const buffer = Buffer.concat(await request.toArray());
        // As `multer` leaves them.
        const file = { fieldname: "f", originalname: "a", mimetype: "text/plain", buffer };
        Object.assign(request, { body: {}, files: { f: [file] } });
      },
    };
    for (const [what, read] of Object.entries(PARSERS)) {
      test(`HTTP-5: requests are told apart that are read before, the ${what}`, async () => {
        const { post, runs } = await reading(read);
        expect((await post("one")).status).toBe(200);
        expect((await post("two")).status).toBe(422);
        expect(field(await post("one"), "idempotency-status")).toBe("replayed");
        expect(runs()).toBe(1);
      });
    }

    const TAPS: Record<string, (request: express5.Request) => Promise<unknown> | undefined> = {
      "is read and not kept": (request) => request.toArray(),
      "is listened to": (request) => void request.on("data", () => {}),
      "is listened to, what has come of it being kept": (request) => {
        Object.assign(request, { rawBody: "" }).on("data", () => {});
        return undefined;
      },
      "is put on a disk": async (request) => {
        await request.toArray();
        Object.assign(request, { body: {}, file: { fieldname: "f", path: "/tmp/random" } });
      },
    };
    for (const [what, read] of Object.entries(TAPS)) {
      test(`HTTP-5: a request whose body ${what} is refused, and the application is told`, async () => {
        const { post, errors, runs } = await reading(read);
        for (const body of ["one", [Buffer.from("o"), Buffer.from("ne")]]) {
          expect((await post(body)).status).toBe(500);
          expect(errors.pop()).toMatchObject({ code: "option-invalid" });
        }
        expect(runs()).toBe(0);
      });
    }

    test("several handlers of one route run once in all", async () => {
      const seen: string[] = [];
      const post = await serving((app, guard) => {
        const note = (what: string): express5.Handler => {
          return (_request, _response, next) => {
            seen.push(what);
            next();
          };
        };
        app.post("/a", note("before"), guard, note("after"), (_, response) => {
          response.send("done");
        });
      });
      await post("/a");
      await post("/a");
      expect(seen).toEqual(["before", "after", "before"]);
    });
  });
}
