// Opens a SQLite file: with Node's own SQLite where Node has it, otherwise with `libsql`.

import { existsSync } from "node:fs";
import libsql from "libsql";
import { type SqliteDatabase, type SqliteStore, sqliteStore } from "semel/sqlite";
import { Failure } from "../failure.ts";
import { flagsNaming } from "./address.ts";

export type CommandDatabase = SqliteDatabase & { close(): unknown };
type DatabaseConstructor = new (path: string) => CommandDatabase;

export interface OpenSqlite {
  kind: "sqlite";
  path: string;
  table: string | undefined;
  store: SqliteStore;
  database: CommandDatabase;
  migrate(): Promise<void>;
  close(): Promise<void>;
}

/** @throws {Failure} when it cannot be opened, or is not there and is not to be made */
export function openSqlite(
  path: string,
  { mayCreate, table }: { mayCreate: boolean; table?: string | undefined },
): OpenSqlite {
  // SQLite makes what it does not find; an address in a URI's form is SQLite's own to read.
  if (!mayCreate && !path.startsWith("file:") && !existsSync(path)) {
    throw new Failure(
      `--store sqlite:${path}: there is no such file; name the one that the gateway or the application uses, or make one with \`semel migrate ${flagsNaming(`sqlite:${path}`, { table })}\``,
    );
  }
  const database = openDatabase(path);
  const store = sqliteStore(database, table === undefined ? {} : { table });
  return {
    kind: "sqlite",
    ...{ path, table, store, database },
    migrate: () => store.migrate(),
    close: async () => void database.close(),
  };
}

function openDatabase(path: string): CommandDatabase {
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
