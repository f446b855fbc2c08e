// `semel records`: what an administrator does with records: look, resolve, void, delete.

import { Argument, Command, Option } from "commander";
import type { OperationName, RecordState } from "semel";
import {
  type CommonFlags,
  confirmForgetting,
  cursorFlag,
  done,
  idempotencyOf,
  limitFlag,
  printPage,
  refused,
  withCommands,
  yesFlag,
} from "./administration.ts";
import type { HeaderLine } from "./check/exchange.ts";
import { headerLine } from "./check/flags.ts";
import { colorsOf } from "./check/report/text.ts";
import type { Failure } from "./failure.ts";
import { duration } from "./flags.ts";
import { clean, jsonLine } from "./output.ts";
import { queuedOf } from "./queue/look-up.ts";
import { lookUp } from "./records/look-up.ts";
import { COLUMNS, RECORD_STATES, recordJson, recordText, resultJson } from "./records/show.ts";
import { httpStatus, jsonValue, misfit, type VerdictFlags, verdictOf } from "./records/verdict.ts";
import { type OpenStore, withStore } from "./stores/open.ts";

const EXIT_CODES = `
Exit codes: 0 done, 1 the store cannot be asked, 2 wrong usage, 3 there is no such record, or its state
does not allow it.`;

type FullName = Required<Pick<OperationName, "key" | "scope">>;

interface NameFlags extends CommonFlags {
  scope: string;
}

export function recordsCommand(): Command {
  const records = new Command("records")
    .description("Looks at records, and decides about those whose outcome nobody knows.")
    .addHelpText(
      "after",
      `
Example:
    $ semel records list --state held
${EXIT_CODES}`,
    );
  return withCommands(records, [
    listCommand(),
    getCommand(),
    resolveCommand(),
    voidCommand(),
    deleteCommand(),
  ]);
}

interface ListFlags extends CommonFlags {
  scope?: string;
  state?: RecordState;
  olderThan?: number;
  limit: number;
  cursor?: string;
}

function listCommand(): Command {
  return new Command("list")
    .description("Lists records, newest first, a page at a time.")
    .addOption(new Option("--scope <scope>", "of this scope only"))
    .addOption(new Option("--state <state>", "in this state only").choices(RECORD_STATES))
    .addOption(
      new Option("--older-than <duration>", "created at least this long ago").argParser(duration),
    )
    .addOption(limitFlag("records"))
    .addOption(cursorFlag())
    .addHelpText(
      "after",
      `
Piped, a record is a line of fields with tabs between: state, attempt, age in milliseconds, milliseconds
until it expires (empty: when resolved), reason, scope, key. The cursor of the next page goes to the
standard error; with --json it is a last line of its own.

Examples:
  What waits for a decision:
    $ semel records list --state held

  What has been running for more than an hour, as JSON lines:
    $ semel records list --state running --older-than 1h --json
${EXIT_CODES}`,
    )
    .action((flags: ListFlags) => withStore(flags, (open) => list(open, flags)));
}

async function list(open: OpenStore, flags: ListFlags): Promise<void> {
  const { scope, state, olderThan, limit, cursor } = flags;
  const page = await idempotencyOf(open).list({
    limit,
    ...(scope !== undefined && { scope }),
    ...(state !== undefined && { state }),
    ...(olderThan !== undefined && { olderThan }),
    ...(cursor !== undefined && { cursor }),
  });
  printPage(flags, page.records, page.cursor, {
    columns: COLUMNS,
    jsonOf: recordJson,
    none: "No records.",
  });
}

function getCommand(): Command {
  return named("get", "Shows one record, with its result as its callers get it.")
    .addHelpText(
      "after",
      `
Examples:
    $ semel records get order-42 --scope tenant-7
    $ semel records get order-42 --json
${EXIT_CODES}`,
    )
    .action((key: string, flags: NameFlags) => withStore(flags, (open) => get(open, key, flags)));
}

async function get(open: OpenStore, key: string, flags: NameFlags): Promise<void> {
  const found = await lookUp(open.store, { key, scope: flags.scope });
  if (found === undefined) throw await absent(open, { key, scope: flags.scope });
  const { record, result, steps } = found;
  const hasQueue = open.store.queue !== undefined;
  const queued = hasQueue ? (await queuedOf(idempotencyOf(open), record.id)).items : null;
  process.stdout.write(
    flags.json
      ? jsonLine({
          ...recordJson(record),
          steps: steps ?? null,
          queued,
          result: resultJson(result),
        })
      : recordText(found, queued ?? [], colorsOf(process.stdout)),
  );
}

interface ResolveFlags extends NameFlags, VerdictFlags {
  retention: number;
}

