// The engine: `begin()` and the attempt it yields are the protocol, `run()` and everything else are
// written on top of it. Policy is decided here; stores and adapters translate.

import { randomFillSync } from "node:crypto";
import { type Clock, systemClock } from "../clock.ts";
import { type Codec, isolated, jsonCodec } from "../codec.ts";
import { type Duration, durationMs } from "../duration.ts";
import { InvalidOption } from "../errors.ts";
import { type FingerprintSelection, fingerprinter } from "../fingerprint.ts";
import { assertKey, assertScope } from "../key.ts";
import { assertInteger, assertKnownOptions, assertMethods } from "../options.ts";
import { bounded } from "../retry.ts";
import type {
  DeleteAnswer,
  ResolveAnswer,
  SqlExecutor,
  Store,
  StoreStats,
  StoreTransactions,
  VoidAnswer,
} from "../store.ts";
import {
  Administration,
  type OperationName,
  type OperationRecord,
  type OperationStatus,
  type PurgeOptions,
  type RecordQuery,
  type Verdict,
} from "./administration.ts";
import {
  type Admission,
  type AdmissionHost,
  Admissions,
  type OperationRequest,
} from "./admission.ts";
import { type EncryptionOptions, Names, protectedStore } from "./at-rest.ts";
import type { Operation, Settlement } from "./attempt.ts";
import type { StoredResult } from "./envelope.ts";
import { encoded, execute, type Outcome, outcomeOf, refusal, settleByProbe } from "./execution.ts";
import { Heartbeat } from "./heartbeat.ts";
import { OPERATION_OPTIONS, type OperationOptions, type Policy, policyOf } from "./policy.ts";
import { ResultCache } from "./result-cache.ts";
import { Sweeper } from "./sweeper.ts";
import { type TransactionHandler, Transactions } from "./transactions.ts";

export interface IdempotencyOptions<Transaction = unknown> extends OperationOptions {
  /** Where records are kept. */
  store: Store & { readonly transactions?: StoreTransactions<Transaction> };
  /**
   * Finished results kept in this process, so that repeated replays need no store. What an
   * administrator removes elsewhere may be seen for `lifetime` more. `false` switches it off.
   * @default { entries: 1000, bytes: 8 MiB, lifetime: "60s" }
   */
  cache?: false | { entries?: number; bytes?: number; lifetime?: Duration };
  /** Larger results are not kept: duplicates get `result-not-stored` (ST-10). @default 1 MiB */
  maxResultBytes?: number;
  /** How long the store may take to answer before an operation begins. @default "2s" */
  storeTimeout?: Duration;
  /** How long the write that ends an attempt is retried. @default "5s" */
  completionRetry?: Duration;
  /** Collection of expired records; `false` leaves it to other processes. @default every 60 s, 1,000 a batch */
  sweep?: false | { every?: Duration; batch?: number };
  /** How values become bytes. @default JSON with `Date`, `bigint`, `Uint8Array`, `Map`, `Set`, `undefined` */
  codec?: Codec;
  /** Encrypts results at rest (ST-11). @default off */
  encryption?: EncryptionOptions;
  /**
   * A secret of at least 16 bytes, under which scopes, keys and fingerprints are stored as keyed
   * hashes (ST-11). It must stay the same: with another one, no record is found. @default off
   */
  hashKeys?: Uint8Array;
  /** Time and timers, for tests. */
  clock?: Clock;
  /** Chance, for tests: a number from 0 up to 1, as `Math.random` gives. */
  random?: () => number;
}

/** A request to run an operation once. */
export interface RunRequest<Payload = unknown, Value = unknown> extends OperationOptions<Value> {
  /** The caller's name for the operation: 1 to 255 printable ASCII characters. */
  key: string;
  /** Who the key belongs to; two scopes never see each other's records. @default "" */
  scope?: string;
  /** What the key stands for: the same key with another payload is refused. */
  payload?: Payload;
  /** Which parts of the payload count. @default all */
  fingerprint?: FingerprintSelection<Payload>;
  /** When the request was first sent, for `refuseLate`. @default the time in a UUIDv7 key */
  firstSentAt?: Date | number;
  /** Ends the caller's wait; an attempt that has begun goes on to its end (SM-23). */
  signal?: AbortSignal;
}

