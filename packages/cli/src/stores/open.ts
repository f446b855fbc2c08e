// Opens the store that `--store` names; what is wrong with it is said with its remedy.

import { setTimeout as delay } from "node:timers/promises";
import { Option } from "commander";
import { isSemelError, type Store } from "semel";
import { memoryStore } from "semel/memory";
import { fromEnvironment } from "../environment.ts";
import { EXIT, Failure } from "../failure.ts";
import { flagsNaming, parseAddress, type StoreAddress } from "./address.ts";
import {
  type OpenMysql,
  type OpenPostgres,
  type OpenRedis,
  openMysql,
  openPostgres,
  openRedis,
} from "./servers.ts";
import { type OpenSqlite, openSqlite } from "./sqlite.ts";

/** What the flags say about the store. */
export interface StoreFlags {
  store: string;
  table?: string;
  prefix?: string;
}

interface OpenMemory {
  kind: "memory";
  store: Store;
  migrate(): Promise<void>;
  close(): Promise<void>;
}

/** `shown` is its address without credentials, `flags` name it to another command. */
export type OpenStore = { shown: string; flags: string } & (
  | OpenMemory
  | OpenSqlite
  | OpenPostgres
  | OpenMysql
  | OpenRedis
);

/** The engine gives a store up after 2 s; the clients' own bounds are well above. */
const SERVING_ANSWER_MS = 5_000;
/** A migration, or statistics over a large table, take their time. */
const ADMINISTRATION_ANSWER_MS = 10 * 60_000;

const CLOSE_MS = 2_000;

/** An id that no scope and key have: what is asked for with it is whether the store answers. */
const NO_RECORD = "0".repeat(32);

export function storeFlags(): Option[] {
  return [
    new Option(
      "--store <address>",
      "where records are: sqlite:PATH, postgres://…, mysql://…, redis://… or memory:",
    )
      .env("SEMEL_STORE")
      .default("sqlite:./semel.db"),
    fromEnvironment(
      new Option("--table <prefix>", "what the names of its tables begin with (default: semel)"),
    ),
    fromEnvironment(
      new Option("--prefix <prefix>", "what its keys on Redis begin with (default: semel:)"),
    ),
  ];
}

/**
 * Opens a store.
 *
 * @param purpose `serve` mends connections and prints the store's warnings; `administer` is patient,
 * and makes no file; `migrate` is patient, and does
 * @throws {Failure}
 */
export async function openStore(
  flags: StoreFlags,
  purpose: "serve" | "administer" | "migrate",
): Promise<OpenStore> {
  const address = parseAddress(flags.store);
  const { shown } = address;
  const { table, prefix } = flags;
  const names = { shown, flags: flagsNaming(shown, flags) };
  assertNames(address, flags);
  showWarnings(purpose === "serve");
  const server = {
    ...{ table, prefix },
    answerMs: purpose === "serve" ? SERVING_ANSWER_MS : ADMINISTRATION_ANSWER_MS,
    reconnects: purpose === "serve",
  };
  try {
    switch (address.kind) {
      case "memory":
        return keptAlive({ ...memory(), ...names });
      case "sqlite":
        return keptAlive({
          ...openSqlite(address.path, { mayCreate: purpose !== "administer", table }),
          ...names,
        });
      case "postgres":
        return keptAlive({ ...(await openPostgres(address.url, server)), ...names });
      case "mysql":
        return keptAlive({ ...(await openMysql(address.url, server)), ...names });
      case "redis":
        return keptAlive({ ...(await openRedis(address.url, shown, server)), ...names });
    }
  } catch (error) {
    // What a client says of an address that it cannot read may repeat it, with its password.
    if (error instanceof Failure || isSemelError(error)) throw error;
    throw new Failure(`--store ${shown}: the client does not take this address`, {
      exit: EXIT.usage,
      cause: error,
    });
  }
}

/**
 * Looks whether a store can be used.
 *
 * @throws {Failure} when it is not reached, not migrated, of a newer version, or evicts records
 */
export async function assertReady(open: OpenStore): Promise<void> {
  try {
    await open.store.read(NO_RECORD);
  } catch (error) {
    throw explained(open, error);
  }
}

/**
 * Does an administrator's work on the store that the flags name, and closes it.
 *
 * @throws {Failure} when the store cannot be used
 */
export async function withStore<Answer>(
  flags: StoreFlags,
  work: (open: OpenStore) => Promise<Answer>,
): Promise<Answer> {
  // Who reads the output may have seen enough: `semel records list | head -1`.
  process.stdout.once("error", () => process.exit(EXIT.ok));
  const open = await openStore(flags, "administer");
  try {
    if (open.kind === "memory") {
      throw new Failure(
        "--store memory: is in the process that made it, and nobody else can look into it; name another one",
        { exit: EXIT.usage },
      );
    }
    await assertReady(open);
    return await work(open);
  } catch (error) {
    throw explained(open, error);
  } finally {
    await open.close();
  }
}

/** A store's error with its address, and with the command that mends it. */
export function explained({ shown, flags }: OpenStore, error: unknown): unknown {
  if (!isSemelError(error) || !error.code.startsWith("store-")) return error;
  const message = error.message.replace(
    /call `await store\.migrate\(\)`, or run `semel migrate`/,
    // Not a string, whose `$` would have a meaning.
    () => `run \`semel migrate ${flags}\``,
  );
  const isSilent = error.code === "store-unavailable";
  const reach = "; check that the server runs there, and that this machine may reach it";
  return new Failure(`--store ${shown}: ${withReason(message, error)}${isSilent ? reach : ""}`, {
    cause: error,
  });
}

/** Where all addresses of a name refuse, Node's own error has no message, only errors. */
function withReason(message: string, { cause }: { cause?: unknown }): string {
  if (!message.endsWith(": ")) return message;
  const { errors = [], code = "no reason given" } = (cause ?? {}) as AggregateError & {
    code?: string;
  };
  return message + (errors.map(({ message }) => message).join(", ") || code);
}

/**
 * No timer of the library keeps a process alive, which is right for a service; a command that waits
 * for one, between two batches or for a file that is locked, would just end.
 */
function keptAlive(open: OpenStore): OpenStore {
  const alive = setInterval(() => {}, 60_000);
  const { close } = open;
  open.close = async () => {
    // A server that has gone silent is not waited for either.
    const patience = delay(CLOSE_MS, undefined, { ref: false });
    await Promise.race([close(), patience]).finally(() => clearInterval(alive));
  };
  return open;
}

function memory(): OpenMemory {
  return { kind: "memory", store: memoryStore(), migrate: async () => {}, close: async () => {} };
}

function assertNames({ kind }: StoreAddress, { table, prefix }: StoreFlags): void {
  const isRedis = kind === "redis";
  if (table !== undefined && (isRedis || kind === "memory")) {
    const instead = isRedis ? "; its keys begin with --prefix" : "";
    throw new Failure(`--table is for stores with tables, which ${kind} has not${instead}`, {
      exit: EXIT.usage,
    });
  }
  if (prefix !== undefined && !isRedis) {
    throw new Failure("--prefix is for Redis; the tables of other stores begin with --table", {
      exit: EXIT.usage,
    });
  }
}

/** As lines of the command's own, or not at all: `semel doctor` says the same, and at more length. */
function showWarnings(isShown: boolean): void {
  process.removeAllListeners("warning");
  process.on("warning", ({ name, message, stack }) => {
    if (name !== "SemelWarning") process.stderr.write(`${stack ?? message}\n`);
    else if (isShown) process.stderr.write(`warning: ${message}\n`);
  });
}
