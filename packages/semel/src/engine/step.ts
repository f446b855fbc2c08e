// What a handler sees of steps (EN-6).

import type { Duration } from "../duration.ts";
import type { RecordEffect } from "./effects/effects.ts";

/** What a step is given. */
export interface StepContext {
  /**
   * A key for what the step asks of others: the same in every attempt, and no other step's. A UUID
   * (version 8, RFC 9562) made of the operation's scope and key and the step's name.
   */
  readonly idempotencyKey: string;
  /** Aborts when another attempt took over. */
  readonly signal: AbortSignal;
  /** Of the operation, from 1; for downstreams that fence. */
  readonly attempt: number;
}

/** What a step is given that is a transaction. */
export interface TransactionStepContext extends StepContext {
  /** {@link Operation.effect}, kept with the commit of this step. */
  readonly effect: RecordEffect;
}

export interface StepOptions<Value> {
  /**
   * Undoes the step when the operation fails for good. It is called after those of later steps, and
   * again if an attempt crashes in it: it is given the same `idempotencyKey` then.
   */
  undo?: (value: Value, context: StepContext) => unknown;
  /**
   * How long whoever is given the `idempotencyKey` remembers it. A step that an attempt began longer
   * ago, and that nobody knows the end of, is not run again: the operation is held. It costs one
   * more write. @default for ever
   */
  keyRetention?: Duration;
}

/** Runs a step, or returns what it returned when it ran. */
export interface Step {
  /**
   * @param name of the step, unlike any other of this operation; in a loop, with its index
   * @param work is called unless a result was saved; what it does elsewhere should carry its
   * `idempotencyKey`, because it is called again when an attempt crashed before the result was saved
   * @throws what the work throws, and nothing is saved; {@link StepInvalid} for a name that is used
   * twice, in another step's work and after the operation's end; {@link StepsDiverged} when another
   * execution took another path; {@link NotSerializable}, {@link OperationHeld}, {@link AttemptSuperseded}
   */
  <Value>(
    name: string,
    work: (context: StepContext) => Value | Promise<Value>,
    options?: StepOptions<Value>,
  ): Promise<Value>;
  /**
   * A step that is a transaction of the store's own database: its result is saved in it.
   *
   * @param work is given the store's transaction: a `pg` client, a `mysql2` connection, …; what it
   * records by the `effect` of its context is kept with its commit
   */
  transaction<Transaction, Value>(
    name: string,
    work: (transaction: Transaction, context: TransactionStepContext) => Value | Promise<Value>,
    options?: Pick<StepOptions<Value>, "undo">,
  ): Promise<Value>;
}
