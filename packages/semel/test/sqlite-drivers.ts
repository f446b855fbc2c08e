// The SQLite drivers that this Node can run, and the little that differs between them in tests.

import libsql from "libsql";
import type { SqliteDatabase } from "../src/stores/sqlite.ts";

export interface OpenDatabase extends SqliteDatabase {
  close(): unknown;
}

export interface SqliteDriver {
  name: string;
  open(path: string): OpenDatabase;
  openReadOnly(path: string): OpenDatabase;
}

interface NodeSqlite {
  DatabaseSync: new (path: string, options?: { readOnly: boolean }) => OpenDatabase;
}

const Libsql: new (path: string) => OpenDatabase = libsql;

const drivers: SqliteDriver[] = [
  {
    name: "libsql",
    open: (path) => new Libsql(path),
    // It accepts `readonly`, and ignores it.
    openReadOnly: (path) => new Libsql(`file:${path}?mode=ro`),
  },
];

const nodeSqlite = process.getBuiltinModule?.("node:sqlite") as NodeSqlite | undefined;
if (nodeSqlite) {
  drivers.push({
    name: "node:sqlite",
    open: (path) => new nodeSqlite.DatabaseSync(path),
    openReadOnly: (path) => new nodeSqlite.DatabaseSync(path, { readOnly: true }),
  });
}

/** `libsql`, and `node:sqlite` where this Node has it. */
export const sqliteDrivers: readonly SqliteDriver[] = drivers;
