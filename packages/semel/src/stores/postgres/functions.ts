// The statements for batches as functions in the database. A session plans a function's statement
// once and an unnamed statement each time, and to plan one takes longer than to run it. Functions
// need no session state of ours, so they work behind a pooler. Where they are not there (a role that
// may not call them, a database without PL/pgSQL), the statements are sent as they are, and `begin`
// is always the whole of it.

import { createHash } from "node:crypto";
import { isNotMarked } from "./client.ts";
import { ENDED, STALE } from "./errors.ts";
import { type PostgresTables, tablesOf } from "./schema.ts";
import {
  BEGIN_COLUMNS,
  BEGIN_PARAMETERS,
  COMPLETE_PARAMETERS,
  type PostgresStatements,
  SETTLE_PARAMETERS,
  settingsOf,
  statementsFor,
} from "./statements.ts";

/** What completes an operation: its record, and the mark of the transaction, if it is one of Semel's. */
const COMPLETING = [...COMPLETE_PARAMETERS, "text"];

/** The transitions that have a function: those in the life of every operation. */
export type Called = "begin" | "settle" | "complete";

export interface PostgresFunctions {
  /** Creates them. Safe to run again. */
  readonly create: string;
  /** An SQL condition: whether the role may call them all. */
  readonly areThere: string;
  /**
   * The statements that call them, with the parameters of `beginMany`, `settleMany` and `complete`, the
   * latter followed by the mark of the transaction, or `null`.
   */
  readonly calls: Readonly<Record<Called, string>>;
  /** Completes, given the same as literals, and fails with {@link STALE} where that writes nothing. */
  completeOrFail(literals: readonly string[]): string;
}

/**
 * The SQL of the functions that `migrate()` creates besides the tables, for those who run it by hand.
 * They may be left out: statements then take longer to plan, and nothing else changes.
 *
 * @param table the prefix of the tables' names
 * @param schema the schema they are in; the first of the `search_path` otherwise
 * @default table "semel"
 * @throws {InvalidOption} when a name is too long
 * @example console.log([...postgresMigrations(), postgresFunctions()].join("\n"));
 */
export function postgresFunctions(table = "semel", schema?: string): string {
  return functionsFor(tablesOf(table, schema), false).create;
}

/** @param notifies whether the end of an operation is announced */
export function functionsFor(tables: PostgresTables, notifies: boolean): PostgresFunctions {
  const functions = (announcing: boolean) => {
    const sql = statementsFor(tables, announcing);
    return {
      settle: routineOf(tables, "settle", SETTLE_PARAMETERS, {
        returns: "TABLE (id uuid)",
        statements: settlingWith(sql, announcing),
      }),
      complete: routineOf(tables, "end", COMPLETING, {
        returns: "boolean",
        statements: completingWith(sql, announcing, "RETURN false;", "RETURN true;"),
      }),
      // A procedure, because a call of one has no row to describe and to read.
      completeOrFail: routineOf(tables, "finish", COMPLETING, {
        statements: completingWith(
          sql,
          announcing,
          `RAISE 'The operation has another record by now' USING ERRCODE = '${STALE}';`,
        ),
      }),
    };
  };
  const begin = routineOf(tables, "begin", BEGIN_PARAMETERS, {
    returns: `TABLE (${BEGIN_COLUMNS})`,
    statements: beginningWith(statementsFor(tables, notifies)),
  });
  const [quiet, announcing] = [functions(false), functions(true)];
  const all = [begin, ...Object.values(quiet), ...Object.values(announcing)];
  const { settle, complete, completeOrFail } = notifies ? announcing : quiet;
  return {
    create: all.map((one) => one.create).join("\n"),
    areThere: all.map((one) => one.isThere).join(" AND "),
    calls: {
      begin: `SELECT * FROM ${begin.of(typed(BEGIN_PARAMETERS))}`,
      settle: `SELECT * FROM ${settle.of(typed(SETTLE_PARAMETERS))}`,
      complete: `SELECT 1 WHERE ${complete.of(typed(COMPLETING))}`,
    },
    completeOrFail: (literals) => `CALL ${completeOrFail.of(literals)}`,
  };
}