const OPTIONS = [
  ...OPERATION_OPTIONS,
  "store",
  "cache",
  "maxResultBytes",
  "storeTimeout",
  "completionRetry",
  "sweep",
  "codec",
  "encryption",
  "hashKeys",
  "clock",
  "random",
];
const RUN_OPTIONS = [
  ...OPERATION_OPTIONS,
  "key",
  "scope",
  "payload",
  "fingerprint",
  "firstSentAt",
  "signal",
];
const STORE_METHODS = [
  "begin",
  "settle",
  "renew",
  "read",
  "sweep",
  "resolve",
  "void",
  "delete",
  "list",
  "stats",
];
/** In a transaction, running again after a crash is safe: the crash left nothing behind (SM-24). */
const RERUN: OperationOptions = { onCrash: "rerun" };
const SIGNAL_METHODS = ["addEventListener", "removeEventListener", "throwIfAborted"];
const UUID_V7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/i;

/**
 * Runs operations once. One instance serves a whole process; it does no I/O until first used.
 *
 * @throws {InvalidOption} from the constructor, for an option that is unknown or out of bounds
 * @example
 * const idempotency = new Idempotency({ store: memoryStore(), retention: "24h", lease: "30s" });
 * const outcome = await idempotency.run(
 *   { key: "order-42", scope: tenantId, payload: order },
 *   async (operation) => charge(order, { signal: operation.signal }),
 * );
 */
export class Idempotency<Transaction = unknown> {
  /** The bound above which results are not kept, in bytes. */
  readonly maxResultBytes: number;
  readonly #administration: Administration;
  readonly #names: Names;
  readonly #policy: Policy;
  readonly #codec: Codec;
  readonly #clock: Clock;
  readonly #admissions: Admissions;
  readonly #heartbeat: Heartbeat;
  readonly #sweeper: Sweeper;
  readonly #transactions: Transactions;

  constructor(options: IdempotencyOptions<Transaction>) {
    assertKnownOptions(options, OPTIONS, "new Idempotency()");
    assertStore(options.store);
    const { clock = systemClock, random = Math.random } = options;
    const names = new Names(options.hashKeys);
    const store = protectedStore(options.store, options.encryption, names);
    this.#names = names;
    assertMethods(clock, "clock", ["now", "schedule"]);
    assertMethods({ random }, "random", ["random"]);
    assertMethods(options.codec ?? jsonCodec, "codec", ["encode", "decode"]);
    const codec = isolated(options.codec ?? jsonCodec);
    const cache = new ResultCache(cacheBounds(options.cache));
    const sweeper = new Sweeper(store, clock, random, sweeperSettings(options.sweep));
    const policy = policyOf(options);
    this.#administration = new Administration({ store, names, cache, sweeper, codec, policy });
    this.#policy = policy;
    this.#codec = codec;
    this.#clock = clock;
    this.#sweeper = sweeper;
    this.#heartbeat = new Heartbeat(clock);
    const maxResultBytes = options.maxResultBytes ?? 2 ** 20;
    assertInteger(maxResultBytes, "maxResultBytes", 0, 2 ** 30);
    this.maxResultBytes = maxResultBytes;
    const host: AdmissionHost = {
      store,
      clock,
      random,
      cache,
      heartbeat: this.#heartbeat,
      nonce,
      maxResultBytes,
      storeTimeoutMs: durationMs(options.storeTimeout ?? "2s", "storeTimeout", { minMs: 1 }),
      completionRetryMs: durationMs(options.completionRetry ?? "5s", "completionRetry"),
      superseded: (attempt) => this.#admissions.superseded(attempt),
      ended: (...end) => this.#admissions.ended(...end),
    };
    this.#admissions = new Admissions(host);
    this.#transactions = new Transactions(host, this.#admissions, codec);
  }

