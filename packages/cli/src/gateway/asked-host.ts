// The host that a client asks for. Where a service tells tenants apart by it, one host's answer is none of
// another's: it counts as part of what a request is, as the service hears of it.

import type { IncomingMessage } from "node:http";
import { isIP } from "node:net";
import { fieldLines } from "./headers.ts";

/** Where a request keeps the host that its client asked for, which its line may say instead of `Host`. */
const CLIENT_HOST = Symbol("semel.client-host");

export type HostedRequest = IncomingMessage & {
  [CLIENT_HOST]?: string | undefined;
  /** What the HTTP layer takes for the target. */
  originalUrl?: string;
};

export function setClientHost(request: HostedRequest, host: string | undefined): void {
  request[CLIENT_HOST] = host;
}

export function clientHostOf(request: HostedRequest): string | undefined {
  return request[CLIENT_HOST];
}

/** The host that the service is told of, as `X-Forwarded-Host`. */
export function askedHost(request: HostedRequest, trustForwarded: boolean): string | undefined {
  const told = trustForwarded ? fieldLines(request.rawHeaders, "x-forwarded-host") : [];
  return told.length > 0 ? told.join(", ") : clientHostOf(request);
}

/** Has the host count as part of the target, by which an operation is told from another one. */
export function countHost(request: HostedRequest, trustForwarded: boolean): void {
  const { url = "/" } = request;
  const name = nameIn(askedHost(request, trustForwarded) ?? "");
  request.originalUrl = name === "" ? url : `http://${name}${url}`;
}

/** An address is a machine's, not a tenant's, and a retry may reach another one; so is a port. */
function nameIn(host: string): string {
  const name = host.toLowerCase().replace(/:\d*$/, "").replace(/\.$/, "");
  return name === "localhost" || name.startsWith("[") || isIP(name) !== 0 ? "" : name;
}
