// NestJS 11 and 12, on Express and on Fastify. An interceptor decides, after the guards; what Nest,
// its filters and its platform then answer is captured where it is written, on `node:http`.

import type { IncomingMessage, ServerResponse } from "node:http";
import type { Readable } from "node:stream";
import {
  applyDecorators,
  type BeforeApplicationShutdown,
  type CallHandler,
  createParamDecorator,
  type DynamicModule,
  type ExecutionContext,
  type FactoryProvider,
  Inject,
  Injectable,
  Logger,
  Module,
  type ModuleMetadata,
  type NestInterceptor,
  type OnModuleInit,
  type Provider,
  SetMetadata,
  StreamableFile,
  type Type,
  UseInterceptors,
} from "@nestjs/common";
import { DiscoveryModule, DiscoveryService, MetadataScanner, Reflector } from "@nestjs/core";
import { Observable, of, type Subscriber, type Subscription, tap } from "rxjs";
import { systemClock } from "../clock.ts";
import { Idempotency, type IdempotencyOptions } from "../engine/idempotency.ts";
import { InvalidOption, StoreUnavailable } from "../errors.ts";
import { HttpLayer, type HttpOperation } from "../http/exchange.ts";
import { admitNodeRequest, type NodeRequest } from "../http/node-exchange.ts";
import { answerInTransaction } from "../http/node-transactional.ts";
import { operationOf, setOperation } from "../http/operation-of.ts";
import { HTTP_OPTIONS, type HttpOptions, laidOver } from "../http/options.ts";
import { transactionalLayer } from "../http/transactional.ts";
import { assertKnownOptions } from "../options.ts";
import { bounded } from "../retry.ts";

export type { HttpOperation } from "../http/exchange.ts";
export { operationOf } from "../http/operation-of.ts";
export type { HttpOptions } from "../http/options.ts";
export { httpResult } from "../http/response.ts";

/**
 * What is used of the request of Express or Fastify. Name your own type, as in
 * `@Idempotent<Request>(…)`, to have what guards add checked.
 */
export interface NestRequest {
  originalUrl: string;
  body?: unknown;
  rawBody?: unknown;
  // biome-ignore lint/suspicious/noExplicitAny: what guards add, such as `req.user`, is unknown here
  [property: string]: any;
}

/** Options of a route; what is not given comes from its controller, then from the module. */
export interface IdempotentOptions<Request extends NestRequest = NestRequest>
  extends Partial<HttpOptions<Request>> {
  /**
   * Makes the handler's writes and its response one database transaction (HTTP-16), which the handler
   * is given by {@link CurrentTransaction}: the response is stored in it, and leaves after the commit.
   * A handler that throws, whatever it throws, and a response that is not stored, roll it back.
   * `onCrash` has no meaning then. @default false
   */
  transactional?: boolean | undefined;
}

const IDEMPOTENT_OPTIONS = [...HTTP_OPTIONS, "transactional"] as const;

/** Options of {@link SemelModule}. */
export interface SemelModuleOptions<Request extends NestRequest = NestRequest> {
  /**
   * An engine, which stays yours to close; or the options of one, which the module makes, and closes
   * before the application shuts down. Your store's client stays yours in both cases.
   */
  idempotency: Idempotency | IdempotencyOptions;
  /** What every route starts from, such as `scope`. @default {} */
  defaults?: IdempotentOptions<Request> | undefined;
}

/** Makes the options of {@link SemelModule}, for `useClass` and `useExisting`. */
export interface SemelOptionsFactory {
  createSemelOptions(): SemelModuleOptions | Promise<SemelModuleOptions>;
}

/** How `forRootAsync()` gets its options. */
export type SemelModuleAsyncOptions = Pick<ModuleMetadata, "imports"> &
  (
    | Pick<FactoryProvider<SemelModuleOptions>, "useFactory" | "inject">
    | { useClass: Type<SemelOptionsFactory> }
    | { useExisting: Type<SemelOptionsFactory> }
  );

// biome-ignore lint/complexity/noBannedTypes: what Nest names a handler and a controller by
type Target = Function;

/** Under which `@Idempotent()` leaves its options, and the module its own. */
const OPTIONS = "semel:options";
const reflector = new Reflector();

/** Under which `@Sse()` leaves that it was there. */
const SSE = "__sse__";

