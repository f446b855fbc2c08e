// One execution of an operation's handler: its fencing token, its heartbeat, and its one end.

import type { Clock } from "../clock.ts";
import { AttemptSuperseded, type ErrorCode, isSemelError, StoreUnavailable } from "../errors.ts";
import { publish } from "../events.ts";
import { backoffMs, bounded, pause } from "../retry.ts";
import type { AttemptToken, Ending, RenewAnswer, Store, StoredRecord } from "../store.ts";
import type { StoredResult } from "./envelope.ts";
import { seal } from "./envelope.ts";
import type { Leased } from "./heartbeat.ts";
import type { Policy } from "./policy.ts";

/** What a handler sees of the operation that it executes. */
export interface Operation {
  readonly key: string;
  readonly scope: string;
  /** Rises with every execution of this operation, from 1. Pass it on so that downstreams can fence. */
  readonly attempt: number;
  /**
   * Aborts, with an `AttemptSuperseded`, when the lease was lost and another attempt took over:
   * what this one produces from then on is discarded. The caller going away never aborts it.
   */
  readonly signal: AbortSignal;
}

/** How an attempt's end was received. */
export type Settlement =
  /** It is durable. `expiresInMs`: until the record is forgotten; `null`: kept until resolved. */
  | { kind: "settled"; expiresInMs: number | null }
  /** Another attempt took over, or the record is gone: nothing was written. What stands instead. */
  | { kind: "superseded"; record: StoredRecord | undefined }
  /** The store failed for the whole bounded time. The record follows its `onCrash` (SM-22). */
  | { kind: "unrecorded"; error: unknown };

/** How an attempt may end. */
export type AttemptEnd =
  /** `remnant`: what is kept of a result that is too large to keep whole (ST-10). */
  | { kind: "complete"; result: StoredResult; remnant?: Uint8Array }
  | { kind: "release" }
  | { kind: "hold"; reason: string };

/** What attempts need from the engine. */
export interface AttemptHost {
  readonly store: Store;
  readonly clock: Clock;
  random(): number;
  /** How long the write that ends an attempt is retried, in milliseconds. */
  readonly completionRetryMs: number;
  readonly maxResultBytes: number;
  /** Called when the lease was lost: another attempt's outcome is what counts from now on. */
  superseded(attempt: Attempt): void;
  /** Called once, when the attempt no longer runs here. */
  ended(attempt: Attempt, end: AttemptEnd | undefined, settlement: Settlement): void;
}

const SETTLE_BACKOFF = { baseMs: 25, capMs: 1_000 };
/** How long one write may take before it is sent again, and what the last one gets at least. */
const SETTLE_TRY_MS = { max: 2_000, min: 250 };
/** Reasons are shown to administrators; stores keep them in a column. */
const REASON_LENGTH_MAX = 1_000;

export class Attempt implements Operation, Leased {
  readonly key: string;
  readonly scope: string;
  readonly token: AttemptToken;
  readonly fingerprint: string;
  readonly policy: Policy;
  readonly #host: AttemptHost;
  #abort: AbortController | undefined;
  #superseded = false;
  #settling: Promise<Settlement> | undefined;

  constructor(
    host: AttemptHost,
    operation: { key: string; scope: string; fingerprint: string; policy: Policy },
    token: AttemptToken,
  ) {
    this.#host = host;
    this.key = operation.key;
    this.scope = operation.scope;
    this.fingerprint = operation.fingerprint;
    this.policy = operation.policy;
    this.token = token;
  }

  get attempt(): number {
    return this.token.attempt;
  }

  get leaseMs(): number {
    return this.policy.leaseMs;
  }

  // Made when first asked for: most handlers never look.
  get signal(): AbortSignal {
    this.#abort ??= new AbortController();
    if (this.#superseded) this.#abort.abort(new AttemptSuperseded());
    return this.#abort.signal;
  }

  /** Whether it is known that another attempt took over. */
  get isSuperseded(): boolean {
    return this.#superseded;
  }

  renew(): Promise<RenewAnswer> {
    const { leaseMs, lapsedRetentionMs } = this.policy;
    return this.#host.store.renew({ ...this.token, leaseMs, lapsedRetentionMs });
  }

  superseded(): void {
    // While the end is being written, a renewal finds its own attempt ended.
    if (this.#settling !== undefined) return;
    this.#superseded = true;
    this.#abort?.abort(new AttemptSuperseded());
    this.#host.superseded(this);
  }

  /**
   * Ends the attempt: durable before it returns, unless the store fails for the whole bounded time.
   * Never throws. A second end is a programming error, which is reported and changes nothing.
   */
  settle(end: AttemptEnd): Promise<Settlement> {
    if (this.#settling !== undefined) {
      publish(() => ({
        type: "misuse",
        id: this.token.id,
        message: `attempt ${this.attempt} was ended twice; the second end (${end.kind}) was ignored`,
      }));
      return this.#settling;
    }
    this.#settling = this.#settle(end);
    return this.#settling;
  }

  async #settle(end: AttemptEnd): Promise<Settlement> {
    let kept = end.kind === "complete" ? this.#withinBound(end) : end;
    let settlement: Settlement;
    try {
      settlement = await this.#write(kept);
      const isFull = settlement.kind === "unrecorded" && hasCode(settlement.error, "store-full");
      if (isFull && kept.kind === "complete" && !kept.result.omitted) {
        // There is no room for the result. That it completed must be kept all the same (ST-10).
        kept = withoutBody(kept);
        settlement = await this.#write(kept);
      }
    } catch (error) {
      settlement = { kind: "unrecorded", error };
    }
    publish(() => ({
      type: "settled",
      id: this.token.id,
      attempt: this.attempt,
      ending: end.kind,
      outcome: settlement.kind,
    }));
    this.#host.ended(this, kept, settlement);
    return settlement;
  }

  #withinBound(end: Completion): Completion {
    return end.result.bytes.byteLength <= this.#host.maxResultBytes ? end : withoutBody(end);
  }

