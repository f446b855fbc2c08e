// Callers that a signed token names (`jwt:CLAIM`): only after it was verified, and by a claim of it.

import { createHash } from "node:crypto";
import type { IncomingMessage } from "node:http";
import { errors, type JWTPayload, type JWTVerifyOptions, jwtVerify } from "jose";
import { fieldLines } from "../headers.ts";
import type { JwtOptions } from "../options.ts";
import { type Caller, type FindCaller, refusedBy, UNVERIFIABLE } from "./caller.ts";
import { type KeySet, KeysUnavailable } from "./key-set.ts";

/** RFC 6750 §2.1. */
const BEARER = /^[ \t]*Bearer +([\w\-.~+/]+=*)[ \t]*$/i;
/** Longer values are kept as digests: a scope is bounded. */
const SHOWN_MAX = 256;

/** The same for a token that is missing, malformed, wrong, expired or for somebody else. */
const REFUSED = refusedBy({
  status: 401,
  code: "scope-missing",
  detail: "It is not known whose key this is: it takes a valid bearer token. Nothing ran",
  retry: "never",
  headers: { "WWW-Authenticate": "Bearer" },
});

export function tokenCaller(claim: string, options: JwtOptions, keys: KeySet): FindCaller {
  const { issuer, audience, clockToleranceMs } = options;
  const expected: JWTVerifyOptions = {
    clockTolerance: clockToleranceMs / 1_000,
    ...(issuer.length > 0 && { issuer: [...issuer] }),
    ...(audience.length > 0 && { audience: [...audience] }),
  };
  return async (request) => {
    const token = tokenOf(request);
    if (token === undefined) return REFUSED;
    try {
      return callerOf(await verified(token, keys, expected), claim);
    } catch (error) {
      return error instanceof KeysUnavailable ? UNVERIFIABLE : REFUSED;
    }
  };
}

/** Several lines would name two callers, and the upstream might choose the other one. */
function tokenOf({ rawHeaders }: IncomingMessage): string | undefined {
  const lines = fieldLines(rawHeaders, "authorization");
  return lines.length === 1 ? BEARER.exec(lines[0]!)?.[1] : undefined;
}

async function verified(
  token: string,
  keys: KeySet,
  expected: JWTVerifyOptions,
): Promise<JWTPayload> {
  try {
    return (await jwtVerify(token, keys.find, expected)).payload;
  } catch (error) {
    // It does not say which key, and several would do.
    if (!(error instanceof errors.JWKSMultipleMatchingKeys)) throw error;
    for await (const key of error) {
      const found = await jwtVerify(token, key, expected).catch((failure: unknown) => {
        if (failure instanceof errors.JWSSignatureVerificationFailed) return undefined;
        throw failure;
      });
      if (found) return found.payload;
    }
    throw error;
  }
}

/** Two issuers may each have an `alice`. */
function callerOf(payload: JWTPayload, claim: string): Caller {
  const value = Object.hasOwn(payload, claim) ? payload[claim] : undefined;
  const isNamed = (typeof value === "string" && value !== "") || Number.isSafeInteger(value);
  if (!isNamed) return REFUSED;
  const name = String(value);
  const isShown = name.length <= SHOWN_MAX && name.isWellFormed() && !name.includes("\0");
  const issuer = typeof payload.iss === "string" ? `@${encodeURIComponent(payload.iss)}` : "";
  const who = isShown ? `:${name}` : `#${createHash("sha256").update(name).digest("base64url")}`;
  return { scope: `jwt/${encodeURIComponent(claim)}${issuer}${who}` };
}
