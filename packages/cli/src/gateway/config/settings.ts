// Puts together what a gateway is told: flags and variables of the environment come before the file, the
// file before the defaults; what a route says of itself comes before all of them.

import { Idempotency, isSemelError } from "semel";
import { HttpLayer } from "semel/http";
import { memoryStore } from "semel/memory";
import { EXIT, Failure } from "../../failure.ts";
import type { GatewayFlags } from "../../gateway.ts";
import type { GatewayOptions, JwtOptions, Route, RouteOptions } from "../options.ts";
import { RESULT_BYTES_MAX } from "../proxy.ts";
import { httpOptions } from "../routes.ts";
import { shownScope } from "../scope.ts";
import { Upstream } from "../upstream.ts";
import { named } from "./check.ts";
import type { ConfigDocument, ValuePath } from "./document.ts";
import { type ConfigFile, readConfig } from "./file.ts";

/** Flags as Commander has read them, and which of them somebody gave. */
export interface GivenFlags {
  values: GatewayFlags;
  isGiven(name: keyof GatewayFlags): boolean;
}

/** Flags, with what the file says in the place of what nobody gave. */
export interface Settings {
  flags: GatewayFlags;
  options: GatewayOptions;
  /** What may be as it is, but should be known. */
  warnings: string[];
}

/**
 * Reads the file, if there is one, and checks everything that can be checked without a store.
 *
 * @throws {Failure} and {InvalidOption}, which say what is wrong and where
 */
export function settingsOf({ values, isGiven }: GivenFlags): Settings {
  const file = values.config === undefined ? undefined : readConfig(values.config);
  const flags = { ...values };
  for (const [name, value] of Object.entries(file?.flags ?? {})) {
    if (!isGiven(name as keyof GatewayFlags)) Object.assign(flags, { [name]: value });
  }
  // The file's token is not to win over a flag that names a file with one.
  if (isGiven("adminTokenFile") && !isGiven("adminToken")) delete flags.adminToken;
  const defaults = { ...defaultsOf(flags), ...file?.defaults };
  const routes = (file?.routes ?? []).map(
    ({ options, ...route }): Route => ({ ...defaults, ...options, ...route }),
  );
  const options = optionsOf(flags, defaults, routes);
  assertNoLoop(options);
  assertRoutes(options, file);
  return { flags, options, warnings: warningsOf(options) };
}

/** A gateway in front of itself would answer its first request with all the sockets there are. */
export function assertNoLoop({ upstream, listen: { host, port } }: GatewayOptions): void {
  const named = upstream.hostname.replace(/^\[(.*)\]$/, "$1");
  const isEveryAddress = host === "0.0.0.0" || host === "::";
  const isOwnHost = host === named || (isEveryAddress && /^(?:localhost$|127\.|::1$)/.test(named));
  if (!isOwnHost || port !== Number(upstream.port || 80)) return;
  throw new Failure(
    `--upstream ${upstream.origin} is the gateway itself; give the service's address, or choose another one with --listen`,
    { exit: EXIT.usage },
  );
}

function optionsOf(flags: GatewayFlags, defaults: RouteOptions, routes: Route[]): GatewayOptions {
  const { upstream, listen, mode, trustForwarded, authPrincipal, authTimeout } = flags;
  // Not Commander's to demand: it would name this one where another one is misspelt.
  if (upstream === undefined) {
    const orFile = flags.config === undefined ? "" : `, or \`upstream\` in ${flags.config}`;
    throw new Failure(
      `--upstream is required${orFile}: the service behind, such as http://127.0.0.1:3000`,
      { exit: EXIT.usage },
    );
  }
  return {
    ...{ upstream, listen, mode, trustForwarded, defaults, routes, jwt: jwtOf(flags) },
    authRequest: { principalHeader: authPrincipal.toLowerCase(), timeoutMs: authTimeout },
  };
}

function defaultsOf(flags: GatewayFlags): RouteOptions {
  return {
    methods: flags.methods,
    scope: flags.scope,
    required: flags.required,
    retentionMs: flags.retention,
    leaseMs: flags.lease,
    waitMs: flags.wait,
    onCrash: flags.onCrash,
    onError: flags.onError,
    semantics: undefined,
    fingerprint: "bytes",
    storedHeaders: {},
    bodyBytesMax: flags.maxBody,
    resultBytesMax: flags.maxResult,
    upstreamTimeoutMs: flags.upstreamTimeout,
    probe: undefined,
  };
}

