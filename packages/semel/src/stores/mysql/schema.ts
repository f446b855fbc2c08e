// The tables of the MySQL store, version by version. Migrations only ever go forward, and one that
// has been released is never edited. MySQL commits each statement that changes a table by itself, so
// every statement is one that may run again, or says that it is done already.

import { StoreUnusable } from "../../errors.ts";
import type { StatementRunner } from "./connection.ts";
import { isThereAlready } from "./errors.ts";

export interface MysqlTables {
  records: string;
  schema: string;
  queue: string;
  /** The records' table as a name, not quoted. */
  recordsName: string;
}

/** The quoted names of what the store keeps. */
export function tablesOf(table: string): MysqlTables {
  const named = (part: string) => `\`${table.replaceAll("`", "``")}_${part}\``;
  return {
    records: named("records"),
    schema: named("schema"),
    queue: named("queue"),
    recordsName: `${table}_records`,
  };
}

/** A migration's statements, for drivers that take one at a time. */
function migrationsOf(table: string): string[][] {
  const { records, schema, queue } = tablesOf(table);
  return [
    [
      `CREATE TABLE IF NOT EXISTS ${schema} (
  version INT NOT NULL PRIMARY KEY
) ENGINE = InnoDB`,
      // Names are bytes: no collation, padding or character set of a session can confuse two.
      `CREATE TABLE IF NOT EXISTS ${records} (
  id BINARY(16) NOT NULL PRIMARY KEY,   -- SHA-256 over scope and key
  scope VARBINARY(3072) NOT NULL,       -- UTF-8: CONVERT(scope USING utf8mb4)
  \`key\` VARBINARY(255) NOT NULL,        -- ASCII
  fingerprint VARBINARY(128) NOT NULL,  -- ASCII
  format TINYINT NOT NULL,              -- the version of this row's form
  state TINYINT NOT NULL,               -- 0 running, 1 completed, 2 held, 3 open, 4 void
  attempt INT NOT NULL,
  crashes INT NOT NULL,
  owner BINARY(16) NOT NULL,            -- random
  on_crash TINYINT NOT NULL,            -- 0 hold, 1 rerun, 2 probe
  lease_until BIGINT,                   -- this and all times: milliseconds since 1970
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  expires_at BIGINT,                    -- NULL: kept until resolved
  receipt INT,                          -- of the statement that settled it
  reason LONGBLOB,                      -- UTF-8
  result LONGBLOB,
  KEY state (state, expires_at),
  KEY created (created_at)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC`,
      `INSERT IGNORE INTO ${schema} (version) VALUES (1)`,
    ],
    [
      `ALTER TABLE ${records} ADD COLUMN journal LONGBLOB -- what steps have done
`,
      `INSERT IGNORE INTO ${schema} (version) VALUES (2)`,
    ],
    [
      `CREATE TABLE IF NOT EXISTS ${queue} (
  id BINARY(16) NOT NULL PRIMARY KEY,
  operation BINARY(16) NOT NULL,        -- the id of its record
  kind TINYINT NOT NULL,                -- 0 task, 1 effect
  name VARBINARY(1020) NOT NULL,        -- UTF-8
  scope VARBINARY(3072) NOT NULL,       -- UTF-8
  \`key\` VARBINARY(255) NOT NULL,        -- ASCII
  place INT NOT NULL,                   -- from 0, within operation and kind
  turn INT,                             -- the place of what waits
  state TINYINT NOT NULL,               -- 0 waiting, 1 done, 2 dead
  started INT NOT NULL,                 -- how often it was claimed
  finished INT NOT NULL,                -- how often somebody said how that ended
  owner BINARY(16),                     -- whose claim it is
  due_at BIGINT,                        -- when it may be claimed (again), NULL where it does not wait
  created_at BIGINT NOT NULL,
  expires_at BIGINT,                    -- NULL: kept
  receipt INT,                          -- of the statement that wrote it last
  error LONGBLOB,                       -- UTF-8
  payload LONGBLOB NOT NULL,
  KEY due (kind, name, due_at),
  KEY turn (operation, kind, turn),
  KEY state (state, created_at, id),
  KEY expiry (expires_at, state, kind)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC`,
      `INSERT IGNORE INTO ${schema} (version) VALUES (3)`,
    ],
  ];
}

/**
 * The SQL of every migration, in order; the version of the schema is how many have been applied.
 * Each is a script whose statements may run again; one that adds a column then fails with the error
 * 1060, which says that the column is there.
 *
 * @param table the prefix of the tables' names
 * @default table "semel"
 * @example for (const sql of mysqlMigrations()) console.log(sql);
 */
export function mysqlMigrations(table = "semel"): string[] {
  return migrationsOf(table).map((statements) => `${statements.join(";\n")};`);
}

/** Brings the database to the newest schema; does nothing to one that is there (or beyond). */
export async function applyMigrations(run: StatementRunner, table: string): Promise<void> {
  const version = await schemaVersion(run, table);
  for (const sql of migrationsOf(table).slice(version).flat()) {
    await run.change(sql).catch((error: unknown) => {
      // Another process was faster, or one before was broken off.
      if (!isThereAlready(error)) throw error;
    });
  }
}

/** What the server is set to, as far as the store has to know. */
export interface MysqlSettings {
  packetBytesMax: number;
  /** Whether what was answered survives the death of the server's machine. */
  isDurable: boolean;
}

/**
 * @throws {StoreUnusable} when the database has another schema than this version needs
 */
export async function assertSchema(run: StatementRunner, table: string): Promise<MysqlSettings> {
  const [row] = await run.rows<{ version: unknown; packet: unknown; flush: unknown }>(
    `SELECT (SELECT MAX(version) FROM ${tablesOf(table).schema}) AS version,
      @@max_allowed_packet AS packet, @@innodb_flush_log_at_trx_commit AS flush`,
  );
  const needed = migrationsOf(table).length;
  const found = Number(row!.version);
  if (found > needed) {
    throw new StoreUnusable(
      `The MySQL tables "${table}" have schema ${found}, newer than the ${needed} that this version of Semel knows; upgrade Semel`,
    );
  }
  if (found < needed) {
    throw new StoreUnusable(
      `The MySQL tables "${table}" are at schema ${found} of ${needed}; call \`await store.migrate()\`, or run \`semel migrate\``,
    );
  }
  return { packetBytesMax: Number(row!.packet), isDurable: Number(row!.flush) === 1 };
}

/** 0: no migration has been applied. */
async function schemaVersion(run: StatementRunner, table: string): Promise<number> {
  const { schema } = tablesOf(table);
  const [there] = await run.rows<{ there: unknown }>(
    `SELECT COUNT(*) AS there FROM information_schema.tables
      WHERE table_schema = DATABASE() AND table_name = ${nameLiteral(`${table}_schema`)}`,
  );
  if (Number(there!.there) === 0) return 0;
  const [row] = await run.rows<{ version: unknown }>(
    `SELECT MAX(version) AS version FROM ${schema}`,
  );
  return Number(row!.version);
}

/** A name to compare with those in `information_schema`. */
export function nameLiteral(name: string): string {
  return `CONVERT(x'${Buffer.from(name).toString("hex")}' USING utf8mb4)`;
}
