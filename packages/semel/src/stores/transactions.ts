// What the SQL stores share about completing many operations in a caller's transaction.

import { StoreUnavailable } from "../errors.ts";
import type { BeginAnswer, Claim, SqlExecutor, StoreTransactions } from "../store.ts";

/** What the statement that inserts absent records has left: open, lapsed or expired ones. */
export async function completeAlone(
  transactions: Pick<StoreTransactions, "begin" | "settle">,
  executor: SqlExecutor,
  claim: Claim,
  result: Uint8Array,
  retentionMs: number,
): Promise<BeginAnswer> {
  const answer = await transactions.begin(executor, claim);
  if (answer.kind !== "acquired") return answer;
  const { attempt } = answer;
  const token = { id: claim.id, owner: claim.owner, attempt };
  const ending = { ...token, kind: "complete", result, retentionMs } as const;
  const { kind } = await transactions.settle(executor, ending);
  if (kind === "settled") return answer;
  throw new StoreUnavailable("A record changed hands within a transaction; begin it again");
}

/** Errors may be wrapped; no deeper than this is looked. */
const CAUSES_MAX = 8;

/** What was thrown in transactions whose connections were well afterwards. */
const ofOthers = new WeakSet<object>();

/**
 * Notes that a transaction could be rolled back after an error: if that says that a connection was lost,
 * then it was another one, such as of a request that the handler made, and to do it all again would make
 * that again.
 */
export function noteOthers(error: unknown): void {
  let cause = error;
  for (let depth = 0; depth < CAUSES_MAX && typeof cause === "object" && cause !== null; depth++) {
    ofOthers.add(cause);
    const { driverError, cause: inner } = cause as { driverError?: unknown; cause?: unknown };
    cause = driverError ?? inner;
  }
}

/** Whether an error is known to say nothing about the connection of its transaction. */
export function isOfOthers(error: unknown): boolean {
  return typeof error === "object" && error !== null && ofOthers.has(error);
}
