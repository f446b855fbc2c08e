// `semel stats`: how many records there are in each state, and how long the oldest hold has waited.

import { Command, Option } from "commander";
import type { QueueKind, QueueStats, StoreStats } from "semel";
import { colorsOf } from "./check/report/text.ts";
import { fieldsOf, jsonLine, shownBytes, shownDuration, tableOf } from "./output.ts";
import { type StoreFlags, storeFlags, withStore } from "./stores/open.ts";

const EXAMPLES = `
What is held, or lapsed and so will be, waits for semel records resolve; effects and tasks (durable operations)
that are dead were given up, and wait for semel queue retry. Piped, a line is a name and a
number with a tab between, in milliseconds and bytes; what is not known has no number.

Examples:
    $ semel stats
    $ semel stats --store redis://cache:6379 --json

Exit codes: 0 done, 1 the store cannot be asked, 2 wrong usage.`;

export function statsCommand(): Command {
  const command = new Command("stats")
    .description(
      "Counts records by state and what is queued, and says how long the oldest has waited.",
    )
    .addHelpText("after", EXAMPLES)
    .action((flags: StoreFlags & { json?: boolean }) =>
      withStore(flags, async ({ store }) => {
        const stats = await store.stats();
        const queue = (await store.queue?.stats()) ?? null;
        process.stdout.write(flags.json ? jsonLine({ ...stats, queue }) : textOf(stats, queue));
      }),
    );
  for (const flag of [...storeFlags(), new Option("--json", "print JSON")]) {
    command.addOption(flag);
  }
  return command;
}

interface Row {
  name: string;
  number: number | null;
  shown: string;
}

function textOf({ states, oldestHeldMs, bytes }: StoreStats, queue: QueueStats | null): string {
  const count = (name: string, number: number): Row => ({ name, number, shown: String(number) });
  const rows: Row[] = [
    ...Object.entries(states).map(([state, number]) => count(state, number)),
    {
      name: "oldest-held",
      number: oldestHeldMs === null ? null : Math.round(oldestHeldMs),
      shown: oldestHeldMs === null ? "none" : `for ${shownDuration(oldestHeldMs)}`,
    },
    { name: "size", number: bytes, shown: bytes === null ? "not known" : shownBytes(bytes) },
  ];
  for (const [kind, counts] of Object.entries(queue?.states ?? {})) {
    for (const [state, number] of Object.entries(counts)) {
      rows.push(count(`${kind}s-${state}`, number));
    }
    const dueMs = queue!.oldestDueMs[kind as QueueKind];
    rows.push({
      name: `oldest-due-${kind}`,
      number: dueMs === null ? null : Math.round(dueMs),
      shown: dueMs === null ? "none" : `for ${shownDuration(dueMs)}`,
    });
  }
  const columns = [
    { title: "WHAT", shown: ({ name }: Row) => name },
    {
      title: "NUMBER",
      shown: ({ shown }: Row) => shown,
      plain: ({ number }: Row) => (number === null ? "" : String(number)),
    },
  ];
  const { stdout } = process;
  return stdout.isTTY ? tableOf(rows, columns, colorsOf(stdout)) : fieldsOf(rows, columns);
}
