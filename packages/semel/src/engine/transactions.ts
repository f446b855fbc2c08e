// Claim, the handler's writes and the result in one database transaction (EN-5): all of it commits, or
// none of it does. Whatever goes wrong, doing it all again is safe, because the unique key of the
// record decides which transaction commits.

import { AsyncLocalStorage } from "node:async_hooks";
import type { Codec } from "../codec.ts";
import {
  AttemptSuperseded,
  InvalidOption,
  isSemelError,
  NotSerializable,
  OperationHeld,
  StoreUnavailable,
} from "../errors.ts";
import { isObserved, publish, type SemelEvent } from "../events.ts";
import { isComparable } from "../fingerprint.ts";
import { backoffMs, breather } from "../retry.ts";
import type {
  BeginAnswer,
  Claim,
  SettleAnswer,
  SqlExecutor,
  StoredRecord,
  StoreTransactions,
} from "../store.ts";
import {
  type Admission,
  type AdmissionHost,
  type Admissions,
  isOfAnotherOperation,
  type OperationRequest,
} from "./admission.ts";
import { Attempt, type Operation } from "./attempt.ts";
import { open, type StoredResult, seal } from "./envelope.ts";
import { encoded, failureResult, type Outcome, outcomeOf } from "./execution.ts";
import { LookUps } from "./look-ups.ts";
import { type MarkedWork, markTogether } from "./marking.ts";
import { OperationInTransaction } from "./operation-in-transaction.ts";
import { hasCode } from "./persist.ts";
import { Slots } from "./slots.ts";

/** A handler whose writes on the transaction commit together with its result. */
export type TransactionHandler<Transaction, Value> = (
  transaction: Transaction,
  operation: Operation,
) => Value | Promise<Value>;

/** What a handler returned, and what is kept of it. */
export interface Made<Value> {
  value: Value;
  result: StoredResult;
}

/** A handler together with what is kept of what it does. */
export interface TransactionWork<Transaction, Value> {
  /** Called again when the database asks for it. */
  make(transaction: Transaction, operation: Operation): Promise<Made<Value>>;
  /** What is kept of an error that `make` threw, after everything was rolled back. */
  failure(error: unknown): StoredResult | undefined;
}

/** What a request came to: committed here, or answered without running. */
export type Performed<Value> =
  | { kind: "made"; value: Value; attempt: number }
  | Exclude<Admission, { kind: "run" }>;

/** What one transaction came to. */
type Try<Value> =
  | { kind: "committed"; made: Made<Value>; operation: OperationInTransaction }
  /** Something else stands under this key now: everything here was rolled back. */
  | { kind: "stale" }
  | { kind: "late" }
  /** The handler threw: everything was rolled back. */
  | { kind: "failed"; error: unknown }
  /** The database failed. `made`: during the commit, so that nobody knows whether it happened. */
  | { kind: "broken"; error: unknown; made: Commit<Value> | undefined };

/** What a transaction was to commit. */
interface Commit<Value> {
  readonly made: Made<Value>;
  readonly operation: OperationInTransaction;
}

/** One execution of a request in this process, over however many transactions it takes. */
interface Execution<Transaction, Value> {
  readonly transactions: StoreTransactions<Transaction>;
  readonly request: OperationRequest;
  readonly work: TransactionWork<Transaction, Value>;
  readonly attempt: Attempt;
  readonly claim: Claim;
}

/** How an attempt ended, for whoever listens. */
type HowEnded = Pick<Extract<SemelEvent, { type: "settled" }>, "ending" | "outcome">;

const COMMITTED: HowEnded = { ending: "complete", outcome: "settled" };
const ROLLED_BACK: HowEnded = { ending: "rollback", outcome: "settled" };
/** Another transaction was faster. */
const OVERTAKEN: HowEnded = { ending: "rollback", outcome: "superseded" };

