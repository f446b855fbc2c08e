// `semel check`: asks any HTTP API, in whatever language it is, whether its operations are safe to
// repeat, and ends with what it found.

import { randomBytes } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { Argument, Command, Option } from "commander";
import type { Case } from "./check/case.ts";
import { CASES } from "./check/catalogue.ts";
import type { HeaderLine } from "./check/exchange.ts";
import {
  caseIds,
  duplicates,
  headerLine,
  headerName,
  httpUrl,
  jsonPointer,
  unsafeMethod,
} from "./check/flags.ts";
import { otherPayload } from "./check/payload.ts";
import { junitReport } from "./check/report/junit.ts";
import { listed, textListing } from "./check/report/listing.ts";
import { Progress } from "./check/report/progress.ts";
import { colorsOf, textReport } from "./check/report/text.ts";
import { CannotCheck, type CheckReport, runCases } from "./check/run.ts";
import type { Target } from "./check/target.ts";
import { EXIT, Failure } from "./failure.ts";
import { timeout } from "./flags.ts";

/** The exit code when the target could not be checked at all. */
const EXIT_UNCHECKED = 3;

const DEFAULT_BODY = '{"amount":100}';

interface CheckFlags {
  method: string;
  /** `-H` has no long name: `--header` names the header of keys. */
  H?: HeaderLine[];
  header: string;
  body?: string;
  bodyFile?: string;
  otherBody?: string;
  otherBodyFile?: string;
  otherAuth?: HeaderLine;
  otherMethod?: string;
  count?: URL;
  countPointer: string;
  slow?: URL;
  fail?: URL;
  required: boolean;
  duplicates: number;
  timeout: number;
  seed?: string;
  tier: "draft" | "careful" | "all";
  only?: string[];
  list?: boolean;
  json?: boolean;
  junit?: string;
}

const EXAMPLES = `
It runs the operation for real, a few hundred times at most: check a test system. Requests are sent one
after the other, except where a case is about what comes at once.

Examples:
  What would be asked, and how many requests each case sends at most:
    $ semel check --list

  An API that lists what it made, so that effects are counted:
    $ semel check http://127.0.0.1:3000/charges --count http://127.0.0.1:3000/charges

  With credentials of two callers, and another name for the header of keys:
    $ semel check https://test.example.com/orders -H 'Authorization: Bearer alice' \\
        --other-auth 'Authorization: Bearer bob' --header X-Request-Id --body '{"item":"book"}'

  In a build, what the draft says only:
    $ semel check http://127.0.0.1:3000/charges --tier draft --junit results.xml

Exit codes: 0 no case failed, 1 some failed, 2 wrong usage, 3 the target cannot be checked: it is not
reached, or it refuses the operation itself.`;

export function checkCommand(): Command {
  const command = new Command("check")
    .description("Asks any HTTP API, in whatever language it is, whether it is safe to retry.")
    .addArgument(new Argument("[url]", "the address of an operation").argParser(httpUrl))
    .addHelpText("after", EXAMPLES)
    .action(async (url: URL | undefined, flags: CheckFlags) => {
      process.exitCode = await run(url, flags);
    });
  for (const flag of [...operationFlags(), ...helpFlags(), ...runFlags(), ...outputFlags()]) {
    command.addOption(flag);
  }
  return command;
}

function operationFlags(): Option[] {
  return [
    new Option("-X, --method <method>", "the operation's method")
      .argParser(unsafeMethod)
      .default("POST"),
    new Option("-H <line>", "a header of every request, 'Name: value'; may be repeated").argParser(
      (written: string, earlier: HeaderLine[] = []) => [...earlier, headerLine(written, "-H")],
    ),
    new Option("--header <name>", "the header that carries keys")
      .argParser(headerName)
      .default("Idempotency-Key"),
    new Option("--body <text>", `the operation's payload (default: ${DEFAULT_BODY})`).conflicts(
      "bodyFile",
    ),
    new Option("--body-file <path>", "the same, from a file"),
    new Option(
      "--other-body <text>",
      "another valid payload (default: the body with one value changed)",
    ).conflicts("otherBodyFile"),
    new Option("--other-body-file <path>", "the same, from a file"),
    new Option(
      "--required",
      "keys are required here: a request without one must be refused",
    ).default(false),
  ];
}

/** What lets more cases run. */
function helpFlags(): Option[] {
  const address = (flags: string, description: string) =>
    new Option(flags, description).argParser(httpUrl);
  return [
    address("--count <url>", "answers GET with a number, or a list, that counts effects"),
    new Option("--count-pointer <pointer>", "where in that answer, as a JSON Pointer")
      .argParser(jsonPointer)
      .default("", "the whole of it"),
    new Option("--other-auth <line>", "a header that makes the request another caller's").argParser(
      (written: string) => headerLine(written, "--other-auth"),
    ),
    new Option("--other-method <method>", "another unsafe method of the same address").argParser(
      unsafeMethod,
    ),
    address("--slow <url>", "an address at which the operation takes half a second or longer"),
    address("--fail <url>", "an address at which the operation answers 5xx"),
  ];
}

