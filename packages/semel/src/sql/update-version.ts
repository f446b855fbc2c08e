// Optimistic locking: an update that names the version it was made from, and is refused when that is
// no longer the current one. The test stands in the statement that writes.

import { systemClock } from "../clock.ts";
import { InvalidOption } from "../errors.ts";
import { assertInteger, assertKnownOptions, shown } from "../options.ts";
import { backoffMs, pause } from "../retry.ts";
import type { SqlExecutor, SqlValue } from "../store.ts";
import { assertValues, quoted, quotedTable, type TableName } from "./identifiers.ts";
import { keyOf, type RowValues } from "./insert-once.ts";
import {
  compareText,
  identityOf,
  Parameters,
  readRow,
  run,
  type Target,
  type Values,
} from "./statement.ts";

/**
 * A version as the client returns it: a whole number (also as text, as many clients give 64 bits), or
 * a time (a `Date`, or text where the client gives that).
 */
export type Version = number | bigint | string | Date;

interface VersionedOptions<Row> {
  /** `"orders"`, or `["shop", "orders"]` with its schema. */
  readonly table: TableName;
  /** The columns that name one row, with their values; a unique index over them has to exist. */
  readonly key: RowValues<NoInfer<Row>>;
  /**
   * The column that counts the versions, NOT NULL. A number is raised by one; a time is set to the
   * database's, and at least a millisecond later than it was, so it needs a precision of
   * milliseconds (`timestamptz`, `DATETIME(3)`, ISO 8601 text on SQLite).
   */
  readonly version: keyof NoInfer<Row> & string;
}

/** Compare and set: options of {@link updateVersion} with a known version. */
export interface UpdateVersionOptions<Row> extends VersionedOptions<Row> {
  /** The version that the change was made from. */
  readonly expected: Version;
  /** The columns to change. Neither key nor version. */
  readonly set: RowValues<NoInfer<Row>>;
}

/** Read, compute and set: options of {@link updateVersion} with a function. */
export interface ComputeVersionOptions<Row> extends VersionedOptions<Row> {
  /**
   * Computes the columns to change from the current row; `undefined` leaves it as it is. It may be
   * called several times, so it should have no effects of its own.
   */
  readonly set: (
    row: Row,
  ) => RowValues<NoInfer<Row>> | undefined | Promise<RowValues<NoInfer<Row>> | undefined>;
  /**
   * How many times it is tried while others are faster, with full jitter between.
   * @default 10
   */
  readonly attemptsMax?: number | undefined;
  /** Ends the tries. */
  readonly signal?: AbortSignal | undefined;
}

/** One change of {@link updateVersionAll}. */
export type VersionChange<Row> = Pick<UpdateVersionOptions<Row>, "key" | "expected" | "set">;

/** What became of an update. */
export type VersionUpdate<Row> =
  /** Written; the row and its new version. */
  | { kind: "updated"; row: Row; version: Version }
  /** Another version is there, nothing was written; the row as it is, to decide by. */
  | { kind: "conflict"; row: Row; version: Version }
  /** No row has this key. */
  | { kind: "absent" };

/** What became of an update by a function. */
export type VersionComputed<Row> =
  | VersionUpdate<Row>
  /** The function left it as it is. */
  | { kind: "unchanged"; row: Row; version: Version };

const OPTIONS = ["table", "key", "version", "expected", "set"] as const;
const COMPUTE_OPTIONS = ["table", "key", "version", "set", "attemptsMax", "signal"] as const;
const BACKOFF = { baseMs: 5, capMs: 250 };

/**
 * Updates a row if it still has the version that is expected, and raises the version. Of any number of
 * concurrent updates from one version, one is `updated`.
 *
 * With a function as `set` it reads the row, computes the change and writes it, and does so again while
 * others are faster. After `attemptsMax` it answers `conflict`.
 *
 * @typeParam Row the table's row as the client returns it
 * @param executor on an open transaction, or on a client or pool that commits each statement; on MySQL
 * on a transaction, because a second statement reads the row. At REPEATABLE READ and SERIALIZABLE
 * Postgres answers a conflict with its serialisation error (`40001`)
 * @throws {InvalidOption} for a NULL in the key or the version, for names and values that cannot be,
 * for a key that names several rows, and for a version whose precision is too coarse: roll back then
 * @throws the signal's reason when it aborts
 * @throws the database's own error, with what was being done in its message
 * @example
 * const update = await updateVersion(fromPg(client), {
 *   table: "documents",
 *   key: { id: 7 },
 *   version: "version",
 *   expected: 3,
 *   set: { body: "…" },
 * });
 * if (update.kind === "conflict") console.log("somebody else wrote version", update.version);
 */
