// Steps in a transaction, and what all steps have in common: their names, and the keys made of them.

import { hash } from "node:crypto";
import { InvalidOption, StepInvalid } from "../errors.ts";
import { assertKnownOptions, shown } from "../options.ts";
import type { Attempt } from "./attempt.ts";
import type { Step, StepContext, StepOptions } from "./step.ts";
import type { Underway } from "./underway.ts";
import { uuidDigits, uuidOf } from "./uuid.ts";

const NAME_LENGTH_MAX = 255;

/**
 * Steps in a transaction: they are rolled back or committed with it, so that nothing is saved, and
 * every repetition of the transaction runs them again, with the same keys.
 *
 * @param underway is told of each; once it is over, none may begin
 */
export function stepsOfTransaction(attempt: Attempt, underway: Underway): Step {
  const names = new Set<string>();
  const run = async <Value>(
    name: string,
    work: (context: StepContext) => Value | Promise<Value>,
    options: StepOptions<Value> = {},
  ): Promise<Value> => {
    assertName(name);
    if (underway.isOver) {
      throw new StepInvalid(`Step "${name}" was called after the end of its transaction`);
    }
    assertKnownOptions(options, ["undo", "keyRetention"], `step "${name}"`);
    if (options.undo) {
      throw new InvalidOption(
        `Step "${name}" has an \`undo\`, which needs a record of the step before the transaction's end; use run()`,
      );
    }
    if (names.has(name)) throw new StepInvalid(`Step "${name}" was called twice`);
    names.add(name);
    try {
      const { token, signal } = attempt;
      return await work({
        idempotencyKey: stepKey(token.id, name),
        signal,
        attempt: token.attempt,
      });
    } catch (error) {
      names.delete(name);
      throw error;
    }
  };
  const step = <Value>(
    name: string,
    work: (context: StepContext) => Value | Promise<Value>,
    options?: StepOptions<Value>,
  ): Promise<Value> => {
    const done = run(name, work, options);
    underway.track(done);
    return done;
  };
  const transaction = async (name: string) => {
    throw new InvalidOption(`Step "${name}" is in a transaction already; use it`);
  };
  return Object.assign(step, { transaction }) as Step;
}

/** A key for what a step asks of others. */
export function stepKey(id: string, name: string): string {
  return uuidOf(uuidDigits(hash("sha256", `step:${id}:${name}`, "hex")));
}

/** @throws {StepInvalid} */
export function assertName(name: unknown): asserts name is string {
  if (typeof name !== "string" || name === "" || name.length > NAME_LENGTH_MAX) {
    throw new StepInvalid(
      `A step's name must be a string of 1 to ${NAME_LENGTH_MAX} characters, got ${shown(name)}`,
    );
  }
}
