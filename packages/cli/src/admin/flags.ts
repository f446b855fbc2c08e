// The flags of the admin listener: where it listens, and the token that it asks for.

import { readFileSync } from "node:fs";
import { Option } from "commander";
import { EXIT, Failure } from "../failure.ts";
import { type ListenAddress, listenAddress } from "../flags.ts";
import { isLoopback } from "./access.ts";

export interface TokenFlags {
  adminToken?: string;
  adminTokenFile?: string;
}

const TOKEN_LENGTH_MIN = 16;

export function adminFlag(): Option {
  return new Option(
    "--admin <host:port>",
    "where to listen for the dashboard, metrics and health (default: nowhere)",
  ).argParser(listenAddress);
}

export function tokenFlags(): Option[] {
  return [
    new Option(
      "--admin-token <token>",
      "what the dashboard asks for; needed unless it listens on loopback",
    ),
    new Option("--admin-token-file <path>", "the same, from a file").conflicts("adminToken"),
  ];
}

/** @throws {Failure} when there is none where one is needed, or it is too easy to guess */
export function tokenOf(flags: TokenFlags, { host }: ListenAddress): string | undefined {
  const token = flags.adminToken ?? fileContent(flags.adminTokenFile);
  if (token !== undefined) return usableToken(token);
  if (isLoopback(host)) return undefined;
  throw wrong(
    `--admin ${host}: others than this machine can reach it, so it needs a token: SEMEL_ADMIN_TOKEN, --admin-token-file, or \`admin.token\` in --config; \`openssl rand -base64 32\` makes one`,
  );
}

/** @throws {Failure} when it is too easy to guess */
export function usableToken(token: string): string {
  if (token.length >= TOKEN_LENGTH_MIN && /^[\x21-\x7e]+$/.test(token)) return token;
  throw wrong(
    `the admin token must be at least ${TOKEN_LENGTH_MIN} printable ASCII characters without spaces; \`openssl rand -base64 32\` makes one`,
  );
}

function fileContent(path: string | undefined): string | undefined {
  if (path === undefined) return undefined;
  try {
    return readFileSync(path, "utf8").trim();
  } catch (cause) {
    throw wrong(`--admin-token-file ${path} cannot be read: ${(cause as Error).message}`);
  }
}

function wrong(message: string): Failure {
  return new Failure(message, { exit: EXIT.usage });
}
