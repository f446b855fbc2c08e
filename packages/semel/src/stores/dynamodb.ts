// Keeps records in one DynamoDB table (ST-7), by conditional writes. DynamoDB lends no clock to its
// conditions, so this is the one store whose leases are judged by its clients' clocks, less an
// allowance for how far they may be apart.

import { systemClock } from "../clock.ts";
import { type Duration, durationMs } from "../duration.ts";
import {
  InvalidOption,
  isSemelError,
  RecordUnreadable,
  StoreFull,
  StoreUnavailable,
  StoreUnusable,
} from "../errors.ts";
import { assertInteger, assertKnownOptions, assertOneOf } from "../options.ts";
import type {
  AttemptToken,
  BeginAnswer,
  Claim,
  CrashPolicy,
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
  VoidAnswer,
  VoidRequest,
} from "../store.ts";

/** What Semel needs of `DynamoDBDocument` of `@aws-sdk/lib-dynamodb`. */
export interface DynamoDocument {
  // biome-ignore-start lint/suspicious/noExplicitAny: the SDK's inputs are stricter than structural types can name
  get(input: any): Promise<{ Item?: Record<string, any> | undefined }>;
  put(input: any): Promise<unknown>;
  update(input: any): Promise<unknown>;
  delete(input: any): Promise<unknown>;
  scan(input: any): Promise<{
    Items?: Record<string, any>[] | undefined;
    LastEvaluatedKey?: Record<string, any> | undefined;
  }>;
  // biome-ignore-end lint/suspicious/noExplicitAny: as above
}

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
  sweep?: "ttl" | "scan";
  /** The client's clock, for tests. */
  clock?: { now(): number };
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

const FORMAT = 1;
/** DynamoDB's bound of an item is 400 KB; the rest of the record needs a little. */
const BYTES_MAX = 390_000;
/** Others may change a record between a look and a write; each of them made progress. */
const TRIES_MAX = 50;

/**
 * A store in a DynamoDB table, through the caller's own document client.
 *
 * @throws {InvalidOption} when an option is unknown, missing or out of bounds
 * @example
 * const document = DynamoDBDocument.from(new DynamoDBClient({}));
 * const store = dynamodbStore(document, { table: "semel", clockSkew: "2s" });
 */
export function dynamodbStore(document: DynamoDocument, options: DynamodbStoreOptions): Store {
  assertKnownOptions(options, ["table", "clockSkew", "sweep", "clock"], "dynamodbStore()");
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
  return new DynamodbStore(document, table, skewMs, sweep === "scan", clock);
}

/** An item as stored. Times are milliseconds since the Unix epoch; `ttl` is seconds. */
interface Item {
  id: RecordId;
  scope: string;
  key: string;
  fingerprint: string;
  format: number;
  state: RecordState;
  attempt: number;
  owner: string;
  crashes: number;
  onCrash: CrashPolicy;
  leaseUntil?: number;
  result?: Uint8Array;
  reason?: string;
  journal?: Uint8Array[];
  createdAt: number;
  updatedAt: number;
  expiresAt?: number;
  ttl?: number;
}

const NONE = "0".repeat(32);

class DynamodbStore implements Store {
  readonly name = "dynamodb";
  readonly #document: DynamoDocument;
  readonly #table: string;
  readonly #skewMs: number;
  readonly #isSweeping: boolean;
  readonly #clock: { now(): number };

  constructor(
    document: DynamoDocument,
    table: string,
    skewMs: number,
    isSweeping: boolean,
    clock: { now(): number },
  ) {
    this.#document = document;
    this.#table = table;
    this.#skewMs = skewMs;
    this.#isSweeping = isSweeping;
    this.#clock = clock;
  }

