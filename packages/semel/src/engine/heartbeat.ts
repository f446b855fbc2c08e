// Renews the leases of running attempts at a third of their length (SM-20). Attempts with the same
// lease length are due in the order in which they began, so one timer a length serves them all.

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
}

/** A second one may find a better connection; more would only stand in the way of others. */
export const UNANSWERED_MAX = 2;

export class Heartbeat {
  readonly #clock: Clock;
  readonly #rhythms = new Map<number, Map<Leased, number>>();
  /** Renewals that the store has not answered. */
  readonly #unanswered = new Map<Leased, number>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  add(attempt: Leased): void {
    let due = this.#rhythms.get(attempt.leaseMs);
    if (due === undefined) {
      due = new Map();
      this.#rhythms.set(attempt.leaseMs, due);
      this.#schedule(attempt.leaseMs, attempt.leaseMs / 3, due);
    }
    due.set(attempt, attempt.beganAt + attempt.leaseMs / 3);
  }

  remove(attempt: Leased): void {
    this.#rhythms.get(attempt.leaseMs)?.delete(attempt);
  }

  /** Lets every lease lapse. */
  stop(): void {
    this.#rhythms.clear();
  }

  #schedule(leaseMs: number, delayMs: number, due: Map<Leased, number>): void {
    this.#clock.schedule(delayMs, () => this.#beat(leaseMs, due));
  }

  #beat(leaseMs: number, due: Map<Leased, number>): void {
    if (this.#rhythms.get(leaseMs) !== due) return;
    const now = this.#clock.now();
    for (const [attempt, at] of due) {
      if (at > now) break;
      // To the end of the queue: the order stays that of the due times.
      due.delete(attempt);
      due.set(attempt, now + leaseMs / 3);
      void this.#renew(attempt);
    }
    const [next] = due.values();
    if (next === undefined) this.#rhythms.delete(leaseMs);
    else this.#schedule(leaseMs, Math.max(1, next - now), due);
  }

  async #renew(attempt: Leased): Promise<void> {
    const unanswered = this.#unanswered.get(attempt) ?? 0;
    if (unanswered === UNANSWERED_MAX) return;
    this.#unanswered.set(attempt, unanswered + 1);
    try {
      const answer = await attempt.renew();
      if (answer.kind === "renewed") {
        publish(() => ({ type: "renewed", id: attempt.token.id, attempt: attempt.token.attempt }));
      } else if (this.#rhythms.get(attempt.leaseMs)?.has(attempt)) {
        this.remove(attempt);
        attempt.superseded();
      }
    } catch (error) {
      // The next beat tries again; until somebody takes the lapsed lease, the attempt stands.
      publish(() => ({ type: "background-failure", during: "renew", error }));
    } finally {
      const left = this.#unanswered.get(attempt)! - 1;
      if (left > 0) this.#unanswered.set(attempt, left);
      else this.#unanswered.delete(attempt);
    }
  }
}
