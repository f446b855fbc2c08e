// Runs the cases: learns first how the API answers, then asks one case after the other.

import { randomUUID } from "node:crypto";
import { type Case, type CaseResult, type Facts, type Need, Skipped, Unmet } from "./case.ts";
import { CaseRun, NO_EVIDENCE, shownAnswer } from "./case-run.ts";
import { marksOf } from "./cases/answers.ts";
import { CountUnreadable, readCount } from "./effects.ts";
import { type Answer, isAccepted } from "./exchange.ts";
import { canonicalText, jsonObject } from "./payload.ts";
import { isCredential, type Target } from "./target.ts";

/** The requests before the first case: how keys are written, whether answers tell operations apart. */
export const SETUP_REQUESTS_MAX = 5;

/** The target does not answer, or refuses the operation itself: there is nothing to check. */
export class CannotCheck extends Error {
  override name = "CannotCheck";
}

export interface CheckReport {
  url: string;
  method: string;
  seed: string;
  startedAt: string;
  /** Sent in all, reads of `--count` not among them. */
  requests: number;
  totals: Record<CaseResult["verdict"], number>;
  cases: CaseResult[];
}

export interface RunOptions {
  /** Called before each case. */
  onCase?: (theCase: Case, index: number) => void;
}

/**
 * Checks an API.
 *
 * @throws {CannotCheck} when it cannot be reached, or does not take the operation or the counter
 */
export async function runCases(
  target: Target,
  cases: readonly Case[],
  { onCase }: RunOptions = {},
): Promise<CheckReport> {
  const startedAt = new Date().toISOString();
  const totals = { pass: 0, fail: 0, skip: 0, info: 0 };
  const results: CaseResult[] = [];
  try {
    let { facts, sent: requests } = await setUp(target);
    for (const [index, theCase] of cases.entries()) {
      onCase?.(theCase, index);
      const { result, sent } = await runCase(theCase, target, facts);
      requests += sent;
      totals[result.verdict]++;
      results.push(result);
    }
    const { url, method, seed } = target;
    return { url: url.href, method, seed, startedAt, requests, totals, cases: results };
  } catch (error) {
    if (error instanceof CountUnreadable) throw new CannotCheck(error.message);
    throw error;
  }
}

/** What a case lacks, in the words of the flag that would give it. */
export function lacking(
  { needs = [] }: Case,
  target: Target,
  facts: Facts | undefined,
): string | undefined {
  for (const need of needs) {
    const reason = LACKS[need](target, facts);
    if (reason !== undefined) return reason;
  }
  return undefined;
}

const LACKS: Record<Need, (target: Target, facts: Facts | undefined) => string | undefined> = {
  body: ({ body }) => (body.byteLength > 0 ? undefined : "the operation has no body (--body)"),
  count: ({ count }) => (count ? undefined : "needs --count, an address that counts effects"),
  credential: (target) =>
    target.headers.some((line) => isCredential(target, line))
      ? undefined
      : "no credential is sent (-H 'Authorization: …')",
  evidence: ({ count }, facts) => (count || !facts || facts.isDistinct ? undefined : NO_EVIDENCE),
  fail: ({ fail }) => (fail ? undefined : "needs --fail, an address that answers 5xx"),
  json: ({ body }) => (jsonObject(body) ? undefined : "the body is no JSON object (--body)"),
  "other-auth": ({ otherAuth }) => (otherAuth ? undefined : "needs --other-auth, another caller"),
  "other-body": ({ otherBody }, facts) =>
    otherBody ? facts?.otherBodyRefusal : "needs --other-body, another payload",
  "other-method": ({ otherMethod }) =>
    otherMethod ? undefined : "needs --other-method, another unsafe method of the address",
  slow: ({ slow }) => (slow ? undefined : "needs --slow, an address that takes a while"),
};

