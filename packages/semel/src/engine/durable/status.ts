// What may be known of a durable operation: from its record where there is one, and from the queue
// where it waits.

import type { StoredItem, StoredRecord } from "../../store.ts";
import { open } from "../envelope.ts";
import { storedFailure } from "../execution.ts";
import { entriesOf } from "../journal.ts";

/** What a caller may know of its durable operation. */
export interface DurableStatus {
  /** `waiting`: for a worker, at first or after a failure; `failed`: for good. */
  state: "absent" | "waiting" | "running" | "completed" | "failed" | "held" | "void";
  /** How often it was begun. */
  attempt: number;
  /** The steps that are done, in their order; none once it has ended. */
  steps: string[];
  /** Until it is tried (again), in milliseconds; 0 or less: now. `null` unless waiting. */
  nextTryInMs: number | null;
  /** Why it failed last, or is held. */
  error: string | null;
  /** Until it is forgotten, in milliseconds; `null`: kept. */
  expiresInMs: number | null;
}

export async function durableStatus(
  record: StoredRecord | undefined,
  item: StoredItem | undefined,
  resultBytesMax: number,
): Promise<DurableStatus> {
  const known = {
    attempt: record?.attempt ?? 0,
    steps: stepsOf(record),
    nextTryInMs: null,
    error: null,
    expiresInMs: record?.expiresInMs ?? null,
  };
  switch (record?.state) {
    case "completed": {
      const result = await open(record.result!, resultBytesMax);
      if (result.kind !== "failure") return { ...known, state: "completed", steps: [] };
      return { ...known, state: "failed", steps: [], error: storedFailure(result).message };
    }
    case "void":
      return { ...known, state: "void" };
    case "held":
      return { ...known, state: "held", error: record.reason };
    case "running": {
      if ((record.leaseRemainingMs ?? 0) > 0) return { ...known, state: "running" };
      // Its process died: a worker finds it when the item's claim has lapsed as well.
      if (record.onCrash !== "rerun") return { ...known, state: "held", error: "lease-lapsed" };
      return { ...known, ...waiting(item) };
    }
    case "open":
      return { ...known, ...waiting(item) };
    case undefined:
      return item ? { ...known, ...waiting(item) } : { ...known, state: "absent" };
  }
}

function waiting(
  item: StoredItem | undefined,
): Pick<DurableStatus, "state" | "nextTryInMs" | "error"> {
  const error = item?.error ?? null;
  if (item?.state === "dead") return { state: "held", nextTryInMs: null, error };
  return { state: "waiting", nextTryInMs: item?.dueInMs ?? null, error };
}

function stepsOf(record: StoredRecord | undefined): string[] {
  const done = new Set<string>();
  for (const { head } of entriesOf(record?.journal ?? new Uint8Array(0))) {
    if (head.kind === "done") done.add(head.name);
    if (head.kind === "undone") done.delete(head.name);
  }
  return [...done];
}
