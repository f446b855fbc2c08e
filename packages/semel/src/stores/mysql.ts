// Keeps records in MySQL or MariaDB (ST-4), through the user's own pool of `mysql2`. What is asked at
// about the same time shares statements, and so the wait for the network and the disk.

import { randomInt } from "node:crypto";
import { type Duration, durationMs } from "../duration.ts";
import { InvalidOption } from "../errors.ts";
import { assertInteger, assertKnownOptions } from "../options.ts";
import type {
  BeginAnswer,
  Claim,
  DeleteAnswer,
  Ending,
  JournalEntry,
  ListPage,
  ListQuery,
  RecordId,
  RenewAnswer,
  Renewal,
  Resolution,
  ResolveAnswer,
  SettleAnswer,
  Store,
  StoredRecord,
  StoreQueue,
  StoreStats,
  StoreTransactions,
  UnusedAttempt,
  VoidAnswer,
  VoidRequest,
} from "../store.ts";
import { combine } from "./combine.ts";
import { inStatements } from "./mysql/batches.ts";
import {
  type MysqlCallbackPool,
  type MysqlConnection,
  type MysqlPool,
  MysqlStatements,
} from "./mysql/connection.ts";
import { MysqlQueue } from "./mysql/queue.ts";
import { queueStatementsFor } from "./mysql/queue-statements.ts";
import {
  appendAnswer,
  type FoundRow,
  find,
  liveRecord,
  type MysqlRow,
  recordRow,
  type Text,
  textOf,
} from "./mysql/records.ts";
import { applyMigrations, assertSchema, type MysqlSettings, tablesOf } from "./mysql/schema.ts";
import { type ListFilter, type MysqlSql, statementsFor } from "./mysql/statements.ts";
import { beginStep, firstStep, isFirst, proceed, voidStep } from "./mysql/steps.ts";
import { MysqlTransactions } from "./mysql/transactions.ts";
import { readableRecord, type SqlInteger, STATES } from "./sql-record.ts";

export type {
  MysqlCallbackPool,
  MysqlConnection,
  MysqlPool,
  MysqlQuery,
} from "./mysql/connection.ts";
export { mysqlMigrations } from "./mysql/schema.ts";

export interface MysqlStoreOptions {
  /** Prefix of the names of the tables. @default "semel" */
  table?: string | undefined;
  /** How long to try again while other transactions hold the rows. @default "5s" */
  lockTimeout?: Duration | undefined;
  /**
   * How long a statement may take, with the wait for a connection, before the store counts as
   * unavailable; without it, a network that swallows packets would hold up everything behind.
   * @default "10s"
   */
  queryTimeout?: Duration | undefined;
}

export interface MysqlStore<Connection = unknown> extends Store {
  readonly transactions: StoreTransactions<Connection>;
  readonly queue: StoreQueue;
  /**
   * Creates the tables, or brings them to this version's schema. Safe to run again, and by many
   * processes at once.
   *
   * @throws {StoreUnusable} when the server is read-only, the user may not, or the schema is of a
   *   newer version
   */
  migrate(): Promise<void>;
}

/** Bounds how long one statement keeps its locks, and the others of its batch waiting. */
const BATCH_ITEMS_MAX = 128;
/** While the server writes one to its disk it works on the other; more only split the batches. */
const BATCHES_IN_FLIGHT_MAX = 2;
const LIST_LIMIT_MAX = 1_000;
const SWEEP_LIMIT_MAX = 100_000;
const SWEEP_ITEMS_MAX = 1_000;
/** How many begins the guess about the next ones looks back on. */
const GUESS_BEGINS = 16;
/** The names of MySQL's tables have 64 characters; ours end in `_records`. */
const TABLE_LENGTH_MAX = 56;
const RECEIPT_MAX = 2 ** 31 - 1;

/**
 * A store in MySQL or MariaDB, through the caller's own pool: `createPool()` of `mysql2/promise` or of
 * `mysql2`. The pool may be used for other things too, must lead to the primary, and is never ended
 * by the store.
 *
 * @throws {InvalidOption} when an option is unknown or out of bounds, or the pool is none
 * @example
 * const store = mysqlStore(createPool("mysql://app@localhost/shop"));
 * await store.migrate();
 */
export function mysqlStore<Connection extends MysqlConnection>(
  pool: MysqlPool<Connection> | MysqlCallbackPool<Connection>,
  options: MysqlStoreOptions = {},
): MysqlStore<Connection> {
  assertKnownOptions(options, ["table", "lockTimeout", "queryTimeout"], "mysqlStore()");
  const { table = "semel", lockTimeout = "5s", queryTimeout = "10s" } = options;
  assertTable(table);
  return new MysqlRecords(promisePool(pool), {
    table,
    lockTimeoutMs: durationMs(lockTimeout, "lockTimeout"),
    queryTimeoutMs: durationMs(queryTimeout, "queryTimeout", { minMs: 1 }),
  });
}

