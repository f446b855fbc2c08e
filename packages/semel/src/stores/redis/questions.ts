// What the Redis store asks its scripts, and what their answers mean in the terms of the contract.

import { RecordUnreadable, StoreUnavailable } from "../../errors.ts";
import type {
  AttemptToken,
  BeginAnswer,
  Claim,
  DeleteAnswer,
  JournalEntry,
  RecordId,
  RenewAnswer,
  Renewal,
  Resolution,
  ResolveAnswer,
  SettleAnswer,
  StoredRecord,
  UnusedAttempt,
  VoidAnswer,
  VoidRequest,
} from "../../store.ts";
import { advance } from "./advance-script.ts";
import type { Question, ScriptReply, ScriptValue } from "./batches.ts";
import { CODES } from "./lua.ts";
import {
  type Advance,
  advanceBytes,
  assertClaim,
  assertEnding,
  assertEntry,
  assertId,
  assertRenewal,
  assertResolution,
  assertUnused,
  assertVoid,
  copyOf,
  isEnding,
  packAdvances,
  packEntries,
  packPlaces,
  packRenewals,
  packResolution,
  packUnused,
  packVoid,
  unpackDone,
  unpackRecord,
} from "./packing.ts";
import * as scripts from "./scripts.ts";

/** What a result or an entry takes besides its bytes. */
const OVERHEAD_BYTES = 64;

interface Identified {
  readonly id: RecordId;
}

/** Claims and endings: a claim is answered as `begin` is, an ending as `settle` is. */
export const ADVANCE: Question<Advance, BeginAnswer | SettleAnswer> = {
  script: advance,
  assert: (item) => (isEnding(item) ? assertEnding(item) : assertClaim(item)),
  pack: packAdvances,
  answer: (item, value, reply) =>
    isEnding(item) ? writtenAnswer(item, value, reply) : beginAnswer(item, value, reply),
  bytesOf: (item) => OVERHEAD_BYTES + advanceBytes(item),
};

export const GIVE_BACK: Question<UnusedAttempt, SettleAnswer> = {
  script: scripts.giveBack,
  assert: assertUnused,
  pack: packUnused,
  answer: writtenAnswer,
};

export const APPEND: Question<JournalEntry, SettleAnswer> = {
  script: scripts.append,
  assert: assertEntry,
  pack: packEntries,
  answer: writtenAnswer,
  bytesOf: ({ bytes }) => OVERHEAD_BYTES + bytes.byteLength,
};

export const RENEW: Question<Renewal, RenewAnswer> = {
  script: scripts.renew,
  assert: assertRenewal,
  pack: packRenewals,
  answer: ({ id }, value) => (isWritten(id, value) ? { kind: "renewed" } : { kind: "stale" }),
};

const NOTHING = Buffer.alloc(0);

export const READ: Question<Identified, StoredRecord | undefined> = {
  script: scripts.read,
  assert: assertId,
  pack: () => NOTHING,
  answer: ({ id }, value, { now }) => (value === CODES.no ? undefined : recordIn(id, value, now)),
};

export const RESOLVE: Question<Resolution, ResolveAnswer> = {
  script: scripts.resolve,
  assert: assertResolution,
  pack: packResolution,
  answer({ id }, value, reply) {
    if (value === CODES.done) return kept(reply, { kind: "resolved" });
    if (value === CODES.no) return { kind: "absent" };
    return { kind: "refused", state: recordIn(id, value, reply.now).state };
  },
};

export const VOID: Question<VoidRequest, VoidAnswer> = {
  script: scripts.void_,
  assert: assertVoid,
  pack: packVoid,
  answer({ id }, value, reply) {
    if (value === CODES.done) return kept(reply, { kind: "voided" });
    switch (recordIn(id, value, reply.now).state) {
      case "completed":
        return { kind: "completed" };
      case "running":
        return { kind: "busy" };
      default:
        // By an earlier try, perhaps, that nobody confirmed.
        return kept(reply, { kind: "voided" });
    }
  },
};

export const DELETE: Question<Identified, DeleteAnswer> = {
  script: scripts.forget,
  assert: assertId,
  pack: packPlaces,
  answer({ id }, value, reply) {
    if (value === CODES.done) return kept(reply, { kind: "deleted" });
    if (value === CODES.no) return { kind: "absent" };
    recordIn(id, value, reply.now);
    return { kind: "busy" };
  },
};

/** A write counts once the replicas that were asked for have it; until then its outcome is unknown. */
export function kept<Answer>({ isReplicated }: ScriptReply, answer: Answer): Answer {
  if (isReplicated) return answer;
  throw new StoreUnavailable(
    "Redis wrote, but fewer replicas than `wait.replicas` confirmed it in time; look at its replication",
  );
}

/** The record that a script answered with instead of a code. */
function recordIn(id: RecordId, value: ScriptValue, now: number): StoredRecord {
  if (value instanceof Uint8Array) return unpackRecord(id, value, now);
  if (typeof value !== "number") {
    const [record, journal] = value;
    return { ...unpackRecord(id, record, now), journal: copyOf(journal, 0) };
  }
  throw new RecordUnreadable(`What the store has in the place of record ${id} is no record`);
}

function beginAnswer(claim: Claim, value: ScriptValue, reply: ScriptReply): BeginAnswer {
  if (typeof value === "number") {
    if (value === CODES.no) return { kind: "late" };
    if (value < 2) recordIn(claim.id, value, reply.now);
    return kept(reply, {
      kind: "acquired",
      attempt: Math.floor(value / 2),
      probe: value % 2 === 1,
    });
  }
  const done = unpackDone(value as Buffer, reply.now, claim.fingerprint);
  if (done) return done;
  const record = recordIn(claim.id, value, reply.now);
  const { state, attempt, fingerprint } = record;
  const isBlankTombstone = state === "void" && fingerprint === "";
  if (fingerprint !== claim.fingerprint && !isBlankTombstone) {
    return { kind: "mismatch", fingerprint };
  }
  switch (state) {
    case "completed":
      return { kind: "done", attempt, result: record.result!, expiresInMs: record.expiresInMs! };
    case "held": {
      const held = { kind: "held", attempt, reason: record.reason! } as const;
      return record.updatedAt === reply.now ? kept(reply, held) : held;
    }
    case "void":
      return { kind: "void" };
    case "running":
      return { kind: "busy", attempt, leaseRemainingMs: record.leaseRemainingMs! };
    case "open":
      // The script takes what is open: this one is of a version that does not.
      throw new RecordUnreadable(`Record ${claim.id} is open and was not taken`);
  }
}

/** Also what was written before, perhaps by an earlier try of this one, has to be on the replicas. */
function writtenAnswer({ id }: AttemptToken, value: ScriptValue, reply: ScriptReply): SettleAnswer {
  return kept(reply, { kind: isWritten(id, value) ? "settled" : "stale" });
}

/** @throws {RecordUnreadable} when nobody can tell whose the record is */
function isWritten(id: RecordId, value: ScriptValue): boolean {
  if (value !== CODES.unreadable) return value === CODES.done;
  throw new RecordUnreadable(`Record ${id} is damaged, or from a newer version of Semel`);
}