/** What `@Idempotent()` makes of a route. */
interface IdempotentRoute {
  readonly layer: HttpLayer<NestRequest>;
  readonly isTransactional: boolean;
}

function assertEngine(idempotency: Partial<IdempotencyOptions> | undefined): void {
  if (idempotency instanceof Idempotency || idempotency?.store !== undefined) return;
  throw new InvalidOption(
    "`idempotency` of SemelModule must be an Idempotency, as `new Idempotency({ store })` makes it, or the options of one, such as `{ store }`",
  );
}

/** The routes of an application, each with its HTTP layer, checked when the application starts. */
class IdempotentRoutes implements OnModuleInit, BeforeApplicationShutdown {
  readonly idempotency: Idempotency;
  readonly #isOwn: boolean;
  readonly #defaults: IdempotentOptions;
  readonly #discovery: DiscoveryService;
  readonly #routes = new WeakMap<Target, WeakMap<Target, IdempotentRoute | "none">>();

  constructor(options: SemelModuleOptions, discovery: DiscoveryService) {
    assertKnownOptions(options, ["idempotency", "defaults"], "SemelModule");
    const { idempotency, defaults = {} } = options;
    assertKnownOptions(defaults, IDEMPOTENT_OPTIONS, "`defaults` of SemelModule");
    assertEngine(idempotency);
    this.#isOwn = !(idempotency instanceof Idempotency);
    this.idempotency =
      idempotency instanceof Idempotency ? idempotency : new Idempotency(idempotency);
    this.#defaults = defaults;
    this.#discovery = discovery;
  }

  /** @throws {InvalidOption} when the options of a route are wrong */
  onModuleInit(): void {
    const scanner = new MetadataScanner();
    for (const { metatype } of this.#discovery.getControllers()) {
      if (typeof metatype !== "function") continue;
      for (const name of scanner.getAllMethodNames(metatype.prototype)) {
        const handler = metatype.prototype[name];
        const targets = [handler, metatype as Type];
        if (reflector.getAllAndOverride(OPTIONS, targets) !== undefined) {
          this.routeOf(metatype, handler);
        }
      }
    }
  }