  async begin(claim: Claim): Promise<BeginAnswer> {
    // The newcomer first: a new operation is one write. Whatever is there is looked at after.
    if (!claim.refuseLate && (await this.#create(this.#claimed(claim), undefined))) {
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
      const isCreated = await this.#create(this.#claimed(claim), item);
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
    return (await this.#change(item, held)) ? { kind: "held", attempt, reason } : undefined;
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
    if (!(await this.#change(item, written))) return undefined;
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

  async append({ bytes, ...token }: JournalEntry): Promise<SettleAnswer> {
    assertFits(bytes, "entry of its steps");
    return this.#owned(token, {}, bytes);
  }

  async #owned(
    token: AttemptToken,
    changes: Changes,
    appended?: Uint8Array,
  ): Promise<SettleAnswer> {
    const values = {
      ":running": "running",
      ":attempt": token.attempt,
      ":owner": token.owner,
      ":gone": this.#now() - this.#skewMs,
      ":format": FORMAT,
    };
    const isWritten = await this.#update(token.id, changes, OWNED, values, appended);
    if (isWritten) return { kind: "settled" };
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
    const expired = (await this.#scan(() => true)).filter((item) => this.#isExpired(item, now));
    const removed = await Promise.all(
      expired
        .slice(0, limit)
        .map((item) =>
          this.#conditionally(() =>
            this.#document.delete({ ...this.#key(item.id), ...unchangedSince(item) }),
          ),
        ),
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
      if (await this.#change(item, { ...changes, ...this.#ended(retentionMs) })) {
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
        if (await this.#create({ ...tombstone, state: "void" } as Item, item)) {
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
      if (await this.#change(item, { ...voided, ...this.#ended(retentionMs) })) {
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
      const isDeleted = await this.#conditionally(() =>
        this.#document.delete({ ...this.#key(id), ...unchangedSince(item) }),
      );
      if (isDeleted) return { kind: "deleted" };
    }
    throw contended();
  }

  /** Reads the whole table: DynamoDB keeps no order over items without an index of its own. */
  async list({ scope, state, olderThanMs, limit, cursor }: ListQuery): Promise<ListPage> {
    assertInteger(limit, "limit", 1, 1_000);
    const before = cursor === undefined ? undefined : parseCursor(cursor);
    const now = this.#now();
    const matching = (await this.#scan()).filter(
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
    for (const item of await this.#scan()) {
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
      ...{ attempt: 0, owner: NONE, crashes: 0, onCrash: "hold", createdAt: now, updatedAt: now },
    };
  }

  #claimed(claim: Claim): Item {
    const { id, scope, key, fingerprint, owner, onCrash, leaseMs, lapsedRetentionMs } = claim;
    const lease = this.#leased(leaseMs, lapsedRetentionMs);
    const blank = this.#blank(id, scope, key);
    return { ...blank, fingerprint, owner, onCrash, attempt: 1, ...lease } as Item;
  }

  #key(id: RecordId) {
    return { TableName: this.#table, Key: { id } };
  }

  async #item(id: RecordId, isChecked = true): Promise<Item | undefined> {
    const { Item: found } = await this.#asked(() =>
      this.#document.get({ ...this.#key(id), ConsistentRead: true }),
    );
    const item = found as Item | undefined;
    // An item that has expired is nobody's, whatever wrote it.
    if (item && isChecked && !this.#isExpired(item, this.#now())) assertReadable(item);
    return item;
  }

  /** Writes a new item where there is none, or only the expired one that was seen. */
  async #create(item: Item, expired: Item | undefined): Promise<boolean> {
    const condition = expired
      ? unchangedSince(expired)
      : { ConditionExpression: "attribute_not_exists(id)" };
    return this.#conditionally(() =>
      this.#document.put({ TableName: this.#table, Item: withoutAbsent(item), ...condition }),
    );
  }

  /** Changes an item, if it is still the one that was seen. */
  #change(item: Item, changes: Changes): Promise<boolean> {
    const { ConditionExpression, ExpressionAttributeValues } = unchangedSince(item);
    const cleared = { reason: undefined, result: undefined, ...changes };
    return this.#update(item.id, cleared, ConditionExpression, ExpressionAttributeValues);
  }

  #update(
    id: RecordId,
    changes: Changes,
    condition: string,
    values: Record<string, unknown>,
    appended?: Uint8Array,
  ): Promise<boolean> {
    const sets: string[] = [];
    const removes: string[] = [];
    const all = { ...values };
    if (appended !== undefined) {
      sets.push("#journal = list_append(if_not_exists(#journal, :nothing), :appended)");
      all[":nothing"] = [];
      all[":appended"] = [Buffer.from(appended)];
    }
    for (const [name, value] of Object.entries(changes)) {
      if (value === undefined) removes.push(`#${name}`);
      else {
        sets.push(`#${name} = :new_${name}`);
        all[`:new_${name}`] = value;
      }
    }
    const set = sets.length > 0 ? `SET ${sets.join(", ")}` : "";
    const remove = removes.length > 0 ? `REMOVE ${removes.join(", ")}` : "";
    const update = `${set} ${remove}`.trim();
    return this.#conditionally(() =>
      this.#document.update({
        ...this.#key(id),
        UpdateExpression: update,
        ConditionExpression: condition,
        ExpressionAttributeNames: namesIn(update + condition),
        ExpressionAttributeValues: all,
      }),
    );
  }

  async #scan(isWanted = isReadable): Promise<Item[]> {
    const items: Item[] = [];
    let from: Record<string, unknown> | undefined;
    do {
      const page = await this.#asked(() =>
        this.#document.scan({
          TableName: this.#table,
          ConsistentRead: true,
          ...(from && { ExclusiveStartKey: from }),
        }),
      );
      items.push(...((page.Items ?? []) as Item[]).filter(isWanted));
      from = page.LastEvaluatedKey;
    } while (from);
    return items;
  }

  /** @returns false when the condition did not hold */
  async #conditionally(write: () => Promise<unknown>): Promise<boolean> {
    try {
      await write();
      return true;
    } catch (error) {
      if (nameOf(error) === "ConditionalCheckFailedException") return false;
      throw this.#storeError(error);
    }
  }

  async #asked<Answer>(ask: () => Promise<Answer>): Promise<Answer> {
    try {
      return await ask();
    } catch (error) {
      throw this.#storeError(error);
    }
  }

  #storeError(cause: unknown): Error {
    if (isSemelError(cause)) return cause;
    const message = cause instanceof Error ? cause.message : String(cause);
    switch (nameOf(cause)) {
      case "ResourceNotFoundException":
        return new StoreUnusable(
          `There is no DynamoDB table "${this.#table}"; create it as dynamodbTable() describes`,
          { cause },
        );
      case "AccessDeniedException":
      case "UnrecognizedClientException":
        return new StoreUnusable(
          `DynamoDB refuses this client: ${message}. It needs GetItem, PutItem, UpdateItem, DeleteItem and Scan on "${this.#table}"`,
          { cause },
        );
      case "ValidationException":
        if (/item size/i.test(message)) return tooLarge(cause);
        return new StoreUnusable(`DynamoDB refused a request: ${message}`, { cause });
      case "ItemCollectionSizeLimitExceededException":
        return new StoreFull("DynamoDB has no room for this record", { cause });
      default:
        return new StoreUnavailable(`DynamoDB failed: ${message}`, { cause });
    }
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

