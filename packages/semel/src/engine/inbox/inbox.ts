// The inbox: a consumer handles each message once, however often the broker delivers it (MSG-1). A
// message is an operation of the engine's, in the consumer's scope, whose value is not kept.

import { type Duration, durationMs } from "../../duration.ts";
import {
  InvalidOption,
  isSemelError,
  type KeyReused,
  NotApplied,
  type OperationBusy,
  OperationFailed,
} from "../../errors.ts";
import { fingerprinter } from "../../fingerprint.ts";
import { OWN_SCOPE } from "../../key.ts";
import { assertInteger, assertKnownOptions, assertMethods, assertOneOf } from "../../options.ts";
import { backoffMs, untilAborted } from "../../retry.ts";
import type { SqlExecutor } from "../../store.ts";
import type { Operation } from "../attempt.ts";
import type { Outcome } from "../execution.ts";
import type { Idempotency, RunRequest } from "../idempotency.ts";
import type { OperationOptions } from "../policy.ts";
import { Slots } from "../slots.ts";
import type { TransactionHandler } from "../transactions.ts";
import { claimTogether } from "./batch.ts";
import { type Delivery, exhausted, orThrow } from "./delivery.ts";
import { type Marking, markBatch, transactTogether } from "./marked-batch.ts";
import {
  assertId,
  assertWithoutId,
  type Identity,
  identityOf,
  keyOf,
  keyOfId,
  type Unidentified,
  type WithoutId,
} from "./message-id.ts";

export type { Delivery } from "./delivery.ts";

/** A message as the inbox sees it. */
export interface InboxMessage {
  /**
   * The message's name, the same at every delivery. 1 to 255 printable ASCII characters are used as
   * they are; anything else is hashed (SHA-256).
   */
  id?: string | undefined;
  /** What the id stands for: the same id with another payload is a mismatch. @default not compared */
  payload?: unknown;
  /** Ends the caller's wait; a handler that has begun goes on to its end (SM-23). */
  signal?: AbortSignal;
}

export interface InboxOptions {
  /**
   * How long a handled message is remembered. It must outlast the broker's last redelivery, and
   * every publisher's last retry. @default "7d"
   */
  retention?: Duration;
  /** How many messages this inbox handles at once in this process. @default 16 */
  concurrency?: number;
  /** Failed or crashed deliveries after which a message is poison. @default 5 */
  attemptsMax?: number;
  /** How long a delivery is exclusive without a heartbeat. @default "30s" */
  lease?: Duration;
  /** The longest pause before a message that failed is delivered again. @default "1m" */
  retryDelayMax?: Duration;
  /**
   * When a consumer died in the middle of a message: `"rerun"` handles it again at its redelivery,
   * `"hold"` makes it poison, for a person to look at. Transactions always rerun, which is safe
   * there. @default "rerun"
   */
  onCrash?: "rerun" | "hold";
  /**
   * Messages without an id: `"refuse"` them, name them by the `"hash"` of their payload (two equal
   * messages are then one), or by a function. @default "refuse"
   */
  withoutId?: WithoutId;
}

/** Handles a message. What it returns is not kept. */
export type InboxHandler = (operation: Operation) => unknown;

/** Runs a message's work as an attempt of its operation. @internal */
export type Guard = (operation: Operation, work: () => unknown) => Promise<void>;
/** Asks the engine to run a message. @internal */
export type RunMessage = (request: RunRequest, guard: Guard) => Promise<Outcome<unknown>>;

const OPTIONS = [
  "retention",
  "concurrency",
  "attemptsMax",
  "lease",
  "retryDelayMax",
  "onCrash",
  "withoutId",
];
const MESSAGE_FIELDS = ["id", "payload", "signal"];
const RETRY_BASE_MS = 1_000;
/** The attempt's number counts crashes and failures alike, so the engine's own bound is out of the way. */
const CRASHES_MAX = 1_000_000;

/**
 * Makes the inbox of a consumer.
 *
 * @param consumer its name, at most 900 characters: each consumer handles each message once
 * @throws {InvalidOption}
 * @example
 * const inbox = createInbox(idempotency, "billing", { retention: "14d" });
 * await inbox.process({ id: event.id, payload: event }, () => bill(event));
 */
