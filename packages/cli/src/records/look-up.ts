// Looks a record up with its result as callers would get it: the library replays it here, from a store
// that holds this one record and cannot be written to.

import {
  Idempotency,
  isSemelError,
  type OperationName,
  type OperationRecord,
  type StepRecord,
  type Store,
  type StoredRecord,
} from "semel";
import { idempotent } from "semel/fetch";

export type ShownResult =
  | { kind: "value"; value: unknown }
  | { kind: "http"; status: number; headers: [name: string, value: string][]; body: Buffer }
  /** The handler's error, stored under `onError: "store"`. */
  | { kind: "failure"; message: string }
  /** It was larger than `maxResultBytes` (ST-10). */
  | { kind: "not-stored"; status?: number }
  /** Encrypted, damaged, or of a newer version. */
  | { kind: "unreadable"; message: string };

/** The name of the store that a record is replayed from, in what the library publishes about it. */
export const LOOKED_AT = "looked-at";

const KEY = "shown";
const RESULT_BYTES_MAX = 2 ** 30;

export interface FoundRecord {
  record: OperationRecord;
  result: ShownResult | undefined;
  /** `undefined`: they are encrypted or damaged. */
  steps: StepRecord[] | undefined;
}

/** @returns `undefined` when there is no such record */
export async function lookUp(
  store: Pick<Store, "read">,
  name: OperationName,
): Promise<FoundRecord | undefined> {
  let stored: StoredRecord | undefined;
  // The library knows the id of a name; the record is put aside, because a result that cannot be read
  // must not hide it.
  const read: Store["read"] = async (id) => {
    stored = await store.read(id);
    return undefined;
  };
  await showing({ name: LOOKED_AT, read }).get(name);
  return stored && shown(stored);
}

/** The same by a record's id, as events have it. */
export async function lookUpId(
  store: Pick<Store, "read">,
  id: string,
): Promise<FoundRecord | undefined> {
  const stored = await store.read(id);
  return stored && shown(stored);
}

async function shown(stored: StoredRecord): Promise<FoundRecord> {
  const { owner: _owner, result: _result, journal: _journal, ...record } = stored;
  return { record, result: await resultOf(stored), steps: await stepsOf(stored) };
}

async function stepsOf(stored: StoredRecord): Promise<StepRecord[] | undefined> {
  const read = async () => ({ ...stored, result: null });
  try {
    return (await showing({ name: LOOKED_AT, read }).get({ key: KEY }))?.steps;
  } catch (error) {
    if (isSemelError(error)) return undefined;
    throw error;
  }
}

async function resultOf(record: StoredRecord): Promise<ShownResult | undefined> {
  const { attempt, result, expiresInMs } = record;
  if (result === null) return undefined;
  const idempotency = showing({
    name: LOOKED_AT,
    read: async () => ({ ...record, journal: null }),
    begin: async () => ({ kind: "done", attempt, result, expiresInMs: expiresInMs ?? 0 }),
  });
  try {
    const found = await idempotency.get({ key: KEY });
    if (found && "value" in found) return { kind: "value", value: found.value };
    return await replayed(idempotency);
  } catch (error) {
    if (isSemelError(error)) return { kind: "unreadable", message: error.message };
    throw error;
  }
}

async function replayed(idempotency: Idempotency): Promise<ShownResult> {
  const replay = idempotent(idempotency, { scope: "shared", key: () => KEY }, () => {
    throw new Error("a completed operation was run to show its result");
  });
  const response = await replay(new Request("http://localhost/", { method: "POST" }));
  if (response.headers.get("idempotent-replayed") === null) {
    const problem = (await response.json()) as Problem;
    return problem.code === "operation-failed" ? failed(idempotency) : refusalOf(problem);
  }
  const headers = [...response.headers].filter(([name]) => !OWN_HEADERS.has(name));
  const body = Buffer.from(await response.arrayBuffer());
  return { kind: "http", status: response.status, headers, body };
}

/** What every replay carries, and no record does. */
const OWN_HEADERS = new Set(["idempotent-replayed", "idempotency-status", "idempotency-expires"]);

interface Problem {
  code: string;
  detail: string;
  originalStatus?: number;
}

/** Over HTTP a failure's message is nobody's business; here it is. */
async function failed(idempotency: Idempotency): Promise<ShownResult> {
  const message = await idempotency
    .run({ key: KEY }, () => "")
    .then(String, (error: Error) => error.message);
  return { kind: "failure", message };
}

function refusalOf({ code, detail, originalStatus }: Problem): ShownResult {
  if (code !== "result-not-stored") return { kind: "unreadable", message: detail };
  return { kind: "not-stored", ...(originalStatus !== undefined && { status: originalStatus }) };
}

/** Over a store that can be looked at only. */
export function showing(store: Pick<Store, "name" | "read"> & Partial<Store>): Idempotency {
  const refuse = () => Promise.reject(new Error("this store is for looking at records only"));
  const writes = { begin: refuse, settle: refuse, renew: refuse, sweep: refuse };
  const administration = { resolve: refuse, void: refuse, delete: refuse, list: refuse };
  return new Idempotency({
    store: { ...writes, ...administration, stats: refuse, ...store },
    maxResultBytes: RESULT_BYTES_MAX,
    cache: false,
    sweep: false,
  });
}
