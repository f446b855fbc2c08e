// Runs a handler as an attempt and turns what came of it into the caller's answer. All policy on
// failures (SM-24) stands here.

import type { Codec } from "../codec.ts";
import {
  AttemptSuperseded,
  isSemelError,
  KeyExpired,
  KeyReused,
  NotSerializable,
  OperationBusy,
  OperationFailed,
  OperationHeld,
  OperationVoid,
  RecordUnreadable,
  ResultNotStored,
  type SemelError,
} from "../errors.ts";
import type { Admission } from "./admission.ts";
import type { Attempt, AttemptEnd, Operation, Settlement } from "./attempt.ts";
import type { StoredResult } from "./envelope.ts";
import type { Policy } from "./policy.ts";
import type { UndoFailure } from "./steps.ts";

/** The answer to every caller of an operation. */
export interface Outcome<Value> {
  /** The same for every caller. */
  value: Value;
  /** `false` for the attempt that ran it. */
  replayed: boolean;
  /** The number of the attempt that made the value. */
  attempt: number;
}

/** What stands instead of a superseded attempt, if anything does. */
export type Successor = (settlement: Settlement) => Promise<Admission | undefined>;

/** What an attempt came to. */
export interface Performance<Value> {
  made: { value: Value } | { error: unknown };
  /** How it ended: not always as the handler did. */
  end: AttemptEnd;
  settlement: Settlement;
}

/** Runs the handler as this attempt, and answers its caller. */
export async function execute<Value>(
  attempt: Attempt,
  handler: (operation: Operation) => Value | Promise<Value>,
  codec: Codec,
  successor: Successor,
): Promise<Outcome<Value>> {
  const { made, settlement } = await perform(attempt, handler, codec);
  if (settlement.kind === "superseded") return outcomeOfSuccessor(settlement, codec, successor);
  // Also when it could not be recorded: hiding the true outcome would provoke a second one (SM-22).
  if ("error" in made) throw made.error;
  return { value: made.value, replayed: false, attempt: attempt.attempt };
}

/** Ends an attempt whose work was done elsewhere, and answers its caller as {@link execute} does. */
export async function complete<Value>(
  attempt: Attempt,
  value: Value,
  result: StoredResult,
  codec: Codec,
  successor: Successor,
): Promise<Outcome<Value>> {
  const settlement = await attempt.settle({ kind: "complete", result });
  if (settlement.kind === "superseded") return outcomeOfSuccessor(settlement, codec, successor);
  return { value, replayed: false, attempt: attempt.attempt };
}

async function outcomeOfSuccessor<Value>(
  settlement: Settlement,
  codec: Codec,
  successor: Successor,
): Promise<Outcome<Value>> {
  const admission = await successor(settlement);
  if (admission === undefined) throw new AttemptSuperseded();
  return outcomeOf<Value>(admission, codec);
}

/** What failures do to an operation. */
export interface FailurePolicy {
  /** The handler threw. */
  endAfter(error: unknown): AttemptEnd;
  /** It failed for good, and could not be undone. @default it is held */
  endAfterUndo?(failure: UndoFailure): AttemptEnd;
}

/** Runs the handler as this attempt, and ends it. Never throws. */
export async function perform<Value>(
  attempt: Attempt,
  handler: (operation: Operation) => Value | Promise<Value>,
  codec: Codec,
  failures: FailurePolicy = { endAfter: (error) => endAfterError(attempt.policy, error) },
): Promise<Performance<Value>> {
  let run: Omit<Performance<Value>, "settlement">;
  try {
    run = await outcomeOfHandler(attempt, handler, codec, failures);
  } catch (error) {
    // An error that cannot even be read: without an end its lease would be renewed for good.
    run = {
      end: { kind: "hold", reason: `failure-unreadable: ${messageOf(error)}` },
      made: { error },
    };
  }
  const settlement = await attempt.settle(run.end);
  return { made: run.made, end: attempt.end ?? run.end, settlement };
}

async function outcomeOfHandler<Value>(
  attempt: Attempt,
  handler: (operation: Operation) => Value | Promise<Value>,
  codec: Codec,
  { endAfter, endAfterUndo = holdAfterUndo }: FailurePolicy,
): Promise<Omit<Performance<Value>, "settlement">> {
  let value: Value;
  try {
    value = await attempt.calling(() => handler(attempt));
    const concluded = attempt.conclude();
    if (concluded !== undefined) await concluded;
    // It went on as if it had not failed before.
    if (attempt.failure) throw new OperationFailed(attempt.failure);
  } catch (error) {
    const { failure } = attempt;
    const end: AttemptEnd = failure
      ? { kind: "complete", result: failureResult(failure) }
      : endAfter(error);
    const notUndone = end.kind === "complete" ? await attempt.undo(rootOf(error)) : undefined;
    if (notUndone === undefined) return { end, made: { error } };
    const cause = new Error(notUndone.reason, { cause: notUndone.error });
    return { end: endAfterUndo(notUndone), made: { error: cause } };
  }
  const reason = attempt.heldBecause;
  if (reason !== undefined) {
    return { end: { kind: "hold", reason }, made: { error: new OperationHeld(reason) } };
  }
  try {
    return { end: { kind: "complete", result: encoded(codec, value) }, made: { value } };
  } catch (error) {
    const why = messageOf((error as Error).cause);
    return { end: { kind: "hold", reason: `not-serializable: ${why}` }, made: { error } };
  }
}

