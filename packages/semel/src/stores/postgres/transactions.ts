// The Postgres store's part in one transaction with the handler's writes (EN-5).

import type { SqlExecutor, SqlValue, StoreTransactions } from "../../store.ts";
import {
  beginParameters,
  begun,
  completeParameters,
  repliesTo,
  settleParameters,
} from "./claims.ts";
import type { PostgresClient } from "./client.ts";
import { isRetryable, storeError } from "./errors.ts";
import type { PostgresStatements } from "./statements.ts";

/**
 * @param ready rejects when the tables are not those of this version; asks through the caller's own
 * transaction, because the pool may have no other connection left
 * @param connectionsMax how many connections there are for transactions and for handlers
 */
export function transactionsOf(
  client: PostgresClient,
  sql: PostgresStatements,
  ready: (executor: SqlExecutor) => Promise<void>,
  connectionsMax: number,
): StoreTransactions {
  /** What the caller may see as a conflict stays what it is, so that its own retry knows it. */
  async function ask(executor: SqlExecutor, statement: string, parameters: readonly SqlValue[]) {
    await ready(executor);
    try {
      return await executor.query(statement, parameters);
    } catch (error) {
      throw isRetryable(error) ? error : storeError(error);
    }
  }

  return {
    concurrencyMax: Math.max(1, connectionsMax - 1),

    // No setting comes before the work, so that it may choose its isolation; what carries the claim
    // sees to durability (ST-11a).
    run: (work) => client.transaction(work),

    isRetryable,

    async complete(executor, claim, result, retentionMs) {
      const parameters = completeParameters(claim, result, retentionMs);
      const { rows } = await ask(executor, sql.complete, parameters);
      return { kind: rows.length > 0 ? "settled" : "stale" };
    },

    begin(executor, claim) {
      const query = (statement: string, parameters: readonly SqlValue[]) =>
        ask(executor, statement, parameters);
      const askOnce = async () => {
        const result = await query(sql.begin, beginParameters([claim], null));
        const [reply] = repliesTo([claim], result);
        if (reply instanceof Error) throw reply;
        return reply!;
      };
      return begun(claim, askOnce, query, sql);
    },

    async settle(executor, ending) {
      const { rows } = await ask(executor, sql.settle, settleParameters([ending], null));
      return { kind: rows.length > 0 ? "settled" : "stale" };
    },
  };
}
