// Reads the values of flags. What is wrong with one is said in terms of how it is written.

import { METHODS } from "node:http";
import { InvalidArgumentError } from "commander";
import { EXIT, Failure } from "./failure.ts";
import { nearestName } from "./nearest-name.ts";

export interface ListenAddress {
  host: string;
  port: number;
}

const UNIT_MS = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;
const UNIT_BYTES = { "": 1, k: 2 ** 10, m: 2 ** 20 } as const;
/** What the library accepts as a bound. */
const BYTES_MAX = 2 ** 30;
/** The longest delay that a timer can wait for. */
export const TIMER_MS_MAX = 2 ** 31 - 1;

/** `250ms`, `30s`, `5m`, `24h`, `7d`, or `0`; in milliseconds. */
export function duration(written: string): number {
  const match = /^(?:0|(\d+(?:\.\d+)?)(ms|s|m|h|d))$/.exec(written);
  if (!match) throw new InvalidArgumentError("Write a duration such as 250ms, 30s, 5m, 24h or 7d.");
  return match[2] ? Math.round(Number(match[1]) * UNIT_MS[match[2] as keyof typeof UNIT_MS]) : 0;
}

/** A duration that a timer waits for. */
export function patience(written: string): number {
  const ms = duration(written);
  if (ms <= TIMER_MS_MAX) return ms;
  throw new InvalidArgumentError("It may be at most 24d.");
}

/** As `patience`, but never none. */
export function timeout(written: string): number {
  const ms = patience(written);
  if (ms >= 1) return ms;
  throw new InvalidArgumentError("It must be longer than 0.");
}

/** Bytes: `65536`, `64k`, `1m`. */
export function bytes(written: string): number {
  const match = /^(\d+)([km]?)$/i.exec(written);
  const count = match
    ? Number(match[1]) * UNIT_BYTES[match[2]!.toLowerCase() as keyof typeof UNIT_BYTES]
    : Number.NaN;
  if (count <= BYTES_MAX) return count;
  throw new InvalidArgumentError("Write bytes such as 65536, 64k or 1m, up to 1024m.");
}

/** `HOST:PORT`, `[IPV6]:PORT`, or a port of 127.0.0.1. */
export function listenAddress(written: string): ListenAddress {
  const match = /^(?:(?:\[([0-9a-f:.%]+)\]|([^:[\]\s/]+)):)?(\d{1,5})$/i.exec(written);
  const port = Number(match?.[3]);
  if (match && port <= 65_535) return { host: match[1] ?? match[2] ?? "127.0.0.1", port };
  throw new InvalidArgumentError("Write HOST:PORT, such as 127.0.0.1:8080, [::1]:8080 or 8080.");
}

/**
 * Refuses an address with a user or a password, whatever else is wrong with it: Commander's own message
 * would repeat what was written.
 *
 * @throws {Failure}
 */
export function assertNoPassword(written: string, what: string): void {
  const url = URL.canParse(written) ? new URL(written) : undefined;
  const isHttp = url !== undefined && /^https?:$/.test(url.protocol);
  const hasPassword = isHttp ? url.username + url.password !== "" : written.includes("@");
  if (!hasPassword) return;
  const message = `${what} holds a user or a password: write it without, and let the service itself ask for them`;
  throw new Failure(message, { exit: EXIT.usage });
}

/** The origin of a service: `http://HOST:PORT` or `https://HOST`, without a path. */
export function origin(written: string): URL {
  assertNoPassword(written, "--upstream");
  const url = URL.canParse(written) ? new URL(written) : undefined;
  const isHttp = url?.protocol === "http:" || url?.protocol === "https:";
  if (!url || !isHttp || url.hostname === "") {
    throw new InvalidArgumentError(
      "Write the service's address with its scheme, such as http://127.0.0.1:3000.",
    );
  }
  if (url.pathname !== "/" || url.search || url.hash) {
    throw new InvalidArgumentError(
      `Write scheme, host and port only, such as ${url.origin}; paths are passed on as they come.`,
    );
  }
  return url;
}

/** The name of an HTTP field. */
export function headerName(written: string): string {
  if (/^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/.test(written)) return written;
  throw new InvalidArgumentError("Write the name of a header.");
}

/** `one,other`. */
export function names(written: string): string[] {
  const list = written.split(",").map((name) => name.trim());
  if (list.every((name) => name !== "")) return list;
  throw new InvalidArgumentError("Write names with commas between them.");
}

/** `POST,PATCH`. */
export function methods(written: string): string[] {
  return written.split(",").map((name) => method(name.trim()));
}

/**
 * A method as requests have it, in upper case: one that no request has would switch keys off without a
 * word. Which ones may have keys is the library's to say.
 */
export function method(written: string): string {
  const name = written.toUpperCase();
  if (METHODS.includes(name)) return name;
  const nearest = nearestName(name, ["POST", "PATCH", "PUT", "DELETE"]);
  throw new InvalidArgumentError(
    `There is no method ${JSON.stringify(written)}${nearest ? `; did you mean ${nearest}?` : "."}`,
  );
}
