// The words of the checker: what a case is, what it may find, and what it knows of the API.

import type { CaseRun } from "./case-run.ts";
import type { Answer } from "./exchange.ts";

/**
 * - `draft`: what draft-ietf-httpapi-idempotency-key-header says.
 * - `careful`: what an API does besides that its callers trust with money.
 */
export type Tier = "draft" | "careful";

/** What a case cannot do without; a run without it skips the case, and says how to give it. */
export type Need =
  | "body"
  | "count"
  | "credential"
  | "evidence"
  | "fail"
  | "json"
  | "other-auth"
  | "other-body"
  | "other-method"
  | "slow";

export interface Case {
  /** In kebab-case, unique. */
  id: string;
  tier: Tier;
  /** What must be so, as a sentence. */
  title: string;
  /** Where that is specified. */
  source: string;
  /** The most requests that it sends to the API, reads of `--count` not among them. */
  requestsMax: number;
  needs?: readonly Need[];
  /** @throws {Unmet | Skipped} */
  run(check: CaseRun): Promise<Finding>;
}

/** What a case found that did not fail: that it is as it must be, or how it is where both are right. */
export type Finding = { verdict: "pass" } | { verdict: "info"; note: string };

export const PASS: Finding = { verdict: "pass" };

export function info(note: string): Finding {
  return { verdict: "info", note };
}

/** What was expected did not happen. */
export class Unmet extends Error {
  override name = "Unmet";
}

/** It cannot be told here; the message says why, and what would help. */
export class Skipped extends Error {
  override name = "Skipped";
}

/** @throws {Unmet} unless it is so */
export function expect(isSo: boolean, expected: string): asserts isSo {
  if (!isSo) throw new Unmet(expected);
}

/** @throws {Skipped} */
export function skip(reason: string): never {
  throw new Skipped(reason);
}

/** One exchange, as shown to people. */
export interface Exchanged {
  sent: string;
  got: string;
  /** How many were alike. */
  times: number;
}

export interface CaseResult {
  id: string;
  tier: Tier;
  title: string;
  source: string;
  verdict: "pass" | "fail" | "skip" | "info";
  /** What a skipped or informational case has to say. */
  note?: string;
  /** Of a failed case: what should have happened. */
  expected?: string;
  /** Of a failed case: what was sent and what came back, in order. */
  exchanges?: Exchanged[];
  durationMs: number;
}

/** What the first operations of a run taught about the API. */
export interface Facts {
  /** How the API takes keys: as an RFC 9651 String, or bare. */
  spelling: "quoted" | "bare";
  /** Whether two operations get two different answers, by which one effect is told from two. */
  isDistinct: boolean;
  /** Whether `--count` rose by one for each operation, at first. */
  isCounted: boolean;
  /** The answers to operations that were all new. */
  fresh: readonly Answer[];
  /** Why the second body cannot be used, if it cannot. */
  otherBodyRefusal: string | undefined;
}
