// Keeps records in one DynamoDB table (ST-7), by conditional writes. DynamoDB lends no clock to its
// conditions, so this is the one store whose leases are judged by its clients' clocks, less an
// allowance for how far they may be apart.

import { systemClock } from "../clock.ts";
import { type Duration, durationMs } from "../duration.ts";
import { InvalidOption, StoreUnavailable } from "../errors.ts";
import { assertInteger, assertKnownOptions, assertMethods, assertOneOf } from "../options.ts";
import type {
  AttemptToken,
  BeginAnswer,
  Claim,
  DeleteAnswer,
  Ending,
  JournalEntry,
  ListPage,
  ListQuery,
  RecordId,
  RecordState,
  RenewAnswer,
  Renewal,
  Resolution,
  ResolveAnswer,
  SettleAnswer,
  Store,
  StoredRecord,
  StoreStats,
  UnusedAttempt,
  VoidAnswer,
  VoidRequest,
} from "../store.ts";
import {
  assertFits,
  assertReadable,
  type Changes,
  FORMAT,
  type Item,
  isReadable,
  NOBODY,
  newestFirst,
  parseCursor,
} from "./dynamodb/item.ts";
import { type DynamoDocument, DynamoTable } from "./dynamodb/table.ts";

export type { DynamoDocument } from "./dynamodb/table.ts";

export interface DynamodbStoreOptions {
  /** The table, whose partition key is the string `id`. */
  table: string;
  /**
   * How far the clocks of the processes may be apart. A lease lapses, and a record is forgotten,
   * this much later. It must be said, because a wrong guess runs an operation twice.
   */
  clockSkew: Duration;
  /**
   * `"ttl"` leaves the removal of what has expired to DynamoDB, by its time to live. `"scan"` removes
   * it by reading the whole table, for tables without one. @default "ttl"
   */
  sweep?: "ttl" | "scan" | undefined;
  /** The client's clock, for tests. */
  clock?: { now(): number } | undefined;
}

/** The table's definition for `CreateTable`, and for `UpdateTimeToLive`: attribute `ttl`. */
export function dynamodbTable(table: string) {
  return {
    TableName: table,
    AttributeDefinitions: [{ AttributeName: "id", AttributeType: "S" as const }],
    KeySchema: [{ AttributeName: "id", KeyType: "HASH" as const }],
    BillingMode: "PAY_PER_REQUEST" as const,
  };
}

/** Others may change a record between a look and a write; each of them made progress. */
const TRIES_MAX = 50;

/**
 * A store in a DynamoDB table, through the caller's own document client.
 *
 * @throws {InvalidOption} when an option is unknown, missing or out of bounds, or the client is none
 * @example
 * const document = DynamoDBDocument.from(new DynamoDBClient({}));
 * const store = dynamodbStore(document, { table: "semel", clockSkew: "2s" });
 */
export function dynamodbStore(document: DynamoDocument, options: DynamodbStoreOptions): Store {
  assertKnownOptions(options, ["table", "clockSkew", "sweep", "clock"], "dynamodbStore()");
  const what = "must be a document client, such as `DynamoDBDocument.from(client)`";
  assertMethods(document, "document", ["get", "put", "update", "delete", "scan"], what);
  const { table, clockSkew, sweep = "ttl", clock = systemClock } = options;
  assertOneOf(sweep, ["ttl", "scan"], "sweep");
  if (typeof table !== "string" || !/^[\w.-]{3,255}$/.test(table)) {
    throw new InvalidOption("`table` must be the name of a DynamoDB table");
  }
  if (clockSkew === undefined) {
    throw new InvalidOption(
      '`clockSkew` must say how far the clocks of your processes may be apart, such as "2s"',
    );
  }
  const skewMs = durationMs(clockSkew, "clockSkew");
  return new DynamodbStore(new DynamoTable(document, table), skewMs, sweep === "scan", clock);
}

class DynamodbStore implements Store {
  readonly name = "dynamodb";
  readonly #table: DynamoTable;
  readonly #skewMs: number;
  readonly #isSweeping: boolean;
  readonly #clock: { now(): number };

  constructor(table: DynamoTable, skewMs: number, isSweeping: boolean, clock: { now(): number }) {
    this.#table = table;
    this.#skewMs = skewMs;
    this.#isSweeping = isSweeping;
    this.#clock = clock;
  }