type Changes = { [Name in keyof Item]?: Item[Name] | undefined };

/** SM-17, in the very condition of the write. */
const OWNED =
  "#state = :running AND #attempt = :attempt AND #owner = :owner AND #format = :format AND (attribute_not_exists(#expiresAt) OR #expiresAt > :gone)";

/** Every change of an item changes one of these, or its lease. */
function unchangedSince(item: Item) {
  const { leaseUntil } = item;
  const lease =
    leaseUntil === undefined ? "attribute_not_exists(#leaseUntil)" : "#leaseUntil = :lease";
  const condition = `#state = :state AND #attempt = :attempt AND #owner = :owner AND #updatedAt = :updated AND ${lease}`;
  return {
    ConditionExpression: condition,
    ExpressionAttributeNames: namesIn(condition),
    ExpressionAttributeValues: {
      ":state": item.state,
      ":attempt": item.attempt,
      ":owner": item.owner,
      ":updated": item.updatedAt,
      ...(leaseUntil !== undefined && { ":lease": leaseUntil }),
    },
  };
}

/** Every name goes by a placeholder, because many are words of DynamoDB's own. */
function namesIn(expression: string): Record<string, string> {
  const names = [...expression.matchAll(/#(\w+)/g)];
  return Object.fromEntries(names.map(([placeholder, name]) => [placeholder, name!]));
}

function withoutAbsent(item: Item): Item {
  return Object.fromEntries(
    Object.entries(item).filter(([, value]) => value !== undefined),
  ) as unknown as Item;
}

const STATES = ["running", "completed", "held", "open", "void"];

function isReadable(item: Item): boolean {
  try {
    assertReadable(item);
    return true;
  } catch {
    return false;
  }
}

function assertReadable(item: Item): void {
  if (item.format > FORMAT) {
    throw new RecordUnreadable(
      `Record ${item.id} has format ${item.format}, newer than the ${FORMAT} that this version of Semel reads; upgrade Semel`,
    );
  }
  const isWhole =
    item.format === FORMAT &&
    STATES.includes(item.state) &&
    typeof item.owner === "string" &&
    item.owner.length === 32 &&
    ["hold", "rerun", "probe"].includes(item.onCrash) &&
    (item.state === "running") === (item.leaseUntil !== undefined) &&
    (item.state === "completed") === item.result instanceof Uint8Array &&
    (item.state === "held") === (item.reason !== undefined);
  if (!isWhole) throw new RecordUnreadable(`Record ${item.id} is damaged`);
}

function newestFirst(
  one: { createdAt: number; id: string },
  other: { createdAt: number; id: string },
): number {
  return other.createdAt - one.createdAt || (one.id < other.id ? -1 : one.id > other.id ? 1 : 0);
}

function parseCursor(cursor: string): { createdAt: number; id: string } {
  const match = /^(\d+)\/([0-9a-f]{32})$/.exec(cursor);
  if (match) return { createdAt: Number(match[1]), id: match[2]! };
  throw new InvalidOption("`cursor` is not one that a previous page of this list ended with");
}

/** @throws {StoreFull} when no item could have them */
function assertFits(bytes: Uint8Array, what: string): void {
  if (bytes.byteLength <= BYTES_MAX) return;
  throw new StoreFull(`DynamoDB keeps items of 400 KB; this ${what} has ${bytes.byteLength} bytes`);
}

function tooLarge(cause: unknown): StoreFull {
  return new StoreFull(
    "DynamoDB keeps items of 400 KB, and the record with what its steps returned is larger; let steps return less",
    { cause },
  );
}

function nameOf(error: unknown): unknown {
  return error instanceof Error ? error.name : undefined;
}

function contended(): StoreUnavailable {
  return new StoreUnavailable("Too many others changed this record at once; ask again");
}
