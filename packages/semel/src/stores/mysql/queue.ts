// The queue of the MySQL store (EN-7, EN-8).

import { randomInt } from "node:crypto";
import { InvalidOption, StoreFull } from "../../errors.ts";
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
} from "../queue-checks.ts";
import {
  distinctItems,
  eachOnce,
  ITEM_STATE_CODES,
  type ItemCountRow,
  type ItemRow,
  inOrder,
  KIND_CODES,
  queueStats,
  storedItem,
} from "../sql-item.ts";
import type { SqlInteger } from "../sql-record.ts";
import type { StatementRunner } from "./connection.ts";
import type { ItemFilter, QueueSql } from "./queue-statements.ts";
import { type Text, textOf } from "./records.ts";
import type { MysqlSettings } from "./schema.ts";

/** What the queue needs of the store that it belongs to. */
interface Surroundings {
  readonly run: StatementRunner;
  prepare(): Promise<MysqlSettings>;
}

/** What `queue-statements.ts` selects of an item. */
type MysqlItemRow = Omit<ItemRow, "id" | "operation" | "name" | "scope" | "key" | "error"> & {
  id: Text;
  operation: Text;
  name: Text;
  scope: Text;
  key: Text;
  error: Text | null;
};

interface OwnerRow {
  id: Text;
  started: SqlInteger;
  owner: Text | null;
  receipt: SqlInteger | null;
}

const RECEIPT_MAX = 2 ** 31 - 1;
const SWEEP_LIMIT_MAX = 100_000;
const SWEEP_ITEMS_MAX = 1_000;
/** How often a claim looks again when others took all that it saw. */
const LOOKS_MAX = 8;
/** What the digits and names of an item take in a statement, at most, and a statement besides. */
const ITEM_BYTES = 1_024;
const FRAME_BYTES = 4_096;

export class MysqlQueue implements StoreQueue {
  readonly #sql: QueueSql;
  readonly #store: Surroundings;

  constructor(sql: QueueSql, store: Surroundings) {
    this.#sql = sql;
    this.#store = store;
  }

  async add(
    given: readonly QueueItem[],
    options: { dueInMs: number; attempt?: AttemptToken },
  ): Promise<SettleAnswer> {
    assertAdding(given, options);
    const { dueInMs, attempt } = options;
    const { packetBytesMax } = await this.#store.prepare();
    const items = distinctItems(given);
    assertFits(items, packetBytesMax);
    const added = await this.#store.run.change(this.#sql.add(items, dueInMs, attempt));
    // Where the client counts only what was changed, there may have been nothing to change.
    if (attempt === undefined || added > 0) return { kind: "settled" };
    const running = await this.#store.run.rows(this.#sql.isRunning(attempt));
    return { kind: running.length > 0 ? "settled" : "stale" };
  }

  /**
   * Looks, then takes what still is as it was seen: two round trips. When others were faster, it looks
   * somewhere behind the first, where they look, too.
   */
  async claim(claim: ItemClaim): Promise<StoredItem[]> {
    assertClaim(claim);
    await this.#store.prepare();
    for (let looks = 1; ; looks++) {
      const offset = looks < LOOKS_MAX ? randomInt(0, (looks - 1) * claim.limit + 1) : 0;
      const rows = await this.#store.run.rows<MysqlItemRow>(this.#sql.due(claim, offset));
      if (rows.length === 0 && offset === 0) return [];
      const taken = rows.length > 0 ? await this.#take(rows.map(itemRow), claim) : [];
      if (taken.length > 0 || looks === LOOKS_MAX) return taken;
    }
  }

