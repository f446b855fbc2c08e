// What the dashboard asks: records a page at a time, one record with its timeline, and decisions about
// it. The same logic as `semel records`.

import {
  type Idempotency,
  isSemelError,
  type OperationName,
  type OperationRecord,
  type RecordQuery,
  type StoreQueue,
  type Verdict,
} from "semel";
import { httpResult } from "semel/node";
import { ledgerOf, QUEUE_KINDS, QUEUE_STATES, queuedItem, queuedOf } from "../queue/look-up.ts";
import { type FoundRecord, lookUp, lookUpId, showing } from "../records/look-up.ts";
import { RECORD_STATES, recordJson, resultJson } from "../records/show.ts";
import type { ReadingStore } from "../stores/sqlite-reader.ts";
import type { Activity } from "./activity.ts";
import type {
  Decided,
  QueuedBody,
  QueuedDecided,
  QueuedView,
  QueuePage,
  RecordsPage,
  RecordView,
  ResultContent,
  ResultSummary,
} from "./contract.ts";
import { numberIn, oneOfIn, Refused, textIn } from "./exchange.ts";

const PAGE = { min: 1, max: 200, without: 50 };
/** Records that one search looks through before it says how far it came. */
const SEARCH = { page: 1_000, pages: 5 };
const AGE_MAX_MS = 100 * 365 * 86_400_000;

export interface ApiParts {
  /** What is looked at. */
  reading: ReadingStore;
  /** The one whose cache replays: what is decided holds there at once. */
  idempotency: Idempotency;
  activity: Activity;
}

export class Api {
  readonly #parts: ApiParts;
  readonly #looking: Idempotency;