  /** Keys are refused from here on, what runs may end, and databases are still there. */
  async beforeApplicationShutdown(): Promise<void> {
    if (this.#isOwn) await this.idempotency.close();
  }

  routeOf(controller: Target, handler: Target): IdempotentRoute | "none" {
    let ofController = this.#routes.get(controller);
    if (ofController === undefined) {
      ofController = new WeakMap();
      this.#routes.set(controller, ofController);
    }
    let route = ofController.get(handler);
    if (route === undefined) {
      route = this.#createRoute(controller, handler);
      ofController.set(handler, route);
    }
    return route;
  }

  #createRoute(controller: Target, handler: Target): IdempotentRoute | "none" {
    const ofController = reflector.get<IdempotentOptions | false>(OPTIONS, controller);
    const ofHandler = reflector.get<IdempotentOptions | false>(OPTIONS, handler);
    if ((ofHandler ?? ofController) === false) return "none";
    const given = laidOver(laidOver(this.#defaults, ofController || {}), ofHandler || {});
    const { transactional = false, ...rest } = given;
    const options = rest as HttpOptions<NestRequest>;
    try {
      if (typeof transactional !== "boolean") {
        throw new InvalidOption("`transactional` must be true or false");
      }
      if (!transactional) {
        return { layer: new HttpLayer(this.idempotency, options), isTransactional: false };
      }
      if (reflector.get(SSE, handler)) {
        throw new InvalidOption(
          "`transactional` and @Sse() exclude each other: the response leaves after the commit",
        );
      }
      const layer = transactionalLayer(this.idempotency, options, handler);
      return { layer, isTransactional: true };
    } catch (error) {
      if (!(error instanceof InvalidOption)) throw error;
      throw new InvalidOption(`${controller.name}.${handler.name}: ${error.message}`);
    }
  }
}

/**
 * Makes the routes that it intercepts idempotent. `@Idempotent()` brings it; as `APP_INTERCEPTOR` it
 * does so for every route of the application.
 *
 * @example
 * providers: [{ provide: APP_INTERCEPTOR, useClass: IdempotentInterceptor }]
 */
export class IdempotentInterceptor implements NestInterceptor {
  readonly #routes: IdempotentRoutes;

  constructor(routes: IdempotentRoutes) {
    this.#routes = routes;
  }

  /** @throws {InvalidOption} when neither the route nor the module says what is asked for */
  async intercept(context: ExecutionContext, next: CallHandler): Promise<Observable<unknown>> {
    if (context.getType() !== "http") return next.handle();
    const route = this.#routes.routeOf(context.getClass(), context.getHandler());
    const request: NestRequest = context.switchToHttp().getRequest();
    // An interceptor outside may come here again, by retrying or by being this one.
    if (route === "none" || isWithin(request)) return next.handle();
    const response = context.switchToHttp().getResponse();
    const message: IncomingMessage = request["raw"] ?? request;
    const rawResponse: ServerResponse = response.raw ?? response;
    if (rawResponse !== response) carryOver(request, message, response, rawResponse);
    const exchange = { request, message, response, rawResponse };
    if (route.isTransactional) return inTransaction(route.layer, exchange, next);
    const admitted = await admitNodeRequest(route.layer, message, rawResponse, factsOf(request));
    if (admitted === "pass") return next.handle();
    if (admitted === "answered") {
      seal(response, rawResponse);
      return of(undefined);
    }
    setOperation(request, admitted);
    veilDeparture(message, rawResponse);
    const ended = () => {
      admitted.isHandling = false;
    };
    const failed = (error: unknown) => {
      ended();
      admitted.failed(error);
    };
    admitted.isHandling = true;
    const handled = admitted.calling(() => next.handle());
    return handled.pipe(tap({ next: ended, complete: ended, error: failed }));
  }
}

Injectable()(IdempotentInterceptor);
Inject(IdempotentRoutes)(IdempotentInterceptor, undefined, 0);

/**
 * Makes a route, or every route of a controller, idempotent. Guards run before it.
 *
 * @param options what differs from the controller's and the module's; `false` leaves a route alone
 * @throws {InvalidOption} when an option is unknown; the application refuses to start with others
 * that are out of bounds
 * @example
 * @Post() @Idempotent({ required: true }) create(@Body() order: Order) { … }
 */
export function Idempotent<Request extends NestRequest>(
  options: IdempotentOptions<Request> | false = {},
): ClassDecorator & MethodDecorator {
  if (options !== false) assertKnownOptions(options, IDEMPOTENT_OPTIONS, "@Idempotent()");
  return applyDecorators(SetMetadata(OPTIONS, options), UseInterceptors(IdempotentInterceptor));
}

/**
 * Parameter decorator: the operation that the request is, or undefined when it carries no key.
 *
 * @example
 * create(@CurrentOperation() operation: HttpOperation | undefined) { … }
 */
export const CurrentOperation: () => ParameterDecorator = createParamDecorator(
  (_, context: ExecutionContext): HttpOperation | undefined =>
    operationOf(context.switchToHttp().getRequest()),
);

/**
 * Parameter decorator: the store's own transaction (a `pg` client, a `mysql2` connection, …), which is
 * open until the response is whole. Leave `COMMIT` and `ROLLBACK` to Semel.
 *
 * @throws {InvalidOption} when the request arrives, for a route without `transactional: true`
 * @example
 * @Post() @Idempotent({ transactional: true })
 * create(@Body() order: Order, @CurrentTransaction() client: PoolClient) { … }
 */
export const CurrentTransaction: () => ParameterDecorator = createParamDecorator(
  (_, context: ExecutionContext): unknown => {
    const current = transactions.get(context.switchToHttp().getRequest());
    if (current?.isOpen) return current.transaction;
    throw new InvalidOption(
      "@CurrentTransaction() has nothing to give: put @Idempotent({ transactional: true }) on its route",
    );
  },
);

/**
 * Gives an application its engine, which can be injected as `Idempotency`. Global: import it once.
 *
 * @throws {InvalidOption} when an option is unknown or out of bounds, as the application starts
 * @example
 * SemelModule.forRoot({ idempotency: { store }, defaults: { scope: (req) => req.user?.id } })
 */
// biome-ignore lint/complexity/noStaticOnlyClass: a module of Nest is a class
export class SemelModule {
  static forRoot<Request extends NestRequest>(options: SemelModuleOptions<Request>): DynamicModule {
    return dynamicModule([{ provide: OPTIONS, useValue: options }]);
  }

  /** As `forRoot()`, with options that depend on other providers. */
  static forRootAsync(options: SemelModuleAsyncOptions): DynamicModule {
    const { imports = [] } = options;
    if ("useFactory" in options) {
      const { useFactory, inject = [] } = options;
      return dynamicModule([{ provide: OPTIONS, useFactory, inject }], imports);
    }
    const factory = "useClass" in options ? options.useClass : options.useExisting;
    const provider = {
      provide: OPTIONS,
      useFactory: (made: SemelOptionsFactory) => made.createSemelOptions(),
      inject: [factory],
    };
    return dynamicModule("useClass" in options ? [factory, provider] : [provider], imports);
  }
}

Module({})(SemelModule);

function dynamicModule(
  options: Provider[],
  imports: NonNullable<ModuleMetadata["imports"]> = [],
): DynamicModule {
  const routes: FactoryProvider<IdempotentRoutes> = {
    provide: IdempotentRoutes,
    useFactory: (given, discovery) => new IdempotentRoutes(given, discovery),
    inject: [OPTIONS, DiscoveryService],
  };
  const engine: FactoryProvider<Idempotency> = {
    provide: Idempotency,
    useFactory: (made: IdempotentRoutes) => made.idempotency,
    inject: [IdempotentRoutes],
  };
  return {
    module: SemelModule,
    global: true,
    imports: [...imports, DiscoveryModule],
    providers: [...options, routes, engine],
    exports: [IdempotentRoutes, Idempotency],
  };
}

/** A request and its response, of the framework and below it. */
interface NestExchange {
  readonly request: NestRequest;
  readonly message: IncomingMessage;
  readonly response: object;
  readonly rawResponse: ServerResponse;
}

function factsOf(request: NestRequest): NodeRequest<NestRequest> {
  return { request, target: request.originalUrl, parsedBody: () => request.body };
}

/** The transaction that the handler of a request is in, or was. */
const transactions = new WeakMap<object, { transaction: unknown; isOpen: boolean }>();

/**
 * Whether a request is an operation already.
 *
 * @throws {InvalidOption} when its transaction is over
 */
function isWithin(request: NestRequest): boolean {
  const current = transactions.get(request);
  if (current === undefined) return operationOf(request) !== undefined;
  if (current.isOpen) return true;
  throw new InvalidOption(
    "An interceptor outside of the transaction calls the handler again, when it is over; apply it inside of @Idempotent()",
  );
}

/**
 * Runs a handler in a transaction, which stays open while Nest writes the response. Nest hears of
 * errors after the rollback, so that its filters' answer is none of the transaction's.
 */
function inTransaction(
  layer: HttpLayer<NestRequest>,
  exchange: NestExchange,
  next: CallHandler,
): Observable<unknown> {
  const { request, message, response, rawResponse } = exchange;
  return new Observable((nest) => {
    const current = { transaction: undefined as unknown, isOpen: true };
    const run = new HandlerRun(layer.policy.operation.leaseMs);
    const handle = (transaction: unknown) => {
      current.transaction = transaction;
      transactions.set(request, current);
      const operation = operationOf(message);
      if (operation) setOperation(request, operation);
      veilDeparture(message, rawResponse);
      return run.start(next.handle(), nest);
    };
    answerInTransaction(layer, message, rawResponse, factsOf(request), handle, {
      assertRepeatable,
    })
      .finally(() => {
        current.isOpen = false;
      })
      .then(
        () => {
          // Nest has written nothing, and shall write nothing.
          if (nest.closed) return;
          seal(response, rawResponse);
          nest.next(undefined);
          nest.complete();
        },
        (error) => {
          if (nest.closed) answerFailure(rawResponse, error);
          else nest.error(error);
        },
      );
    return () => run.leave();
  });
}

function assertRepeatable(): never {
  throw new StoreUnavailable(
    "The database asked for the transaction to be repeated, and Nest calls a handler once. Nothing was committed: try again",
  );
}

/** A handler's Observable, whose end is heard also when nobody outside listens any more. */
class HandlerRun {
  readonly #leaseMs: number;
  readonly #files: Promise<void>[] = [];
  #hasValue = false;
  #subscription: Subscription | undefined;
  #end: (() => void) | undefined;

  constructor(leaseMs: number) {
    this.#leaseMs = leaseMs;
  }

  /** @returns when the handler and the files that it returned have ended */
  async start(values: Observable<unknown>, nest: Subscriber<unknown>): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#end = resolve;
      this.#subscription = values.subscribe({
        next: (value) => {
          this.#hasValue = true;
          if (value instanceof StreamableFile) this.#watch(value.getStream());
          nest.next(value);
        },
        error: reject,
        complete: () => {
          resolve();
          nest.complete();
        },
      });
    });
    await Promise.all(this.#files);
  }

  /**
   * Nobody outside listens any more. What has a value has what was wanted; what has none, such as a
   * promise that took too long for an interceptor outside, goes on writing in the transaction.
   */
  leave(): void {
    if (!this.#hasValue) return;
    this.#subscription?.unsubscribe();
    this.#end?.();
  }

  /** Nest answers for a file that fails, and its answer would be taken for a verdict. */
  #watch(stream: Readable): void {
    const read = new Promise<void>((resolve, reject) => {
      if (stream.errored) reject(stream.errored);
      else if (stream.readableEnded || stream.destroyed) resolve();
      else stream.once("error", reject).once("end", resolve).once("close", resolve);
    });
    const unread = () => new Error("A StreamableFile did not end: nothing was committed");
    const file = bounded(systemClock, read, this.#leaseMs, unread);
    file.catch(() => {});
    this.#files.push(file);
  }
}