const TRIES_MAX = 10;
const BACKOFF = { baseMs: 5, capMs: 500 };
/** Errors wrap errors; no deeper than this is looked. */
const CAUSES_MAX = 8;

export class Transactions {
  readonly #host: AdmissionHost;
  readonly #admissions: Admissions;
  readonly #codec: Codec;
  /** Tells a handler's own calls from others': they would wait for the slot that it holds. */
  readonly #inside = new AsyncLocalStorage<{ isOpen: boolean }>();
  readonly #lookUps: LookUps;
  #slots: Slots | undefined;

  constructor(host: AdmissionHost, admissions: Admissions, codec: Codec) {
    this.#host = host;
    this.#admissions = admissions;
    this.#codec = codec;
    this.#lookUps = new LookUps(
      host.clock,
      (id) => admissions.read(id),
      () => this.#slots?.crowd,
    );
  }

  /** Runs a handler in a transaction of the store's own making. */
  async run<Transaction, Value>(
    request: OperationRequest,
    handler: TransactionHandler<Transaction, Value>,
  ): Promise<Outcome<Value>> {
    const performed = await this.perform<Transaction, Value>(request, {
      make: async (transaction, operation) => {
        const value = await handler(transaction, operation);
        return { value, result: this.#encoded(value) };
      },
      failure: (error) =>
        request.policy.onError === "store" && !isSemelError(error)
          ? failureResult(error)
          : undefined,
    });
    if (performed.kind !== "made") return outcomeOf<Value>(performed, this.#codec);
    const { value, attempt } = performed;
    return { value, replayed: false, attempt };
  }

  /**
   * Does work in a transaction of the store's own making.
   *
   * @throws what the work throws, after the rollback; {@link StoreUnavailable} when the database
   * fails, or cannot be asked whether it committed
   */
  async perform<Transaction, Value>(
    request: OperationRequest,
    work: TransactionWork<Transaction, Value>,
  ): Promise<Performed<Value>> {
    const transactions = this.of<Transaction>();
    this.#assertOutside("transaction() was called in the handler of another");
    for (let tries = 0; tries <= TRIES_MAX; tries++) {
      const admission = await this.#admissions.admit(request, () => this.#look(request));
      if (admission.kind !== "run") return admission;
      const { attempt } = admission;
      const claim = this.#claimOf(request, attempt);
      const performed = await this.#perform({ transactions, request, work, attempt, claim });
      if (performed !== undefined) return performed;
    }
    // Ten times in a row another process was faster, and left nothing to answer with.
    throw new AttemptSuperseded();
  }

  /**
   * A transaction among the others that is no operation's.
   *
   * @throws {Closed}; {@link InvalidOption} within another one
   */
  apart<Transaction, Value>(
    work: (transaction: Transaction, executor: SqlExecutor) => Promise<Value>,
  ): Promise<Value> {
    return this.#admissions.among(() => this.plain(work));
  }

  /**
   * A transaction without a record of its own, in its turn among the others.
   *
   * @throws {InvalidOption} within another one
   */
  async plain<Transaction, Value>(
    work: (transaction: Transaction, executor: SqlExecutor) => Promise<Value>,
  ): Promise<Value> {
    this.#assertOutside("A transaction was begun in the work of another");
    const transactions = this.of<Transaction>();
    const context = { isOpen: true };
    return this.#inSlot(transactions, () =>
      this.#inside.run(context, () =>
        transactions.run(work).finally(() => {
          context.isOpen = false;
        }),
      ),
    );
  }

  /** It would wait for a slot of which its own work holds one. */
  #assertOutside(misuse: string): void {
    if (!this.#inside.getStore()?.isOpen) return;
    throw new InvalidOption(
      `${misuse}, whose slot it would wait for; use that one, or join it with within()`,
    );
  }

  /** `undefined`: something else stands under this key now. */
  async #perform<Transaction, Value>(
    execution: Execution<Transaction, Value>,
  ): Promise<Performed<Value> | undefined> {
    const { attempt, request } = execution;
    let kept: StoredResult | undefined;
    let how: HowEnded = ROLLED_BACK;
    try {
      const done = await this.#untilKnown(execution);
      switch (done.kind) {
        case "committed":
          done.operation.committed();
          kept = done.made.result;
          how = COMMITTED;
          return { kind: "made", value: done.made.value, attempt: attempt.attempt };
        case "stale":
          how = OVERTAKEN;
          return undefined;
        case "late":
          return done;
        case "failed":
          kept = await this.#keepFailure(execution, done.error);
          if (kept) how = COMMITTED;
          throw done.error;
        case "broken":
          throw done.error;
      }
    } finally {
      this.#publish(attempt, how);
      // Also after a failure: whoever waits looks again.
      this.#ended(attempt, kept, request.policy.retentionMs);
    }
  }

  /** Runs transactions until one is known to have committed, or nothing is won by another. */
  async #untilKnown<Transaction, Value>(
    execution: Execution<Transaction, Value>,
  ): Promise<Try<Value>> {
    const { transactions, claim } = execution;
    for (let tries = 0; ; tries++) {
      const done = await this.#inSlot(transactions, (): Try<Value> | Promise<Try<Value>> => {
        // Nothing ran yet, and nothing was claimed.
        const { signal } = tries === 0 ? execution.request : {};
        if (signal?.aborted) return { kind: "failed", error: signal.reason };
        return this.#try(execution);
      });
      if (done.kind !== "failed" && done.kind !== "broken") return done;
      const isCommitted = done.kind === "broken" && done.made && (await this.#isCommitted(claim));
      if (isCommitted) return { kind: "committed", ...done.made! };
      const mayHelp = someCause(done.error, (error) => transactions.isRetryable(error));
      if (!mayHelp && (done.kind === "failed" || isCommitted === false)) {
        // The handler's error, or what the database holds against the commit: a deferred constraint.
        return { kind: "failed", error: done.error };
      }
      if (!mayHelp || tries === TRIES_MAX) {
        return { ...done, kind: "broken", error: asStoreError(done.error), made: undefined };
      }
      const delayMs = backoffMs(BACKOFF, tries, () => this.#host.random());
      await breather(this.#host.clock, delayMs);
    }
  }

  async #try<Transaction, Value>(execution: Execution<Transaction, Value>): Promise<Try<Value>> {
    const { transactions, claim, request, attempt, work } = execution;
    const context = { isOpen: true };
    let operation: OperationInTransaction | undefined;
    let made: Commit<Value> | undefined;
    let stop: Try<Value> | undefined;
    const end = (how: Try<Value>): never => {
      stop = how;
      throw new AttemptSuperseded();
    };
    try {
      return await transactions.run(async (transaction, executor) => {
        const begun = claim.refuseLate && (await transactions.begin(executor, claim));
        if (begun?.kind === "late") return end({ kind: "late" });
        if (begun && (begun.kind !== "acquired" || begun.probe)) return end({ kind: "stale" });
        const entered = new OperationInTransaction(attempt, executor);
        operation = entered;
        let done: Made<Value>;
        try {
          const { value, result } = await this.#inside.run(context, () =>
            attempt.calling(() => work.make(transaction, entered)),
          );
          const unfinished = entered.conclude();
          if (unfinished !== undefined) await unfinished;
          done = { value, result: this.#bounded(result) };
        } catch (error) {
          stop = { kind: "failed", error };
          await entered.abandon();
          throw error;
        }
        const { retentionMs } = request.policy;
        const record = async (done: Made<Value>): Promise<SettleAnswer> => {
          const result = await seal(done.result);
          if (begun) {
            const token = { id: claim.id, owner: claim.owner, attempt: begun.attempt };
            const ending = { ...token, kind: "complete", result, retentionMs } as const;
            return transactions.settle(executor, ending);
          }
          if (!transactions.completeAndCommit) {
            return transactions.complete(executor, claim, result, retentionMs);
          }
          // From here on it may be committed.
          made = { made: done, operation: entered };
          return transactions.completeAndCommit(executor, claim, result, retentionMs);
        };
        const answer = await record(done).catch((error: unknown) => {
          if (!hasCode(error, "store-full") || done.result.omitted) throw error;
          // There is no room for the result. That it was done must be kept all the same (ST-10).
          done = { ...done, result: emptied(done.result) };
          return record(done).catch(() => {
            throw error;
          });
        });
        if (answer.kind === "stale") return end({ kind: "stale" });
        made = { made: done, operation: entered };
        return { kind: "committed", ...made };
      });
    } catch (error) {
      // Where it was committed all the same, nothing is recorded again.
      operation?.rolledBack();
      return stop ?? { kind: "broken", error, made };
    } finally {
      context.isOpen = false;
    }
  }

  /** `onError: "store"`: what the handler wrote is rolled back, that it failed is kept. */
  async #keepFailure<Transaction, Value>(
    { transactions, request, claim, work }: Execution<Transaction, Value>,
    error: unknown,
  ): Promise<StoredResult | undefined> {
    const { retentionMs } = request.policy;
    const failure = request.signal?.aborted ? undefined : work.failure(error);
    if (failure === undefined) return undefined;
    const result = this.#bounded(failure);
    try {
      const bytes = await seal(result);
      const answer = await this.#inSlot(transactions, () =>
        transactions.run((_transaction, executor) =>
          transactions.complete(executor, claim, bytes, retentionMs),
        ),
      );
      return answer.kind === "settled" ? result : undefined;
    } catch {
      // The handler's own error matters more. The key may run again, which is safe.
      return undefined;
    }
  }

  /** The reply of a commit was lost: the record tells, nothing else does. `undefined`: not now. */
  async #isCommitted(claim: Claim): Promise<boolean | undefined> {
    try {
      const record = await this.#admissions.read(claim.id);
      return record?.state === "completed" && record.owner === claim.owner;
    } catch {
      // To do it all again is safe, and finds out.
      return undefined;
    }
  }

  /**
   * Joins a transaction that the caller opened: claim and completion become part of it, and are true
   * when it commits. Nothing is cached, because it may still roll back.
   */
  async within<Value>(
    executor: SqlExecutor,
    request: OperationRequest,
    handler: (operation: Operation) => Value | Promise<Value>,
  ): Promise<Outcome<Value>> {
    const transactions = this.#joined(executor);
    const claim = this.#admissions.claim(request);
    const asked = { cached: false, askedAt: isObserved() ? this.#host.clock.now() : 0 };
    let answer = await transactions.begin(executor, claim);
    if (answer.kind === "mismatch" && !isComparable(answer.fingerprint, claim.fingerprint)) {
      // As in admission: made by another algorithm, so that the key alone decides.
      claim.fingerprint = answer.fingerprint;
      answer = await transactions.begin(executor, claim);
    }
    if (answer.kind !== "acquired") {
      const admission =
        answer.kind === "done"
          ? await this.#replay(answer, request, claim.fingerprint)
          : await this.#admissions.refused(request, answer, claim.fingerprint);
      this.#admissions.announce(request, admission, asked);
      return outcomeOf<Value>(admission, this.#codec);
    }
    const token = { id: claim.id, attempt: answer.attempt, owner: claim.owner };
    const attempt = new Attempt(this.#host, request, token);
    this.#admissions.announce(request, { kind: "run", attempt, probe: answer.probe }, asked);
    const { retentionMs } = request.policy;
    const operation = new OperationInTransaction(attempt, executor);
    let how: HowEnded = ROLLED_BACK;
    try {
      // What the crashed attempt before this one did, only its probe finds out, outside of this.
      if (answer.probe) throw new OperationHeld("probe-needed: run() it with its probe first");
      const value = await attempt.calling(() => handler(operation));
      await operation.conclude();
      const result = await seal(this.#bounded(this.#encoded(value)));
      const ending = { ...token, kind: "complete", result, retentionMs } as const;
      const settled = await transactions.settle(executor, ending);
      if (settled.kind === "stale") {
        how = OVERTAKEN;
        throw new AttemptSuperseded();
      }
      how = COMMITTED;
      return { value, replayed: false, attempt: attempt.attempt };
    } catch (error) {
      await operation.abandon();
      // The caller will roll back, which undoes the claim. Should it commit all the same, the key
      // may run again; where the database refuses further statements, it cannot commit.
      const ending = answer.probe
        ? ({ ...token, kind: "hold", reason: "probe-needed", retentionMs: null } as const)
        : ({ ...token, kind: "release", retentionMs } as const);
      await transactions.settle(executor, ending).catch(() => {});
      throw error;
    } finally {
      // It counts when the caller's transaction commits, which only the caller knows.
      this.#publish(attempt, how);
    }
  }

  /** Marks operations of one policy as done, in a transaction that the caller opened (MSG-1). */
  async markTogether(
    executor: SqlExecutor,
    requests: readonly OperationRequest[],
    work: MarkedWork,
  ): Promise<void> {
    const [first] = requests;
    if (first === undefined) return work([]);
    const marking = {
      transactions: this.#joined(executor),
      admissions: this.#admissions,
      codec: this.#codec,
      result: await seal(this.#bounded(this.#encoded(undefined))),
      retentionMs: first.policy.retentionMs,
    };
    await markTogether(marking, executor, requests, work);
  }

  /** Not remembered, because what was read may still be rolled back. */
  async #replay(
    { attempt, result, expiresInMs }: Extract<BeginAnswer, { kind: "done" }>,
    request: OperationRequest,
    fingerprint: string,
  ): Promise<Admission> {
    const opened = await open(result, this.#host.maxResultBytes);
    if (isOfAnotherOperation(opened, fingerprint, request)) return { kind: "mismatch" };
    return { kind: "replay", attempt, result: opened, expiresInMs };
  }

  /** What stands under this key, without claiming it. */
  async #look(request: OperationRequest): Promise<Admission> {
    const { clock } = this.#host;
    const { forgotten } = this.#host.cache;
    const askedAt = clock.now();
    const record = await this.#lookUps.look(request.id);
    const answer = record && answerOf(record, request, clock.now() - askedAt);
    if (answer) return this.#admissions.refused(request, answer, record.fingerprint, forgotten);
    const attempt = (record?.attempt ?? 0) + 1;
    const fingerprint = record?.fingerprint || request.fingerprint;
    const token = { id: request.id, attempt, owner: this.#host.nonce() };
    const operation = fingerprint === request.fingerprint ? request : { ...request, fingerprint };
    return { kind: "run", attempt: new Attempt(this.#host, operation, token), probe: false };
  }

  #claimOf(request: OperationRequest, attempt: Attempt): Claim {
    const claim = this.#admissions.claim(request, attempt.token.owner);
    claim.fingerprint = attempt.fingerprint;
    return claim;
  }

  /** Nothing of it was kept where there is no result: everything was rolled back. */
  #ended(attempt: Attempt, result: StoredResult | undefined, retentionMs: number): void {
    const settlement = { kind: "settled", expiresInMs: result ? retentionMs : null } as const;
    this.#admissions.ended(attempt, result && { kind: "complete", result }, settlement);
  }

  #publish(attempt: Attempt, how: HowEnded): void {
    const { store, clock } = this.#host;
    publish(() => ({
      type: "settled",
      id: attempt.token.id,
      store: store.name,
      attempt: attempt.attempt,
      ...how,
      durationMs: clock.now() - attempt.beganAt,
    }));
  }

  /** Waits for a connection that leaves one for the handlers' own queries. */
  #inSlot<Transaction, Result>(
    { concurrencyMax }: StoreTransactions<Transaction>,
    work: () => Result | Promise<Result>,
  ): Promise<Result> {
    this.#slots ??= new Slots(Math.max(1, concurrencyMax));
    return this.#slots.run(work);
  }

  #bounded(result: StoredResult): StoredResult {
    if (result.bytes.byteLength <= this.#host.maxResultBytes) return result;
    return emptied(result);
  }

  #encoded(value: unknown): StoredResult {
    try {
      return encoded(this.#codec, value);
    } catch (error) {
      const { cause } = error as NotSerializable;
      throw new NotSerializable(
        `The value of an operation cannot be stored: ${cause instanceof Error ? cause.message : cause}. Return plain data, or set \`codec\`; nothing was committed`,
        { cause },
      );
    }
  }

  /** @throws {InvalidOption} when that is no transaction of the store's database */
  #joined(executor: SqlExecutor): StoreTransactions {
    const transactions = this.of();
    if (executor.isPooled) {
      throw new InvalidOption(
        "within() joins a transaction, and was given a pool: open one on a connection of it, and give it that",
      );
    }
    const { dialect = executor.dialect } = transactions;
    if (executor.dialect === dialect) return transactions;
    throw new InvalidOption(
      `The transaction is one of ${executor.dialect}, and these records are kept in ${dialect}; they cannot commit together`,
    );
  }

  /** @throws {InvalidOption} when the store has none */
  of<Transaction>(): StoreTransactions<Transaction> {
    const { store } = this.#host;
    if (store.transactions) return store.transactions as StoreTransactions<Transaction>;
    throw new InvalidOption(
      `The ${store.name} store has no transactions; use run(), or a Postgres, MySQL or SQLite store`,
    );
  }
}

function emptied({ kind }: StoredResult): StoredResult {
  return { kind, omitted: true, bytes: new Uint8Array(0) };
}

/** What a record answers a request with; `undefined` when it may run. */
function answerOf(
  record: StoredRecord,
  request: OperationRequest,
  tookMs: number,
): Exclude<BeginAnswer, { kind: "acquired" }> | undefined {
  const { state, attempt, fingerprint } = record;
  if (fingerprint !== request.fingerprint && isComparable(fingerprint, request.fingerprint)) {
    return { kind: "mismatch", fingerprint };
  }
  switch (state) {
    case "completed": {
      const expiresInMs = Math.max(0, (record.expiresInMs ?? 0) - tookMs);
      return { kind: "done", attempt, result: record.result!, expiresInMs };
    }
    case "held":
      return { kind: "held", attempt, reason: record.reason ?? "unknown" };
    case "void":
      return { kind: "void" };
    case "open":
      return undefined;
    case "running": {
      const leaseRemainingMs = record.leaseRemainingMs ?? 0;
      if (leaseRemainingMs > 0) return { kind: "busy", attempt, leaseRemainingMs };
      // SM-4: what an attempt that crashed outside of a transaction did, nobody knows.
      if (record.onCrash !== "rerun") return { kind: "held", attempt, reason: "lease-lapsed" };
      const isExhausted = record.crashes + 1 >= request.policy.attemptsMax;
      return isExhausted ? { kind: "held", attempt, reason: "attempts-exhausted" } : undefined;
    }
  }
}

/** Libraries wrap what the driver throws. */
function someCause(error: unknown, is: (error: unknown) => boolean): boolean {
  let cause = error;
  for (let depth = 0; depth < CAUSES_MAX && typeof cause === "object" && cause !== null; depth++) {
    if (is(cause)) return true;
    cause = (cause as { cause?: unknown }).cause;
  }
  return false;
}

function asStoreError(error: unknown): Error {
  if (isSemelError(error)) return error;
  return new StoreUnavailable("The transaction could not be committed", { cause: error });
}
