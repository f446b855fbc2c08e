// The tables of the Postgres store, version by version. Migrations only ever go forward, and one that
// has been released is never edited.

import { setTimeout as delay } from "node:timers/promises";
import { InvalidOption, StoreUnavailable, StoreUnusable } from "../../errors.ts";
import { quoted } from "./client.ts";

/** Postgres cuts longer names off, and two that were cut would be one. */
const TABLE_BYTES_MAX = 48;
const SCHEMA_BYTES_MAX = 63;
const MIGRATION_TRIES_MAX = 20;

export interface PostgresTables {
  /** Quoted, and qualified where a schema was given. */
  readonly records: string;
  readonly schema: string;
  readonly queue: string;
  readonly stateIndex: string;
  readonly creationIndex: string;
  /** What finished operations are announced on. */
  readonly channel: string;
  /** As the user named them, for messages. */
  readonly title: string;
  /** The name of something else that goes with the tables. */
  named(suffix: string): string;
}

/** @throws {InvalidOption} when Postgres could not keep the names apart */
export function tablesOf(table: string, schema?: string): PostgresTables {
  assertName(table, "table", TABLE_BYTES_MAX);
  if (schema !== undefined) assertName(schema, "schema", SCHEMA_BYTES_MAX);
  const qualifier = schema === undefined ? "" : `${quoted(schema)}.`;
  return {
    records: `${qualifier}${quoted(`${table}_records`)}`,
    schema: `${qualifier}${quoted(`${table}_schema`)}`,
    queue: `${qualifier}${quoted(`${table}_queue`)}`,
    stateIndex: quoted(`${table}_state`),
    creationIndex: quoted(`${table}_creation`),
    channel: `${table}_settled`,
    title: schema === undefined ? table : `${schema}.${table}`,
    named: (suffix) => `${qualifier}${quoted(`${table}_${suffix}`)}`,
  };
}

function assertName(name: unknown, option: string, bytesMax: number): void {
  if (typeof name !== "string" || name === "" || name.includes("\0")) {
    throw new InvalidOption(`\`${option}\` must be a non-empty string without NUL characters`);
  }
  if (Buffer.byteLength(name) > bytesMax) {
    throw new InvalidOption(`\`${option}\` may be at most ${bytesMax} bytes long`);
  }
}

/**
 * The SQL of every migration, in order; the version of the schema is how many have been applied.
 * Each is a script for one transaction.
 *
 * @param table the prefix of the tables' names
 * @param schema the schema they are in, which has to exist; the first of the `search_path` otherwise
 * @default table "semel"
 * @throws {InvalidOption} when a name is too long
 * @example for (const sql of postgresMigrations()) console.log(sql);
 */
