// Callers that a service names (`auth-request:URL`): it gets each keyed request's head, and answers who
// that is, or that it is nobody.

import type { IncomingMessage, ServerResponse } from "node:http";
import { fieldLines, requestHeaders } from "../headers.ts";
import type { AuthRequestOptions } from "../options.ts";
import { relay } from "../relay.ts";
import { scopeHeaders } from "../scope.ts";
import type { Upstream, UpstreamCall } from "../upstream.ts";
import { type Caller, type FindCaller, UNVERIFIABLE } from "./caller.ts";

/** Longer ones are no names. */
const NAME_MAX = 512;

export function askedCaller(
  service: Upstream,
  url: URL,
  { principalHeader, timeoutMs }: AuthRequestOptions,
  trustForwarded: boolean,
): FindCaller {
  return async (request) => {
    const headers = requestHeaders(request, {
      host: url.host,
      clientHost: request.headers.host,
      trustForwarded,
      scopeHeaders: scopeHeaders({ kind: "auth-request", url }),
      attempt: undefined,
    });
    const told = [
      "X-Original-Method",
      request.method ?? "GET",
      "X-Original-URI",
      request.url ?? "/",
    ];
    const call = service.open(
      {
        method: "GET",
        path: `${url.pathname}${url.search}`,
        headers: [...withoutBody(headers), ...told],
      },
      { connection: "kept", silenceMs: timeoutMs },
    );
    const late = setTimeout(() => call.request.destroy(), timeoutMs);
    call.request.end();
    try {
      return await callerOf(call, principalHeader);
    } catch {
      return UNVERIFIABLE;
    } finally {
      clearTimeout(late);
    }
  };
}

/**
 * What describes a body that is not sent along, and what only the gateway says. Underscores too: servers
 * with CGI-like variables take them for dashes.
 */
function withoutBody(headers: readonly string[]): string[] {
  return headers.filter((_, at) => {
    const name = headers[at - (at % 2)]!.toLowerCase().replaceAll("_", "-");
    return !name.startsWith("content-") && !name.startsWith("x-original-");
  });
}

async function callerOf(call: UpstreamCall, principalHeader: string): Promise<Caller> {
  const answer = await call.answer;
  const status = answer.statusCode!;
  if (status === 401 || status === 403) {
    return { refuse: (response) => passOn(answer, response) };
  }
  answer.resume();
  const lines = fieldLines(answer.rawHeaders, principalHeader);
  const name = lines[0]?.trim() ?? "";
  const isNamed = lines.length === 1 && name !== "" && name.length <= NAME_MAX;
  // Somebody without a name cannot be told from others.
  if (status < 200 || status > 299 || !isNamed) return UNVERIFIABLE;
  return { scope: `auth-request/${name}` };
}

async function passOn(answer: IncomingMessage, response: ServerResponse): Promise<void> {
  await relay(answer, response, { holdsShort: false }).catch(() => response.destroy());
}
