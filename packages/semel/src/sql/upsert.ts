// Writing a row whether it is there or not, and telling which it was.

import { InvalidOption, StoreUnavailable } from "../errors.ts";
import { assertKnownOptions, shown } from "../options.ts";
import type { SqlExecutor } from "../store.ts";
import { assertValues, quotedTable } from "./identifiers.ts";
import {
  type InsertOnceOptions,
  insertOnce,
  insertOnceAll,
  keyOf,
  type RowValues,
} from "./insert-once.ts";
import {
  compareText,
  identityOf,
  Parameters,
  readRow,
  run,
  type Target,
  type Values,
} from "./statement.ts";

/** A row, what names it, and what of it may be written over. */
export interface UpsertOptions<Row> extends Omit<InsertOnceOptions<Row>, "compare"> {
  /**
   * The columns that a row which is there takes over from `values`.
   * @default all that are not of the key
   */
  readonly update?: readonly (keyof NoInfer<Row> & string)[] | undefined;
  /**
   * A column, and a row that is there is updated only if this column's value in `values` is greater
   * than its own, or its own is NULL: a message that comes late changes nothing. It is updated with
   * the others.
   * @default none: always updated
   */
  readonly onlyIfNewer?: (keyof NoInfer<Row> & string) | undefined;
}

/** The rows of {@link upsertAll}. */
export type UpsertAllOptions<Row> = Omit<UpsertOptions<Row>, "values"> & {
  readonly values: readonly RowValues<NoInfer<Row>>[];
};

/** The row as the database has it, and what was done: `unchanged` when `onlyIfNewer` kept it. */
export interface Upserted<Row> {
  kind: "inserted" | "updated" | "unchanged";
  row: Row;
}

const OPTIONS = ["table", "values", "key", "update", "onlyIfNewer"] as const;
const TRIES_MAX = 10;

/**
 * Inserts a row, or updates the one that has its key.
 *
 * @typeParam Row the table's row as the client returns it
 * @param executor on an open transaction, or on a client or pool that commits each statement; on
 * MySQL on a transaction
 * @throws what `insertOnce()` throws
 * @example
 * const { kind } = await upsert(fromPg(client), {
 *   table: "prices",
 *   values: { sku: "A-1", cents: 4200, revision: event.revision },
 *   key: ["sku"],
 *   onlyIfNewer: "revision",
 * });
 */
export async function upsert<Row extends object = Record<string, unknown>>(
  executor: SqlExecutor,
  options: UpsertOptions<Row>,
): Promise<Upserted<Row>> {
  assertKnownOptions(options, OPTIONS, "upsert()");
  const plan = planOf<Row>(executor, options, [options.values], "upsert()");
  const { table, values, key } = options;
  const named = keyOf(values as Values, key, plan.doing);
  for (let tries = 0; tries < TRIES_MAX; tries++) {
    // A look first: a refused insertion would lock the row on MySQL, and two of them each other.
    if (await readRow(plan, named)) {
      const updated = await update<Row>(plan, values as Values);
      if (updated) return updated;
    }
    const { row, inserted } = await insertOnce<Row>(executor, { table, values, key });
    if (inserted) return { kind: "inserted", row };
    const updated = await update<Row>(plan, values as Values);
    if (updated) return updated;
  }
  throw vanishing(plan);
}

/**
 * {@link upsert} for many rows: what is not there is inserted a hundred or so in a statement, what is
 * there is updated row by row, in the order of their keys. A key that comes twice is inserted and then
 * updated, in the order of the list.
 *
 * @returns what became of each row, in their order
 * @throws what `insertOnce()` throws; the rows before are written then, unless you roll back
 * @example
 * const outcomes = await upsertAll(fromPg(client), { table: "prices", values: prices, key: ["sku"] });
 */
export async function upsertAll<Row extends object = Record<string, unknown>>(
  executor: SqlExecutor,
  options: UpsertAllOptions<Row>,
): Promise<Upserted<Row>[]> {
  assertKnownOptions(options, OPTIONS, "upsertAll()");
  const { table, values, key } = options;
  if (!Array.isArray(values))
    throw new InvalidOption("upsertAll(): `values` must be a list of rows");
  const plan = planOf<Row>(executor, options, values, "upsertAll()");
  const insertions = await insertOnceAll<Row>(executor, { table, values, key });
  const outcomes: Upserted<Row>[] = [];
  for (const index of inOrderOfKeys(plan, values)) {
    const { row, inserted } = insertions[index]!;
    if (inserted) {
      outcomes[index] = { kind: "inserted", row };
      continue;
    }
    const updated = await update<Row>(plan, values[index] as Values);
    // Somebody deleted it in between.
    const again = { ...options, values: values[index]! };
    outcomes[index] = updated ?? (await upsert<Row>(executor, again));
  }
  return outcomes;
}

