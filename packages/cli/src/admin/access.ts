// Who may use the admin listener. Whoever has the token, as a bearer or in exchange for a session's
// cookie; where there is no token, whoever can reach the loopback address by its name. Pages of other
// sites can do neither: they cannot name this address, cannot set our header, and are not sent our cookie.

import { createHash, createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import type { IncomingMessage } from "node:http";
import type { ListenAddress } from "../flags.ts";

export type Refusal = { status: 401 | 403 | 421; code: string; detail: string };

/** With the port: cookies know none, and another gateway on this host has another token. */
const COOKIE = "semel_session_";
const SESSION_MS = 12 * 3_600_000;
/** The header that a page of another site cannot set. */
const OWN_HEADER = "x-semel-request";

export class Access {
  readonly #token: string | undefined;
  readonly #host: string;
  readonly #now: () => number;

  /** @param now milliseconds since the Unix epoch, for tests */
  constructor(
    token: string | undefined,
    { host }: Pick<ListenAddress, "host">,
    now: () => number = Date.now,
  ) {
    this.#token = token;
    this.#host = host;
    this.#now = now;
  }

  get needsToken(): boolean {
    return this.#token !== undefined;
  }

  /** Why a request is not served at all, whoever sends it. */
  misdirected(request: IncomingMessage): Refusal | undefined {
    // With a token, a stranger's page that gets here by a name of its own has no cookie to be admitted by.
    if (this.needsToken || this.#isOwnName(request.headers.host)) return undefined;
    return {
      status: 421,
      code: "host-unknown",
      detail: "Without a token this listener answers to localhost and its own address only",
    };
  }

  isAdmitted(request: IncomingMessage): boolean {
    if (this.#token === undefined) return true;
    const { authorization } = request.headers;
    if (authorization !== undefined) return this.#isBearer(authorization);
    return this.#isSession(cookieOf(request));
  }

  /** Why a request that changes something is refused although its sender is admitted. */
  forged(request: IncomingMessage): Refusal | undefined {
    const { authorization, origin, host } = request.headers;
    // No page can make a browser send a token that it does not know.
    if (this.needsToken && authorization !== undefined) return undefined;
    const site = request.headers["sec-fetch-site"] ?? "same-origin";
    const isOwnSite = site === "same-origin" || site === "none";
    const isOwnOrigin = origin === undefined || hostOf(origin) === host;
    if (isOwnSite && isOwnOrigin && request.headers[OWN_HEADER] !== undefined) return undefined;
    return {
      status: 403,
      code: "origin-refused",
      detail: `Changes come from the dashboard itself, or carry the token as a bearer or the header ${OWN_HEADER}`,
    };
  }

  /** @returns a cookie for whoever gave the token; `undefined` when it was another one */
  logIn(token: string, request: IncomingMessage): string | undefined {
    if (this.#token === undefined || !isEqual(token, this.#token)) return undefined;
    const claims = `${this.#now() + SESSION_MS}.${randomBytes(16).toString("base64url")}`;
    return cookie(`${claims}.${this.#mac(claims)}`, SESSION_MS, request);
  }

  /** A cookie that takes the session's place. */
  logOut(request: IncomingMessage): string {
    return cookie("", 0, request);
  }

  #isBearer(authorization: string): boolean {
    const [, token] = /^Bearer +(\S+)$/i.exec(authorization) ?? [];
    return token !== undefined && isEqual(token, this.#token!);
  }

  /** Sessions are not kept: they say themselves how long they last, and who changes the token ends them. */
  #isSession(session: string | undefined): boolean {
    const [, claims, expires, mac] = /^((\d{1,16})\.[\w-]+)\.([\w-]+)$/.exec(session ?? "") ?? [];
    if (claims === undefined || !isEqual(mac!, this.#mac(claims))) return false;
    return Number(expires) > this.#now();
  }

  #mac(claims: string): string {
    return createHmac("sha256", `semel session ${this.#token}`).update(claims).digest("base64url");
  }

  #isOwnName(host: string | undefined): boolean {
    const named = hostOf(`http://${host}`)
      ?.replace(/:\d+$/, "")
      .replace(/^\[(.*)\]$/, "$1");
    return named !== undefined && (isLoopback(named) || named === this.#host.toLowerCase());
  }
}

/** An address, or the name, of this machine that no other machine can reach. */
export function isLoopback(host: string): boolean {
  return /^(?:localhost|127(?:\.\d{1,3}){3}|::1)$/i.test(host);
}

/** In a time that says nothing about how much of it is right, nor how long it is. */
function isEqual(given: string, wanted: string): boolean {
  const digest = (text: string) => createHash("sha256").update(text).digest();
  return timingSafeEqual(digest(given), digest(wanted));
}

function hostOf(origin: string): string | undefined {
  return URL.canParse(origin) ? new URL(origin).host : undefined;
}

function cookieOf(request: IncomingMessage): string | undefined {
  const start = `${cookieName(request)}=`;
  const pairs = request.headers.cookie?.split(/; */) ?? [];
  return pairs.find((pair) => pair.startsWith(start))?.slice(start.length);
}

function cookieName({ headers }: IncomingMessage): string {
  return COOKIE + (/:(\d+)$/.exec(headers.host ?? "")?.[1] ?? "");
}

function cookie(value: string, lifeMs: number, request: IncomingMessage): string {
  const isTls = request.headers["x-forwarded-proto"] === "https";
  const parts = [
    `${cookieName(request)}=${value}`,
    "Path=/",
    `Max-Age=${Math.floor(lifeMs / 1_000)}`,
    "HttpOnly",
    "SameSite=Strict",
    ...(isTls ? ["Secure"] : []),
  ];
  return parts.join("; ");
}