export function postgresMigrations(table = "semel", schema?: string): string[] {
  const tables = tablesOf(table, schema);
  const queueIndex = (what: string) => quoted(`${table}_queue_${what}`);
  return [
    // Columns are in the order of their alignment, which saves their padding. Pages are filled
    // whole: a record is written twice within moments and then only read, so that room kept for
    // updates in place would stay empty. The indexes beside the key cost 18 and 15 % more write-ahead
    // log; without the one, sweeps and the count of what is held would read the whole table, without
    // the other, every page of a listing.
    `CREATE TABLE ${tables.schema} (version integer PRIMARY KEY);
CREATE TABLE ${tables.records} (
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  lease_until timestamptz,
  expires_at timestamptz,       -- NULL: kept until resolved
  attempt integer NOT NULL,
  crashes integer NOT NULL,
  format smallint NOT NULL,     -- the version of this row's form
  state smallint NOT NULL,      -- 0 running, 1 completed, 2 held, 3 open, 4 void
  on_crash smallint NOT NULL,   -- 0 hold, 1 rerun, 2 probe
  id uuid PRIMARY KEY,          -- 16 bytes of SHA-256 over scope and key
  owner uuid NOT NULL,          -- 16 random bytes
  scope text NOT NULL,
  key text NOT NULL,
  fingerprint text NOT NULL,
  reason text,
  result bytea
);
-- For the sweeper, statistics, and listings of what runs or is held. No BRIN index, though it costs
-- less: space is used again, so that soon every range of blocks holds something old, and each sweep
-- would read the whole table.
CREATE INDEX ${tables.stateIndex} ON ${tables.records} (state, expires_at);
-- For listings, which are newest first.
CREATE INDEX ${tables.creationIndex} ON ${tables.records} (created_at);
INSERT INTO ${tables.schema} (version) VALUES (1);`,
    // The version first: its key decides between two that migrate at once.
    `INSERT INTO ${tables.schema} (version) VALUES (2);
ALTER TABLE ${tables.records} ADD COLUMN journal bytea;  -- what steps have done`,
    // Indexes are of what waits, or of what does not, so that what is done costs claims nothing, and an
    // item is in four of them at a time. No condition of theirs follows from what a statement asks of
    // another: while statistics know of nothing that waits, the planner would take any of them.
    `INSERT INTO ${tables.schema} (version) VALUES (3);
CREATE TABLE ${tables.queue} (
  created_at timestamptz NOT NULL,
  due_at timestamptz,           -- when it may be claimed (again); NULL: it does not wait
  expires_at timestamptz,       -- NULL: kept
  place integer NOT NULL,       -- from 0, within operation and kind
  started integer NOT NULL,     -- how often it was claimed
  finished integer NOT NULL,    -- how often somebody said how that ended
  kind smallint NOT NULL,       -- 0 task, 1 effect
  state smallint NOT NULL,      -- 0 waiting, 1 done, 2 dead
  id uuid PRIMARY KEY,
  operation uuid NOT NULL,      -- the id of its record
  owner uuid,                   -- whose claim it is
  name text NOT NULL,
  scope text NOT NULL,
  key text NOT NULL,
  error text,
  payload bytea NOT NULL
);
-- For claims: what waits, longest due first;
CREATE INDEX ${queueIndex("due")} ON ${tables.queue} (kind, name, due_at) WHERE due_at IS NOT NULL;
-- and whether an earlier one of the operation does.
CREATE INDEX ${queueIndex("place")} ON ${tables.queue} (operation, place) WHERE state = 0;
-- For the sweeper.
CREATE INDEX ${queueIndex("end")} ON ${tables.queue} (expires_at) WHERE expires_at IS NOT NULL;
-- For listings, which are newest first.
CREATE INDEX ${queueIndex("open")} ON ${tables.queue} (created_at, id) WHERE state <> 1 AND place >= 0;
CREATE INDEX ${queueIndex("done")} ON ${tables.queue} (created_at, id) WHERE state = 1;`,
  ];
}

/** What migrating needs of a client. */
interface Scripts {
  /** Gives 0 when there are no tables. */
  version(): Promise<number>;
  /** One transaction. Rejects when another process was faster. */
  run(sql: string): Promise<void>;
}

/**
 * Brings the database to the newest schema. Several may do so at once: a migration is one
 * transaction that creates what can be created once, so that all but one of them fail and look
 * again. No lock is needed that a pooler or another database might not have.
 */
export async function applyMigrations(
  migrations: readonly string[],
  { version, run }: Scripts,
): Promise<void> {
  for (let tries = 1; ; tries++) {
    const applied = await version();
    const next = migrations[applied];
    if (next === undefined) return;
    try {
      await run(next);
    } catch (error) {
      if (tries < MIGRATION_TRIES_MAX && isOfAnotherMigration(error)) {
        await delay(Math.random() * 50);
        continue;
      }
      throw error;
    }
  }
}

/** Something is there already, or was being made: duplicate table, object, column, key; deadlock; retry. */
function isOfAnotherMigration(error: unknown): boolean {
  const { code } = error as { code?: unknown };
  return ["42P07", "42710", "42701", "23505", "40P01", "40001"].includes(String(code));
}

/**
 * @throws {StoreUnusable} when the database has another schema than this version needs
 */
export function assertSchema(found: number, needed: number, title: string): void {
  if (found === needed) return;
  if (found > needed) {
    throw new StoreUnusable(
      `The Postgres tables "${title}" have schema ${found}, newer than the ${needed} that this version of Semel knows; upgrade Semel`,
    );
  }
  throw new StoreUnusable(
    `The Postgres tables "${title}" are at schema ${found} of ${needed}; call \`await store.migrate()\`, or run \`semel migrate\``,
  );
}

/** A replica lags behind, so that what it answers may be over: reads as well go to the primary. */
export function assertPrimary(isReplica: boolean): void {
  if (isReplica) {
    throw new StoreUnusable(
      "This Postgres server is a replica in recovery; give Semel a client of the primary",
    );
  }
}

/** A record was made and removed again and again while it was asked for. */
export function neverSettled(): StoreUnavailable {
  return new StoreUnavailable("The record kept changing hands while it was asked for; ask again");
}
