// Inserting a row once: whoever comes second gets the row that is there. The unique index of the key
// decides, never a look before the insertion.

import { InvalidOption, SemelError, StoreUnavailable } from "../errors.ts";
import { assertKnownOptions, shown } from "../options.ts";
import type { SqlExecutor, SqlValue } from "../store.ts";
import { assertValues, quotedTable, type TableName } from "./identifiers.ts";
import { compareText, identityOf, Parameters, run, type Target, type Values } from "./statement.ts";

/** The columns of a row that are written, each with its value. */
export type RowValues<Row> = { readonly [Column in keyof Row & string]?: SqlValue };

/** Where rows go, and what makes them the same. */
export interface InsertOnceOptions<Row> {
  /** `"orders"`, or `["shop", "orders"]` with its schema. */
  readonly table: TableName;
  /** The row, or for {@link insertOnceAll} the rows, all with the same columns. */
  readonly values: RowValues<NoInfer<Row>>;
  /**
   * The columns that name a row. A unique index or primary key over exactly these has to exist.
   * None may be NULL: NULLs never conflict, so that a second insertion would be a second row.
   */
  readonly key: readonly (keyof NoInfer<Row> & string)[];
  /**
   * Compares a row that is there already with `values`: `true` for all of its columns, or the names
   * of some. The database compares, by the rules of each column (on MySQL usually regardless of
   * case); columns of JSON cannot be compared everywhere.
   * @default false
   */
  readonly compare?: boolean | readonly (keyof NoInfer<Row> & string)[] | undefined;
}

/** The rows of {@link insertOnceAll}. */
export type InsertOnceAllOptions<Row> = Omit<InsertOnceOptions<Row>, "values"> & {
  readonly values: readonly RowValues<NoInfer<Row>>[];
};

/** The row as the database has it, and whether this call wrote it. */
export interface Inserted<Row> {
  row: Row;
  inserted: boolean;
}

/** A row with this key is there, and it says something else. It is untouched. */
export class RowMismatch extends SemelError<"key-reused"> {
  /** The columns whose values differ. */
  readonly columns: readonly string[];
  /** The first of the given rows, from 0, that differs. */
  readonly index: number;

  constructor(doing: string, columns: readonly string[], index: number) {
    super(
      "key-reused",
      `${doing}: a row with this key is there, with another ${columns.map((name) => shown(name)).join(", ")}; it was left as it is`,
    );
    this.columns = columns;
    this.index = index;
  }
}

const OPTIONS = ["table", "values", "key", "compare"] as const;
/** Rows of one statement: SQLite joins at most 500 `SELECT`s, and Postgres plans each. */
const ROWS_MAX = 100;
/** Parameters of one statement: SQLite takes 32,766, Postgres 65,535. */
const PARAMETERS_MAX = 20_000;
/** A row that vanishes after each try means something else than bad luck. */
const TRIES_MAX = 10;

/**
 * Inserts a row unless one with its key is there, and returns the row that is there then.
 *
 * Of any number of concurrent calls one gets `inserted: true`, and all get the same row. A call waits
 * for a transaction that has inserted the key and is still open. At READ COMMITTED it then sees that
 * row; at REPEATABLE READ and SERIALIZABLE, Postgres fails with its serialisation error (`40001`)
 * instead, and the transaction has to be tried again as a whole.
 *
 * @typeParam Row the table's row as the client returns it
 * @param executor on an open transaction, or on a client or pool that commits each statement; on
 * MySQL on a transaction, because a second statement reads the row
 * @throws {InvalidOption} for a NULL in the key, and for names and values that cannot be
 * @throws {RowMismatch} when `compare` finds a difference
 * @throws {StoreUnavailable} when the row is refused and yet not there, again and again
 * @throws the database's own error, with what was being done in its message
 * @example
 * const { row, inserted } = await insertOnce<Order>(fromPg(client), {
 *   table: "orders",
 *   values: { shop_id: 7, number: "A-1", total: 4200 },
 *   key: ["shop_id", "number"],
 *   compare: ["total"],
 * });
 */
export async function insertOnce<Row extends object = Record<string, unknown>>(
  executor: SqlExecutor,
  options: InsertOnceOptions<Row>,
): Promise<Inserted<Row>> {
  assertKnownOptions(options, OPTIONS, "insertOnce()");
  const plan = planOf<Row>(executor, { ...options, values: [options.values] }, "insertOnce()");
  const [outcome] = await insertChunk(plan, plan.items);
  return outcome as Inserted<Row>;
}

