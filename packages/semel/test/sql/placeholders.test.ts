import fc from "fast-check";
import { expect, test } from "vitest";
import { pieces, questionMarks } from "../../src/sql/placeholders.ts";

test("numbered placeholders become `?`, in the order and as often as they stand there", () => {
  const sql = "SELECT $2, $1, $2, $10";
  const parameters = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
  expect(questionMarks("postgres", sql, parameters)).toEqual({
    sql: "SELECT ?, ?, ?, ?",
    parameters: ["b", "a", "b", "j"],
  });
});

test.each([
  ["postgres", "SELECT '$1 ? it''s', \"$1?\", $$ $1 ? $$, $t$ ?$$ $t$ -- $1?\n, $1 /* $1? */"],
  ["mysql", "SELECT '? it''s \\' ?', \"?\", `?` -- ?\n, ? # ?\n /* ? */"],
  ["sqlite", "SELECT '? it''s', \"?\", [?], `?` -- ?\n, ? /* ? */"],
] as const)("only placeholders are replaced on %s", (dialect, sql) => {
  const marked = questionMarks(dialect, sql, ["a"]);
  expect(marked.parameters).toEqual(["a"]);
  expect(marked.sql.match(/(?<!\\)\?/g)).toHaveLength(1);
  const { texts, parameters } = pieces(dialect, sql, ["a"]);
  expect(texts).toHaveLength(2);
  expect(texts.join(dialect === "postgres" ? "$1" : "?")).toBe(sql);
  expect(parameters).toEqual(["a"]);
});

test("operators of Postgres with question marks are no placeholders", () => {
  expect(questionMarks("postgres", "SELECT a ? 'k', a ?| $1", ["x"])).toEqual({
    sql: "SELECT a \\? 'k', a \\?| ?",
    parameters: ["x"],
  });
});

test("whatever a literal contains, it comes through as it was", () => {
  fc.assert(
    fc.property(fc.string({ unit: "grapheme-ascii" }), fc.string(), (text, value) => {
      const literal = `'${text.replaceAll("'", "''")}'`;
      const { texts, parameters } = pieces("postgres", `SELECT ${literal}, $1`, [value]);
      expect(texts).toEqual([`SELECT ${literal}, `, ""]);
      expect(parameters).toEqual([value]);
    }),
  );
});