function typed(parameters: readonly string[]): string[] {
  return parameters.map((type, index) => `$${index + 1}::${type}`);
}

/**
 * Most batches are all replays or all new, and need no more than one of the first two statements. What
 * neither has answered goes through the whole of it, in the same transaction.
 */
function beginningWith({ replays, insertNew, beginCalled }: PostgresStatements): string {
  return `SELECT * INTO answered, answers, results FROM (${replays}) AS done;
  IF answered > 0 THEN kind := 'completed'; RETURN NEXT; END IF;
  IF answered = cardinality($1) THEN RETURN; END IF;
  ${settingsOf("$12")}
  WITH taken AS (${insertNew})
    SELECT coalesce(array_agg(taken.id), '{}') INTO mine FROM taken;
  kind := 'acquired'; answers := NULL; results := NULL;
  IF cardinality(mine) = cardinality($1) THEN RETURN NEXT; RETURN; END IF;
  answers := array_to_string(mine, E'\\n');
  RETURN NEXT;
  IF answered + cardinality(mine) = cardinality($1) THEN RETURN; END IF;
  RETURN QUERY ${beginCalled};`;
}

function settlingWith({ settleCalled, announce }: PostgresStatements, announces: boolean): string {
  const announcement = `IF cardinality(mine) > 0 THEN ${announce("mine")}; END IF;`;
  return `${settingsOf("$10")}
  WITH done AS (${settleCalled})
    SELECT coalesce(array_agg(done.id), '{}') INTO mine FROM done;
  ${announces ? announcement : ""}
  IF cardinality(mine) = cardinality($1) THEN RETURN NEXT; RETURN; END IF;
  RETURN QUERY SELECT done.id FROM unnest(mine) AS done (id);`;
}

/**
 * Most operations are new, and need no more than the first statement.
 *
 * @param otherwise what it does where it writes nothing
 * @param then what it does last
 */
function completingWith(
  { completeNew, completeCalled, announce }: PostgresStatements,
  announces: boolean,
  otherwise: string,
  then = "",
): string {
  const mark = `$${COMPLETING.length}`;
  return `IF ${isNotMarked(mark)} THEN RAISE 'Another transaction' USING ERRCODE = '${ENDED}'; END IF;
  ${settingsOf(undefined)}
  ${completeNew};
  GET DIAGNOSTICS answered = ROW_COUNT;
  IF answered = 0 THEN ${completeCalled}; END IF;
  IF answered = 0 THEN ${otherwise} END IF;
  ${announces ? `${announce("ARRAY[$1]")};` : ""}
  ${then}`;
}

/**
 * The name ends in a digest, so that processes of two versions, and such as announce and such as do
 * not, each find their own. One plan serves every batch, also one that was made while the table was
 * small: it may read the table by its key only.
 */
function routineOf(
  tables: PostgresTables,
  name: string,
  parameters: readonly string[],
  { returns, statements }: { returns?: string; statements: string },
) {
  const body = `LANGUAGE plpgsql
  SET plan_cache_mode TO force_generic_plan
  SET enable_seqscan TO off
  SET enable_nestloop TO off
AS $semel$
#variable_conflict use_column
DECLARE
  answered integer;
  mine uuid[];
  setting text;
BEGIN
  ${statements}
END $semel$;`;
  const signature = `(${parameters.join()})${returns ? ` RETURNS ${returns}` : ""}`;
  const digest = createHash("sha256").update(signature).update(body).digest("hex").slice(0, 6);
  const identifier = tables.named(`${name}_${digest}`);
  return {
    create: `CREATE OR REPLACE ${returns ? "FUNCTION" : "PROCEDURE"} ${identifier} ${signature} ${body}`,
    isThere: `coalesce(has_function_privilege(to_regproc('${identifier.replaceAll("'", "''")}'), 'EXECUTE'), false)`,
    of: (given: readonly string[]) => `${identifier}(${given})`,
  };
}
