// One execution of an operation's handler: its fencing token, its heartbeat, and its one end.

import type { Codec } from "../codec.ts";
import { AttemptSuperseded, InvalidOption, OperationHeld, StoreUnavailable } from "../errors.ts";
import { calling, publish } from "../events.ts";
import type { AttemptToken, Ending, RenewAnswer, StoredRecord } from "../store.ts";
import { Effects, type EffectsHost, type RecordEffect } from "./effects/effects.ts";
import type { StoredResult } from "./envelope.ts";
import { seal } from "./envelope.ts";
import type { Beat, Leased } from "./heartbeat.ts";
import { failureIn } from "./journal.ts";
import { hasCode, type Persisted, persist } from "./persist.ts";
import type { Policy } from "./policy.ts";
import type { Step } from "./step.ts";
import { Steps, type StepsHost, type UndoFailure } from "./steps.ts";

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
  /**
   * Runs a named part of the work, whose result is saved as soon as it is known and never computed
   * again (EN-6).
   *
   * @example
   * const charge = await operation.step("charge", ({ idempotencyKey }) =>
   *   payments.charge(order, { idempotencyKey }),
   * );
   */
  readonly step: Step;
  /**
   * Records an outgoing effect, such as a mail, a message or a webhook, for a {@link Relay} to deliver
   * (EN-8). In a transaction it is kept with its commit; otherwise it is kept at once, and delivered
   * whatever becomes of the attempt. An execution that records it again adds nothing.
   *
   * @throws `EffectInvalid` for a name that is used twice without a `key`, and after the operation's
   * end; `NotSerializable`, `AttemptSuperseded`, `StoreUnavailable`
   * @example await operation.effect("receipt", { to: rider.email, amount });
   */
  readonly effect: RecordEffect;
  /**
   * Says that nobody knows whether it was applied: whatever the handler does after this, the operation
   * is held until it is resolved.
   *
   * @param reason shown to administrators
   */
  hold(reason: string): void;
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
  /** `remnantBytes`: how much is kept, from the start, of a result that is too large (ST-10). */
  | { kind: "complete"; result: StoredResult; remnantBytes?: number }
  | { kind: "release" }
  | { kind: "hold"; reason: string };

/** What attempts need from the engine. */
export interface AttemptHost extends StepsHost, EffectsHost {
  readonly codec: Codec;
  /** Called when the lease was lost: another attempt's outcome is what counts from now on. */
  superseded(attempt: Attempt): void;
  /** Called once, when the attempt no longer runs here. */
  ended(attempt: Attempt, end: AttemptEnd | undefined, settlement: Settlement): void;
}

/** A record, and when it was asked for by the engine's clock. */
interface Found {
  record: StoredRecord | undefined;
  readAt: number;
}

/** Reasons are shown to administrators; stores keep them in a column. */
const REASON_LENGTH_MAX = 1_000;

export class Attempt implements Operation, Leased {
  readonly key: string;
  /** As the handler sees it. */
  readonly scope: string;
  /** As the record has it. */
  readonly recordScope: string;
  readonly token: AttemptToken;
  readonly fingerprint: string;
  readonly policy: Policy;
  readonly #host: AttemptHost;
  /** By the engine's clock. */
  readonly beganAt: number;
  beat: Beat | undefined;
  #abort: AbortController | undefined;
  #superseded = false;
  #steps: Steps | undefined;
  #effects: Effects | undefined;
  #found: Promise<Found> | undefined;
  #failure: Error | undefined;
  #heldBecause: string | undefined;
  #isUndoing = false;
  #end: AttemptEnd | undefined;
  #settling: Promise<Settlement> | undefined;

  constructor(
    host: AttemptHost,
    operation: {
      key: string;
      scope: string;
      handlerScope?: string | undefined;
      fingerprint: string;
      policy: Policy;
    },
    token: AttemptToken,
    beganAt = host.clock.now(),
  ) {
    this.#host = host;
    this.key = operation.key;
    this.scope = operation.handlerScope ?? operation.scope;
    this.recordScope = operation.scope;
    this.fingerprint = operation.fingerprint;
    this.policy = operation.policy;
    this.token = token;
    this.beganAt = beganAt;
  }

  get step(): Step {
    this.#steps ??= new Steps(this.#host, this);
    return this.#steps.step;
  }

  get effect(): RecordEffect {
    return this.effects.record;
  }

  get effects(): Effects {
    this.#effects ??= new Effects(this.#host, this);
    return this.#effects;
  }

  hold(reason: string): void {
    if (typeof reason !== "string") throw new InvalidOption("hold() takes a reason, a string");
    this.holdBecause(reason);
  }

  /** Calls the handler, or a step of it, for whoever wants to know what runs within. */
  calling<Returned>(work: () => Returned, step?: string): Returned {
    return calling(() => {
      const { id, attempt } = this.token;
      const { name: store } = this.#host.store;
      return step === undefined
        ? { kind: "operation", id, attempt, store }
        : { kind: "step", id, attempt, store, name: step };
    }, work);
  }

