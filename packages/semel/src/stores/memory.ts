// Keeps records in this process: for tests, for single-process services whose retries need not
// survive a restart, and as the front of a tiered store. Every transition is synchronous, which is
// what makes it atomic.

import { systemClock } from "../clock.ts";
import { InvalidOption, StoreFull } from "../errors.ts";
import { assertInteger, assertKnownOptions, assertOneOf } from "../options.ts";
import type {
  BeginAnswer,
  Claim,
  CrashPolicy,
  DeleteAnswer,
  Ending,
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

export interface MemoryStoreOptions {
  /** How many records it may hold. @default 1_000_000 */
  entriesMax?: number;
  /** How many bytes its records may take, as estimated. @default 512 MiB */
  bytesMax?: number;
  /**
   * What happens at a bound: `"refuse"` answers new operations with `StoreFull`;
   * `"evict-completed"` forgets the oldest completed record first, whose key could then run again.
   * A record that is not completed is never evicted. @default "refuse"
   */
  whenFull?: "refuse" | "evict-completed";
  /** A monotonic clock in milliseconds, for tests. */
  clock?: { now(): number };
}

interface Entry {
  id: RecordId;
  scope: string;
  key: string;
  fingerprint: string;
  state: RecordState;
  attempt: number;
  owner: string;
  onCrash: CrashPolicy;
  crashes: number;
  leaseUntil: number;
  result: Uint8Array | null;
  reason: string | null;
  createdAt: number;
  updatedAt: number;
  /** `null`: kept until resolved. */
  expiresAt: number | null;
  /** The queue it waits for its expiry in. */
  queue: Set<Entry> | null;
}

/** What a record takes beside its strings and its result: measured in `bench/`. */
const ENTRY_BYTES = 400;

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
  return new MemoryStore(entriesMax, bytesMax, whenFull, options.clock ?? systemClock);
}

class MemoryStore implements Store {
  readonly name = "memory";
  readonly #entries = new Map<RecordId, Entry>();
  /** For each length of life, its records in the order in which they end. */
  readonly #queues = new Map<number, Set<Entry>>();
  readonly #completed = new Set<Entry>();
  readonly #entriesMax: number;
  readonly #bytesMax: number;
  readonly #whenFull: "refuse" | "evict-completed";
  readonly #clock: { now(): number };
  #bytes = 0;

  constructor(
    entriesMax: number,
    bytesMax: number,
    whenFull: "refuse" | "evict-completed",
    clock: { now(): number },
  ) {
    this.#entriesMax = entriesMax;
    this.#bytesMax = bytesMax;
    this.#whenFull = whenFull;
    this.#clock = clock;
  }

  async begin(claim: Claim): Promise<BeginAnswer> {
    const now = this.#clock.now();
    const entry = this.#live(claim.id, now);
    if (entry === undefined) return this.#first(claim, now);
    if (entry.fingerprint !== "" && entry.fingerprint !== claim.fingerprint) {
      return { kind: "mismatch", fingerprint: entry.fingerprint };
    }
    const { attempt } = entry;
    switch (entry.state) {
      case "completed":
        return {
          kind: "done",
          attempt,
          result: entry.result!.slice(),
          expiresInMs: entry.expiresAt! - now,
        };
      case "held":
        return { kind: "held", attempt, reason: entry.reason! };
      case "void":
        return { kind: "void" };
      case "open":
        entry.onCrash = claim.onCrash;
        return this.#acquire(entry, claim, attempt + 1, now);
      case "running":
        return this.#running(entry, claim, now);
    }
  }

