// How a request is let in: by a result that this process knows, by an attempt that runs in it, or by
// asking the store. Duplicates in one process meet here and cost the store nothing.

import type { Clock } from "../clock.ts";
import { Closed, isSemelError, type SemelError, StoreUnavailable } from "../errors.ts";
import { publish } from "../events.ts";
import { isComparable } from "../fingerprint.ts";
import { backoffMs, bounded, pause } from "../retry.ts";
import type { BeginAnswer, Claim, RecordId, StoredRecord } from "../store.ts";
import { Attempt, type AttemptEnd, type AttemptHost, type Settlement } from "./attempt.ts";
import { open, type ResultKind, type StoredResult } from "./envelope.ts";
import type { Heartbeat } from "./heartbeat.ts";
import type { Policy } from "./policy.ts";
import type { CachedResult, ResultCache } from "./result-cache.ts";

/** A request to run an operation, checked and resolved. */
export interface OperationRequest {
  id: RecordId;
  key: string;
  scope: string;
  fingerprint: string;
  policy: Policy;
  /** The kind of result that the caller can make use of. */
  resultKind: ResultKind;
  /** When the request was first sent, in milliseconds since the Unix epoch, if it says so. */
  sentAt?: number | undefined;
  /** Ends waiting, never an attempt that has begun (SM-23). */
  signal?: AbortSignal | undefined;
}

/** What a request is answered with. */
export type Admission =
  /** Run the handler, then settle the attempt. `probe`: find out first whether it was applied. */
  | { kind: "run"; attempt: Attempt; probe: boolean }
  | { kind: "replay"; attempt: number; result: StoredResult; expiresInMs: number }
  | { kind: "busy"; retryAfterMs: number }
  | { kind: "mismatch" }
  | { kind: "held"; reason: string }
  | { kind: "void" }
  | { kind: "late" };

/** An operation that is being admitted or executed in this process. */
interface Flight {
  /** The first request: the one that asked the store. */
  request: OperationRequest;
  /** The answer to it; never rejects. */
  begun: Promise<Admission | SemelFailure>;
  /** The attempt that it was let in as. */
  attempt: Attempt | undefined;
  /** Resolves when it is worth looking again. */
  ended: Promise<void>;
  end(): void;
}

interface SemelFailure {
  kind: "failed";
  error: SemelError;
}

export interface AdmissionHost extends AttemptHost {
  readonly cache: ResultCache;
  readonly heartbeat: Heartbeat;
  /** A fresh owner nonce: 16 random bytes in hexadecimal. */
  nonce(): string;
  /** How long the store may take to answer `begin`, in milliseconds. */
  readonly storeTimeoutMs: number;
}

const BEGIN_TRIES = 2;
const BEGIN_BACKOFF = { baseMs: 50, capMs: 50 };
/** However long somebody waits, this often they look for themselves. */
const WAIT_MS_MAX = 60_000;
const WAIT_BACKOFF = { baseMs: 20, capMs: 500 };
/** Of its lease, what a claim may have used up when its answer arrives. */
const LEASE_SHARE_MAX = 2 / 3;
/** How a claim whose reply was lost is looked for, to give it back. */
const ABANDON = { baseMs: 250, capMs: 5_000, triesMax: 20, atOnceMax: 1_000 };

export class Admissions {
  readonly #host: AdmissionHost;
  readonly #flights = new Map<RecordId, Flight>();
  readonly #idle: (() => void)[] = [];
  #running = 0;
  #abandoning = 0;
  #closed = false;

  constructor(host: AdmissionHost) {
    this.#host = host;
  }

  /** Operations that run in this process. */
  get running(): number {
    return this.#running;
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
  async admit(
    request: OperationRequest,
    begin: () => Promise<Admission> = () => this.#begin(request),
  ): Promise<Admission> {
    const { clock } = this.#host;
    const deadline = clock.now() + request.policy.waitMs;
    for (let tries = 0; ; tries++) {
      request.signal?.throwIfAborted();
      const admission = await this.#admitOnce(request, begin);
      if (admission.kind !== "busy") return admission;
      const remainingMs = deadline - clock.now();
      if (remainingMs <= 0) return admission;
      await this.#change(request, Math.min(remainingMs, WAIT_MS_MAX), tries);
    }
  }

  /** Waits until it is worth looking again. */
  async #change(request: OperationRequest, mostMs: number, tries: number): Promise<void> {
    const { clock, store } = this.#host;
    const { id, signal } = request;
    const flight = this.#flights.get(id);
    if (flight) return pause(clock, mostMs, signal, flight.ended);
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
    const { store, clock, storeTimeoutMs } = this.#host;
    return bounded(clock, store.read(id), storeTimeoutMs, lateAnswer);
  }

