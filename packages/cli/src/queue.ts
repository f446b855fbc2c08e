// `semel queue`: what an administrator does with effects and durable operations: look, retry, remove.

import { Argument, Command, Option } from "commander";
import type { QueueKind, QueueState } from "semel";
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
import { colorsOf } from "./check/report/text.ts";
import { EXIT, Failure } from "./failure.ts";
import { clean, jsonLine } from "./output.ts";
import { ledgerOf, QUEUE_KINDS, QUEUE_STATES, queuedItem } from "./queue/look-up.ts";
import { COLUMNS, queuedText } from "./queue/show.ts";
import { type OpenStore, withStore } from "./stores/open.ts";

const EXIT_CODES = `
Exit codes: 0 done, 1 the store cannot be asked, 2 wrong usage, 3 there is no such item, or its state does
not allow it.`;

const NAMES = `
An effect is what an operation recorded to be delivered by a relay; a task is a durable operation, which a
worker does.`;

export function queueCommand(): Command {
  const queue = new Command("queue")
    .description("Looks at effects and durable operations, and tries again what was given up.")
    .addHelpText(
      "after",
      `${NAMES}

Example:
    $ semel queue list --state dead
${EXIT_CODES}`,
    );
  return withCommands(queue, [listCommand(), getCommand(), retryCommand(), removeCommand()]);
}

interface ListFlags extends CommonFlags {
  kind: QueueKind;
  name?: string;
  state?: QueueState;
  limit: number;
  cursor?: string;
}

function listCommand(): Command {
  return new Command("list")
    .description("Lists what is queued, newest first, a page at a time.")
    .addOption(new Option("--kind <kind>", "of this kind").choices(QUEUE_KINDS).default("effect"))
    .addOption(new Option("--name <name>", "of this name only"))
    .addOption(new Option("--state <state>", "in this state only").choices(QUEUE_STATES))
    .addOption(limitFlag("items"))
    .addOption(cursorFlag())
    .addHelpText(
      "after",
      `${NAMES}
Piped, an item is a line of fields with tabs between: state, attempts, age in milliseconds, milliseconds
until it is due (empty: it does not wait), id, name, scope, key, error. The cursor of the next page goes to
the standard error; with --json it is a last line of its own.

Examples:
  What was given up, and why:
    $ semel queue list --state dead

  Which durable operations wait, as JSON lines:
    $ semel queue list --kind task --state waiting --json
${EXIT_CODES}`,
    )
    .action((flags: ListFlags) => withQueue(flags, (open) => list(open, flags)));
}

async function list(open: OpenStore, flags: ListFlags): Promise<void> {
  const { kind, name, state, limit, cursor } = flags;
  const page = await ledgerOf(idempotencyOf(open), kind).list({
    limit,
    ...(name !== undefined && { name }),
    ...(state !== undefined && { state }),
    ...(cursor !== undefined && { cursor }),
  });
  const rows = page.items.map((item) => ({ kind, ...item }));
  printPage(flags, rows, page.cursor, {
    columns: COLUMNS,
    jsonOf: (row) => row,
    none: "Nothing is queued like this.",
  });
}

function getCommand(): Command {
  return named("get", "Shows one item, with what was recorded for it.")
    .addHelpText(
      "after",
      `
Examples:
    $ semel queue get 3f2a9c1e-0000-4000-8000-000000000000
    $ semel queue get 3f2a9c1e-0000-4000-8000-000000000000 --json
${EXIT_CODES}`,
    )
    .action((id: string, flags: CommonFlags) => withQueue(flags, (open) => get(open, id, flags)));
}

async function get(open: OpenStore, id: string, flags: CommonFlags): Promise<void> {
  const found = await queuedItem(idempotencyOf(open), id);
  if (found === undefined) throw absent(id);
  const { item, payload } = found;
  process.stdout.write(
    flags.json ? jsonLine({ ...item, payload }) : queuedText(found, colorsOf(process.stdout)),
  );
}

function retryCommand(): Command {
  return named("retry", "Has an item be due now, as if it had never been tried.")
    .addHelpText(
      "after",
      `
For what waits, and for what was given up. Mend first what it failed with. What is being done right now, and
what is done, is left.

Example:
    $ semel queue retry 3f2a9c1e-0000-4000-8000-000000000000
${EXIT_CODES}`,
    )
    .action((id: string, flags: CommonFlags) =>
      withQueue(flags, async (open) => {
        const { ledger, name } = await found(open, id);
        if (!(await ledger.revive(id))) throw refused(`${name} is done, or being done right now`);
        done(flags, { id, retried: true }, `${name}: due now`);
      }),
    );
}

function removeCommand(): Command {
  return named("remove", "Forgets an item: it is not done any more.")
    .addOption(yesFlag())
    .addHelpText(
      "after",
      `
Those of its operation that come after it go on. What is forgotten and recorded once more is done once more.

Example:
    $ semel queue remove 3f2a9c1e-0000-4000-8000-000000000000 --yes
${EXIT_CODES}`,
    )
    .action(async (id: string, flags: CommonFlags & { yes: boolean }) => {
      if (!flags.yes) await confirmForgetting(`Forget ${clean(id)}, so that it is never done?`);
      await withQueue(flags, async (open) => {
        const { ledger, name } = await found(open, id);
        if (!(await ledger.remove(id))) throw refused(`${name} is being done right now`);
        done(flags, { id, removed: true }, `${name}: forgotten`);
      });
    });
}

async function found(open: OpenStore, id: string) {
  const idempotency = idempotencyOf(open);
  const view = await queuedItem(idempotency, id);
  if (view === undefined) throw absent(id);
  const { kind, name, key } = view.item;
  return { ledger: ledgerOf(idempotency, kind), name: `${kind} ${clean(name)} of ${clean(key)}` };
}

/** @throws {Failure} when the store keeps no queue */
function withQueue(flags: CommonFlags, work: (open: OpenStore) => Promise<void>): Promise<void> {
  return withStore(flags, async (open) => {
    if (open.store.queue === undefined) {
      throw new Failure(`--store ${open.shown} keeps no effects and durable operations`, {
        exit: EXIT.usage,
      });
    }
    await work(open);
  });
}

function named(name: string, description: string): Command {
  return new Command(name)
    .description(description)
    .addArgument(new Argument("<id>", "a UUID, as `semel queue list` shows it"));
}

function absent(id: string): Failure {
  return refused(`there is nothing in the queue with the id ${clean(id)}; it may have expired`);
}