  async #take(wanted: readonly ItemRow[], claim: ItemClaim): Promise<StoredItem[]> {
    const seen = inOrder(wanted.map(({ id, started }) => ({ id, started: Number(started) })));
    const count = await this.#store.run.change(this.#sql.claim(seen, claim));
    if (count === 0) return [];
    const isAll = count === seen.length;
    const owners = isAll ? undefined : await this.#owners(seen.map(({ id }) => id));
    return wanted
      .map((row) => ({ ...row, started: Number(row.started) + 1, due: claim.leaseMs }))
      .filter(({ id, started }) => {
        const now = owners?.get(id);
        return isAll || (now?.owner === claim.owner && now.started === started);
      })
      .map(storedItem);
  }

  async #owners(ids: readonly string[]) {
    const rows = await this.#store.run.rows<OwnerRow>(this.#sql.owners(ids));
    return new Map(
      rows.map(({ id, started, owner, receipt }) => [
        textOf(id),
        {
          started: Number(started),
          owner: owner === null ? null : textOf(owner),
          receipt: receipt === null ? null : Number(receipt),
        },
      ]),
    );
  }

  async renew(given: readonly ItemToken[], leaseMs: number): Promise<RenewAnswer[]> {
    assertRenewal(given, leaseMs);
    if (given.length === 0) return [];
    await this.#store.prepare();
    const { asked, placeOf } = eachOnce(given);
    const renewed = await this.#store.run.change(this.#sql.renew(asked, leaseMs));
    if (renewed === asked.length) return given.map(() => ({ kind: "renewed" }));
    // Whose the claim is now, theirs it was then.
    const owners = await this.#owners(asked.map(({ id }) => id));
    return placeOf.map((place) => {
      const { id, started, owner } = asked[place]!;
      const now = owners.get(id);
      return { kind: now?.owner === owner && now.started === started ? "renewed" : "stale" };
    });
  }

  async finish(given: readonly ItemEnding[]): Promise<SettleAnswer[]> {
    assertEndings(given);
    if (given.length === 0) return [];
    const { packetBytesMax } = await this.#store.prepare();
    const { asked, placeOf, isFirst } = eachOnce(given);
    const written = new Set<ItemEnding>();
    for (const part of partsOf(asked, packetBytesMax)) {
      for (const ending of await this.#finish(part)) written.add(ending);
    }
    return placeOf.map((place, at) => ({
      kind: isFirst[at] && written.has(asked[place]!) ? "settled" : "stale",
    }));
  }

  /** @returns those that it has written */
  async #finish(endings: readonly ItemEnding[]): Promise<readonly ItemEnding[]> {
    const receipt = randomInt(1, RECEIPT_MAX);
    const count = await this.#store.run.change(this.#sql.finish(endings, receipt));
    if (count === endings.length) return endings;
    if (count === 0) return [];
    const owners = await this.#owners(endings.map(({ id }) => id));
    return endings.filter(({ id }) => owners.get(id)?.receipt === receipt);
  }

  async read(id: string): Promise<StoredItem | undefined> {
    assertId(id, "id");
    await this.#store.prepare();
    const [row] = await this.#store.run.rows<MysqlItemRow>(this.#sql.find(id));
    return row && storedItem(itemRow(row));
  }

  async list(query: ItemQuery): Promise<ItemPage> {
    assertItemQuery(query);
    const { kind, state, name, operation, limit, cursor } = query;
    const filter: ItemFilter = {
      kind: kind === undefined ? undefined : KIND_CODES[kind],
      state: state === undefined ? undefined : ITEM_STATE_CODES[state],
      name,
      operation,
      before: cursor === undefined ? undefined : parseCursor(cursor),
      limit: limit + 1,
    };
    await this.#store.prepare();
    const rows = await this.#store.run.rows<MysqlItemRow>(this.#sql.list(filter));
    const items = rows.slice(0, limit).map((row) => storedItem(itemRow(row)));
    const last = items.at(-1);
    return {
      items,
      ...(last && rows.length > limit && { cursor: `${last.createdAt}.${last.id}` }),
    };
  }

  async revive(id: string): Promise<boolean> {
    assertId(id, "id");
    await this.#store.prepare();
    // Changes it for certain, so that it counts whatever the client counts.
    return (await this.#store.run.change(this.#sql.revive(id, randomInt(1, RECEIPT_MAX)))) > 0;
  }

  async remove(id: string): Promise<boolean> {
    assertId(id, "id");
    await this.#store.prepare();
    return (await this.#store.run.change(this.#sql.remove(id))) > 0;
  }

  async stats(): Promise<QueueStats> {
    await this.#store.prepare();
    return queueStats(await this.#store.run.rows<ItemCountRow>(this.#sql.stats));
  }

  async sweep(limit: number): Promise<number> {
    assertInteger(limit, "limit", 1, SWEEP_LIMIT_MAX);
    await this.#store.prepare();
    let removed = 0;
    while (removed < limit) {
      const itemsMax = Math.min(limit - removed, SWEEP_ITEMS_MAX);
      const found = await this.#store.run.rows<{ id: Text }>(this.#sql.findExpired(itemsMax));
      if (found.length === 0) break;
      const ids = found.map(({ id }) => textOf(id)).sort();
      const forgotten = await this.#store.run.change(this.#sql.forgetExpired(ids));
      removed += forgotten;
      // Nothing more, or another sweeper is at the same ones.
      if (found.length < itemsMax || forgotten === 0) break;
    }
    return removed;
  }
}

/** A row with its bytes as text where they are text. */
function itemRow(row: MysqlItemRow): ItemRow {
  return {
    ...row,
    id: textOf(row.id),
    operation: textOf(row.operation),
    name: textOf(row.name),
    scope: textOf(row.scope),
    key: textOf(row.key),
    error: row.error === null ? null : textOf(row.error),
  };
}

/**
 * A statement that is too long would cost the connection, too.
 *
 * @throws {StoreFull}
 */
export function assertFits(items: readonly QueueItem[], packetBytesMax: number): void {
  let bytes = FRAME_BYTES;
  for (const { name, scope, key, payload } of items) {
    // Two digits for each of at most three bytes a character.
    bytes += ITEM_BYTES + 6 * (name.length + scope.length + key.length) + 2 * payload.byteLength;
  }
  if (bytes <= packetBytesMax) return;
  throw new StoreFull(
    `The items take more than the ${packetBytesMax} bytes that MySQL accepts at once, at two for each byte of a payload; raise \`max_allowed_packet\`, or let payloads be smaller`,
  );
}

/** Endings as statements take them: bounded in bytes, and about each item once. */
function* partsOf(endings: readonly ItemEnding[], packetBytesMax: number): Generator<ItemEnding[]> {
  let part = new Map<string, ItemEnding>();
  let bytes = FRAME_BYTES;
  for (const ending of endings) {
    const errorLength = ending.kind === "done" ? 0 : (ending.error?.length ?? 0);
    const endingBytes = ITEM_BYTES + 6 * errorLength;
    if (part.size > 0 && (part.has(ending.id) || bytes + endingBytes > packetBytesMax)) {
      yield [...part.values()];
      part = new Map();
      bytes = FRAME_BYTES;
    }
    part.set(ending.id, ending);
    bytes += endingBytes;
  }
  yield [...part.values()];
}

function parseCursor(cursor: string): { created: number; id: string } {
  const [, created, id] = /^(\d{1,15})\.([0-9a-f]{32})$/.exec(cursor) ?? [];
  if (created === undefined || id === undefined) {
    throw new InvalidOption("`cursor` is not one that a previous page of this list ended with");
  }
  return { created: Number(created), id };
}
