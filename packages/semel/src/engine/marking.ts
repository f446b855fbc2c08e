// Marks many operations as done in a transaction that the caller opened, before their work is done in
// it: claim and completion of all of them are one call of the store's. What goes wrong afterwards rolls
// back with everything else.

import type { Codec } from "../codec.ts";
import { isComparable } from "../fingerprint.ts";
import type { BeginAnswer, Claim, SqlExecutor, StoreTransactions } from "../store.ts";
import type { Admissions, OperationRequest } from "./admission.ts";
import { outcomeOf } from "./execution.ts";

/** What stands under an operation's name now. */
export type Mark =
  /** It was marked, and its work is to be done. */
  | { kind: "fresh"; attempt: number }
  | { kind: "duplicate" }
  /** It may not be done, and was not marked. */
  | { kind: "refused"; error: unknown };

/** Does the work of those that are fresh; when it throws, none of them is marked. */
export type MarkedWork = (marks: readonly Mark[]) => Promise<void>;

interface Marking {
  transactions: StoreTransactions;
  admissions: Admissions;
  codec: Codec;
  /** What is kept of each, sealed. */
  result: Uint8Array;
  retentionMs: number;
}

/** @param requests of different operations */
export async function markTogether(
  marking: Marking,
  executor: SqlExecutor,
  requests: readonly OperationRequest[],
  work: MarkedWork,
): Promise<void> {
  const { transactions, admissions, result, retentionMs } = marking;
  const claims = requests.map((request) => admissions.claim(request));
  const answers = new Map<Claim, BeginAnswer>();
  const ask = async (asked: readonly Claim[]) => {
    if (asked.length === 0) return;
    // In one order everywhere, so that two transactions cannot wait for each other's records.
    const sorted = [...asked].sort((one, other) => (one.id < other.id ? -1 : 1));
    const results = sorted.map(() => result);
    const given = await transactions.completeMany(executor, sorted, results, retentionMs);
    for (const [index, claim] of sorted.entries()) answers.set(claim, given[index]!);
  };
  await ask(claims);
  // As in admission: made by another algorithm, so that the key alone decides.
  const incomparable = claims.filter((claim) => {
    const answer = answers.get(claim)!;
    if (answer.kind !== "mismatch" || isComparable(answer.fingerprint, claim.fingerprint)) {
      return false;
    }
    claim.fingerprint = answer.fingerprint;
    return true;
  });
  await ask(incomparable);
  const marked = claims.filter((claim) => answers.get(claim)!.kind === "acquired");
  try {
    const marks: Mark[] = [];
    for (const [index, claim] of claims.entries()) {
      const mark = markOf(marking, requests[index]!, claim, answers.get(claim)!);
      // Most are known at once, and a wait for each would add up.
      marks.push(mark instanceof Promise ? await mark : mark);
    }
    await work(marks);
  } catch (error) {
    // The caller will roll back. Should it commit all the same, they may be done again; where the
    // database refuses further statements, it cannot commit.
    const tokens = marked.map((claim) => {
      const { attempt } = answers.get(claim) as { attempt: number };
      return { id: claim.id, owner: claim.owner, attempt };
    });
    if (tokens.length > 0) {
      await transactions.reopen(executor, tokens, retentionMs).catch(() => {});
    }
    throw error;
  }
}

function markOf(
  marking: Marking,
  request: OperationRequest,
  claim: Claim,
  answer: BeginAnswer,
): Mark | Promise<Mark> {
  if (answer.kind === "acquired") return { kind: "fresh", attempt: answer.attempt };
  if (answer.kind === "done") return { kind: "duplicate" };
  return refusedMark(marking, request, claim, answer);
}

async function refusedMark(
  { admissions, codec }: Marking,
  request: OperationRequest,
  claim: Claim,
  answer: Exclude<BeginAnswer, { kind: "acquired" }>,
): Promise<Mark> {
  try {
    outcomeOf(await admissions.refused(request, answer, claim.fingerprint), codec);
    return { kind: "duplicate" };
  } catch (error) {
    return { kind: "refused", error };
  }
}
