// Renews the leases of running attempts at a third of their length (SM-20). Attempts with the same
// lease length are due in the order in which they began, so one timer a length serves them all.

import { Chain, type Link } from "../chain.ts";
import type { Clock } from "../clock.ts";
import { publish } from "../events.ts";
import type { AttemptToken, RenewAnswer } from "../store.ts";

/** An attempt whose lease is kept alive. */
export interface Leased {
  readonly token: AttemptToken;
  readonly leaseMs: number;
  /** By the engine's clock. */
  readonly beganAt: number;
  /** Asks the store to extend the lease. */
  renew(): Promise<RenewAnswer>;
  /** The lease was taken: the attempt is fenced off. */
  superseded(): void;
  /** Its place among those whose leases are renewed. */
  beat: Beat | undefined;
}

/** What keeps the lease of one attempt alive. */
export interface Beat extends Link<Beat> {
  readonly attempt: Leased;
  /** All with leases of this length, in the order in which they are due. */
  readonly rhythm: Chain<Beat>;
  dueAt: number;
  /** Renewals that the store has not answered. */
  unanswered: number;
}

/** A second one may find a better connection; more would only stand in the way of others. */
export const UNANSWERED_MAX = 2;

export class Heartbeat {
  readonly #clock: Clock;
  /** By the length of the lease. */
  readonly #rhythms = new Map<number, Chain<Beat>>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  add(attempt: Leased): void {
    const { leaseMs } = attempt;
    let rhythm = this.#rhythms.get(leaseMs);
    if (rhythm === undefined) {
      rhythm = new Chain();
      this.#rhythms.set(leaseMs, rhythm);
      this.#schedule(leaseMs, leaseMs / 3, rhythm);
    }
    const dueAt = attempt.beganAt + leaseMs / 3;
    const link = { before: undefined, after: undefined };
    attempt.beat = { attempt, rhythm, dueAt, unanswered: 0, ...link };
    rhythm.add(attempt.beat);
  }

  remove(attempt: Leased): void {
    const { beat } = attempt;
    beat?.rhythm.delete(beat);
    attempt.beat = undefined;
  }

  /** Lets every lease lapse. */
  stop(): void {
    this.#rhythms.clear();
  }

  #schedule(leaseMs: number, delayMs: number, rhythm: Chain<Beat>): void {
    this.#clock.schedule(delayMs, () => this.#beat(leaseMs, rhythm));
  }

  #beat(leaseMs: number, rhythm: Chain<Beat>): void {
    if (this.#rhythms.get(leaseMs) !== rhythm) return;
    const now = this.#clock.now();
    let { first } = rhythm;
    for (; first !== undefined && first.dueAt <= now; first = rhythm.first) {
      first.dueAt = now + leaseMs / 3;
      rhythm.toEnd(first);
      void this.#renew(first);
    }
    if (first === undefined) this.#rhythms.delete(leaseMs);
    else this.#schedule(leaseMs, Math.max(1, first.dueAt - now), rhythm);
  }

  async #renew(beat: Beat): Promise<void> {
    if (beat.unanswered === UNANSWERED_MAX) return;
    beat.unanswered++;
    const { attempt, rhythm } = beat;
    try {
      const answer = await attempt.renew();
      if (answer.kind === "renewed") {
        publish(() => ({ type: "renewed", id: attempt.token.id, attempt: attempt.token.attempt }));
      } else if (attempt.beat === beat && this.#rhythms.get(attempt.leaseMs) === rhythm) {
        this.remove(attempt);
        attempt.superseded();
      }
    } catch (error) {
      // The next beat tries again; until somebody takes the lapsed lease, the attempt stands.
      publish(() => ({ type: "background-failure", during: "renew", error }));
    } finally {
      beat.unanswered--;
    }
  }
}
