// What the commands for administrators have in common: flags, pages, questions, and how they end.

import { createInterface } from "node:readline/promises";
import { type Command, InvalidArgumentError, Option } from "commander";
import { Idempotency } from "semel";
import { colorsOf } from "./check/report/text.ts";
import { EXIT, Failure } from "./failure.ts";
import { type Column, fieldsOf, jsonLine, tableOf } from "./output.ts";
import { type OpenStore, type StoreFlags, storeFlags } from "./stores/open.ts";

/** The exit code when there is no such thing, or its state does not allow what was asked. */
const EXIT_REFUSED = 3;

export interface CommonFlags extends StoreFlags {
  json?: boolean;
}

/** Gives a command its sub-commands, each with the flags of all. */
export function withCommands(parent: Command, commands: readonly Command[]): Command {
  for (const command of commands) {
    for (const flag of [...storeFlags(), new Option("--json", "print JSON")]) {
      command.addOption(flag);
    }
    parent.addCommand(command.exitOverride());
  }
  return parent;
}

export function limitFlag(things: string): Option {
  return new Option("--limit <number>", `${things} a page`).argParser(limit).default(100);
}

export function cursorFlag(): Option {
  return new Option("--cursor <cursor>", "goes on where the page before ended");
}

export function yesFlag(): Option {
  return new Option("--yes", "do not ask; needed where nobody can be asked").default(false);
}

function limit(written: string): number {
  const number = /^\d{1,4}$/.test(written) ? Number(written) : 0;
  if (number >= 1 && number <= 1_000) return number;
  throw new InvalidArgumentError("Write a number from 1 to 1000.");
}

/** For administration alone: it neither caches nor sweeps. */
export function idempotencyOf(
  { store }: Pick<OpenStore, "store">,
  retention?: number,
): Idempotency {
  return new Idempotency({
    ...{ store, cache: false, sweep: false },
    ...(retention !== undefined && { retention }),
  });
}

/** Prints a page; where there is more, how to go on. */
export function printPage<Row>(
  flags: CommonFlags,
  rows: readonly Row[],
  cursor: string | undefined,
  how: { columns: readonly Column<Row>[]; jsonOf(row: Row): unknown; none: string },
): void {
  const { stdout, stderr } = process;
  if (flags.json) {
    for (const row of rows) stdout.write(jsonLine(how.jsonOf(row)));
    if (cursor !== undefined) stdout.write(jsonLine({ cursor }));
    return;
  }
  if (!stdout.isTTY) stdout.write(fieldsOf(rows, how.columns));
  else if (rows.length === 0) stdout.write(`${how.none}\n`);
  else stdout.write(tableOf(rows, how.columns, colorsOf(stdout)));
  if (cursor !== undefined) stderr.write(`more: --cursor ${cursor}\n`);
}

/** @throws {Failure} unless somebody says yes */
export async function confirmForgetting(question: string): Promise<void> {
  if (!process.stdin.isTTY || !process.stderr.isTTY) {
    throw new Failure("nobody can be asked here; say --yes if it is to be forgotten", {
      exit: EXIT.usage,
    });
  }
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  try {
    const answer = await terminal.question(`${question} [y/N] `);
    if (!/^y(es)?$/i.test(answer.trim())) throw refused("nothing was forgotten");
  } finally {
    terminal.close();
  }
}

export function done(flags: CommonFlags, json: object, text: string): void {
  process.stdout.write(flags.json ? jsonLine(json) : `${text}\n`);
}

export function refused(message: string): Failure {
  return new Failure(message, { exit: EXIT_REFUSED });
}
