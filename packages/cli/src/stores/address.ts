// Reads what `--store` says, and how to show it: addresses carry passwords, and messages end up in logs.

import { EXIT, Failure } from "../failure.ts";

export type StoreAddress = {
  /** For messages: without credentials, and without a query, which may hold some. */
  shown: string;
} & (
  | { kind: "memory" }
  | { kind: "sqlite"; path: string }
  | { kind: "postgres" | "mysql" | "redis"; url: string }
);

/** What comes before the colon, and the kind of store that it names. */
const SERVERS: ReadonlyMap<string, "postgres" | "mysql" | "redis"> = new Map([
  ["postgres", "postgres"],
  ["postgresql", "postgres"],
  ["mysql", "mysql"],
  ["redis", "redis"],
  ["rediss", "redis"],
]);

const KNOWN =
  "sqlite:PATH, such as sqlite:./semel.db, postgres://…, mysql://…, redis://… (rediss://… with TLS), and memory:";

/** @throws {Failure} when it is none of the stores that there are */
export function parseAddress(written: string): StoreAddress {
  const [, scheme, rest = ""] = /^([a-z0-9+.-]+):(.*)$/is.exec(written) ?? [];
  // Of what has another form nothing is repeated: it may be a password all through.
  if (scheme === undefined) throw wrong(`--store needs a scheme; there are ${KNOWN}`);
  if (scheme === "memory" && rest === "") return { kind: "memory", shown: "memory:" };
  if (scheme === "sqlite" && rest !== "") {
    return { kind: "sqlite", path: rest, shown: `sqlite:${rest}` };
  }
  const kind = SERVERS.get(scheme);
  if (kind === undefined) {
    throw wrong(`--store ${scheme}:…: there is no such store; there are ${KNOWN}`);
  }
  if (!rest.startsWith("//") || !URL.canParse(written)) {
    throw wrong(
      `--store ${scheme}:…: this is no address; write ${scheme}://USER:PASSWORD@HOST:PORT/DATABASE, with what is neither letter nor digit in the password percent-encoded`,
    );
  }
  const { host, pathname } = new URL(written);
  return { kind, url: written, shown: `${scheme}://${host}${pathname === "/" ? "" : pathname}` };
}

/** The flags that name a store, for a shell. Without its table or prefix a hint would make another one. */
export function flagsNaming(
  shown: string,
  { table, prefix }: { table?: string | undefined; prefix?: string | undefined },
): string {
  const flags = Object.entries({ store: shown, table, prefix });
  return flags
    .flatMap(([name, value]) => (value === undefined ? [] : [`--${name} ${quoted(value)}`]))
    .join(" ");
}

function quoted(value: string): string {
  return /^[\w@%+=:,./-]+$/.test(value) ? value : `'${value.replaceAll("'", "'\\''")}'`;
}

function wrong(message: string): Failure {
  return new Failure(message, { exit: EXIT.usage });
}
