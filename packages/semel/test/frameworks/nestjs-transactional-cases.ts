// `@Idempotent({ transactional: true })`, for either major and either platform.

import { createReadStream } from "node:fs";
import { Readable } from "node:stream";
import {
  type CallHandler,
  Controller,
  type ExecutionContext,
  Get,
  HttpCode,
  type ModuleMetadata,
  type NestInterceptor,
  ParseIntPipe,
  Post,
  Query,
  Redirect,
  Req,
  RequestTimeoutException,
  Res,
  Sse,
  StreamableFile,
  type Type,
  UnprocessableEntityException,
  UseInterceptors,
} from "@nestjs/common";
import { APP_INTERCEPTOR } from "@nestjs/core";
import { catchError, concat, first, interval, map, of, retry, throwError, timeout } from "rxjs";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import {
  CurrentOperation,
  CurrentTransaction,
  type HttpOperation,
  Idempotent,
  IdempotentInterceptor,
  type IdempotentOptions,
  type NestRequest,
  operationOf,
  SemelModule,
} from "../../src/frameworks/nestjs.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { field, json, type Served } from "../../src/testing/framework-suite/index.ts";
import { pgBackend, sqliteBackends } from "../engine/transaction-backends.ts";
import { controller, type NestResponse, type Platform, serveNest } from "./nestjs-harness.ts";
import { fresh, openShop, poster, type Shop, statusOf } from "./transactional-shop.ts";
import { type TransactionalHarness, transactionalSuite } from "./transactional-suite.ts";

const [sqlite] = sqliteBackends;

export function nestTransactionalHarness(name: string, platform: Platform): TransactionalHarness {
  return {
    name,
    canRepeat: false,
    async serve(idempotency, options, handle) {
      const order = {
        handler: async (
          request: NestRequest,
          response: NestResponse,
          operation: HttpOperation | undefined,
          transaction: unknown,
        ) => {
          const { sku } = request.body as { sku: string };
          const { status, body, headers } = await handle({ sku, transaction, operation });
          response.status(status);
          for (const [header, value] of Object.entries(headers ?? {})) {
            response.header(header, value);
          }
          response.header("content-type", "application/json; charset=utf-8");
          return body;
        },
        decorators: [Post("/"), Idempotent({ ...options, transactional: true } as never)],
        parameters: [Req(), Res({ passthrough: true }), CurrentOperation(), CurrentTransaction()],
      };
      const Orders = controller("Orders", [Controller()], { order });
      const module = SemelModule.forRoot({ idempotency });
      return serveNest(platform, { imports: [module], controllers: [Orders] });
    },
  };
}

/** A handler that has written an order. */
type Handler = (
  transaction: unknown,
  request: NestRequest,
  response: NestResponse,
  operation: HttpOperation | undefined,
) => unknown;
type Methods = Record<string, [Handler, ...MethodDecorator[]]>;

/** An interceptor of one expression. */
function intercepting(
  through: (context: ExecutionContext, next: CallHandler) => ReturnType<CallHandler["handle"]>,
): Type<NestInterceptor> {
  return class {
    intercept(context: ExecutionContext, next: CallHandler) {
      return through(context, next);
    }
  };
}

const TRANSACTIONAL = Idempotent({ transactional: true });