function holdAfterUndo({ reason }: UndoFailure): AttemptEnd {
  return { kind: "hold", reason };
}

/**
 * A value as a result to keep.
 *
 * @throws {NotSerializable}
 */
export function encoded(codec: Codec, value: unknown): StoredResult {
  try {
    return { kind: "value", omitted: false, bytes: codec.encode(value) };
  } catch (cause) {
    throw new NotSerializable(
      `The value of an operation cannot be stored: ${messageOf(cause)}. Return plain data, or set \`codec\`; an operation whose handler returned it is held`,
      { cause },
    );
  }
}

/**
 * The value of a kept result.
 *
 * @throws {RecordUnreadable}
 */
export function decoded(codec: Codec, result: StoredResult): unknown {
  try {
    return codec.decode(result.bytes);
  } catch (cause) {
    throw new RecordUnreadable("The stored value cannot be decoded by this codec", { cause });
  }
}

/** SM-24: what a handler's error does to its operation. */
export function endAfterError(policy: Policy, error: unknown): AttemptEnd {
  if (isSemelError(error) && error.code === "not-applied") return { kind: "release" };
  switch (policy.onError) {
    case "release":
      return { kind: "release" };
    case "hold":
      return { kind: "hold", reason: `handler-failed: ${messageOf(error)}` };
    case "store":
      return { kind: "complete", result: failureResult(error) };
  }
}

/**
 * Settles an attempt by its probe: the crashed attempt before it either was applied, or was not, or
 * nobody knows (SM-4).
 */
export async function settleByProbe(
  attempt: Attempt,
  encode: (value: unknown) => StoredResult,
): Promise<Admission | Settlement> {
  const { probe } = attempt.policy;
  if (probe === undefined) return hold(attempt, "probe-missing: this process has no probe for it");
  try {
    const verdict = await probe(attempt);
    switch (verdict.outcome) {
      case "applied": {
        const result = encode(verdict.value);
        const settlement = await attempt.settle({ kind: "complete", result });
        if (settlement.kind === "superseded") return settlement;
        const expiresInMs = attempt.policy.retentionMs;
        return { kind: "replay", attempt: attempt.attempt, result, expiresInMs };
      }
      case "not-applied":
        return attempt.isSuperseded ? giveUp(attempt) : { kind: "run", attempt, probe: false };
      default:
        return hold(attempt, "probe-unknown: the probe could not tell");
    }
  } catch (error) {
    return hold(attempt, `probe-failed: ${messageOf(error)}`);
  }
}

/** The lease was lost while the probe ran: the handler must not. */
async function giveUp(attempt: Attempt): Promise<Settlement> {
  const settlement = await attempt.settle({ kind: "release" });
  return settlement.kind === "superseded" ? settlement : { kind: "superseded", record: undefined };
}

async function hold(attempt: Attempt, reason: string): Promise<Admission | Settlement> {
  const settlement = await attempt.settle({ kind: "hold", reason });
  return settlement.kind === "superseded" ? settlement : { kind: "held", reason };
}

/** Why there is nothing to give where a result was resolved by hand as one of another kind. */
export const OF_ANOTHER_KIND =
  "the result recorded for it is of a kind that cannot be given to this caller";

/**
 * The answer to a caller whose request did not run.
 *
 * @throws the error for every admission that is not a replay
 */
export function outcomeOf<Value>(admission: Admission, codec: Codec): Outcome<Value> {
  if (admission.kind !== "replay") throw refusal(admission);
  const { result, attempt } = admission;
  if (result.omitted) throw new ResultNotStored();
  if (result.kind === "failure") throw new OperationFailed(storedFailure(result));
  if (result.kind !== "value") throw new ResultNotStored(OF_ANOTHER_KIND);
  return { value: decoded(codec, result) as Value, replayed: true, attempt };
}

/** The error that says why a request does not run. */
export function refusal(admission: Exclude<Admission, { kind: "replay" }>): SemelError {
  switch (admission.kind) {
    case "busy":
      return new OperationBusy(admission.retryAfterMs);
    case "mismatch":
      return new KeyReused();
    case "held":
      return new OperationHeld(admission.reason);
    case "void":
      return new OperationVoid();
    case "late":
      return new KeyExpired();
    case "run":
      return new AttemptSuperseded();
  }
}

export function isOperationFailed(error: unknown): error is OperationFailed {
  return isSemelError(error) && error.code === "operation-failed";
}

/** What an operation failed with, where the error only says that it failed. */
export function rootOf(error: unknown): unknown {
  return isOperationFailed(error) ? (error.cause ?? error) : error;
}

export function failureResult(error: unknown): StoredResult {
  const name = error instanceof Error ? String(error.name) : "Error";
  const failure = JSON.stringify({ name, message: messageOf(error) });
  return { kind: "failure", omitted: false, bytes: Buffer.from(failure) };
}

/** The failure of the first attempt, as far as it was kept: its name and message. */
export function storedFailure(result: StoredResult): Error {
  try {
    const { name, message } = JSON.parse(Buffer.from(result.bytes).toString());
    const error = new Error(String(message));
    error.name = String(name);
    return error;
  } catch (cause) {
    throw new RecordUnreadable("The stored failure cannot be decoded", { cause });
  }
}

/** Never throws: a handler may throw anything at all. */
export function messageOf(error: unknown): string {
  try {
    return String(error instanceof Error ? error.message : error);
  } catch {
    return "an error without a message";
  }
}