  /** Writes the end, retried for a bounded time; what a lost reply did is read back (SM-17). */
  async #write(end: AttemptEnd): Promise<Settlement> {
    const { clock, completionRetryMs } = this.#host;
    const ending = await this.#ending(end);
    const deadline = clock.now() + completionRetryMs;
    let unanswered: Promise<Settlement> | undefined;
    for (let tries = 0; ; tries++) {
      const written = this.#try(ending);
      // A write that hangs may yet be answered while the next one is on its way.
      const answer = unanswered ? Promise.any([unanswered, written]) : written;
      unanswered = undefined;
      const onLate = () => {
        unanswered = answer;
        return lateAnswer();
      };
      try {
        const tryMs = Math.min(SETTLE_TRY_MS.max, deadline - clock.now());
        return await bounded(clock, answer, Math.max(SETTLE_TRY_MS.min, tryMs), onLate);
      } catch (thrown) {
        const error = thrown instanceof AggregateError ? thrown.errors.at(-1) : thrown;
        const delayMs = backoffMs(SETTLE_BACKOFF, tries, () => this.#host.random());
        if (isFinal(error) || clock.now() + delayMs >= deadline) {
          return { kind: "unrecorded", error };
        }
        await pause(clock, delayMs);
      }
    }
  }

  async #try(ending: Ending): Promise<Settlement> {
    const { store, clock } = this.#host;
    const askedAt = clock.now();
    const answer = await store.settle(ending);
    if (answer.kind === "settled") {
      return { kind: "settled", expiresInMs: left(ending.retentionMs, clock.now() - askedAt) };
    }
    const readAt = clock.now();
    const record = await store.read(ending.id);
    const isOwn = record?.owner === ending.owner && record.attempt === ending.attempt;
    if (isOwn && record.state === STATE_AFTER[ending.kind]) {
      return { kind: "settled", expiresInMs: left(record.expiresInMs, clock.now() - readAt) };
    }
    return { kind: "superseded", record };
  }

  async #ending(end: AttemptEnd): Promise<Ending> {
    const { retentionMs, heldRetentionMs } = this.policy;
    // Written out: a literal that begins with a spread is far slower to make.
    const { id, attempt, owner } = this.token;
    switch (end.kind) {
      case "complete": {
        const result = await seal(end.result);
        return { id, attempt, owner, kind: "complete", result, retentionMs };
      }
      case "release":
        return { id, attempt, owner, kind: "release", retentionMs };
      case "hold": {
        const reason = end.reason.slice(0, REASON_LENGTH_MAX).toWellFormed().replaceAll("\0", "");
        return { id, attempt, owner, kind: "hold", reason, retentionMs: heldRetentionMs };
      }
    }
  }
}

type Completion = Extract<AttemptEnd, { kind: "complete" }>;

function withoutBody(end: Completion): Completion {
  const bytes = end.remnant ?? new Uint8Array(0);
  return { kind: "complete", result: { ...end.result, omitted: true, bytes } };
}

const STATE_AFTER = { complete: "completed", release: "open", hold: "held" } as const;

function lateAnswer(): Error {
  return new StoreUnavailable("The store did not confirm the end of an attempt in time");
}

/** What is left of a time that the store stated, when its answer took a while to come. */
function left(ms: number | null, tookMs: number): number | null {
  return ms === null ? null : Math.max(0, ms - tookMs);
}

/** Errors that trying again cannot mend. */
function isFinal(error: unknown): boolean {
  return hasCode(error, "store-full") || hasCode(error, "record-unreadable");
}

function hasCode(error: unknown, code: ErrorCode): boolean {
  return isSemelError(error) && error.code === code;
}
