// The contract between the engine and whatever keeps its records. A store is a translation of the
// state machine below into one atomic operation per transition; it holds no policy and never looks
// inside fingerprints, owners or results. `docs/writing-a-store.md` walks through one.
//
//             begin            complete
//   (absent) ───────► running ─────────► completed
//                      │  ▲ │  release
//                      │  │ └─────────► open ──begin──► running, attempt n+1
//                 hold,│  │ begin, lease lapsed, rerun or probe
//            lapsed +  ▼  │
//       onCrash hold  held ──resolve──► completed | open
//
//   void: absent, open, held, lapsed running ──► void

/**
 * 16 bytes of SHA-256 over length-framed (scope, key), as 32 lowercase hexadecimal digits. A fixed
 * size keeps indexes small, and no separator can be forged.
 */
export type RecordId = string;

export type RecordState = "running" | "completed" | "held" | "open" | "void";

/** What happens when a lapsed `running` record is found (SM-4). Stored with the record. */
export type CrashPolicy = "rerun" | "hold" | "probe";

/** The fencing token of an attempt, carried by every write after `begin` (SM-17). */
export interface AttemptToken {
  id: RecordId;
  /** Rises while the record lives, from 1. */
  attempt: number;
  /** The nonce of the attempt: 32 lowercase hexadecimal digits, fresh for each `begin`. */
  owner: string;
}

/** One request to run an operation. */
export interface Claim {
  id: RecordId;
  scope: string;
  key: string;
  /** Label and digest of the payload, at most 128 ASCII characters; compared whole. */
  fingerprint: string;
  /** Chosen by the caller, so that a resent `begin` recognises its own claim (SM-16). */
  owner: string;
  leaseMs: number;
  onCrash: CrashPolicy;
  /** Takeovers of lapsed leases after which the operation is held instead (SM-23a). */
  attemptsMax: number;
  /** How long a lapsed record is kept after its lease; `null`: until resolved (SM-15). */
  lapsedRetentionMs: number | null;
  /** How long a record is kept once held; `null`: until resolved (SM-15). */
  heldRetentionMs: number | null;
  /**
   * Refuses an absent record whose request was first sent too long ago (EN-11): `sentAt` is in
   * milliseconds since the Unix epoch, and the store's clock judges.
   */
  refuseLate?: { sentAt: number; ageMaxMs: number };
}

/** What `begin` found, decided in one atomic step. */
export type BeginAnswer =
  /**
   * The caller holds the lease. `probe` is true when the record's policy is `probe` and an attempt
   * has crashed: the probe runs, not the handler.
   */
  | { kind: "acquired"; attempt: number; probe: boolean }
  | { kind: "busy"; attempt: number; leaseRemainingMs: number }
  | { kind: "done"; attempt: number; result: Uint8Array; expiresInMs: number }
  | { kind: "held"; attempt: number; reason: string }
  | { kind: "void" }
  /** The stored fingerprint, so that the engine can tell another payload from another algorithm. */
  | { kind: "mismatch"; fingerprint: string }
  /** Absent, and the request is older than `refuseLate` allows. */
  | { kind: "late" };

/** The end of an attempt. */
export type Ending = AttemptToken &
  (
    | { kind: "complete"; result: Uint8Array; retentionMs: number }
    | { kind: "release"; retentionMs: number }
    | { kind: "hold"; reason: string; retentionMs: number | null }
  );

/**
 * `settled`: written. `stale`: the record is not running this attempt; nothing was written. A store
 * need not recognise its own repeated write: the engine reads back.
 */
export type SettleAnswer = { kind: "settled" } | { kind: "stale" };

/** An attempt that was claimed and then never ran. */
export interface UnusedAttempt extends AttemptToken {
  /** How long the record is kept once it is open. */
  retentionMs: number;
}

/** What an attempt adds to its record's journal (SM-14). */
export interface JournalEntry extends AttemptToken {
  /** Opaque to stores; not empty. */
  bytes: Uint8Array;
}

