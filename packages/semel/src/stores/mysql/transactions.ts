// The store's part in a transaction that also has the handler's writes (EN-5). The primary key decides
// between two transactions about one operation: the second waits for the first.

import { StoreUnavailable, StoreUnusable } from "../../errors.ts";
import type {
  AttemptToken,
  BeginAnswer,
  Claim,
  Ending,
  JournalEntry,
  QueueItem,
  SettleAnswer,
  SqlExecutor,
  StoreTransactions,
} from "../../store.ts";
import { assertAdding } from "../queue-checks.ts";
import { distinctItems } from "../sql-item.ts";
import { answerTo } from "../sql-record.ts";
import { completeAlone, noteOthers } from "../transactions.ts";
import { assertFit } from "./batches.ts";
import {
  connectionOf,
  executorOn,
  isInTransaction,
  type MysqlConnection,
  type MysqlPool,
  queryOf,
  statementsOf,
  within,
} from "./connection.ts";
import { isRetryable } from "./errors.ts";
import { assertFits } from "./queue.ts";
import type { QueueSql } from "./queue-statements.ts";
import { appendAnswer, find, liveRecord } from "./records.ts";
import type { MysqlSettings } from "./schema.ts";
import type { MysqlSql } from "./statements.ts";
import { beginStep, firstStep, proceed } from "./steps.ts";

/** What a record takes at most, beside its result, in the statement that writes it. */
const RECORD_BYTES = 16_384;

/** What `mysql2` allows a pool that was told nothing. */
const CONNECTION_LIMIT_DEFAULT = 10;

type TransactionSql = MysqlSql & { enqueue: QueueSql["add"] };

