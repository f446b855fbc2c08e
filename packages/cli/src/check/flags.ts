// Reads the values of the flags of `semel check`.

import { InvalidArgumentError } from "commander";
import { EXIT, Failure } from "../failure.ts";
import type { HeaderLine } from "./exchange.ts";

const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
/** Safe methods have no effects to count, and CONNECT has no resource. */
const NOT_OPERATIONS = new Set(["GET", "HEAD", "OPTIONS", "TRACE", "CONNECT"]);
/** Made by the checker for each case. */
const FRAMING = new Set(["host", "connection", "content-length", "transfer-encoding", "expect"]);

export function httpUrl(written: string): URL {
  const url = URL.canParse(written) ? new URL(written) : undefined;
  if (!url || !/^https?:$/.test(url.protocol)) {
    throw new InvalidArgumentError(
      "Write an address with its scheme, such as http://127.0.0.1:3000/charges.",
    );
  }
  if (url.username || url.password) {
    throw usage("the address holds a password; give credentials with -H 'Authorization: …'");
  }
  url.hash = "";
  return url;
}

export function unsafeMethod(written: string): string {
  const method = written.toUpperCase();
  if (TOKEN.test(method) && !NOT_OPERATIONS.has(method)) return method;
  throw new InvalidArgumentError("Write a method that has an effect, such as POST or PATCH.");
}

export function headerName(written: string): string {
  if (TOKEN.test(written)) return written;
  throw usage(
    "--header takes the name of the header that carries keys; headers of requests are given with -H 'Name: value'",
  );
}

export function headerLine(written: string, flag: string): HeaderLine {
  const match = /^([^:]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)$/.exec(written);
  const name = match?.[1] ?? "";
  if (!TOKEN.test(name)) throw usage(`${flag} takes a header as 'Name: value'`);
  if (FRAMING.has(name.toLowerCase())) {
    throw usage(`${flag} must not hold ${name}, which is made for each request`);
  }
  return [name, match![2]!.trimEnd()];
}

export function jsonPointer(written: string): string {
  if (written === "" || /^\/(?:[^~]|~[01])*$/.test(written)) return written;
  throw new InvalidArgumentError("Write a JSON Pointer (RFC 6901), such as /total.");
}

/** Of no more than what the case of a storm says that it sends. */
export function duplicates(written: string): number {
  const count = /^\d+$/.test(written) ? Number(written) : Number.NaN;
  if (count >= 2 && count <= 100) return count;
  throw new InvalidArgumentError("Write a number from 2 to 100.");
}

export function caseIds(written: string): string[] {
  return written.split(",").map((id) => id.trim());
}

/** Not by Commander, which would print the value: it may be a credential. */
function usage(message: string): Failure {
  return new Failure(message, { exit: EXIT.usage });
}
