// The Postgres store's part in one transaction with the handler's writes (EN-5).

import type { Claim, SettleAnswer, SqlExecutor, SqlValue, StoreTransactions } from "../../store.ts";
import { assertAdding } from "../queue-checks.ts";
import { completeAlone } from "../transactions.ts";
import { isNotMarked, type PostgresClient, type TransactionExecutor } from "./client.ts";
import { completedTogether, reopenParameters } from "./complete-many.ts";
import type { PostgresDatabase } from "./database.ts";
import {
  endedByHandler,
  isMissingFunction,
  isOfConstraint,
  isRetryable,
  isStale,
  storeError,
} from "./errors.ts";
import {
  appendParameters,
  beginParameters,
  completeLiterals,
  completeParameters,
  settleParameters,
} from "./parameters.ts";
import { addParameters } from "./queue.ts";
import { begun, repliesTo } from "./replies.ts";
import type { PostgresStatements } from "./statements.ts";

/**
 * @param database is asked through the caller's own transaction, because the pool may have no other
 * connection left
 * @param connectionsMax how many connections there are for transactions and for handlers
 */
export function transactionsOf(
  client: PostgresClient,
  sql: PostgresStatements & { readonly enqueue: string },
  database: Pick<PostgresDatabase, "isReady" | "checkOn" | "functions" | "forgetFunctions">,
  connectionsMax: number,
): StoreTransactions {
  /** What the caller may see as a conflict stays what it is, so that its own retry knows it. */
  async function ask(executor: SqlExecutor, statement: string, parameters: readonly SqlValue[]) {
    await database.checkOn(executor);
    try {
      return await executor.query(statement, parameters);
    } catch (error) {
      throw failureOf(error);
    }
  }

  function failureOf(error: unknown): unknown {
    if (isMissingFunction(error)) {
      database.forgetFunctions();
      return new FunctionGone(error);
    }
    return isRetryable(error) ? error : storeError(error);
  }

  async function complete(
    executor: SqlExecutor,
    claim: Claim,
    result: Uint8Array,
    retentionMs: number,
  ): Promise<SettleAnswer> {
    const parameters: SqlValue[] = completeParameters(claim, result, retentionMs);
    const { mark } = executor as Partial<TransactionExecutor>;
    await database.checkOn(executor);
    const called = database.functions?.calls.complete;
    if (called !== undefined) parameters.push(mark ?? null);
    else if (mark !== undefined) await assertMarked(executor, mark);
    const { rows } = await ask(executor, called ?? sql.complete, parameters);
    return { kind: rows.length > 0 ? "settled" : "stale" };
  }

  /** @throws {StoreUnusable} when that transaction is over */
  async function assertMarked(executor: SqlExecutor, mark: string): Promise<void> {
    const { rows } = await ask(executor, `SELECT ${isNotMarked("$1::text")} AS ended`, [mark]);
    if (rows[0]!["ended"]) throw endedByHandler();
  }

  const transactions: StoreTransactions = {
    dialect: "postgres",
    concurrencyMax: Math.max(1, connectionsMax - 1),

    // No setting comes before the work, so that it may choose its isolation; what carries the claim
    // sees to durability (ST-11a).
    run: (work) => client.transaction(work),

    isRetryable,

    complete,

    async completeAndCommit(executor: TransactionExecutor, claim, result, retentionMs) {
      if (!database.isReady) await database.checkOn(executor);
      const literals = completeLiterals(claim, result, retentionMs);
      const statement =
        literals && database.functions?.completeOrFail([...literals, `'${executor.mark}'`]);
      if (statement === undefined || executor.commitWith === undefined) {
        return complete(executor, claim, result, retentionMs);
      }
      try {
        await executor.commitWith(statement);
        return { kind: "settled" };
      } catch (error) {
        if (isStale(error)) return { kind: "stale" };
        // What was deferred until the commit is the caller's own to see.
        throw isOfConstraint(error) ? error : failureOf(error);
      }
    },

    completeMany(executor, claims, results, retentionMs) {
      const query = (statement: string, parameters: readonly SqlValue[]) =>
        ask(executor, statement, parameters);
      return completedTogether(claims, results, retentionMs, query, sql, (claim, result) =>
        completeAlone(transactions, executor, claim, result, retentionMs),
      );
    },

    async reopen(executor, tokens, retentionMs) {
      await ask(executor, sql.reopen, reopenParameters(tokens, retentionMs));
    },

    async begin(executor, claim) {
      const query = (statement: string, parameters: readonly SqlValue[]) =>
        ask(executor, statement, parameters);
      const askOnce = async () => {
        const result = await query(sql.begin, beginParameters([claim], null));
        const [reply] = repliesTo([claim], result);
        if (reply instanceof Error) throw reply;
        return reply!;
      };
      return begun(claim, await askOnce(), askOnce, query, sql);
    },

    async append(executor, entry) {
      const { mark = null } = executor as Partial<TransactionExecutor>;
      const parameters = [...appendParameters([entry], null), mark];
      const { rows } = await ask(executor, sql.appendMarked, parameters);
      if (rows.length > 0) return { kind: "settled" };
      if (mark !== null) await assertMarked(executor, mark);
      return { kind: "stale" };
    },

    async settle(executor, ending) {
      const { mark } = executor as Partial<TransactionExecutor>;
      if (mark !== undefined) await assertMarked(executor, mark);
      const { rows } = await ask(executor, sql.settle, settleParameters([ending], null));
      return { kind: rows.length > 0 ? "settled" : "stale" };
    },

    async enqueue(executor, items, { dueInMs } = { dueInMs: 0 }) {
      assertAdding(items, { dueInMs });
      const { mark } = executor as Partial<TransactionExecutor>;
      if (mark !== undefined) await assertMarked(executor, mark);
      const adding = { id: items[0]!.operation, items, dueInMs };
      await ask(executor, sql.enqueue, addParameters([adding], null));
    },
  };
  return transactions;
}

/** What Postgres says when a transaction has to begin again: this one cannot go on. */
class FunctionGone extends Error {
  readonly code = "40001";
  constructor(cause: unknown) {
    super("A function of the store was dropped; the transaction has to begin again", { cause });
  }
}
