// What a call makes of the record that it sees: an answer, or a write that is carried out only if the
// record still is as it was seen.

import { StoreUnavailable } from "../../errors.ts";
import type {
  BeginAnswer,
  Claim,
  RecordId,
  StoredRecord,
  VoidAnswer,
  VoidRequest,
} from "../../store.ts";
import { answerTo } from "../sql-record.ts";
import type { StatementRunner } from "./connection.ts";
import { type FoundRow, find, liveRecord } from "./records.ts";
import type { Lock, MysqlSql, NewRecord, Transition } from "./statements.ts";

/** What a call does about one record: answers, or writes and, if that succeeds, answers. */
export type Step<Answer> =
  | { answer: Answer }
  | { insert: NewRecord; answer: Answer }
  | { change: Transition; answer: Answer };

const FIRST = Object.freeze({ kind: "acquired", attempt: 1, probe: false } as const);

/** Whether an operation was begun where nothing was. */
export function isFirst(answer: BeginAnswer | Error): boolean {
  return answer === FIRST;
}

/** SM-1: what a claim makes of nothing. */
export function firstStep(claim: Claim): { insert: NewRecord; answer: BeginAnswer } {
  const { id, scope, key, fingerprint, owner, onCrash, leaseMs } = claim;
  const insert: NewRecord = {
    ...{ id, scope, key, fingerprint, owner, onCrash, leaseMs },
    ...{
      state: "running",
      attempt: 1,
      crashes: 0,
      lifeMs: lifeMs(claim),
      reason: null,
      result: null,
    },
  };
  return { insert, answer: FIRST };
}

/**
 * What a claim makes of the record that was seen (SM-1 to SM-7).
 *
 * @param now by the server's clock, for claims that may be late
 * @param sinceMs how long ago, at most, this call may itself have written the record
 */
export function beginStep(
  claim: Claim,
  row: FoundRow | undefined,
  now: number | undefined,
  sinceMs: number,
): Step<BeginAnswer> {
  const record = liveRecord(row);
  if (record === undefined) {
    const { refuseLate } = claim;
    if (refuseLate && now! - refuseLate.sentAt > refuseLate.ageMaxMs) {
      return { answer: { kind: "late" } };
    }
    const first = firstStep(claim);
    return row === undefined ? first : { change: overExpired(first.insert, row), answer: FIRST };
  }
  const answer = answerTo(claim, record);
  if (answer !== undefined) return { answer };
  const { attempt, crashes, onCrash, owner } = record;
  if (record.state === "open") {
    return acquire(claim, record, {
      from: "open",
      attempt: attempt + 1,
      crashes,
      onCrash: claim.onCrash,
    });
  }
  if (owner === claim.owner) {
    const own = acquire(claim, record, { from: "own", attempt, crashes, onCrash });
    // By a statement of this very call, which was not told so because it wrote others' too.
    const spentMs = claim.leaseMs - record.leaseRemainingMs!;
    const isFresh = spentMs >= 0 && spentMs <= sinceMs + 1;
    return isFresh ? { answer: own.answer } : own;
  }
  if (onCrash === "hold") return holdLapsed(claim, record, "lease-lapsed");
  if (crashes + 1 >= claim.attemptsMax) return holdLapsed(claim, record, "attempts-exhausted");
  return acquire(claim, record, {
    from: "lapsed",
    attempt: attempt + 1,
    crashes: crashes + 1,
    onCrash,
  });
}

type Acquisition = Pick<Transition, "from" | "attempt" | "crashes" | "onCrash">;

function acquire(
  claim: Claim,
  seen: StoredRecord,
  next: Acquisition,
): { change: Transition; answer: BeginAnswer } {
  const { id, fingerprint, owner, leaseMs } = claim;
  const isChange = next.from === "open";
  return {
    change: {
      ...next,
      ...{ id, seen, fingerprint, owner, leaseMs, isChange },
      ...{ state: "running", lifeMs: lifeMs(claim), reason: null },
    },
    answer: {
      kind: "acquired",
      attempt: next.attempt,
      probe: next.onCrash === "probe" && next.crashes > 0,
    },
  };
}

/** SM-4, SM-23a: a lapsed record that may not be taken over. */
function holdLapsed(claim: Claim, seen: StoredRecord, reason: string): Step<BeginAnswer> {
  const { id, fingerprint, attempt, crashes, owner, onCrash } = seen;
  return {
    change: {
      ...{ id, fingerprint, attempt, crashes, owner, onCrash, reason, seen },
      ...{
        from: "lapsed",
        state: "held",
        leaseMs: null,
        lifeMs: claim.heldRetentionMs,
        isChange: true,
      },
    },
    answer: { kind: "held", attempt, reason },
  };
}

/** A new record in the place of one that has expired, whatever that was. */
export function overExpired(record: NewRecord, row: FoundRow): Transition {
  const { scope: _scope, key: _key, result: _result, ...next } = record;
  const seen = { attempt: Number(row.attempt), owner: row.owner };
  return { ...next, from: "expired", seen, isChange: true };
}

