// What a gateway is told, whatever the flags or files that it comes from.

import type { HttpOptions, StoredHeaders } from "semel/http";
import type { ListenAddress } from "../flags.ts";
import type { PathPattern } from "./path.ts";
import type { ProbeOptions } from "./probe.ts";
import type { Scope } from "./scope.ts";

export interface GatewayOptions {
  /** Scheme, host and port of the service behind. */
  upstream: URL;
  listen: ListenAddress;
  /** `audit` stops nothing, and tells what `enforce` would have stopped (GW-6). */
  mode: "enforce" | "audit";
  /** Believes what the client says in `X-Forwarded-*` and `Forwarded`. */
  trustForwarded: boolean;
  jwt: JwtOptions | undefined;
  authRequest: AuthRequestOptions;
  /** For requests that no route is for. */
  defaults: RouteOptions;
  /** The first whose path and method fit is a request's. */
  routes: readonly Route[];
}

/** How keys count on one route. */
export interface RouteOptions {
  methods: readonly string[];
  scope: Scope;
  required: boolean;
  retentionMs: number;
  leaseMs: number;
  waitMs: number;
  onCrash: "hold" | "rerun" | "probe";
  onError: "release" | "hold" | "store";
  semantics: "stripe" | undefined;
  fingerprint: NonNullable<HttpOptions<never>["fingerprint"]>;
  storedHeaders: StoredHeaders;
  bodyBytesMax: number;
  resultBytesMax: number;
  /** How long the upstream may be silent, in milliseconds. */
  upstreamTimeoutMs: number;
  /** How `onCrash: "probe"` asks the upstream. */
  probe: ProbeOptions | undefined;
}

export interface Route extends RouteOptions {
  paths: readonly PathPattern[];
  /** Keys mean nothing here: every request of these methods passes. */
  ignoresKeys: boolean;
}

/** How tokens are verified. */
export interface JwtOptions {
  /** The address of the key set. */
  jwks: URL;
  issuer: readonly string[];
  audience: readonly string[];
  clockToleranceMs: number;
}

/** How a service is asked who a caller is. */
export interface AuthRequestOptions {
  /** The header of its answer that names the caller, in lower case. */
  principalHeader: string;
  timeoutMs: number;
}
