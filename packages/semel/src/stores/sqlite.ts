// Keeps records in one SQLite file (ST-2): durable, shared by many processes, and with no server to
// run. Writes of one turn of the event loop share a transaction, and so the wait for the disk.

import { type Duration, durationMs } from "../duration.ts";
import { InvalidOption, RecordUnreadable } from "../errors.ts";
import { assertInteger, assertKnownOptions, assertMethods, assertOneOf } from "../options.ts";
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
import { answerTo, type RecordRow, readableRecord, STATE_CODES, STATES } from "./sql-record.ts";
import {
  blob,
  SqliteConnection,
  type SqliteDatabase,
  type SqliteInteger,
} from "./sqlite/connection.ts";
import { storeError } from "./sqlite/errors.ts";
import { SqliteQueue } from "./sqlite/queue.ts";
import { queueStatementsFor } from "./sqlite/queue-statements.ts";
import { applyMigrations, assertSchema, tablesOf } from "./sqlite/schema.ts";
import { type SqliteStatements, statementsFor } from "./sqlite/statements.ts";
import { SqliteTransactions, type TransactionConnection } from "./sqlite/transactions.ts";
import {
  appended,
  claimed,
  claimedNew,
  clockWentBack,
  found,
  perform,
  settledAtOnce,
  stale,
  type Transition,
} from "./sqlite/transitions.ts";
import { WriteLine } from "./sqlite/write-line.ts";

export type { SqliteDatabase, SqliteStatement, SqliteValue } from "./sqlite/connection.ts";
export { sqliteMigrations } from "./sqlite/schema.ts";

export interface SqliteStoreOptions<Transaction = SqliteDatabase> {
  /** Prefix of the names of the tables. @default "semel" */
  table?: string | undefined;
  /**
   * `"full"`: what was answered survives a power cut. `"normal"`: it survives the death of the
   * process only, and writes cost no wait for the disk. @default "full"
   */
  synchronous?: "full" | "normal" | undefined;
  /** How long to wait, in all, for other connections that are writing. @default "5s" */
  busyTimeout?: Duration | undefined;
  /**
   * Another connection to the same file, which `transaction()` opens its transactions on and gives to
   * its handlers. While one is open, nothing else can write to the file.
   */
  transactions?: Transaction | undefined;
}

export interface SqliteStore<Transaction = SqliteDatabase> extends Store {
  readonly transactions: StoreTransactions<Transaction>;
  readonly queue: StoreQueue;

  /**
   * Creates the tables, or brings them to this version's schema; puts the file into WAL mode. Safe
   * to run again, and by many processes at once.
   *
   * @throws {StoreUnusable} when the file is read-only, not a database, or of a newer version
   */
  migrate(): Promise<void>;
}

/** Bounds how long one transaction keeps the event loop and the file's write lock. */
const BATCH_ITEMS_MAX = 128;
const LIST_LIMIT_MAX = 1_000;
const SWEEP_LIMIT_MAX = 100_000;

/**
 * A store in a SQLite file, through the caller's own connection: `new DatabaseSync(path)` of
 * `node:sqlite`, or `new Database(path)` of `libsql` or `better-sqlite3` (SQLite 3.41 or newer). The
 * connection must be used for nothing else, is configured on first use (`synchronous`,
 * `busy_timeout`), and is never closed by the store.
 *
 * @throws {InvalidOption} when an option is unknown or out of bounds, or the database is none
 * @example
 * const store = sqliteStore(new DatabaseSync("idempotency.db"));
 * await store.migrate();
 */
export function sqliteStore<Transaction extends SqliteDatabase = SqliteDatabase>(
  database: SqliteDatabase,
  options: SqliteStoreOptions<Transaction> = {},
): SqliteStore<Transaction> {
  const known = ["table", "synchronous", "busyTimeout", "transactions"];
  assertKnownOptions(options, known, "sqliteStore()");
  assertDatabase(database, "database");
  if (options.transactions !== undefined) assertDatabase(options.transactions, "transactions");
  const { table = "semel", synchronous = "full", busyTimeout = "5s", transactions } = options;
  assertOneOf(synchronous, ["full", "normal"], "synchronous");
  assertTable(table);
  const busyTimeoutMs = durationMs(busyTimeout, "busyTimeout");
  const connect = (to: SqliteDatabase) => new SqliteConnection(to, { synchronous, busyTimeoutMs });
  if ((transactions as unknown) === database) {
    throw new InvalidOption("`transactions` must be a connection other than the store's own");
  }
  const own = transactions && { database: transactions, connection: connect(transactions) };
  return new SqliteRecords(connect(database), table, busyTimeoutMs, own);
}

function assertDatabase(database: unknown, option: string): void {
  const what =
    'must be an opened database, such as `new DatabaseSync("app.db")` of `node:sqlite`, and not its path';
  assertMethods(database, option, ["exec", "prepare"], what);
}

