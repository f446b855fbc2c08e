// The queue of the SQLite store (EN-7, EN-8). A write is one transaction, which has the file's write lock
// from its start, so that what it looks at stays as it is until it has written.

import { InvalidOption } from "../../errors.ts";
import { assertInteger } from "../../options.ts";
import type {
  AttemptToken,
  ItemClaim,
  ItemEnding,
  ItemPage,
  ItemQuery,
  ItemToken,
  QueueItem,
  QueueStats,
  RenewAnswer,
  SettleAnswer,
  StoredItem,
  StoreQueue,
} from "../../store.ts";
import {
  assertAdding,
  assertClaim,
  assertEndings,
  assertId,
  assertItemQuery,
  assertRenewal,
  idsOfOperation,
} from "../queue-checks.ts";
import {
  distinctItems,
  ITEM_STATE_CODES,
  type ItemCountRow,
  type ItemRow,
  KIND_CODES,
  queueStats,
  storedItem,
  writtenBy,
} from "../sql-item.ts";
import { blob, type SqliteConnection, type SqliteInteger } from "./connection.ts";
import type { QueueStatements } from "./queue-statements.ts";
import { changes, perform, rows, type Transition } from "./transitions.ts";

/** What the queue needs of the store that it belongs to. */
interface Surroundings {
  readonly connection: SqliteConnection;
  read<Answer>(query: () => Answer): Promise<Answer>;
  /** In a transaction that it may share with others. */
  write<Answer>(id: string, run: () => Answer): Promise<Answer>;
}

interface DueRow {
  position: SqliteInteger;
  due: SqliteInteger;
}

const SWEEP_LIMIT_MAX = 100_000;

export class SqliteQueue implements StoreQueue {
  readonly #sql: QueueStatements;
  readonly #store: Surroundings;

  constructor(sql: QueueStatements, store: Surroundings) {
    this.#sql = sql;
    this.#store = store;
  }

  async add(
    items: readonly QueueItem[],
    options: { dueInMs: number; attempt?: AttemptToken },
  ): Promise<SettleAnswer> {
    assertAdding(items, options);
    return this.#write(items[0]!.operation, () =>
      perform(this.#store.connection, added(this.#sql, items, options)),
    );
  }