  /**
   * Runs a handler once for a key, and answers every duplicate with the same value.
   *
   * @param request key, scope, payload and options of the operation
   * @param handler does the work; its value must be one that the codec can store
   * @returns the value, whether it was replayed, and the number of the attempt that made it
   * @throws what the handler throws, on its own attempt; otherwise a {@link SemelError} whose
   * `retry` says what to do: `OperationBusy`, `KeyReused`, `OperationHeld`, `OperationVoid`,
   * `KeyExpired`, `ResultNotStored`, `NotSerializable`, `StoreUnavailable`, `InvalidOption`, …
   */
  async run<Value, Payload = unknown>(
    request: RunRequest<Payload, Value>,
    handler: (operation: Operation) => Value | Promise<Value>,
  ): Promise<Outcome<Value>> {
    const { signal } = request;
    const work = this.#run(this.#requested(request, "run()", handler), handler);
    return signal ? untilAborted(work, signal) : work;
  }

  async #run<Value>(
    request: OperationRequest,
    handler: (operation: Operation) => Value | Promise<Value>,
  ): Promise<Outcome<Value>> {
    const admission = await this.begin(request);
    if (admission.kind !== "run") return outcomeOf<Value>(admission, this.#codec);
    if (request.signal?.aborted) {
      // Nothing ran yet, so giving the claim back is a proof, not a guess.
      await admission.attempt.settle({ kind: "release" });
      throw request.signal.reason;
    }
    return execute(admission.attempt, handler, this.#codec, (settlement) =>
      this.successor(settlement, request),
    );
  }

  /**
   * Runs a handler once, with claim, its writes and its result in one database transaction: a crash
   * at any point leaves nothing behind, and the next duplicate runs it (EN-5). Serialisation
   * failures and deadlocks are retried, so the handler may be called again; its only effects must
   * be in the transaction. Two processes may race to the commit, and one of them rolls back.
   *
   * @param handler is given the store's own transaction: a `pg` client, a `mysql2` connection, …
   * @throws what the handler throws, after the rollback; `InvalidOption` when the store has no
   * transactions; otherwise as {@link run}
   * @example
   * await idempotency.transaction({ key, scope, payload: order }, async (client) => {
   *   await client.query("INSERT INTO orders (sku) VALUES ($1)", [order.sku]);
   *   return { accepted: true };
   * });
   */
  async transaction<Value, Payload = unknown>(
    request: RunRequest<Payload, Value>,
    handler: TransactionHandler<Transaction, Value>,
  ): Promise<Outcome<Value>> {
    this.#sweeper.start();
    const { signal } = request;
    const work = this.#transactions.run(
      this.#requested(request, "transaction()", handler, RERUN),
      handler,
    );
    return signal ? untilAborted(work, signal) : work;
  }

  /**
   * Joins a transaction that the caller has opened. What it returns is true when that transaction
   * commits; when it throws, roll back.
   *
   * @param executor the transaction: `fromPg(client)`, `fromKysely(trx)`, … of `semel/sql`
   * @throws as {@link transaction}; `AttemptSuperseded` when another transaction was faster
   */
  async within<Value, Payload = unknown>(
    executor: SqlExecutor,
    request: RunRequest<Payload, Value>,
    handler: (operation: Operation) => Value | Promise<Value>,
  ): Promise<Outcome<Value>> {
    this.#sweeper.start();
    assertMethods(executor, "executor", ["query"]);
    const asked = this.#requested(request, "within()", handler, RERUN);
    return this.#transactions.within(executor, asked, handler);
  }

  /** Checks what a caller asks for. */
  #requested<Payload, Value>(
    request: RunRequest<Payload, Value>,
    where: string,
    handler: unknown,
    forced: OperationOptions = {},
  ): OperationRequest {
    assertKnownOptions(request, RUN_OPTIONS, where);
    if (typeof handler !== "function") throw new InvalidOption(`${where} takes a handler function`);
    const { key, scope = "", payload, signal, firstSentAt } = request;
    if (signal !== undefined) assertMethods(signal, "signal", SIGNAL_METHODS);
    const policy = policyOf({ ...request, ...forced }, this.#policy);
    const fingerprint = fingerprinter(request.fingerprint)(payload);
    return this.request({ key, scope, fingerprint, policy, firstSentAt, signal });
  }

  /** Checks and completes what an adapter says about a request. @internal */
  request(asked: {
    key: string;
    scope: string;
    fingerprint: string;
    policy?: Policy;
    resultKind?: OperationRequest["resultKind"];
    firstSentAt?: Date | number | undefined;
    signal?: AbortSignal | undefined;
  }): OperationRequest {
    const { key, scope, fingerprint, policy = this.#policy, resultKind = "value", signal } = asked;
    assertKey(key);
    assertScope(scope);
    const sentAt = policy.lateAfterMs === undefined ? undefined : firstSent(key, asked.firstSentAt);
    return {
      id: this.#names.id(scope, key),
      key,
      scope,
      fingerprint: this.#names.fingerprint(fingerprint),
      policy,
      resultKind,
      sentAt,
      signal,
    };
  }

  /** Options of a route or a consumer over this instance's own. @internal */
  policy(options: OperationOptions): Policy {
    return policyOf(options, this.#policy);
  }

  /**
   * The protocol, for adapters that cannot be written as a function: admits a request, and when it
   * is to run yields the attempt, which must be settled exactly once.
   *
   * @throws {StoreUnavailable} and its kin when the store cannot be asked; nothing runs then
   */
  async begin(
    request: OperationRequest,
    encode: (value: unknown) => StoredResult = (value) => encoded(this.#codec, value),
  ): Promise<Admission> {
    this.#sweeper.start();
    const admission = await this.#admissions.admit(request);
    if (admission.kind !== "run" || !admission.probe) return admission;
    const settled = await settleByProbe(admission.attempt, encode);
    if (settled.kind !== "superseded") return settled as Admission;
    const successor = await this.successor(settled, request);
    if (successor === undefined) throw refusal(admission);
    return successor;
  }

  /**
   * What stands instead of an attempt that was superseded: its successor's outcome, waited for a
   * bounded time. It never runs anything; `undefined` when there is nothing to answer with.
   * @internal
   */
  successor(settlement: Settlement, request: OperationRequest): Promise<Admission | undefined> {
    const record = settlement.kind === "superseded" ? settlement.record : undefined;
    return this.#admissions.follow(record, request);
  }

  /**
   * The record of an operation with its value, or `undefined`.
   *
   * @example const record = await idempotency.get({ key: "order-42", scope: tenantId });
   */
  get(name: OperationName): Promise<(OperationRecord & { value?: unknown }) | undefined> {
    return this.#administration.get(name);
  }

  /** A view that is safe to show to the caller; runs nothing. */
  status(name: OperationName): Promise<OperationStatus> {
    return this.#administration.status(name);
  }

  /** Records, newest first, a page at a time. */
  list(query: RecordQuery = {}): Promise<{ records: OperationRecord[]; cursor?: string }> {
    return this.#administration.list(query);
  }

  /**
   * Ends a hold with what a person found out (SM-12).
   *
   * @example await idempotency.resolve({ key: "order-42" }, { outcome: "not-applied" });
   */
  resolve(name: OperationName, verdict: Verdict): Promise<ResolveAnswer> {
    return this.#administration.resolve(name, verdict);
  }

  /** Makes sure that an operation never runs; refused while it runs or once it completed (SM-13). */
  void(name: OperationName): Promise<VoidAnswer> {
    return this.#administration.void(name);
  }

  /**
   * Forgets a record: its key may then run again. Refused while it runs under a live lease. Other
   * processes may replay a deleted result for their cache's lifetime.
   */
  delete(name: OperationName): Promise<DeleteAnswer> {
    return this.#administration.delete(name);
  }

  /** Numbers of records by state, the age of the oldest hold, and the size of the store. */
  stats(): Promise<StoreStats> {
    return this.#administration.stats();
  }

  /** Removes every expired record now, in paced batches. @returns how many were removed */
  purge(options: PurgeOptions = {}): Promise<number> {
    return this.#administration.purge(options);
  }

  /**
   * Stops letting operations begin and waits for those that run. What still runs at the deadline
   * goes on, but its lease is left to lapse: nothing is released that cannot be proved.
   *
   * @param options.deadline how long to wait. @default "10s"
   * @returns how many operations were still running
   */
  async close(options: { deadline?: Duration } = {}): Promise<number> {
    assertKnownOptions(options, ["deadline"], "close()");
    const deadlineMs = durationMs(options.deadline ?? "10s", "deadline");
    this.#sweeper.stop();
    this.#admissions.close();
    await bounded(
      this.#clock,
      this.#admissions.idle(),
      deadlineMs,
      () => new Error("deadline"),
    ).catch(() => this.#heartbeat.stop());
    return this.#admissions.running;
  }
}

function assertStore(store: unknown): asserts store is Store {
  const methods = store as Record<string, unknown> | null | undefined;
  const missing = STORE_METHODS.filter((name) => typeof methods?.[name] !== "function");
  if (missing.length === 0) return;
  throw new InvalidOption(
    `\`store\` must be a store, such as memoryStore() or sqliteStore(database); it lacks ${missing.join(", ")}`,
  );
}

function cacheBounds(cache: IdempotencyOptions["cache"]) {
  if (cache === false) return { entriesMax: 0, bytesMax: 0, lifetimeMs: 0 };
  const { entries = 1_000, bytes = 8 * 2 ** 20, lifetime = "60s" } = cache ?? {};
  if (cache) assertKnownOptions(cache, ["entries", "bytes", "lifetime"], "`cache`");
  assertInteger(entries, "cache.entries", 0, 2 ** 24);
  assertInteger(bytes, "cache.bytes", 0, 2 ** 32);
  const lifetimeMs = durationMs(lifetime, "cache.lifetime");
  return { entriesMax: entries, bytesMax: bytes, lifetimeMs };
}

function sweeperSettings(sweep: IdempotencyOptions["sweep"]) {
  if (sweep === false) return undefined;
  const { every = "60s", batch = 1_000 } = sweep ?? {};
  if (sweep) assertKnownOptions(sweep, ["every", "batch"], "`sweep`");
  assertInteger(batch, "sweep.batch", 1, 100_000);
  return { everyMs: durationMs(every, "sweep.every", { minMs: 10 }), batch };
}

/** When a request was first sent: what it says, or the time in a UUIDv7 (RFC 9562 §5.7). */
function firstSent(key: string, said: Date | number | undefined): number | undefined {
  if (said === undefined) {
    return UUID_V7.test(key) ? Number.parseInt(key.slice(0, 8) + key.slice(9, 13), 16) : undefined;
  }
  const sentAt = said instanceof Date ? said.getTime() : said;
  if (Number.isFinite(sentAt)) return sentAt;
  throw new InvalidOption("`firstSentAt` must be a Date, or milliseconds since the Unix epoch");
}

function untilAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = () => reject(signal.reason);
    if (signal.aborted) onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}

// Drawn in blocks: asking the system for 16 bytes at a time costs more than the hashing.
const NONCE_BYTES = 16;
const entropy = Buffer.alloc(256 * NONCE_BYTES);
let used = entropy.length;

/** 16 random bytes in hexadecimal. */
function nonce(): string {
  if (used === entropy.length) {
    randomFillSync(entropy);
    used = 0;
  }
  used += NONCE_BYTES;
  return entropy.toString("hex", used - NONCE_BYTES, used);
}
