#!/usr/bin/env node
// The `semel` command: dispatches to one file per command, and ends with a documented exit code.

import { Command, CommanderError } from "commander";
import { checkCommand } from "./check.ts";
import { dashboardCommand } from "./dashboard.ts";
import { demoCommand } from "./demo.ts";
import { doctorCommand } from "./doctor.ts";
import { EXIT, exitStatus, report } from "./failure.ts";
import { gatewayCommand } from "./gateway.ts";
import { migrateCommand } from "./migrate.ts";
import { purgeCommand } from "./purge.ts";
import { queueCommand } from "./queue.ts";
import { recordsCommand } from "./records.ts";
import { statsCommand } from "./stats.ts";
import { version } from "./version.ts";

const EXIT_CODES = `
Exit codes:
  0  done, or stopped as asked
  1  failed while starting or running; the message says what to do
  2  wrong usage
  3  see the help of \`records\`, \`queue\` and \`check\``;

const program = new Command("semel")
  .description("Makes operations safe to repeat: one effect and one answer per key.")
  .version(version, "-v, --version")
  .addHelpText("after", EXIT_CODES);

for (const command of [
  gatewayCommand(),
  dashboardCommand(),
  recordsCommand(),
  queueCommand(),
  purgeCommand(),
  statsCommand(),
  migrateCommand(),
  doctorCommand(),
  checkCommand(),
  demoCommand(),
]) {
  // Sub-commands that are added, rather than made by `command()`, inherit nothing by themselves.
  program.addCommand(command.copyInheritedSettings(program).exitOverride());
}

try {
  await program.exitOverride().parseAsync();
} catch (error) {
  // Commander has printed its own: help and version are no failures, everything else is usage.
  if (error instanceof CommanderError) process.exit(error.exitCode === 0 ? 0 : EXIT.usage);
  report(error);
  process.exit(exitStatus(error));
}
