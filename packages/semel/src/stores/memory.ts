// Keeps records in this process: for tests, for single-process services whose retries need not
// survive a restart, and as the front of a tiered store. Every transition is synchronous, which is
// what makes it atomic.

import { systemClock } from "../clock.ts";
import { StoreFull } from "../errors.ts";
import { assertInteger, assertKnownOptions, assertOneOf } from "../options.ts";
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
  RenewAnswer,
  Renewal,
  Resolution,
  ResolveAnswer,
  SettleAnswer,
  Store,
  StoredRecord,
  StoreQueue,
  StoreStats,
  UnusedAttempt,
  VoidAnswer,
  VoidRequest,
} from "../store.ts";
import { type ActiveRecord, ActiveRecords } from "./memory-active.ts";
import { Archive, type ArchivedRecord } from "./memory-archive.ts";
import { Items } from "./memory-items.ts";
import { NewestPage } from "./memory-listing.ts";
import { MemoryQueue } from "./memory-queue.ts";

export interface MemoryStoreOptions {
  /** How many records and items of the queue it may hold. @default 1_000_000 */
  entriesMax?: number | undefined;
  /** How many bytes these may take, to within about a fifth. @default 512 MiB */
  bytesMax?: number | undefined;
  /**
   * What happens at a bound: `"refuse"` answers new operations with `StoreFull`;
   * `"evict-completed"` forgets the oldest completed record first, whose key could then run again.
   * A record that is not completed, and an item of the queue, is never evicted. @default "refuse"
   */
  whenFull?: "refuse" | "evict-completed" | undefined;
  /** A monotonic clock in milliseconds, for tests. */
  clock?: { now(): number } | undefined;
}

type Bounds = {
  [Name in "entriesMax" | "bytesMax" | "whenFull"]: NonNullable<MemoryStoreOptions[Name]>;
};

/**
 * A store in this process's memory (ST-1).
 *
 * @throws {InvalidOption} when an option is unknown or out of bounds
 * @example const idempotency = new Idempotency({ store: memoryStore() });
 */
export function memoryStore(options: MemoryStoreOptions = {}): Store {
  assertKnownOptions(options, ["entriesMax", "bytesMax", "whenFull", "clock"], "memoryStore()");
  const { entriesMax = 1_000_000, bytesMax = 512 * 2 ** 20, whenFull = "refuse" } = options;
  assertInteger(entriesMax, "entriesMax", 1, 2 ** 31);
  assertInteger(bytesMax, "bytesMax", 1_000, 2 ** 40);
  assertOneOf(whenFull, ["refuse", "evict-completed"], "whenFull");
  return new MemoryStore({ entriesMax, bytesMax, whenFull }, options.clock ?? systemClock);
}

/** How many records one turn of the event loop removes or looks through at most. */
const TURN_RECORDS_MAX = 2_000;

class MemoryStore implements Store {
  readonly name = "memory";
  readonly queue: StoreQueue;
  readonly #active = new ActiveRecords();
  readonly #archive: Archive;
  readonly #items = new Items();
  readonly #bounds: Bounds;
  readonly #clock: { now(): number };

