// Opens the store that `--store` names, ready for use; what is wrong with it is said with its remedy.

import libsql from "libsql";
import { isSemelError, type Store } from "semel";
import { memoryStore } from "semel/memory";
import { type SqliteDatabase, sqliteStore } from "semel/sqlite";
import { EXIT, Failure } from "../failure.ts";

export interface OpenStore {
  store: Store;
  /** Call it when nothing uses the store any more. */
  close(): void;
}

type Database = SqliteDatabase & { close(): unknown };
type DatabaseConstructor = new (path: string) => Database;

/**
 * Opens `sqlite:PATH` or `memory:`, and brings its schema up to date.
 *
 * @throws {Failure}
 */
export async function openStore(address: string): Promise<OpenStore> {
  const [, scheme = "", rest = ""] = /^([a-z0-9+.-]+):(.*)$/is.exec(address) ?? [];
  if (scheme === "memory" && rest === "") return { store: memoryStore(), close: () => {} };
  if (scheme === "sqlite" && rest !== "") return openSqlite(rest);
  throw new Failure(
    `--store ${withoutCredentials(address)}: there is no such store; there are sqlite:PATH, such as sqlite:./semel.db, and memory:`,
    { exit: EXIT.usage },
  );
}

async function openSqlite(path: string): Promise<OpenStore> {
  const database = openDatabase(path);
  try {
    const store = sqliteStore(database);
    await store.migrate();
    return { store, close: () => void database.close() };
  } catch (cause) {
    database.close();
    if (!isSemelError(cause)) throw cause;
    throw new Failure(`--store sqlite:${path}: ${cause.message}`, { cause });
  }
}

function openDatabase(path: string): Database {
  const Database = nodeSqlite() ?? (libsql as unknown as DatabaseConstructor);
  try {
    return new Database(path);
  } catch (cause) {
    throw new Failure(
      `--store sqlite:${path}: the file cannot be opened; check that its folder exists, and that this user may read and write the file and the folder`,
      { cause },
    );
  }
}

/** SQLite as Node brings it along, where it does. */
function nodeSqlite(): DatabaseConstructor | undefined {
  const { emitWarning } = process;
  // That the module is experimental is for us to know, not for whoever runs the command.
  process.emitWarning = ((warning: string | Error, ...rest: never[]) => {
    if (!String(warning).includes("SQLite")) emitWarning(warning, ...rest);
  }) as typeof emitWarning;
  try {
    const sqlite = process.getBuiltinModule?.("node:sqlite") as
      | { DatabaseSync: DatabaseConstructor }
      | undefined;
    return sqlite?.DatabaseSync;
  } finally {
    process.emitWarning = emitWarning;
  }
}

function withoutCredentials(address: string): string {
  return address.replace(/\/\/[^@/]*@/, "//");
}
