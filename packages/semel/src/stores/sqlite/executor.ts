// SQL on the user's own SQLite handle, as a `SqlExecutor`: statements run at once, answers come as
// promises.

import type { SqlExecutor, SqlResult, SqlValue } from "../../store.ts";
import { blob, type SqliteDatabase, type SqliteStatement, type SqliteValue } from "./connection.ts";

/** What drivers tell about a statement: `libsql` and `better-sqlite3` have `reader`. */
type DescribedStatement = SqliteStatement & { reader?: boolean; columns?(): readonly unknown[] };

/**
 * An executor on a SQLite handle: `DatabaseSync` of `node:sqlite`, or a `Database` of `libsql` or
 * `better-sqlite3`. A `Date` is stored as ISO 8601 text, a boolean as 0 or 1.
 *
 * @example await idempotency.within(fromSqlite(database), { key, payload }, () => insert(database));
 */
export function fromSqlite(database: SqliteDatabase): SqlExecutor {
  return {
    dialect: "sqlite",
    query: async (sql, parameters) => execute(database, sql, parameters.map(sqliteValue)),
  };
}

function execute(
  database: SqliteDatabase,
  sql: string,
  parameters: readonly SqliteValue[],
): SqlResult {
  const statement = database.prepare(sql);
  if (!returnsRows(statement, sql)) {
    return { rows: [], changes: Number(statement.run(...parameters).changes) };
  }
  const rows = statement.all(...parameters) as Record<string, unknown>[];
  return { rows, changes: rows.length };
}

function returnsRows(statement: DescribedStatement, sql: string): boolean {
  if (statement.reader !== undefined) return statement.reader;
  if (statement.columns !== undefined) return statement.columns().length > 0;
  return readsRows(sql);
}

/** Whether a statement returns rows, for clients that have one method for those and one for others. */
export function readsRows(sql: string): boolean {
  return /^\s*(select|with|values|pragma|show|explain)\b|\breturning\b/i.test(sql);
}

/** A value as SQLite's drivers take it. */
function sqliteValue(value: SqlValue): SqliteValue {
  if (typeof value === "boolean") return value ? 1 : 0;
  if (value instanceof Date) return value.toISOString();
  if (value instanceof Uint8Array) return blob(value);
  // Every driver binds a bigint.
  return value as SqliteValue;
}
