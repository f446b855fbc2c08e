// Claim, the handler's writes and the result in one database transaction (EN-5): all of it commits, or
// none of it does. Whatever goes wrong, doing it all again is safe, because the unique key of the
// record decides which transaction commits.

import type { Codec } from "../codec.ts";
import { AttemptSuperseded, InvalidOption, isSemelError, StoreUnavailable } from "../errors.ts";
import { isComparable } from "../fingerprint.ts";
import { backoffMs, pause } from "../retry.ts";
import type { Claim, SqlExecutor, StoreTransactions } from "../store.ts";
import type { Admission, AdmissionHost, Admissions, OperationRequest } from "./admission.ts";
import { Attempt, type Operation } from "./attempt.ts";
import { type StoredResult, seal } from "./envelope.ts";
import { encoded, failureResult, type Outcome, outcomeOf } from "./execution.ts";
import { Slots } from "./slots.ts";

/** A handler whose writes on the transaction commit together with its result. */
export type TransactionHandler<Transaction, Value> = (
  transaction: Transaction,
  operation: Operation,
) => Value | Promise<Value>;

const TRIES_MAX = 10;
const BACKOFF = { baseMs: 5, capMs: 500 };

/** What one transaction came to. */
type Try<Value> =
  | { kind: "committed"; value: Value; result: StoredResult }
  /** Another transaction with this key was faster: everything here was rolled back. */
  | { kind: "stale" }
  /** The handler threw: everything was rolled back. */
  | { kind: "failed"; error: unknown }
  /** The database failed before, in or after the commit. */
  | { kind: "broken"; error: unknown; made: { value: Value; result: StoredResult } | undefined };

export class Transactions {
  readonly #host: AdmissionHost;
  readonly #admissions: Admissions;
  readonly #codec: Codec;
  #slots: Slots | undefined;

  constructor(host: AdmissionHost, admissions: Admissions, codec: Codec) {
    this.#host = host;
    this.#admissions = admissions;
    this.#codec = codec;
  }

