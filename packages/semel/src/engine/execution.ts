// Runs a handler as an attempt and turns what came of it into the caller's answer. All policy on
// failures (SM-24) stands here.

import type { Codec } from "../codec.ts";
import {
  AttemptSuperseded,
  KeyExpired,
  KeyReused,
  NotApplied,
  NotSerializable,
  OperationBusy,
  OperationFailed,
  OperationHeld,
  OperationVoid,
  RecordUnreadable,
  ResultNotStored,
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
    return { end: { kind: "complete", result: valueResult(codec.encode(value)) }, value };
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    const error = new NotSerializable(
      `The handler ran, but its value cannot be stored: ${why}. The operation is held; return plain data, or set \`codec\``,
      { cause },
    );
    return { end: { kind: "hold", reason: `not-serializable: ${why}` }, error };
  }
}

/** SM-24: what a handler's error does to its operation. */
export function endAfterError(policy: Policy, error: unknown): AttemptEnd {
  if (error instanceof NotApplied) return { kind: "release" };
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
        return { kind: "run", attempt, probe: false };
      default:
        return hold(attempt, "probe-unknown: the probe could not tell");
    }
  } catch (error) {
    return hold(attempt, `probe-failed: ${messageOf(error)}`);
  }
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
  try {
    return { value: codec.decode(result.bytes) as Value, replayed: true, attempt };
  } catch (cause) {
    throw new RecordUnreadable("The stored value cannot be decoded by this codec", { cause });
  }
}

/** The error that says why a request does not run. */
export function refusal(admission: Exclude<Admission, { kind: "replay" }>): Error {
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

export function valueResult(bytes: Uint8Array): StoredResult {
  return { kind: "value", omitted: false, bytes };
}

function failureResult(error: unknown): StoredResult {
  const name = error instanceof Error ? error.name : "Error";
  const failure = JSON.stringify({ name, message: messageOf(error) });
  return { kind: "failure", omitted: false, bytes: Buffer.from(failure) };
}

/** The failure of the first attempt, as far as it was kept: its name and message. */
function storedFailure(result: StoredResult): Error {
  try {
    const { name, message } = JSON.parse(Buffer.from(result.bytes).toString());
    const error = new Error(String(message));
    error.name = String(name);
    return error;
  } catch (cause) {
    throw new RecordUnreadable("The stored failure cannot be decoded", { cause });
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
