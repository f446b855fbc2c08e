// Numbered placeholders for libraries that know only `?`, and take every one of those for one.

import type { SqlExecutor, SqlValue } from "../store.ts";

/** What is not code, where a question mark means nothing: literals, quoted names, comments. */
const QUOTED = {
  postgres:
    /'(?:[^']|'')*'|"(?:[^"]|"")*"|\$([a-z_]\w*)?\$[\s\S]*?\$\1\$|--[^\n]*|\/\*[\s\S]*?\*\/|\$(\d+)|\?/gi,
  mysql:
    /'(?:[^'\\]|\\[\s\S]|'')*'|"(?:[^"\\]|\\[\s\S]|"")*"|`[^`]*`|--\s[^\n]*|#[^\n]*|\/\*[\s\S]*?\*\//g,
  sqlite: /'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|\[[^\]]*\]|--[^\n]*|\/\*[\s\S]*?\*\//g,
} as const;

/**
 * A statement whose placeholders are all `?`, in the order of its parameters, and whose other
 * question marks are escaped as `\?`.
 */
export function questionMarks(
  dialect: SqlExecutor["dialect"],
  sql: string,
  parameters: readonly SqlValue[],
): { sql: string; parameters: SqlValue[] } {
  if (dialect !== "postgres") {
    return { sql: sql.replace(QUOTED[dialect], escaped), parameters: [...parameters] };
  }
  const inOrder: SqlValue[] = [];
  const text = sql.replace(QUOTED.postgres, (found, _tag, number: string | undefined) => {
    if (number === undefined) return escaped(found);
    inOrder.push(parameters[Number(number) - 1] ?? null);
    return "?";
  });
  return { sql: text, parameters: inOrder };
}

/** The text between the placeholders, and the parameters in the order in which they stand there. */
export function pieces(
  dialect: SqlExecutor["dialect"],
  sql: string,
  parameters: readonly SqlValue[],
): { texts: string[]; parameters: SqlValue[] } {
  const marked = questionMarks(dialect, sql, parameters);
  const texts = marked.sql.split(/(?<!\\)\?/).map((text) => text.replaceAll("\\?", "?"));
  return { texts, parameters: marked.parameters };
}

function escaped(text: string): string {
  return text.replaceAll("?", "\\?");
}
