// Refuses requests that two parsers could read in two ways, so that nothing is smuggled past the
// gateway. Node's parser refuses most; what it lets through is refused here (GW-3).

import type { IncomingMessage } from "node:http";
import { fieldLines } from "./headers.ts";
import type { Problem } from "./problem.ts";

/** Why a request is refused before anything else is asked of it, if it is. */
export function ambiguityOf(request: IncomingMessage): Problem | undefined {
  const { httpVersion, rawHeaders } = request;
  if (httpVersion !== "1.1" && httpVersion !== "1.0") {
    return refused(505, "Speak HTTP/1.1");
  }
  const encodings = fieldLines(rawHeaders, "transfer-encoding");
  const lengths = fieldLines(rawHeaders, "content-length");
  if (encodings.length > 0) {
    if (lengths.length > 0) return refused(400, "Content-Length beside Transfer-Encoding");
    if (httpVersion === "1.0") return refused(400, "Transfer-Encoding in HTTP/1.0");
    if (encodings.length > 1 || encodings[0]!.trim().toLowerCase() !== "chunked") {
      return refused(501, "The only Transfer-Encoding taken is chunked");
    }
  }
  if (lengths.length > 1 || (lengths.length === 1 && !/^\d+$/.test(lengths[0]!.trim()))) {
    return refused(400, "Content-Length must be one number");
  }
  const hosts = fieldLines(rawHeaders, "host").length;
  if (hosts > 1 || (hosts === 0 && httpVersion === "1.1")) {
    return refused(400, "There must be one Host");
  }
  return undefined;
}

function refused(status: number, detail: string): Problem {
  return { status, code: "request-ambiguous", detail };
}

/** Whether all of a body has come; that it was all of it, Node's parser says a little later. */
export function isWhole(request: IncomingMessage): boolean {
  if (request.complete) return true;
  const { rawHeaders, readableLength } = request;
  if (fieldLines(rawHeaders, "transfer-encoding").length > 0) return false;
  const [length = "0"] = fieldLines(rawHeaders, "content-length");
  return readableLength === Number(length);
}

/** What a request is for. */
export interface Target {
  /** Path and query; `*` for the server as a whole. */
  path: string;
  /** The host asked for. */
  host: string | undefined;
}

/**
 * The target, in whichever form it came. Of the absolute form, host and port replace `Host`
 * (RFC 9112 §3.2.2).
 */
export function targetOf(request: IncomingMessage): Target | undefined {
  const { url = "", method } = request;
  const [host] = fieldLines(request.rawHeaders, "host");
  if (url.includes("#")) return undefined;
  if (url.startsWith("/")) return { path: url, host };
  if (url === "*") return method === "OPTIONS" ? { path: url, host } : undefined;
  const absolute = /^https?:\/\/([^/?]+)(.*)$/i.exec(url);
  if (!absolute || absolute[1]!.includes("@")) return undefined;
  const rest = absolute[2]!;
  // Not through `URL`, which would rewrite the path.
  return { path: rest.startsWith("/") ? rest : `/${rest}`, host: absolute[1] };
}