  /** Runs a handler in a transaction of the store's own making. */
  async run<Transaction, Value>(
    request: OperationRequest,
    handler: TransactionHandler<Transaction, Value>,
  ): Promise<Outcome<Value>> {
    const transactions = this.#transactions<Transaction>();
    const admission = await this.#admissions.admit(request, () => this.#look(request));
    if (admission.kind !== "run") return outcomeOf<Value>(admission, this.#codec);
    const { attempt } = admission;
    let kept: StoredResult | undefined;
    try {
      return await this.#execute(transactions, request, attempt, handler, (result) => {
        kept = result;
      });
    } finally {
      // Also after a failure: whoever waits looks again.
      this.#admissions.ended(
        attempt,
        kept && { kind: "complete", result: kept },
        kept
          ? { kind: "settled", expiresInMs: request.policy.retentionMs }
          : { kind: "unrecorded", error: undefined },
      );
    }
  }

  async #execute<Transaction, Value>(
    transactions: StoreTransactions<Transaction>,
    request: OperationRequest,
    attempt: Attempt,
    handler: TransactionHandler<Transaction, Value>,
    committed: (result: StoredResult) => void,
  ): Promise<Outcome<Value>> {
    const { clock } = this.#host;
    const outcomeOfOwn = (made: { value: Value; result: StoredResult }): Outcome<Value> => {
      committed(made.result);
      return { value: made.value, replayed: false, attempt: attempt.attempt };
    };
    this.#slots ??= new Slots(Math.max(1, transactions.concurrencyMax));
    const claim = this.#claimOf(request, attempt);
    for (let tries = 0; ; tries++) {
      const done = await this.#slots.run(() =>
        this.#try(transactions, claim, request, attempt, handler),
      );
      switch (done.kind) {
        case "committed":
          return outcomeOfOwn(done);
        case "failed":
          if (!transactions.isRetryable(done.error) || tries >= TRIES_MAX) {
            await this.#keepFailure(transactions, claim, request, done.error);
            throw done.error;
          }
          break;
        case "stale": {
          const admission = await this.#look(request);
          if (admission.kind !== "run") return outcomeOf<Value>(admission, this.#codec);
          // Its record was released or has lapsed in the meantime.
          claim.fingerprint = admission.attempt.fingerprint;
          if (tries >= TRIES_MAX) throw new AttemptSuperseded();
          break;
        }
        case "broken": {
          if (done.made && (await this.#isCommitted(claim))) return outcomeOfOwn(done.made);
          if (!transactions.isRetryable(done.error) || tries >= TRIES_MAX)
            throw asStoreError(done.error);
        }
      }
      await pause(
        clock,
        backoffMs(BACKOFF, tries, () => this.#host.random()),
      );
    }
  }

  async #try<Transaction, Value>(
    transactions: StoreTransactions<Transaction>,
    claim: Claim,
    request: OperationRequest,
    operation: Operation,
    handler: TransactionHandler<Transaction, Value>,
  ): Promise<Try<Value>> {
    let made: { value: Value; result: StoredResult } | undefined;
    let stop: Try<Value> | undefined;
    try {
      return await transactions.run(async (transaction, executor) => {
        try {
          const value = await handler(transaction, operation);
          made = { value, result: this.#resultOf(value) };
        } catch (error) {
          stop = { kind: "failed", error };
          throw error;
        }
        const { retentionMs } = request.policy;
        const bytes = await seal(made.result);
        const answer = await transactions.complete(executor, claim, bytes, retentionMs);
        if (answer.kind === "settled") return { kind: "committed", ...made };
        stop = { kind: "stale" };
        throw new AttemptSuperseded();
      });
    } catch (error) {
      return stop ?? { kind: "broken", error, made };
    }
  }

  /** `onError: "store"`: what the handler wrote is rolled back, that it failed is kept. */
  async #keepFailure(
    transactions: StoreTransactions,
    claim: Claim,
    request: OperationRequest,
    error: unknown,
  ): Promise<void> {
    if (request.policy.onError !== "store" || isSemelError(error)) return;
    const bytes = await seal(failureResult(error));
    await transactions.run((_transaction, executor) =>
      transactions.complete(executor, claim, bytes, request.policy.retentionMs),
    );
  }

  /** The reply of a commit was lost: the record tells, nothing else does. */
  async #isCommitted(claim: Claim): Promise<boolean> {
    try {
      const record = await this.#host.store.read(claim.id);
      return record?.state === "completed" && record.owner === claim.owner;
    } catch {
      // Unknown for now. To do it all again is safe, and finds out.
      return false;
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
    const transactions = this.#transactions();
    const claim = this.#admissions.claim(request);
    let answer = await transactions.begin(executor, claim);
    if (answer.kind === "mismatch" && !isComparable(answer.fingerprint, claim.fingerprint)) {
      // As in admission: made by another algorithm, so that the key alone decides.
      claim.fingerprint = answer.fingerprint;
      answer = await transactions.begin(executor, claim);
    }
    if (answer.kind !== "acquired") {
      const admission = await this.#admissions.refused(request, answer, claim.fingerprint);
      return outcomeOf<Value>(admission, this.#codec);
    }
    const token = { id: claim.id, attempt: answer.attempt, owner: claim.owner };
    const attempt = new Attempt(this.#host, request, token);
    const { retentionMs } = request.policy;
    try {
      const value = await handler(attempt);
      const result = await seal(this.#resultOf(value));
      const ending = { ...attempt.token, kind: "complete", result, retentionMs } as const;
      const settled = await transactions.settle(executor, ending);
      if (settled.kind === "stale") throw new AttemptSuperseded();
      return { value, replayed: false, attempt: attempt.attempt };
    } catch (error) {
      // The caller will roll back, which undoes the claim. Should it commit all the same, the key
      // may run again; where the database refuses further statements, it cannot commit.
      const ending = { ...attempt.token, kind: "release", retentionMs } as const;
      await transactions.settle(executor, ending).catch(() => {});
      throw error;
    }
  }

  /** What stands under this key, without claiming it. */
  async #look(request: OperationRequest): Promise<Admission> {
    const record = await this.#admissions.read(request.id);
    const seen = record && (await this.#admissions.view(record, request));
    if (seen) return seen;
    const attempt = (record?.attempt ?? 0) + 1;
    const fingerprint = record?.fingerprint || request.fingerprint;
    const token = { id: request.id, attempt, owner: this.#host.nonce() };
    return {
      kind: "run",
      attempt: new Attempt(this.#host, { ...request, fingerprint }, token),
      probe: false,
    };
  }

  #claimOf(request: OperationRequest, attempt: Attempt): Claim {
    const { owner } = attempt.token;
    return { ...this.#admissions.claim(request), owner, fingerprint: attempt.fingerprint };
  }

  #resultOf(value: unknown): StoredResult {
    const result = encoded(this.#codec, value);
    if (result.bytes.byteLength <= this.#host.maxResultBytes) return result;
    return { ...result, omitted: true, bytes: new Uint8Array(0) };
  }

  #transactions<Transaction>(): StoreTransactions<Transaction> {
    const { store } = this.#host;
    if (store.transactions) return store.transactions as StoreTransactions<Transaction>;
    throw new InvalidOption(
      `The ${store.name} store has no transactions; use run(), or a Postgres, MySQL or SQLite store`,
    );
  }
}

function asStoreError(error: unknown): Error {
  if (isSemelError(error)) return error;
  return new StoreUnavailable("The transaction could not be committed", { cause: error });
}
