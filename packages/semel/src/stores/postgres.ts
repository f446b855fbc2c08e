// Keeps records in Postgres (ST-3). What is asked at about the same time shares a statement, so that
// throughput grows with concurrency; no statement needs a session, so that it works behind a pooler.

import { InvalidOption, KeyInvalid, RecordUnreadable } from "../errors.ts";
import { assertInteger, assertKnownOptions, shown } from "../options.ts";
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
  SqlResult,
  SqlValue,
  Store,
  StoredRecord,
  StoreQueue,
  StoreStats,
  StoreTransactions,
  UnusedAttempt,
  VoidAnswer,
  VoidRequest,
} from "../store.ts";
import { combine, type Traffic } from "./combine.ts";
import {
  type PgPool,
  type PostgresClient,
  type PostgresJs,
  postgresClient,
  type TransactionOf,
} from "./postgres/client.ts";
import { PostgresDatabase } from "./postgres/database.ts";
import { isOfItem, storeError } from "./postgres/errors.ts";
import { type Called, functionsFor } from "./postgres/functions.ts";
import { PostgresNotifications } from "./postgres/notifications.ts";
import {
  appendParameters,
  arrayOf,
  asBuffer,
  beginParameters,
  renewParameters,
  settleParameters,
} from "./postgres/parameters.ts";
import { PostgresQueue } from "./postgres/queue.ts";
import { queueStatementsFor } from "./postgres/queue-statements.ts";
import {
  type BeginReply,
  begun,
  type FoundRow,
  isJournalLarge,
  isLarge,
  plainId,
  recordOf,
  repliesTo,
  rowsOf,
  withPlainIds,
} from "./postgres/replies.ts";
import {
  neverSettled,
  type PostgresTables,
  postgresMigrations,
  tablesOf,
} from "./postgres/schema.ts";
import {
  BYTES_TOGETHER,
  type HowMany,
  type PostgresStatements,
  statementsFor,
} from "./postgres/statements.ts";
import { transactionsOf } from "./postgres/transactions.ts";
import {
  type RecordRow,
  readableRecord,
  type SqlInteger,
  STATE_CODES,
  STATES,
} from "./sql-record.ts";

export type {
  PgEvent,
  PgPool,
  PgPoolClient,
  PgQuery,
  PgResult,
  PostgresJs,
  PostgresJsRows,
  PostgresJsTransaction,
  TransactionOf,
} from "./postgres/client.ts";
export { postgresFunctions } from "./postgres/functions.ts";
export { postgresMigrations } from "./postgres/schema.ts";

export interface PostgresStoreOptions {
  /** Prefix of the names of the tables, at most 48 bytes. @default "semel" */
  table?: string | undefined;
  /** The schema of the tables, which has to exist. @default the first of the `search_path` */
  schema?: string | undefined;
  /**
   * Whether callers that wait are woken by `NOTIFY`, on one connection that is held while somebody
   * waits. Every process has to have it on. It needs a session, so not behind a pooler in
   * transaction mode, and serialises the commits of a database that notify. @default false
   */
  listen?: boolean | undefined;
  /**
   * Whether statements are prepared by name, which saves planning, and with postgres.js a round
   * trip. Not behind a pooler in transaction mode that does not track them. @default false
   */
  prepare?: boolean | undefined;
}

export interface PostgresStore<Transaction = unknown> extends Store {
  readonly transactions: StoreTransactions<Transaction>;
  readonly queue: StoreQueue;
  /**
   * Creates the tables, or brings them to this version's schema. Safe to run again, and by many
   * processes at once.
   *
   * @throws {StoreUnusable} when the role may not, or the tables are of a newer version
   */
  migrate(): Promise<void>;
}

/** More would make a statement longer to plan and to wait for than the round trip that it saves. */
const BATCH_ITEMS_MAX = 128;
const BATCHES_MAX = 2;
const SHARED_OUT_FROM = 32;
const DECISION_TRIES_MAX = 8;
const CONNECTIONS_DEFAULT = 10;
const LIST_LIMIT_MAX = 1_000;
const SWEEP_LIMIT_MAX = 100_000;
/** For other transactions: before the others of its batch go on without an item, and before it fails. */
const LOCK_TIMEOUT_OF_MANY = "500ms";
const LOCK_TIMEOUT_OF_ONE = "1s";