export interface Renewal extends AttemptToken {
  leaseMs: number;
  /** As in the {@link Claim}: the record's end moves along with its lease. */
  lapsedRetentionMs: number | null;
}

export type RenewAnswer = { kind: "renewed" } | { kind: "stale" };

/** A live record, as read. Times are milliseconds since the Unix epoch by the store's clock. */
export interface StoredRecord extends AttemptToken {
  scope: string;
  key: string;
  /** Empty for a tombstone of an operation that never began. */
  fingerprint: string;
  state: RecordState;
  onCrash: CrashPolicy;
  /** Lapsed leases that were taken over. */
  crashes: number;
  /** Remaining lease of a `running` record; 0 or less when it lapsed. */
  leaseRemainingMs: number | null;
  /** Present when completed. */
  result: Uint8Array | null;
  /** Why it is held. */
  reason: string | null;
  /**
   * What attempts have appended, in order; `null` when nothing was. A store may forget it once the
   * record is completed. Always `null` in a listing.
   */
  journal: Uint8Array | null;
  /** Time since it was created. */
  ageMs: number;
  createdAt: number;
  /** The last change of state. */
  updatedAt: number;
  /** Time until the record is forgotten; `null`: kept until resolved. */
  expiresInMs: number | null;
}

/** The decision of an administrator about a held record (SM-12). */
export type Resolution = { id: RecordId; retentionMs: number } & (
  | { kind: "complete"; result: Uint8Array }
  | { kind: "open" }
);

export type ResolveAnswer =
  | { kind: "resolved" }
  | { kind: "absent" }
  | { kind: "refused"; state: RecordState };

/** A wish that an operation never runs (SM-13). */
export interface VoidRequest {
  id: RecordId;
  scope: string;
  key: string;
  retentionMs: number;
}

export type VoidAnswer = { kind: "voided" } | { kind: "busy" } | { kind: "completed" };

export type DeleteAnswer = { kind: "deleted" } | { kind: "absent" } | { kind: "busy" };

export interface ListQuery {
  scope?: string;
  /** Lapsed `running` records under `hold` or `probe` count as `held`, as in {@link StoreStats}. */
  state?: RecordState;
  /** Only records created at least this long ago. */
  olderThanMs?: number;
  /** 1 to 1,000. */
  limit: number;
  /** Where the previous page ended; its form is the store's own. */
  cursor?: string;
}

/** Newest first. `result` is always `null` in a listing. */
export interface ListPage {
  records: StoredRecord[];
  cursor?: string;
}

export interface StoreStats {
  /** Live records by state; lapsed ones that would become held count as `held`. */
  states: Record<RecordState, number>;
  /** Age of the oldest held record since it was held (or its lease lapsed); `null` when none is. */
  oldestHeldMs: number | null;
  /** Bytes that the records take, as well as the store can tell; `null` when it cannot. */
  bytes: number | null;
}

/** What a {@link StoreQueue} keeps: `task`: a durable operation to run; `effect`: a delivery to make. */
export type QueueKind = "task" | "effect";

/** Work to be done later, perhaps by another process. */
export interface QueueItem {
  /**
   * 32 lowercase hexadecimal digits, derived from what it is: one that is added again is there
   * already. The first eight are those of `operation`, so that a store can keep an item with its
   * record and still find it by its id; `queueItemId()` makes such.
   */
  id: string;
  kind: QueueKind;
  /** What can do it: the name of a durable operation, or of an effect. 1 to 255 characters, no NUL. */
  name: string;
  /** The record it belongs to. Items of one kind and operation are done one after the other, by `place`. */
  operation: RecordId;
  scope: string;
  key: string;
  /** From 0, less than 2^31; rises within (`operation`, `kind`), with gaps. */
  place: number;
  /** Opaque to stores. */
  payload: Uint8Array;
}

/** `waiting`: to be done, or being done; `done`: kept so that it is not added again; `dead`: given up. */
export type QueueState = "waiting" | "done" | "dead";

