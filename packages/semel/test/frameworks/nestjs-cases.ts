// What is special to `semel/nestjs`, for either major and either platform.

import type { ServerResponse } from "node:http";
import {
  BadRequestException,
  type CallHandler,
  type CanActivate,
  Catch,
  ConflictException,
  Controller,
  type ExceptionFilter,
  type ExecutionContext,
  Header,
  HttpCode,
  HttpException,
  Inject,
  Injectable,
  Module,
  type ModuleMetadata,
  type NestInterceptor,
  ParseIntPipe,
  Post,
  Query,
  Redirect,
  Req,
  Res,
  ServiceUnavailableException,
  Sse,
  StreamableFile,
  UnauthorizedException,
  UnprocessableEntityException,
  UseFilters,
  UseGuards,
  UseInterceptors,
  Version,
  VersioningType,
} from "@nestjs/common";
import { APP_INTERCEPTOR } from "@nestjs/core";
import { concat, defer, type Observable, of, retry, Subject, tap, throwError, timeout } from "rxjs";
import { afterEach, describe, expect, test } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { NotApplied } from "../../src/errors.ts";
import {
  CurrentOperation,
  type HttpOperation,
  Idempotent,
  IdempotentInterceptor,
  type IdempotentOptions,
  type NestRequest,
  SemelModule,
  type SemelModuleOptions,
  type SemelOptionsFactory,
} from "../../src/frameworks/nestjs.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import {
  field,
  json,
  RawClient,
  type Reply,
  requestText,
  type Sending,
  type Served,
  send,
} from "../../src/testing/framework-suite/index.ts";
import { closedGate } from "./gate.ts";
import {
  controller,
  type NestResponse,
  type Platform,
  type ServeNestOptions,
  serveNest,
} from "./nestjs-harness.ts";

/** A method that answers by what it returns. */
type Own = (request: NestRequest, response: NestResponse, operation?: HttpOperation) => unknown;
type Methods = Record<string, [Own, ...MethodDecorator[]]>;

/** A controller whose methods are posted to by their names. */
function posting(methods: Methods, decorators: readonly ClassDecorator[] = [Idempotent()]) {
  const entries = Object.entries(methods).map(([name, [handler, ...more]]) => [
    name,
    {
      handler,
      decorators: [Post(name), ...more],
      parameters: [Req(), Res({ passthrough: true }), CurrentOperation()],
    },
  ]);
  return controller("Payments", [Controller(), ...decorators], Object.fromEntries(entries));
}

/** Counts its runs, and answers with the count. */
function counting(answer: (run: number) => unknown = (run) => ({ run })) {
  const counted = Object.assign(
    () => {
      counted.runs++;
      return answer(counted.runs);
    },
    { runs: 0 },
  );
  return counted;
}

const JSON_TYPE = { "content-type": "application/json" };

function status(reply: Reply): string | undefined {
  return field(reply, "idempotency-status");
}