/**
 * A store in Postgres 12 or newer, through the caller's own client: a `pg.Pool`, or what `postgres()`
 * of postgres.js returns. The client is never closed by the store.
 *
 * @throws {InvalidOption} when an option is unknown, or the client is neither
 * @example
 * const store = postgresStore(new pg.Pool({ connectionString: process.env.DATABASE_URL }));
 * await store.migrate();
 */
export function postgresStore<Client extends PgPool | PostgresJs>(
  client: Client,
  options: PostgresStoreOptions = {},
): PostgresStore<TransactionOf<Client>> {
  assertKnownOptions(options, ["table", "schema", "listen", "prepare"], "postgresStore()");
  const { table = "semel", schema, listen = false, prepare = false } = options;
  for (const [name, value] of Object.entries({ listen, prepare })) {
    if (typeof value === "boolean") continue;
    throw new InvalidOption(`\`${name}\` must be true or false, got ${shown(value)}`);
  }
  const tables = tablesOf(table, schema);
  const adapted = postgresClient(client, prepare);
  const { connectionsMax = CONNECTIONS_DEFAULT } = adapted;
  if (listen && connectionsMax < 2) {
    throw new InvalidOption("`listen` holds a connection, so the pool needs at least 2");
  }
  const migrations = postgresMigrations(table, schema);
  const store = new PostgresRecords(adapted, tables, migrations, {
    listen,
    connectionsMax: connectionsMax - (listen ? 1 : 0),
  });
  return store as PostgresStore as PostgresStore<TransactionOf<Client>>;
}

interface CountRow {
  state: SqlInteger;
  records: SqlInteger;
  oldest: SqlInteger | null;
}

class PostgresRecords implements PostgresStore {
  readonly name = "postgres";
  readonly transactions: StoreTransactions;
  readonly queue: StoreQueue;
  readonly subscribe?: (id: RecordId, wake: () => void) => () => void;
  readonly #database: PostgresDatabase;
  readonly #sql: PostgresStatements;
  readonly #begins: (claim: Claim) => Promise<BeginReply>;
  readonly #endings: (ending: Ending) => Promise<SettleAnswer>;
  readonly #entries: (entry: JournalEntry) => Promise<SettleAnswer>;
  readonly #renewals: (renewal: Renewal) => Promise<RenewAnswer>;
  readonly #reads: (wish: { id: RecordId }) => Promise<StoredRecord | "large" | undefined>;

