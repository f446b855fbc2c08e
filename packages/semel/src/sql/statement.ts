// A statement on one table while it is written, and its run.

import type { SqlExecutor, SqlResult, SqlValue } from "../store.ts";
import { quoted } from "./identifiers.ts";

/** Columns and their values. */
export type Values = Readonly<Record<string, SqlValue>>;

/** What statements on one table share. */
export interface Target {
  executor: SqlExecutor;
  /** Quoted. */
  table: string;
  /** What is being done, for the messages of errors: `insertOnce() into "orders"`. */
  doing: string;
}

/** Collects the parameters of a statement as their places are written. */
export class Parameters {
  readonly values: SqlValue[] = [];
  readonly #dialect: SqlExecutor["dialect"];

  constructor(dialect: SqlExecutor["dialect"]) {
    this.#dialect = dialect;
  }

  /** The place of a value that is written to a column. */
  add(value: SqlValue): string {
    this.values.push(value);
    return this.#dialect === "postgres" ? `$${this.values.length}` : "?";
  }

  /**
   * The place of a value that a column is compared with. MySQL compares a text column with a number
   * by the numbers that its texts begin with, `'7 apples' = 7`; with text it compares as the column
   * does.
   */
  compared(value: SqlValue): string {
    const isNumber = typeof value === "number" || typeof value === "bigint";
    return this.add(this.#dialect === "mysql" && isNumber ? String(value) : value);
  }

  /** Tests that the row is the one of a key. */
  isKey(key: Values, alias = ""): string {
    return Object.entries(key)
      .map(([column, value]) => `${alias}${this.quoted(column)} = ${this.compared(value)}`)
      .join(" AND ");
  }

  /** Assignments of an `UPDATE`. */
  assignments(set: Values): string[] {
    return Object.entries(set).map(
      ([column, value]) => `${this.quoted(column)} = ${this.add(value)}`,
    );
  }

  quoted(column: string): string {
    return quoted(this.#dialect, column);
  }
}

/**
 * Runs a statement. What the database or its client rejects with is passed on as it is, so that codes
 * and classes stay what callers know; only its message says in addition what was being done.
 */
export async function run(
  { executor, doing }: Target,
  sql: string,
  { values }: Parameters,
): Promise<SqlResult> {
  try {
    return await executor.query(sql, values);
  } catch (error) {
    if (error instanceof Error) addContext(error, doing);
    throw error;
  }
}

function addContext(error: Error, doing: string): void {
  const { message, stack } = error;
  if (message.startsWith(doing)) return;
  error.message = `${doing}: ${message}`;
  if (stack !== undefined) error.stack = stack.replace(message, () => error.message);
}

/**
 * Reads the row of a key.
 *
 * @param lock at the end of the statement, where the dialect needs one to see the newest state
 * @param also what is selected besides the row's columns
 */
export async function readRow(
  target: Target,
  key: Values,
  lock = "",
  also = "",
): Promise<Record<string, unknown> | undefined> {
  const parameters = new Parameters(target.executor.dialect);
  const condition = parameters.isKey(key);
  const sql = `SELECT *${also} FROM ${target.table} WHERE ${condition}${lock}`;
  const { rows } = await run(target, sql, parameters);
  return rows[0];
}

/** A key as text, equal where the values are: for what came from one side, caller or database. */
export function identityOf(values: readonly unknown[]): string {
  return JSON.stringify(values.map(comparable));
}

function comparable(value: unknown): string {
  if (value instanceof Date) return `date ${value.getTime()}`;
  if (value instanceof Uint8Array) return `bytes ${Buffer.from(value).toString("hex")}`;
  return `${typeof value} ${value}`;
}

/** An order by code units, for `sort()`. */
export function compareText(one: string, other: string): number {
  if (one === other) return 0;
  return one < other ? -1 : 1;
}