  /** What a record answers a request with; `undefined` when it does not stand in its way. */
  async view(record: StoredRecord, request: OperationRequest): Promise<Admission | undefined> {
    // The record may be a new one, after a deletion.
    if (differs(request.fingerprint, record.fingerprint)) return { kind: "mismatch" };
    switch (record.state) {
      case "completed": {
        const { attempt, expiresInMs } = record;
        const result = await open(record.result!);
        return isUsable(result, request)
          ? { kind: "replay", attempt, result, expiresInMs: expiresInMs ?? 0 }
          : undefined;
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

  async #admitOnce(request: OperationRequest, begin: () => Promise<Admission>): Promise<Admission> {
    const { cache, clock } = this.#host;
    for (;;) {
      const cached = cache.get(request.id, clock.now());
      if (cached) {
        const admission = this.#replayCached(request, cached);
        this.#publish(request, admission, true);
        return admission;
      }
      const flight = this.#flights.get(request.id);
      const answer = flight ? await this.#join(request, flight) : await this.#lead(request, begin);
      if (answer === undefined) continue;
      if (answer.kind === "failed") throw answer.error;
      this.#publish(request, answer, flight !== undefined);
      return answer;
    }
  }

  /**
   * A duplicate of what this process is doing right now (EN-3). `undefined`: what the first request
   * was answered says nothing about this one, which has to ask for itself.
   */
  async #join(
    request: OperationRequest,
    flight: Flight,
  ): Promise<Admission | SemelFailure | undefined> {
    const begun = await flight.begun;
    if (begun.kind === "run") {
      if (differs(request.fingerprint, flight.request.fingerprint)) return { kind: "mismatch" };
      return { kind: "busy", retryAfterMs: begun.attempt.leaseMs };
    }
    return begun.kind === "failed" || isSameQuestion(request, flight.request) ? begun : undefined;
  }

  /** The first request here: the one that asks the store. */
  async #lead(
    request: OperationRequest,
    begin: () => Promise<Admission>,
  ): Promise<Admission | SemelFailure> {
    if (this.#closed) return { kind: "failed", error: new Closed() };
    let end = () => {};
    const ended = new Promise<void>((resolve) => {
      end = resolve;
    });
    const begun = begin().catch(
      (error: unknown): SemelFailure => ({ kind: "failed", error: asStoreError(error) }),
    );
    const flight: Flight = { request, begun, attempt: undefined, ended, end };
    this.#flights.set(request.id, flight);
    this.#running++;
    const admission = await begun;
    if (admission.kind === "run") {
      flight.attempt = admission.attempt;
      // A probe first finds out about the attempt before this one, which only it can.
      if (!this.#closed || admission.probe) return admission;
      await admission.attempt.settle({ kind: "release" });
      return { kind: "failed", error: new Closed() };
    }
    this.#land(flight);
    this.#leave();
    return admission;
  }

  #land(flight: Flight): void {
    this.#flights.delete(flight.request.id);
    flight.end();
  }

  #leave(): void {
    this.#running--;
    if (this.#running > 0) return;
    for (const resolve of this.#idle.splice(0)) resolve();
  }

  async #begin(request: OperationRequest): Promise<Admission> {
    const claim = this.claim(request);
    const { policy } = request;
    const answer = await this.#ask(claim, policy);
    if (answer.kind === "mismatch" && !isComparable(answer.fingerprint, request.fingerprint)) {
      // Made by another algorithm, before or after a deploy: the key alone decides.
      return this.#admission(
        request,
        await this.#ask({ ...claim, fingerprint: answer.fingerprint }, policy),
        claim,
      );
    }
    return this.#admission(request, answer, claim);
  }