  constructor(
    client: PostgresClient,
    tables: PostgresTables,
    migrations: readonly string[],
    options: { listen: boolean; connectionsMax: number },
  ) {
    const functions = functionsFor(tables, options.listen);
    this.#sql = statementsFor(tables, options.listen);
    const database = new PostgresDatabase(client, tables, migrations, this.#sql, functions);
    this.#database = database;
    const traffic = { inFlight: 0 };
    const queue = queueStatementsFor(tables);
    const sql = { ...this.#sql, enqueue: queue.add };
    this.transactions = transactionsOf(client, sql, database, options.connectionsMax);
    this.queue = new PostgresQueue(queue, {
      ready: () => database.ready(),
      query: database.query,
      rawQuery: (sql, parameters) => database.rawQuery(sql, parameters),
      combined: (send) => combined(traffic, send),
      lockTimeoutFor: lockTimeoutOf,
    });
    if (options.listen) {
      const notifications = new PostgresNotifications(client, tables.channel);
      this.subscribe = (id, wake) => notifications.subscribe(id, wake);
    }

    this.#begins = combined(traffic, (claims) => this.#beginAll(claims));
    this.#endings = combined(traffic, (endings) => this.#settleAll(endings));
    this.#entries = combined(traffic, (entries) => this.#appendAll(entries));
    this.#renewals = combined(traffic, (renewals) => this.#renewAll(renewals));
    this.#reads = combined<{ id: RecordId }, StoredRecord | "large" | undefined>(
      traffic,
      (wishes) => this.#readAll(wishes),
    );
  }

  migrate(): Promise<void> {
    return this.#database.migrate();
  }

  async begin(claim: Claim): Promise<BeginAnswer> {
    assertKeepable(claim);
    if (!this.#database.isReady) await this.#database.ready();
    const reply = await this.#begins(claim);
    if (reply.kind === "acquired" || reply.kind === "done") return reply;
    return begun(claim, reply, () => this.#begins(claim), this.#database.query, this.#sql);
  }

  async #beginAll(claims: readonly Claim[]): Promise<(BeginReply | Error)[]> {
    const result = await this.#ask("begin", claims, (lockTimeout, howMany) =>
      beginParameters(claims, lockTimeout, howMany),
    );
    return repliesTo(claims, result);
  }

  async settle(ending: Ending): Promise<SettleAnswer> {
    if (!this.#database.isReady) await this.#database.ready();
    const isLarge = ending.kind === "complete" && ending.result.byteLength > BYTES_TOGETHER;
    if (!isLarge) return this.#endings(ending);
    const { rows } = await this.#database.query(this.#sql.settle, settleParameters([ending], null));
    return { kind: rows.length > 0 ? "settled" : "stale" };
  }

  async #settleAll(endings: readonly Ending[]): Promise<SettleAnswer[]> {
    const result = await this.#ask("settle", endings, (lockTimeout, howMany) =>
      settleParameters(endings, lockTimeout, howMany),
    );
    const written = idsOf(endings, result);
    return endings.map(({ id }) => ({ kind: written.has(id) ? "settled" : "stale" }));
  }

  async giveBack({ id, attempt, owner, retentionMs }: UnusedAttempt): Promise<SettleAnswer> {
    await this.#database.ready();
    const parameters = [id, attempt, owner, retentionMs];
    const { rows } = await this.#database.query(this.#sql.giveBack, parameters);
    return { kind: rows.length > 0 ? "settled" : "stale" };
  }

  async append(entry: JournalEntry): Promise<SettleAnswer> {
    await this.#database.ready();
    return this.#entries(entry);
  }

