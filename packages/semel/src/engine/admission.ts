// How a request is let in: by a result that this process knows, by an attempt that runs in it, or by
// asking the store. Duplicates in one process meet here and cost the store nothing.

import {
  AttemptSuperseded,
  Closed,
  isSemelError,
  type SemelError,
  StoreUnavailable,
} from "../errors.ts";
import { isObserved, publish } from "../events.ts";
import { isComparable, operationKindOf } from "../fingerprint.ts";
import { IdTable, type Row } from "../id-table.ts";
import { backoffMs, bounded, pause } from "../retry.ts";
import type { BeginAnswer, Claim, RecordId, StoredRecord } from "../store.ts";
import { Attempt, type AttemptEnd, type AttemptHost, type Settlement } from "./attempt.ts";
import { Claims, type ClaimsHost, type Heard, isTransient, lateAnswer } from "./claims.ts";
import { open, type ResultKind, type StoredResult } from "./envelope.ts";
import { settleByProbe } from "./execution.ts";
import type { Heartbeat } from "./heartbeat.ts";
import type { Policy } from "./policy.ts";
import type { CachedResult, ResultCache } from "./result-cache.ts";

/** A request to run an operation, checked and resolved. */
export interface OperationRequest {
  id: RecordId;
  key: string;
  scope: string;
  /** What the handler is shown as its scope, where that is another one than the record's. */
  handlerScope?: string | undefined;
  fingerprint: string;
  policy: Policy;
  /** The kind of result that the caller can make use of. */
  resultKind: ResultKind;
  /** Makes such a result of the value that a probe has found. */
  encode: (value: unknown) => StoredResult;
  /** When the request was first sent, in milliseconds since the Unix epoch, if it says so. */
  sentAt?: number | undefined;
  /** Ends waiting, never an attempt that has begun (SM-23). */
  signal?: AbortSignal | undefined;
}

/** What a request is answered with. */
export type Admission =
  /** Run the handler, then settle the attempt. `probe`: find out first whether it was applied. */
  | { kind: "run"; attempt: Attempt; probe: boolean }
  /** `result`: of the kind that was asked for, a failure, or of one that the caller cannot be given. */
  | { kind: "replay"; attempt: number; result: StoredResult; expiresInMs: number }
  | { kind: "busy"; retryAfterMs: number }
  | { kind: "mismatch" }
  | { kind: "held"; reason: string }
  | { kind: "void" }
  | { kind: "late" };

/** An operation that is being admitted or executed in this process. */
interface Flight extends Row<Flight> {
  /** The first request: the one that asked the store. */
  request: OperationRequest;
  /** The answer to it, once there is one. */
  answer: Admission | SemelFailure | undefined;
  /** The same, made for the first duplicate that comes before it; never rejects. */
  begun?: Promise<Admission | SemelFailure>;
  tell?: (answer: Admission | SemelFailure) => void;
  /** The attempt that it was let in as. */
  attempt: Attempt | undefined;
  /** Resolves when it is worth looking again; made for the first who waits. */
  ended?: Promise<void>;
  end?: () => void;
}

/** What the store has as the result of an operation. */
interface Finished {
  attempt: number;
  result: Uint8Array;
  expiresInMs: number;
  fingerprint: string;
  /** What the cache had forgotten when the store was asked. */
  forgotten: number;
}

interface SemelFailure {
  kind: "failed";
  error: SemelError;
}

export interface AdmissionHost extends AttemptHost, ClaimsHost {
  readonly cache: ResultCache;
  readonly heartbeat: Heartbeat;
  /** A fresh owner nonce: 16 random bytes in hexadecimal. */
  nonce(): string;
}

/** How a request got its answer: without the store, unless it is said otherwise. */
interface Look {
  cached: boolean;
}

const MISMATCH = { kind: "mismatch" } as const;
/** However long somebody waits, this often they look for themselves. */
const WAIT_MS_MAX = 60_000;
const WAIT_BACKOFF = { baseMs: 20, capMs: 500 };

export class Admissions {
  readonly #host: AdmissionHost;
  readonly #flights = new IdTable<Flight>();
  readonly #idle: (() => void)[] = [];
  readonly #claims: Claims;
  #running = 0;
  #closed = false;

  constructor(host: AdmissionHost) {
    this.#host = host;
    this.#claims = new Claims(host);
  }

  /** Operations that run in this process. */
  get running(): number {
    return this.#running;
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  /** Lets nobody in any more. */
  close(): void {
    this.#closed = true;
  }

  /** Resolves when nothing runs in this process. */
  idle(): Promise<void> {
    if (this.#running === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#idle.push(resolve);
    });
  }