function jwtOf(flags: GatewayFlags): JwtOptions | undefined {
  const { jwks, jwtIssuer, jwtAudience, jwtClockTolerance } = flags;
  if (jwks === undefined) {
    if (jwtIssuer.length + jwtAudience.length === 0) return undefined;
    throw new Failure("--jwt-issuer and --jwt-audience have no use without --jwks", {
      exit: EXIT.usage,
    });
  }
  return { jwks, issuer: jwtIssuer, audience: jwtAudience, clockToleranceMs: jwtClockTolerance };
}

/** What of a route's options has another name in the library. */
const NAMES: Readonly<Record<string, string>> = {
  maxBodyBytes: "maxBody",
  maxResultBytes: "maxResult",
};

/** Bounds are the library's to check; what it has against them is told with its line. */
function assertRoutes({ defaults, routes, jwt }: GatewayOptions, file: ConfigFile | undefined) {
  const idempotency = new Idempotency({ store: memoryStore(), maxResultBytes: RESULT_BYTES_MAX });
  const upstream = new Upstream(new URL("http://127.0.0.1"));
  const all = [
    { path: ["defaults"], options: defaults },
    ...routes.map((options, at) => ({ path: ["routes", at], options })),
  ];
  for (const { path, options } of all) {
    if (options.scope.kind === "jwt" && jwt === undefined) {
      throw lacking(
        `${shownScope(options.scope)} takes \`jwt.jwks\` (--jwks): the address of the keys`,
        path[0] === "defaults" ? ["scope"] : [...path, "scope"],
        file,
      );
    }
    const { leaseMs, upstreamTimeoutMs, probe } = options;
    if (probe && leaseMs < 1.5 * upstreamTimeoutMs) {
      throw lacking(
        `\`lease\` (${leaseMs} ms) must be at least one and a half times \`upstreamTimeout\` (${upstreamTimeoutMs} ms), or the probe could ask while the service is still at work, and be told that nothing was applied`,
        [...path, "probe"],
        file,
      );
    }
    try {
      new HttpLayer(idempotency, { ...httpOptions(options, upstream), scope: "shared" });
    } catch (error) {
      throw located(error, path, file?.document);
    }
  }
}

function lacking(message: string, path: ValuePath, file: ConfigFile | undefined): Failure {
  const isInFile = file && (path[0] === "routes" || file.document.has(path));
  return isInFile
    ? file.document.failure([{ path, message: `${named(path)}: ${message}` }])
    : new Failure(message, { exit: EXIT.usage });
}

function located(error: unknown, path: ValuePath, document: ConfigDocument | undefined): unknown {
  if (!isSemelError(error) || document === undefined) return error;
  const option = /`(\w+)`/.exec(error.message)?.[1] ?? "";
  const where = [...path, NAMES[option] ?? option];
  // A flag's is told by the flag's name.
  if (path[0] === "defaults" && !document.has(where)) return error;
  const message = error.message.replace(`\`${option}\``, named(where));
  return document.failure([{ path: where, message }]);
}

function warningsOf({ jwt, defaults, routes }: GatewayOptions): string[] {
  const warnings: string[] = [];
  const usesTokens = [defaults, ...routes].some(({ scope }) => scope.kind === "jwt");
  if (usesTokens && jwt?.audience.length === 0) {
    warnings.push(
      "tokens are accepted whoever they are for: say in --jwt-audience, or `jwt.audience`, whom they must be for",
    );
  }
  for (const [at, route] of routes.entries()) {
    const earlier = routes.slice(0, at).findIndex((one) => covers(one, route));
    if (earlier < 0) continue;
    warnings.push(
      `${named(["routes", at])} is never reached: ${named(["routes", earlier])} is for all of its requests`,
    );
  }
  return warnings;
}

/** Whether every request of one route is another's already, as far as that shows in how they are written. */
function covers(earlier: Route, later: Route): boolean {
  return (
    later.methods.every((method) => earlier.methods.includes(method)) &&
    later.paths.every(({ written }) =>
      earlier.paths.some((path) => path.written === written || isPrefixOf(path.written, written)),
    )
  );
}

function isPrefixOf(earlier: string, later: string): boolean {
  return earlier.endsWith("*") && !earlier.includes(":") && later.startsWith(earlier.slice(0, -1));
}