/**
 * {@link insertOnce} for many rows: a hundred or so in a statement, in the order of their keys. A key
 * that comes twice is inserted once, and its second row is compared with the first like any other that
 * was there.
 *
 * @returns what became of each row, in their order
 * @throws what {@link insertOnce} throws; the rows before are inserted then, unless you roll back
 * @example
 * const outcomes = await insertOnceAll(fromPg(client), {
 *   table: "events",
 *   values: events.map(({ id, kind }) => ({ id, kind })),
 *   key: ["id"],
 * });
 * const fresh = outcomes.filter(({ inserted }) => inserted);
 */
export async function insertOnceAll<Row extends object = Record<string, unknown>>(
  executor: SqlExecutor,
  options: InsertOnceAllOptions<Row>,
): Promise<Inserted<Row>[]> {
  assertKnownOptions(options, OPTIONS, "insertOnceAll()");
  const plan = planOf<Row>(executor, options, "insertOnceAll()");
  const size = Math.max(1, Math.min(ROWS_MAX, Math.floor(PARAMETERS_MAX / plan.width)));
  const outcomes: Inserted<Row>[] = [];
  // In the order of their keys: two lists in different orders would wait for each other in a circle.
  const ordered = plan.items.toSorted(byKey);
  for (let start = 0; start < ordered.length; start += size) {
    const chunk = ordered.slice(start, start + size);
    for (const [n, outcome] of (await insertChunk(plan, chunk)).entries()) {
      outcomes[chunk[n]!.index] = outcome as Inserted<Row>;
    }
  }
  return outcomes;
}

function byKey(one: Item, other: Item): number {
  return compareText(identityOf(Object.values(one.key)), identityOf(Object.values(other.key)));
}

interface Item {
  index: number;
  values: Values;
  key: Values;
}

interface Plan extends Target {
  columns: readonly string[];
  key: readonly string[];
  compared: readonly string[];
  items: readonly Item[];
  /** Parameters of an item, in the longer of its statements. */
  width: number;
}

/** A row that was found, and which of the compared columns differ from what was given. */
interface Found {
  row: Record<string, unknown>;
  identity: string;
  differing: readonly string[];
}

type Outcome = Inserted<Record<string, unknown>>;

function planOf<Row>(
  executor: SqlExecutor,
  { table, values, key, compare = false }: InsertOnceAllOptions<Row>,
  call: string,
): Plan {
  const name = quotedTable(executor.dialect, table);
  const doing = `${call} into ${name}`;
  if (!Array.isArray(values))
    throw new InvalidOption(`${doing}: \`values\` must be a list of rows`);
  const columns = Object.keys(values[0] ?? {});
  const items = values.map((row, index) => itemOf(row as Values, index, columns, key, doing));
  const compared = comparedColumns(compare, columns, key, doing);
  const width = columns.length + key.length;
  return { executor, table: name, doing, columns, key, compared, items, width };
}

function comparedColumns(
  compare: boolean | readonly string[],
  columns: readonly string[],
  key: readonly string[],
  doing: string,
): readonly string[] {
  if (compare === true) return columns.filter((column) => !key.includes(column));
  if (compare === false) return [];
  const unknown = compare.find((column) => !columns.includes(column));
  if (unknown === undefined) return compare;
  throw new InvalidOption(
    `${doing}: \`compare\` names ${shown(unknown)}, which is not in \`values\``,
  );
}

function itemOf(
  values: Values,
  index: number,
  columns: readonly string[],
  key: readonly string[],
  doing: string,
): Item {
  assertValues(`${doing}: row ${index}`, values);
  const given = Object.keys(values);
  if (given.length !== columns.length || given.some((column) => !columns.includes(column))) {
    throw new InvalidOption(
      `${doing}: row ${index} has other columns than row 0 (${given.join(", ")} instead of ${columns.join(", ")})`,
    );
  }
  return { index, values, key: keyOf(values, key, doing) };
}

/**
 * The key's columns and values.
 *
 * @throws {InvalidOption} where there are none, or one is NULL
 */
export function keyOf(values: Values, columns: readonly string[], doing: string): Values {
  if (!Array.isArray(columns) || columns.length === 0) {
    throw new InvalidOption(`${doing}: \`key\` must name the columns of a unique index`);
  }
  const key: [string, SqlValue][] = columns.map((column: string) => {
    const value = Object.hasOwn(values, column) ? values[column] : undefined;
    if (value !== undefined && value !== null) return [column, value];
    const state = value === null ? "NULL" : "missing";
    throw new InvalidOption(
      `${doing}: the key column ${shown(column)} is ${state}; NULLs never conflict, so that each would be another row. Give it a value`,
    );
  });
  return Object.fromEntries(key);
}

