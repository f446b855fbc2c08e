// `semel/express` under the conformance suite of frameworks, with Express 4 and 5: the same handlers
// said in Express's own way where it has one.

import type express from "express";
import type { NextFunction, Request, Response, Router } from "express";
import { idempotent, operationOf } from "../../src/frameworks/express.ts";
import type { HttpOptions } from "../../src/http/options.ts";
import {
  ANSWERS,
  counted,
  EVERY_BYTE,
  type FrameworkHarness,
  GIVEN,
  nodeHandlers,
  patterned,
  type Route,
  type ServeSetup,
} from "../../src/testing/framework-suite/index.ts";
import { listen } from "./node-server.ts";

type ExpressHandler = (request: Request, response: Response) => unknown;

/** What Express says in its own words. */
function expressHandlers({ stage }: ServeSetup): Partial<Record<Route, ExpressHandler>> {
  return {
    json: (_, response) => response.json(JSON.parse(ANSWERS.json.body)),
    number: (_, response) => response.json(0),
    text: (_, response) => response.type("text/plain").send(ANSWERS.text.body),
    created: (_, response) => response.status(201).location("/things/7").json({ id: 7 }),
    "no-content": (_, response) => response.sendStatus(204),
    found: (_, response) => response.redirect(ANSWERS.found.location),
    "see-other": (_, response) => response.redirect(303, ANSWERS["see-other"].location),
    temporary: (_, response) => response.redirect(307, ANSWERS.temporary.location),
    empty: (_, response) => response.send(""),
    binary: (_, response) =>
      response.set("Content-Type", stage.settings.contentType).send(Buffer.from(EVERY_BYTE)),
    given: (_, response) => {
      const { status, reason, headers } = stage.settings;
      if (reason !== "") response.statusMessage = reason;
      response.status(status).set(headers).send(GIVEN);
    },
    large: (_, response) => response.send(patterned(stage.settings.bytes)),
    file: (_, response) => response.sendFile(stage.file.path),
    "throws-after-answer": (_, response) => {
      response.set("X-Before", "kept").status(201).type("text/plain").send("answered");
      throw new Error("the handler broke after its answer");
    },
    parsed: (request, response) => response.json(request.body ?? null),
  };
}

/** The harness of one major version. */
export function expressHarness(name: string, create: typeof express): FrameworkHarness {
  return {
    name,
    cannot: {},
    async serve(setup) {
      const { idempotency, options, stage, outside } = setup;
      const app = create();
      // Silences the final handler's log of errors; its answers are the same.
      app.set("env", "test");
      if (outside) {
        app.use((request, response, next) => {
          outside(request, response);
          next();
        });
      }
      const field = (request: Request, header: string) => request.get(header);
      const routeOptions = { scope: "shared", ...options(field) } as HttpOptions<Request>;
      const guard = idempotent(idempotency, routeOptions);
      const handlers: Partial<Record<Route, ExpressHandler>> = counted(
        { ...nodeHandlers(stage, operationOf), ...expressHandlers(setup) } as never,
        stage,
      );
      const parsers = [create.json(), create.urlencoded({ extended: false }), create.text()];
      const router = create.Router();
      for (const [route, handler] of Object.entries(handlers)) {
        const before = setup.parsers === "before" ? parsers : [];
        const after = setup.parsers === "after" ? parsers : [];
        const safely = (request: Request, response: Response, next: NextFunction) => {
          // Express 4 does not look at the promises of handlers.
          const done = handler(request, response) as Promise<unknown> | undefined;
          if (typeof done?.then === "function") done.then(undefined, next);
        };
        router.all(`/${route}`, ...before, guard, ...after, safely);
      }
      mount(app, router);
      return listen(app);
    },
  };
}

function mount(app: ReturnType<typeof express>, router: Router): void {
  app.use("/one", router);
  app.use("/two", router);
  app.use(router);
}
