// `semel purge`: removes what has expired now, instead of when a sweeper comes by.

import { Command, InvalidArgumentError, Option } from "commander";
import { Idempotency } from "semel";
import { jsonLine } from "./output.ts";
import { type StoreFlags, storeFlags, withStore } from "./stores/open.ts";

interface PurgeFlags extends StoreFlags {
  batch: number;
  json?: boolean;
}

const EXAMPLES = `
Only what has expired is removed: no key that is still remembered, nothing that runs or is held. Running
services do the same by themselves, once a minute. To forget a live record: semel records delete.

Ctrl-C ends it between two batches; what was removed stays removed. Redis removes expired records by
itself; there, this removes their places from the listing.

Example:
    $ semel purge --store postgres://semel@db/semel

Exit codes: 0 done, or stopped as asked, 1 the store cannot be asked, 2 wrong usage.`;

export function purgeCommand(): Command {
  const command = new Command("purge")
    .description("Removes expired records now, in paced batches.")
    .addHelpText("after", EXAMPLES)
    .action((flags: PurgeFlags) => purge(flags));
  for (const flag of [
    ...storeFlags(),
    new Option("--batch <number>", "records a batch").argParser(batch).default(1_000),
    new Option("--json", "print JSON"),
  ]) {
    command.addOption(flag);
  }
  return command;
}

async function purge(flags: PurgeFlags): Promise<void> {
  const stop = new AbortController();
  const onSignal = () => stop.abort();
  process.once("SIGINT", onSignal).once("SIGTERM", onSignal);
  await withStore(flags, async ({ store }) => {
    const { stderr, stdout } = process;
    let removed = 0;
    const onProgress = (soFar: number) => {
      removed = soFar;
      if (stderr.isTTY) stderr.write(`\rremoved ${removed}`);
    };
    const idempotency = new Idempotency({ store, cache: false, sweep: false });
    try {
      await idempotency.purge({ batch: flags.batch, onProgress, signal: stop.signal });
    } catch (error) {
      if (!stop.signal.aborted) throw error;
    } finally {
      if (stderr.isTTY) stderr.write("\r\x1b[K");
    }
    const stopped = stop.signal.aborted;
    const how = stopped ? " and stopped; there may be more" : "";
    stdout.write(
      flags.json ? jsonLine({ removed, stopped }) : `Removed ${removed} expired records${how}\n`,
    );
  });
}

function batch(written: string): number {
  const number = /^\d{1,6}$/.test(written) ? Number(written) : 0;
  if (number >= 1 && number <= 100_000) return number;
  throw new InvalidArgumentError("Write a number from 1 to 100000.");
}