/** Inserts what is not there, and tells of each item what became of it. */
function insertChunk(plan: Plan, items: readonly Item[]): Promise<Outcome[]> {
  return plan.executor.dialect === "mysql" ? insertMysql(plan, items) : insertOrSkip(plan, items);
}

/**
 * Postgres and SQLite. The insertion's own snapshot may lack the row that it conflicts with, so a
 * second statement reads; a row that is then not there was deleted in between, and is tried again.
 */
async function insertOrSkip(plan: Plan, items: readonly Item[]): Promise<Outcome[]> {
  const outcomes = new Map<Item, Outcome>();
  let pending = items;
  for (let tries = 0; pending.length > 0; tries++) {
    if (tries === TRIES_MAX) throw vanishing(plan);
    const parameters = new Parameters(plan.executor.dialect);
    const target = plan.key.map((column) => parameters.quoted(column)).join(", ");
    const insertion = insertionOf(plan, pending, parameters);
    const sql = `${insertion} ON CONFLICT (${target}) DO NOTHING RETURNING *${identityToo(plan, parameters)}`;
    const { rows } = await run(plan, sql, parameters);
    const inserted = rows.map(withoutIdentity);
    if (items.length === 1 && inserted[0]) return [{ row: inserted[0].row, inserted: true }];
    const fresh = new Set(inserted.map(({ identity }) => identity));
    const found = await find(plan, pending);
    for (const item of pending) {
      const there = found.get(item);
      if (there === undefined) continue;
      // Of items with one key the first is the one that was inserted.
      outcomes.set(item, outcomeOf(plan, item, there, fresh.delete(there.identity)));
    }
    pending = pending.filter((item) => !outcomes.has(item));
  }
  return items.map((item) => outcomes.get(item)!);
}

/**
 * MySQL has neither `RETURNING` nor a conflict clause that spares other errors: `INSERT IGNORE` also
 * ignores values that do not fit. So the insertion may fail as a duplicate, which undoes that
 * statement alone. What is inserted together fails together, and is then done one by one.
 */
async function insertMysql(plan: Plan, items: readonly Item[]): Promise<Outcome[]> {
  if (items.length === 1) return [await insertOneMysql(plan, items[0]!)];
  const found = await find(plan, items);
  const pending = items.filter((item) => !found.has(item));
  const fresh = firsts(pending);
  const outcomes = new Map<Item, Outcome>();
  if (fresh.length > 0 && !(await insertsTogether(plan, fresh))) {
    for (const item of pending) outcomes.set(item, await insertOneMysql(plan, item));
  }
  const written = pending.filter((item) => !outcomes.has(item));
  for (const [item, there] of await find(plan, written)) found.set(item, there);
  return items.map((item) => {
    const there = found.get(item);
    if (there) return outcomeOf(plan, item, there, fresh.includes(item));
    const outcome = outcomes.get(item);
    if (outcome) return outcome;
    throw notInTransaction(plan);
  });
}

/** The first item of each key. */
function firsts(items: readonly Item[]): readonly Item[] {
  const seen = new Map<string, Item>();
  for (const item of items) {
    const identity = identityOf(Object.values(item.key));
    if (!seen.has(identity)) seen.set(identity, item);
  }
  return [...seen.values()];
}

async function insertsTogether(plan: Plan, items: readonly Item[]): Promise<boolean> {
  const parameters = new Parameters("mysql");
  try {
    await run(plan, insertionOf(plan, items, parameters), parameters);
    return true;
  } catch (error) {
    if (isDuplicate(error)) return false;
    throw error;
  }
}

async function insertOneMysql(plan: Plan, item: Item): Promise<Outcome> {
  for (let tries = 0; ; tries++) {
    const parameters = new Parameters("mysql");
    try {
      await run(plan, insertionOf(plan, [item], parameters), parameters);
    } catch (error) {
      if (!isDuplicate(error)) throw error;
      // A locking read sees the newest state; a transaction's snapshot may be older than the row.
      const found = (await find(plan, [item], " LOCK IN SHARE MODE")).get(item);
      if (found) return outcomeOf(plan, item, found, false);
      // It was deleted since, or another unique index refused it.
      if (tries + 1 < TRIES_MAX) continue;
      throw error;
    }
    const found = (await find(plan, [item])).get(item);
    if (found) return { row: found.row, inserted: true };
    throw notInTransaction(plan);
  }
}

function insertionOf(plan: Plan, items: readonly Item[], parameters: Parameters): string {
  const columns = plan.columns.map((column) => parameters.quoted(column)).join(", ");
  const rows = items.map(({ values }) => {
    const places = plan.columns.map((column) => parameters.add(values[column]!));
    return `(${places.join(", ")})`;
  });
  return `INSERT INTO ${plan.table} (${columns}) VALUES ${rows.join(", ")}`;
}