  #first(claim: Claim, now: number): BeginAnswer {
    const { refuseLate } = claim;
    if (refuseLate && now - refuseLate.sentAt > refuseLate.ageMaxMs) return { kind: "late" };
    const entry = this.#insert(claim, claim.fingerprint, claim.onCrash, now);
    return this.#acquire(entry, claim, 1, now);
  }

  #running(entry: Entry, claim: Claim, now: number): BeginAnswer {
    const { attempt } = entry;
    if (entry.owner === claim.owner) return this.#acquire(entry, claim, attempt, now);
    const leaseRemainingMs = entry.leaseUntil - now;
    if (leaseRemainingMs > 0) return { kind: "busy", attempt, leaseRemainingMs };
    const exhausted = entry.crashes + 1 >= claim.attemptsMax;
    if (entry.onCrash === "hold" || exhausted) {
      entry.reason = exhausted && entry.onCrash !== "hold" ? "attempts-exhausted" : "lease-lapsed";
      this.#become(entry, "held", claim.heldRetentionMs, now);
      return { kind: "held", attempt, reason: entry.reason };
    }
    entry.crashes++;
    return this.#acquire(entry, claim, attempt + 1, now);
  }

  #acquire(entry: Entry, claim: Claim, attempt: number, now: number): BeginAnswer {
    entry.fingerprint ||= claim.fingerprint;
    entry.attempt = attempt;
    entry.owner = claim.owner;
    this.#lease(entry, claim.leaseMs, claim.lapsedRetentionMs, now);
    if (entry.state !== "running") {
      entry.state = "running";
      entry.updatedAt = now;
    }
    return { kind: "acquired", attempt, probe: entry.onCrash === "probe" && entry.crashes > 0 };
  }

  async settle(ending: Ending): Promise<SettleAnswer> {
    const now = this.#clock.now();
    const entry = this.#ownedBy(ending, now);
    if (entry === undefined) return { kind: "stale" };
    switch (ending.kind) {
      case "complete":
        this.#complete(entry, ending.result, ending.retentionMs, now);
        break;
      case "release":
        this.#become(entry, "open", ending.retentionMs, now);
        break;
      case "hold":
        entry.reason = ending.reason;
        this.#become(entry, "held", ending.retentionMs, now);
        break;
    }
    return { kind: "settled" };
  }

  async renew(renewal: Renewal): Promise<RenewAnswer> {
    const now = this.#clock.now();
    const entry = this.#ownedBy(renewal, now);
    if (entry === undefined) return { kind: "stale" };
    this.#lease(entry, renewal.leaseMs, renewal.lapsedRetentionMs, now);
    return { kind: "renewed" };
  }

  async read(id: RecordId): Promise<StoredRecord | undefined> {
    const now = this.#clock.now();
    const entry = this.#live(id, now);
    return entry && view(entry, now, true);
  }

  async sweep(limit: number): Promise<number> {
    const now = this.#clock.now();
    let removed = 0;
    for (const [lifeMs, queue] of this.#queues) {
      for (const entry of queue) {
        if (removed === limit) return removed;
        if (entry.expiresAt! > now) break;
        this.#remove(entry);
        removed++;
      }
      if (queue.size === 0) this.#queues.delete(lifeMs);
    }
    return removed;
  }

  async resolve(resolution: Resolution): Promise<ResolveAnswer> {
    const now = this.#clock.now();
    const entry = this.#live(resolution.id, now);
    if (entry === undefined) return { kind: "absent" };
    if (!isHeld(entry, now)) return { kind: "refused", state: entry.state };
    entry.reason = null;
    if (resolution.kind === "complete") {
      this.#complete(entry, resolution.result, resolution.retentionMs, now);
    } else {
      this.#become(entry, "open", resolution.retentionMs, now);
    }
    return { kind: "resolved" };
  }

  async void(request: VoidRequest): Promise<VoidAnswer> {
    const now = this.#clock.now();
    const entry = this.#live(request.id, now) ?? this.#insert(request, "", "hold", now);
    if (entry.state === "completed") return { kind: "completed" };
    const running = entry.state === "running" && entry.owner !== "";
    if (running && entry.leaseUntil > now) return { kind: "busy" };
    if (entry.state !== "void") this.#become(entry, "void", request.retentionMs, now);
    return { kind: "voided" };
  }

  async delete(id: RecordId): Promise<DeleteAnswer> {
    const now = this.#clock.now();
    const entry = this.#live(id, now);
    if (entry === undefined) return { kind: "absent" };
    if (entry.state === "running" && entry.leaseUntil > now) return { kind: "busy" };
    this.#remove(entry);
    return { kind: "deleted" };
  }

  async list(query: ListQuery): Promise<ListPage> {
    const now = this.#clock.now();
    const before = query.cursor === undefined ? undefined : parseCursor(query.cursor);
    const matching = [...this.#entries.values()].filter(
      (entry) =>
        !isExpired(entry, now) &&
        (query.scope === undefined || entry.scope === query.scope) &&
        (query.state === undefined || stateFor(entry, now) === query.state) &&
        (query.olderThanMs === undefined || now - entry.createdAt >= query.olderThanMs) &&
        (before === undefined || newestFirst(before, entry) < 0),
    );
    const page = matching.sort(newestFirst).slice(0, query.limit);
    const last = page.at(-1);
    return {
      records: page.map((entry) => view(entry, now, false)),
      ...(last && matching.length > page.length && { cursor: `${last.createdAt}/${last.id}` }),
    };
  }

  async stats(): Promise<StoreStats> {
    const now = this.#clock.now();
    const states = { running: 0, completed: 0, held: 0, open: 0, void: 0 };
    let oldestHeldMs: number | null = null;
    for (const entry of this.#entries.values()) {
      if (isExpired(entry, now)) continue;
      const state = stateFor(entry, now);
      states[state]++;
      if (state !== "held") continue;
      const since = entry.state === "held" ? entry.updatedAt : entry.leaseUntil;
      oldestHeldMs = Math.max(oldestHeldMs ?? 0, now - since);
    }
    return { states, oldestHeldMs, bytes: this.#bytes };
  }

  /** The record, unless it is absent or expired. */
  #live(id: RecordId, now: number): Entry | undefined {
    const entry = this.#entries.get(id);
    if (entry === undefined || !isExpired(entry, now)) return entry;
    this.#remove(entry);
    return undefined;
  }

  /** SM-17: the record, if it is running this very attempt. */
  #ownedBy(token: { id: RecordId; attempt: number; owner: string }, now: number) {
    const entry = this.#live(token.id, now);
    if (entry?.state !== "running") return undefined;
    return entry.attempt === token.attempt && entry.owner === token.owner ? entry : undefined;
  }

  #insert(
    { id, scope, key }: { id: RecordId; scope: string; key: string },
    fingerprint: string,
    onCrash: CrashPolicy,
    now: number,
  ): Entry {
    const entry: Entry = {
      id,
      scope,
      key,
      fingerprint,
      state: "running",
      attempt: 0,
      owner: "",
      onCrash,
      crashes: 0,
      leaseUntil: 0,
      result: null,
      reason: null,
      createdAt: now,
      updatedAt: now,
      expiresAt: null,
      queue: null,
    };
    this.#makeRoom(1, bytesOf(entry), now);
    this.#entries.set(id, entry);
    this.#bytes += bytesOf(entry);
    return entry;
  }

  #complete(entry: Entry, result: Uint8Array, retentionMs: number, now: number): void {
    this.#makeRoom(0, result.byteLength, now);
    entry.result = result.slice();
    this.#bytes += result.byteLength;
    this.#become(entry, "completed", retentionMs, now);
    this.#completed.add(entry);
  }

  #become(entry: Entry, state: RecordState, lifeMs: number | null, now: number): void {
    entry.state = state;
    entry.updatedAt = now;
    this.#endAfter(entry, lifeMs, lifeMs, now);
  }

  #lease(entry: Entry, leaseMs: number, lapsedRetentionMs: number | null, now: number): void {
    entry.leaseUntil = now + leaseMs;
    const lifeMs = lapsedRetentionMs === null ? null : leaseMs + lapsedRetentionMs;
    this.#endAfter(entry, lifeMs, lifeMs, now);
  }

  #endAfter(entry: Entry, lifeMs: number | null, queueKey: number | null, now: number): void {
    entry.queue?.delete(entry);
    entry.queue = null;
    entry.expiresAt = lifeMs === null ? null : now + lifeMs;
    if (queueKey === null) return;
    let queue = this.#queues.get(queueKey);
    if (queue === undefined) {
      queue = new Set();
      this.#queues.set(queueKey, queue);
    }
    queue.add(entry);
    entry.queue = queue;
  }

  #remove(entry: Entry): void {
    entry.queue?.delete(entry);
    entry.queue = null;
    this.#completed.delete(entry);
    this.#entries.delete(entry.id);
    this.#bytes -= bytesOf(entry) + (entry.result?.byteLength ?? 0);
  }

  /** Removes what has expired, then, if told to, the oldest completed; else refuses. */
  #makeRoom(entries: number, bytes: number, now: number): void {
    const isFull = () =>
      this.#entries.size + entries > this.#entriesMax || this.#bytes + bytes > this.#bytesMax;
    if (!isFull()) return;
    for (const queue of this.#queues.values()) {
      for (const entry of queue) {
        if (!isFull()) return;
        if (entry.expiresAt! > now) break;
        this.#remove(entry);
      }
    }
    if (this.#whenFull === "evict-completed") {
      for (const entry of this.#completed) {
        if (!isFull()) return;
        this.#remove(entry);
      }
    }
    if (!isFull()) return;
    throw new StoreFull(
      `The memory store is full (${this.#entries.size} records of ${this.#entriesMax}, ${this.#bytes} bytes of ${this.#bytesMax}); raise \`entriesMax\` or \`bytesMax\`, shorten the retention, or set \`whenFull: "evict-completed"\``,
    );
  }
}