export function updateVersion<Row extends object = Record<string, unknown>>(
  executor: SqlExecutor,
  options: UpdateVersionOptions<Row>,
): Promise<VersionUpdate<Row>>;
export function updateVersion<Row extends object = Record<string, unknown>>(
  executor: SqlExecutor,
  options: ComputeVersionOptions<Row>,
): Promise<VersionComputed<Row>>;
export async function updateVersion<Row extends object = Record<string, unknown>>(
  executor: SqlExecutor,
  options: UpdateVersionOptions<Row> | ComputeVersionOptions<Row>,
): Promise<VersionComputed<Row>> {
  if (typeof options.set === "function") {
    assertKnownOptions(options, COMPUTE_OPTIONS, "updateVersion() with a function as `set`");
    return computeAndSet(executor, options as ComputeVersionOptions<Row>);
  }
  assertKnownOptions(options, OPTIONS, "updateVersion()");
  return compareAndSet(executor, options as UpdateVersionOptions<Row>, "updateVersion()");
}

/**
 * {@link updateVersion} for many rows, one statement each, in the order of their keys, so that two such
 * lists in two transactions do not wait for each other in a circle. A key that comes twice is updated
 * twice, in the order of the list: the second has to expect what the first makes.
 *
 * @returns what became of each change, in the order of the list; a conflict leaves the others alone
 * @throws what {@link updateVersion} throws; changes before are written then, unless you roll back
 * @example
 * const updates = await updateVersionAll(fromPg(client), {
 *   table: "stock",
 *   version: "version",
 *   changes: [{ key: { sku: "A-1" }, expected: 3, set: { left: 11 } }],
 * });
 */
export async function updateVersionAll<Row extends object = Record<string, unknown>>(
  executor: SqlExecutor,
  options: Pick<VersionedOptions<Row>, "table" | "version"> & {
    readonly changes: readonly VersionChange<Row>[];
  },
): Promise<VersionUpdate<Row>[]> {
  assertKnownOptions(options, ["table", "version", "changes"], "updateVersionAll()");
  const { table, version, changes } = options;
  const ordered = changes.map((change, index) => {
    assertKnownOptions(change, ["key", "expected", "set"], `updateVersionAll(), change ${index}`);
    const entries = Object.entries(change.key).sort(([one], [other]) => compareText(one, other));
    return { change, index, identity: identityOf(entries.flat()) };
  });
  ordered.sort((one, other) => compareText(one.identity, other.identity));
  const updates: VersionUpdate<Row>[] = [];
  for (const { change, index } of ordered) {
    const one = { table, version, ...change };
    updates[index] = await compareAndSet<Row>(executor, one, "updateVersionAll()");
  }
  return updates;
}

async function compareAndSet<Row>(
  executor: SqlExecutor,
  { table, key, version, expected, set }: UpdateVersionOptions<Row>,
  call: string,
): Promise<VersionUpdate<Row>> {
  const target = targetOf(executor, table, call);
  const named = checkedKey(target, key as Values);
  const changes = checkedChanges(target, set as Values, named, version);
  const from = checkedVersion(target, expected);
  const written = await setIfCurrent<Row>(target, named, version, from, changes);
  if (written) return { kind: "updated", ...written };
  const current = await readCurrent<Row>(target, named, version);
  return current ? { kind: "conflict", ...current } : { kind: "absent" };
}

async function computeAndSet<Row>(
  executor: SqlExecutor,
  { table, key, version, set, attemptsMax = 10, signal }: ComputeVersionOptions<Row>,
): Promise<VersionComputed<Row>> {
  assertInteger(attemptsMax, "attemptsMax", 1, 1_000_000);
  const target = targetOf(executor, table, "updateVersion()");
  const named = checkedKey(target, key as Values);
  let current = await read<Row>(target, named, version);
  for (let attempts = 1; current !== undefined; attempts++) {
    signal?.throwIfAborted();
    const expected = checkedVersion(target, current.version);
    const computed = await set(current.row);
    if (computed === undefined) return { kind: "unchanged", ...current };
    const changes = checkedChanges(target, computed as Values, named, version);
    const written = await setIfCurrent<Row>(target, named, version, expected, changes);
    if (written) return { kind: "updated", ...written };
    if (attempts < attemptsMax) {
      await pause(systemClock, backoffMs(BACKOFF, attempts - 1, Math.random), signal);
    }
    current = await readCurrent<Row>(target, named, version);
    if (attempts >= attemptsMax && current) return { kind: "conflict", ...current };
  }
  return { kind: "absent" };
}

/** A row, and its version: that may have another name in the row, as the table or the client writes it. */
interface Versioned<Row> {
  row: Row;
  version: Version;
}

/** A name that no table has, for the version that a statement adds to the row's columns. */
const VERSION = "semel version";

function versionToo(dialect: SqlExecutor["dialect"], version: string): string {
  return `, ${quoted(dialect, version)} AS ${quoted(dialect, VERSION)}`;
}

function versioned<Row>({ [VERSION]: version, ...row }: Record<string, unknown>): Versioned<Row> {
  return { row: row as Row, version: version as Version };
}

async function read<Row>(
  target: Target,
  key: Values,
  version: string,
  lock = "",
): Promise<Versioned<Row> | undefined> {
  const also = versionToo(target.executor.dialect, version);
  const row = await readRow(target, key, lock, also);
  return row && versioned(row);
}