  /**
   * Large ones go by themselves, but in the place of their batch, so that what is appended to one
   * record stays in order. What one of them fails with is its own answer: to send the batch again
   * would append the others twice.
   */
  async #appendAll(entries: readonly JournalEntry[]): Promise<(SettleAnswer | Error)[]> {
    const isLarge = ({ bytes }: JournalEntry) => bytes.byteLength > BYTES_TOGETHER;
    const written = await this.#written(entries.filter((entry) => !isLarge(entry)));
    return Promise.all(
      entries.map(async (entry) => {
        try {
          const ids = isLarge(entry) ? await this.#written([entry]) : written;
          return { kind: ids.has(entry.id) ? "settled" : "stale" };
        } catch (error) {
          return storeError(error);
        }
      }),
    );
  }

  async #written(entries: readonly JournalEntry[]): Promise<ReadonlySet<RecordId>> {
    if (entries.length === 0) return new Set();
    const [sql, lockTimeout] = forBatch(entries, this.#sql.append, this.#sql.appendMany);
    return idsOf(
      entries,
      await this.#database.rawQuery(sql, appendParameters(entries, lockTimeout)),
    );
  }

  async renew(renewal: Renewal): Promise<RenewAnswer> {
    await this.#database.ready();
    return this.#renewals(renewal);
  }

  async #renewAll(renewals: readonly Renewal[]): Promise<RenewAnswer[]> {
    const [sql, lockTimeout] = forBatch(renewals, this.#sql.renew, this.#sql.renewMany);
    const result = await this.#database.rawQuery(sql, renewParameters(renewals, lockTimeout));
    const written = idsOf(renewals, result);
    return renewals.map(({ id }) => ({ kind: written.has(id) ? "renewed" : "stale" }));
  }

  #ask(
    called: Exclude<Called, "complete">,
    items: readonly unknown[],
    parameters: (lockTimeout: string, howMany?: HowMany) => SqlValue[],
  ): Promise<SqlResult> {
    const [sql, lockTimeout] = forBatch(items, this.#sql[called], this.#sql[`${called}Many`]);
    return this.#database.call(called, sql, (howMany) => parameters(lockTimeout, howMany));
  }

  async read(id: RecordId): Promise<StoredRecord | undefined> {
    await this.#database.ready();
    const found = await this.#reads({ id });
    if (found !== "large") return found;
    const [row] = rowsOf<FoundRow>(
      await this.#database.query(this.#sql.find, [arrayOf([id]), true]),
    );
    return row && recordOf(row);
  }

  async #readAll(
    wishes: readonly { id: RecordId }[],
  ): Promise<(StoredRecord | "large" | undefined | RecordUnreadable)[]> {
    const parameters = [arrayOf(wishes.map(({ id }) => id)), wishes.length === 1];
    const result = await this.#database.rawQuery(this.#sql.find, parameters);
    const found = new Map(rowsOf<FoundRow>(result).map((row) => [plainId(row.id), row]));
    return wishes.map(({ id }) => {
      const row = found.get(id);
      try {
        const record = row && recordOf(row);
        return record && (isLarge(record) || isJournalLarge(row)) ? "large" : record;
      } catch (error) {
        if (error instanceof RecordUnreadable) return error;
        throw error;
      }
    });
  }

  /** The live record, without its journal. */
  async #look(id: RecordId): Promise<StoredRecord | undefined> {
    const [row] = rowsOf<RecordRow>(await this.#database.query(this.#sql.look, [id]));
    return row && recordOf(row);
  }

  async sweep(limit: number): Promise<number> {
    assertInteger(limit, "limit", 1, SWEEP_LIMIT_MAX);
    await this.#database.ready();
    return (await this.#database.query(this.#sql.sweep, [limit])).changes;
  }

  async resolve(resolution: Resolution): Promise<ResolveAnswer> {
    const { id, kind, retentionMs } = resolution;
    const state = kind === "complete" ? STATE_CODES.completed : STATE_CODES.open;
    const result = kind === "complete" ? asBuffer(resolution.result) : null;
    return this.#decided(async () => {
      const { rows } = await this.#database.query(this.#sql.resolve, [
        id,
        state,
        result,
        retentionMs,
      ]);
      if (rows.length > 0) return { kind: "resolved" };
      const record = await this.#look(id);
      if (record === undefined) return { kind: "absent" };
      return record.state === "held" ? undefined : { kind: "refused", state: record.state };
    });
  }

  async void({ id, scope, key, retentionMs }: VoidRequest): Promise<VoidAnswer> {
    assertKeepable({ scope, key });
    return this.#decided(async () => {
      await this.#database.query(this.#sql.forgetExpired, [id]);
      const { rows } = await this.#database.query(this.#sql.void, [id, scope, key, retentionMs]);
      if (rows.length > 0) return { kind: "voided" };
      const record = await this.#look(id);
      switch (record?.state) {
        case "completed":
          return { kind: "completed" };
        case "running":
          return record.leaseRemainingMs! > 0 ? { kind: "busy" } : undefined;
        case "void":
          return { kind: "voided" };
        default:
          return undefined;
      }
    });
  }

  async delete(id: RecordId): Promise<DeleteAnswer> {
    return this.#decided(async () => {
      const result = await this.#database.query(this.#sql.delete, [id]);
      const [deleted] = rowsOf<{ expired: boolean }>(result);
      if (deleted !== undefined) return { kind: deleted.expired ? "absent" : "deleted" };
      return { kind: (await this.#look(id)) ? "busy" : "absent" };
    });
  }

  /** Asks again while a record changes between a write that it refuses and the look at why. */
  async #decided<Answer>(ask: () => Promise<Answer | undefined>): Promise<Answer> {
    await this.#database.ready();
    for (let tries = 0; tries < DECISION_TRIES_MAX; tries++) {
      const answer = await ask();
      if (answer !== undefined) return answer;
    }
    throw neverSettled();
  }

  async list({ scope, state, olderThanMs, limit, cursor }: ListQuery): Promise<ListPage> {
    assertInteger(limit, "limit", 1, LIST_LIMIT_MAX);
    const [micros, id] = cursor === undefined ? [null, null] : parseCursor(cursor);
    await this.#database.ready();
    const parameters = [micros, id, scope ?? null, olderThanMs ?? null, limit + 1];
    const rows = rowsOf<RecordRow & { position: SqlInteger }>(
      await this.#database.query(this.#sql.list(state), parameters),
    );
    const page = rows.slice(0, limit);
    const last = page.at(-1);
    return {
      records: page.map(withPlainIds).flatMap(readableRecord),
      ...(last && rows.length > limit && { cursor: `${last.position}-${plainId(last.id)}` }),
    };
  }

  async stats(): Promise<StoreStats> {
    await this.#database.ready();
    const states = { running: 0, completed: 0, held: 0, open: 0, void: 0 };
    let oldestHeldMs: number | null = null;
    const counts = await this.#database.query(this.#sql.countByState, []);
    for (const row of rowsOf<CountRow>(counts)) {
      const state = STATES.get(Number(row.state));
      if (state === undefined) continue;
      states[state] = Number(row.records);
      if (state === "held") oldestHeldMs = Number(row.oldest);
    }
    const [size] = rowsOf<{ bytes: SqlInteger }>(await this.#database.query(this.#sql.bytes, []));
    return { states, oldestHeldMs, bytes: Number(size!.bytes) };
  }
}