  /**
   * Does work that is no operation of its own among those that run here.
   *
   * @throws {Closed}
   */
  async among<Result>(work: () => Promise<Result>): Promise<Result> {
    if (this.#closed) throw new Closed();
    this.#running++;
    try {
      return await work();
    } finally {
      this.#leave();
    }
  }

  /** An attempt has ended: what waits for it looks again. */
  ended(attempt: Attempt, end: AttemptEnd | undefined, settlement: Settlement): void {
    const { id } = attempt.token;
    this.#host.heartbeat.remove(attempt);
    if (end?.kind === "complete" && settlement.kind === "settled" && settlement.expiresInMs) {
      this.#remember(id, attempt.fingerprint, attempt.attempt, end.result, settlement.expiresInMs);
    }
    this.superseded(attempt);
    this.#leave();
  }

  /** What waits for an attempt looks again: for its outcome, or for its successor's. */
  superseded(attempt: Attempt): void {
    const flight = this.#flights.get(attempt.token.id);
    if (flight?.attempt === attempt) this.#land(flight);
  }

  /**
   * Admits a request, waiting for a running attempt as long as its policy says (EN-3). Nobody who
   * waited acquires without a fresh `begin`.
   *
   * @param begin asks the store, for the first request of this process
   */
  admit(request: OperationRequest, begin?: () => Promise<Admission>): Promise<Admission> {
    const { policy, signal } = request;
    // Who does not wait, while nobody listens, needs none of what follows.
    if (policy.waitMs === 0 && !signal?.aborted && !isObserved())
      return this.#admitOnce(request, begin);
    return this.#admitPatiently(request, begin);
  }

  /**
   * {@link admit} for requests of different operations, of one policy by which they do not wait. The store
   * is asked about all of them in one turn, and waited for once.
   */
  async admitTogether(
    requests: readonly OperationRequest[],
  ): Promise<PromiseSettledResult<Admission>[]> {
    const isKnown = ({ id }: OperationRequest) =>
      this.#flights.has(id) || this.#host.cache.get(id, this.#host.clock) !== undefined;
    // Who listens is told of each.
    const isApart = this.#closed || isObserved();
    const admissions: (Admission | Promise<Admission>)[] = [];
    const led: { place: number; flight: Flight; claim: Claim }[] = [];
    for (const [place, request] of requests.entries()) {
      if (isApart || isKnown(request)) {
        const admission = this.admit(request);
        admissions[place] = admission;
        // Looked at below, when the others are there as well.
        admission.catch(() => {});
      } else led.push({ place, flight: this.#takeOff(request), claim: this.claim(request) });
    }
    if (led.length > 0) {
      const heard = (index: number) => this.#hears(led[index]!.flight.request, led[index]!.claim);
      const claims = led.map(({ claim }) => claim);
      const { openRetentionMs } = led[0]!.flight.request.policy;
      const begun = await this.#claims.beginTogether(claims, openRetentionMs, heard);
      for (const [index, { place, flight }] of led.entries()) {
        const admission = begun[index]!;
        admissions[place] =
          admission instanceof Promise
            ? admission.then(
                (late) => this.#led(flight, late),
                (error) => this.#failed(flight, asStoreError(error)),
              )
            : this.#led(flight, admission);
      }
    }
    return Promise.allSettled(admissions);
  }

  async #admitPatiently(
    request: OperationRequest,
    begin: (() => Promise<Admission>) | undefined,
  ): Promise<Admission> {
    const { clock } = this.#host;
    const { waitMs } = request.policy;
    const askedAt = clock.now();
    for (let tries = 0; ; tries++) {
      request.signal?.throwIfAborted();
      const look: Look = { cached: true };
      const admission = await this.#admitOnce(request, begin, look).catch((error: unknown) => {
        if (isSemelError(error)) {
          this.announce(request, { kind: "failed", error }, { cached: look.cached, askedAt });
        }
        throw error;
      });
      const remainingMs = askedAt + waitMs - clock.now();
      if (admission.kind !== "busy" || remainingMs <= 0) {
        this.announce(request, admission, { cached: look.cached, askedAt });
        return admission;
      }
      await this.#change(request, Math.min(remainingMs, WAIT_MS_MAX), tries);
    }
  }

