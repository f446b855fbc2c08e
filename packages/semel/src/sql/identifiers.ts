// Names and values on their way into SQL: names are always quoted, values are always parameters.

import { InvalidOption } from "../errors.ts";
import { shown } from "../options.ts";
import type { SqlExecutor, SqlValue } from "../store.ts";

/**
 * A table: its name, or schema (on MySQL the database) and name. `"orders"`, `["shop", "orders"]`.
 * Names are quoted as they are, so upper and lower case count where the database has them count.
 */
export type TableName = string | readonly [name: string] | readonly [schema: string, name: string];

/**
 * A table's name as SQL.
 *
 * @throws {InvalidOption} for a name that cannot be quoted safely, or a dotted string, of which
 * nobody can know whether it has a schema
 */
export function quotedTable(dialect: SqlExecutor["dialect"], table: TableName): string {
  if (typeof table === "string" && table.includes(".")) {
    const [schema, ...rest] = table.split(".");
    throw new InvalidOption(
      `\`table\` ${shown(table)}: write ${JSON.stringify([schema, rest.join(".")])} for a table of a schema, or ${JSON.stringify([table])} for a name with a dot in it`,
    );
  }
  const parts = typeof table === "string" ? [table] : table;
  if (!Array.isArray(parts) || parts.length < 1 || parts.length > 2) {
    throw new InvalidOption(
      `\`table\` must be a name or [schema, name], got ${Array.isArray(parts) ? `${parts.length} names` : shown(table)}`,
    );
  }
  return parts.map((part) => quoted(dialect, part)).join(".");
}

/**
 * One name as SQL: `"order"`, on MySQL `` `order` ``.
 *
 * @throws {InvalidOption} for a name that cannot be quoted safely
 */
export function quoted(dialect: SqlExecutor["dialect"], name: unknown): string {
  if (typeof name !== "string" || name === "") {
    throw new InvalidOption(`A name in SQL must be a string that is not empty, got ${shown(name)}`);
  }
  if (name.includes("\0") || !name.isWellFormed()) {
    throw new InvalidOption(`The name ${shown(name)} holds a character that no name in SQL can`);
  }
  if (dialect === "postgres" && Buffer.byteLength(name) > POSTGRES_NAME_BYTES_MAX) {
    throw new InvalidOption(
      `The name ${shown(name)} is longer than ${POSTGRES_NAME_BYTES_MAX} bytes, and Postgres cuts off the rest: it would be another name`,
    );
  }
  if (dialect !== "mysql") return `"${name.replaceAll('"', '""')}"`;
  if (name.includes("?")) {
    throw new InvalidOption(
      `The name ${shown(name)} holds a question mark, which clients of MySQL take for a parameter even within quotes`,
    );
  }
  return `\`${name.replaceAll("`", "``")}\``;
}

const POSTGRES_NAME_BYTES_MAX = 63;

/**
 * Refuses what is no value of SQL (some clients write objects and arrays into statements), and what
 * reaches the database as another value: MySQL's client and SQLite write NULL for what is no date or no
 * number, and a NULL in a key never conflicts.
 *
 * @throws {InvalidOption} that names the column
 */
export function assertValue(column: string, value: unknown): asserts value is SqlValue {
  const mistake = mistakeOf(value);
  if (mistake) throw new InvalidOption(`The value of ${shown(column)} is ${mistake}`);
}

function mistakeOf(value: unknown): string | undefined {
  switch (typeof value) {
    case "bigint":
    case "boolean":
      return undefined;
    case "number":
      return Number.isNaN(value) ? "NaN; write null" : undefined;
    case "string":
      return value.isWellFormed()
        ? undefined
        : "text with half of a surrogate pair, which clients write as another character";
    case "undefined":
      return "undefined; leave the column out, or write null";
    default:
      if (value === null || value instanceof Uint8Array) return undefined;
      if (!(value instanceof Date)) {
        return `${shown(value)}, and no string, number, bigint, boolean, Date, Uint8Array or null; write objects and arrays as text, for example with JSON.stringify()`;
      }
      return Number.isNaN(value.getTime()) ? "an invalid Date" : undefined;
  }
}

/**
 * Refuses what is not columns with their values.
 *
 * @param option what it is called, for the message
 * @throws {InvalidOption}
 */
export function assertValues(
  option: string,
  values: unknown,
): asserts values is Readonly<Record<string, SqlValue>> {
  if (typeof values !== "object" || values === null) {
    throw new InvalidOption(`${option} must be columns with their values, got ${shown(values)}`);
  }
  for (const [column, value] of Object.entries(values)) assertValue(column, value);
}
