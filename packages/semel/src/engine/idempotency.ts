// The engine: `begin()` and the attempt it yields are the protocol, `run()` and everything else are
// written on top of it. Policy is decided here; stores and adapters translate.

import type { Clock } from "../clock.ts";
import type { Codec } from "../codec.ts";
import { Deadlines } from "../deadlines.ts";
import { type Duration, durationMs } from "../duration.ts";
import { Closed } from "../errors.ts";
import { type FingerprintSelection, fingerprinter } from "../fingerprint.ts";
import { assertKey, assertNotReserved, assertScope, OWN_SCOPE, scopeOf } from "../key.ts";
import { assertKnownOptions, assertMethods } from "../options.ts";
import { bounded, untilAborted } from "../retry.ts";
import type {
  DeleteAnswer,
  QueueStats,
  ResolveAnswer,
  SqlExecutor,
  Store,
  StoreStats,
} from "../store.ts";
import {
  Administration,
  type OperationDetails,
  type OperationName,
  type OperationRecord,
  type OperationStatus,
  type PurgeOptions,
  type RecordQuery,
  type Verdict,
  type VoidOutcome,
} from "./administration.ts";
import {
  type Admission,
  type AdmissionHost,
  Admissions,
  type OperationRequest,
} from "./admission.ts";
import { type Names, protectedStore } from "./at-rest.ts";
import type { Attempt, Operation, Settlement } from "./attempt.ts";
import { type DurableOptions, definitionOf } from "./durable/definition.ts";
import { DurableOperation } from "./durable/operation.ts";
import type { SchemaInput, SchemaOutput, StandardSchemaV1 } from "./durable/standard-schema.ts";
import { Tasks } from "./durable/tasks.ts";
import {
  createWorker,
  type Worker,
  type WorkerHost,
  type WorkerOptions,
} from "./durable/worker.ts";
import {
  createRelay,
  type Relay,
  type RelayHandlers,
  type RelayHost,
  type RelayOptions,
} from "./effects/relay.ts";
import type { StoredResult } from "./envelope.ts";
import { complete, encoded, execute, type Outcome, outcomeOf } from "./execution.ts";
import { Heartbeat } from "./heartbeat.ts";
import { createInbox, type Inbox, type InboxOptions } from "./inbox/inbox.ts";
import type { MarkedWork } from "./marking.ts";
import { nonce } from "./nonce.ts";
import { tryMsOf } from "./persist.ts";
import { type OperationOptions, type Policy, policyOf } from "./policy.ts";
import { Contents } from "./queue/contents.ts";
import { Ledger } from "./queue/ledger.ts";
import { Nudges } from "./queue/nudges.ts";
import type { Poller } from "./queue/poller.ts";
import { ResultCache } from "./result-cache.ts";
import { assertRunRequest, firstSent, type RunRequest } from "./run-request.ts";
import { type IdempotencyOptions, settingsOf } from "./settings.ts";
import { Sweeper } from "./sweeper.ts";
import {
  type Performed,
  type TransactionHandler,
  Transactions,
  type TransactionWork,
} from "./transactions.ts";

export type { RunRequest } from "./run-request.ts";
export type { IdempotencyOptions } from "./settings.ts";