/** The one statement that compares and sets; nothing when there was nothing to set. */
async function setIfCurrent<Row>(
  target: Target,
  key: Values,
  version: string,
  expected: Version,
  set: Values,
): Promise<Versioned<Row> | undefined> {
  const { dialect } = target.executor;
  const parameters = new Parameters(dialect);
  const column = parameters.quoted(version);
  const counts = isCounter(expected);
  const next = counts ? `${column} + 1` : LATER[dialect](column);
  const assignments = [...parameters.assignments(set), `${column} = ${next}`];
  const isKey = parameters.isKey(key);
  const stored = dialect === "postgres" && expected instanceof Date ? truncated(column) : column;
  const isCurrent = `${stored} = ${parameters.compared(expected)}`;
  const returning = dialect === "mysql" ? "" : ` RETURNING *${versionToo(dialect, version)}`;
  const sql = `UPDATE ${target.table} SET ${assignments.join(", ")} WHERE ${isKey} AND ${isCurrent}${returning}`;
  const { rows, changes } = await run(target, sql, parameters);
  if (changes === 0) return undefined;
  if (changes > 1) {
    throw new InvalidOption(
      `${target.doing}: the key (${Object.keys(key).join(", ")}) names ${changes} rows, and all were changed; roll back, and use columns with a unique index`,
    );
  }
  const row =
    dialect === "mysql" ? await read<Row>(target, key, version) : versioned<Row>(rows[0]!);
  return checkedRow(target, row, version, expected);
}

/**
 * What was written, unless that is not what was read back: then another was faster than the second
 * statement, as happens outside of transactions, and nobody may be given its version for ours.
 */
function checkedRow<Row>(
  { executor: { dialect }, doing }: Target,
  written: Versioned<Row> | undefined,
  version: string,
  expected: Version,
): Versioned<Row> {
  if (written === undefined || (dialect === "mysql" && !isNext(written.version, expected))) {
    throw new InvalidOption(
      `${doing}: the row was updated, and changed by another before it was read back; on MySQL the executor has to be on an open transaction`,
    );
  }
  if (!isCounter(expected) && identityOf([written.version]) === identityOf([expected])) {
    throw new InvalidOption(
      `${doing}: the version column ${shown(version)} cannot tell this update from the one before; roll back, and give it a precision of milliseconds`,
    );
  }
  return written;
}

/** Of times it cannot be known. */
function isNext(stored: Version, expected: Version): boolean {
  return !isCounter(expected) || String(stored) === String(BigInt(expected as string) + 1n);
}

/** A locking read on MySQL: a transaction's snapshot may be older than what refused the update. */
function readCurrent<Row>(
  target: Target,
  key: Values,
  version: string,
): Promise<Versioned<Row> | undefined> {
  return read(target, key, version, target.executor.dialect === "mysql" ? " FOR UPDATE" : "");
}

function isCounter(version: Version): boolean {
  return typeof version === "string" ? /^-?\d+$/.test(version) : !(version instanceof Date);
}

/** A `Date` has milliseconds, `timestamptz` microseconds. */
function truncated(sql: string): string {
  return `date_trunc('milliseconds', ${sql})`;
}

/** The database's time, and at least a millisecond later than what is there. */
const LATER: Record<SqlExecutor["dialect"], (column: string) => string> = {
  postgres: (column) =>
    `GREATEST(${truncated("clock_timestamp()")}, ${truncated(column)} + interval '1 millisecond')`,
  mysql: (column) => `GREATEST(CURRENT_TIMESTAMP(3), ${column} + INTERVAL 1000 MICROSECOND)`,
  sqlite: (column) =>
    `max(strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), strftime('%Y-%m-%dT%H:%M:%fZ', ${column}, '+0.001 seconds'))`,
};

function targetOf(executor: SqlExecutor, table: TableName, call: string): Target {
  const name = quotedTable(executor.dialect, table);
  return { executor, table: name, doing: `${call} of ${name}` };
}

function checkedKey({ doing }: Target, key: Values): Values {
  assertValues(`${doing}: \`key\``, key);
  return keyOf(key, Object.keys(key), doing);
}

function checkedChanges({ doing }: Target, set: Values, key: Values, version: string): Values {
  assertValues(`${doing}: \`set\``, set);
  for (const column of Object.keys(set)) {
    if (column === version || Object.hasOwn(key, column)) {
      const what = column === version ? "version" : "key";
      throw new InvalidOption(`${doing}: \`set\` has the ${what} column ${shown(column)}`);
    }
  }
  return set;
}

function checkedVersion({ doing }: Target, version: unknown): Version & SqlValue {
  const isNumber = typeof version === "bigint" || Number.isSafeInteger(version);
  const isText = typeof version === "string" && version !== "";
  const isTime = version instanceof Date && !Number.isNaN(version.getTime());
  if (isNumber || isText || isTime) return version as Version;
  throw new InvalidOption(
    `${doing}: a version is a whole number, a Date or their text, got ${shown(version)}; the column has to be NOT NULL`,
  );
}
