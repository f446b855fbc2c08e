// Reads what `semel records resolve` is told about what happened.

import { readFileSync } from "node:fs";
import { InvalidArgumentError } from "commander";
import { isSemelError, type Verdict } from "semel";
import { httpResult } from "semel/node";
import type { HeaderLine } from "../check/exchange.ts";
import { EXIT, Failure } from "../failure.ts";

export interface VerdictFlags {
  applied?: boolean;
  notApplied?: boolean;
  status?: number;
  header?: HeaderLine[];
  body?: string;
  bodyFile?: string;
  /** Parsed already; in a list, because `undefined` says that there is none. */
  value?: [value: unknown];
}

/** @throws {Failure} when it is not said, or said in two ways */
export function verdictOf(flags: VerdictFlags): Verdict {
  const { applied = false, notApplied = false, value } = flags;
  const given = resultFlags(flags);
  if (applied === notApplied) {
    throw wrong("say what happened: --applied, with what callers shall get, or --not-applied");
  }
  if (notApplied) {
    const [flag] = given;
    if (flag !== undefined)
      throw wrong(`${flag} is the result of what was applied; --not-applied has none`);
    return { outcome: "not-applied" };
  }
  if (given.length === 0) {
    throw wrong(
      "--applied needs what callers shall get: --status, --header and --body for an operation over HTTP (the gateway's are), --value for one of run()",
    );
  }
  if (value === undefined) return { outcome: "applied", result: response(flags) };
  if (given.length > 1)
    throw wrong(
      "--value is for an operation of run(); one over HTTP has --status, --header and --body",
    );
  return { outcome: "applied", value: value[0] };
}

/** The library refuses a result that is not of the operation's kind; here it has other names. */
export function misfit(error: unknown, { value }: VerdictFlags): unknown {
  if (!isSemelError(error) || error.code !== "option-invalid") return error;
  return wrong(
    value === undefined
      ? "this is an operation of run(), whose callers get a value: say which with --value"
      : "this is an operation over HTTP, whose callers get a response: say which with --status, --header and --body (or --body-file) instead of --value",
  );
}

function resultFlags({ status, header, body, bodyFile, value }: VerdictFlags): string[] {
  const flags = {
    "--status": status,
    "--header": header,
    "--body": body,
    "--body-file": bodyFile,
    "--value": value,
  };
  return Object.entries(flags).flatMap(([flag, given]) => (given === undefined ? [] : [flag]));
}

function response({ status = 200, header = [], body, bodyFile }: VerdictFlags) {
  return httpResult({ status, headers: header, body: bytesOf(body, bodyFile) });
}

function bytesOf(text = "", path: string | undefined): Buffer {
  if (path === undefined) return Buffer.from(text);
  try {
    return readFileSync(path);
  } catch (cause) {
    throw new Failure(`--body-file ${path} cannot be read: ${(cause as Error).message}`, {
      exit: EXIT.usage,
      cause,
    });
  }
}

/** A final status; RFC 9110 §15. */
export function httpStatus(written: string): number {
  if (/^[2-9]\d\d$/.test(written)) return Number(written);
  throw new InvalidArgumentError("Write a status from 200 to 999, such as 201.");
}

export function jsonValue(written: string): [value: unknown] {
  try {
    return [JSON.parse(written)];
  } catch {
    throw new InvalidArgumentError(`Write JSON, such as '{"id":1}', '"text"' or null.`);
  }
}

function wrong(message: string): Failure {
  return new Failure(message, { exit: EXIT.usage });
}