export class MysqlTransactions<Connection extends MysqlConnection>
  implements StoreTransactions<Connection>
{
  readonly dialect = "mysql";
  readonly #pool: MysqlPool<Connection>;
  readonly #sql: TransactionSql;
  readonly #queryTimeoutMs: number;
  readonly #prepare: () => Promise<MysqlSettings>;

  constructor(
    pool: MysqlPool<Connection>,
    sql: TransactionSql,
    options: { queryTimeoutMs: number; prepare: () => Promise<MysqlSettings> },
  ) {
    this.#pool = pool;
    this.#sql = sql;
    this.#queryTimeoutMs = options.queryTimeoutMs;
    this.#prepare = options.prepare;
  }

  get concurrencyMax(): number {
    const limit = connectionLimit(this.#pool) ?? CONNECTION_LIMIT_DEFAULT;
    // 0 is without a limit; the server has one, and others have its connections too.
    return Math.max(1, (limit || CONNECTION_LIMIT_DEFAULT) - 1);
  }

  async run<Answer>(
    work: (transaction: Connection, executor: SqlExecutor) => Promise<Answer>,
  ): Promise<Answer> {
    await this.#prepare();
    const connection = await connectionOf(this.#pool, this.#queryTimeoutMs);
    let isClean = false;
    try {
      // For this transaction alone: others that use the connection find it as they left it. Without
      // it, locks on gaps make transactions about different operations wait for each other.
      await this.#ask(connection, "SET TRANSACTION ISOLATION LEVEL READ COMMITTED");
      await this.#ask(connection, "START TRANSACTION");
      const answer = await work(connection, this.#executor(connection));
      await this.#ask(connection, "COMMIT");
      isClean = true;
      return answer;
    } catch (error) {
      // A server that is silent would leave a rollback without an answer, too.
      isClean = !(error instanceof StoreUnavailable) && (await this.#rollBack(connection));
      if (isClean) noteOthers(error);
      throw error;
    } finally {
      if (isClean) connection.release();
      else connection.destroy();
    }
  }

  /**
   * Refuses to write a record into no transaction: a deadlock undoes the whole of it, and a handler
   * that keeps the error to itself would be recorded without what it wrote before.
   */
  #executor(connection: Connection): SqlExecutor {
    const { dialect, query } = executorOn(connection, this.#queryTimeoutMs);
    let isChecked = false;
    return {
      dialect,
      query: async (sql, parameters) => {
        // MySQL has no other way to ask than what the answer to a statement says.
        if (!isChecked && !(await isInTransaction(connection, this.#queryTimeoutMs))) {
          throw new StoreUnusable(
            "The handler's transaction was ended before its result was recorded: by a deadlock whose error the handler kept to itself, or by a statement that commits; let errors through, and leave the end to Semel",
          );
        }
        isChecked = true;
        return query(sql, parameters);
      },
    };
  }

  async #ask(connection: Connection, sql: string): Promise<void> {
    await within(connection.query(queryOf(sql)), this.#queryTimeoutMs);
  }

  /** @returns whether the connection may be used again */
  async #rollBack(connection: Connection): Promise<boolean> {
    try {
      await this.#ask(connection, "ROLLBACK");
      return true;
    } catch {
      // It is lost, and its transaction with it. The error that brought us here says why.
      return false;
    }
  }

  isRetryable(error: unknown): boolean {
    return isRetryable(error);
  }

  async complete(
    executor: SqlExecutor,
    claim: Claim,
    result: Uint8Array,
    retentionMs: number,
  ): Promise<SettleAnswer> {
    await this.#assertFit(result);
    const run = statementsOf(executor);
    const ended = { state: "completed", leaseMs: null, lifeMs: retentionMs, result } as const;
    const record = { ...firstStep(claim).insert, ...ended };
    if ((await run.change(this.#sql.insert([record]))) === 1) return { kind: "settled" };
    // Looks before it writes: of those who found the record finished, none needs it for itself.
    const { rows } = await find(run, this.#sql.find([claim.id], "head", "LOCK IN SHARE MODE"));
    const row = rows.get(claim.id);
    const seen = liveRecord(row);
    const mayGiveWay = seen === undefined || seen.state === "open" || seen.state === "running";
    if (row === undefined || !mayGiveWay) return { kind: "stale" };
    const over = this.#sql.completeOver(record, claim.attemptsMax);
    return { kind: (await run.change(over)) === 1 ? "settled" : "stale" };
  }

  async completeMany(
    executor: SqlExecutor,
    claims: readonly Claim[],
    results: readonly Uint8Array[],
    retentionMs: number,
  ): Promise<BeginAnswer[]> {
    const run = statementsOf(executor);
    const ended = { state: "completed", leaseMs: null, lifeMs: retentionMs } as const;
    const records = claims.map((claim, index) => {
      return { ...firstStep(claim).insert, ...ended, result: results[index]! };
    });
    const fresh = { kind: "acquired", attempt: 1, probe: false } as const;
    if ((await run.change(this.#sql.insert(records))) === claims.length) {
      return claims.map(() => fresh);
    }
    const ids = claims.map(({ id }) => id);
    const { rows } = await find(run, this.#sql.find(ids, "replay", "LOCK IN SHARE MODE"));
    const answers: BeginAnswer[] = [];
    for (const [index, claim] of claims.entries()) {
      const seen = liveRecord(rows.get(claim.id));
      const isOwn = seen?.owner === claim.owner && seen.state === "completed";
      const answer = isOwn ? fresh : answerTo(claim, seen);
      const alone = () => completeAlone(this, executor, claim, results[index]!, retentionMs);
      answers.push(answer ?? (await alone()));
    }
    return answers;
  }

  async reopen(
    executor: SqlExecutor,
    tokens: readonly AttemptToken[],
    retentionMs: number,
  ): Promise<void> {
    await statementsOf(executor).change(this.#sql.reopen(tokens, retentionMs));
  }

  async begin(executor: SqlExecutor, claim: Claim): Promise<BeginAnswer> {
    const [answer] = await proceed(statementsOf(executor), this.#sql, [claim], {
      blind: ({ refuseLate }) => (refuseLate ? undefined : firstStep(claim)),
      step: beginStep,
      lock: "LOCK IN SHARE MODE",
      isTimed: claim.refuseLate !== undefined,
    });
    if (answer instanceof Error) throw answer;
    return answer!;
  }

  async append(executor: SqlExecutor, entry: JournalEntry): Promise<SettleAnswer> {
    const run = statementsOf(executor);
    if ((await run.change(this.#sql.append([entry], 0))) === 1) return { kind: "settled" };
    const { rows } = await find(run, this.#sql.find([entry.id], "head", "LOCK IN SHARE MODE"));
    return appendAnswer(rows.get(entry.id), entry, false);
  }

  async settle(executor: SqlExecutor, ending: Ending): Promise<SettleAnswer> {
    if (ending.kind === "complete") await this.#assertFit(ending.result);
    const settled = await statementsOf(executor).change(this.#sql.settle([ending], 0));
    return { kind: settled === 1 ? "settled" : "stale" };
  }

  /** A statement that is too long would cost the connection, and with it the transaction. */
  async #assertFit(result: Uint8Array): Promise<void> {
    const { packetBytesMax } = await this.#prepare();
    assertFit(RECORD_BYTES + 2 * result.byteLength, packetBytesMax);
  }

  async enqueue(
    executor: SqlExecutor,
    given: readonly QueueItem[],
    { dueInMs } = { dueInMs: 0 },
  ): Promise<void> {
    assertAdding(given, { dueInMs });
    const { packetBytesMax } = await this.#prepare();
    const items = distinctItems(given);
    assertFits(items, packetBytesMax);
    await statementsOf(executor).change(this.#sql.enqueue(items, dueInMs, undefined));
  }
}

/** Where `mysql2` keeps what its pool was told. */
function connectionLimit(pool: unknown): number | undefined {
  const { pool: core } = pool as { pool?: { config?: { connectionLimit?: unknown } } };
  const limit = core?.config?.connectionLimit;
  return typeof limit === "number" ? limit : undefined;
}