  constructor(bounds: Bounds, clock: { now(): number }) {
    this.#bounds = bounds;
    this.#clock = clock;
    this.#archive = new Archive(bounds.whenFull === "evict-completed");
    this.queue = new MemoryQueue(this.#items, {
      now: () => this.#now(),
      isRunning: (attempt, now) => this.#ownedBy(attempt, now) !== undefined,
      makeRoom: (items, bytes, now) => this.#makeRoom(items, bytes, now),
      nextTurn,
    });
  }

  async begin(claim: Claim): Promise<BeginAnswer> {
    const now = this.#now();
    const record = this.#activeAt(claim.id, now);
    if (record === undefined) {
      const archived = this.#archivedAt(claim.id, now);
      return archived ? replay(archived, claim, now) : this.#first(claim, now);
    }
    if (record.fingerprint !== "" && record.fingerprint !== claim.fingerprint) {
      return { kind: "mismatch", fingerprint: record.fingerprint };
    }
    switch (record.state) {
      case "held":
        return { kind: "held", attempt: record.attempt, reason: record.reason! };
      case "void":
        return { kind: "void" };
      case "open":
        record.onCrash = claim.onCrash;
        return this.#acquire(record, claim, record.attempt + 1, now);
      case "running":
        return this.#running(record, claim, now);
    }
  }

  #first(claim: Claim, now: number): BeginAnswer {
    const { refuseLate } = claim;
    if (refuseLate && now - refuseLate.sentAt > refuseLate.ageMaxMs) return { kind: "late" };
    this.#makeRoom(1, ActiveRecords.bytesFor(claim), now);
    const record = this.#active.add(claim, claim.fingerprint, claim.onCrash, now);
    return this.#acquire(record, claim, 1, now);
  }

  #running(record: ActiveRecord, claim: Claim, now: number): BeginAnswer {
    const { attempt } = record;
    if (record.owner === claim.owner) return this.#acquire(record, claim, attempt, now);
    const leaseRemainingMs = record.leaseUntil - now;
    if (leaseRemainingMs > 0) return { kind: "busy", attempt, leaseRemainingMs };
    const exhausted = record.crashes + 1 >= claim.attemptsMax;
    if (record.onCrash === "hold" || exhausted) {
      record.reason = record.onCrash === "hold" ? "lease-lapsed" : "attempts-exhausted";
      this.#become(record, "held", claim.heldRetentionMs, now);
      return { kind: "held", attempt, reason: record.reason };
    }
    record.crashes++;
    return this.#acquire(record, claim, attempt + 1, now);
  }

  #acquire(record: ActiveRecord, claim: Claim, attempt: number, now: number): BeginAnswer {
    record.fingerprint ||= claim.fingerprint;
    record.attempt = attempt;
    record.owner = claim.owner;
    this.#lease(record, claim, now);
    if (record.state !== "running") {
      record.state = "running";
      record.updatedAt = now;
    }
    return { kind: "acquired", attempt, probe: record.onCrash === "probe" && record.crashes > 0 };
  }

  async settle(ending: Ending): Promise<SettleAnswer> {
    const now = this.#now();
    const record = this.#ownedBy(ending, now);
    if (record === undefined) return { kind: "stale" };
    switch (ending.kind) {
      case "complete":
        this.#complete(record, ending.result, ending.retentionMs, now);
        break;
      case "release":
        this.#become(record, "open", ending.retentionMs, now);
        break;
      case "hold":
        record.reason = ending.reason;
        this.#become(record, "held", ending.retentionMs, now);
        break;
    }
    return { kind: "settled" };
  }

  async giveBack({ retentionMs, ...token }: UnusedAttempt): Promise<SettleAnswer> {
    const now = this.#now();
    const record = this.#ownedBy(token, now);
    if (record === undefined) return { kind: "stale" };
    record.attempt--;
    this.#become(record, "open", retentionMs, now);
    return { kind: "settled" };
  }

  async append({ bytes, ...token }: JournalEntry): Promise<SettleAnswer> {
    const now = this.#now();
    const record = this.#ownedBy(token, now);
    if (record === undefined) return { kind: "stale" };
    this.#makeRoom(0, bytes.byteLength, now);
    this.#active.append(record, bytes);
    return { kind: "settled" };
  }

  async renew(renewal: Renewal): Promise<RenewAnswer> {
    const now = this.#now();
    const record = this.#ownedBy(renewal, now);
    if (record === undefined) return { kind: "stale" };
    this.#lease(record, renewal, now);
    return { kind: "renewed" };
  }

  async read(id: RecordId): Promise<StoredRecord | undefined> {
    const now = this.#now();
    const record = this.#activeAt(id, now);
    if (record !== undefined) return activeView(record, now);
    const archived = this.#archivedAt(id, now);
    return archived && archivedView(archived, now, archived.packed.result());
  }

  async sweep(limit: number): Promise<number> {
    for (let removed = 0; ; ) {
      const most = Math.min(limit - removed, TURN_RECORDS_MAX);
      const swept = this.#removeExpired(most, this.#now());
      removed += swept;
      if (swept < most || removed === limit) return removed;
      await nextTurn();
    }
  }

  async resolve(resolution: Resolution): Promise<ResolveAnswer> {
    const { id, retentionMs } = resolution;
    const now = this.#now();
    const record = this.#activeAt(id, now);
    if (record === undefined) {
      return this.#archivedAt(id, now)
        ? { kind: "refused", state: "completed" }
        : { kind: "absent" };
    }
    if (stateAt(record, now) !== "held") return { kind: "refused", state: record.state };
    if (resolution.kind === "complete") {
      this.#complete(record, resolution.result, retentionMs, now);
    } else {
      record.reason = null;
      this.#become(record, "open", retentionMs, now);
    }
    return { kind: "resolved" };
  }

  async void(request: VoidRequest): Promise<VoidAnswer> {
    const now = this.#now();
    const record = this.#activeAt(request.id, now);
    if (record === undefined) {
      if (this.#archivedAt(request.id, now)) return { kind: "completed" };
      this.#makeRoom(1, ActiveRecords.bytesFor(request), now);
      const tombstone = this.#active.add(request, "", "hold", now);
      this.#become(tombstone, "void", request.retentionMs, now);
      return { kind: "voided" };
    }
    if (isLive(record, now)) return { kind: "busy" };
    if (record.state !== "void") this.#become(record, "void", request.retentionMs, now);
    return { kind: "voided" };
  }

  async delete(id: RecordId): Promise<DeleteAnswer> {
    const now = this.#now();
    const record = this.#activeAt(id, now);
    if (record !== undefined) {
      if (isLive(record, now)) return { kind: "busy" };
      this.#active.delete(record);
      return { kind: "deleted" };
    }
    const archived = this.#archivedAt(id, now);
    if (archived === undefined) return { kind: "absent" };
    this.#archive.delete(archived);
    return { kind: "deleted" };
  }

  async list(query: ListQuery): Promise<ListPage> {
    const { scope, state, olderThanMs } = query;
    const now = this.#now();
    const page = new NewestPage<StoredRecord>(query);
    const isAsked = (record: { createdAt: number; scope: string }) =>
      (olderThanMs === undefined || now - record.createdAt >= olderThanMs) &&
      (scope === undefined || record.scope === scope);
    let seen = 0;
    // What completes meanwhile goes from here to there, and so is not missed.
    for (const record of this.#active.values()) {
      const isWanted = state === undefined || stateAt(record, now) === state;
      if (isWanted && !isExpired(record, now) && isAsked(record)) {
        page.offer(record, () => ({ ...activeView(record, now), journal: null }));
      }
      if (++seen % TURN_RECORDS_MAX === 0) await nextTurn();
    }
    if (state === undefined || state === "completed") {
      for (const archived of this.#archive.records()) {
        if (!isExpired(archived, now) && isAsked(archived.packed)) {
          page.offer(archived.packed, () => archivedView(archived, now, null));
        }
        if (++seen % TURN_RECORDS_MAX === 0) await nextTurn();
      }
    }
    const { listed, ...cursor } = page.finish();
    return { records: listed, ...cursor };
  }

  async stats(): Promise<StoreStats> {
    // Without what has expired, what is completed need not be counted one by one.
    await this.sweep(Number.POSITIVE_INFINITY);
    const now = this.#now();
    const states = { running: 0, completed: 0, held: 0, open: 0, void: 0 };
    let oldestHeldMs: number | null = null;
    let seen = 0;
    for (const record of this.#active.values()) {
      if (++seen % TURN_RECORDS_MAX === 0) await nextTurn();
      const state = stateAt(record, now);
      states[state]++;
      if (state !== "held") continue;
      const since = record.state === "held" ? record.updatedAt : record.leaseUntil;
      oldestHeldMs = Math.max(oldestHeldMs ?? 0, now - since);
    }
    states.completed = this.#archive.size;
    const bytes = this.#active.bytes + this.#archive.bytes + this.#items.bytes;
    return { states, oldestHeldMs, bytes };
  }

  /** In whole milliseconds, which is what records keep. */
  #now(): number {
    return Math.floor(this.#clock.now());
  }

  /** The record, unless it is completed, absent or expired. */
  #activeAt(id: RecordId, now: number): ActiveRecord | undefined {
    const record = this.#active.get(id);
    if (record === undefined || !isExpired(record, now)) return record;
    this.#active.delete(record);
    return undefined;
  }

  #archivedAt(id: RecordId, now: number): ArchivedRecord | undefined {
    const archived = this.#archive.find(id);
    if (archived === undefined || !isExpired(archived, now)) return archived;
    this.#archive.delete(archived);
    return undefined;
  }

  /** SM-17: the record, if it is running this very attempt. */
  #ownedBy(token: AttemptToken, now: number): ActiveRecord | undefined {
    const record = this.#activeAt(token.id, now);
    if (record?.state !== "running") return undefined;
    return record.attempt === token.attempt && record.owner === token.owner ? record : undefined;
  }

  #complete(record: ActiveRecord, result: Uint8Array, retentionMs: number, now: number): void {
    const packed = this.#archive.pack(record, now, result.length);
    const room = ActiveRecords.bytesFor(record);
    this.#makeRoom(0, Archive.bytesFor(packed, result) - room, now);
    this.#archive.add(packed, result, now + retentionMs);
    this.#active.delete(record);
  }

  #become(
    record: ActiveRecord,
    state: ActiveRecord["state"],
    lifeMs: number | null,
    now: number,
  ): void {
    record.state = state;
    record.updatedAt = now;
    this.#active.expireAt(record, lifeMs === null ? null : now + lifeMs);
  }

  #lease(
    record: ActiveRecord,
    { leaseMs, lapsedRetentionMs }: { leaseMs: number; lapsedRetentionMs: number | null },
    now: number,
  ): void {
    record.leaseUntil = now + leaseMs;
    const expiresAt = lapsedRetentionMs === null ? null : record.leaseUntil + lapsedRetentionMs;
    this.#active.expireAt(record, expiresAt);
  }

  /** @returns how many were removed */
  #removeExpired(most: number, now: number): number {
    let removed = 0;
    for (; removed < most; removed++) {
      const archived = this.#archive.expired(now);
      const record = archived === undefined ? this.#active.expired(now) : undefined;
      if (archived) this.#archive.delete(archived);
      else if (record) this.#active.delete(record);
      else break;
    }
    return removed;
  }

  /** Removes what has expired, then, if told to, the oldest completed; else refuses. */
  #makeRoom(entries: number, bytes: number, now: number): void {
    if (!this.#isFull(entries, bytes)) return;
    const { entriesMax, bytesMax } = this.#bounds;
    const [active, archive, items] = [this.#active, this.#archive, this.#items];
    const isMade = () => this.#removeExpired(1, now) > 0 || items.removeExpired(1, now) > 0;
    while (this.#isFull(entries, bytes) && isMade());
    // What cannot fit beside those that stay must not drive out the others.
    const fits =
      active.size + items.size + entries <= entriesMax &&
      active.bytes + items.bytes + bytes <= bytesMax;
    while (fits && this.#isFull(entries, bytes)) {
      const oldest = archive.oldest();
      if (oldest === undefined) break;
      archive.delete(oldest);
    }
    if (this.#isFull(entries, bytes)) {
      throw new StoreFull(
        `The memory store is full (${active.size + items.size + archive.size} records and items of ${entriesMax}, ${active.bytes + items.bytes + archive.bytes} bytes of ${bytesMax}); raise \`entriesMax\` or \`bytesMax\`, shorten the retention, or set \`whenFull: "evict-completed"\``,
      );
    }
  }

  /** Whether there is no room for more records or items, and their bytes. */
  #isFull(entries: number, bytes: number): boolean {
    const { entriesMax, bytesMax } = this.#bounds;
    const [active, archive, items] = [this.#active, this.#archive, this.#items];
    return (
      (entries > 0 && active.size + items.size + archive.size + entries > entriesMax) ||
      (bytes > 0 && active.bytes + items.bytes + archive.bytes + bytes > bytesMax)
    );
  }
}

function replay({ packed, expiresAt }: ArchivedRecord, claim: Claim, now: number): BeginAnswer {
  const { fingerprint, attempt } = packed;
  if (fingerprint !== "" && fingerprint !== claim.fingerprint) {
    return { kind: "mismatch", fingerprint };
  }
  return { kind: "done", attempt, result: packed.result(), expiresInMs: expiresAt - now };
}

function isExpired({ expiresAt }: { expiresAt: number | null }, now: number): boolean {
  return expiresAt !== null && expiresAt <= now;
}

function isLive(record: ActiveRecord, now: number): boolean {
  return record.state === "running" && record.leaseUntil > now;
}

/** Lapsed under a policy that would hold it is as good as held. */
function stateAt(record: ActiveRecord, now: number): ActiveRecord["state"] {
  const hasLapsed = record.state === "running" && record.leaseUntil <= now;
  return hasLapsed && record.onCrash !== "rerun" ? "held" : record.state;
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}

function activeView(record: ActiveRecord, now: number): StoredRecord {
  const { id, scope, key, fingerprint, state, attempt, owner, onCrash, crashes } = record;
  const { reason, createdAt, updatedAt, leaseUntil, expiresAt, journal } = record;
  return {
    ...{ id, scope, key, fingerprint, state, attempt, owner, onCrash, crashes, reason },
    ...{ createdAt, updatedAt },
    journal: journal.length === 0 ? null : Buffer.concat(journal),
    ageMs: now - record.createdAt,
    leaseRemainingMs: record.state === "running" ? leaseUntil - now : null,
    result: null,
    expiresInMs: expiresAt === null ? null : expiresAt - now,
  };
}

function archivedView(
  { packed, expiresAt }: ArchivedRecord,
  now: number,
  result: Uint8Array | null,
): StoredRecord {
  const { id, scope, key, fingerprint, attempt, owner, onCrash, crashes } = packed;
  const { createdAt, updatedAt } = packed;
  return {
    id,
    scope,
    key,
    fingerprint,
    state: "completed",
    attempt,
    owner,
    onCrash,
    crashes,
    leaseRemainingMs: null,
    result,
    reason: null,
    // Not kept: nothing runs again that could need it.
    journal: null,
    ageMs: now - createdAt,
    createdAt,
    updatedAt,
    expiresInMs: expiresAt - now,
  };
}
