// One configuration at work: which route a request belongs to, and what is done with it there. A reload
// puts another one in its place; what runs ends under the one that it began under.

import type { IncomingMessage, ServerResponse } from "node:http";
import type { Idempotency } from "semel";
import type { HttpOptions } from "semel/http";
import { idempotent, operationOf } from "semel/node";
import type { AccessLog } from "./access-log.ts";
import type { Audit } from "./audit.ts";
import { Callers, type KeySets } from "./callers/callers.ts";
import { forwardOperation, forwardPlain, type Passage } from "./forward.ts";
import { fieldLines } from "./headers.ts";
import type { GatewayOptions, Route, RouteOptions } from "./options.ts";
import { comparablePath, matchPath, type PathParts } from "./path.ts";
import { probeOf, withProbing } from "./probe.ts";
import { scopeHeaders } from "./scope.ts";
import { Upstream } from "./upstream.ts";

/** What stays the same when the configuration changes. */
export interface Surroundings {
  idempotency: Idempotency;
  log: AccessLog;
  audit: Audit;
  keySets: KeySets;
}

type Handler = (
  request: IncomingMessage,
  response: ServerResponse,
  parts: PathParts,
) => Promise<unknown>;

/** A route at work. */
interface ServedRoute {
  methods: ReadonlySet<string>;
  paths: Route["paths"];
  /** Keys mean nothing here. */
  ignoresKeys: boolean;
  required: boolean;
  bodyBytesMax: number;
  passage: Passage;
  operate: Handler;
}

export class Routes {
  readonly options: GatewayOptions;
  readonly upstream: Upstream;
  /** The longest silence of the upstream that a route allows. */
  readonly silenceMsMax: number;
  readonly #surroundings: Surroundings;
  readonly #callers: Callers;
  readonly #routes: readonly ServedRoute[];
  /** For what no other one is for. */
  readonly #last: ServedRoute;

  /** @throws {InvalidOption} when an option is out of bounds */
  constructor(options: GatewayOptions, surroundings: Surroundings) {
    this.options = options;
    this.#surroundings = surroundings;
    this.#callers = new Callers(options, surroundings.keySets);
    this.upstream = new Upstream(options.upstream);
    this.#routes = options.routes.map((route) => this.#served(route, route));
    this.#last = this.#served(options.defaults, { paths: [], ignoresKeys: false });
    const all = [...this.#routes, this.#last];
    this.silenceMsMax = Math.max(...all.map(({ passage }) => passage.silenceMs));
  }

  /** How requests pass that no route is for. */
  get passage(): Passage {
    return this.#last.passage;
  }

  /** Whether it is not known yet that the request will be refused for its body's length. */
  mayHaveBody(request: IncomingMessage, bytes: number): boolean {
    return !hasKey(request) || bytes <= this.#find(request).route.bodyBytesMax;
  }

  /** Serves a request; it never rejects. */
  async serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { route, parts } = this.#find(request);
    if (isOperation(request, route)) await route.operate(request, response, parts);
    else await forwardPlain(request, response, route.passage);
  }

  /** Lets go of what is idle; what runs goes on. */
  retire(): void {
    this.upstream.close();
    this.#callers.close();
  }

  #find(request: IncomingMessage): { route: ServedRoute; parts: PathParts } {
    if (this.#routes.length > 0) {
      const { method = "GET", url = "/" } = request;
      const path = comparablePath(url);
      for (const route of this.#routes) {
        if (!route.methods.has(method)) continue;
        for (const pattern of route.paths) {
          const parts = matchPath(pattern, path);
          if (parts) return { route, parts };
        }
      }
    }
    return { route: this.#last, parts: NO_PARTS };
  }

  #served(
    options: RouteOptions,
    { paths, ignoresKeys }: Pick<Route, "paths" | "ignoresKeys">,
  ): ServedRoute {
    const { methods, required, bodyBytesMax } = options;
    const passage: Passage = {
      upstream: this.upstream,
      trustForwarded: this.options.trustForwarded,
      scopeHeaders: scopeHeaders(options.scope),
      silenceMs: options.upstreamTimeoutMs,
      leaseMs: options.leaseMs,
      isProbed: options.onCrash === "probe",
    };
    const isAudit = this.options.mode === "audit";
    const operate = isAudit ? this.#auditing(options, passage) : this.#operating(options, passage);
    return {
      ...{ methods: new Set(methods), paths, ignoresKeys, required, bodyBytesMax },
      ...{ passage, operate },
    };
  }

  #operating(options: RouteOptions, passage: Passage): Handler {
    const { idempotency, log } = this.#surroundings;
    const { find, scope } = this.#callers.of(options.scope);
    const handle = idempotent(
      idempotency,
      {
        ...httpOptions(options, this.upstream),
        scope,
        reportError: (error) => log.note("error", `error: ${String(error)}`),
      },
      (request, response) => {
        const operation = operationOf(request);
        return operation
          ? forwardOperation(request, response, operation, passage)
          : forwardPlain(request, response, passage);
      },
    );
    const operate: Handler = passage.isProbed
      ? (request, response, parts) => withProbing(request, parts, () => handle(request, response))
      : handle;
    if (find === undefined) return operate;
    return async (request, response, parts) => {
      const refusal = await find(request);
      if (refusal) await refusal(response);
      else await operate(request, response, parts);
    };
  }

  #auditing(options: RouteOptions, passage: Passage): Handler {
    const { audit } = this.#surroundings;
    const { find, scope } = this.#callers.of(options.scope);
    const http = { ...httpOptions(options, this.upstream), scope, wait: 0 };
    return audit.watching(http, find, passage);
  }
}

const NO_PARTS: PathParts = {};

function isOperation(request: IncomingMessage, route: ServedRoute): boolean {
  if (route.ignoresKeys || !route.methods.has(request.method ?? "GET")) return false;
  return route.required || hasKey(request);
}

function hasKey({ rawHeaders }: IncomingMessage): boolean {
  return fieldLines(rawHeaders, "idempotency-key").length > 0;
}

/** A route's options as the library takes them. */
export function httpOptions(
  options: RouteOptions,
  upstream: Upstream,
): Omit<HttpOptions<IncomingMessage>, "scope"> {
  const { onCrash, probe, semantics, resultBytesMax } = options;
  return {
    methods: options.methods,
    required: options.required,
    retention: options.retentionMs,
    lease: options.leaseMs,
    wait: options.waitMs,
    onCrash: onCrash === "probe" ? probeOf(probe!, upstream, resultBytesMax) : onCrash,
    onError: options.onError,
    fingerprint: options.fingerprint,
    storedHeaders: options.storedHeaders,
    maxBodyBytes: options.bodyBytesMax,
    maxResultBytes: resultBytesMax,
    ...(semantics && { semantics }),
  };
}