  /** Waits until it is worth looking again. */
  async #change(request: OperationRequest, mostMs: number, tries: number): Promise<void> {
    const { clock, store } = this.#host;
    const { id, signal } = request;
    const flight = this.#flights.get(id);
    if (flight) return pause(clock, mostMs, signal, endOf(flight));
    const delayMs = 5 + backoffMs(WAIT_BACKOFF, tries, () => this.#host.random());
    if (!store.subscribe) return pause(clock, Math.min(mostMs, delayMs), signal);
    let end = () => {};
    const woken = new Promise<void>((wake) => {
      end = store.subscribe!(id, wake);
    });
    // A notification may be lost, so it only ends a pause that ends by itself.
    await pause(clock, Math.min(mostMs, delayMs), signal, woken).finally(end);
  }

  /**
   * What became of an operation after an attempt of this process was superseded: looked at, never
   * claimed, because the caller's own attempt already ran. While the store cannot be asked, what was
   * last seen stands.
   */
  async follow(
    record: StoredRecord | undefined,
    request: OperationRequest,
  ): Promise<Admission | undefined> {
    const { store, clock, completionRetryMs } = this.#host;
    const deadline = clock.now() + Math.max(request.policy.waitMs, completionRetryMs);
    let found = record;
    for (let tries = 0; ; tries++) {
      const admission = found && (await this.view(found, request));
      const remainingMs = deadline - clock.now();
      if (admission?.kind !== "busy" || remainingMs <= 0) return admission;
      const delayMs = 5 + backoffMs(WAIT_BACKOFF, tries, () => this.#host.random());
      await pause(clock, Math.min(remainingMs, delayMs), request.signal);
      try {
        found = await bounded(clock, store.read(request.id), remainingMs, lateAnswer);
      } catch (error) {
        if (!isTransient(error)) throw error;
      }
    }
  }

  /** The live record, asked for within a bounded time. */
  read(id: RecordId): Promise<StoredRecord | undefined> {
    return this.#claims.read(id);
  }

  /** What a record answers a request with; `undefined` when it does not stand in its way. */
  async view(record: StoredRecord, request: OperationRequest): Promise<Admission | undefined> {
    // The record may be a new one, after a deletion.
    if (differs(request.fingerprint, record.fingerprint)) return { kind: "mismatch" };
    switch (record.state) {
      case "completed": {
        const { attempt, expiresInMs } = record;
        const result = await open(record.result!, this.#host.maxResultBytes);
        if (isOfAnotherOperation(result, record.fingerprint, request)) return MISMATCH;
        return { kind: "replay", attempt, result, expiresInMs: expiresInMs ?? 0 };
      }
      case "running":
        return { kind: "busy", retryAfterMs: Math.max(0, record.leaseRemainingMs ?? 0) };
      case "held":
        return { kind: "held", reason: record.reason ?? "unknown" };
      case "void":
        return { kind: "void" };
      case "open":
        return undefined;
    }
  }

  #admitOnce(
    request: OperationRequest,
    begin: (() => Promise<Admission>) | undefined,
    look?: Look,
  ): Promise<Admission> {
    const { cache, clock } = this.#host;
    const cached = cache.get(request.id, clock);
    if (cached) return Promise.resolve(this.#replayCached(request, cached));
    const flight = this.#flights.get(request.id);
    return flight ? this.#join(request, flight, begin, look) : this.#lead(request, begin, look);
  }

  /** A duplicate of what this process is doing right now (EN-3). */
  async #join(
    request: OperationRequest,
    flight: Flight,
    begin: (() => Promise<Admission>) | undefined,
    look: Look | undefined,
  ): Promise<Admission> {
    const answer = this.#answerOfLeader(request, flight.request, await begunOf(flight));
    // What the first request was answered says nothing about this one, which has to ask for itself.
    if (answer === undefined) return this.#admitOnce(request, begin, look);
    if (answer.kind === "failed") throw answer.error;
    return answer;
  }

  #answerOfLeader(
    request: OperationRequest,
    leader: OperationRequest,
    begun: Admission | SemelFailure,
  ): Admission | SemelFailure | undefined {
    if (begun.kind === "run") {
      if (differs(request.fingerprint, leader.fingerprint)) return { kind: "mismatch" };
      return { kind: "busy", retryAfterMs: begun.attempt.leaseMs };
    }
    return begun.kind === "failed" || isSameQuestion(request, leader) ? begun : undefined;
  }

