// Whose key it is (GW-2): a digest of the credential, the value of a header that something trusted
// sets, or everybody's. A caller that cannot be told from others is nobody, never everybody.

import { createHash } from "node:crypto";
import type { IncomingMessage } from "node:http";
import { InvalidArgumentError } from "commander";
import { ScopeMissing } from "semel";
import { fieldLines } from "./headers.ts";

export type Scope = { kind: "header"; name: string } | { kind: "authorization" | "shared" };

const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;

/** Reads `authorization`, `header:NAME` or `shared`. */
export function parseScope(written: string): Scope {
  if (written === "authorization" || written === "shared") return { kind: written };
  const name = written.startsWith("header:") ? written.slice("header:".length) : "";
  if (TOKEN.test(name)) return { kind: "header", name: name.toLowerCase() };
  throw new InvalidArgumentError("It is authorization, header:NAME or shared.");
}

/** The headers that decide whose key it is; nobody on the way may take them off. */
export function scopeHeaders(scope: Scope): string[] {
  if (scope.kind === "shared") return [];
  return [scope.kind === "header" ? scope.name : "authorization"];
}

/** The scope as the HTTP layer takes it. */
export function scopeOf(scope: Scope): "shared" | ((request: IncomingMessage) => string) {
  switch (scope.kind) {
    case "shared":
      return "shared";
    case "header":
      return (request) => `${scope.name}:${onlyLine(request, scope.name)}`;
    case "authorization":
      // A digest: credentials are not to be found in the store, nor in its backups.
      return (request) => `authorization:${sha256(onlyLine(request, "authorization"))}`;
  }
}

/** Several lines would name two callers, and the upstream might choose the other one. */
function onlyLine(request: IncomingMessage, name: string): string {
  const lines = fieldLines(request.rawHeaders, name);
  const value = lines[0]?.trim();
  if (lines.length === 1 && value) return value;
  const found = lines.length > 1 ? `${lines.length} lines of ${name}` : `no ${name} header`;
  throw new ScopeMissing(
    `This request has a key, but ${found}, so it is not known whose key it is; nothing ran. Whoever runs the gateway chooses what tells callers apart: \`--scope header:NAME\`, or \`--scope shared\` if all may see each other's answers`,
  );
}

function sha256(value: string): string {
  return createHash("sha256").update(value).digest("base64url");
}
