// What a gateway is told, whatever the flags or files that it comes from.

import type { ListenAddress } from "../flags.ts";
import type { Scope } from "./scope.ts";

export interface GatewayOptions {
  /** Scheme, host and port of the service behind. */
  upstream: URL;
  listen: ListenAddress;
  /** `sqlite:PATH` or `memory:`. */
  store: string;
  scope: Scope;
  methods: string[];
  required: boolean;
  retentionMs: number;
  leaseMs: number;
  waitMs: number;
  onCrash: "hold" | "rerun";
  onError: "release" | "hold" | "store";
  bodyBytesMax: number;
  resultBytesMax: number;
  /** How long the upstream may be silent, in milliseconds. */
  upstreamTimeoutMs: number;
  /** Believes what the client says in `X-Forwarded-*` and `Forwarded`. */
  trustForwarded: boolean;
}