function assertTable(table: unknown): void {
  if (typeof table !== "string" || table === "" || table.length > TABLE_LENGTH_MAX) {
    throw new InvalidOption(`\`table\` must be a string of 1 to ${TABLE_LENGTH_MAX} characters`);
  }
  if (table.includes("\0") || /[\ud800-\udfff]/.test(table)) {
    throw new InvalidOption(
      "`table` must have no NUL and no character beyond U+FFFF, which MySQL does not take in names",
    );
  }
}

function promisePool<Connection extends MysqlConnection>(
  pool: MysqlPool<Connection> | MysqlCallbackPool<Connection>,
): MysqlPool<Connection> {
  const { promise, query, getConnection } = (pool ?? {}) as Partial<
    MysqlPool<Connection> & MysqlCallbackPool<Connection>
  >;
  if (typeof promise === "function") return (pool as MysqlCallbackPool<Connection>).promise();
  if (typeof query === "function" && typeof getConnection === "function") {
    return pool as MysqlPool<Connection>;
  }
  throw new InvalidOption("mysqlStore() takes a pool, as `createPool()` of `mysql2` makes it");
}

interface CountRow {
  state: SqlInteger;
  records: SqlInteger;
  oldest: SqlInteger | null;
}

class MysqlRecords<Connection extends MysqlConnection> implements MysqlStore<Connection> {
  readonly name = "mysql";
  readonly transactions: StoreTransactions<Connection>;
  readonly queue: StoreQueue;
  readonly #run: MysqlStatements;
  readonly #table: string;
  readonly #sql: MysqlSql;
  readonly #begin: (claim: Claim) => Promise<BeginAnswer>;
  readonly #settle: (ending: Ending) => Promise<SettleAnswer>;
  readonly #append: (entry: JournalEntry) => Promise<SettleAnswer>;
  readonly #renew: (renewal: Renewal) => Promise<RenewAnswer>;
  readonly #read: (look: { id: RecordId }) => Promise<StoredRecord | undefined>;
  #settings: Promise<MysqlSettings> | undefined;
  /** Which share of the last begins found nothing, from 0 to 1. */
  #freshness = 1;