  async claim(claim: ItemClaim): Promise<StoredItem[]> {
    assertClaim(claim);
    const { leaseMs, owner } = claim;
    // Who finds nothing to do neither writes nor waits for a lock.
    if ((await this.#store.read(() => this.#due({ ...claim, limit: 1 }))).length === 0) return [];
    return this.#write("", () =>
      this.#due(claim).map(({ position }) => {
        const parameters = [leaseMs, owner, Number(position)];
        const [row] = this.#store.connection.rows<ItemRow>(this.#sql.claim, ...parameters);
        return storedItem(row!);
      }),
    );
  }

  /** Longest due first. */
  #due({ kind, names, limit }: ItemClaim): DueRow[] {
    const ofEach = names.map((name) =>
      this.#store.connection.rows<DueRow>(this.#sql.due, KIND_CODES[kind], name, limit),
    );
    const due = ofEach.flat().sort((one, other) => Number(one.due) - Number(other.due));
    return due.slice(0, limit);
  }

  async renew(given: readonly ItemToken[], leaseMs: number): Promise<RenewAnswer[]> {
    assertRenewal(given, leaseMs);
    if (given.length === 0) return [];
    return this.#write("", () =>
      given.map(({ id, started, owner }) => {
        const count = this.#store.connection.run(this.#sql.renew, leaseMs, id, started, owner);
        return { kind: count > 0 ? "renewed" : "stale" };
      }),
    );
  }

  async finish(endings: readonly ItemEnding[]): Promise<SettleAnswer[]> {
    assertEndings(endings);
    if (endings.length === 0) return [];
    return this.#write("", () =>
      endings.map((ending) => ({ kind: this.#finish(ending) > 0 ? "settled" : "stale" })),
    );
  }

  #finish(ending: ItemEnding): number {
    const { id, started, owner } = ending;
    const { state, afterMs, error, counts } = writtenBy(ending);
    const { connection } = this.#store;
    if (!counts) return connection.run(this.#sql.handOn, afterMs, id, started, owner);
    const [dueMs, lifeMs] = ending.kind === "retry" ? [afterMs, null] : [null, afterMs];
    const parameters = [state, dueMs, lifeMs, error, id, started, owner];
    return connection.run(this.#sql.finish, ...parameters);
  }

  async read(id: string): Promise<StoredItem | undefined> {
    assertId(id, "id");
    return this.#store.read(() => {
      const [row] = this.#store.connection.rows<ItemRow>(this.#sql.find, id);
      return row && storedItem(row);
    });
  }

  async list(query: ItemQuery): Promise<ItemPage> {
    assertItemQuery(query);
    const { kind, state, name, operation, limit, cursor } = query;
    const before = cursor === undefined ? null : parseCursor(cursor);
    const stateCode = state === undefined ? undefined : ITEM_STATE_CODES[state];
    const kindCode = kind === undefined ? null : KIND_CODES[kind];
    return this.#store.read(() => {
      const found = this.#store.connection.rows<ItemRow & { position: SqliteInteger }>(
        operation === undefined ? this.#sql.list(stateCode) : this.#sql.listOf(stateCode),
        ...(operation === undefined ? [] : [...idsOfOperation(operation), operation]),
        ...[before, kindCode, name ?? null, limit + 1],
      );
      const page = found.slice(0, limit);
      const last = page.at(-1);
      return {
        items: page.map(storedItem),
        ...(last && found.length > limit && { cursor: String(last.position) }),
      };
    });
  }

  async revive(id: string): Promise<boolean> {
    assertId(id, "id");
    return this.#write(id, () => this.#store.connection.run(this.#sql.revive, id) > 0);
  }

  async remove(id: string): Promise<boolean> {
    assertId(id, "id");
    return this.#write(id, () => this.#store.connection.run(this.#sql.remove, id) > 0);
  }

  stats(): Promise<QueueStats> {
    return this.#store.read(() =>
      queueStats(this.#store.connection.rows<ItemCountRow>(this.#sql.stats)),
    );
  }

  async sweep(limit: number): Promise<number> {
    assertInteger(limit, "limit", 1, SWEEP_LIMIT_MAX);
    return this.#write("", () => this.#store.connection.run(this.#sql.sweep, limit));
  }

  #write<Answer>(id: string, run: () => Answer): Promise<Answer> {
    return this.#store.write(id, run);
  }
}

/** Adds items, as its store or within a transaction of the user's. */
export function* added(
  sql: QueueStatements,
  given: readonly QueueItem[],
  { dueInMs, attempt }: { dueInMs: number; attempt?: AttemptToken },
): Transition<SettleAnswer> {
  if (attempt) {
    const { id, attempt: number, owner } = attempt;
    if ((yield* rows(sql.isRunning, id, number, owner)).length === 0) return { kind: "stale" };
  }
  const items = distinctItems(given);
  let start = 1;
  const json = JSON.stringify(
    items.map(({ payload, ...item }) => {
      const part = { start, bytes: payload.byteLength };
      start += payload.byteLength;
      return { ...item, kind: KIND_CODES[item.kind], ...part };
    }),
  );
  const payloads = Buffer.concat(items.map(({ payload }) => payload));
  yield* changes(sql.forgetExpired, json);
  yield* changes(sql.add, dueInMs, blob(payloads), json);
  return { kind: "settled" };
}

function parseCursor(cursor: string): number {
  if (!/^[1-9]\d{0,15}$/.test(cursor)) {
    throw new InvalidOption("`cursor` is not one that a previous page of this list ended with");
  }
  return Number(cursor);
}