/** The cases for one platform. */
export function nestCases(platform: Platform): void {
  const open: Served[] = [];
  afterEach(async () => {
    for (const served of open.splice(0)) await served.close();
  });

  /** Serves modules and controllers; what is not said of the module is a shared scope in memory. */
  async function serving(
    metadata: ModuleMetadata,
    options: ServeNestOptions & { module?: Partial<SemelModuleOptions> } = {},
  ) {
    const { module, ...nestOptions } = options;
    const semel = SemelModule.forRoot({
      idempotency: { store: memoryStore() },
      defaults: { scope: "shared" },
      ...module,
    });
    const imports = [semel, ...(metadata.imports ?? [])];
    const served = await serveNest(platform, { ...metadata, imports }, nestOptions);
    open.push(served);
    const post = (path: string, sending: Omit<Sending, "path"> & { key?: string } = {}) => {
      const { key = "k", ...rest } = sending;
      const headers = { "idempotency-key": key, ...sending.headers };
      return send(served.port, { ...rest, headers, path });
    };
    return { ...served, post };
  }

  describe("replays", () => {
    test("end inside of Nest as other requests do, and nothing is logged", async () => {
      let ended = 0;
      const statuses: unknown[] = [];
      const logged: unknown[] = [];
      const note = (...words: unknown[]) => void logged.push(words);
      const logger = { log() {}, debug() {}, verbose() {}, error: note, warn: note, fatal: note };
      class Ends implements NestInterceptor {
        intercept(context: ExecutionContext, next: CallHandler) {
          const response = context.switchToHttp().getResponse();
          response.header("x-outside", "yes");
          const complete = () => void ended++;
          return next.handle().pipe(tap({ complete }));
        }
      }
      const run = counting();
      const raw = {
        handler: (_: NestRequest, response: NestResponse) => {
          run();
          response.status(202);
          response.send({ raw: true });
        },
        decorators: [Post("raw"), Idempotent(), UseInterceptors(Ends)],
        parameters: [Req(), Res()],
      };
      const Own = posting(
        {
          plain: [run, HttpCode(202)],
          empty: [() => void run(), HttpCode(204)],
          moved: [() => void run(), Redirect("/there", 303)],
          file: [() => run() && new StreamableFile(Buffer.from("file")), Header("x-kind", "file")],
        },
        [Idempotent(), UseInterceptors(Ends)],
      );
      const Raw = controller("Raw", [Controller()], { raw });
      // What logs of requests say.
      const set: ServeNestOptions["set"] = (app) => {
        app.use((_: unknown, response: ServerResponse, next: () => void) => {
          response.on("finish", () => statuses.push(response.statusCode));
          next();
        });
      };
      const { post, close } = await serving(
        { controllers: [Own, Raw] },
        { logger, fastifyLog: { write: note }, set },
      );
      const expected = { plain: 202, empty: 204, moved: 303, file: 201, raw: 202 };
      for (const [path, code] of Object.entries(expected)) {
        const first = await post(`/${path}`, { key: path });
        const again = await post(`/${path}`, { key: path });
        expect([path, first.status, again.status]).toEqual([path, code, code]);
        expect([status(first), status(again)]).toEqual(["executed", "replayed"]);
        expect(again.body).toEqual(first.body);
        expect(field(again, "x-outside")).toBe("yes");
      }
      expect(run.runs).toBe(5);
      open.pop();
      await close();
      expect(ended).toBe(10);
      expect(statuses).toEqual(Object.values(expected).flatMap((code) => [code, code]));
      expect(logged).toEqual([]);
    });

    test("a guard that refuses a request keeps it from the stored answer", async () => {
      class NeedsToken implements CanActivate {
        canActivate(context: ExecutionContext): boolean {
          return context.switchToHttp().getRequest().headers.authorization === "secret";
        }
      }
      const run = counting();
      const Class = posting({ pay: [run] }, [UseGuards(NeedsToken), Idempotent()]);
      const { post } = await serving({ controllers: [Class] });
      expect((await post("/pay")).status).toBe(403);
      const headers = { authorization: "secret" };
      expect(status(await post("/pay", { headers }))).toBe("executed");
      const refused = await post("/pay");
      expect(refused.status).toBe(403);
      expect(refused.headers["idempotent-replayed"]).toBeUndefined();
      expect(status(await post("/pay", { headers }))).toBe("replayed");
      expect(run.runs).toBe(1);
    });

    test("headers that the application sets for every answer are on them", async () => {
      const Class = posting({ pay: [counting()] });
      const set: ServeNestOptions["set"] = (app) => {
        app.enableCors({ origin: "https://shop.example", credentials: true });
      };
      const { post } = await serving({ controllers: [Class] }, { set });
      const headers = { origin: "https://shop.example" };
      for (const state of ["executed", "replayed"]) {
        const reply = await post("/pay", { headers });
        expect(status(reply)).toBe(state);
        expect(field(reply, "access-control-allow-origin")).toBe("https://shop.example");
      }
    });
  });

  describe("what handlers throw", () => {
    test("HTTP-12: a verdict is stored by its status, other exceptions follow onError", async () => {
      const run = counting();
      const fails = (error: () => Error): [Own] => [
        () => {
          run();
          throw error();
        },
      ];
      const Class = posting({
        invalid: fails(() => new UnprocessableEntityException("no such account")),
        teapot: fails(() => new HttpException({ spout: "blocked" }, 418)),
        busy: fails(() => new ConflictException()),
        stranger: fails(() => new UnauthorizedException()),
        down: fails(() => new ServiceUnavailableException()),
        broken: fails(() => new Error("broken")),
        observed: [() => throwError(() => new BadRequestException(String(run())))],
      });
      const { post } = await serving({ controllers: [Class] });
      for (const path of ["/invalid", "/teapot", "/observed"]) {
        const first = await post(path, { key: path });
        const again = await post(path, { key: path });
        expect([path, status(first), status(again)]).toEqual([path, "executed", "replayed"]);
        expect(again.body).toEqual(first.body);
      }
      for (const path of ["/busy", "/stranger", "/down", "/broken"]) {
        const before = run.runs;
        for (let n = 0; n < 2; n++) {
          expect(status(await post(path, { key: path }))).toBe("released");
        }
        expect(run.runs).toBe(before + 2);
      }
    });

    test("what a filter answers is what counts, but NotApplied always releases", async () => {
      class Translates implements ExceptionFilter {
        catch(error: Error, host: { switchToHttp(): { getResponse(): NestResponse } }) {
          const response = host.switchToHttp().getResponse();
          response.status(error.message === "unsure" ? 503 : 422);
          response.send({ error: error.message });
        }
      }
      Catch()(Translates);
      const run = counting();
      const fails = (error: Error): [Own] => [
        () => {
          run();
          throw error;
        },
      ];
      const Class = posting(
        {
          known: fails(new Error("known")),
          unsure: fails(new Error("unsure")),
          none: fails(new NotApplied(new Error("none"))),
        },
        [UseFilters(Translates), Idempotent()],
      );
      const { post } = await serving({ controllers: [Class] });
      const states = async (path: string) => [
        status(await post(path, { key: path })),
        status(await post(path, { key: path })),
      ];
      expect(await states("/known")).toEqual(["executed", "replayed"]);
      expect(await states("/unsure")).toEqual(["released", "released"]);
      expect(await states("/none")).toEqual(["released", "released"]);
      expect(run.runs).toBe(5);
    });

    test("a request that a pipe refuses is a verdict, and the handler never runs", async () => {
      const run = counting();
      const pay = {
        handler: run,
        decorators: [Post("pay"), Idempotent()],
        parameters: [Query("amount", ParseIntPipe)],
      };
      const Class = controller("Payments", [Controller()], { pay });
      const { post } = await serving({ controllers: [Class] });
      expect((await post("/pay?amount=x")).status).toBe(400);
      expect(status(await post("/pay?amount=x"))).toBe("replayed");
      expect(status(await post("/pay?amount=1", { key: "other" }))).toBe("executed");
      expect(run.runs).toBe(1);
    });

    test("an interceptor outside that tries again does so within the same attempt", async () => {
      class Retries implements NestInterceptor {
        intercept(_: ExecutionContext, next: CallHandler) {
          return next.handle().pipe(retry(2));
        }
      }
      const run = counting((run) => {
        if (run < 3) throw new Error("not yet");
        return { run };
      });
      const Class = posting({ pay: [run] }, [Idempotent(), UseInterceptors(Retries)]);
      const { post } = await serving({ controllers: [Class] });
      const first = await post("/pay");
      expect([status(first), json(first)]).toEqual(["executed", { run: 3 }]);
      expect(status(await post("/pay"))).toBe("replayed");
      expect(run.runs).toBe(3);
    });
  });

  describe("a time limit outside", () => {
    class Limit implements NestInterceptor {
      intercept(_: ExecutionContext, next: CallHandler) {
        const answer = () => throwError(() => new ServiceUnavailableException());
        return next.handle().pipe(timeout({ first: 20, with: answer }));
      }
    }

    test("SM-24: does not release what is at work yet", async () => {
      const gate = closedGate();
      const run = counting(() => gate.opened);
      // Decorators that stand above are applied later, and are further out.
      const Class = posting({ pay: [run] }, [Idempotent(), UseInterceptors(Limit)]);
      const { post } = await serving({ controllers: [Class] });
      const first = await post("/pay");
      expect([first.status, status(first)]).toEqual([503, "unknown"]);
      gate.open();
      expect(json(await post("/pay"))["code"]).toBe("outcome-unknown");
      expect(run.runs).toBe(1);
    });

    test("does not keep a handler that fails in time from being released", async () => {
      const run = counting(() => {
        throw new ServiceUnavailableException();
      });
      const Class = posting({ pay: [run] }, [Idempotent(), UseInterceptors(Limit)]);
      const { post } = await serving({ controllers: [Class] });
      expect(status(await post("/pay"))).toBe("released");
      expect(status(await post("/pay"))).toBe("released");
      expect(run.runs).toBe(2);
    });
  });

  describe("Observables", () => {
    test("their last value is the answer", async () => {
      const run = counting(() => concat(of("first"), of({ last: true })));
      const { post } = await serving({ controllers: [posting({ pay: [run] })] });
      expect(json(await post("/pay"))).toEqual({ last: true });
      expect(json(await post("/pay"))).toEqual({ last: true });
      expect(run.runs).toBe(1);
    });

    test("SM-23: one whose client has left is finished, and its answer found on retry", async () => {
      const subject = new Subject<object>();
      let subscribed = () => {};
      const begun = new Promise<void>((resolve) => {
        subscribed = resolve;
      });
      const handler = () =>
        defer(() => {
          subscribed();
          return subject;
        });
      const { port, post } = await serving({ controllers: [posting({ pay: [handler] })] });
      const client = await RawClient.connect(port);
      client.write(requestText("/pay", { "Idempotency-Key": "k" }));
      await begun;
      await client.leave();
      for (let n = 0; n < 5; n++) expect(status(await post("/pay"))).toBe("in-progress");
      subject.next({ paid: true });
      subject.complete();
      let reply = await post("/pay");
      for (let n = 0; n < 1_000 && status(reply) === "in-progress"; n++) reply = await post("/pay");
      expect([status(reply), json(reply)]).toEqual(["replayed", { paid: true }]);
    });

    test("server-sent events are stored and replayed", async () => {
      const run = counting((): Observable<object> => of({ data: "one" }, { data: "two" }));
      const Class = posting({ pay: [run, Sse("pay")] });
      const { post } = await serving({ controllers: [Class] });
      const first = await post("/pay");
      expect(first.body.toString()).toMatch(/data: one\n[\s\S]*data: two\n/);
      const again = await post("/pay");
      expect([status(again), again.body]).toEqual(["replayed", first.body]);
      expect(field(again, "content-type")).toBe("text/event-stream");
      expect(run.runs).toBe(1);
    });
  });

  describe("requests", () => {
    test("HTTP-5: with `rawBody` their exact bytes count, without it what was parsed", async () => {
      const bodies = ['{"a":1}', '{ "a": 1 }'];
      for (const [rawBody, expected] of [
        [true, "mismatch"],
        [false, "replayed"],
      ] as const) {
        const { post } = await serving(
          { controllers: [posting({ pay: [counting()] })] },
          { rawBody },
        );
        const states = [];
        for (const body of bodies)
          states.push(status(await post("/pay", { headers: JSON_TYPE, body })));
        expect(states).toEqual(["executed", expected]);
      }
    });

    test("HTTP-5: prefixes and versions tell them apart", async () => {
      const controllers = ["1", "2"].map((v) => posting({ pay: [counting(), Version(v)] }));
      const set: ServeNestOptions["set"] = (app) => {
        app.setGlobalPrefix("api");
        app.enableVersioning({ type: VersioningType.URI });
      };
      const { post } = await serving({ controllers }, { set });
      expect(status(await post("/api/v1/pay"))).toBe("executed");
      expect(status(await post("/api/v2/pay"))).toBe("mismatch");
      expect(status(await post("/api/v1/pay"))).toBe("replayed");
    });

    test("HTTP-4: the scope can be what a guard has found out", async () => {
      class Knows implements CanActivate {
        canActivate(context: ExecutionContext): boolean {
          const request = context.switchToHttp().getRequest();
          request.user = { id: request.headers["x-user"] };
          return true;
        }
      }
      const run = counting();
      const Class = posting({ pay: [run] }, [UseGuards(Knows), Idempotent()]);
      const scope = (request: NestRequest) => request["user"].id;
      const { post } = await serving({ controllers: [Class] }, { module: { defaults: { scope } } });
      for (const user of ["alice", "bob", "alice"])
        await post("/pay", { headers: { "x-user": user } });
      expect((await post("/pay")).status).toBe(401);
      expect(run.runs).toBe(2);
    });
  });

  describe("options", () => {
    test("a method's come before its controller's, and those before the module's", async () => {
      const run = counting();
      const methods: Methods = {
        pay: [run, Idempotent({ required: undefined })],
        refund: [run, Idempotent({ required: false })],
        ping: [run, Idempotent(false)],
      };
      const Class = posting(methods, [Idempotent({ required: true })]);
      const defaults: IdempotentOptions = { scope: "shared", header: "X-Key" };
      const { port } = await serving({ controllers: [Class] }, { module: { defaults } });
      const post = (path: string, headers = {}) => send(port, { path, headers });
      expect(json(await post("/pay"))["code"]).toBe("key-missing");
      expect((await post("/refund")).status).toBe(201);
      expect(status(await post("/refund", { "x-key": "k" }))).toBe("executed");
      expect(status(await post("/refund", { "x-key": "k" }))).toBe("replayed");
      expect(status(await post("/ping", { "x-key": "k" }))).toBeUndefined();
    });

    test("HTTP-4: without a scope the application does not start, and is told where", async () => {
      const start = serving(
        { controllers: [posting({ pay: [counting()] })] },
        { module: { defaults: {} } },
      );
      await expect(start).rejects.toThrow(/Payments\.pay: `scope` must be given/);
    });

    test("unknown ones are refused where they are written", async () => {
      expect(() => Idempotent({ retentoin: "1h" } as never)).toThrow(/did you mean `retention`/);
      const module = { default: {} } as never;
      await expect(serving({}, { module })).rejects.toThrow(/did you mean `defaults`/);
      const defaults = { scop: "shared" } as never;
      await expect(serving({}, { module: { defaults } })).rejects.toThrow(/did you mean `scope`/);
    });

    test("as APP_INTERCEPTOR it guards every route, and marked ones once", async () => {
      const run = counting();
      const Class = posting(
        { pay: [run], refund: [run, Idempotent()], ping: [run, Idempotent(false)] },
        [],
      );
      const provider = { provide: APP_INTERCEPTOR, useClass: IdempotentInterceptor };
      const { post } = await serving({ controllers: [Class], providers: [provider] });
      for (const path of ["/pay", "/refund"]) {
        expect(status(await post(path, { key: path }))).toBe("executed");
        expect(status(await post(path, { key: path }))).toBe("replayed");
      }
      expect(status(await post("/ping"))).toBeUndefined();
      expect(run.runs).toBe(3);
    });

    test("they can depend on other providers", async () => {
      const store = memoryStore();
      class Settings implements SemelOptionsFactory {
        createSemelOptions(): SemelModuleOptions {
          return { idempotency: { store }, defaults: { scope: "shared" } };
        }
      }
      Injectable()(Settings);
      class SettingsModule {}
      Module({ providers: [Settings], exports: [Settings] })(SettingsModule);
      const ways = [
        SemelModule.forRootAsync({
          imports: [SettingsModule],
          inject: [Settings],
          useFactory: async (settings: Settings) => settings.createSemelOptions(),
        }),
        SemelModule.forRootAsync({ imports: [SettingsModule], useExisting: Settings }),
        SemelModule.forRootAsync({ useClass: Settings }),
      ];
      const states = [];
      for (const way of ways) {
        const Class = posting({ pay: [counting()] });
        const served = await serveNest(platform, { imports: [way], controllers: [Class] });
        open.push(served);
        const headers = { "idempotency-key": "k" };
        states.push(status(await send(served.port, { path: "/pay", headers })));
      }
      expect(states).toEqual(["executed", "replayed", "replayed"]);
    });
  });

  describe("the engine", () => {
    test("can be injected", async () => {
      class Payments {
        readonly idempotency: Idempotency;
        constructor(idempotency: Idempotency) {
          this.idempotency = idempotency;
        }
      }
      Injectable()(Payments);
      Inject(Idempotency)(Payments, undefined, 0);
      const { app, post } = await serving({
        controllers: [posting({ pay: [counting()] })],
        providers: [Payments],
      });
      await post("/pay");
      const record = await app.get(Payments).idempotency.get({ key: "k", scope: "" });
      expect(record?.state).toBe("completed");
    });

    test("EN-10: is closed with the application when the module made it, and only then", async () => {
      const store = memoryStore();
      const given = new Idempotency({ store });
      const run = (idempotency: Idempotency) => idempotency.run({ key: "after" }, async () => 1);
      for (const idempotency of [given, { store }]) {
        const { app, close } = await serving({}, { module: { idempotency } });
        const engine = app.get(Idempotency);
        open.pop();
        await close();
        if (engine === given) expect((await run(engine)).value).toBe(1);
        else await expect(run(engine)).rejects.toMatchObject({ code: "closed" });
      }
      expect((await run(new Idempotency({ store }))).replayed).toBe(true);
    });

    test("EN-10: lets what runs end before the application shuts down", async () => {
      let proceed = () => {};
      let begin = () => {};
      const begun = new Promise<void>((resolve) => {
        begin = resolve;
      });
      const handler = () => {
        begin();
        return new Promise((resolve) => {
          proceed = () => resolve({ paid: true });
        });
      };
      const { post, close } = await serving({ controllers: [posting({ pay: [handler] })] });
      open.pop();
      const reply = post("/pay");
      await begun;
      const closed = close();
      proceed();
      expect([status(await reply), json(await reply)]).toEqual(["executed", { paid: true }]);
      await closed;
    });
  });
}