function lifeMs({ leaseMs, lapsedRetentionMs }: Claim): number | null {
  return lapsedRetentionMs === null ? null : leaseMs + lapsedRetentionMs;
}

/** SM-13: what a void makes of the record that was seen. */
export function voidStep(request: VoidRequest, row: FoundRow | undefined): Step<VoidAnswer> {
  const { id, scope, key, retentionMs } = request;
  const answer = { kind: "voided" } as const;
  const tombstone = { state: "void", leaseMs: null, lifeMs: retentionMs, reason: null } as const;
  const record = liveRecord(row);
  if (record === undefined) {
    const insert: NewRecord = {
      ...{
        id,
        scope,
        key,
        fingerprint: "",
        attempt: 0,
        crashes: 0,
        owner: NOBODY,
        onCrash: "hold",
      },
      ...tombstone,
      result: null,
    };
    return row === undefined ? { insert, answer } : { change: overExpired(insert, row), answer };
  }
  const isLapsed = record.state === "running" && record.leaseRemainingMs! <= 0;
  switch (record.state) {
    case "completed":
      return { answer: { kind: "completed" } };
    case "void":
      return { answer };
    case "running":
      if (!isLapsed) return { answer: { kind: "busy" } };
  }
  const { fingerprint, attempt, crashes, owner, onCrash } = record;
  const from = isLapsed ? "lapsed" : (record.state as "open" | "held");
  const next = { id, fingerprint, attempt, crashes, owner, onCrash, ...tombstone };
  return { change: { ...next, from, seen: record, isChange: true }, answer };
}

/** The owner of a tombstone of what never began. */
const NOBODY = "0".repeat(32);

/** How often a record may change hands under a call before it gives up. */
const LOOKS_MAX = 20;

/** A call under way about one record. */
interface Call<Request extends { id: RecordId }, Answer> {
  request: Request;
  /** Set by the last look, or before the first. */
  step: Step<Answer> | undefined;
  outcome?: Answer | Error;
}

export interface Looking<Request, Answer> {
  /** What to try before the first look. */
  blind(request: Request): Step<Answer> | undefined;
  /** @throws {RecordUnreadable} */
  step(
    request: Request,
    row: FoundRow | undefined,
    now: number | undefined,
    sinceMs: number,
  ): Step<Answer>;
  lock: Lock;
  /** Whether steps need the time of the server. */
  isTimed: boolean;
}

/**
 * Looks, decides and writes for many records at once, and again for those that others changed in
 * between, until each has its answer or its error. A write that succeeded for all of a statement
 * needs no second look.
 */
export async function proceed<Request extends { id: RecordId }, Answer>(
  run: StatementRunner,
  sql: MysqlSql,
  requests: readonly Request[],
  { blind, step, lock, isTimed }: Looking<Request, Answer>,
): Promise<(Answer | Error)[]> {
  const since = performance.now();
  const calls = requests.map(
    (request): Call<Request, Answer> => ({ request, step: blind(request) }),
  );
  let open: readonly Call<Request, Answer>[] = await carryOut(run, sql, calls);
  for (let looks = 0; open.length > 0; looks++) {
    if (looks === LOOKS_MAX) throw tooContended();
    const ids = open.map(({ request }) => request.id);
    const look = isTimed ? sql.findTimed(ids, lock) : sql.find(ids, "replay", lock);
    const { now, rows } = await find(run, look);
    for (const call of open) {
      try {
        call.step = step(call.request, rows.get(call.request.id), now, performance.now() - since);
      } catch (error) {
        call.outcome = error as Error;
      }
    }
    open = await carryOut(run, sql, open);
  }
  return calls.map(({ outcome }) => outcome!);
}

/** @returns the calls whose write did not succeed, or not for every record of its statement */
async function carryOut<Request extends { id: RecordId }, Answer>(
  run: StatementRunner,
  sql: MysqlSql,
  calls: readonly Call<Request, Answer>[],
): Promise<readonly Call<Request, Answer>[]> {
  const inserts: NewRecord[] = [];
  const changes: Transition[] = [];
  for (const { step, outcome } of calls) {
    if (step === undefined || outcome !== undefined) continue;
    if ("insert" in step) inserts.push(step.insert);
    if ("change" in step) changes.push(step.change);
  }
  const areInserted =
    inserts.length > 0 && (await run.change(sql.insert(inserts))) === inserts.length;
  const areChanged =
    changes.length > 0 && (await run.change(sql.change(changes))) === changes.length;
  return calls.filter((call) => {
    if (call.outcome !== undefined) return false;
    const { step } = call;
    if (step === undefined) return true;
    if ("insert" in step ? !areInserted : "change" in step && !areChanged) return true;
    call.outcome = step.answer;
    return false;
  });
}

function tooContended(): StoreUnavailable {
  return new StoreUnavailable(
    `The record changed hands ${LOOKS_MAX} times while it was looked at; ask again`,
  );
}