async function runCase(
  theCase: Case,
  target: Target,
  facts: Facts,
): Promise<{ result: CaseResult; sent: number }> {
  const { id, tier, title, source } = theCase;
  const check = new CaseRun(target, facts, theCase);
  const startedAt = performance.now();
  const verdict = await judge(theCase, check);
  const durationMs = Math.round(performance.now() - startedAt);
  return { result: { id, tier, title, source, ...verdict, durationMs }, sent: check.sent };
}

async function judge(
  theCase: Case,
  check: CaseRun,
): Promise<Pick<CaseResult, "verdict" | "note" | "expected" | "exchanges">> {
  const reason = lacking(theCase, check.target, check.facts);
  if (reason !== undefined) return { verdict: "skip", note: reason };
  try {
    return await theCase.run(check);
  } catch (error) {
    if (error instanceof Skipped) return { verdict: "skip", note: error.message };
    if (!(error instanceof Unmet)) throw error;
    return { verdict: "fail", expected: error.message, exchanges: check.exchanges };
  }
}

/** Sends the operation under fresh keys, which must be accepted, and counted, like any other. */
async function setUp(target: Target): Promise<{ facts: Facts; sent: number }> {
  const facts: Facts = {
    spelling: "quoted",
    ...{ isDistinct: false, isCounted: false },
    fresh: [],
    otherBodyRefusal: undefined,
  };
  const check = new CaseRun(target, facts, { id: "setup", requestsMax: SETUP_REQUESTS_MAX });
  const before = target.count ? await readCount(target) : 0;
  const first = await firstAnswer(check, facts);
  let operations = 2;
  if (isMarked(first)) {
    // No seed makes this key, so its answer is no replay: what marks it as well marks every answer.
    const control = await check.send(randomUUID());
    if (!isMarked(control)) {
      throw new CannotCheck(
        `${target.url.href} replays an answer to what should be a new key; give another --seed`,
      );
    }
    operations++;
  }
  const second = await check.send(check.key());
  if (!isAccepted(second)) throw new CannotCheck(refusal(target, second));
  if (target.count) facts.isCounted = await countsEach(target, before, operations);
  facts.fresh = [first, second];
  facts.isDistinct = canonicalText(first.body) !== canonicalText(second.body);
  if (target.otherBody) {
    const other = await check.send(check.key(), { body: target.otherBody });
    if (!isAccepted(other)) {
      facts.otherBodyRefusal = `the other payload is refused by itself, with ${other.status}; --other-body gives a better one`;
    }
  }
  return { facts, sent: check.sent };
}

/** Whether an answer has what marks replays. */
function isMarked(answer: Answer): boolean {
  return marksOf(answer).some((mark) => /: (?:true|replayed)$/.test(mark));
}

/** Many APIs know bare keys only. */
async function firstAnswer(check: CaseRun, facts: Facts): Promise<Answer> {
  const quoted = await check.send(check.key());
  if (isAccepted(quoted)) return quoted;
  if (quoted.status === 0) {
    throw new CannotCheck(`${check.target.url.href} cannot be reached: ${quoted.trouble}`);
  }
  facts.spelling = "bare";
  const bare = await check.send(check.key());
  if (isAccepted(bare)) return bare;
  throw new CannotCheck(refusal(check.target, quoted));
}

function refusal({ url, method }: Target, answer: Answer): string {
  return `${method} ${url.href} must be accepted before it can be checked; it answers ${shownAnswer(answer)}. Give a request that works with --method, -H and --body`;
}

/**
 * One effect of two operations is a finding, and `distinct-keys` says so; none is no counter.
 *
 * @returns whether there was one for each
 */
async function countsEach(target: Target, before: number, operations: number): Promise<boolean> {
  const counted = (await readCount(target)) - before;
  if (counted >= 1 && counted <= operations) return counted === operations;
  throw new CannotCheck(
    `--count ${target.count!.url.href} rose by ${counted} when ${operations} new operations ran; it must count each of them, and nothing else may run meanwhile`,
  );
}
