// What administrators and dashboards do with records: look, resolve, void, delete, collect.

import type { Codec } from "../codec.ts";
import { type Duration, durationMs } from "../duration.ts";
import { InvalidOption, StoreUnavailable } from "../errors.ts";
import { publish } from "../events.ts";
import { operationKindOf } from "../fingerprint.ts";
import { assertKey, scopeOf } from "../key.ts";
import { assertInteger, assertKnownOptions, assertOneOf } from "../options.ts";
import type {
  DeleteAnswer,
  RecordId,
  RecordState,
  ResolveAnswer,
  Store,
  StoredRecord,
  StoreStats,
} from "../store.ts";
import type { Names } from "./at-rest.ts";
import { durableScope } from "./durable/definition.ts";
import type { Tasks } from "./durable/tasks.ts";
import { open, type StoredResult, seal } from "./envelope.ts";
import { decoded, encoded } from "./execution.ts";
import { type StepRecord, stepsOf } from "./journal.ts";
import type { Policy } from "./policy.ts";
import type { ResultCache } from "./result-cache.ts";
import type { Sweeper } from "./sweeper.ts";

/** Names an operation. */
export interface OperationName {
  key: string;
  /**
   * That of the record: `""` for an HTTP route whose scope is `"shared"`. One that is there and
   * `undefined` is refused. @default "" when left out
   */
  scope?: string;
  /** The name of a durable operation. @default none: that of `run()` and of requests */
  operation?: string;
}

/** A record as administrators see it; times in milliseconds since the Unix epoch by the store. */
export type OperationRecord = Omit<StoredRecord, "owner" | "result" | "journal">;

/** One record with what it holds. */
export type OperationDetails = OperationRecord & {
  /** Of an operation of `run()` that completed. */
  value?: unknown;
  /** What its steps have come to. A store may forget them once the operation has completed. */
  steps: StepRecord[];
};

/** What a caller may know of its operation (EN-9). */
export interface OperationStatus {
  state: RecordState | "absent";
  attempt: number;
  /** Until the record is forgotten; `null`: kept until resolved, or absent. */
  expiresInMs: number | null;
}

/** What stays of an operation that never runs any more: proof for whoever has to act on that. */
export interface Tombstone extends OperationName {
  scope: string;
  /** The record's id. */
  id: string;
  /** How many attempts had begun before; none of them can complete any more. */
  attempts: number;
  /** In milliseconds since the Unix epoch, by the store's clock. */
  voidedAt: number;
  /** How long it is proof, in milliseconds; `null`: for ever. */
  expiresInMs: number | null;
}

export type VoidOutcome =
  /** It will never run, and never be completed by an attempt that had begun. */
  | { kind: "voided"; receipt: Tombstone }
  /** It runs: nothing was changed. */
  | { kind: "busy" }
  /** It is completed: nothing was changed. */
  | { kind: "completed" };

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

/** The verdict of a person who found out what happened: with a result such as the operation has. */
export type Verdict =
  /** It was applied, and this is its value: of an operation that is not HTTP. */
  | { outcome: "applied"; value?: unknown }
  /** It was applied, and this is its result: `httpResult(…)` for an HTTP operation. */
  | { outcome: "applied"; result: StoredResult }
  /** It was not applied: it may run again. */
  | { outcome: "not-applied" };

export interface AdministrationParts {
  readonly maxResultBytes: number;
  store: Store;
  names: Names;
  cache: ResultCache;
  sweeper: Sweeper;
  codec: Codec;
  policy: Policy;
  /** Of the durable operations that are defined here, in milliseconds. */
  durableRetentions: ReadonlyMap<string, number>;
  tasks: Tasks;
}

const STATES = ["running", "completed", "held", "open", "void"];

export class Administration {
  readonly #parts: AdministrationParts;

  constructor(parts: AdministrationParts) {
    this.#parts = parts;
  }