/** An item with what became of it. Times are milliseconds since the Unix epoch by the store's clock. */
export interface StoredItem extends QueueItem {
  state: QueueState;
  /** How often it was claimed, but for claims that were handed on. */
  started: number;
  /** How often somebody said how that ended; what is missing to `started` has crashed, or runs. */
  finished: number;
  /** Until it may be claimed (again); 0 or less: now. `null` unless `waiting`. */
  dueInMs: number | null;
  /** Why it last failed; NUL and lone surrogates are replaced. */
  error: string | null;
  ageMs: number;
  createdAt: number;
  /** Time until it is forgotten; `null`: kept. */
  expiresInMs: number | null;
}

/** The fencing token of an item's claim: every write about it carries both. */
export interface ItemToken {
  id: string;
  /** `started` of the claim. */
  started: number;
  /** The nonce of the claim: 32 lowercase hexadecimal digits. */
  owner: string;
}

export interface ItemClaim {
  kind: QueueKind;
  /** Only items of these names; 1 to 100, each once. */
  names: readonly string[];
  /** 1 to 1,000. */
  limit: number;
  /** The items are nobody else's for so long; then they are due again. */
  leaseMs: number;
  owner: string;
}

/** How a claimed item ended. */
export type ItemEnding = ItemToken &
  (
    | { kind: "done"; retentionMs: number }
    /**
     * Without an error it has not failed, but is handed on: the claim counts as none, and the error of
     * an earlier failure stays.
     */
    | { kind: "retry"; dueInMs: number; error: string | null }
    | { kind: "dead"; error: string; retentionMs: number | null }
  );

export interface ItemQuery {
  kind?: QueueKind;
  state?: QueueState;
  name?: string;
  /** Those of this record. Cost is flat in the others, except where a store has no order by id. */
  operation?: RecordId;
  /** 1 to 1,000. */
  limit: number;
  /** Where the previous page ended; its form is the store's own. */
  cursor?: string;
}

/** Newest first. `payload` is always empty in a listing. */
export interface ItemPage {
  items: StoredItem[];
  cursor?: string;
}

export interface QueueStats {
  /** Items by kind and state. */
  states: Record<QueueKind, Record<QueueState, number>>;
  /** How long the item that is due for the longest time has been due, by kind; `null`: nothing is. */
  oldestDueMs: Record<QueueKind, number | null>;
}

/**
 * Work that outlives the process that asked for it (EN-7, EN-8): a table of items that many processes
 * claim from at once. An item is claimed by at most one at a time, is due again when its claim's lease
 * lapses, and whoever lost it can say nothing about it any more. Which item is claimed next is decided
 * by its state alone, never by a position that was read before, so that late commits are not lost.
 * Cost is flat in what is done, dead or not yet due.
 */
export interface StoreQueue {
  /**
   * Keeps all of the items, or none: 1 to 1,000, all of one operation. With `attempt`, which is one of
   * that operation's record, only if the record runs this attempt, tested in the very statement that
   * writes; otherwise `stale`. Items whose id is there stay as they are.
   */
  add(
    items: readonly QueueItem[],
    options: { dueInMs: number; attempt?: AttemptToken },
  ): Promise<SettleAnswer>;
  /**
   * The items that are due, longest due first, as far as no other of the same kind and operation with
   * a lower place is `waiting`. Adds one to `started`.
   */
  claim(claim: ItemClaim): Promise<StoredItem[]>;
  /**
   * Makes claims last longer; a lapsed one that nobody took may be renewed. Up to 1,000, one answer
   * each.
   */
  renew(tokens: readonly ItemToken[], leaseMs: number): Promise<RenewAnswer[]>;
  /**
   * Writes how claims ended; adds one to `finished`, or takes one from `started` where an item is handed
   * on, and ends the claim. Up to 1,000, one answer each; of several endings of one claim the first
   * counts. What is sent again is `stale`.
   */
  finish(endings: readonly ItemEnding[]): Promise<SettleAnswer[]>;
  read(id: string): Promise<StoredItem | undefined>;
  list(query: ItemQuery): Promise<ItemPage>;
  /**
   * Has a `waiting` or `dead` item that is not claimed right now be due now, as if it had never been
   * started; `false`: it is none.
   */
  revive(id: string): Promise<boolean>;
  /** Forgets an item that is not claimed right now; `false`: it is, or is not there. */
  remove(id: string): Promise<boolean>;
  stats(): Promise<QueueStats>;
  /** Removes at most `limit` items that have expired, and returns how many. */
  sweep(limit: number): Promise<number>;
}

