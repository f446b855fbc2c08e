// What the admin listener and the dashboard say to each other, as JSON. Times are milliseconds.

import type {
  OperationOutcome,
  OperationRecord,
  QueuedRecord,
  QueueKind,
  QueueState,
  QueueStats,
  RecordState,
  StepRecord,
  StoreStats,
} from "semel";

/** What the page has to know before anything else. */
export interface Session {
  /** False: a token has to be given first, and nothing else is told. */
  admitted: boolean;
  /** Whether somebody who is admitted got so by a token, and can leave. */
  hasToken: boolean;
  about?: {
    version: string;
    /** The store's address, without credentials. */
    store: string;
    /** In front of what a gateway is; absent where only a store is watched. */
    upstream?: string;
  };
}

/** Kinds of what became of requests, as they are charted. */
export const FLOWS = ["executed", "replayed", "refused", "failed"] as const;
export type Flow = (typeof FLOWS)[number];

/** What happened in one stretch of time. */
export interface Sample {
  /** Its end, since the Unix epoch. */
  at: number;
  /** Its length. */
  lengthMs: number;
  /** Requests that ended in it, each in one of these. */
  flows: Record<Flow, number>;
  /** Of what was executed: half, and all but a twentieth, took no longer. `null`: nothing was. */
  executedMs: { median: number; high: number } | null;
  /** The same of what was answered from a record. */
  replayedMs: { median: number; high: number } | null;
  /** Operations that run in this process. */
  active: number;
  /** As last counted: records by state, how long the oldest hold has waited, bytes. `null`: not known. */
  states: Record<RecordState, number> | null;
  oldestHeldMs: number | null;
  bytes: number | null;
}

/** What the store holds. */
export interface Census {
  /** When it was counted; `null`: never yet. */
  at: number | null;
  stats: StoreStats | null;
  /** `null`: not known, or a store that keeps no queue. */
  queue: QueueStats | null;
  /** What counting took. */
  tookMs: number;
  /** Why the last count failed; the numbers are those of the one before. */
  error: string | null;
}

/** Something that this process saw happen to an operation. */
export interface Sighting {
  /** Rises. */
  number: number;
  at: number;
  id: string;
  /** What became of a request; or that one was let in, a step, a lost lease, a decision, queued work. */
  what: OperationOutcome | "begun" | "step" | "lease-lost" | "decided" | QueueKind;
  attempt?: number;
  durationMs?: number;
  /** The name of a step, an effect or a durable operation and what became of it, or a decision. */
  detail?: string;
  /** Answered without the store. */
  cached?: boolean;
  /** When it could be found out. */
  name?: { scope: string; key: string };
}

/** Everything that the first page shows. */
export interface Overview {
  samples: Sample[];
  census: Census;
  /** The newest first. */
  sightings: Sighting[];
}

/** Messages of the event stream, by their names. */
export interface LiveMessages {
  sample: Sample;
  census: Census;
  sightings: Sighting[];
}

export type RecordRow = OperationRecord;

export interface RecordsPage {
  records: RecordRow[];
  cursor: string | null;
  /** How many were looked through to find these. */
  searched: number;
  /** Of a search: the record whose key is just what was looked for. */
  exact: RecordRow | null;
}

/** What callers of a completed operation get, without its content. */
export interface ResultSummary {
  kind: "value" | "http" | "failure" | "not-stored" | "unreadable";
  status?: number;
  bytes?: number;
  message?: string;
}

export interface RecordView {
  record: RecordRow;
  /** `null`: they are encrypted, or damaged. */
  steps: StepRecord[] | null;
  result: ResultSummary | null;
  /** Its durable operation and its effects, in their order; `null`: the store keeps no queue. */
  queued: QueuedRow[] | null;
  /** Whether it has more effects than these. */
  hasMoreQueued: boolean;
  /** What this process saw, the oldest first; it remembers only so much. */
  sightings: Sighting[];
}

/** The content of a result. */
export type ResultContent =
  | { kind: "value"; value: unknown }
  | {
      kind: "http";
      status: number;
      headers: [name: string, value: string][];
      body?: string;
      bodyBase64?: string;
    }
  | { kind: "failure" | "unreadable"; message: string }
  | { kind: "not-stored"; status?: number };

/** The decision about what is held. */
export type ResolveBody = { scope: string; key: string } & (
  | { outcome: "not-applied" }
  | { outcome: "applied"; value: unknown }
  | {
      outcome: "applied";
      response: { status: number; headers: [name: string, value: string][]; body: string };
    }
);

export interface NameBody {
  scope: string;
  key: string;
}

/** Something in the queue: a durable operation (`task`), or an effect. */
export interface QueuedRow extends QueuedRecord {
  kind: QueueKind;
}

export interface QueuePage {
  items: QueuedRow[];
  cursor: string | null;
}

export type { QueueKind, QueueState };

/** Something in the queue with what was recorded for it, or why that cannot be read. */
export interface QueuedView {
  item: QueuedRow;
  payload: { value: unknown } | { unreadable: string };
}

/** What is done about something in the queue. */
export interface QueuedBody {
  kind: QueueKind;
  /** A UUID. */
  id: string;
}

/** `false`: it is done, is being done right now, or is not there. */
export interface QueuedDecided {
  done: boolean;
}

export type Decided = { done: true } | { done: false; state: RecordState | "absent" };

/** Every answer that is not 2xx. */
export interface AdminProblem {
  code: string;
  detail: string;
}
