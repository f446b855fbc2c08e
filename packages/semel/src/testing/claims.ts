// Builders of what the suite sends to a store, and assertions on what comes back. Times are spaced
// so widely that a store on a real clock may lose seconds in a case without changing its outcome.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { recordId } from "../key.ts";
import type {
  AttemptToken,
  BeginAnswer,
  Claim,
  CrashPolicy,
  Ending,
  RenewAnswer,
  Renewal,
  SettleAnswer,
  Store,
  StoredRecord,
  VoidRequest,
} from "../store.ts";
import type { StoreHarness } from "./store-harness.ts";

export const LEASE_MS = 60_000;
export const RETENTION_MS = 3_600_000;
export const LAPSED_RETENTION_MS = 86_400_000;
export const DECADE_MS = 10 * 365 * 86_400_000;
/** How much real time a case may take on a store whose clock cannot be injected. */
export const DRIFT_MS_MAX = 20_000;

export const CRASH_POLICIES: readonly CrashPolicy[] = ["rerun", "hold", "probe"];
export const STALE = { kind: "stale" } as const;
export const SETTLED = { kind: "settled" } as const;
export const RENEWED = { kind: "renewed" } as const;

export type ClaimParts = Partial<Omit<Claim, "id">>;

/** A nonce as the engine makes them. */
export function newOwner(): string {
  return randomBytes(16).toString("hex");
}

/** A claim of a fresh operation, by a fresh owner, unless said otherwise. */
export function claimOf(parts: ClaimParts = {}): Claim {
  const { scope = "tenant", key = `order-${randomBytes(8).toString("hex")}` } = parts;
  const keepsLapsed = parts.onCrash === "hold" || parts.onCrash === "probe";
  return {
    fingerprint: "v1:payload",
    owner: newOwner(),
    leaseMs: LEASE_MS,
    onCrash: "rerun",
    attemptsMax: 10,
    lapsedRetentionMs: keepsLapsed ? null : LAPSED_RETENTION_MS,
    heldRetentionMs: null,
    ...parts,
    scope,
    key,
    id: recordId(scope, key),
  };
}

/** Another request of the same operation: a fresh owner, the rest alike unless said otherwise. */
export function duplicateOf(claim: Claim, parts: ClaimParts = {}): Claim {
  return { ...claim, owner: newOwner(), ...parts, id: claim.id };
}

export function completion(
  token: AttemptToken,
  result: Uint8Array | string = "result",
  retentionMs = RETENTION_MS,
): Ending {
  return { ...tokenOf(token), kind: "complete", result: bytesOf(result), retentionMs };
}

export function release(token: AttemptToken, retentionMs = RETENTION_MS): Ending {
  return { ...tokenOf(token), kind: "release", retentionMs };
}

export function hold(
  token: AttemptToken,
  reason = "unsure",
  retentionMs: number | null = null,
): Ending {
  return { ...tokenOf(token), kind: "hold", reason, retentionMs };
}

export function renewal(
  token: AttemptToken,
  parts: Partial<Omit<Renewal, keyof AttemptToken>> = {},
): Renewal {
  return {
    ...tokenOf(token),
    leaseMs: LEASE_MS,
    lapsedRetentionMs: LAPSED_RETENTION_MS,
    ...parts,
  };
}

export function voiding(claim: Claim, retentionMs = RETENTION_MS): VoidRequest {
  return { id: claim.id, scope: claim.scope, key: claim.key, retentionMs };
}

export function bytesOf(content: Uint8Array | string): Uint8Array {
  return typeof content === "string" ? new TextEncoder().encode(content) : content;
}

export function tokenOf({ id, attempt, owner }: AttemptToken): AttemptToken {
  return { id, attempt, owner };
}

/** Begins, demands the lease, and gives the token of the attempt. */
export async function acquire(store: Store, claim: Claim): Promise<AttemptToken> {
  const { attempt } = expectKind(await store.begin(claim), "acquired");
  return { id: claim.id, attempt, owner: claim.owner };
}

/** Begins and completes. */
export async function complete(
  store: Store,
  claim: Claim,
  result: Uint8Array | string = "result",
  retentionMs = RETENTION_MS,
): Promise<AttemptToken> {
  const token = await acquire(store, claim);
  assert.deepEqual(await store.settle(completion(token, result, retentionMs)), SETTLED);
  return token;
}

export type Situation = "running" | "lapsed" | "completed" | "held" | "open" | "void";

export const SITUATIONS: readonly Situation[] = [
  "running",
  "lapsed",
  "completed",
  "held",
  "open",
  "void",
];