  async begin(claim: Claim): Promise<BeginAnswer> {
    // The newcomer first: a new operation is one write. Whatever is there is looked at after.
    if (!claim.refuseLate && (await this.#table.create(this.#claimed(claim), undefined))) {
      return { kind: "acquired", attempt: 1, probe: false };
    }
    for (let tries = 0; tries < TRIES_MAX; tries++) {
      const item = await this.#item(claim.id);
      const answer = await this.#beginAfter(claim, item);
      if (answer) return answer;
    }
    throw contended();
  }

  /** Decides by what was seen; `undefined` when it had changed by the time of the write. */
  async #beginAfter(claim: Claim, item: Item | undefined): Promise<BeginAnswer | undefined> {
    const now = this.#now();
    if (item === undefined || this.#isExpired(item, now)) {
      const { refuseLate } = claim;
      if (refuseLate && now - refuseLate.sentAt > refuseLate.ageMaxMs) return { kind: "late" };
      const isCreated = await this.#table.create(this.#claimed(claim), item);
      return isCreated ? { kind: "acquired", attempt: 1, probe: false } : undefined;
    }
    const { attempt, fingerprint, state } = item;
    if (fingerprint !== claim.fingerprint && !(state === "void" && fingerprint === "")) {
      return { kind: "mismatch", fingerprint };
    }
    switch (state) {
      case "completed": {
        const result = new Uint8Array(item.result!);
        return {
          kind: "done",
          attempt,
          result,
          expiresInMs: this.#remaining(item.expiresAt!, now),
        };
      }
      case "held":
        return { kind: "held", attempt, reason: item.reason! };
      case "void":
        return { kind: "void" };
      case "open":
        return this.#acquire(claim, item, { attempt: attempt + 1, onCrash: claim.onCrash });
      case "running":
        return this.#beginRunning(claim, item, now);
    }
  }