/**
 * Keeps records. Every method is one atomic operation against the store, judges leases and expiry
 * by the store's own clock (SM-19), treats an expired record as absent, and may be called
 * concurrently without bound. Constructors do no I/O.
 *
 * A method rejects with `StoreUnavailable` when the store cannot be asked (the outcome of a write
 * is then unknown to the caller), `StoreUnusable` when an administrator has to act, `StoreFull`
 * when nothing was written for want of room, and `RecordUnreadable` when a record is damaged or
 * from a newer version (SM-23b).
 */
export interface Store {
  /** A short name for messages, such as `"sqlite"`. */
  readonly name: string;

  /**
   * SM-1 to SM-7, in the order: expired counts as absent; another fingerprint; the state.
   *
   * - The `owner` of the running attempt is `acquired` again, with a fresh lease (SM-16).
   * - A takeover of a lapsed lease keeps the record's stored `onCrash` and adds one to `crashes`;
   *   an `open` record takes the claim's `onCrash`.
   * - A lapsed record turns `held` with the reason `lease-lapsed` under `hold`, and with
   *   `attempts-exhausted` when `crashes + 1` reaches `attemptsMax`.
   * - A tombstone without a fingerprint matches every payload.
   */
  begin(claim: Claim): Promise<BeginAnswer>;
  /** SM-8 to SM-10. State, attempt and owner are tested in the very statement that writes. */
  settle(ending: Ending): Promise<SettleAnswer>;
  /** SM-11. A lapsed lease that nobody took may be renewed. */
  renew(renewal: Renewal): Promise<RenewAnswer>;
  /** The live record, or `undefined`. */
  read(id: RecordId): Promise<StoredRecord | undefined>;
  /**
   * Removes at most `limit` expired records; never a live one. Cost is flat in the table's size.
   * @returns how many were removed
   */
  sweep(limit: number): Promise<number>;

  /** SM-12. Applies to `held` records and to lapsed ones that would become held. */
  resolve(resolution: Resolution): Promise<ResolveAnswer>;
  /** SM-13. Idempotent. */
  void(request: VoidRequest): Promise<VoidAnswer>;
  /** Forgets a record, except one that is running under a live lease. */
  delete(id: RecordId): Promise<DeleteAnswer>;
  list(query: ListQuery): Promise<ListPage>;
  stats(): Promise<StoreStats>;

  /**
   * SM-14: adds to the journal of the record that runs this attempt, tested in the very statement
   * that writes; otherwise `stale`. What is sent again after a lost reply may be kept twice.
   * Without it, handlers can have no steps (EN-6).
   */
  append?(entry: JournalEntry): Promise<SettleAnswer>;

  /**
   * Takes back an attempt that never ran: the record is `open`, and the attempt's number is the next
   * one's again, so that it counts as none. State, attempt and owner are tested in the very statement
   * that writes; the owner tells the two of one number apart. What was lapsed before the attempt stays
   * counted in `crashes`. Without it such an attempt is released, and has counted.
   */
  giveBack?(unused: UnusedAttempt): Promise<SettleAnswer>;

  /**
   * Wakes those who wait for an operation (EN-3): `wake` is called when its record may have changed,
   * perhaps too often, perhaps not at all; a lost notification only costs time. Returns its end.
   */
  subscribe?(id: RecordId, wake: () => void): () => void;
  /** Present where claim, the handler's writes and the result can be one transaction (EN-5). */
  readonly transactions?: StoreTransactions;
  /** Present where durable operations (EN-7) and effects (EN-8) can be kept. */
  readonly queue?: StoreQueue;
}

export type SqlValue = string | number | bigint | boolean | Uint8Array | Date | null;