function resolveCommand(): Command {
  return named("resolve", "Ends a hold with what was found out about the operation.")
    .addOption(new Option("--applied", "it was applied; say what callers shall get"))
    .addOption(new Option("--not-applied", "it was not applied: the same key may run again"))
    .addOption(new Option("--status <code>", "of the answer (default: 200)").argParser(httpStatus))
    .addOption(
      new Option("--header <line>", "of the answer, 'Name: value'; may be repeated").argParser(
        (written: string, earlier: HeaderLine[] = []) => [
          ...earlier,
          headerLine(written, "--header"),
        ],
      ),
    )
    .addOption(new Option("--body <text>", "of the answer").conflicts("bodyFile"))
    .addOption(new Option("--body-file <path>", "the same, from a file"))
    .addOption(
      new Option("--value <json>", "what run() gave, for an operation that is not HTTP").argParser(
        jsonValue,
      ),
    )
    .addOption(retentionFlag())
    .addHelpText(
      "after",
      `
Look first: the downstream's own records say whether the operation was applied.

Examples:
  It was not charged; the customer's next retry may:
    $ semel records resolve order-42 --scope tenant-7 --not-applied

  It was charged; retries get this answer:
    $ semel records resolve order-42 --scope tenant-7 --applied --status 201 \\
        --header 'Content-Type: application/json' --body '{"charge":"ch_1"}'
${EXIT_CODES}`,
    )
    .action((key: string, flags: ResolveFlags) => {
      const verdict = verdictOf(flags);
      return withStore(flags, async (open) => {
        const answer = await idempotencyOf(open, flags.retention)
          .resolve({ key, scope: flags.scope }, verdict)
          .catch((error: unknown) => {
            throw misfit(error, flags);
          });
        if (answer.kind === "absent") throw await absent(open, { key, scope: flags.scope });
        if (answer.kind === "refused") {
          throw refused(`${clean(key)} is ${answer.state}; only what is held can be resolved`);
        }
        const said =
          verdict.outcome === "applied" ? "applied, and answered so" : "free to run again";
        done(
          flags,
          { key, scope: flags.scope, resolved: verdict.outcome },
          `${clean(key)}: ${said}`,
        );
      });
    });
}

function voidCommand(): Command {
  return named("void", "Makes sure that an operation never runs.")
    .addOption(retentionFlag())
    .addHelpText(
      "after",
      `
Also for a key that has not been seen yet. What runs under a live lease, and what has completed, is left.

Example:
    $ semel records void order-42 --scope tenant-7
${EXIT_CODES}`,
    )
    .action((key: string, flags: NameFlags & { retention: number }) =>
      withStore(flags, async (open) => {
        const name = { key, scope: flags.scope };
        // A tombstone under the wrong name would be taken for a proof.
        if (await isMisnamed(open, name)) throw await absent(open, name);
        const { kind } = await idempotencyOf(open, flags.retention).void(name);
        if (kind === "busy") throw refused(`${clean(key)} is running; wait for its end`);
        if (kind === "completed") throw refused(`${clean(key)} has completed; it cannot be undone`);
        done(flags, { ...name, voided: true }, `${clean(key)}: will never run`);
      }),
    );
}

function deleteCommand(): Command {
  return named("delete", "Forgets a record: its key may then run again.")
    .addOption(yesFlag())
    .addHelpText(
      "after",
      `
An operation that was applied may be applied once more under a forgotten key. To decide about one that is
held, use \`semel records resolve\`. Processes that have the result in memory may replay it for a minute.

Example:
    $ semel records delete order-42 --scope tenant-7 --yes
${EXIT_CODES}`,
    )
    .action(async (key: string, flags: NameFlags & { yes: boolean }) => {
      if (!flags.yes) await confirmForgetting(`Forget ${clean(key)}, so that it may run again?`);
      await withStore(flags, async (open) => {
        const { kind } = await idempotencyOf(open).delete({ key, scope: flags.scope });
        if (kind === "absent") throw await absent(open, { key, scope: flags.scope });
        if (kind === "busy") throw refused(`${clean(key)} is running; wait for its end`);
        done(flags, { key, scope: flags.scope, deleted: true }, `${clean(key)}: forgotten`);
      });
    });
}

function named(name: string, description: string): Command {
  return new Command(name)
    .description(description)
    .addArgument(new Argument("<key>", "the operation's key"))
    .addOption(
      new Option(
        "--scope <scope>",
        'whose key it is, as `semel records list` shows it; none for the scope "shared" of HTTP',
      ).default("", "none"),
    );
}

function retentionFlag(): Option {
  return new Option("--retention <duration>", "how long the decision is kept")
    .argParser(duration)
    .default(duration("24h"), "24h");
}

async function absent(open: OpenStore, name: FullName): Promise<Failure> {
  const { key, scope } = name;
  const where =
    scope === "" ? "without a scope; name one with --scope" : `in scope ${clean(scope)}`;
  const instead = (await isMisnamed(open, name))
    ? '; there is one without a scope, as requests under the scope "shared" have none: leave --scope out'
    : "";
  return refused(`there is no record of ${clean(key)} ${where}${instead}`);
}

/** Whether only the option of HTTP is called so: what is `"shared"` there has no scope in its record. */
async function isMisnamed(open: OpenStore, { key, scope }: FullName): Promise<boolean> {
  if (scope !== "shared") return false;
  const isThere = async (name: FullName) =>
    (await idempotencyOf(open).status(name)).state !== "absent";
  return !(await isThere({ key, scope })) && (await isThere({ key, scope: "" }));
}
