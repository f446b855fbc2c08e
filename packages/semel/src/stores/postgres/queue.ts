// The queue of the Postgres store (EN-7, EN-8).

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
  RecordId,
  RenewAnswer,
  SettleAnswer,
  SqlResult,
  SqlValue,
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
  eachOnce,
  ITEM_STATE_CODES,
  type ItemCountRow,
  type ItemRow,
  KIND_CODES,
  queueStats,
  storedItem,
  type Tokens,
  writtenBy,
} from "../sql-item.ts";
import type { SqlInteger } from "../sql-record.ts";
import { arrayOf, type Column, columnsOf, inOnePiece } from "./parameters.ts";
import type { QueueStatements } from "./queue-statements.ts";
import { plainId, type Query, rowsOf } from "./replies.ts";
import { BYTES_TOGETHER } from "./statements.ts";

/** What the queue needs of the store that it belongs to. */
interface Surroundings {
  ready(): Promise<void>;
  /** Rejects with the contract's errors. */
  query: Query;
  /** Rejects with the driver's errors. */
  rawQuery: Query;
  combined<Item extends { readonly id: RecordId }, Answer>(
    send: (items: readonly Item[]) => Promise<(Answer | Error)[]>,
  ): (item: Item) => Promise<Answer>;
  lockTimeoutFor(items: readonly unknown[]): string;
}

/** One call of `add`, by the id of its operation. */
export interface Adding {
  readonly id: RecordId;
  readonly items: readonly QueueItem[];
  readonly dueInMs: number;
  readonly attempt?: AttemptToken;
}

const SWEEP_LIMIT_MAX = 100_000;
/** More items of one call go by themselves. */
const ITEMS_TOGETHER = 16;

export class PostgresQueue implements StoreQueue {
  readonly #sql: QueueStatements;
  readonly #store: Surroundings;
  readonly #adds: (adding: Adding) => Promise<SettleAnswer>;

  constructor(sql: QueueStatements, store: Surroundings) {
    this.#sql = sql;
    this.#store = store;
    this.#adds = store.combined((addings) => this.#addAll(addings));
  }

