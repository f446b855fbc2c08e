// What the scripts' answers mean in the terms of the contract.

import { RecordUnreadable, StoreUnavailable } from "../../errors.ts";
import type {
  BeginAnswer,
  Claim,
  Ending,
  RecordId,
  RenewAnswer,
  Renewal,
  SettleAnswer,
  StoredRecord,
} from "../../store.ts";
import type { ScriptAnswer } from "./batches.ts";
import { unpackRecord } from "./packing.ts";
import { CODES } from "./scripts.ts";

/** A write counts once the replicas that were asked for have it; until then its outcome is unknown. */
export function kept<Answer>({ isReplicated }: ScriptAnswer, answer: Answer): Answer {
  if (isReplicated) return answer;
  throw new StoreUnavailable(
    "Redis wrote, but fewer replicas than `wait.replicas` confirmed it in time; look at its replication",
  );
}

/** The record that a script answered with instead of a code. */
export function recordIn(id: RecordId, { value, now }: ScriptAnswer): StoredRecord {
  if (typeof value !== "number") return unpackRecord(id, value, now);
  throw new RecordUnreadable(`What the store has in the place of record ${id} is no record`);
}

export function beginAnswer(claim: Claim, given: ScriptAnswer): BeginAnswer {
  const { value, now } = given;
  if (typeof value === "number" && value >= 2) {
    const attempt = Math.floor(value / 2);
    return kept(given, { kind: "acquired", attempt, probe: value % 2 === 1 });
  }
  if (value === CODES.no) return { kind: "late" };
  const record = recordIn(claim.id, given);
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
      return record.updatedAt === now ? kept(given, held) : held;
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

export function settleAnswer({ id }: Ending, given: ScriptAnswer): SettleAnswer {
  return isWritten(id, given) ? kept(given, { kind: "settled" }) : { kind: "stale" };
}

export function renewAnswer({ id }: Renewal, given: ScriptAnswer): RenewAnswer {
  return isWritten(id, given) ? { kind: "renewed" } : { kind: "stale" };
}

/** @throws {RecordUnreadable} when nobody can tell whose the record is */
function isWritten(id: RecordId, { value }: ScriptAnswer): boolean {
  if (value !== CODES.unreadable) return value === CODES.done;
  throw new RecordUnreadable(`Record ${id} is damaged, or from a newer version of Semel`);
}

export function readAnswer(
  { id }: { id: RecordId },
  given: ScriptAnswer,
): StoredRecord | undefined {
  return given.value === CODES.no ? undefined : recordIn(id, given);
}