function isExpired(entry: Entry, now: number): boolean {
  return entry.expiresAt !== null && entry.expiresAt <= now;
}

/** Held, or lapsed under a policy that would hold it. */
function isHeld(entry: Entry, now: number): boolean {
  return stateFor(entry, now) === "held";
}

function stateFor(entry: Entry, now: number): RecordState {
  const lapsed = entry.state === "running" && entry.leaseUntil <= now;
  return lapsed && entry.onCrash !== "rerun" ? "held" : entry.state;
}

function bytesOf(entry: Entry): number {
  return ENTRY_BYTES + entry.scope.length + entry.key.length;
}

function newestFirst(
  one: { createdAt: number; id: string },
  other: { createdAt: number; id: string },
): number {
  return other.createdAt - one.createdAt || (one.id < other.id ? -1 : one.id > other.id ? 1 : 0);
}

function parseCursor(cursor: string): { createdAt: number; id: string } {
  const match = /^(\d+(?:\.\d+)?)\/([0-9a-f]{32})$/.exec(cursor);
  if (match === null) {
    throw new InvalidOption("`cursor` is not one that a previous page of this list ended with");
  }
  return { createdAt: Number(match[1]), id: match[2]! };
}

function view(entry: Entry, now: number, withResult: boolean): StoredRecord {
  const { id, scope, key, fingerprint, state, attempt, owner, onCrash, crashes, reason } = entry;
  return {
    id,
    scope,
    key,
    fingerprint,
    state,
    attempt,
    owner,
    onCrash,
    crashes,
    leaseRemainingMs: state === "running" ? entry.leaseUntil - now : null,
    result: withResult && entry.result ? entry.result.slice() : null,
    reason,
    createdAt: entry.createdAt,
    updatedAt: entry.updatedAt,
    expiresInMs: entry.expiresAt === null ? null : entry.expiresAt - now,
  };
}