  /** However it ends, it is held. */
  holdBecause(reason: string): void {
    this.#heldBecause ??= reason;
  }

  /** Why it will be held, if it will. */
  get heldBecause(): string | undefined {
    return this.#heldBecause;
  }

  /** How it ended, once it has: not always as it was asked to. */
  get end(): AttemptEnd | undefined {
    return this.#end;
  }

  /**
   * The handler has returned.
   *
   * @returns `undefined` when it has neither steps nor effects, as most: there is nothing to wait for
   * @throws what its steps and effects have against that; the attempt is held then, however it is
   * settled
   */
  conclude(): Promise<void> | undefined {
    return this.#steps || this.#effects ? this.#concluded() : undefined;
  }

  async #concluded(): Promise<void> {
    await this.#steps?.conclude();
    await this.#concludeEffects();
  }

  async #concludeEffects(): Promise<void> {
    await this.#effects?.conclude().catch((error: unknown) => {
      this.holdBecause("effect-unawaited: nobody waited for an effect, and it was not recorded");
      throw error;
    });
  }

  /**
   * The operation has failed for good: what its steps did is undone. Not where it is held.
   *
   * @param failure what it failed with
   * @returns what went wrong, if something did
   */
  undo(failure: unknown): Promise<UndoFailure | undefined> | undefined {
    if (this.#heldBecause !== undefined) return undefined;
    this.#isUndoing = true;
    // Earlier attempts may have saved steps, though this one has called none.
    if (this.attempt > 1) this.#steps ??= new Steps(this.#host, this);
    return this.#steps && this.#undone(this.#steps, failure);
  }

  async #undone(steps: Steps, failure: unknown): Promise<UndoFailure | undefined> {
    const failed = await steps.undo(failure);
    // What they have against it is why it is held.
    await this.#concludeEffects().catch(() => {});
    return failed;
  }

  /** Whether the operation has failed for good, and what it did is being undone. */
  get isUndoing(): boolean {
    return this.#isUndoing;
  }

  /** {@link undo}; what cannot be undone is held. */
  async undoOrHold(failure: unknown): Promise<void> {
    const failed = await this.undo(failure);
    if (failed) this.holdBecause(failed.reason);
  }

  /**
   * What an earlier attempt failed with for good, and began to undo: all that is left to do is to undo
   * the rest. Known once the record was looked at, as by the first step.
   */
  get failure(): Error | undefined {
    return this.#failure;
  }

  /** The record as an earlier attempt left it, looked at once. */
  found(): Promise<Found> {
    this.#found ??= this.#find();
    return this.#found;
  }

  async #find(): Promise<Found> {
    const readAt = this.#host.clock.now();
    const read = await persist(this.#host, () => this.#host.read(this.token.id));
    if (read.kind === "answered") {
      this.#failure = failureIn(read.answer?.journal ?? undefined);
      return { record: read.answer, readAt };
    }
    this.#found = undefined;
    throw new StoreUnavailable("The record of a running attempt could not be read", {
      cause: read.error,
    });
  }

  /** When the record was made: no other operation that had its scope and key has the same time. */
  async createdAt(): Promise<number> {
    const { record } = await this.found();
    if (record) return record.createdAt;
    this.superseded();
    throw new AttemptSuperseded();
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
    if (!this.#superseded) {
      const { id, attempt } = this.token;
      publish(() => ({ type: "lease-lost", id, attempt }));
    }
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
    const isBusy = this.#steps || this.#effects;
    this.#settling = isBusy ? this.#finish().then(() => this.#settle(end)) : this.#settle(end);
    return this.#settling;
  }

  /**
   * Ends an attempt in which nothing has run: it counts as none, where the store can say so. Never
   * throws.
   */
  giveBack(): Promise<Settlement> {
    if (this.#host.store.giveBack === undefined) return this.settle({ kind: "release" });
    this.#settling ??= this.#giveBack();
    return this.#settling;
  }

  async #giveBack(): Promise<Settlement> {
    const { store } = this.#host;
    const { openRetentionMs: retentionMs } = this.policy;
    const { id, owner } = this.token;
    const written = await persist(this.#host, async (): Promise<Settlement> => {
      const { kind } = await store.giveBack!({ ...this.token, retentionMs });
      const record = kind === "stale" ? await store.read(id) : undefined;
      // What was refused may have been this very write, whose reply was lost.
      const isGiven = kind === "settled" || (record?.state === "open" && record.owner === owner);
      return isGiven
        ? { kind: "settled", expiresInMs: retentionMs }
        : { kind: "superseded", record };
    });
    const settlement = written.kind === "answered" ? written.answer : written;
    this.#publishEnd("release", settlement);
    this.#host.ended(this, { kind: "release" }, settlement);
    return settlement;
  }

  /**
   * Ends the attempt without a word to the store, as a crash would: its lease lapses, and `onCrash`
   * says what becomes of the operation.
   */
  leave(reason: string): Promise<Settlement> {
    this.#settling ??= this.#leave(reason);
    return this.#settling;
  }

  async #leave(reason: string): Promise<Settlement> {
    await this.#finish();
    const settlement: Settlement = { kind: "unrecorded", error: new OperationHeld(reason) };
    this.#publishEnd("leave", settlement);
    this.#host.ended(this, undefined, settlement);
    return settlement;
  }

  /** What steps and effects still do is done. */
  async #finish(): Promise<void> {
    await this.#steps?.finish();
    await this.#effects?.finish();
  }

  #settle(end: AttemptEnd): Promise<Settlement> {
    const held = this.#heldBecause;
    if (held !== undefined) return this.#settleBy({ kind: "hold", reason: held });
    return this.#settleBy(end.kind === "complete" ? this.#withinBound(end) : end);
  }

  #settleBy(kept: AttemptEnd): Promise<Settlement> {
    return this.#write(kept).then((written) => {
      const settlement = written.kind === "answered" ? written.answer : written;
      const isFull = settlement.kind === "unrecorded" && hasCode(settlement.error, "store-full");
      if (isFull && kept.kind === "complete" && !kept.result.omitted) {
        // There is no room for the result. That it completed must be kept all the same (ST-10).
        return this.#settleBy(withoutBody(kept));
      }
      this.#end = kept;
      this.#publishEnd(kept.kind, settlement);
      this.#host.ended(this, kept, settlement);
      return settlement;
    });
  }

  #publishEnd(ending: AttemptEnd["kind"] | "leave", { kind: outcome }: Settlement): void {
    const { store, clock } = this.#host;
    const { id, attempt } = this.token;
    publish(() => ({
      type: "settled",
      id,
      store: store.name,
      attempt,
      ending,
      outcome,
      durationMs: clock.now() - this.beganAt,
    }));
  }

  #withinBound(end: Completion): Completion {
    return end.result.bytes.byteLength <= this.#host.maxResultBytes ? end : withoutBody(end);
  }

  /**
   * Writes the end, retried for a bounded time; what a lost reply did is read back (SM-17). Never
   * rejects.
   */
  #write(end: AttemptEnd): Promise<Persisted<Settlement>> {
    try {
      const sealed = end.kind === "complete" ? seal(end.result) : NO_RESULT;
      // A small result is sealed already: nothing need be waited for.
      if (!(sealed instanceof Promise)) return this.#persist(this.#ending(end, sealed));
      return sealed.then((result) => this.#persist(this.#ending(end, result)), unrecorded);
    } catch (error) {
      return Promise.resolve(unrecorded(error));
    }
  }

  #persist(ending: Ending): Promise<Persisted<Settlement>> {
    return persist(this.#host, (now) => this.#try(ending, now));
  }

  #try(ending: Ending, askedAt: number): Promise<Settlement> {
    const { store, clock } = this.#host;
    return store.settle(ending).then((answer) => {
      if (answer.kind !== "settled") return this.#readBack(ending);
      return { kind: "settled", expiresInMs: left(ending.retentionMs, clock.now() - askedAt) };
    });
  }

  /** A write that was refused may have been this very one, whose reply was lost. */
  async #readBack(ending: Ending): Promise<Settlement> {
    const { store, clock } = this.#host;
    const readAt = clock.now();
    const record = await store.read(ending.id);
    const isOwn = record?.owner === ending.owner && record.attempt === ending.attempt;
    if (isOwn && record.state === STATE_AFTER[ending.kind]) {
      return { kind: "settled", expiresInMs: left(record.expiresInMs, clock.now() - readAt) };
    }
    return { kind: "superseded", record };
  }

  #ending(end: AttemptEnd, result: Uint8Array): Ending {
    const { retentionMs, openRetentionMs, heldRetentionMs } = this.policy;
    // Written out: a literal that begins with a spread is far slower to make.
    const { id, attempt, owner } = this.token;
    switch (end.kind) {
      case "complete":
        return { id, attempt, owner, kind: "complete", result, retentionMs };
      case "release":
        return { id, attempt, owner, kind: "release", retentionMs: openRetentionMs };
      case "hold": {
        const reason = end.reason.slice(0, REASON_LENGTH_MAX).toWellFormed().replaceAll("\0", "");
        return { id, attempt, owner, kind: "hold", reason, retentionMs: heldRetentionMs };
      }
    }
  }
}

const NO_RESULT = new Uint8Array(0);

function unrecorded(error: unknown): Persisted<Settlement> {
  return { kind: "unrecorded", error };
}

type Completion = Extract<AttemptEnd, { kind: "complete" }>;

function withoutBody(end: Completion): Completion {
  const bytes = end.result.bytes.subarray(0, end.remnantBytes ?? 0);
  return { kind: "complete", result: { kind: end.result.kind, omitted: true, bytes } };
}

const STATE_AFTER = { complete: "completed", release: "open", hold: "held" } as const;

/** What is left of a time that the store stated, when its answer took a while to come. */
function left(ms: number | null, tookMs: number): number | null {
  return ms === null ? null : Math.max(0, ms - tookMs);
}