/** So that two lists do not wait for each other in a circle; equal keys stay as they were listed. */
function inOrderOfKeys({ key, doing }: Plan, rows: readonly unknown[]): number[] {
  const identities = rows.map((row) => identityOf(Object.values(keyOf(row as Values, key, doing))));
  return [...rows.keys()].sort((one, other) => compareText(identities[one]!, identities[other]!));
}

interface Plan extends Target {
  key: readonly string[];
  updated: readonly string[];
  newer: string | undefined;
}

function planOf<Row>(
  executor: SqlExecutor,
  { table, key, update: chosen, onlyIfNewer }: Omit<UpsertOptions<Row>, "values">,
  rows: readonly RowValues<Row>[],
  call: string,
): Plan {
  const name = quotedTable(executor.dialect, table);
  const doing = `${call} into ${name}`;
  // Before anything is read: what a client writes into a statement must not get into a condition.
  for (const [index, row] of rows.entries()) assertValues(`${doing}: row ${index}`, row);
  const columns = Object.keys(rows[0] ?? {});
  const isOfKey = (column: string) => (key as readonly string[]).includes(column);
  const updated = new Set<string>(chosen ?? columns.filter((column) => !isOfKey(column)));
  if (onlyIfNewer !== undefined) updated.add(onlyIfNewer);
  for (const column of rows.length > 0 ? updated : []) {
    if (isOfKey(column)) {
      throw new InvalidOption(`${doing}: the key column ${shown(column)} cannot be updated`);
    }
    if (!columns.includes(column)) {
      throw new InvalidOption(`${doing}: ${shown(column)} is to be updated and not in \`values\``);
    }
  }
  if (rows.length > 0 && updated.size === 0) {
    throw new InvalidOption(`${doing}: there is nothing to update; use insertOnce()`);
  }
  const newer: string | undefined = onlyIfNewer;
  if (newer !== undefined && rows.some((row) => (row as Values)[newer] === null)) {
    throw new InvalidOption(`${doing}: \`onlyIfNewer\` compares ${shown(newer)}, which is NULL`);
  }
  return { executor, table: name, doing, key, updated: [...updated], newer };
}

/** Updates a row that was there; nothing when it is there no more. */
async function update<Row>(plan: Plan, values: Values): Promise<Upserted<Row> | undefined> {
  const { dialect } = plan.executor;
  const key = keyOf(values, plan.key, plan.doing);
  const parameters = new Parameters(dialect);
  const set = plan.updated.map((column): [string, Values[string]] => [column, values[column]!]);
  const assignments = parameters.assignments(Object.fromEntries(set)).join(", ");
  const conditions = [parameters.isKey(key)];
  if (plan.newer !== undefined) {
    const stored = parameters.quoted(plan.newer);
    const given = parameters.compared(values[plan.newer]!);
    conditions.push(`(${stored} IS NULL OR ${stored} < ${given})`);
  }
  const returning = dialect === "mysql" ? "" : " RETURNING *";
  const sql = `UPDATE ${plan.table} SET ${assignments} WHERE ${conditions.join(" AND ")}${returning}`;
  const { rows, changes } = await run(plan, sql, parameters);
  if (rows[0]) return { kind: "updated", row: rows[0] as Row };
  const row = await readRow(plan, key, dialect === "mysql" ? " FOR UPDATE" : "");
  if (row === undefined) return undefined;
  // Without a condition a row of MySQL counts as not changed when it said the same before.
  const isUpdated = changes > 0 || plan.newer === undefined;
  if (dialect === "mysql") return { kind: isUpdated ? "updated" : "unchanged", row: row as Row };
  // Elsewhere an unconditional update that found no row means that it came between.
  return plan.newer === undefined ? undefined : { kind: "unchanged", row: row as Row };
}

function vanishing({ doing }: Plan): StoreUnavailable {
  return new StoreUnavailable(
    `${doing}: the row was deleted between insertion and update ${TRIES_MAX} times in a row; ask again`,
  );
}
