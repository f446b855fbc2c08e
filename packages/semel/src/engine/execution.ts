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

/** Runs the handler as this attempt, and answers its caller. */
export async function execute<Value>(
  attempt: Attempt,
  handler: (operation: Operation) => Value | Promise<Value>,
  codec: Codec,
  successor: Successor,
): Promise<Outcome<Value>> {
  const run = await outcomeOfHandler(attempt, handler, codec);
  const settlement = await attempt.settle(run.end);
  if (settlement.kind === "superseded") {
    const admission = await successor(settlement);
    if (admission === undefined) throw new AttemptSuperseded();
    return outcomeOf<Value>(admission, codec);
  }
  // Also when it could not be recorded: hiding the true outcome would provoke a second one (SM-22).
  if ("error" in run) throw run.error;
  return { value: run.value, replayed: false, attempt: attempt.attempt };
}

type HandlerRun<Value> = { end: AttemptEnd; value: Value } | { end: AttemptEnd; error: unknown };

async function outcomeOfHandler<Value>(
  attempt: Attempt,
  handler: (operation: Operation) => Value | Promise<Value>,
  codec: Codec,
): Promise<HandlerRun<Value>> {
  let value: Value;
  try {
    value = await handler(attempt);
  } catch (error) {
    return { end: endAfterError(attempt.policy, error), error };
  }
  try {
    return { end: { kind: "complete", result: encoded(codec, value) }, value };
  } catch (error) {
    return {
      end: { kind: "hold", reason: `not-serializable: ${messageOf((error as Error).cause)}` },
      error,
    };
  }
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
function messageOf(error: unknown): string {
  try {
    return String(error instanceof Error ? error.message : error);
  } catch {
    return "an error without a message";
  }
}