  constructor(
    pool: MysqlPool<Connection>,
    options: { table: string; lockTimeoutMs: number; queryTimeoutMs: number },
  ) {
    this.#run = new MysqlStatements(pool, options);
    this.#table = options.table;
    this.#sql = statementsFor(tablesOf(options.table));
    const { queryTimeoutMs } = options;
    const prepare = () => this.#prepare();
    const queue = queueStatementsFor(tablesOf(options.table));
    const sql = { ...this.#sql, enqueue: queue.add };
    this.transactions = new MysqlTransactions(pool, sql, { queryTimeoutMs, prepare });
    this.queue = new MysqlQueue(queue, { run: this.#run, prepare });
    this.#begin = this.#combined(claimBytes, (claims) => this.#beginAll(claims));
    this.#settle = this.#combined(endingBytes, (endings) => this.#settleAll(endings));
    this.#append = this.#combined(entryBytes, (entries) => this.#appendAll(entries));
    this.#renew = this.#combined(itemBytes, (renewals) => this.#renewAll(renewals));
    this.#read = this.#combined(itemBytes, (looks) => this.#readAll(looks));
  }

  #combined<Item extends { readonly id: RecordId }, Answer>(
    bytesOf: (item: Item) => number,
    send: (items: readonly Item[]) => Promise<(Answer | Error)[]>,
  ): (item: Item) => Promise<Answer> {
    return combine<Item, Answer>({
      send: async (items) => {
        const { packetBytesMax } = await this.#prepare();
        return inStatements(items, { bytesOf, packetBytesMax }, send);
      },
      itemsMax: BATCH_ITEMS_MAX,
      inFlightMax: BATCHES_IN_FLIGHT_MAX,
      collect: "turn",
    });
  }

  async migrate(): Promise<void> {
    await applyMigrations(this.#run, this.#table);
    await this.#prepare();
  }

  begin(claim: Claim): Promise<BeginAnswer> {
    return this.#begin(claim);
  }

  /**
   * PF-1: inserts before it looks while most begins are of new operations, which are then begun in
   * one round trip, and looks first while most are duplicates, which then write nothing. The other
   * kind takes two.
   */
  async #beginAll(claims: readonly Claim[]): Promise<(BeginAnswer | Error)[]> {
    const isMostlyFresh = this.#freshness >= 0.5;
    const answers = await proceed(this.#run, this.#sql, claims, {
      blind: (claim) => (isMostlyFresh && !claim.refuseLate ? firstStep(claim) : undefined),
      step: beginStep,
      lock: "",
      isTimed: claims.some(({ refuseLate }) => refuseLate !== undefined),
    });
    const weight = Math.min(1, claims.length / GUESS_BEGINS);
    const fresh = answers.filter(isFirst).length / claims.length;
    this.#freshness += weight * (fresh - this.#freshness);
    return answers;
  }

  settle(ending: Ending): Promise<SettleAnswer> {
    return this.#settle(ending);
  }

  async #settleAll(endings: readonly Ending[]): Promise<(SettleAnswer | Error)[]> {
    const receipt = randomInt(1, RECEIPT_MAX);
    const settled = await this.#run.change(this.#sql.settle(endings, receipt));
    if (settled === endings.length) return endings.map(() => ({ kind: "settled" }));
    return this.#lookEach(endings, (row) => {
      if (row?.receipt === receipt) return { kind: "settled" };
      // Of a damaged record nobody can tell whose it is.
      liveRecord(row);
      return { kind: "stale" };
    });
  }

  async giveBack(unused: UnusedAttempt): Promise<SettleAnswer> {
    await this.#prepare();
    if ((await this.#run.change(this.#sql.giveBack(unused))) > 0) return { kind: "settled" };
    // Of a damaged record nobody can tell whose it is.
    await this.#head(unused.id);
    return { kind: "stale" };
  }

  append(entry: JournalEntry): Promise<SettleAnswer> {
    return this.#append(entry);
  }

  async #appendAll(entries: readonly JournalEntry[]): Promise<(SettleAnswer | Error)[]> {
    const receipt = randomInt(1, RECEIPT_MAX);
    const appended = await this.#run.change(this.#sql.append(entries, receipt));
    if (appended === entries.length) return entries.map(() => ({ kind: "settled" }));
    return this.#lookEach(entries, (row, entry) =>
      appendAnswer(row, entry, row?.receipt === receipt),
    );
  }

  renew(renewal: Renewal): Promise<RenewAnswer> {
    return this.#renew(renewal);
  }

  async #renewAll(renewals: readonly Renewal[]): Promise<(RenewAnswer | Error)[]> {
    const renewed = await this.#run.change(this.#sql.renew(renewals));
    if (renewed === renewals.length) return renewals.map(() => ({ kind: "renewed" }));
    // What is the caller's now was the caller's then, and so has been renewed.
    return this.#lookEach(renewals, (row, { attempt, owner }) => {
      const record = liveRecord(row);
      const isOwn = record?.attempt === attempt && record.owner === owner;
      return { kind: isOwn && record?.state === "running" ? "renewed" : "stale" };
    });
  }

  async #lookEach<Item extends { id: RecordId }, Answer>(
    items: readonly Item[],
    answer: (row: FoundRow | undefined, item: Item) => Answer,
  ): Promise<(Answer | Error)[]> {
    const ids = items.map(({ id }) => id);
    const { rows } = await find(this.#run, this.#sql.find(ids, "head"));
    return items.map((item) => {
      try {
        return answer(rows.get(item.id), item);
      } catch (error) {
        return error as Error;
      }
    });
  }

  read(id: RecordId): Promise<StoredRecord | undefined> {
    return this.#read({ id });
  }

  async #readAll(
    looks: readonly { id: RecordId }[],
  ): Promise<(StoredRecord | undefined | Error)[]> {
    const ids = looks.map(({ id }) => id);
    const { rows } = await find(this.#run, this.#sql.find(ids, "whole"));
    return ids.map((id) => {
      try {
        return liveRecord(rows.get(id));
      } catch (error) {
        return error as Error;
      }
    });
  }

  async sweep(limit: number): Promise<number> {
    assertInteger(limit, "limit", 1, SWEEP_LIMIT_MAX);
    await this.#prepare();
    let removed = 0;
    while (removed < limit) {
      const itemsMax = Math.min(limit - removed, SWEEP_ITEMS_MAX);
      const found = await this.#run.rows<{ id: Text }>(this.#sql.findExpired(itemsMax));
      if (found.length === 0) break;
      const ids = found.map(({ id }) => textOf(id)).sort();
      const forgotten = await this.#run.change(this.#sql.forgetExpired(ids));
      removed += forgotten;
      // Nothing more, or another sweeper is at the same ones.
      if (found.length < itemsMax || forgotten === 0) break;
    }
    return removed;
  }

  async resolve(resolution: Resolution): Promise<ResolveAnswer> {
    const { packetBytesMax } = await this.#prepare();
    const bounds = { bytesOf: resolutionBytes, packetBytesMax };
    const [answer] = await inStatements([resolution], bounds, () => this.#resolve(resolution));
    return answerOrThrow(answer!);
  }

  async #resolve(resolution: Resolution): Promise<ResolveAnswer[]> {
    if ((await this.#run.change(this.#sql.resolve(resolution))) > 0) return [{ kind: "resolved" }];
    const record = await this.#head(resolution.id);
    if (record === undefined) return [{ kind: "absent" }];
    // It was held since the statement before.
    if (record.state === "held") return this.#resolve(resolution);
    return [{ kind: "refused", state: record.state }];
  }

  async void(request: VoidRequest): Promise<VoidAnswer> {
    await this.#prepare();
    const [answer] = await proceed(this.#run, this.#sql, [request], {
      blind: () => undefined,
      step: voidStep,
      lock: "",
      isTimed: false,
    });
    return answerOrThrow(answer!);
  }

  async delete(id: RecordId): Promise<DeleteAnswer> {
    await this.#prepare();
    if ((await this.#run.change(this.#sql.delete(id))) > 0) return { kind: "deleted" };
    return { kind: (await this.#head(id)) ? "busy" : "absent" };
  }

  /** The live record, without its result. */
  async #head(id: RecordId): Promise<StoredRecord | undefined> {
    const { rows } = await find(this.#run, this.#sql.find([id], "head"));
    return liveRecord(rows.get(id));
  }

  async list({ scope, state, olderThanMs, limit, cursor }: ListQuery): Promise<ListPage> {
    assertInteger(limit, "limit", 1, LIST_LIMIT_MAX);
    const before = cursor === undefined ? undefined : parseCursor(cursor);
    await this.#prepare();
    const filter: ListFilter = { scope, state, olderThanMs, before, limit: limit + 1 };
    const rows = (await this.#run.rows<MysqlRow>(this.#sql.list(filter))).map(recordRow);
    const page = rows.slice(0, limit);
    const last = page.at(-1);
    return {
      records: page.flatMap(readableRecord),
      ...(last && rows.length > limit && { cursor: `${last.created}.${last.id}` }),
    };
  }

  async stats(): Promise<StoreStats> {
    await this.#prepare();
    const states = { running: 0, completed: 0, held: 0, open: 0, void: 0 };
    let oldestHeldMs: number | null = null;
    for (const row of await this.#run.rows<CountRow>(this.#sql.countByState)) {
      const state = STATES.get(Number(row.state));
      if (state === undefined) continue;
      states[state] = Number(row.records);
      if (state === "held") oldestHeldMs = Number(row.oldest);
    }
    const [size] = await this.#run.rows<{ bytes: SqlInteger | null }>(this.#sql.bytes);
    const bytes = size?.bytes ?? null;
    return { states, oldestHeldMs, bytes: bytes === null ? null : Number(bytes) };
  }

  /** Once it has succeeded; what failed is tried again by the next call. */
  #prepare(): Promise<MysqlSettings> {
    this.#settings ??= this.#inspect().catch((error: unknown) => {
      this.#settings = undefined;
      throw error;
    });
    return this.#settings;
  }

  async #inspect(): Promise<MysqlSettings> {
    const settings = await assertSchema(this.#run, this.#table);
    if (!settings.isDurable) {
      process.emitWarning(
        "`innodb_flush_log_at_trx_commit` of the MySQL server is not 1: operations that were answered may be forgotten when its machine fails, and run again",
        { type: "SemelWarning", code: "SEMEL_MYSQL_NOT_DURABLE" },
      );
    }
    return settings;
  }
}

function answerOrThrow<Answer>(answer: Answer | Error): Answer {
  if (answer instanceof Error) throw answer;
  return answer;
}

/** What the digits and names of an item take in a statement, at most. */
const ITEM_BYTES = 1_024;

function itemBytes(): number {
  return ITEM_BYTES;
}

/** Two digits for each of at most three bytes a character. */
function claimBytes({ scope, key, fingerprint }: Claim): number {
  return ITEM_BYTES + 6 * scope.length + 2 * (key.length + fingerprint.length);
}

function endingBytes(ending: Ending): number {
  if (ending.kind === "complete") return ITEM_BYTES + 2 * ending.result.byteLength;
  return ITEM_BYTES + (ending.kind === "hold" ? 6 * ending.reason.length : 0);
}

function entryBytes({ bytes }: JournalEntry): number {
  return ITEM_BYTES + 2 * bytes.byteLength;
}

function resolutionBytes(resolution: Resolution): number {
  return ITEM_BYTES + (resolution.kind === "complete" ? 2 * resolution.result.byteLength : 0);
}

function parseCursor(cursor: string): { created: number; id: RecordId } {
  const [, created, id] = /^(\d{1,15})\.([0-9a-f]{32})$/.exec(cursor) ?? [];
  if (created === undefined || id === undefined) {
    throw new InvalidOption("`cursor` is not one that a previous page of this list ended with");
  }
  return { created: Number(created), id };
}