/** Answers what failed after Nest had written its response, as Nest answers what it does not know. */
function answerFailure(response: ServerResponse, error: unknown): void {
  new Logger("Idempotent").error(error);
  if (response.headersSent || response.destroyed) return;
  response.statusCode = 500;
  response.setHeader("content-type", "application/json; charset=utf-8");
  response.end(JSON.stringify({ statusCode: 500, message: "Internal server error" }));
}

/** What the core looks for on `node:http`, and Fastify keeps on its own request and reply. */
function carryOver(
  request: NestRequest,
  message: IncomingMessage,
  reply: { getHeaders(): Record<string, number | string | string[] | undefined> },
  response: ServerResponse,
): void {
  if (request.rawBody !== undefined) Object.assign(message, { rawBody: request.rawBody });
  for (const [name, value] of Object.entries(reply.getHeaders())) {
    // Such as CORS headers. What describes a body belongs to the handler's alone.
    if (value === undefined || name.startsWith("content-") || response.hasHeader(name)) continue;
    response.setHeader(name, value);
  }
}

/**
 * Nest answers after its interceptors, whatever they did. Where the answer has left already, nothing
 * comes of that, and everything outside sees a request that ends as others do.
 */
function seal(response: object, rawResponse: ServerResponse): void {
  const { statusCode } = rawResponse;
  Object.assign(rawResponse, SEALED);
  Object.defineProperty(rawResponse, "statusCode", { get: () => statusCode, set() {} });
  // Fastify would warn of a second answer.
  if (response !== rawResponse) Object.assign(response, { send: () => response });
}

