// `semel migrate`: brings a store's tables to this version's schema, or prints the SQL that does.

import { Command, Option } from "commander";
import { mysqlMigrations } from "semel/mysql";
import { postgresFunctions, postgresMigrations } from "semel/postgres";
import { sqliteMigrations } from "semel/sqlite";
import { EXIT, Failure } from "./failure.ts";
import { jsonLine } from "./output.ts";
import { parseAddress } from "./stores/address.ts";
import { assertReady, explained, openStore, type StoreFlags, storeFlags } from "./stores/open.ts";

interface MigrateFlags extends StoreFlags {
  print?: boolean;
  json?: boolean;
}

const EXAMPLES = `
Safe to run again, and by many at once; running services need not stop. Redis and memory have no tables.
With --print nothing is asked of the server: of the address, only the scheme counts.

Examples:
    $ semel migrate --store postgres://owner@db/semel
    $ semel migrate --store postgres: --print | psql -v ON_ERROR_STOP=1 semel
    $ semel migrate --store mysql: --print | mysql semel
    $ semel migrate --print | sqlite3 semel.db

Exit codes: 0 done, 1 the store cannot be migrated; the message says why, 2 wrong usage.`;

export function migrateCommand(): Command {
  const command = new Command("migrate")
    .description("Makes the tables, or brings them to this version's schema.")
    .addHelpText("after", EXAMPLES)
    .action(async (flags: MigrateFlags) => {
      if (flags.print) print(flags);
      else await migrate(flags);
    });
  for (const flag of [
    ...storeFlags(),
    new Option("--print", "print the SQL, and change nothing").conflicts("json"),
    new Option("--json", "print JSON"),
  ]) {
    command.addOption(flag);
  }
  return command;
}

async function migrate(flags: MigrateFlags): Promise<void> {
  const open = await openStore(flags, "migrate");
  const { kind, shown } = open;
  try {
    await open.migrate();
    await assertReady(open);
  } catch (error) {
    throw explained(open, error);
  } finally {
    await open.close();
  }
  const hasTables = kind !== "redis" && kind !== "memory";
  const said = hasTables ? "is at this version's schema" : "has no tables; there is nothing to do";
  process.stdout.write(
    flags.json ? jsonLine({ store: shown, ready: true, hasTables }) : `${shown} ${said}\n`,
  );
}

function print({ store, table, prefix }: MigrateFlags): void {
  if (prefix !== undefined) throw usage("--prefix is for Redis, which has no tables");
  const scheme = /^(postgres|postgresql|mysql|sqlite|redis|rediss):/.exec(store)?.[1];
  switch (scheme ?? parseAddress(store).kind) {
    case "postgres":
    case "postgresql":
      process.stdout.write(postgresScript(table));
      break;
    case "mysql":
      process.stdout.write(mysqlScript(table));
      break;
    case "sqlite":
      process.stdout.write(sqliteScript(table));
      break;
    default:
      throw usage("--print is for stores with tables: sqlite:, postgres: and mysql:");
  }
}

/**
 * One transaction. The lock only spares the second of two that run at once an error; what is made
 * can be made once, whoever holds it.
 */
function postgresScript(table: string | undefined): string {
  const prefix = table ?? "semel";
  const schemaTable = `"${prefix.replaceAll('"', '""')}_schema"`;
  const steps = postgresMigrations(table).map((sql, applied) => {
    const isMissing =
      applied === 0
        ? `to_regclass('${schemaTable.replaceAll("'", "''")}') IS NULL`
        : `(SELECT max(version) FROM ${schemaTable}) < ${applied + 1}`;
    return `IF ${isMissing} THEN\n${sql}\nEND IF;`;
  });
  return `BEGIN;
SELECT pg_advisory_xact_lock(hashtext('semel migrate'));
DO $semel_migrate$
BEGIN
${steps.join("\n")}
END
$semel_migrate$;
${postgresFunctions(table)}
COMMIT;
`;
}

/**
 * MySQL has conditions in stored programs only, so each statement after the first version's, which may
 * all run again, is chosen by its text. The lock is the session's, and ends with it.
 */
function mysqlScript(table: string | undefined): string {
  const [first, ...later] = mysqlMigrations(table);
  const schemaTable = `\`${(table ?? "semel").replaceAll("`", "``")}_schema\``;
  const steps = later.flatMap((script, at) =>
    script
      .trimEnd()
      .replace(/;$/, "")
      .split(";\n")
      .map((statement) => {
        const text = statement.trim().replaceAll("\\", "\\\\").replaceAll("'", "''");
        return `SET @semel = IF((SELECT MAX(version) FROM ${schemaTable}) < ${at + 2}, '${text}', 'DO 0');
PREPARE semel FROM @semel;
EXECUTE semel;
DEALLOCATE PREPARE semel;`;
      }),
  );
  return `DO GET_LOCK('semel migrate', 60);
${[first, ...steps].join("\n")}
DO RELEASE_LOCK('semel migrate');
`;
}

/** SQLite has no conditions in scripts: on a file that has the tables, it stops before it begins. */
function sqliteScript(table: string | undefined): string {
  return `-- For a new file; \`semel migrate\` also brings older ones to this version's schema.
.bail on
PRAGMA journal_mode = WAL;
BEGIN IMMEDIATE;
${sqliteMigrations(table).join("\n")}
COMMIT;
`;
}

function usage(message: string): Failure {
  return new Failure(message, { exit: EXIT.usage });
}