/** Brings the operation of a claim, which must be absent, to a situation. */
export async function reach(
  harness: StoreHarness,
  situation: Situation,
  claim: Claim,
): Promise<AttemptToken> {
  const { store } = harness;
  const token = await acquire(store, claim);
  switch (situation) {
    case "running":
      break;
    case "lapsed":
      await harness.elapse(claim.leaseMs);
      break;
    case "completed":
      assert.deepEqual(await store.settle(completion(token)), SETTLED);
      break;
    case "held":
      assert.deepEqual(await store.settle(hold(token)), SETTLED);
      break;
    case "open":
      assert.deepEqual(await store.settle(release(token)), SETTLED);
      break;
    case "void":
      assert.deepEqual(await store.settle(release(token)), SETTLED);
      assert.deepEqual(await store.void(voiding(claim)), { kind: "voided" });
      break;
  }
  return token;
}

/** A write that carries the token of an attempt. */
export interface FencedWrite {
  readonly name: "complete" | "release" | "hold" | "append" | "renew";
  readonly requirement: string;
  write(store: Store, token: AttemptToken): Promise<SettleAnswer | RenewAnswer>;
}

/** The state that each leaves a running record in. */
export const STATE_AFTER = {
  complete: "completed",
  release: "open",
  hold: "held",
  append: "running",
  renew: "running",
} as const;

export const FENCED_WRITES: readonly FencedWrite[] = [
  {
    name: "complete",
    requirement: "SM-8",
    write: (store, token) => store.settle(completion(token, "of the zombie")),
  },
  {
    name: "release",
    requirement: "SM-9",
    write: (store, token) => store.settle(release(token)),
  },
  {
    name: "hold",
    requirement: "SM-10",
    write: (store, token) => store.settle(hold(token, "of the zombie")),
  },
  {
    name: "append",
    requirement: "SM-14",
    write: (store, token) => store.append!({ ...tokenOf(token), bytes: bytesOf("of the zombie") }),
  },
  {
    name: "renew",
    requirement: "SM-11",
    write: (store, token) => store.renew(renewal(token, { leaseMs: 3 * LEASE_MS })),
  },
];

/** Narrows an answer to the kind that is demanded. */
export function expectKind<Answer extends { kind: string }, Kind extends Answer["kind"]>(
  answer: Answer,
  kind: Kind,
): Extract<Answer, { kind: Kind }> {
  if (answer.kind !== kind) {
    assert.fail(`expected the answer "${kind}", got ${JSON.stringify(answer).slice(0, 500)}`);
  }
  return answer as Extract<Answer, { kind: Kind }>;
}

/** Demands that a duplicate is answered with this result. */
export function assertReplay(answer: BeginAnswer, result: Uint8Array | string): void {
  assertBytes(expectKind(answer, "done").result, result);
}

/** Bytes are equal whatever subclass of `Uint8Array` a store's driver returns. */
export function assertBytes(actual: Uint8Array | null | undefined, expected: Uint8Array | string) {
  assert.ok(actual instanceof Uint8Array, `expected bytes, got ${typeof actual}`);
  const difference = Buffer.compare(actual, bytesOf(expected));
  assert.ok(
    difference === 0,
    `expected ${describeBytes(bytesOf(expected))}, got ${describeBytes(actual)}`,
  );
}

function describeBytes(bytes: Uint8Array): string {
  const start = Buffer.from(bytes.subarray(0, 32)).toString("latin1");
  return `${bytes.byteLength} bytes starting ${JSON.stringify(start)}`;
}

/** A time that remains: never more than what was asked for, and less by real time only. */
export function assertRemaining(actual: number | null, expectedMs: number): void {
  assert.ok(
    actual !== null && actual <= expectedMs + 1 && actual > expectedMs - DRIFT_MS_MAX,
    `expected about ${expectedMs} ms to remain, got ${actual}`,
  );
}

/** Reads a record that must be there. */
export async function mustRead(store: Store, id: string): Promise<StoredRecord> {
  const record = await store.read(id);
  if (record === undefined) assert.fail("expected a record, got none");
  return record;
}

/** Demands that nothing was written between two reads. */
export function assertUnchanged(
  after: StoredRecord | undefined,
  before: StoredRecord | undefined,
): void {
  assert.deepEqual(timeless(after), timeless(before));
  assertSameRemaining(after?.leaseRemainingMs ?? null, before?.leaseRemainingMs ?? null);
  assertSameRemaining(after?.expiresInMs ?? null, before?.expiresInMs ?? null);
}

function assertSameRemaining(after: number | null, before: number | null): void {
  if (before === null) assert.equal(after, null);
  else assertRemaining(after, before);
}

function timeless(record: StoredRecord | undefined): unknown {
  if (record === undefined) return undefined;
  const { leaseRemainingMs: _lease, expiresInMs: _expiry, ageMs: _age, ...rest } = record;
  const text = (bytes: Uint8Array | null) => bytes && Buffer.from(bytes).toString("base64");
  return { ...rest, result: text(record.result), journal: text(record.journal) };
}
