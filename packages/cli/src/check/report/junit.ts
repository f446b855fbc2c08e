// The report for build servers, in the XML of JUnit: a suite for each tier.

import type { CaseResult } from "../case.ts";
import type { CheckReport } from "../run.ts";
import { detailLines } from "./text.ts";

export function junitReport({ url, startedAt, cases }: CheckReport): string {
  const suites = (["draft", "careful"] as const).map((tier) => {
    const ofTier = cases.filter((result) => result.tier === tier);
    const count = (verdict: string) => ofTier.filter((result) => result.verdict === verdict).length;
    const numbers = `tests="${ofTier.length}" failures="${count("fail")}" skipped="${count("skip")}" errors="0"`;
    return [
      `  <testsuite name="${tier}" ${numbers} time="${seconds(ofTier)}" timestamp="${startedAt.slice(0, 19)}" hostname="${escaped(url)}">`,
      ...ofTier.map(testCase),
      "  </testsuite>",
    ].join("\n");
  });
  return [
    '<?xml version="1.0" encoding="UTF-8"?>',
    "<testsuites>",
    ...suites,
    "</testsuites>",
    "",
  ].join("\n");
}

function testCase(result: CaseResult): string {
  const { id, tier, title, verdict, note = "", expected = "" } = result;
  const open = `    <testcase name="${escaped(`${id}: ${title}`)}" classname="semel.check.${tier}" time="${seconds([result])}"`;
  switch (verdict) {
    case "pass":
      return `${open}/>`;
    case "skip":
      return `${open}><skipped message="${escaped(note)}"/></testcase>`;
    case "info":
      return `${open}><system-out>${escaped(note)}</system-out></testcase>`;
    case "fail": {
      const details = escaped(detailLines(result).join("\n"));
      return `${open}><failure message="${escaped(expected)}">${details}</failure></testcase>`;
    }
  }
}

function seconds(results: readonly CaseResult[]): string {
  return (results.reduce((sum, { durationMs }) => sum + durationMs, 0) / 1_000).toFixed(3);
}

/** Escaped for attributes and text; characters that XML has no way to write become U+FFFD. */
function escaped(text: string): string {
  return (
    text
      // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is replaced
      .replace(/[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]/g, "\ufffd")
      .toWellFormed()
      .replace(/[&<>"]/g, (character) => ENTITIES[character]!)
  );
}

const ENTITIES: Record<string, string> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
};
