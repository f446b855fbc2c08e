// The tables of the SQLite store, version by version. Migrations only ever go forward, and one that
// has been released is never edited.

import { StoreUnusable } from "../../errors.ts";
import type { SqliteConnection, SqliteInteger } from "./connection.ts";

export interface SqliteTables {
  records: string;
  schema: string;
  /** What `running` and `held` records are found by. */
  active: string;
  /** What expired records are found by. */
  expiry: string;
}

/** The quoted names of what the store keeps. */
export function tablesOf(table: string): SqliteTables {
  const named = (part: string) => `"${table.replaceAll('"', '""')}_${part}"`;
  return {
    records: named("records"),
    schema: named("schema"),
    active: named("active"),
    expiry: named("expiry"),
  };
}

/**
 * The SQL of every migration, in order; the version of the schema is how many have been applied.
 * Each is a script for one transaction, and `PRAGMA journal_mode = WAL` belongs before the first.
 *
 * @param table the prefix of the tables' names
 * @default table "semel"
 * @example for (const sql of sqliteMigrations()) console.log(sql);
 */
export function sqliteMigrations(table = "semel"): string[] {
  const { records, schema, active, expiry } = tablesOf(table);
  return [
    `CREATE TABLE ${schema} (version INTEGER NOT NULL) STRICT;
CREATE TABLE ${records} (
  position INTEGER PRIMARY KEY,  -- rises with creation: the order of listings
  id BLOB NOT NULL UNIQUE,       -- 16 bytes of SHA-256 over scope and key
  scope TEXT NOT NULL,
  key TEXT NOT NULL,
  fingerprint TEXT NOT NULL,
  format INTEGER NOT NULL,       -- the version of this row's form
  state INTEGER NOT NULL,        -- 0 running, 1 completed, 2 held, 3 open, 4 void
  attempt INTEGER NOT NULL,
  crashes INTEGER NOT NULL,
  owner BLOB NOT NULL,           -- 16 random bytes
  on_crash INTEGER NOT NULL,     -- 0 hold, 1 rerun, 2 probe
  lease_until INTEGER,           -- this and all times: milliseconds since 1970
  reason TEXT,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  expires_at INTEGER,            -- NULL: kept until resolved
  result BLOB
) STRICT;
CREATE INDEX ${active} ON ${records} (position) WHERE state IN (0, 2);
CREATE INDEX ${expiry} ON ${records} (expires_at, state) WHERE expires_at IS NOT NULL;
INSERT INTO ${schema} (version) VALUES (1);`,
  ];
}

/** Brings the database to the newest schema; does nothing to one that is there (or beyond). */
export function applyMigrations(connection: SqliteConnection, table: string): void {
  const migrations = sqliteMigrations(table);
  if (schemaVersion(connection, table) >= migrations.length) return;
  connection.exec("PRAGMA journal_mode = WAL");
  connection.transaction(() => {
    // Looked up again: another process may have been faster.
    const version = schemaVersion(connection, table);
    for (const sql of migrations.slice(version)) connection.exec(sql);
  });
}

/**
 * @throws {StoreUnusable} when the database has another schema than this version needs
 */
export function assertSchema(connection: SqliteConnection, table: string): void {
  const needed = sqliteMigrations(table).length;
  const found = schemaVersion(connection, table);
  if (found === needed) return;
  if (found > needed) {
    throw new StoreUnusable(
      `The SQLite tables "${table}" have schema ${found}, newer than the ${needed} that this version of Semel knows; upgrade Semel`,
    );
  }
  throw new StoreUnusable(
    `The SQLite tables "${table}" are at schema ${found} of ${needed}; call \`await store.migrate()\`, or run \`semel migrate\``,
  );
}

/** 0: no migration has been applied; there are no tables. */
function schemaVersion(connection: SqliteConnection, table: string): number {
  const isThere = connection.rows(
    "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND lower(name) = lower(?)",
    `${table}_schema`,
  );
  if (isThere.length === 0) return 0;
  const [row] = connection.rows<{ version: SqliteInteger | null }>(
    `SELECT max(version) AS version FROM ${tablesOf(table).schema}`,
  );
  return Number(row?.version ?? 0);
}