  async add(
    items: readonly QueueItem[],
    options: { dueInMs: number; attempt?: AttemptToken },
  ): Promise<SettleAnswer> {
    assertAdding(items, options);
    await this.#store.ready();
    const adding = { id: items[0]!.operation, items, ...options };
    let bytes = 0;
    for (const { payload } of items) bytes += payload.byteLength;
    if (items.length <= ITEMS_TOGETHER && bytes <= BYTES_TOGETHER) return this.#adds(adding);
    const parameters = addParameters([adding], null);
    return answersOf(await this.#store.query(this.#sql.add, parameters), 1)[0]!;
  }

  async #addAll(addings: readonly Adding[]): Promise<SettleAnswer[]> {
    const parameters = addParameters(addings, this.#store.lockTimeoutFor(addings));
    return answersOf(await this.#store.rawQuery(this.#sql.add, parameters), addings.length);
  }

  async claim(claim: ItemClaim): Promise<StoredItem[]> {
    assertClaim(claim);
    const { kind, names, limit, leaseMs, owner } = claim;
    await this.#store.ready();
    const parameters = [KIND_CODES[kind], arrayOf(names), limit, leaseMs, owner];
    return itemsOf(await this.#store.query(this.#sql.claim, parameters));
  }

  async renew(given: readonly ItemToken[], leaseMs: number): Promise<RenewAnswer[]> {
    assertRenewal(given, leaseMs);
    if (given.length === 0) return [];
    await this.#store.ready();
    const tokens = eachOnce(given);
    const parameters = [...tokenColumns(tokens), leaseMs, this.#lockTimeout(tokens)];
    const written = numbersOf(await this.#store.query(this.#sql.renew, parameters));
    return tokens.placeOf.map((place) => ({
      kind: written.has(place + 1) ? "renewed" : "stale",
    }));
  }

  async finish(given: readonly ItemEnding[]): Promise<SettleAnswer[]> {
    assertEndings(given);
    if (given.length === 0) return [];
    await this.#store.ready();
    const endings = eachOnce(given);
    const writes = endings.asked.map(writtenBy);
    const parameters = [
      ...tokenColumns(endings),
      arrayOf(writes.map(({ state }) => state)),
      arrayOf(writes.map(({ afterMs }) => afterMs)),
      arrayOf(writes.map(({ error }) => error)),
      this.#lockTimeout(endings),
    ];
    const written = numbersOf(await this.#store.query(this.#sql.finish, parameters));
    return endings.placeOf.map((place, at) => ({
      kind: endings.isFirst[at] && written.has(place + 1) ? "settled" : "stale",
    }));
  }

  async read(id: string): Promise<StoredItem | undefined> {
    assertId(id, "id");
    await this.#store.ready();
    return itemsOf(await this.#store.query(this.#sql.read, [id]))[0];
  }

  async list(query: ItemQuery): Promise<ItemPage> {
    assertItemQuery(query);
    const { kind, state, name, operation, limit, cursor } = query;
    const position = cursor === undefined ? [null, null] : parseCursor(cursor);
    await this.#store.ready();
    const kindCode = kind === undefined ? null : KIND_CODES[kind];
    const stateCode = state === undefined ? null : ITEM_STATE_CODES[state];
    const parameters = [...position, kindCode, name ?? null, stateCode, limit + 1];
    const result = await (operation === undefined
      ? this.#store.query(this.#sql.list, parameters)
      : this.#store.query(this.#sql.listOf, [
          ...parameters,
          ...[...idsOfOperation(operation), operation],
        ]));
    const rows = rowsOf<ItemRow & { position: SqlInteger }>(result);
    const last = rows.slice(0, limit).at(-1);
    return {
      items: itemsOf(result).slice(0, limit),
      ...(last && rows.length > limit && { cursor: `${last.position}-${plainId(last.id)}` }),
    };
  }

  async revive(id: string): Promise<boolean> {
    return this.#changed(this.#sql.revive, id);
  }

  async remove(id: string): Promise<boolean> {
    return this.#changed(this.#sql.remove, id);
  }

  async #changed(sql: string, id: string): Promise<boolean> {
    assertId(id, "id");
    await this.#store.ready();
    return (await this.#store.query(sql, [id])).changes > 0;
  }

  async stats(): Promise<QueueStats> {
    await this.#store.ready();
    return queueStats(rowsOf<ItemCountRow>(await this.#store.query(this.#sql.stats, [])));
  }

  async sweep(limit: number): Promise<number> {
    assertInteger(limit, "limit", 1, SWEEP_LIMIT_MAX);
    await this.#store.ready();
    return (await this.#store.query(this.#sql.sweep, [limit])).changes;
  }

  #lockTimeout({ asked }: Tokens<ItemToken>): string {
    return this.#store.lockTimeoutFor(asked);
  }
}

/** The parameters of `add`. Without a time it waits for others' transactions, as long as they take. */
export function addParameters(addings: readonly Adding[], lockTimeout: string | null): SqlValue[] {
  const items = addings.flatMap(({ items, dueInMs }, at) =>
    distinctItems(items).map((item) => ({ ...item, dueInMs, number: at + 1 })),
  );
  const { piece, starts, lengths } = inOnePiece(items.map(({ payload }) => payload));
  return [
    ...arraysOf(addings, [
      ({ attempt }) => attempt?.id ?? null,
      ({ attempt }) => attempt?.attempt ?? null,
      ({ attempt }) => attempt?.owner ?? null,
    ]),
    ...arraysOf(items, [
      ({ number }) => number,
      ({ id }) => id,
      ({ operation }) => operation,
      ({ kind }) => KIND_CODES[kind],
      ({ name }) => name,
      ({ scope }) => scope,
      ({ key }) => key,
      ({ place }) => place,
      ({ dueInMs }) => dueInMs,
      (_, at) => starts[at]!,
      (_, at) => lengths[at]!,
    ]),
    piece,
    lockTimeout,
  ];
}

/** A parameter for each column: the array of its values. */
function arraysOf<Item>(items: readonly Item[], own: readonly Column<Item>[]): SqlValue[] {
  return columnsOf(items, "many", { own, common: [] });
}

function answersOf(result: SqlResult, count: number): SettleAnswer[] {
  const written = numbersOf(result);
  return Array.from({ length: count }, (_, at) => ({
    kind: written.has(at + 1) ? "settled" : "stale",
  }));
}

function tokenColumns({ asked }: Tokens<ItemToken>): SqlValue[] {
  return arraysOf(asked, [({ id }) => id, ({ started }) => started, ({ owner }) => owner]);
}

function numbersOf(result: SqlResult): Set<number> {
  return new Set(rowsOf<{ number: SqlInteger }>(result).map(({ number }) => Number(number)));
}

/** Postgres writes identifiers with hyphens. */
function itemsOf(result: SqlResult): StoredItem[] {
  return rowsOf<ItemRow>(result).map((row) =>
    storedItem({ ...row, id: plainId(row.id), operation: plainId(row.operation) }),
  );
}

function parseCursor(cursor: string): [micros: number, id: string] {
  const [, micros, id] = /^(\d{1,16})-([0-9a-f]{32})$/.exec(cursor) ?? [];
  if (micros === undefined || id === undefined) {
    throw new InvalidOption("`cursor` is not one that a previous page of this list ended with");
  }
  return [Number(micros), id];
}