  /**
   * The first request here: the one that asks the store. Here and below, on the way of every new
   * operation, steps are chained where an `await` would cost several times as much.
   */
  #lead(
    request: OperationRequest,
    begin: (() => Promise<Admission>) | undefined,
    look: Look | undefined,
  ): Promise<Admission> {
    if (look) look.cached = false;
    if (this.#closed) return Promise.reject(new Closed());
    const flight = this.#takeOff(request);
    return (begin ? begin() : this.#begin(request)).then(
      (admission) => this.#led(flight, admission),
      (error) => this.#failed(flight, asStoreError(error)),
    );
  }

  #takeOff(request: OperationRequest): Flight {
    const { id } = request;
    const flight: Flight = { id, request, answer: undefined, attempt: undefined, next: undefined };
    this.#flights.add(flight);
    this.#running++;
    return flight;
  }

  #led(flight: Flight, admission: Admission): Admission | Promise<Admission> {
    const { request } = flight;
    flight.answer = admission;
    flight.tell?.(admission);
    if (admission.kind === "run") {
      flight.attempt = admission.attempt;
      // A probe first finds out about the attempt before this one, which only it can.
      if (this.#closed && !admission.probe) return this.#giveUp(admission.attempt);
    } else {
      this.#land(flight);
      this.#leave();
    }
    const isProbe = admission.kind === "run" && admission.probe;
    return isProbe ? this.#probed(request, admission.attempt) : admission;
  }

  #failed(flight: Flight, error: SemelError): never {
    const failure: SemelFailure = { kind: "failed", error };
    flight.answer = failure;
    flight.tell?.(failure);
    this.#land(flight);
    this.#leave();
    throw error;
  }

  async #giveUp(attempt: Attempt): Promise<never> {
    await attempt.giveBack();
    throw new Closed();
  }

  /** What a probe makes of the attempt that crashed, or else what stands instead of it. */
  async #probed(request: OperationRequest, attempt: Attempt): Promise<Admission> {
    const settled = await settleByProbe(attempt, request.encode);
    if (settled.kind !== "superseded") return settled as Admission;
    const successor = await this.follow(settled.record, request);
    if (successor === undefined) throw new AttemptSuperseded();
    return successor;
  }

  #land(flight: Flight): void {
    this.#flights.delete(flight);
    flight.end?.();
  }

  #leave(): void {
    this.#running--;
    if (this.#running > 0) return;
    for (const resolve of this.#idle.splice(0)) resolve();
  }

  #begin(request: OperationRequest, claim = this.claim(request)): Promise<Admission> {
    const { openRetentionMs } = request.policy;
    return this.#claims.begin(claim, openRetentionMs, this.#hears(request, claim));
  }

  #hears(request: OperationRequest, claim: Claim): Heard<Admission> {
    const { forgotten } = this.#host.cache;
    return (answer, askedAt, now) => {
      switch (answer.kind) {
        case "acquired": {
          const token = { id: claim.id, attempt: answer.attempt, owner: claim.owner };
          const attempt = new Attempt(this.#host, request, token, now);
          this.#host.heartbeat.add(attempt);
          return { kind: "run", attempt, probe: answer.probe };
        }
        case "done": {
          const expiresInMs = Math.max(0, answer.expiresInMs - (now - askedAt));
          const { attempt, result } = answer;
          const { fingerprint } = claim;
          const finished = { attempt, result, expiresInMs, fingerprint, forgotten };
          return this.#replayOf(request, finished);
        }
        case "mismatch": {
          const { fingerprint } = answer;
          const isFirst = claim.fingerprint === request.fingerprint;
          if (!isFirst || isComparable(fingerprint, request.fingerprint)) return MISMATCH;
          // Made by another algorithm, before or after a deploy: the key alone decides.
          return this.#begin(request, { ...claim, fingerprint });
        }
        default:
          return this.refused(request, answer, request.fingerprint, forgotten);
      }
    };
  }

  /**
   * What a request is answered with that may not run.
   *
   * @param forgotten what the cache had forgotten when the store was asked
   */
  async refused(
    request: OperationRequest,
    answer: Exclude<BeginAnswer, { kind: "acquired" }>,
    fingerprint: string,
    forgotten = this.#host.cache.forgotten,
  ): Promise<Admission> {
    switch (answer.kind) {
      case "done":
        return this.#replayOf(request, { ...answer, fingerprint, forgotten });
      case "busy":
        return { kind: "busy", retryAfterMs: answer.leaseRemainingMs };
      case "held":
        return { kind: "held", reason: answer.reason };
      default:
        return { kind: answer.kind };
    }
  }

  #replayOf(
    request: OperationRequest,
    { attempt, result, expiresInMs, fingerprint, forgotten }: Finished,
  ): Admission | Promise<Admission> {
    const { cache } = this.#host;
    const replay = (result: StoredResult): Admission => {
      if (isOfAnotherOperation(result, fingerprint, request)) return MISMATCH;
      if (cache.forgotten === forgotten) {
        this.#remember(request.id, fingerprint, attempt, result, expiresInMs);
      }
      return { kind: "replay", attempt, result, expiresInMs };
    };
    try {
      const opened = open(result, this.#host.maxResultBytes);
      return opened instanceof Promise ? opened.then(replay) : replay(opened);
    } catch (error) {
      // Of one among many, the others must not hear of it.
      return Promise.reject(error);
    }
  }

  /** A claim for this request. @param owner @default a fresh one */
  claim(request: OperationRequest, owner = this.#host.nonce()): Claim {
    const { id, scope, key, fingerprint, policy, sentAt } = request;
    const { leaseMs, onCrash, attemptsMax, lapsedRetentionMs, heldRetentionMs, lateAfterMs } =
      policy;
    const claim: Claim = {
      id,
      scope,
      key,
      fingerprint,
      owner,
      leaseMs,
      onCrash,
      attemptsMax,
      lapsedRetentionMs,
      heldRetentionMs,
    };
    if (sentAt !== undefined && lateAfterMs !== undefined) {
      claim.refuseLate = { sentAt, ageMaxMs: lateAfterMs };
    }
    return claim;
  }

  #remember(
    id: RecordId,
    fingerprint: string,
    attempt: number,
    result: StoredResult,
    expiresInMs: number,
  ): void {
    const now = this.#host.clock.now();
    const expiresAt = now + expiresInMs;
    this.#host.cache.set(id, { fingerprint, attempt, result, expiresAt }, now);
  }

  #replayCached(request: OperationRequest, cached: CachedResult): Admission {
    const { fingerprint, attempt, result } = cached;
    if (differs(request.fingerprint, fingerprint)) return MISMATCH;
    if (isOfAnotherOperation(result, fingerprint, request)) return MISMATCH;
    return {
      kind: "replay",
      attempt,
      result,
      expiresInMs: cached.expiresAt - this.#host.clock.now(),
    };
  }

  /** Tells whoever listens what a request was answered with. */
  announce(
    request: OperationRequest,
    admission: Admission | SemelFailure,
    { cached, askedAt }: { cached: boolean; askedAt: number },
  ): void {
    const { store, clock } = this.#host;
    publish(() => ({
      type: "admitted",
      id: request.id,
      store: store.name,
      admission: admission.kind,
      cached,
      ...("attempt" in admission && {
        attempt:
          typeof admission.attempt === "number" ? admission.attempt : admission.attempt.attempt,
      }),
      ...(admission.kind === "failed" && { code: admission.error.code }),
      // Who has begun to listen in the meantime is not told of a time that was not taken.
      durationMs: askedAt === 0 ? 0 : clock.now() - askedAt,
    }));
  }
}

