// The record's life as a small pure function, which the suite compares stores with: what a store
// must answer to an operation, and what the record is afterwards.

import type {
  BeginAnswer,
  Claim,
  Ending,
  Renewal,
  Resolution,
  ResolveAnswer,
  StoredRecord,
  UnusedAttempt,
  VoidRequest,
} from "../store.ts";

/** A record in the model; deadlines are in the model's own time. */
export interface ModelRecord
  extends Pick<
    StoredRecord,
    "state" | "attempt" | "owner" | "fingerprint" | "onCrash" | "crashes"
  > {
  leaseUntil: number;
  /** `null`: kept until resolved. */
  expiresAt: number | null;
  /** As text. */
  result: string | null;
  reason: string | null;
}

export type ModelOperation =
  | { kind: "begin"; claim: Claim }
  | { kind: "settle"; ending: Ending }
  | { kind: "give-back"; unused: UnusedAttempt }
  | { kind: "renew"; renewal: Renewal }
  | { kind: "resolve"; resolution: Resolution }
  | { kind: "void"; request: VoidRequest }
  | { kind: "delete" };

/** The answer without remaining times, and with bytes as text. */
export type ModelAnswer = { kind: string; [detail: string]: unknown };

export interface ModelStep {
  answer: ModelAnswer;
  record: ModelRecord | undefined;
}

/** One transition of the record, if there is one, at a time. */
export function modelStep(
  before: ModelRecord | undefined,
  operation: ModelOperation,
  now: number,
): ModelStep {
  const record = modelAt(before, now);
  switch (operation.kind) {
    case "begin":
      return begin(record, operation.claim, now);
    case "settle":
      return settle(record, operation.ending, now);
    case "give-back":
      return giveBack(record, operation.unused, now);
    case "renew":
      return renew(record, operation.renewal, now);
    case "resolve":
      return resolve(record, operation.resolution, now);
    case "void":
      return voidIt(record, operation.request, now);
    case "delete":
      if (record === undefined) return { answer: { kind: "absent" }, record };
      if (isLive(record, now)) return { answer: { kind: "busy" }, record };
      return { answer: { kind: "deleted" }, record: undefined };
  }
}

/** What is left of a record at a time: nothing, once it has expired. */
export function modelAt(record: ModelRecord | undefined, now: number): ModelRecord | undefined {
  const expired = record !== undefined && record.expiresAt !== null && record.expiresAt <= now;
  return expired ? undefined : record;
}

/** An answer of a store in the terms of the model. */
export function comparable(answer: BeginAnswer | ResolveAnswer | { kind: string }): ModelAnswer {
  const { leaseRemainingMs: _lease, expiresInMs: _expiry, result, ...rest } = answer as ModelAnswer;
  if (!(result instanceof Uint8Array)) return rest;
  return { ...rest, result: Buffer.from(result).toString() };
}

function isLive(record: ModelRecord, now: number): boolean {
  return record.state === "running" && record.leaseUntil > now;
}

function begin(record: ModelRecord | undefined, claim: Claim, now: number): ModelStep {
  if (record === undefined) {
    return acquired({ attempt: 1, crashes: 0, onCrash: claim.onCrash }, claim, now);
  }
  const { attempt, crashes, onCrash, reason, result, state } = record;
  if (record.fingerprint !== "" && record.fingerprint !== claim.fingerprint) {
    return { answer: { kind: "mismatch", fingerprint: record.fingerprint }, record };
  }
  switch (state) {
    case "completed":
      return { answer: { kind: "done", attempt, result }, record };
    case "held":
      return { answer: { kind: "held", attempt, reason }, record };
    case "void":
      return { answer: { kind: "void" }, record };
    case "open":
      return acquired({ attempt: attempt + 1, crashes, onCrash: claim.onCrash }, claim, now);
    case "running":
      break;
  }
  if (record.owner === claim.owner) return acquired({ attempt, crashes, onCrash }, claim, now);
  if (isLive(record, now)) return { answer: { kind: "busy", attempt }, record };
  if (onCrash === "hold") return held(record, "lease-lapsed", claim.heldRetentionMs, now);
  if (crashes + 1 >= claim.attemptsMax) {
    return held(record, "attempts-exhausted", claim.heldRetentionMs, now);
  }
  return acquired({ attempt: attempt + 1, crashes: crashes + 1, onCrash }, claim, now);
}

