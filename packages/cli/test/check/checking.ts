// Checks a served API in this process, with everything that lets cases run.

import type { CaseResult } from "../../src/check/case.ts";
import { CASES } from "../../src/check/catalogue.ts";
import { otherPayload } from "../../src/check/payload.ts";
import { type CheckReport, runCases } from "../../src/check/run.ts";
import type { Target } from "../../src/check/target.ts";

const BODY = Buffer.from('{"amount":100,"currency":"EUR"}');

/** The target that every server of these tests is: `/charges`, `?slow`, `?fail`, `/count`. */
export function targetAt(origin: string, changes: Partial<Target> = {}): Target {
  return {
    url: new URL("/charges", origin),
    method: "POST",
    headers: [
      ["Content-Type", "application/json"],
      ["Authorization", "Bearer alice"],
    ],
    body: BODY,
    otherBody: otherPayload(BODY),
    keyHeader: "Idempotency-Key",
    count: { url: new URL("/count", origin), pointer: "" },
    otherAuth: ["Authorization", "Bearer bob"],
    otherMethod: "PATCH",
    slow: new URL("/charges?slow=1", origin),
    fail: new URL("/charges?fail=1", origin),
    isRequired: true,
    duplicates: 100,
    timeoutMs: 10_000,
    seed: "test",
    ...changes,
  };
}

export function checked(target: Target, cases = CASES): Promise<CheckReport> {
  return runCases(target, cases);
}

export function ids(report: CheckReport, verdict: CaseResult["verdict"]): string[] {
  return report.cases.filter((result) => result.verdict === verdict).map(({ id }) => id);
}