function runFlags(): Option[] {
  return [
    new Option("--tier <tier>", "which cases").choices(["draft", "careful", "all"]).default("all"),
    new Option("--only <cases>", "these cases only, with commas between").argParser(caseIds),
    new Option("--duplicates <number>", "how many duplicates a storm has")
      .argParser(duplicates)
      .default(100),
    new Option("--timeout <duration>", "how long an answer may take")
      .argParser(timeout)
      .default(timeout("10s"), "10s"),
    new Option("--seed <text>", "what keys are made of (default: random)"),
  ];
}

function outputFlags(): Option[] {
  return [
    new Option("--list", "show the cases, and send nothing"),
    new Option("--dry-run", "the same").implies({ list: true }),
    new Option("--json", "print the report as JSON"),
    new Option("--junit <file>", "write the report as JUnit's XML as well"),
  ];
}

async function run(url: URL | undefined, flags: CheckFlags): Promise<number> {
  const cases = chosen(flags);
  if (flags.list) {
    list(cases, url && targetOf(url, flags), flags);
    return EXIT.ok;
  }
  // Not Commander's to demand: `--list` does without.
  if (url === undefined) {
    throw new Failure("an address is required, such as http://127.0.0.1:3000/charges", {
      exit: EXIT.usage,
    });
  }
  const report = await checked(targetOf(url, flags), cases);
  if (flags.junit !== undefined) write(flags.junit, junitReport(report));
  const text = flags.json ? jsonOf(report) : textReport(report, colorsOf(process.stdout));
  process.stdout.write(text);
  return report.totals.fail === 0 ? EXIT.ok : EXIT.failed;
}

async function checked(target: Target, cases: readonly Case[]): Promise<CheckReport> {
  const progress = new Progress(process.stderr, cases.length);
  try {
    return await runCases(target, cases, {
      onCase: (theCase, index) => progress.show(theCase, index),
    });
  } catch (error) {
    if (!(error instanceof CannotCheck)) throw error;
    throw new Failure(error.message, { exit: EXIT_UNCHECKED, cause: error });
  } finally {
    progress.clear();
  }
}

function list(cases: readonly Case[], target: Target | undefined, flags: CheckFlags): void {
  process.stdout.write(
    flags.json
      ? jsonOf(listed(cases, target))
      : textListing(cases, target, colorsOf(process.stdout)),
  );
}

function chosen({ tier, only }: CheckFlags): readonly Case[] {
  const unknown = only?.find((id) => CASES.every((theCase) => theCase.id !== id));
  if (unknown !== undefined) {
    throw new Failure(`--only: there is no case ${JSON.stringify(unknown)}; --list shows them`, {
      exit: EXIT.usage,
    });
  }
  const cases = CASES.filter(
    (theCase) => (tier === "all" || theCase.tier === tier) && (only?.includes(theCase.id) ?? true),
  );
  if (cases.length > 0) return cases;
  throw new Failure(`--tier ${tier} has none of the cases of --only`, { exit: EXIT.usage });
}

function targetOf(url: URL, flags: CheckFlags): Target {
  const { method, header, otherAuth, otherMethod, slow, fail, count, H: given = [] } = flags;
  if (given.some(([name]) => name.toLowerCase() === header.toLowerCase())) {
    throw new Failure(`-H must not hold ${header}: every case makes keys of its own`, {
      exit: EXIT.usage,
    });
  }
  const body = payload("--body-file", flags.body, flags.bodyFile) ?? Buffer.from(DEFAULT_BODY);
  const hasType = given.some(([name]) => name.toLowerCase() === "content-type");
  const type: HeaderLine[] =
    hasType || body.byteLength === 0 ? [] : [["Content-Type", "application/json"]];
  return {
    ...{ url, method, body, otherAuth, otherMethod, slow, fail },
    headers: [...type, ...given],
    otherBody:
      payload("--other-body-file", flags.otherBody, flags.otherBodyFile) ?? otherPayload(body),
    keyHeader: header,
    count: count && { url: count, pointer: flags.countPointer },
    isRequired: flags.required,
    duplicates: flags.duplicates,
    timeoutMs: flags.timeout,
    seed: flags.seed ?? randomBytes(6).toString("hex"),
  };
}

function payload(
  flag: string,
  text: string | undefined,
  path: string | undefined,
): Buffer | undefined {
  if (path === undefined) return text === undefined ? undefined : Buffer.from(text);
  try {
    return readFileSync(path);
  } catch (cause) {
    const { message } = cause as Error;
    throw new Failure(`${flag} ${path} cannot be read: ${message}`, { exit: EXIT.usage, cause });
  }
}

function write(path: string, text: string): void {
  try {
    writeFileSync(path, text);
  } catch (cause) {
    throw new Failure(`--junit ${path} cannot be written: ${(cause as Error).message}`, { cause });
  }
}

function jsonOf(value: unknown): string {
  return `${JSON.stringify(value, undefined, 2)}\n`;
}
