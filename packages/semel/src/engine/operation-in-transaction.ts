// An operation as its handler sees it in one transaction (EN-5). Each try has one of its own, so that
// what is left of an earlier one cannot add to the next; and what is under way when the handler ends is
// waited for before the transaction is, because afterwards it would be written outside of it.

import { InvalidOption } from "../errors.ts";
import type { SqlExecutor } from "../store.ts";
import type { Attempt, Operation } from "./attempt.ts";
import type { RecordEffect, TransactionEffects } from "./effects/effects.ts";
import type { Step } from "./step.ts";
import { stepsOfTransaction } from "./steps-in-transaction.ts";
import { Underway } from "./underway.ts";

export class OperationInTransaction implements Operation {
  readonly #attempt: Attempt;
  readonly #executor: SqlExecutor;
  // Made when first asked for, as most never are.
  #step: Step | undefined;
  #steps: Underway | undefined;
  #effects: TransactionEffects | undefined;
  #isOver = false;

  constructor(attempt: Attempt, executor: SqlExecutor) {
    this.#attempt = attempt;
    this.#executor = executor;
  }

  get key(): string {
    return this.#attempt.key;
  }

  get scope(): string {
    return this.#attempt.scope;
  }

  get attempt(): number {
    return this.#attempt.attempt;
  }

  get signal(): AbortSignal {
    return this.#attempt.signal;
  }

  get step(): Step {
    if (this.#step === undefined) {
      this.#steps = new Underway();
      this.#step = stepsOfTransaction(this.#attempt, this.#steps);
      if (this.#isOver) void this.#steps.finish();
    }
    return this.#step;
  }

  get effect(): RecordEffect {
    if (this.#effects === undefined) {
      // All of it is kept or nothing is, so that no other attempt has to find the same effects.
      const epoch = async () => this.#attempt.token.owner;
      this.#effects = this.#attempt.effects.within(this.#executor, epoch);
      if (this.#isOver) this.#effects.conclude().catch(ignore);
    }
    return this.#effects.record;
  }

  hold(): never {
    throw new InvalidOption(
      "hold() has no meaning in a transaction, which is committed or is not; throw, and it is rolled back",
    );
  }

  /**
   * The handler has returned, and the transaction is to commit.
   *
   * @returns `undefined` when it has neither steps nor effects: there is nothing to wait for
   * @throws what one of them failed with that nobody had waited for
   */
  conclude(): Promise<void> | undefined {
    this.#isOver = true;
    return this.#steps || this.#effects ? this.#concluded() : undefined;
  }

  async #concluded(): Promise<void> {
    // Both at once: what fails meanwhile, nobody had waited for either.
    const [steps, effects] = await Promise.allSettled([
      this.#steps?.conclude(),
      this.#effects?.conclude(),
    ]);
    for (const end of [steps, effects]) if (end.status === "rejected") throw end.reason;
    for (const error of (steps.status === "fulfilled" && steps.value) || []) throw error;
  }

  /** The handler has failed, and the transaction is to be rolled back: waits for what is under way. */
  async abandon(): Promise<void> {
    await this.conclude()?.catch(ignore);
  }

  /** The transaction has committed. */
  committed(): void {
    this.#effects?.committed();
  }

  /** Nothing of it was kept. */
  rolledBack(): void {
    this.#effects?.rolledBack();
  }
}

function ignore(): void {}