/** In a transaction, running again after a crash is safe: the crash left nothing behind (SM-24). */
const RERUN: OperationOptions = { onCrash: "rerun" };

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
  /** Durable operations that wait, or were given up. */
  readonly operations: Ledger;
  /** Recorded effects: those that wait, were delivered, or were given up. */
  readonly effects: Ledger;
  /** The name of the store, such as `"postgres"`. */
  readonly storeName: string;
  readonly #store: Store;
  readonly #administration: Administration;
  readonly #names: Names;
  readonly #policy: Policy;
  /** The same in transactions. */
  readonly #rerunPolicy: Policy;
  readonly #codec: Codec;
  readonly #encode = (value: unknown): StoredResult => encoded(this.#codec, value);
  /** The result of what makes no value, once it was needed. */
  #nothing: StoredResult | undefined;
  readonly #clock: Clock;
  readonly #admissions: Admissions;
  readonly #heartbeat: Heartbeat;
  readonly #sweeper: Sweeper;
  readonly #transactions: Transactions;
  readonly #pollers = new Set<Poller>();
  readonly #durableRetentions = new Map<string, number>();
  readonly #durable: WorkerHost & RelayHost;

  constructor(options: IdempotencyOptions<Transaction>) {
    const settings = settingsOf(options);
    const { clock, random, names, codec, policy, maxResultBytes } = settings;
    const store = protectedStore(options.store, settings.cipher, names);
    const cache = new ResultCache(settings.cache);
    const sweeper = new Sweeper(store, clock, random, settings.sweep);
    this.#store = store;
    this.#names = names;
    this.#policy = policy;
    this.#rerunPolicy = policyOf(RERUN, policy);
    this.#codec = codec;
    this.#clock = clock;
    this.#sweeper = sweeper;
    this.#heartbeat = new Heartbeat(clock);
    this.maxResultBytes = maxResultBytes;
    this.storeName = store.name;
    const { storeTimeoutMs, completionRetryMs } = settings;
    const host: AdmissionHost = {
      store,
      clock,
      random,
      cache,
      heartbeat: this.#heartbeat,
      nonce,
      maxResultBytes,
      codec,
      contents: new Contents(settings.cipher, names),
      nudges: new Nudges(),
      read: (id) => this.#admissions.read(id),
      inTransaction: (work) => this.#transactions.plain(work),
      storeTimeoutMs,
      questions: new Deadlines(clock, storeTimeoutMs),
      completionRetryMs,
      writes: new Deadlines(clock, tryMsOf(completionRetryMs)),
      superseded: (attempt) => this.#admissions.superseded(attempt),
      ended: (...end) => this.#admissions.ended(...end),
    };
    this.#admissions = new Admissions(host);
    const tasks = new Tasks(host);
    this.#administration = new Administration({
      ...{ store, names, cache, sweeper, codec, policy, maxResultBytes, tasks },
      durableRetentions: this.#durableRetentions,
    });
    this.#durable = {
      ...host,
      tasks,
      pollers: this.#pollers,
      request: (asked) => this.request(asked),
      begin: (request) => this.begin(request),
      view: (record, request) => this.#admissions.view(record, request),
    };
    this.operations = new Ledger(host, "task");
    this.effects = new Ledger(host, "effect");
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
   * `KeyExpired`, `ResultNotStored`, `NotSerializable`, `StoreUnavailable`, `InvalidOption`,
   * `ScopeMissing` for a `scope` that is there and undefined, …
   */
  run<Value, Payload = unknown>(
    request: RunRequest<Payload, Value>,
    handler: (operation: Operation) => Value | Promise<Value>,
  ): Promise<Outcome<Value>> {
    // Not itself `async`, which would have the caller wait for a promise of a promise.
    try {
      const work = this.#run(this.#requested(request, "run()", handler), handler);
      return request.signal ? untilAborted(work, request.signal) : work;
    } catch (error) {
      return Promise.reject(error);
    }
  }

  async #run<Value>(
    request: OperationRequest,
    handler: (operation: Operation) => Value | Promise<Value>,
  ): Promise<Outcome<Value>> {
    const admission = await this.begin(request);
    if (admission.kind === "run" && request.signal?.aborted) {
      // Nothing ran yet, so giving the claim back is a proof, not a guess.
      await admission.attempt.giveBack();
      throw request.signal.reason;
    }
    return await this.answer(request, admission, handler);
  }

  /** Answers a request that was admitted: with what the handler makes, or with what stands already. @internal */
  answer<Value>(
    request: OperationRequest,
    admission: Admission,
    handler: (operation: Operation) => Value | Promise<Value>,
  ): Outcome<Value> | Promise<Outcome<Value>> {
    if (admission.kind !== "run") return outcomeOf<Value>(admission, this.#codec);
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
      this.#requestedInTransaction(request, "transaction()", handler),
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
    const asked = this.#requestedInTransaction(request, "within()", handler);
    return this.#transactions.within(executor, asked, handler);
  }

  /**
   * Handles each message of a consumer once, however often its broker delivers it (MSG-1).
   *
   * @param consumer names who consumes: two consumers of one message each handle it
   * @throws {InvalidOption} when an option is unknown or out of bounds
   * @example
   * const inbox = idempotency.inbox("billing");
   * await inbox.process({ id: message.id, payload }, () => bill(payload));
   */
  inbox(consumer: string, options?: InboxOptions): Inbox<Transaction> {
    return createInbox(this, consumer, options);
  }

  /**
   * Defines a durable operation (EN-7): once it is asked for it is done, by whichever process, through
   * crashes and failures, in at most `retry.attemptsMax` attempts. Define it in the processes that ask
   * for it and in those that work.
   *
   * @param name by which a worker finds its handler, 1 to 255 characters
   * @param options its handler, and a schema of its input: any validator of Standard Schema
   * @throws {InvalidOption} when an option is unknown or out of bounds, or the store keeps no queue
   * @example
   * const ride = idempotency.operation("ride", {
   *   input: z.object({ from: z.string(), to: z.string() }),
   *   handler: async (input, { step, effect }) => {
   *     const charge = await step("charge", ({ idempotencyKey }) => pay(input, idempotencyKey));
   *     await effect("receipt", { charge: charge.id });
   *     return { charged: charge.amount };
   *   },
   * });
   * await ride.start({ key: request.id, input: { from: "A", to: "B" } });
   */
  operation<Schema extends StandardSchemaV1, Value>(
    name: string,
    options: DurableOptions<SchemaOutput<Schema>, Value> & {
      input: Schema;
      /** Which parts of the input count. @default all */
      fingerprint?: FingerprintSelection<SchemaInput<Schema>>;
    },
  ): DurableOperation<SchemaInput<Schema>, Value>;
  operation<Input, Value>(
    name: string,
    options: DurableOptions<Input, Value> & {
      input?: undefined;
      fingerprint?: FingerprintSelection<Input>;
    },
  ): DurableOperation<Input, Value>;
  // biome-ignore lint/suspicious/noExplicitAny: as the signatures above say
  operation(name: string, options: object): DurableOperation<any, any> {
    const definition = definitionOf(name, options, this.#policy);
    this.#durableRetentions.set(name, definition.policy.retentionMs);
    return new DurableOperation(this.#durable, definition);
  }

  /**
   * Does durable operations that wait, until it is closed. It keeps its process alive.
   *
   * @throws {InvalidOption}; {@link Closed}
   * @example const worker = idempotency.worker({ operations: [ride], concurrency: 20 });
   */
  worker(options: WorkerOptions): Worker {
    this.#assertOpen();
    this.#sweeper.start();
    return createWorker(this.#durable, options);
  }

  /**
   * Delivers the effects of these names (EN-8), until it is closed: each at least once, those of one
   * operation one after the other. It keeps its process alive.
   *
   * @param handlers by the names of effects; the others are left for other relays
   * @throws {InvalidOption}; {@link Closed}
   * @example
   * const relay = idempotency.relay({
   *   receipt: ({ id, payload }) => mailer.send(payload, { messageId: id }),
   * });
   */
  relay(handlers: RelayHandlers, options?: RelayOptions): Relay {
    this.#assertOpen();
    this.#sweeper.start();
    return createRelay(this.#durable, handlers, options);
  }

  #assertOpen(): void {
    if (this.#admissions.isClosed) throw new Closed();
  }

  /** {@link transaction} for adapters, which say themselves what is kept. @internal */
  transact<Value>(
    request: OperationRequest,
    work: TransactionWork<Transaction, Value>,
  ): Promise<Performed<Value>> {
    this.#sweeper.start();
    return this.#transactions.perform(request, work);
  }

  /** Does work in a transaction without a record. @internal */
  inTransaction<Value>(
    work: (transaction: Transaction, executor: SqlExecutor) => Promise<Value>,
  ): Promise<Value> {
    return this.#transactions.apart(work);
  }

  /** {@link within} for many operations of one scope and policy, whose values are not kept. @internal */
  async markTogether(
    executor: SqlExecutor,
    scope: string,
    options: OperationOptions,
    operations: readonly { key: string; fingerprint: string }[],
    work: MarkedWork,
  ): Promise<void> {
    this.#sweeper.start();
    assertMethods(executor, "executor", ["query"]);
    const policy = this.policy({ ...options, ...RERUN });
    const requests = operations.map(({ key, fingerprint }) =>
      this.request({ key, scope, policy, fingerprint }),
    );
    await this.#transactions.markTogether(executor, requests, work);
  }

  /** Whether the database asks for a transaction to be tried again. @internal */
  isRetryable(error: unknown): boolean {
    return this.#transactions.of().isRetryable(error);
  }

  /** @throws {InvalidOption} when the store has no transactions. @internal */
  assertTransactional(): void {
    this.#transactions.of();
  }

  /** Checks what a caller asks for. */
  #requested<Payload, Value>(
    request: RunRequest<Payload, Value>,
    where: string,
    handler: unknown,
    base = this.#policy,
  ): OperationRequest {
    assertRunRequest(request, where, handler);
    const { key, payload, signal, firstSentAt } = request;
    const scope = scopeOf(request);
    if (!(OWN_SCOPE in request)) assertNotReserved(scope);
    const policy = policyOf(request, base);
    const fingerprint = fingerprinter(request.fingerprint)(payload);
    return this.request({ key, scope, fingerprint, policy, firstSentAt, signal });
  }

  /** {@link #requested}, whatever it says of crashes. */
  #requestedInTransaction<Payload, Value>(
    request: RunRequest<Payload, Value>,
    where: string,
    handler: unknown,
  ): OperationRequest {
    const asked = request?.onCrash === undefined ? request : { ...request, ...RERUN };
    return this.#requested(asked, where, handler, this.#rerunPolicy);
  }

  /** Checks and completes what an adapter says about a request. @internal */
  request(asked: {
    key: string;
    scope: string;
    handlerScope?: string;
    fingerprint: string;
    policy?: Policy;
    resultKind?: OperationRequest["resultKind"];
    encode?: OperationRequest["encode"];
    firstSentAt?: Date | number | undefined;
    signal?: AbortSignal | undefined;
  }): OperationRequest {
    const { key, scope, fingerprint, policy = this.#policy, signal } = asked;
    const { resultKind = "value", encode = this.#encode } = asked;
    assertKey(key);
    assertScope(scope);
    const sentAt = policy.lateAfterMs === undefined ? undefined : firstSent(key, asked.firstSentAt);
    return {
      id: this.#names.id(scope, key),
      key,
      scope,
      handlerScope: asked.handlerScope,
      fingerprint: this.#names.fingerprint(fingerprint),
      policy,
      resultKind,
      encode,
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
  begin(request: OperationRequest): Promise<Admission> {
    this.#sweeper.start();
    return this.#admissions.admit(request);
  }

  /** {@link begin} for many requests, as {@link Admissions.admitTogether}. @internal */
  beginTogether(requests: readonly OperationRequest[]): Promise<PromiseSettledResult<Admission>[]> {
    this.#sweeper.start();
    return this.#admissions.admitTogether(requests);
  }

  /** {@link answer} for an attempt whose work was done with that of others, and made no value. @internal */
  complete(request: OperationRequest, attempt: Attempt): Promise<Outcome<unknown>> {
    const successor = (settlement: Settlement) => this.successor(settlement, request);
    try {
      this.#nothing ??= encoded(this.#codec, undefined);
    } catch {
      // It is held, as whatever cannot be stored is.
      return execute(attempt, () => undefined, this.#codec, successor);
    }
    return complete(attempt, undefined, this.#nothing, this.#codec, successor);
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
   * The record of an operation with its value and its steps, or `undefined`.
   *
   * @example const record = await idempotency.get({ key: "order-42", scope: tenantId });
   */
  get(name: OperationName): Promise<OperationDetails | undefined> {
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
   * @throws {InvalidOption} for a result that callers of the operation could not be given: a value for
   * a request over HTTP, or a response for anything else
   * @example await idempotency.resolve({ key: "order-42" }, { outcome: "not-applied" });
   */
  resolve(name: OperationName, verdict: Verdict): Promise<ResolveAnswer> {
    return this.#administration.resolve(name, verdict);
  }

  /**
   * Makes sure that an operation never runs, and that no attempt that had begun completes; refused
   * while it runs or once it completed (SM-13).
   *
   * @returns a receipt: as long as its tombstone stands, it is proof
   */
  void(name: OperationName): Promise<VoidOutcome> {
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

  /**
   * Numbers of durable operations (`task`) and effects by state, and how long the one has been due that
   * is due for the longest time; `undefined` where the store keeps no queue.
   */
  async queueStats(): Promise<QueueStats | undefined> {
    return this.#store.queue?.stats();
  }

  /** Removes every expired record now, in paced batches. @returns how many were removed */
  purge(options: PurgeOptions = {}): Promise<number> {
    return this.#administration.purge(options);
  }

  /**
   * Stops letting operations begin and waits for those that run. What still runs at the deadline
   * goes on, but its lease is left to lapse: nothing is released that cannot be proved. Workers and
   * relays are closed as well.
   *
   * @param options.deadline how long to wait. @default "10s"
   * @returns how many operations were still running
   */
  async close(options: { deadline?: Duration } = {}): Promise<number> {
    assertKnownOptions(options, ["deadline"], "close()");
    const deadlineMs = durationMs(options.deadline ?? "10s", "deadline");
    this.#sweeper.stop();
    this.#admissions.close();
    const closing = [...this.#pollers].map((poller) => poller.close(deadlineMs));
    await bounded(
      this.#clock,
      this.#admissions.idle(),
      deadlineMs,
      () => new Error("deadline"),
    ).catch(() => this.#heartbeat.stop());
    await Promise.all(closing);
    return this.#admissions.running;
  }
}
