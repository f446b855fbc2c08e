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