function ignored<Self>(this: Self): Self {
  return this;
}

const SEALED = {
  setHeader: ignored,
  setHeaders: ignored,
  appendHeader: ignored,
  removeHeader: ignored,
  writeHead: ignored,
  flushHeaders: ignored,
  write: () => true,
  end: ignored,
};

/**
 * Nest watches the request's socket, to tear down handlers and streams when the client leaves; but
 * the record listens still (SM-23). Towards Nest, the connection closes when the response does.
 */
function veilDeparture(message: IncomingMessage, response: ServerResponse): void {
  const { socket } = message;
  const veiled = new Proxy(socket, {
    get(_, name) {
      if (name === "destroyed") return response.destroyed;
      const value = Reflect.get(socket, name);
      if (typeof value !== "function") return value;
      return (...given: unknown[]) => {
        const target = given[0] === "close" && LISTENING.has(name) ? response : socket;
        return Reflect.apply(Reflect.get(target, name), target, given);
      };
    },
    set: (_, name, value) => Reflect.set(socket, name, value),
  });
  Object.defineProperty(message, "socket", { value: veiled });
}

/** How one hears of an event, or no longer. */
const LISTENING: ReadonlySet<PropertyKey> = new Set([
  "on",
  "once",
  "off",
  "addListener",
  "removeListener",
  "prependListener",
  "prependOnceListener",
]);
