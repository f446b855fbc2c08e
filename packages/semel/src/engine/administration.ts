// What administrators and dashboards do with records: look, resolve, void, delete, collect.

import type { Codec } from "../codec.ts";
import { type Duration, durationMs } from "../duration.ts";
import { InvalidOption } from "../errors.ts";
import { assertKey, assertScope } from "../key.ts";
import { assertInteger, assertKnownOptions, assertOneOf } from "../options.ts";
import type {
  DeleteAnswer,
  RecordState,
  ResolveAnswer,
  Store,
  StoredRecord,
  StoreStats,
  VoidAnswer,
} from "../store.ts";
import type { Names } from "./at-rest.ts";
import { open, type StoredResult, seal } from "./envelope.ts";
import { decoded, encoded } from "./execution.ts";
import type { Policy } from "./policy.ts";
import type { ResultCache } from "./result-cache.ts";
import type { Sweeper } from "./sweeper.ts";

/** Names an operation. */
export interface OperationName {
  key: string;
  /** @default "" */
  scope?: string;
}

/** A record as administrators see it; times in milliseconds since the Unix epoch by the store. */
export type OperationRecord = Omit<StoredRecord, "owner" | "result">;

/** What a caller may know of its operation (EN-9). */
export interface OperationStatus {
  state: RecordState | "absent";
  attempt: number;
  /** Until the record is forgotten; `null`: kept until resolved, or absent. */
  expiresInMs: number | null;
}

export interface RecordQuery {
  scope?: string;
  /** A lapsed operation that would be held counts as `"held"`. */
  state?: RecordState;
  /** Only operations created at least this long ago. */
  olderThan?: Duration;
  /** 1 to 1,000. @default 100 */
  limit?: number;
  /** The `cursor` of the page before. */
  cursor?: string;
}

/** The verdict of a person who found out what happened. */
export type Verdict =
  /** It was applied, and this is its value. */
  | { outcome: "applied"; value?: unknown }
  /** It was applied, and this is its result: `httpResult(…)` for an HTTP operation. */
  | { outcome: "applied"; result: StoredResult }
  /** It was not applied: it may run again. */
  | { outcome: "not-applied" };

export interface AdministrationParts {
  store: Store;
  names: Names;
  cache: ResultCache;
  sweeper: Sweeper;
  codec: Codec;
  policy: Policy;
}

const STATES = ["running", "completed", "held", "open", "void"];

export class Administration {
  readonly #parts: AdministrationParts;

  constructor(parts: AdministrationParts) {
    this.#parts = parts;
  }

  async get(name: OperationName): Promise<(OperationRecord & { value?: unknown }) | undefined> {
    const stored = await this.#parts.store.read(idOf(name, this.#parts.names));
    if (stored === undefined) return undefined;
    const record = recordOf(stored);
    if (stored.result === null) return record;
    const result = await open(stored.result);
    if (result.kind !== "value" || result.omitted) return record;
    return { ...record, value: decoded(this.#parts.codec, result) };
  }

  async status(name: OperationName): Promise<OperationStatus> {
    const record = await this.#parts.store.read(idOf(name, this.#parts.names));
    if (record === undefined) return { state: "absent", attempt: 0, expiresInMs: null };
    const { attempt, expiresInMs } = record;
    return { state: effectiveState(record), attempt, expiresInMs };
  }

  async list(query: RecordQuery): Promise<{ records: OperationRecord[]; cursor?: string }> {
    assertKnownOptions(query, ["scope", "state", "olderThan", "limit", "cursor"], "list()");
    const { scope, state, olderThan, limit = 100, cursor } = query;
    if (state !== undefined) assertOneOf(state, STATES, "state");
    assertInteger(limit, "limit", 1, 1_000);
    const page = await this.#parts.store.list({
      limit,
      ...(scope !== undefined && { scope }),
      ...(state !== undefined && { state }),
      ...(olderThan !== undefined && { olderThanMs: durationMs(olderThan, "olderThan") }),
      ...(cursor !== undefined && { cursor }),
    });
    return { ...page, records: page.records.map(recordOf) };
  }

  async resolve(name: OperationName, verdict: Verdict): Promise<ResolveAnswer> {
    assertOneOf(verdict?.outcome, ["applied", "not-applied"], "outcome");
    const { store, codec, policy, cache } = this.#parts;
    const id = idOf(name, this.#parts.names);
    const { retentionMs } = policy;
    const answer =
      verdict.outcome === "not-applied"
        ? await store.resolve({ id, retentionMs, kind: "open" })
        : await store.resolve({
            ...{ id, retentionMs, kind: "complete" },
            result: await seal(
              "result" in verdict ? verdict.result : encoded(codec, verdict.value),
            ),
          });
    cache.delete(id);
    return answer;
  }

  async void(name: OperationName): Promise<VoidAnswer> {
    const id = idOf(name, this.#parts.names);
    const { store, policy } = this.#parts;
    const { key, scope = "" } = name;
    return store.void({ id, key, scope, retentionMs: policy.retentionMs });
  }

  async delete(name: OperationName): Promise<DeleteAnswer> {
    const id = idOf(name, this.#parts.names);
    const answer = await this.#parts.store.delete(id);
    this.#parts.cache.delete(id);
    return answer;
  }

  stats(): Promise<StoreStats> {
    return this.#parts.store.stats();
  }

  async purge(options: PurgeOptions): Promise<number> {
    assertKnownOptions(options, ["batch", "onProgress", "signal"], "purge()");
    const { batch = 1_000, onProgress, signal } = options;
    assertInteger(batch, "batch", 1, 100_000);
    const proceed = (removed: number) => {
      onProgress?.(removed);
      return true;
    };
    return this.#parts.sweeper.purge(batch, proceed, signal);
  }
}

export interface PurgeOptions {
  /** Records a batch. @default 1_000 */
  batch?: number;
  /** Called after every batch with the number removed so far. */
  onProgress?: (removed: number) => void;
  /** Stops between two batches. */
  signal?: AbortSignal;
}

function idOf(name: OperationName, names: Names): string {
  if (typeof name !== "object" || name === null) {
    throw new InvalidOption("An operation is named by { key, scope }");
  }
  assertKnownOptions(name, ["key", "scope"], "An operation's name");
  const { key, scope = "" } = name;
  assertKey(key);
  assertScope(scope);
  return names.id(scope, key);
}

function recordOf({ owner: _owner, result: _result, ...record }: StoredRecord): OperationRecord {
  return record;
}

/** What begin would find: a lapsed attempt that nobody may repeat is as good as held. */
function effectiveState(record: StoredRecord): RecordState {
  const lapsed = record.state === "running" && (record.leaseRemainingMs ?? 0) <= 0;
  return lapsed && record.onCrash !== "rerun" ? "held" : record.state;
}
