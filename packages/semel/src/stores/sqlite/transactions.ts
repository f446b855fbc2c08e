// A SQLite store's part in transactions with the user's own writes (EN-5).

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
import { answerTo } from "../sql-record.ts";
import { completeAlone } from "../transactions.ts";
import type { SqliteConnection, SqliteDatabase } from "./connection.ts";
import { isBusy, isOfStatement, storeError } from "./errors.ts";
import { fromSqlite } from "./executor.ts";
import { added } from "./queue.ts";
import type { QueueStatements } from "./queue-statements.ts";
import { assertSchema } from "./schema.ts";
import type { SqliteStatements } from "./statements.ts";
import {
  appended,
  claimed,
  completed,
  completedTogether,
  found,
  performOn,
  reopened,
  settled,
  type Transition,
} from "./transitions.ts";
import type { WriteLine } from "./write-line.ts";

/** A connection that is used for transactions alone. */
export interface TransactionConnection<Database> {
  database: Database;
  connection: SqliteConnection;
}

export class SqliteTransactions<Database extends SqliteDatabase>
  implements StoreTransactions<Database>
{
  /** SQLite has one writer at a time. */
  readonly concurrencyMax = 1;
  readonly #statements: SqliteStatements;
  readonly #queue: QueueStatements;
  readonly #table: string;
  readonly #line: WriteLine;
  readonly #records: SqliteConnection;
  readonly #own: TransactionConnection<Database> | undefined;
  #isReady = false;

  constructor(parts: {
    statements: SqliteStatements;
    queue: QueueStatements;
    table: string;
    line: WriteLine;
    /** The connection that the records are read through. */
    records: SqliteConnection;
    own: TransactionConnection<Database> | undefined;
  }) {
    this.#statements = parts.statements;
    this.#queue = parts.queue;
    this.#table = parts.table;
    this.#line = parts.line;
    this.#records = parts.records;
    this.#own = parts.own;
  }

  async run<Answer>(
    work: (transaction: Database, executor: SqlExecutor) => Promise<Answer>,
  ): Promise<Answer> {
    const own = this.#own;
    if (own === undefined) {
      throw new StoreUnusable(
        "This SQLite store has no connection for transactions; open another one to the same file: `sqliteStore(database, { transactions: another })`",
      );
    }
    this.#line.assertOutside();
    return this.#line.runOpen(() => this.#transact(own, work));
  }

  async #transact<Answer>(
    { database, connection }: TransactionConnection<Database>,
    work: (transaction: Database, executor: SqlExecutor) => Promise<Answer>,
  ): Promise<Answer> {
    await connection.patiently(() => {
      this.#prepare(connection);
      connection.exec("BEGIN IMMEDIATE");
    });
    let answer: Answer;
    try {
      answer = await work(database, this.#executor(database, connection));
    } catch (error) {
      connection.rollback();
      throw error;
    }
    try {
      connection.exec("COMMIT");
    } catch (error) {
      connection.rollback();
      // A constraint that was deferred to the commit is the user's own.
      if (isBusy(error) || isOfStatement(error)) throw error;
      throw new StoreUnavailable("The SQLite database failed to commit; the outcome is unknown", {
        cause: error,
      });
    }
    return answer;
  }

  /**
   * Refuses to write a record into no transaction: on some errors SQLite rolls back by itself, and a
   * handler that went on after one would be recorded without what it wrote before.
   */
  #executor(database: Database, connection: SqliteConnection): SqlExecutor {
    const { dialect, query } = fromSqlite(database);
    return {
      dialect,
      query: async (sql, parameters) => {
        if (connection.isInTransaction()) return query(sql, parameters);
        throw new StoreUnusable(
          "The handler's transaction was ended before its result was recorded: by an error that the handler kept to itself, or by a COMMIT or ROLLBACK of its own; let errors through, and leave the end to Semel",
        );
      },
    };
  }

  isRetryable(error: unknown): boolean {
    return isBusy(error);
  }

  async complete(
    executor: SqlExecutor,
    claim: Claim,
    result: Uint8Array,
    retentionMs: number,
  ): Promise<SettleAnswer> {
    return this.#perform(executor, completed(this.#statements, claim, result, retentionMs));
  }

  async completeMany(
    executor: SqlExecutor,
    claims: readonly Claim[],
    results: readonly Uint8Array[],
    retentionMs: number,
  ): Promise<BeginAnswer[]> {
    const together = completedTogether(this.#statements, claims, results, retentionMs);
    const answers: BeginAnswer[] = [];
    for (const [index, answer] of (await this.#perform(executor, together)).entries()) {
      const alone = () =>
        completeAlone(this, executor, claims[index]!, results[index]!, retentionMs);
      answers.push(answer ?? (await alone()));
    }
    return answers;
  }

  async reopen(
    executor: SqlExecutor,
    tokens: readonly AttemptToken[],
    retentionMs: number,
  ): Promise<void> {
    await this.#perform(executor, reopened(this.#statements, tokens, retentionMs));
  }

  async begin(executor: SqlExecutor, claim: Claim): Promise<BeginAnswer> {
    const record = await this.#perform(executor, found(this.#statements, claim.id));
    const seen = answerTo(claim, record);
    return seen ?? this.#perform(executor, claimed(this.#statements, claim));
  }

  async append(executor: SqlExecutor, entry: JournalEntry): Promise<SettleAnswer> {
    return this.#perform(executor, appended(this.#statements, entry));
  }

  async settle(executor: SqlExecutor, ending: Ending): Promise<SettleAnswer> {
    return this.#perform(executor, settled(this.#statements, ending));
  }

  async enqueue(
    executor: SqlExecutor,
    items: readonly QueueItem[],
    options = { dueInMs: 0 },
  ): Promise<void> {
    assertAdding(items, options);
    await this.#perform(executor, added(this.#queue, items, options));
  }

  async #perform<Answer>(executor: SqlExecutor, transition: Transition<Answer>): Promise<Answer> {
    if (executor.dialect !== "sqlite") {
      throw new StoreUnusable(
        `The transaction is one of ${executor.dialect}, and these records are kept in SQLite; they cannot commit together`,
      );
    }
    try {
      return await performOn(executor, transition);
    } catch (error) {
      throw storeError(error);
    }
  }

  /** Once it has succeeded; what failed is tried again by the next transaction. */
  #prepare(connection: SqliteConnection): void {
    if (this.#isReady) return;
    if (connection.file() === "" || connection.file() !== this.#records.file()) {
      throw new StoreUnusable(
        "The store's two SQLite connections must be to one file on disk, or the records would not commit with the writes",
      );
    }
    connection.configure();
    assertSchema(connection, this.#table);
    this.#isReady = true;
  }
}
