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
  queue: string;
  /** What items are claimed by. */
  queueDue: string;
  /** What the items of an operation are ordered by. */
  queuePlace: string;
  /** What waiting and dead items are listed by. */
  queueOpen: string;
  /** What expired items are found by. */
  queueEnd: string;
}

/** The quoted names of what the store keeps. */
export function tablesOf(table: string): SqliteTables {
  const named = (part: string) => `"${table.replaceAll('"', '""')}_${part}"`;
  return {
    records: named("records"),
    schema: named("schema"),
    active: named("active"),
    expiry: named("expiry"),
    queue: named("queue"),
    queueDue: named("queue_due"),
    queuePlace: named("queue_place"),
    queueOpen: named("queue_open"),
    queueEnd: named("queue_end"),
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
  const { records, schema, active, expiry, queue, ...indexes } = tablesOf(table);
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
    `ALTER TABLE ${records} ADD COLUMN journal BLOB;  -- what steps have done
UPDATE ${schema} SET version = 2;`,
    `CREATE TABLE ${queue} (
  position INTEGER PRIMARY KEY,  -- rises with creation: the order of listings
  id BLOB NOT NULL UNIQUE,       -- 16 bytes
  operation BLOB NOT NULL,       -- the id of its record
  kind INTEGER NOT NULL,         -- 0 task, 1 effect
  name TEXT NOT NULL,
  scope TEXT NOT NULL,
  key TEXT NOT NULL,
  place INTEGER NOT NULL,        -- from 0, within operation and kind
  state INTEGER NOT NULL,        -- 0 waiting, 1 done, 2 dead
  started INTEGER NOT NULL,      -- how often it was claimed
  finished INTEGER NOT NULL,     -- how often somebody said how that ended
  owner BLOB,                    -- whose claim it is
  due_at INTEGER,                -- when it may be claimed (again); NULL: it does not wait
  created_at INTEGER NOT NULL,
  expires_at INTEGER,            -- NULL: kept
  error TEXT,
  payload BLOB NOT NULL
) STRICT;
CREATE INDEX ${indexes.queueDue} ON ${queue} (kind, name, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX ${indexes.queuePlace} ON ${queue} (operation, kind, place) WHERE state = 0;
CREATE INDEX ${indexes.queueOpen} ON ${queue} (position) WHERE state <> 1;
CREATE INDEX ${indexes.queueEnd} ON ${queue} (expires_at, kind, state) WHERE expires_at IS NOT NULL;
UPDATE ${schema} SET version = 3;`,
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