function assertTable(table: unknown): void {
  if (typeof table !== "string" || table === "" || table.includes("\0")) {
    throw new InvalidOption("`table` must be a non-empty string without NUL characters");
  }
  if (/^sqlite(_|$)/i.test(table)) {
    throw new InvalidOption("`table` must not be in the `sqlite_` names, which SQLite reserves");
  }
}

/** One write, run within the transaction that it shares with the others of its turn. */
interface Write {
  readonly id: RecordId;
  readonly askedAt: number;
  run(): unknown;
}

interface CountRow {
  state: SqliteInteger;
  records: SqliteInteger;
  oldest_ms: SqliteInteger | null;
}

class SqliteRecords<Transaction extends SqliteDatabase> implements SqliteStore<Transaction> {
  readonly name = "sqlite";
  readonly #connection: SqliteConnection;
  readonly #table: string;
  readonly #sql: SqliteStatements;
  readonly #line: WriteLine;
  readonly #seen: (claim: Claim) => Promise<BeginAnswer | undefined>;
  readonly #combined: (write: Write) => Promise<unknown>;
  readonly transactions: SqliteTransactions<Transaction>;
  readonly queue: StoreQueue;
  #isReady = false;

  constructor(
    connection: SqliteConnection,
    table: string,
    busyTimeoutMs: number,
    own: TransactionConnection<Transaction> | undefined,
  ) {
    this.#connection = connection;
    this.#table = table;
    this.#sql = statementsFor(tablesOf(table));
    const queue = queueStatementsFor(tablesOf(table));
    const [statements, records] = [this.#sql, connection];
    const line = new WriteLine(busyTimeoutMs);
    this.#line = line;
    this.transactions = new SqliteTransactions({ statements, queue, table, line, records, own });
    this.queue = new SqliteQueue(queue, {
      connection,
      read: (query) => this.#read(query),
      write: (id, run) => this.#write(id, run),
    });
    this.#seen = combine<Claim, BeginAnswer | undefined>({
      send: (claims) => this.#read(() => this.#answersTo(claims)),
      itemsMax: BATCH_ITEMS_MAX,
      inFlightMax: 1,
      collect: "turn",
      // Nothing is written, so that what repeats a record is answered alike.
      repeats: true,
    });
    this.#combined = combine<Write, unknown>({
      send: (writes) => this.#transact(writes),
      itemsMax: BATCH_ITEMS_MAX,
      inFlightMax: 1,
      collect: "turn",
      // Writes run one after the other, so that two about one record may share a transaction.
      repeats: true,
    });
  }

  async migrate(): Promise<void> {
    await this.#connection.patiently(() => {
      this.#connection.configure();
      applyMigrations(this.#connection, this.#table);
      assertSchema(this.#connection, this.#table);
    });
  }

  async begin(claim: Claim): Promise<BeginAnswer> {
    // Duplicates of finished and of running operations neither write nor wait for a lock.
    const seen = await this.#seen(claim);
    if (seen !== undefined) return seen;
    return this.#write(claim.id, () => {
      const first = claimedNew(this.#connection, this.#sql, claim);
      return first ?? this.#perform(claimed(this.#sql, claim));
    });
  }

  settle(ending: Ending): Promise<SettleAnswer> {
    return this.#write(ending.id, () => settledAtOnce(this.#connection, this.#sql, ending));
  }

  giveBack({ id, attempt, owner, retentionMs }: UnusedAttempt): Promise<SettleAnswer> {
    return this.#write(id, () => {
      const given = this.#connection.run(this.#sql.giveBack, retentionMs, id, attempt, owner);
      return given > 0 ? { kind: "settled" } : this.#perform(stale(this.#sql, { id }));
    });
  }

  append(entry: JournalEntry): Promise<SettleAnswer> {
    return this.#write(entry.id, () => this.#perform(appended(this.#sql, entry)));
  }

  renew(renewal: Renewal): Promise<RenewAnswer> {
    const { id, attempt, owner, leaseMs, lapsedRetentionMs } = renewal;
    const lifeMs = lapsedRetentionMs === null ? null : leaseMs + lapsedRetentionMs;
    return this.#write(id, () => {
      const renewed = this.#connection.run(this.#sql.renew, leaseMs, lifeMs, id, attempt, owner);
      return renewed > 0 ? { kind: "renewed" } : this.#perform(stale(this.#sql, renewal));
    });
  }

  read(id: RecordId): Promise<StoredRecord | undefined> {
    return this.#read(() => this.#find(id));
  }

  async sweep(limit: number): Promise<number> {
    assertInteger(limit, "limit", 1, SWEEP_LIMIT_MAX);
    return this.#write("", () => this.#connection.run(this.#sql.sweep, limit));
  }

  resolve(resolution: Resolution): Promise<ResolveAnswer> {
    const { id, retentionMs } = resolution;
    const [state, result] =
      resolution.kind === "complete"
        ? [STATE_CODES.completed, blob(resolution.result)]
        : [STATE_CODES.open, null];
    return this.#write(id, () => {
      const resolved = this.#connection.run(this.#sql.resolve, state, result, retentionMs, id);
      if (resolved > 0) return { kind: "resolved" };
      const record = this.#find(id);
      return record ? { kind: "refused", state: record.state } : { kind: "absent" };
    });
  }

  void({ id, scope, key, retentionMs }: VoidRequest): Promise<VoidAnswer> {
    return this.#write(id, () => {
      this.#connection.run(this.#sql.forgetExpired, id);
      const voided = this.#connection.run(this.#sql.void, id, scope, key, retentionMs);
      if (voided > 0) return { kind: "voided" };
      switch (this.#find(id)?.state) {
        case "completed":
          return { kind: "completed" };
        case "running":
          return { kind: "busy" };
        case "void":
          return { kind: "voided" };
        default:
          throw clockWentBack();
      }
    });
  }

  delete(id: RecordId): Promise<DeleteAnswer> {
    return this.#write(id, () => {
      const [deleted] = this.#connection.rows<{ expired: SqliteInteger }>(this.#sql.delete, id);
      if (deleted !== undefined) return { kind: deleted.expired ? "absent" : "deleted" };
      return { kind: this.#find(id) ? "busy" : "absent" };
    });
  }

  async list({ scope, state, olderThanMs, limit, cursor }: ListQuery): Promise<ListPage> {
    assertInteger(limit, "limit", 1, LIST_LIMIT_MAX);
    const before = cursor === undefined ? null : parseCursor(cursor);
    return this.#read(() => {
      const rows = this.#connection.rows<RecordRow & { position: SqliteInteger }>(
        this.#sql.list(state),
        ...[before, scope ?? null, olderThanMs ?? null, limit + 1],
      );
      const page = rows.slice(0, limit);
      const last = page.at(-1);
      return {
        records: page.flatMap(readableRecord),
        ...(last && rows.length > limit && { cursor: String(last.position) }),
      };
    });
  }

  stats(): Promise<StoreStats> {
    return this.#read(() => {
      const states = { running: 0, completed: 0, held: 0, open: 0, void: 0 };
      let oldestHeldMs: number | null = null;
      for (const row of this.#connection.rows<CountRow>(this.#sql.countByState)) {
        const state = STATES.get(Number(row.state));
        if (state === undefined) continue;
        states[state] = Number(row.records);
        if (state === "held") oldestHeldMs = Number(row.oldest_ms);
      }
      const [size] = this.#connection.rows<{ bytes: SqliteInteger }>(this.#sql.bytes);
      return { states, oldestHeldMs, bytes: Number(size!.bytes) };
    });
  }

  /** What claims are told without a write; most are of new operations, which one look shows. */
  #answersTo(claims: readonly Claim[]): (BeginAnswer | Error | undefined)[] {
    const ids = JSON.stringify(claims.map(({ id }) => id));
    const present = this.#connection.rows<{ id: RecordId }>(this.#sql.present, ids);
    if (present.length === 0) return claims.map(() => undefined);
    const found = new Set(present.map(({ id }) => id));
    return claims.map((claim) => {
      if (!found.has(claim.id)) return undefined;
      try {
        return answerTo(claim, this.#find(claim.id));
      } catch (error) {
        // A damaged record is its own caller's; what the database says is everybody's.
        if (error instanceof RecordUnreadable) return error;
        throw error;
      }
    });
  }

  /** The live record. */
  #find(id: RecordId): StoredRecord | undefined {
    return this.#perform(found(this.#sql, id));
  }

  #perform<Answer>(transition: Transition<Answer>): Answer {
    return perform(this.#connection, transition);
  }

  #read<Answer>(query: () => Answer): Promise<Answer> {
    return this.#connection.patiently(() => {
      this.#prepare();
      return query();
    });
  }

  #write<Answer>(id: RecordId, run: () => Answer): Promise<Answer> {
    try {
      this.#line.assertOutside();
    } catch (error) {
      return Promise.reject(error);
    }
    return this.#combined({ id, run, askedAt: performance.now() }) as Promise<Answer>;
  }

  /** All or nothing on disk; each write is still answered, and refused, for itself. */
  #transact(writes: readonly Write[]): Promise<unknown[]> {
    // The time in the queue counts, so that a long queue does not multiply the patience.
    const since = Math.max(...writes.map(({ askedAt }) => askedAt));
    const transact = () => {
      this.#prepare();
      return this.#connection.transaction(() => writes.map((write) => this.#answer(write)));
    };
    return this.#line.run(() => this.#connection.patiently(transact, since), since);
  }

  #answer({ run }: Write): unknown {
    try {
      return run();
    } catch (error) {
      if (this.#connection.survives(error)) return storeError(error);
      throw error;
    }
  }

  /** Once it has succeeded; what failed is tried again by the next call. */
  #prepare(): void {
    if (this.#isReady) return;
    this.#connection.configure();
    assertSchema(this.#connection, this.#table);
    this.#isReady = true;
  }
}

function parseCursor(cursor: string): number {
  if (!/^[1-9]\d{0,15}$/.test(cursor)) {
    throw new InvalidOption("`cursor` is not one that a previous page of this list ended with");
  }
  return Number(cursor);
}
