// One attempt at a durable operation, in a worker or where it was asked for, and what comes of it.

import type { Codec } from "../../codec.ts";
import { type ErrorCode, isSemelError, OperationFailed, PayloadInvalid } from "../../errors.ts";
import type { Attempt, AttemptEnd } from "../attempt.ts";
import { failureResult, isOperationFailed, messageOf, perform, rootOf } from "../execution.ts";
import { isWorthRetrying } from "../queue/retrying.ts";
import { type Definition, validated } from "./definition.ts";

/** What an attempt came to. */
export type DurableEnd =
  | { kind: "completed"; value: unknown }
  /** It failed for good: its steps are undone, and the failure is its result. */
  | { kind: "failed"; error: unknown }
  /** It failed, and is to be tried again. */
  | { kind: "released"; error: unknown }
  | { kind: "held"; reason: string }
  /** Another attempt took over. */
  | { kind: "superseded" }
  /** The store could not be told; `made` is what happened. */
  | { kind: "unrecorded"; made: { value: unknown } | { error: unknown } };

/**
 * Runs the handler as this attempt, and ends it.
 *
 * @param input as it was stored
 * @param tries how many attempts there have been, this one included
 */
export async function attemptDurable(
  definition: Definition,
  attempt: Attempt,
  input: Uint8Array,
  tries: number,
  codec: Codec,
): Promise<DurableEnd> {
  const { attemptsMax } = definition.retrying;
  if (tries > attemptsMax) {
    attempt.holdBecause(`attempts-exhausted: ${tries - 1} attempts have failed or crashed`);
  }
  const { made, end, settlement } = await perform(
    attempt,
    async (operation) => {
      if (attempt.heldBecause !== undefined) return undefined;
      const given = await inputOf(definition, attempt, input, codec);
      return definition.handler(given, operation);
    },
    codec,
    {
      endAfter: (error) => endAfter(definition, attempt, error, tries),
      // What is left to undo is left to the next attempt.
      endAfterUndo: ({ reason }) =>
        tries < attemptsMax ? { kind: "release" } : { kind: "hold", reason },
    },
  );
  if (settlement.kind === "superseded") return { kind: "superseded" };
  if (settlement.kind === "unrecorded") return { kind: "unrecorded", made };
  switch (end.kind) {
    case "hold":
      return { kind: "held", reason: end.reason };
    case "release":
      return { kind: "released", error: "error" in made ? made.error : undefined };
    case "complete":
      return "error" in made
        ? { kind: "failed", error: made.error }
        : { kind: "completed", value: made.value };
  }
}

/** What was stored, as the handler takes it. One that is no input any more needs a person. */
async function inputOf(
  definition: Definition,
  attempt: Attempt,
  stored: Uint8Array,
  codec: Codec,
): Promise<unknown> {
  let input: unknown;
  try {
    input = codec.decode(stored);
  } catch (cause) {
    attempt.holdBecause(`input-unreadable: ${messageOf(cause)}`);
    throw new PayloadInvalid("The stored input cannot be decoded by this codec", { cause });
  }
  try {
    return await validated(definition, input);
  } catch (error) {
    if (isSemelError(error) && error.code === "payload-invalid") {
      attempt.holdBecause(`input-invalid: ${error.message}`);
    }
    throw error;
  }
}

const TRANSIENT = new Set<ErrorCode>([
  "attempt-superseded",
  "closed",
  "operation-in-progress",
  "store-full",
  "store-unavailable",
]);

/**
 * Whether it is of Semel's own and passes: that is never an operation's end. A step whose result could
 * not be saved has run, and the next attempt finds out what came of it.
 */
function isTransient(error: unknown): boolean {
  return isSemelError(error) && TRANSIENT.has(error.code);
}

/** What a handler's error does to its operation. */
function endAfter(
  { retrying, onExhausted }: Definition,
  { token }: Attempt,
  error: unknown,
  tries: number,
): AttemptEnd {
  const mayPass =
    isTransient(error) || (!isOperationFailed(error) && isWorthRetrying(retrying, error, token.id));
  if (mayPass && tries < retrying.attemptsMax) return { kind: "release" };
  if (!mayPass || onExhausted === "fail") {
    return { kind: "complete", result: failureResult(rootOf(error)) };
  }
  return { kind: "hold", reason: `attempts-exhausted: ${messageOf(error)}` };
}

/** The failure of an operation, as every caller gets it. */
export function failureOf(error: unknown): OperationFailed {
  const cause = rootOf(error);
  return new OperationFailed(cause instanceof Error ? cause : new Error(messageOf(cause)));
}