  async #admission(
    request: OperationRequest,
    answer: BeginAnswer,
    claim: Claim,
  ): Promise<Admission> {
    if (answer.kind !== "acquired") return this.refused(request, answer, claim.fingerprint);
    const { id, owner } = claim;
    const attempt = new Attempt(this.#host, request, { id, attempt: answer.attempt, owner });
    this.#host.heartbeat.add(attempt);
    return { kind: "run", attempt, probe: answer.probe };
  }

  /** What a request is answered with that may not run. */
  async refused(
    request: OperationRequest,
    answer: Exclude<BeginAnswer, { kind: "acquired" }>,
    fingerprint: string,
  ): Promise<Admission> {
    switch (answer.kind) {
      case "done": {
        const result = await open(answer.result);
        if (!isUsable(result, request)) return { kind: "mismatch" };
        this.#remember(request.id, fingerprint, answer.attempt, result, answer.expiresInMs);
        return { kind: "replay", attempt: answer.attempt, result, expiresInMs: answer.expiresInMs };
      }
      case "busy":
        return { kind: "busy", retryAfterMs: answer.leaseRemainingMs };
      case "held":
        return { kind: "held", reason: answer.reason };
      default:
        return { kind: answer.kind };
    }
  }

  /** A claim for this request, by a fresh owner. */
  claim(request: OperationRequest): Claim {
    const { id, scope, key, fingerprint, policy, sentAt } = request;
    const { leaseMs, onCrash, attemptsMax, lapsedRetentionMs, heldRetentionMs, lateAfterMs } =
      policy;
    return {
      id,
      scope,
      key,
      fingerprint,
      owner: this.#host.nonce(),
      leaseMs,
      onCrash,
      attemptsMax,
      lapsedRetentionMs,
      heldRetentionMs,
      ...(sentAt !== undefined &&
        lateAfterMs !== undefined && { refuseLate: { sentAt, ageMaxMs: lateAfterMs } }),
    };
  }

  /** Asks within a bounded time. A lost reply is asked for again with the same owner (SM-16). */
  async #ask(claim: Claim, { retentionMs }: Policy): Promise<BeginAnswer> {
    const { store, clock, storeTimeoutMs } = this.#host;
    const deadline = clock.now() + storeTimeoutMs;
    for (let tries = 1; ; tries++) {
      const asked = timed(clock, () => store.begin(claim));
      try {
        const { answer, tookMs } = await bounded(
          clock,
          asked,
          Math.max(1, deadline - clock.now()),
          lateAnswer,
        );
        if (answer.kind === "done") {
          return { ...answer, expiresInMs: Math.max(0, answer.expiresInMs - tookMs) };
        }
        // The first heartbeat would come too late: by then the lease may be somebody else's.
        if (answer.kind === "acquired" && tookMs > claim.leaseMs * LEASE_SHARE_MAX)
          throw lateAnswer();
        return answer;
      } catch (error) {
        const delayMs = backoffMs(BEGIN_BACKOFF, tries, () => this.#host.random());
        if (isTransient(error) && tries < BEGIN_TRIES && clock.now() + delayMs < deadline) {
          await pause(clock, delayMs);
          continue;
        }
        if (isTransient(error) || tries > 1) void this.#abandon(claim, asked, retentionMs);
        throw error;
      }
    }
  }

  /**
   * The store did not answer in time, so nothing runs here. If it claimed all the same, that claim
   * is given back: that nothing ran is certain, because it would have run in this process.
   */
  async #abandon(claim: Claim, asked: Promise<unknown>, retentionMs: number): Promise<void> {
    // Too many at once to be looked after: their leases lapse.
    if (this.#abandoning === ABANDON.atOnceMax) return;
    this.#abandoning++;
    const { clock } = this.#host;
    let answered = false;
    const answer = asked.then(noop, noop).then(() => {
      answered = true;
    });
    for (let tries = 0; tries < ABANDON.triesMax; tries++) {
      // A store that lost the connection may still be at it: one more look after its answer.
      const isLast = answered && tries > 0;
      try {
        if ((await this.#giveBack(claim, retentionMs)) || isLast) break;
      } catch (error) {
        publish(() => ({ type: "background-failure", during: "abandon", error }));
      }
      const delayMs = backoffMs(ABANDON, tries, () => this.#host.random());
      await pause(clock, delayMs, undefined, answered ? undefined : answer);
    }
    this.#abandoning--;
  }

  /** Releases the claim, if the store has it. @returns whether nothing is left to do */
  async #giveBack({ id, owner }: Claim, retentionMs: number): Promise<boolean> {
    const { store, clock, storeTimeoutMs } = this.#host;
    const record = await bounded(clock, store.read(id), storeTimeoutMs, lateAnswer);
    if (record?.state !== "running" || record.owner !== owner) return false;
    // What became of the attempt before this one is not known: its probe has to find out.
    if (record.onCrash === "probe" && record.crashes > 0) return true;
    const { attempt } = record;
    const released = store.settle({ kind: "release", id, attempt, owner, retentionMs });
    await bounded(clock, released, storeTimeoutMs, lateAnswer);
    return true;
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
    if (differs(request.fingerprint, cached.fingerprint)) return { kind: "mismatch" };
    const { attempt, result } = cached;
    if (!isUsable(result, request)) return { kind: "mismatch" };
    return {
      kind: "replay",
      attempt,
      result,
      expiresInMs: cached.expiresAt - this.#host.clock.now(),
    };
  }

  #publish(request: OperationRequest, admission: Admission, cached: boolean): void {
    publish(() => ({
      type: "admitted",
      id: request.id,
      admission: admission.kind,
      cached,
      ...("attempt" in admission && {
        attempt:
          typeof admission.attempt === "number" ? admission.attempt : admission.attempt.attempt,
      }),
    }));
  }
}

/** Another payload under the same key. Fingerprints of different algorithms say nothing. */
function differs(one: string, other: string): boolean {
  return one !== other && isComparable(one, other);
}

/** A key that was used for another kind of operation altogether is reused like any other. */
function isUsable(result: StoredResult, request: OperationRequest): boolean {
  return result.kind === request.resultKind || result.kind === "failure";
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

/** Asking again may help, and the store may have done what it was asked. */
function isTransient(error: unknown): boolean {
  return !isSemelError(error) || error.code === "store-unavailable";
}

/** How long the store took to answer. What throws at once is a rejection like any other. */
async function timed<T>(
  clock: Clock,
  ask: () => Promise<T>,
): Promise<{ answer: T; tookMs: number }> {
  const askedAt = clock.now();
  const answer = await ask();
  return { answer, tookMs: clock.now() - askedAt };
}

function noop(): void {}

function lateAnswer(): Error {
  return new StoreUnavailable("The store did not answer in time; nothing ran");
}

function asStoreError(error: unknown): SemelError {
  if (isSemelError(error)) return error;
  return new StoreUnavailable("The store failed; nothing ran", { cause: error });
}