export function createInbox<Transaction>(
  idempotency: Idempotency<Transaction>,
  consumer: string,
  options: InboxOptions = {},
): Inbox<Transaction> {
  return new Inbox(idempotency, consumer, options);
}

/** Handles each message once. Made by {@link createInbox}. */
export class Inbox<Transaction = unknown> {
  readonly consumer: string;
  readonly concurrency: number;
  readonly attemptsMax: number;
  readonly #idempotency: Idempotency<Transaction>;
  readonly #scope: string;
  readonly #slots: Slots;
  readonly #retentionMs: number;
  readonly #retryDelayMaxMs: number;
  readonly #withoutId: WithoutId;
  readonly #policy: OperationOptions;
  readonly #counts: Record<Delivery["kind"], number> = {
    processed: 0,
    duplicate: 0,
    busy: 0,
    failed: 0,
    poison: 0,
    mismatch: 0,
    unidentified: 0,
  };
  #isWarned = false;

  /** @internal */
  constructor(idempotency: Idempotency<Transaction>, consumer: string, options: InboxOptions) {
    assertKnownOptions(options, OPTIONS, "createInbox()");
    assertMethods(idempotency, "idempotency", ["run", "transaction", "within"]);
    if (typeof consumer !== "string" || consumer.length === 0 || consumer.length > 900) {
      throw new InvalidOption("An inbox needs the name of its consumer: 1 to 900 characters");
    }
    const { concurrency = 16, attemptsMax = 5, onCrash = "rerun", withoutId = "refuse" } = options;
    const { retention = "7d", lease = "30s", retryDelayMax = "1m" } = options;
    assertInteger(concurrency, "concurrency", 1, 10_000);
    assertInteger(attemptsMax, "attemptsMax", 1, 1_000_000);
    assertOneOf(onCrash, ["rerun", "hold"], "onCrash");
    assertWithoutId(withoutId);
    this.consumer = consumer;
    this.concurrency = concurrency;
    this.attemptsMax = attemptsMax;
    this.#idempotency = idempotency;
    // Framed, so that no consumer's name can be made to end in another one's scope.
    this.#scope = `inbox/${consumer.length}:${consumer}`;
    this.#slots = new Slots(concurrency);
    this.#retentionMs = durationMs(retention, "retention", { minMs: 1 });
    this.#retryDelayMaxMs = durationMs(retryDelayMax, "retryDelayMax", { minMs: 1 });
    this.#withoutId = withoutId;
    this.#policy = {
      retention: this.#retentionMs,
      lease: durationMs(lease, "lease"),
      onError: "release",
      onCrash,
      attemptsMax: CRASHES_MAX,
      wait: 0,
      refuseLate: false,
    };
    // What the engine refuses is told now, and not by the first message.
    idempotency.policy(this.#policy);
  }

  /**
   * How often each outcome was had here, in this process, since the inbox was made; for metrics. What
   * joined a caller's transaction is not counted, as it may have been rolled back.
   */
  get counts(): Readonly<Record<Delivery["kind"], number>> {
    return { ...this.#counts };
  }

  /**
   * Handles a message unless it was handled before. Its effect is once as far as the handler's own
   * is: a consumer that dies between effect and record is followed by a redelivery that handles the
   * message again. {@link transaction} has no such gap.
   *
   * @returns `"duplicate"` when it was handled before
   * @throws what the handler throws; `OperationBusy` while another delivery of it is handled;
   * `KeyReused` for another payload; `OperationFailed` when it is poison; `KeyInvalid` without an id
   * @example await inbox.process({ id: event.id }, () => sendReceipt(event));
   */
  async process(message: InboxMessage, handler: InboxHandler): Promise<"processed" | "duplicate"> {
    return orThrow(await this.deliver(message, handler));
  }

  /**
   * {@link process} with the mark and the handler's writes in one database transaction: a crash at
   * any point leaves both or neither.
   *
   * @throws as {@link process}; `InvalidOption` when the store has no transactions
   * @example
   * await inbox.transaction({ id: event.id }, async (client) => {
   *   await client.query("INSERT INTO invoices (order_id) VALUES ($1)", [event.orderId]);
   * });
   */
  async transaction(
    message: InboxMessage,
    handler: TransactionHandler<Transaction, unknown>,
  ): Promise<"processed" | "duplicate"> {
    return orThrow(await this.deliverTransaction(message, handler));
  }

  /**
   * Joins a transaction that the caller has opened. When it throws, roll back. Failures are not
   * counted, because the count would be rolled back too.
   *
   * @param executor the transaction: `fromPg(client)`, `fromKysely(trx)`, … of `semel/sql`
   * @throws as {@link process}
   */
  async within(
    executor: SqlExecutor,
    message: InboxMessage,
    handler: InboxHandler,
  ): Promise<"processed" | "duplicate"> {
    assertFunction(handler, "within()");
    const delivery = await this.attempt(message, (request, guard) =>
      this.#idempotency.within(executor, request, (operation) =>
        guard(operation, () => handler(operation)),
      ),
    );
    return orThrow(delivery);
  }

  /**
   * {@link process}, with every outcome as a value: what adapters of brokers are written on.
   *
   * @throws only for a mistake of the program's, such as an id that is no string
   */
  async deliver(message: InboxMessage, handler: InboxHandler): Promise<Delivery> {
    assertFunction(handler, "deliver()");
    return this.#inSlot(message, () =>
      this.attempt(message, (request, guard) =>
        this.#idempotency.run(request, (operation) => guard(operation, () => handler(operation))),
      ),
    );
  }

  /** {@link transaction}, with every outcome as a value. */
  async deliverTransaction(
    message: InboxMessage,
    handler: TransactionHandler<Transaction, unknown>,
  ): Promise<Delivery> {
    assertFunction(handler, "deliverTransaction()");
    return this.#inSlot(message, () => this.#transact(message, handler));
  }

  async #transact(
    message: InboxMessage,
    handler: TransactionHandler<Transaction, unknown>,
  ): Promise<Delivery> {
    const delivery = await this.attempt(message, (request, guard) =>
      this.#idempotency.transaction(request, (transaction, operation) =>
        guard(operation, () => handler(transaction, operation)),
      ),
    );
    const hasFailed = delivery.kind === "failed" || delivery.kind === "poison";
    const hasRun = hasFailed && delivery.attempt > 0 && delivery.attempt <= this.attemptsMax;
    if (hasRun) await this.#count(message);
    return delivery;
  }

  /**
   * Handles many messages with one call of the handler, which is given those that were not handled
   * before. They are claimed together, and recorded together, in one statement each where the store
   * combines what is asked at once. When the handler throws, all that it was given have failed; a
   * message that has failed before is handled alone, so that it harms no others.
   *
   * @returns what became of each, in the order of the messages
   * @throws as {@link deliver}
   * @example
   * const deliveries = await inbox.processBatch(
   *   events.map((event) => ({ id: event.id, payload: event })),
   *   (fresh) => ledger.insertAll(fresh.map(({ payload }) => payload)),
   * );
   */
  async processBatch<Message extends InboxMessage>(
    messages: readonly Message[],
    handler: (fresh: readonly Message[]) => unknown,
  ): Promise<Delivery[]> {
    assertFunction(handler, "processBatch()");
    const policy = this.#idempotency.policy(this.#policy);
    const deliveries = await this.#slots.run(() =>
      claimTogether(messages, {
        attemptsMax: this.attemptsMax,
        identify: this.#identifier(),
        // A batch is handled as one: no message of it leaves early. What else a message has is the handler's.
        requestOf: (key, fingerprint) =>
          this.#idempotency.request({ key, scope: this.#scope, policy, fingerprint }),
        admit: (requests) => this.#idempotency.beginTogether(requests),
        end: (request, admission, failure) =>
          this.#delivered(undefined, (guard) => {
            if (admission.status === "rejected") throw admission.reason;
            return this.#idempotency.answer(request, admission.value, (operation) =>
              guard(operation, () => {
                if (failure) throw failure.error;
              }),
            );
          }),
        complete: (request, attempt) =>
          this.#delivered(undefined, () => this.#idempotency.complete(request, attempt)),
        handler,
      }),
    );
    return this.#counted(deliveries);
  }

  /**
   * {@link processBatch} in a transaction that the caller has opened: the marks of all fresh messages
   * commit with the handler's writes. When it throws, roll back: nothing of the batch happened.
   *
   * @returns what became of each, in the order of the messages
   * @throws as {@link within}, for the first message that can be neither handled nor skipped
   */
  async withinBatch<Message extends InboxMessage>(
    executor: SqlExecutor,
    messages: readonly Message[],
    handler: (fresh: readonly Message[]) => unknown,
  ): Promise<("processed" | "duplicate")[]> {
    assertFunction(handler, "withinBatch()");
    const marking = this.#marking(executor, this.#identifier());
    return markBatch(messages, marking, async (fresh, attempts) => {
      if (attempts.some((attempt) => attempt > this.attemptsMax)) {
        throw new OperationFailed(exhausted(this.attemptsMax));
      }
      await handler(fresh);
    });
  }

  /**
   * {@link processBatch} in a transaction of the store's own making: one statement marks the fresh
   * messages, and commits with the handler's writes. When that fails, all that it was given have failed;
   * a message that has failed before is handled in a transaction of its own, so that it harms no others.
   *
   * @returns what became of each, in the order of the messages
   * @throws as {@link deliver}; `InvalidOption` when the store has no transactions
   * @example
   * const deliveries = await inbox.transactionBatch(messages, async (client, fresh) => {
   *   await client.query("INSERT INTO entries SELECT * FROM unnest($1::text[])", [fresh.map(({ id }) => id)]);
   * });
   */
  async transactionBatch<Message extends InboxMessage>(
    messages: readonly Message[],
    handler: (transaction: Transaction, fresh: readonly Message[]) => unknown,
  ): Promise<Delivery[]> {
    assertFunction(handler, "transactionBatch()");
    this.#idempotency.assertTransactional();
    const identify = this.#identifier();
    const deliveries = await this.#slots.run(() =>
      transactTogether(messages, {
        identify,
        transact: (work) =>
          this.#idempotency.inTransaction((transaction, executor) =>
            work(this.#marking(executor, identify), (fresh) => handler(transaction, fresh)),
          ),
        alone: (message) =>
          this.#transact({ id: message.id, payload: message.payload }, (transaction) =>
            handler(transaction, [message]),
          ),
        failed: async (message, attempt, error) => {
          const isCounted = attempt > 0 && !this.#idempotency.isRetryable(error);
          if (isCounted) await this.#count(message);
          return this.#failed(isCounted ? attempt : 0, error);
        },
        refused: (error) => this.#refused(0, error),
      }),
    );
    return this.#counted(deliveries);
  }

  /**
   * Forgets a message, so that it may be handled again, with all its attempts: before a dead letter
   * is sent back to its queue.
   *
   * @returns `busy`, and nothing is forgotten, while it is being handled
   */
  async forget(id: string): Promise<"forgotten" | "absent" | "busy"> {
    assertId(id);
    const answer = await this.#idempotency.delete({ key: keyOfId(id), scope: this.#scope });
    return answer.kind === "deleted" ? "forgotten" : answer.kind;
  }

  /**
   * Warns, once, when a broker may deliver a message again after it was forgotten here.
   *
   * @param horizonMs how long after a first delivery the broker may deliver it again
   * @param broker what says so, for the message
   * @internal
   */
  expectRedelivery(horizonMs: number, broker: string): void {
    if (this.#isWarned || horizonMs <= this.#retentionMs) return;
    this.#isWarned = true;
    const howLong = Number.isFinite(horizonMs) ? `for ${horizonMs} ms` : "at any time";
    process.emitWarning(
      `The inbox of "${this.consumer}" remembers messages for ${this.#retentionMs} ms, but ${broker} may deliver one again ${howLong}: set a longer \`retention\``,
      { code: "SEMEL_INBOX_RETENTION" },
    );
  }

  /** What becomes of a message of which nothing can be remembered. @internal */
  unidentified(error: Unidentified): Delivery {
    this.#counts.unidentified++;
    return { kind: "unidentified", error };
  }

  /** Asks the engine to handle a message, and says what became of it. @internal */
  async attempt(message: InboxMessage, run: RunMessage): Promise<Delivery> {
    assertKnownOptions(message, MESSAGE_FIELDS, "A message");
    assertId(message.id);
    const key = keyOf(message, this.#withoutId);
    if (typeof key !== "string") return { kind: "unidentified", error: key };
    const { payload, signal } = message;
    const request = {
      ...this.#policy,
      scope: this.#scope,
      [OWN_SCOPE]: true,
      key,
      payload,
      ...(signal && { signal }),
    };
    return this.#delivered(signal, (guard) => run(request, guard));
  }

  /** What a message's run comes to. */
  async #delivered(
    signal: AbortSignal | undefined,
    run: (guard: Guard) => Outcome<unknown> | Promise<Outcome<unknown>>,
  ): Promise<Delivery> {
    let attempt = 0;
    let failure: { error: unknown } | undefined;
    try {
      const { replayed } = await run(async (operation, work) => {
        attempt = operation.attempt;
        failure = undefined;
        try {
          if (attempt > this.attemptsMax) throw exhausted(this.attemptsMax);
          await work();
        } catch (error) {
          failure = { error };
          throw error;
        }
      });
      return { kind: replayed ? "duplicate" : "processed" };
    } catch (error) {
      // Also where the handler lets through what a call of its own was refused with.
      if (failure?.error === error) return this.#failed(attempt, error);
      if (signal?.aborted && error === signal.reason) throw error;
      return this.#refused(attempt, error);
    }
  }

  #marking(executor: SqlExecutor, identify: (message: InboxMessage) => Identity): Marking {
    return {
      identify,
      mark: (messages, work) => {
        const operations = messages.map((message) => {
          const identity = identify(message);
          if (identity.key === undefined) throw identity.error;
          return identity;
        });
        return this.#idempotency.markTogether(
          executor,
          this.#scope,
          this.#policy,
          operations,
          work,
        );
      },
      refuse: (error) => {
        orThrow(this.#refused(0, error));
      },
    };
  }

  #failed(attempt: number, error: unknown): Delivery {
    if (attempt >= this.attemptsMax) return { kind: "poison", attempt, error };
    const backoff = { baseMs: RETRY_BASE_MS, capMs: this.#retryDelayMaxMs };
    const tries = Math.max(0, attempt - 1);
    return { kind: "failed", attempt, error, retryAfterMs: backoffMs(backoff, tries, Math.random) };
  }

  /** What an error of the engine's means for a message. */
  #refused(attempt: number, error: unknown): Delivery {
    switch (isSemelError(error) ? error.code : undefined) {
      case "operation-in-progress":
        return { kind: "busy", retryAfterMs: (error as OperationBusy).retryAfterMs };
      case "attempt-superseded":
        return { kind: "busy", retryAfterMs: RETRY_BASE_MS };
      case "key-reused":
        return { kind: "mismatch", error: error as KeyReused };
      // It completed, under a `maxResultBytes` that keeps not even an empty result.
      case "result-not-stored":
        return { kind: "duplicate" };
      case "outcome-unknown":
      case "operation-void":
        return { kind: "poison", attempt, error };
      case "payload-invalid":
        return { kind: "unidentified", error: error as Unidentified };
      case "option-invalid":
      case "scope-missing":
        throw error;
      default:
        return this.#failed(0, error);
    }
  }

  /**
   * The rollback took the attempt's number with it, so it is counted on its own. What was to be held
   * after a crash is not held for one in here: nothing runs here, and nothing was left of what ran.
   */
  async #count(message: InboxMessage): Promise<void> {
    await this.attempt({ id: message.id, payload: message.payload }, (request) =>
      this.#idempotency.run<unknown>({ ...request, onCrash: "rerun" }, () => {
        throw new NotApplied();
      }),
    );
  }

  /** Looks at each message of a batch once. */
  #identifier(): (message: InboxMessage) => Identity {
    const fingerprintOf = fingerprinter();
    const known = new Map<InboxMessage, Identity>();
    return (message) => {
      let identity = known.get(message);
      if (identity === undefined) {
        assertId(message.id);
        identity = identityOf(message, this.#withoutId, fingerprintOf);
        known.set(message, identity);
      }
      return identity;
    };
  }

  #counted(deliveries: Delivery[]): Delivery[] {
    for (const { kind } of deliveries) this.#counts[kind]++;
    return deliveries;
  }

  #inSlot({ signal }: InboxMessage, work: () => Promise<Delivery>): Promise<Delivery> {
    const delivered = this.#slots.run(async () => {
      const delivery = await work();
      this.#counts[delivery.kind]++;
      return delivery;
    });
    return signal ? untilAborted(delivered, signal) : delivered;
  }
}

function assertFunction(handler: unknown, where: string): void {
  if (typeof handler !== "function") throw new InvalidOption(`${where} takes a handler function`);
}