/** Merges what is asked at once; what is wrong with one item is the answer of that item alone. */
function combined<Item extends { readonly id: RecordId }, Answer>(
  traffic: Traffic,
  send: (items: readonly Item[]) => Promise<(Answer | Error)[]>,
): (item: Item) => Promise<Answer> {
  return combine<Item, Answer>({
    async send(items) {
      try {
        return await send(items);
      } catch (error) {
        if (!isOfItem(error)) throw storeError(error);
        if (items.length === 1) return [storeError(error)];
        // Which item it is, the combiner finds out by sending them one by one.
        throw error;
      }
    },
    itemsMax: BATCH_ITEMS_MAX,
    inFlightMax: BATCHES_MAX,
    shareFrom: SHARED_OUT_FROM,
    traffic,
    collect: "turn",
  });
}

/** The statement for a batch, and how long it waits for others' transactions. */
function forBatch(items: readonly unknown[], one: string, many: string): [string, string] {
  return [items.length === 1 ? one : many, lockTimeoutOf(items)];
}

function lockTimeoutOf(items: readonly unknown[]): string {
  return items.length === 1 ? LOCK_TIMEOUT_OF_ONE : LOCK_TIMEOUT_OF_MANY;
}

/** Of what was asked for, what was written. One row without an id stands for all of it. */
function idsOf(items: readonly { id: RecordId }[], result: SqlResult): Set<RecordId> {
  const rows = rowsOf<{ id: string | null }>(result);
  if (rows.length === 1 && rows[0]!.id === null) return new Set(items.map(({ id }) => id));
  return new Set(rows.map(({ id }) => plainId(id!)));
}

/** @throws {KeyInvalid} when Postgres could not keep it, before it fails a whole batch */
function assertKeepable({ scope, key }: { scope: string; key: string }): void {
  if (scope.includes("\0") || key.includes("\0")) {
    throw new KeyInvalid("Postgres cannot keep the NUL character in a scope or a key");
  }
}

function parseCursor(cursor: string): [micros: number, id: RecordId] {
  const [, micros, id] = /^(\d{1,16})-([0-9a-f]{32})$/.exec(cursor) ?? [];
  if (micros === undefined || id === undefined) {
    throw new InvalidOption("`cursor` is not one that a previous page of this list ended with");
  }
  return [Number(micros), id];
}