function begunOf(flight: Flight): Admission | SemelFailure | Promise<Admission | SemelFailure> {
  if (flight.answer) return flight.answer;
  flight.begun ??= new Promise((resolve) => {
    flight.tell = resolve;
  });
  return flight.begun;
}

function endOf(flight: Flight): Promise<void> {
  flight.ended ??= new Promise((resolve) => {
    flight.end = resolve;
  });
  return flight.ended;
}

/** Another payload under the same key. Fingerprints of different algorithms say nothing. */
function differs(one: string, other: string): boolean {
  return one !== other && isComparable(one, other);
}

/**
 * Whether a key was used for another kind of operation altogether, and is reused like any other. Where
 * only the result is of another kind, as somebody may have resolved it, this one is done: it is
 * replayed, so that nobody is told to do it again with a new key, and refused where it is read.
 *
 * @param fingerprint that of the record
 */
export function isOfAnotherOperation(
  result: StoredResult,
  fingerprint: string,
  { resultKind }: OperationRequest,
): boolean {
  if (result.kind === resultKind || result.kind === "failure") return false;
  return (operationKindOf(fingerprint) ?? resultKind) !== resultKind;
}

/** Whether what the store answers one of them is the answer to the other as well. */
function isSameQuestion(one: OperationRequest, other: OperationRequest): boolean {
  return (
    one.fingerprint === other.fingerprint &&
    one.resultKind === other.resultKind &&
    one.sentAt === other.sentAt &&
    one.policy.lateAfterMs === other.policy.lateAfterMs
  );
}

function asStoreError(error: unknown): SemelError {
  if (isSemelError(error)) return error;
  return new StoreUnavailable("The store failed; nothing ran", { cause: error });
}
