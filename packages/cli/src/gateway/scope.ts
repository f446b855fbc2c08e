// Whose key it is (GW-2), where a look at the request tells: a digest of the credential, the value of a
// header that something trusted sets, or everybody's. A caller that cannot be told from others is
// nobody, never everybody.

import { createHash } from "node:crypto";
import type { IncomingMessage } from "node:http";
import { InvalidArgumentError } from "commander";
import { ScopeMissing } from "semel";
import { assertNoPassword } from "../flags.ts";
import { fieldLines } from "./headers.ts";

/** What tells callers apart. */
export type Scope =
  | { kind: "authorization" }
  | { kind: "shared" }
  | { kind: "header"; name: string }
  /** A claim of a token that is verified. */
  | { kind: "jwt"; claim: string }
  /** What a service says that is asked about each request. */
  | { kind: "auth-request"; url: URL };

/** RFC 9110 §5.6.3; not `trim()`, which takes more than HTTP calls whitespace. */
const OUTER_WHITESPACE = /^[ \t]+|[ \t]+$/g;
const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;

const FORMS = "authorization, header:NAME, jwt:CLAIM, auth-request:URL or shared";

/** Reads one of the forms of a scope. */
export function parseScope(written: string): Scope {
  if (written === "authorization" || written === "shared") return { kind: written };
  const colon = written.indexOf(":");
  const [kind, rest] = [written.slice(0, colon), written.slice(colon + 1)];
  if (kind === "header" && TOKEN.test(rest)) return { kind, name: rest.toLowerCase() };
  if (kind === "jwt" && CLAIM.test(rest)) return { kind, claim: rest };
  if (kind === "auth-request") return { kind, url: serviceUrl(rest) };
  assertNoPassword(written, "the scope");
  throw new InvalidArgumentError(`It is ${FORMS}.`);
}

/** Any name that JSON may have, but nothing that only looks like one. */
const CLAIM = /^[\x21-\x7e]{1,200}$/;

/** The address of a service that answers about callers. */
export function serviceUrl(written: string): URL {
  assertNoPassword(written, "the service's address");
  const url = URL.canParse(written) ? new URL(written) : undefined;
  if (url && /^https?:$/.test(url.protocol) && !url.hash) return url;
  throw new InvalidArgumentError(
    "Write a whole address such as https://auth.example/check, without a fragment.",
  );
}

/** As it is written. */
export function shownScope(scope: Scope): string {
  switch (scope.kind) {
    case "header":
      return `header:${scope.name}`;
    case "jwt":
      return `jwt:${scope.claim}`;
    case "auth-request":
      return `auth-request:${scope.url.origin}${scope.url.pathname}`;
    default:
      return scope.kind;
  }
}

/** The headers that decide whose key it is; nobody on the way may take them off. */
export function scopeHeaders(scope: Scope): string[] {
  switch (scope.kind) {
    case "shared":
      return [];
    case "header":
      return [scope.name];
    case "auth-request":
      return ["authorization", "cookie"];
    default:
      return ["authorization"];
  }
}

/** The caller that a request names by itself. */
export type NamedScope = Extract<Scope, { kind: "authorization" } | { kind: "header" }>;

/** @throws {ScopeMissing} when it names nobody, or two */
export function namedCaller(scope: NamedScope, request: IncomingMessage): string {
  if (scope.kind === "header") return `${scope.name}:${onlyLine(request, scope.name)}`;
  // A digest: credentials are not to be found in the store, nor in its backups.
  return `authorization:${sha256(onlyLine(request, "authorization"))}`;
}

/** Several lines would name two callers, and the upstream might choose the other one. */
function onlyLine(request: IncomingMessage, name: string): string {
  const lines = fieldLines(request.rawHeaders, name);
  const value = lines[0]?.replace(OUTER_WHITESPACE, "");
  if (lines.length === 1 && value) return value;
  const found = lines.length > 1 ? `${lines.length} lines of ${name}` : `no ${name} header`;
  throw new ScopeMissing(
    `This request has a key, but ${found}, so it is not known whose key it is; nothing ran. Whoever runs the gateway chooses what tells callers apart: \`--scope header:NAME\`, or \`--scope shared\` if all may see each other's answers`,
  );
}

function sha256(value: string): string {
  return createHash("sha256").update(value).digest("base64url");
}