/** Runs SQL in a transaction that somebody opened; `fromPg(client)` and its kin make one. */
export interface SqlExecutor {
  /** Whose SQL and placeholders it takes: `$1` for Postgres, `?` for the others. */
  readonly dialect: "postgres" | "mysql" | "sqlite";
  /** Whether each statement may go another way, so that no transaction holds them together. @default false */
  readonly isPooled?: boolean;
  query(sql: string, parameters: readonly SqlValue[]): Promise<SqlResult>;
}

export interface SqlResult {
  rows: readonly Record<string, unknown>[];
  /** Rows inserted, updated or deleted. */
  changes: number;
}

/**
 * A store's part in one database transaction with the handler's writes (EN-5). All of it commits or
 * none of it does, so a crash leaves nothing behind.
 */
export interface StoreTransactions<Transaction = unknown> {
  /** Of the executors that may be joined. @default any */
  readonly dialect?: SqlExecutor["dialect"];
  /** How many may run at once and leave a connection for the handlers' own queries; at least 1. */
  readonly concurrencyMax: number;
  /**
   * Opens a transaction that is as durable as the answer that it carries (ST-11a), does the work,
   * commits; rolls back when the work throws. The work sees the user's own client and an executor
   * on it. Rejects with what the work throws, or with the database's error: the outcome of a commit
   * whose connection was lost is unknown to it, and the engine reads back.
   */
  run<Answer>(
    work: (transaction: Transaction, executor: SqlExecutor) => Promise<Answer>,
  ): Promise<Answer>;
  /**
   * Whether doing it all again may help: serialisation failures, deadlocks, lost connections. Not what a
   * handler throws that lost another connection than its transaction's, for then it would be called
   * again for what only its own caller can judge.
   */
  isRetryable(error: unknown): boolean;
  /**
   * The claim and its completion in one statement, as the last of a transaction: `stale` when the
   * record is not absent, `open`, or lapsed under `rerun` with the same fingerprint. It waits for a
   * transaction under way that has the same key.
   */
  complete(
    executor: SqlExecutor,
    claim: Claim,
    result: Uint8Array,
    retentionMs: number,
  ): Promise<SettleAnswer>;
  /**
   * The same where it saves a round trip: once it answers `settled`, the transaction may have been
   * committed as well, which `run` then does not do again. It rejects as `complete` does, or as the
   * commit of `run`.
   */
  completeAndCommit?(
    executor: SqlExecutor,
    claim: Claim,
    result: Uint8Array,
    retentionMs: number,
  ): Promise<SettleAnswer>;
  /**
   * `complete` for many operations at once: for a batch of messages that is marked before it is handled
   * (MSG-1). In as few statements as the database has words for, however many they are, and waiting as
   * `complete` does. Claims come sorted by id, are of different records, and never `refuseLate`.
   *
   * @returns an answer each: `acquired` are those that are completed now
   */
  completeMany(
    executor: SqlExecutor,
    claims: readonly Claim[],
    results: readonly Uint8Array[],
    retentionMs: number,
  ): Promise<BeginAnswer[]>;
  /** Turns what `completeMany` completed in the same transaction `open`, for when it is not done after all. */
  reopen(
    executor: SqlExecutor,
    tokens: readonly AttemptToken[],
    retentionMs: number,
  ): Promise<void>;
  /** {@link Store.begin} within a transaction that the caller opened; waits as `complete` does. */
  begin(executor: SqlExecutor, claim: Claim): Promise<BeginAnswer>;
  /** {@link Store.append} within a transaction that the caller opened. */
  append?(executor: SqlExecutor, entry: JournalEntry): Promise<SettleAnswer>;
  /** {@link Store.settle} within a transaction that the caller opened. */
  settle(executor: SqlExecutor, ending: Ending): Promise<SettleAnswer>;
  /**
   * {@link StoreQueue.add} within a transaction that the caller opened: not to be claimed before it has
   * committed.
   */
  enqueue?(
    executor: SqlExecutor,
    items: readonly QueueItem[],
    options?: { dueInMs: number },
  ): Promise<void>;
}