  constructor(parts: ApiParts) {
    this.#parts = parts;
    const { reading } = parts;
    const { queue } = reading;
    this.#looking = showing({
      name: reading.name,
      read: (id) => reading.read(id),
      list: (query) => reading.list(query),
      ...(queue && { queue: queue as StoreQueue }),
    });
  }

  /** A page of records, newest first; with `find`, those whose key or scope has it in it. */
  async records(query: URLSearchParams): Promise<RecordsPage> {
    const asked: RecordQuery = { limit: numberIn(query, "limit", PAGE) };
    const [scope, state, cursor] = [
      query.get("scope"),
      oneOfIn(query, "state", RECORD_STATES),
      query.get("cursor"),
    ];
    const olderThan = numberIn(query, "olderThanMs", { min: 0, max: AGE_MAX_MS, without: 0 });
    if (scope !== null) asked.scope = scope;
    if (state !== undefined) asked.state = state;
    if (cursor !== null) asked.cursor = cursor;
    if (olderThan > 0) asked.olderThan = olderThan;
    const find = query.get("find");
    const page = find ? await this.#search(asked, find) : await this.#page(asked);
    const exact = find && cursor === null ? await this.#named(find, scope ?? "") : undefined;
    return {
      ...page,
      records: page.records.map(recordJson),
      exact: exact ? recordJson(exact) : null,
    };
  }

  /** The record of just this name: it costs nothing, however many there are. */
  async #named(key: string, scope: string): Promise<OperationRecord | undefined> {
    try {
      return (await lookUp(this.#parts.reading, { key, scope }))?.record;
    } catch (error) {
      // What cannot be a key is no record's.
      if (isSemelError(error) && error.code === "key-invalid") return undefined;
      throw error;
    }
  }

  async #page(query: RecordQuery): Promise<Omit<RecordsPage, "exact">> {
    const { records, cursor = null } = await this.#looking.list(query);
    return { records, cursor, searched: records.length };
  }

  /** No store has an index for parts of keys: it looks through so many, and says where to go on. */
  async #search(query: RecordQuery, find: string): Promise<Omit<RecordsPage, "exact">> {
    const wanted = find.toLowerCase();
    const isFound = ({ key, scope }: OperationRecord) =>
      key.toLowerCase().includes(wanted) || scope.toLowerCase().includes(wanted);
    const records: OperationRecord[] = [];
    let cursor = query.cursor ?? null;
    let searched = 0;
    for (let pages = 0; pages < SEARCH.pages; pages++) {
      const page = await this.#page({
        ...{ ...query, limit: SEARCH.page },
        ...(cursor !== null && { cursor }),
      });
      records.push(...page.records.filter(isFound));
      searched += page.searched;
      cursor = page.cursor;
      if (cursor === null || records.length >= query.limit!) break;
    }
    return { records, cursor, searched };
  }

  /** One record, named by scope and key, or by its id. @throws {Refused} when there is none */
  async record(query: URLSearchParams): Promise<RecordView> {
    const { record, steps, result } = await this.#find(query);
    const hasQueue = this.#parts.reading.queue !== undefined;
    const queued = hasQueue ? await queuedOf(this.#looking, record.id) : undefined;
    return {
      record: recordJson(record),
      steps: steps ?? null,
      result: summaryOf(result),
      queued: queued?.items ?? null,
      hasMoreQueued: queued?.hasMore ?? false,
      sightings: this.#parts.activity.of(record.id),
    };
  }

  /** What callers of a completed operation get. @throws {Refused} when there is none */
  async result(query: URLSearchParams): Promise<ResultContent> {
    const { result } = await this.#find(query);
    if (result) return resultJson(result) as ResultContent;
    throw new Refused(404, "absent", "This operation has no result");
  }

  async #find(query: URLSearchParams): Promise<FoundRecord> {
    const id = query.get("id");
    const { reading } = this.#parts;
    if (id !== null && !/^[0-9a-f]{32}$/.test(id)) {
      throw new Refused(400, "parameter-invalid", '"id" must be 32 hexadecimal digits');
    }
    const found = await (id === null
      ? lookUp(reading, { key: query.get("key") ?? "", scope: query.get("scope") ?? "" })
      : lookUpId(reading, id));
    if (found) return found;
    throw new Refused(404, "absent", "There is no such record; it may have expired");
  }

  /** What is queued of one kind, newest first. */
  async queue(query: URLSearchParams): Promise<QueuePage> {
    const kind = oneOfIn(query, "kind", QUEUE_KINDS) ?? "effect";
    const state = oneOfIn(query, "state", QUEUE_STATES);
    const [name, cursor] = [query.get("name"), query.get("cursor")];
    const page = await ledgerOf(this.#looking, kind).list({
      limit: numberIn(query, "limit", PAGE),
      ...(state !== undefined && { state }),
      ...(name && { name }),
      ...(cursor !== null && { cursor }),
    });
    const items = page.items.map((item) => ({ kind, ...item }));
    return { items, cursor: page.cursor ?? null };
  }

  /** One item with what was recorded for it. @throws {Refused} when there is none */
  async queued(query: URLSearchParams): Promise<QueuedView> {
    const found = await queuedItem(this.#looking, query.get("id") ?? "");
    if (found) return found;
    throw new Refused(
      404,
      "absent",
      "There is nothing like this in the queue; it may have expired",
    );
  }

  async revive(body: Record<string, unknown>): Promise<QueuedDecided> {
    const { kind, id } = queuedIn(body);
    return { done: await ledgerOf(this.#parts.idempotency, kind).revive(id) };
  }

  async remove(body: Record<string, unknown>): Promise<QueuedDecided> {
    const { kind, id } = queuedIn(body);
    return { done: await ledgerOf(this.#parts.idempotency, kind).remove(id) };
  }

  async resolve(body: Record<string, unknown>): Promise<Decided> {
    const verdict = verdictOf(body);
    const answer = await this.#parts.idempotency.resolve(nameOf(body), verdict);
    if (answer.kind === "resolved") return { done: true };
    return { done: false, state: answer.kind === "absent" ? "absent" : answer.state };
  }

  async void(body: Record<string, unknown>): Promise<Decided> {
    const { kind } = await this.#parts.idempotency.void(nameOf(body));
    if (kind === "voided") return { done: true };
    return { done: false, state: kind === "busy" ? "running" : "completed" };
  }

  async delete(body: Record<string, unknown>): Promise<Decided> {
    const { kind } = await this.#parts.idempotency.delete(nameOf(body));
    if (kind === "deleted") return { done: true };
    return { done: false, state: kind === "busy" ? "running" : "absent" };
  }
}

/** What the library has against a request, as an answer. */
export function refusalOf(error: unknown): Refused | undefined {
  if (error instanceof Refused) return error;
  if (!isSemelError(error)) return undefined;
  const status = error.code.startsWith("store-") ? 503 : STATUS_OF[error.code];
  return status === undefined ? undefined : new Refused(status, error.code, error.message);
}

const STATUS_OF: Partial<Record<string, number>> = {
  "option-invalid": 400,
  "key-invalid": 400,
  "scope-missing": 400,
  "not-serializable": 400,
  "record-unreadable": 409,
};

function summaryOf(result: FoundRecord["result"]): ResultSummary | null {
  switch (result?.kind) {
    case undefined:
      return null;
    case "http":
      return { kind: "http", status: result.status, bytes: result.body.length };
    case "value":
      return { kind: "value" };
    case "failure":
    case "unreadable":
      return { kind: result.kind, message: result.message };
    case "not-stored":
      return {
        kind: "not-stored",
        ...(result.status !== undefined && { status: result.status }),
      };
  }
}

function queuedIn(body: Record<string, unknown>): QueuedBody {
  const kind = QUEUE_KINDS.find((one) => one === body["kind"]);
  if (kind) return { kind, id: textIn(body, "id") };
  throw new Refused(400, "parameter-invalid", '"kind" must be "task" or "effect"');
}

function nameOf(body: Record<string, unknown>): OperationName {
  return { key: textIn(body, "key"), scope: textIn(body, "scope") };
}

/** @throws {Refused} when it is not said what happened, or not what callers shall get */
function verdictOf(body: Record<string, unknown>): Verdict {
  const { outcome, response } = body;
  if (outcome === "not-applied") return { outcome };
  if (outcome !== "applied") {
    throw new Refused(400, "parameter-invalid", '"outcome" must be "applied" or "not-applied"');
  }
  if ("value" in body === (response !== undefined)) {
    throw new Refused(
      400,
      "parameter-invalid",
      'Say what callers shall get: either "response", for an operation over HTTP, or "value"',
    );
  }
  return response === undefined
    ? { outcome, value: body["value"] }
    : { outcome, result: httpResult(responseOf(response)) };
}

function responseOf(given: unknown): Parameters<typeof httpResult>[0] {
  const response = (given ?? {}) as Record<string, unknown>;
  const { status, headers = [] } = response;
  const areHeaders =
    Array.isArray(headers) &&
    headers.every(
      (line) =>
        Array.isArray(line) && line.length === 2 && line.every((part) => typeof part === "string"),
    );
  if (typeof status !== "number" || !areHeaders) {
    throw new Refused(
      400,
      "parameter-invalid",
      '"response" has a "status", "headers" as a list of names and values, and a "body"',
    );
  }
  const body = Buffer.from(textIn({ body: "", ...response }, "body"));
  return { status, headers: headers as [string, string][], body };
}