/** The cases for one platform. */
export function nestTransactionalCases(major: string, platform: Platform): void {
  transactionalSuite(nestTransactionalHarness(`${major} on ${platform}`, platform), sqlite!);

  describe(`transactional routes in applications of ${major} on ${platform}`, () => {
    let shop: Shop;
    const open: Served[] = [];
    beforeAll(async () => {
      shop = await openShop();
    });
    afterAll(() => shop.close());
    afterEach(async () => {
      for (const served of open.splice(0)) await served.close();
    });

    /** Serves methods, which write an order first, and are posted to by their names. */
    async function selling(
      methods: Methods,
      {
        decorators = [TRANSACTIONAL],
        defaults = { scope: "shared" },
        seller = shop,
        ...metadata
      }: ModuleMetadata & {
        decorators?: readonly ClassDecorator[];
        defaults?: IdempotentOptions;
        seller?: Shop;
      } = {},
    ) {
      const entries = Object.entries(methods).map(([name, [handler, ...more]]) => {
        const method = {
          handler: async (
            transaction: unknown,
            request: NestRequest,
            response: NestResponse,
            operation: HttpOperation | undefined,
          ) => {
            const { headers } = request as NestRequest & { headers: Record<string, string> };
            await seller.order(transaction, headers["idempotency-key"] ?? headers["x-sku"]!);
            return handler(transaction, request, response, operation);
          },
          decorators: [Post(name), ...more],
          parameters: [
            CurrentTransaction(),
            Req(),
            more.includes(RAW) ? Res() : Res({ passthrough: true }),
            CurrentOperation(),
          ],
        };
        return [name, method] as const;
      });
      const Class = controller(
        "Orders",
        [Controller(), ...decorators],
        Object.fromEntries(entries),
      );
      const { idempotency } = seller;
      const module = SemelModule.forRoot({ idempotency, defaults });
      const served = await serveNest(platform, {
        ...metadata,
        imports: [module],
        controllers: [Class],
      });
      open.push(served);
      const post = poster(served.port);
      return (key: string | undefined, path: string, headers = {}) =>
        post(key, { path: `/${path}`, headers });
    }

    test("HTTP-14: answers of every kind are stored with the order, and replayed", async () => {
      const post = await selling({
        value: [() => ({ id: 7 }), HttpCode(202)],
        text: [() => "text"],
        nothing: [() => undefined, HttpCode(204)],
        moved: [() => undefined, Redirect("/there", 303)],
        observable: [() => concat(of("first"), of({ last: true }))],
        file: [() => new StreamableFile(Buffer.from("bytes"))],
        stream: [
          () => new StreamableFile(Readable.from([Buffer.from("one, "), Buffer.from("two")])),
        ],
        raw: [
          (_transaction, _request, response) => {
            setImmediate(() => {
              response.status(201);
              response.send({ raw: true });
            });
          },
          RAW,
        ],
      });
      const expected: Record<string, [number, string]> = {
        value: [202, '{"id":7}'],
        text: [201, "text"],
        nothing: [204, ""],
        moved: [303, ""],
        observable: [201, '{"last":true}'],
        file: [201, "bytes"],
        stream: [201, "one, two"],
        raw: [201, '{"raw":true}'],
      };
      for (const [path, [code, body]] of Object.entries(expected)) {
        const key = fresh();
        const first = await post(key, path);
        expect([path, first.status, statusOf(first)]).toEqual([path, code, "executed"]);
        // Express says in words where a redirect leads.
        if (path !== "moved") expect(first.body.toString()).toBe(body);
        const again = await post(key, path);
        expect([again.status, again.body, statusOf(again)]).toEqual([code, first.body, "replayed"]);
        expect(field(again, "location")).toBe(field(first, "location"));
        expect(await shop.committed(key)).toBe(1);
      }
    });

    test("HTTP-13: an HttpException rolls back whatever its status, and its answer says that the key is free", async () => {
      const post = await selling({
        thrown: [
          () => {
            throw new UnprocessableEntityException("no such account");
          },
        ],
        observed: [() => throwError(() => new UnprocessableEntityException("no such account"))],
      });
      for (const path of ["thrown", "observed"]) {
        const key = fresh();
        for (let n = 0; n < 2; n++) {
          const answer = await post(key, path);
          expect([answer.status, json(answer)["message"]]).toEqual([422, "no such account"]);
          expect(statusOf(answer)).toBe("released");
        }
        expect(await shop.committed(key)).toBe(0);
        const unkeyed = await post(undefined, path, { "x-sku": key });
        expect([unkeyed.status, unkeyed.headers["idempotency-status"]]).toEqual([422, undefined]);
        expect(await shop.committed(key)).toBe(0);
      }
    });

    test('an exception is not kept with `onError: "store"`, a response is', async () => {
      const post = await selling(
        {
          thrown: [
            () => {
              throw new Error("no stock");
            },
          ],
          answered: [() => ({ sorry: true }), HttpCode(500)],
        },
        { decorators: [Idempotent({ transactional: true, onError: "store" })] },
      );
      const [thrown, answered] = [fresh(), fresh()];
      for (const expected of ["released", "released"]) {
        expect(statusOf(await post(thrown, "thrown"))).toBe(expected);
      }
      for (const expected of ["executed", "replayed"]) {
        const answer = await post(answered, "answered");
        expect([answer.status, json(answer), statusOf(answer)]).toEqual([
          500,
          { sorry: true },
          expected,
        ]);
      }
      expect([await shop.committed(thrown), await shop.committed(answered)]).toEqual([0, 0]);
    });

    test("a request that a pipe refuses leaves the key free", async () => {
      const key = fresh();
      const pay = {
        handler: async (transaction: unknown) => shop.order(transaction, key),
        decorators: [Post("pay"), TRANSACTIONAL],
        parameters: [CurrentTransaction(), Query("amount", ParseIntPipe)],
      };
      const Class = controller("Payments", [Controller()], { pay });
      const { idempotency } = shop;
      const module = SemelModule.forRoot({ idempotency, defaults: { scope: "shared" } });
      const served = await serveNest(platform, { imports: [module], controllers: [Class] });
      open.push(served);
      const post = poster(served.port);
      const refused = await post(key, { path: "/pay?amount=x" });
      expect([refused.status, statusOf(refused)]).toEqual([400, "released"]);
      expect((await post(key, { path: "/pay?amount=1" })).status).toBe(201);
      expect(await shop.committed(key)).toBe(1);
    });

    test("a file that fails, before its first byte or half-way, is no verdict: it rolls back", async () => {
      const halves = async function* () {
        yield Buffer.from("half");
        throw new Error("the source broke");
      };
      const post = await selling({
        missing: [() => new StreamableFile(createReadStream("/no/such/file"))],
        breaking: [() => new StreamableFile(Readable.from(halves()))],
      });
      for (const path of ["missing", "breaking"]) {
        const key = fresh();
        const answer = await post(key, path);
        expect([path, answer.status]).toEqual([path, 500]);
        expect(json(answer)).toEqual({ statusCode: 500, message: "Internal server error" });
        expect(statusOf(answer)).toBe("released");
        expect(await shop.committed(key)).toBe(0);
      }
    });

    test("a response that never ends rolls back after a lease", async () => {
      const key = fresh();
      const options = { transactional: true, lease: "100ms" } as const;
      const post = await selling(
        { silent: [() => undefined, RAW] },
        { decorators: [Idempotent(options)] },
      );
      const answer = await post(key, "silent");
      expect([answer.status, statusOf(answer)]).toEqual([500, "released"]);
      expect(await shop.committed(key)).toBe(0);
    });

    test("what interceptors outside make of an answer is stored, of an error is not", async () => {
      const Wraps = intercepting((_, next) =>
        next.handle().pipe(
          map((value) => ({ wrapped: value })),
          catchError((error: Error) => of({ sorry: error.message })),
        ),
      );
      const post = await selling(
        {
          pay: [() => "paid"],
          fail: [
            () => {
              throw new Error("no stock");
            },
          ],
        },
        { decorators: [TRANSACTIONAL, UseInterceptors(Wraps)] },
      );
      const [paid, failed] = [fresh(), fresh()];
      for (const expected of ["executed", "replayed"]) {
        const answer = await post(paid, "pay");
        expect([json(answer), statusOf(answer)]).toEqual([{ wrapped: "paid" }, expected]);
      }
      const sorry = await post(failed, "fail");
      expect([sorry.status, json(sorry)]).toEqual([201, { sorry: "no stock" }]);
      expect(statusOf(sorry)).toBe("released");
      expect([await shop.committed(paid), await shop.committed(failed)]).toEqual([1, 0]);
    });

    test.each([
      ["inside does so in one transaction", true, 3],
      ["outside is refused, and nothing runs without a transaction", false, 1],
    ])("an interceptor that tries again %s", async (_, isInside, expected) => {
      let runs = 0;
      const retries = UseInterceptors(intercepting((_, next) => next.handle().pipe(retry(2))));
      const pay = {
        handler: () => {
          runs++;
          throw new Error("not yet");
        },
        decorators: [
          Post("pay"),
          ...(isInside ? [retries, TRANSACTIONAL] : [TRANSACTIONAL, retries]),
        ],
        parameters: [],
      };
      const Class = controller("Payments", [Controller()], { pay });
      const { idempotency } = shop;
      const module = SemelModule.forRoot({ idempotency, defaults: { scope: "shared" } });
      const served = await serveNest(platform, { imports: [module], controllers: [Class] });
      open.push(served);
      for (const key of [fresh(), undefined]) {
        runs = 0;
        const answer = await poster(served.port)(key, { path: "/pay" });
        expect([answer.status, runs]).toEqual([500, expected]);
      }
    });

    test("an interceptor outside that gives up waits for the handler, and what it wrote is rolled back", async () => {
      const key = fresh();
      let goOn = () => {};
      const held = new Promise<void>((resolve) => {
        goOn = resolve;
      });
      let wrote: unknown;
      const GivesUp = intercepting((_, next) =>
        next.handle().pipe(
          timeout(20),
          catchError(() => {
            setImmediate(goOn);
            return throwError(() => new RequestTimeoutException());
          }),
        ),
      );
      const post = await selling(
        {
          slow: [
            async (transaction) => {
              await held;
              wrote = await shop.order(transaction, key).then(() => "within");
            },
          ],
        },
        { decorators: [TRANSACTIONAL, UseInterceptors(GivesUp)] },
      );
      const answer = await post(key, "slow");
      expect([answer.status, statusOf(answer), wrote]).toEqual([408, "released", "within"]);
      expect(await shop.committed(key)).toBe(0);
    });

    test("a handler that fails after an interceptor outside gave up is answered all the same", async () => {
      const key = fresh();
      let fail = (_error: Error) => {};
      const held = new Promise<never>((_, reject) => {
        fail = reject;
      });
      const GivesUp = intercepting((_, next) =>
        next.handle().pipe(
          timeout(20),
          catchError(() => {
            setImmediate(() => fail(new Error("too late")));
            return throwError(() => new RequestTimeoutException());
          }),
        ),
      );
      const post = await selling(
        { slow: [() => held] },
        { decorators: [TRANSACTIONAL, UseInterceptors(GivesUp)] },
      );
      const answer = await post(key, "slow");
      expect([answer.status, statusOf(answer)]).toEqual([500, "released"]);
      expect(await shop.committed(key)).toBe(0);
    });

    test("an interceptor outside that takes the first value ends the handler's Observable", async () => {
      const key = fresh();
      const First = intercepting((_, next) => next.handle().pipe(first()));
      const post = await selling(
        { pay: [() => interval(1).pipe(map(() => ({ paid: true })))] },
        { decorators: [TRANSACTIONAL, UseInterceptors(First)] },
      );
      expect(json(await post(key, "pay"))).toEqual({ paid: true });
      expect(statusOf(await post(key, "pay"))).toBe("replayed");
      expect(await shop.committed(key)).toBe(1);
    });

    test("as APP_INTERCEPTOR and marked, a route is in one transaction", async () => {
      const key = fresh();
      const provider = { provide: APP_INTERCEPTOR, useClass: IdempotentInterceptor };
      const post = await selling(
        { pay: [() => "paid"] },
        { defaults: { scope: "shared", transactional: true }, providers: [provider] },
      );
      expect(statusOf(await post(key, "pay"))).toBe("executed");
      expect(statusOf(await post(key, "pay"))).toBe("replayed");
      expect((await post(undefined, "pay", { "x-sku": key })).status).toBe(201);
      expect(await shop.committed(key)).toBe(2);
    });

    test("HTTP-15: the operation is that of the transaction, and found by the request", async () => {
      const key = fresh();
      const found: unknown[] = [];
      const post = await selling({
        pay: [
          (_transaction, request, _response, operation) => {
            found.push(operation, operationOf(request));
          },
        ],
      });
      await post(key, "pay");
      expect(found[0]).toMatchObject({ key, attempt: 1 });
      expect(found[1]).toBe(found[0]);
      await post(undefined, "pay", { "x-sku": key });
      expect(found.slice(2)).toEqual([undefined, undefined]);
    });

    test("a method can leave its controller's transaction, and has none to be given then", async () => {
      const key = fresh();
      const post = await selling({ pay: [() => "paid", Idempotent({ transactional: false })] });
      const answer = await post(key, "pay");
      expect(answer.status).toBe(500);
      expect(await shop.committed(key)).toBe(0);
    });

    test("options are checked as the application starts, and the route is named", async () => {
      const start = (decorators: MethodDecorator[], idempotency: Idempotency) => {
        const pay = { handler: () => of({}), decorators, parameters: [] };
        const Class = controller("Orders", [Controller()], { pay });
        const module = SemelModule.forRoot({ idempotency, defaults: { scope: "shared" } });
        return serveNest(platform, { imports: [module], controllers: [Class] });
      };
      const inMemory = new Idempotency({ store: memoryStore() });
      await expect(start([Post("pay"), TRANSACTIONAL], inMemory)).rejects.toThrow(
        /Orders\.pay: The memory store has no transactions/,
      );
      await expect(
        start([Get("pay"), Sse("pay"), TRANSACTIONAL], shop.idempotency),
      ).rejects.toThrow(/Orders\.pay: .*@Sse\(\)/);
      await expect(
        start([Post("pay"), Idempotent({ transactional: "yes" } as never)], shop.idempotency),
      ).rejects.toThrow(/Orders\.pay: `transactional` must be true or false/);
      expect(() => Idempotent({ transactionel: true } as never)).toThrow(
        /did you mean `transactional`/,
      );
    });

    test.skipIf(pgBackend.reason)(
      "EN-5: what the database holds against the commit is answered with 500, and leaves nothing",
      async () => {
        const seller = await openShop({}, pgBackend);
        const { table } = seller.stage.address;
        await seller.stage.admin(
          `ALTER TABLE ${table}_orders ADD CONSTRAINT ${table}_once UNIQUE (sku) DEFERRABLE INITIALLY DEFERRED`,
        );
        const post = await selling({ pay: [() => "paid"] }, { seller });
        const sku = fresh();
        expect((await post(undefined, "pay", { "x-sku": sku })).status).toBe(201);
        const again = await post(undefined, "pay", { "x-sku": sku });
        expect([again.status, json(again)]).toEqual([
          500,
          { statusCode: 500, message: "Internal server error" },
        ]);
        const keyed = await post(sku, "pay");
        expect([keyed.status, statusOf(keyed)]).toEqual([500, "released"]);
        expect(await seller.committed(sku)).toBe(1);
        for (const served of open.splice(0)) await served.close();
        await seller.close();
      },
    );
  });
}

/** Marks a method that answers by `@Res()` alone. */
const RAW: MethodDecorator = () => {};