  async get(name: OperationName): Promise<OperationDetails | undefined> {
    const stored = await this.#parts.store.read(this.#named(name).id);
    if (stored === undefined) return undefined;
    const record = { ...recordOf(stored), steps: stored.journal ? stepsOf(stored.journal) : [] };
    if (stored.result === null) return record;
    const result = await open(stored.result, this.#parts.maxResultBytes);
    if (result.kind !== "value" || result.omitted) return record;
    return { ...record, value: decoded(this.#parts.codec, result) };
  }

  async status(name: OperationName): Promise<OperationStatus> {
    const record = await this.#parts.store.read(this.#named(name).id);
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
    const { store, codec, cache, tasks } = this.#parts;
    const { id } = this.#named(name);
    const retentionMs = this.#retentionMs(name);
    let answer: ResolveAnswer;
    if (verdict.outcome === "not-applied") {
      answer = await tasks.open(id, (unfinishedMs) =>
        store.resolve({ id, kind: "open", retentionMs: unfinishedMs ?? retentionMs }),
      );
    } else {
      const result = "result" in verdict ? verdict.result : encoded(codec, verdict.value);
      await this.#assertKind(id, result);
      answer = await store.resolve({
        id,
        retentionMs,
        kind: "complete",
        result: await seal(result),
      });
      if (answer.kind === "resolved") await tasks.end(id);
    }
    cache.forget(id);
    publish(() => ({ type: "decided", id, decision: "resolve", answer: answer.kind }));
    return answer;
  }

  /** @throws {InvalidOption} for a result that callers of what is held could not be given */
  async #assertKind(id: RecordId, { kind }: StoredResult): Promise<void> {
    const record = await this.#parts.store.read(id);
    if (record === undefined || effectiveState(record) !== "held" || kind === "failure") return;
    const needed = operationKindOf(record.fingerprint) ?? kind;
    if (kind === needed) return;
    throw new InvalidOption(
      needed === "http"
        ? "This operation is a request over HTTP, whose callers get a response: resolve it with `result: httpResult({ status, headers, body })`"
        : "This operation is no request over HTTP, and its callers get a value: resolve it with `value`",
    );
  }

  async void(name: OperationName): Promise<VoidOutcome> {
    const { store, cache, tasks } = this.#parts;
    const { id, key, scope, shown } = this.#named(name);
    const answer = await store.void({ id, key, scope, retentionMs: this.#retentionMs(name) });
    // What another process has deleted may be in it.
    cache.forget(id);
    publish(() => ({ type: "decided", id, decision: "void", answer: answer.kind }));
    if (answer.kind !== "voided") return answer;
    await tasks.end(id);
    const record = await store.read(id);
    if (record?.state !== "void") {
      throw new StoreUnavailable("The tombstone of a voided operation is gone; void it again");
    }
    const { attempt: attempts, updatedAt: voidedAt, expiresInMs } = record;
    return { kind: "voided", receipt: { ...shown, id, attempts, voidedAt, expiresInMs } };
  }

  async delete(name: OperationName): Promise<DeleteAnswer> {
    const { id } = this.#named(name);
    const answer = await this.#parts.store.delete(id);
    if (answer.kind !== "busy") await this.#parts.tasks.end(id);
    this.#parts.cache.forget(id);
    publish(() => ({ type: "decided", id, decision: "delete", answer: answer.kind }));
    return answer;
  }

  stats(): Promise<StoreStats> {
    return this.#parts.store.stats();
  }

  /** How long what is decided is remembered. */
  #retentionMs({ operation }: OperationName): number {
    const { policy, durableRetentions } = this.#parts;
    const own = operation === undefined ? undefined : durableRetentions.get(operation);
    return own ?? policy.retentionMs;
  }

  /** What an operation is called by its caller, and what its record has. */
  #named(name: OperationName) {
    if (typeof name !== "object" || name === null) {
      throw new InvalidOption("An operation is named by { key, scope }");
    }
    assertKnownOptions(name, ["key", "scope", "operation"], "An operation's name");
    const { key, operation } = name;
    assertKey(key);
    const shownScope = scopeOf(name);
    const scope = operation === undefined ? shownScope : durableScope(operation, shownScope);
    const shown = { key, scope: shownScope, ...(operation !== undefined && { operation }) };
    return { id: this.#parts.names.id(scope, key), key, scope, shown };
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

function recordOf(stored: StoredRecord): OperationRecord {
  const { owner: _owner, result: _result, journal: _journal, ...record } = stored;
  return record;
}

/** What begin would find: a lapsed attempt that nobody may repeat is as good as held. */
function effectiveState(record: StoredRecord): RecordState {
  const lapsed = record.state === "running" && (record.leaseRemainingMs ?? 0) <= 0;
  return lapsed && record.onCrash !== "rerun" ? "held" : record.state;
}
