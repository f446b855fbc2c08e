// How commands fail: one line that says what is wrong and what to do about it, and an exit code.

import { isSemelError } from "semel";

/** The exit codes of every command. */
export const EXIT = { ok: 0, failed: 1, usage: 2 } as const;

/** A failure that the user can do something about; its message says what. */
export class Failure extends Error {
  readonly exit: number;

  constructor(message: string, options: { exit?: number; cause?: unknown } = {}) {
    super(message, { cause: options.cause });
    this.name = "Failure";
    this.exit = options.exit ?? EXIT.failed;
  }
}

/** Options of the library whose flags have other names. */
const FLAGS: Record<string, string> = {
  maxBodyBytes: "--max-body",
  maxResultBytes: "--max-result",
};

/** Prints an error as one line; only what nobody foresaw comes with a stack. */
export function report(error: unknown): void {
  process.stderr.write(`error: ${messageOf(error)}\n`);
}

/** What the caller wrote, whatever the command. */
const OF_USAGE = new Set(["option-invalid", "key-invalid", "scope-missing"]);

export function exitStatus(error: unknown): number {
  if (error instanceof Failure) return error.exit;
  return isSemelError(error) && OF_USAGE.has(error.code) ? EXIT.usage : EXIT.failed;
}

export function messageOf(error: unknown): string {
  if (error instanceof Failure) return error.message;
  if (!isSemelError(error)) {
    return error instanceof Error ? (error.stack ?? error.message) : String(error);
  }
  if (error.code !== "option-invalid") return error.message;
  return error.message.replace(
    /`(\w+)`/,
    (_, name: string) => FLAGS[name] ?? `--${name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}`,
  );
}
