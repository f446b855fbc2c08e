// The report for people: a line for each case, then what there is to say about those that failed.

import pc from "picocolors";
import type { CaseResult } from "../case.ts";
import type { CheckReport } from "../run.ts";

export type Colors = ReturnType<typeof pc.createColors>;

/** Colours where the output is a terminal that has them, and nobody said `NO_COLOR`. */
export function colorsOf(stream: { isTTY?: boolean }): Colors {
  return pc.createColors(stream.isTTY === true && pc.isColorSupported);
}

const WORDS = { pass: "pass", fail: "FAIL", skip: "skip", info: "info" } as const;

export function textReport(report: CheckReport, colors: Colors): string {
  const { cases, totals } = report;
  const width = Math.max(...cases.map(({ id }) => id.length));
  const lines = [`${colors.bold(`${report.method} ${report.url}`)}  seed ${report.seed}`];
  for (const tier of ["draft", "careful"] as const) {
    const ofTier = cases.filter((result) => result.tier === tier);
    if (ofTier.length === 0) continue;
    lines.push("", colors.bold(tier), ...ofTier.map((result) => line(result, width, colors)));
  }
  const failed = cases.filter(({ verdict }) => verdict === "fail");
  for (const result of failed) lines.push("", ...explanation(result, colors));
  lines.push(
    "",
    `${totals.pass} passed, ${totals.fail} failed, ${totals.skip} skipped, ${totals.info} reported; ${report.requests} requests`,
  );
  return `${lines.join("\n")}\n`;
}

function line({ id, verdict, title, note }: CaseResult, width: number, colors: Colors): string {
  const paint = {
    pass: colors.green,
    fail: colors.red,
    skip: colors.yellow,
    info: colors.cyan,
  }[verdict];
  const said = [title, ...(note === undefined ? [] : [`(${note})`])].join(" ");
  return `  ${paint(WORDS[verdict])}  ${id.padEnd(width)}  ${verdict === "skip" ? colors.dim(said) : said}`;
}

function explanation(result: CaseResult, colors: Colors): string[] {
  const head = `${colors.red(WORDS.fail)}  ${colors.bold(result.id)}  ${result.title}`;
  return [head, ...detailLines(result).map((detail) => `  ${detail}`)];
}

/** A storm has as many exchanges as answers; nobody reads a hundred. */
const SHOWN_EXCHANGES_MAX = 6;

/** What was sent, what came back, what was expected, and where that is specified. */
export function detailLines({ exchanges = [], expected, source }: CaseResult): string[] {
  const exchanged = exchanges
    .slice(0, SHOWN_EXCHANGES_MAX)
    .flatMap(({ sent, got, times }) => [
      `sent      ${times > 1 ? `${times} times  ` : ""}${sent}`,
      `got       ${got}`,
    ]);
  const more = exchanges.length - SHOWN_EXCHANGES_MAX;
  if (more > 0) exchanged.push(`…         ${more} more; --json has them all`);
  return [...exchanged, `expected  ${expected}`, `source    ${source}`];
}
