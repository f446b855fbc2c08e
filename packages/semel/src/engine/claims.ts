// Claims operations of the store: within a bounded time, once more where a reply was lost, and what was
// claimed for nobody is given back.

import type { Clock } from "../clock.ts";
import type { Deadlines } from "../deadlines.ts";
import { isSemelError, StoreUnavailable } from "../errors.ts";
import { publish } from "../events.ts";
import { backoffMs, bounded, breather, pause } from "../retry.ts";
import type { BeginAnswer, Claim, RecordId, Store, StoredRecord } from "../store.ts";

export interface ClaimsHost {
  readonly store: Store;
  readonly clock: Clock;
  random(): number;
  /** How long the store may take to answer, in milliseconds. */
  readonly storeTimeoutMs: number;
  /** Bounds every first question by it. */
  readonly questions: Deadlines;
}

/** What is made of an answer. A time that it states is as it was at `askedAt`. */
export type Heard<Result> = (
  answer: BeginAnswer,
  askedAt: number,
  now: number,
) => Result | Promise<Result>;

/** What the store was asked, and since when. */
interface Question {
  claim: Claim;
  retentionMs: number;
  askedAt: number;
  asked: Promise<BeginAnswer>;
}

const AGAIN_BACKOFF = { baseMs: 50, capMs: 50 };
/** Of its lease, what a claim may have used up when its answer arrives. */
const LEASE_SHARE_MAX = 2 / 3;
/** How a claim whose reply was lost is looked for, to give it back. */
const ABANDON = { baseMs: 250, capMs: 5_000, triesMax: 20, atOnceMax: 1_000 };

export class Claims {
  readonly #host: ClaimsHost;
  #abandoning = 0;

  constructor(host: ClaimsHost) {
    this.#host = host;
  }

  /**
   * Asks the store for a claim.
   *
   * @param retentionMs how long an operation is kept whose claim has to be given back
   * @throws what the store throws, or {@link StoreUnavailable} when it does not answer; nothing may run
   */
  begin<Result>(claim: Claim, retentionMs: number, heard: Heard<Result>): Promise<Result> {
    const { store, clock, questions } = this.#host;
    const askedAt = clock.now();
    const question = { claim, retentionMs, askedAt, asked: ask(store, claim) };
    return questions.within(question.asked, lateAnswer, askedAt).then(
      (answer) => this.#hear(question, heard, answer),
      (error) => this.#beginAgain(question, heard, error),
    );
  }

  /**
   * {@link begin} for many, of one retention: one wait for the answers to all of them, as long as none
   * fails. Resolves once they are there; what is left to do then is a promise among the results.
   *
   * @param heard is told of each by its place
   */
  async beginTogether<Result>(
    claims: readonly Claim[],
    retentionMs: number,
    heard: (place: number) => Heard<Result>,
  ): Promise<(Result | Promise<Result>)[]> {
    const { store, clock, questions, storeTimeoutMs } = this.#host;
    const askedAt = clock.now();
    const asking = claims.map((claim) => ask(store, claim));
    const question = (place: number): Question => {
      return { claim: claims[place]!, retentionMs, askedAt, asked: asking[place]! };
    };
    try {
      const answers = await questions.within(Promise.all(asking), lateAnswer, askedAt);
      return answers.map((answer, place) => this.#hear(question(place), heard(place), answer));
    } catch {
      // One has failed, or is late: each for itself, with the time that is left.
      const leftMs = Math.max(1, askedAt + storeTimeoutMs - clock.now());
      return asking.map((asked, place) =>
        bounded(clock, asked, leftMs, lateAnswer).then(
          (answer) => this.#hear(question(place), heard(place), answer),
          (error) => this.#beginAgain(question(place), heard(place), error),
        ),
      );
    }
  }

  #hear<Result>(
    question: Question,
    heard: Heard<Result>,
    answer: BeginAnswer,
  ): Result | Promise<Result> {
    const { claim, askedAt } = question;
    const now = this.#host.clock.now();
    if (isTooLate(answer, now - askedAt, claim)) {
      return this.#beginAgain(question, heard, lateAnswer());
    }
    return heard(answer, askedAt, now);
  }

  /** A lost reply is asked for again with the same owner (SM-16). */
  async #beginAgain<Result>(
    { claim, retentionMs, askedAt, asked }: Question,
    heard: Heard<Result>,
    error: unknown,
  ): Promise<Result> {
    const { store, clock, storeTimeoutMs } = this.#host;
    const remainingMs = () => askedAt + storeTimeoutMs - clock.now();
    const delayMs = backoffMs(AGAIN_BACKOFF, 1, () => this.#host.random());
    if (!isTransient(error) || delayMs >= remainingMs()) {
      if (isTransient(error)) void this.#abandon(claim, asked, retentionMs);
      throw error;
    }
    await breather(clock, delayMs);
    const againAt = clock.now();
    const again = ask(store, claim);
    let answer: BeginAnswer;
    try {
      answer = await bounded(clock, again, Math.max(1, remainingMs()), lateAnswer);
      if (isTooLate(answer, clock.now() - againAt, claim)) throw lateAnswer();
    } catch (error) {
      void this.#abandon(claim, again, retentionMs);
      throw error;
    }
    return heard(answer, againAt, clock.now());
  }

  /** The live record, asked for within a bounded time. */
  read(id: RecordId): Promise<StoredRecord | undefined> {
    const { store, questions } = this.#host;
    return questions.within(store.read(id), lateAnswer);
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

  /**
   * Gives the claim back, if the store has it: it counts as no attempt where the store can say so.
   *
   * @returns whether nothing is left to do
   */
  async #giveBack({ id, owner }: Claim, retentionMs: number): Promise<boolean> {
    const { store, questions } = this.#host;
    const record = await this.read(id);
    if (record?.state !== "running" || record.owner !== owner) return false;
    // What became of the attempt before this one is not known: its probe has to find out.
    if (record.onCrash === "probe" && record.crashes > 0) return true;
    const unused = { id, attempt: record.attempt, owner, retentionMs };
    const given = store.giveBack?.(unused) ?? store.settle({ kind: "release", ...unused });
    await questions.within(given, lateAnswer);
    return true;
  }
}

/** Asking again may help, and the store may have done what it was asked. */
export function isTransient(error: unknown): boolean {
  return !isSemelError(error) || error.code === "store-unavailable";
}

export function lateAnswer(): Error {
  return new StoreUnavailable("The store did not answer in time; nothing ran");
}

/** What the store answers. What throws at once is a rejection like any other. */
function ask(store: Store, claim: Claim): Promise<BeginAnswer> {
  try {
    return store.begin(claim);
  } catch (error) {
    return Promise.reject(error);
  }
}

/** The first heartbeat would come too late: by then the lease may be somebody else's. */
function isTooLate(answer: BeginAnswer, tookMs: number, { leaseMs }: Claim): boolean {
  return answer.kind === "acquired" && tookMs > leaseMs * LEASE_SHARE_MAX;
}

function noop(): void {}