function acquired(
  next: Pick<ModelRecord, "attempt" | "crashes" | "onCrash">,
  { owner, fingerprint, leaseMs, lapsedRetentionMs }: Claim,
  now: number,
): ModelStep {
  const leaseUntil = now + leaseMs;
  return {
    answer: {
      kind: "acquired",
      attempt: next.attempt,
      probe: next.onCrash === "probe" && next.crashes > 0,
    },
    record: {
      ...next,
      state: "running",
      owner,
      fingerprint,
      leaseUntil,
      expiresAt: end(leaseUntil, lapsedRetentionMs),
      result: null,
      reason: null,
    },
  };
}

function held(
  record: ModelRecord,
  reason: string,
  retentionMs: number | null,
  now: number,
): ModelStep {
  const { attempt } = record;
  return {
    answer: { kind: "held", attempt, reason },
    record: { ...record, state: "held", reason, expiresAt: end(now, retentionMs) },
  };
}

function settle(record: ModelRecord | undefined, ending: Ending, now: number): ModelStep {
  if (!isRunning(record, ending)) return { answer: { kind: "stale" }, record };
  const expiresAt = end(now, ending.retentionMs);
  const answer = { kind: "settled" };
  switch (ending.kind) {
    case "complete": {
      const result = textOf(ending.result);
      return { answer, record: { ...record, state: "completed", result, expiresAt } };
    }
    case "release":
      return { answer, record: { ...record, state: "open", expiresAt } };
    case "hold":
      return { answer, record: { ...record, state: "held", reason: ending.reason, expiresAt } };
  }
}

function giveBack(record: ModelRecord | undefined, unused: UnusedAttempt, now: number): ModelStep {
  if (!isRunning(record, unused)) return { answer: { kind: "stale" }, record };
  const attempt = record.attempt - 1;
  const expiresAt = end(now, unused.retentionMs);
  return { answer: { kind: "settled" }, record: { ...record, state: "open", attempt, expiresAt } };
}

function renew(record: ModelRecord | undefined, renewal: Renewal, now: number): ModelStep {
  if (!isRunning(record, renewal)) return { answer: { kind: "stale" }, record };
  const leaseUntil = now + renewal.leaseMs;
  const expiresAt = end(leaseUntil, renewal.lapsedRetentionMs);
  return { answer: { kind: "renewed" }, record: { ...record, leaseUntil, expiresAt } };
}

function resolve(record: ModelRecord | undefined, resolution: Resolution, now: number): ModelStep {
  if (record === undefined) return { answer: { kind: "absent" }, record };
  const lapsed = record.state === "running" && !isLive(record, now);
  if (record.state !== "held" && !(lapsed && record.onCrash !== "rerun")) {
    return { answer: { kind: "refused", state: record.state }, record };
  }
  const completed = resolution.kind === "complete";
  return {
    answer: { kind: "resolved" },
    record: {
      ...record,
      state: completed ? "completed" : "open",
      result: completed ? textOf(resolution.result) : null,
      reason: null,
      expiresAt: now + resolution.retentionMs,
    },
  };
}

function voidIt(record: ModelRecord | undefined, request: VoidRequest, now: number): ModelStep {
  if (record?.state === "completed") return { answer: { kind: "completed" }, record };
  if (record && isLive(record, now)) return { answer: { kind: "busy" }, record };
  const answer = { kind: "voided" };
  if (record?.state === "void") return { answer, record };
  const base = record ?? {
    attempt: 0,
    crashes: 0,
    owner: "",
    fingerprint: "",
    onCrash: "hold" as const,
    result: null,
    reason: null,
    leaseUntil: 0,
  };
  return { answer, record: { ...base, state: "void", expiresAt: now + request.retentionMs } };
}

/** SM-17: whether the record is running this very attempt. */
function isRunning(
  record: ModelRecord | undefined,
  token: { attempt: number; owner: string },
): record is ModelRecord {
  return (
    record?.state === "running" && record.attempt === token.attempt && record.owner === token.owner
  );
}

function end(from: number, retentionMs: number | null): number | null {
  return retentionMs === null ? null : from + retentionMs;
}

function textOf(result: Uint8Array): string {
  return Buffer.from(result).toString();
}