  async #beginRunning(claim: Claim, item: Item, now: number): Promise<BeginAnswer | undefined> {
    const { attempt, crashes, onCrash } = item;
    if (item.owner === claim.owner) return this.#acquire(claim, item, {});
    const leaseRemainingMs = this.#remaining(item.leaseUntil!, now);
    if (leaseRemainingMs > 0) return { kind: "busy", attempt, leaseRemainingMs };
    if (onCrash !== "hold" && crashes + 1 < claim.attemptsMax) {
      return this.#acquire(claim, item, { attempt: attempt + 1, crashes: crashes + 1 });
    }
    const reason = onCrash === "hold" ? "lease-lapsed" : "attempts-exhausted";
    const held = { state: "held", reason, ...this.#ended(claim.heldRetentionMs) } as const;
    return (await this.#table.change(item, held)) ? { kind: "held", attempt, reason } : undefined;
  }

  async #acquire(
    claim: Claim,
    item: Item,
    changes: Partial<Item>,
  ): Promise<BeginAnswer | undefined> {
    const after = { ...item, ...changes };
    const lease = this.#leased(claim.leaseMs, claim.lapsedRetentionMs);
    const updatedAt = item.state === "running" ? item.updatedAt : this.#now();
    const written = {
      ...changes,
      state: "running",
      owner: claim.owner,
      ...lease,
      updatedAt,
    } as const;
    if (!(await this.#table.change(item, written))) return undefined;
    const probe = after.onCrash === "probe" && after.crashes > 0;
    return { kind: "acquired", attempt: after.attempt, probe };
  }

  async settle(ending: Ending): Promise<SettleAnswer> {
    const { retentionMs } = ending;
    const ended = this.#ended(retentionMs);
    switch (ending.kind) {
      case "complete": {
        const { result } = ending;
        assertFits(result, "result");
        // Without its journal, which nothing runs again to need: both might not fit an item.
        const completed = { result: Buffer.from(result), journal: undefined };
        return this.#owned(ending, { state: "completed", ...completed, ...ended });
      }
      case "release":
        return this.#owned(ending, { state: "open", ...ended });
      case "hold":
        return this.#owned(ending, { state: "held", reason: ending.reason, ...ended });
    }
  }

  giveBack({ retentionMs, ...token }: UnusedAttempt): Promise<SettleAnswer> {
    const attempt = token.attempt - 1;
    return this.#owned(token, { state: "open", attempt, ...this.#ended(retentionMs) });
  }

  async append({ bytes, ...token }: JournalEntry): Promise<SettleAnswer> {
    assertFits(bytes, "entry of its steps");
    return this.#owned(token, {}, bytes);
  }

  async #owned(
    token: AttemptToken,
    changes: Changes,
    appended?: Uint8Array,
  ): Promise<SettleAnswer> {
    const gone = this.#now() - this.#skewMs;
    if (await this.#table.changeOwned(token, changes, gone, appended)) return { kind: "settled" };
    // Nobody can tell whose a damaged record is.
    await this.#item(token.id);
    return { kind: "stale" };
  }

  async renew({ leaseMs, lapsedRetentionMs, ...token }: Renewal): Promise<RenewAnswer> {
    const answer = await this.#owned(token, this.#leased(leaseMs, lapsedRetentionMs));
    return answer.kind === "settled" ? { kind: "renewed" } : answer;
  }

  async read(id: RecordId): Promise<StoredRecord | undefined> {
    const item = await this.#item(id);
    const now = this.#now();
    return item && !this.#isExpired(item, now) ? this.#record(item, now, true) : undefined;
  }

  /** DynamoDB itself removes what its `ttl` says; until it has, expired items count as absent. */
  async sweep(limit: number): Promise<number> {
    assertInteger(limit, "limit", 1, 100_000);
    if (!this.#isSweeping) return 0;
    const now = this.#now();
    const expired = (await this.#table.scan(() => true)).filter((item) =>
      this.#isExpired(item, now),
    );
    const removed = await Promise.all(
      expired.slice(0, limit).map((item) => this.#table.delete(item)),
    );
    return removed.filter(Boolean).length;
  }

  async resolve(resolution: Resolution): Promise<ResolveAnswer> {
    const { id, retentionMs } = resolution;
    for (let tries = 0; tries < TRIES_MAX; tries++) {
      const item = await this.#item(id);
      const now = this.#now();
      if (item === undefined || this.#isExpired(item, now)) return { kind: "absent" };
      if (this.#countedState(item, now) !== "held") return { kind: "refused", state: item.state };
      const changes: Changes =
        resolution.kind === "complete"
          ? { state: "completed", result: Buffer.from(resolution.result), journal: undefined }
          : { state: "open" };
      if (await this.#table.change(item, { ...changes, ...this.#ended(retentionMs) })) {
        return { kind: "resolved" };
      }
    }
    throw contended();
  }

  async void({ id, scope, key, retentionMs }: VoidRequest): Promise<VoidAnswer> {
    for (let tries = 0; tries < TRIES_MAX; tries++) {
      const item = await this.#item(id);
      const now = this.#now();
      if (item === undefined || this.#isExpired(item, now)) {
        const tombstone = { ...this.#blank(id, scope, key), ...this.#ended(retentionMs) };
        if (await this.#table.create({ ...tombstone, state: "void" } as Item, item)) {
          return { kind: "voided" };
        }
        continue;
      }
      if (item.state === "void") return { kind: "voided" };
      if (item.state === "completed") return { kind: "completed" };
      if (item.state === "running" && this.#remaining(item.leaseUntil!, now) > 0) {
        return { kind: "busy" };
      }
      const voided = { state: "void", journal: undefined } as const;
      if (await this.#table.change(item, { ...voided, ...this.#ended(retentionMs) })) {
        return { kind: "voided" };
      }
    }
    throw contended();
  }

  async delete(id: RecordId): Promise<DeleteAnswer> {
    for (let tries = 0; tries < TRIES_MAX; tries++) {
      const item = await this.#item(id, false);
      const now = this.#now();
      if (item === undefined || this.#isExpired(item, now)) return { kind: "absent" };
      if (item.format > FORMAT) assertReadable(item);
      if (item.state === "running" && this.#remaining(item.leaseUntil ?? 0, now) > 0) {
        return { kind: "busy" };
      }
      if (await this.#table.delete(item)) return { kind: "deleted" };
    }
    throw contended();
  }

  /** Reads the whole table: DynamoDB keeps no order over items without an index of its own. */
  async list({ scope, state, olderThanMs, limit, cursor }: ListQuery): Promise<ListPage> {
    assertInteger(limit, "limit", 1, 1_000);
    const before = cursor === undefined ? undefined : parseCursor(cursor);
    const now = this.#now();
    const matching = (await this.#table.scan(isReadable)).filter(
      (item) =>
        !this.#isExpired(item, now) &&
        (scope === undefined || item.scope === scope) &&
        (state === undefined || this.#countedState(item, now) === state) &&
        (olderThanMs === undefined || now - item.createdAt >= olderThanMs) &&
        (before === undefined || newestFirst(before, item) < 0),
    );
    const page = matching.sort(newestFirst).slice(0, limit);
    const last = page.at(-1);
    return {
      records: page.map((item) => this.#record(item, now, false)),
      ...(last && matching.length > limit && { cursor: `${last.createdAt}/${last.id}` }),
    };
  }

  async stats(): Promise<StoreStats> {
    const now = this.#now();
    const states = { running: 0, completed: 0, held: 0, open: 0, void: 0 };
    let oldestHeldMs: number | null = null;
    for (const item of await this.#table.scan(isReadable)) {
      if (this.#isExpired(item, now)) continue;
      const state = this.#countedState(item, now);
      states[state]++;
      if (state !== "held") continue;
      const since = item.state === "held" ? item.updatedAt : item.leaseUntil! + this.#skewMs;
      oldestHeldMs = Math.max(oldestHeldMs ?? 0, now - since);
    }
    return { states, oldestHeldMs, bytes: null };
  }

  #now(): number {
    return Math.round(this.#clock.now());
  }

  /** What is left of a deadline, which may be another clock's. */
  #remaining(deadline: number, now: number): number {
    return deadline + this.#skewMs - now;
  }

  #isExpired(item: Item, now: number): boolean {
    return item.expiresAt !== undefined && this.#remaining(item.expiresAt, now) <= 0;
  }

  #countedState(item: Item, now: number): RecordState {
    const isLapsed = item.state === "running" && this.#remaining(item.leaseUntil!, now) <= 0;
    return isLapsed && item.onCrash !== "rerun" ? "held" : item.state;
  }

  #leased(leaseMs: number, lapsedRetentionMs: number | null): Changes {
    const leaseUntil = this.#now() + leaseMs;
    return {
      leaseUntil,
      ...this.#life(lapsedRetentionMs === null ? undefined : leaseUntil + lapsedRetentionMs),
    };
  }

  #ended(lifeMs: number | null): Changes {
    const now = this.#now();
    return {
      leaseUntil: undefined,
      updatedAt: now,
      ...this.#life(lifeMs === null ? undefined : now + lifeMs),
    };
  }

  /** The end of a record, and a safe moment after it for DynamoDB to remove it. */
  #life(expiresAt: number | undefined): Changes {
    const ttl = expiresAt && Math.ceil((expiresAt + this.#skewMs) / 1000) + 1;
    return { expiresAt, ttl };
  }

  #blank(id: RecordId, scope: string, key: string): Item {
    const now = this.#now();
    return {
      ...{ id, scope, key, fingerprint: "", format: FORMAT, state: "running" },
      ...{ attempt: 0, owner: NOBODY, crashes: 0, onCrash: "hold", createdAt: now, updatedAt: now },
    };
  }

  #claimed(claim: Claim): Item {
    const { id, scope, key, fingerprint, owner, onCrash, leaseMs, lapsedRetentionMs } = claim;
    const lease = this.#leased(leaseMs, lapsedRetentionMs);
    const blank = this.#blank(id, scope, key);
    return { ...blank, fingerprint, owner, onCrash, attempt: 1, ...lease } as Item;
  }

  async #item(id: RecordId, isChecked = true): Promise<Item | undefined> {
    const item = await this.#table.get(id);
    // An item that has expired is nobody's, whatever wrote it.
    if (item && isChecked && !this.#isExpired(item, this.#now())) assertReadable(item);
    return item;
  }

  #record(item: Item, now: number, isWhole: boolean): StoredRecord {
    const { id, scope, key, fingerprint, state, attempt, owner, onCrash, crashes } = item;
    return {
      ...{ id, scope, key, fingerprint, state, attempt, owner, onCrash, crashes },
      leaseRemainingMs:
        item.leaseUntil === undefined ? null : this.#remaining(item.leaseUntil, now),
      result: isWhole && item.result ? new Uint8Array(item.result) : null,
      reason: item.reason ?? null,
      journal: isWhole && item.journal ? new Uint8Array(Buffer.concat(item.journal)) : null,
      ageMs: now - item.createdAt,
      createdAt: item.createdAt,
      updatedAt: item.updatedAt,
      expiresInMs: item.expiresAt === undefined ? null : this.#remaining(item.expiresAt, now),
    };
  }
}

function contended(): StoreUnavailable {
  return new StoreUnavailable("Too many others changed this record at once; ask again");
}