/** Names that no table has, for what a statement adds to its columns. */
const ITEM = "semel item";
const SAME = "semel same ";
const IDENTITY = "semel identity";

/**
 * The stored key as one text, under a name of its own: the names of columns come back as the table or the
 * client writes them, and clients round numbers and times. MySQL returns nothing that it would be for.
 */
function identityToo({ executor, key }: Plan, parameters: Parameters, alias = ""): string {
  const { dialect } = executor;
  if (dialect === "mysql") return "";
  const texts = key.map((column) => {
    const name = `${alias}${parameters.quoted(column)}`;
    // Framed by quotes, so that no two keys are written alike.
    return dialect === "postgres" ? `quote_literal(CAST(${name} AS text))` : `quote(${name})`;
  });
  return `, ${texts.join(" || ',' || ")} AS ${parameters.quoted(IDENTITY)}`;
}

function withoutIdentity({ [IDENTITY]: identity, ...row }: Record<string, unknown>) {
  return { row, identity: String(identity) };
}

/**
 * Reads the rows of many keys with one statement. The database says which row belongs to which item,
 * because only it knows which values it takes for equal (case, number formats, padding).
 */
async function find(plan: Plan, items: readonly Item[], lock = ""): Promise<Map<Item, Found>> {
  const found = new Map<Item, Found>();
  if (items.length === 0) return found;
  const parameters = new Parameters(plan.executor.dialect);
  const selections = items.map((item, position) => {
    const same = plan.compared.map(
      (column, n) =>
        `, ${isSame(plan, parameters, column, item.values[column]!)} AS ${parameters.quoted(`${SAME}${n}`)}`,
    );
    const also = `, ${position} AS ${parameters.quoted(ITEM)}${identityToo(plan, parameters, "t.")}`;
    return `SELECT t.*${also}${same.join("")} FROM ${plan.table} AS t WHERE ${parameters.isKey(item.key, "t.")}`;
  });
  const { rows } = await run(plan, `${selections.join(" UNION ALL ")}${lock}`, parameters);
  for (const { [ITEM]: position, ...rest } of rows) {
    const { row, identity } = withoutIdentity(rest);
    const differing = plan.compared.filter((_, n) => !isTrue(row[`${SAME}${n}`]));
    for (let n = 0; n < plan.compared.length; n++) delete row[`${SAME}${n}`];
    found.set(items[Number(position)]!, { row, identity, differing });
  }
  return found;
}

/** Equality that takes NULL for a value. */
function isSame(plan: Plan, parameters: Parameters, column: string, value: SqlValue): string {
  const name = `t.${parameters.quoted(column)}`;
  const place = parameters.compared(value);
  switch (plan.executor.dialect) {
    case "postgres":
      return `${name} IS NOT DISTINCT FROM ${place}`;
    case "mysql":
      return `${name} <=> ${place}`;
    case "sqlite":
      return `${name} IS ${place}`;
  }
}

/** The databases' and clients' ways to say true. */
function isTrue(value: unknown): boolean {
  return value === true || Number(value) === 1;
}

function outcomeOf(plan: Plan, item: Item, { row, differing }: Found, inserted: boolean): Outcome {
  if (!inserted && differing.length > 0) throw new RowMismatch(plan.doing, differing, item.index);
  return { row, inserted };
}

/** ER_DUP_ENTRY, whatever library has wrapped it. */
function isDuplicate(error: unknown): boolean {
  let inner = error as Wrapped | undefined;
  for (let depth = 0; inner && depth < 8; depth++) {
    if (inner.errno === 1062 || inner.code === "ER_DUP_ENTRY" || inner.meta?.code === "1062") {
      return true;
    }
    inner = inner.driverError ?? inner.cause;
  }
  return false;
}

/** Errors of `mysql2`, TypeORM (`driverError`), Drizzle and Kysely (`cause`), Prisma (`meta`). */
interface Wrapped {
  errno?: unknown;
  code?: unknown;
  meta?: { code?: unknown };
  driverError?: Wrapped;
  cause?: Wrapped;
}

function vanishing({ doing }: Plan): StoreUnavailable {
  return new StoreUnavailable(
    `${doing}: a row with this key refuses the insertion, and is not there to be read, ${TRIES_MAX} times in a row; others delete it all the time, or this role may not read it`,
  );
}

function notInTransaction({ doing }: Plan): InvalidOption {
  return new InvalidOption(
    `${doing}: the row was inserted, and deleted by another before it was read back; on MySQL the executor has to be on an open transaction`,
  );
}
