// What is queued, as it is shown: of one operation, or one item with what was recorded for it.

import { type Idempotency, isSemelError, type QueueKind } from "semel";
import type { QueuedRow, QueuedView } from "../admin/contract.ts";

export const QUEUE_KINDS = ["task", "effect"] as const satisfies readonly QueueKind[];
export const QUEUE_STATES = ["waiting", "done", "dead"] as const;

/** Of one operation no more than this is shown. */
const OF_OPERATION_MAX = 1_000;
const PAGES_MAX = 100;

export function ledgerOf(idempotency: Idempotency, kind: QueueKind) {
  return kind === "task" ? idempotency.operations : idempotency.effects;
}

/** What an operation has in the queue, in the order in which it is done. */
export async function queuedOf(
  idempotency: Idempotency,
  operation: string,
): Promise<{ items: QueuedRow[]; hasMore: boolean }> {
  const items: QueuedRow[] = [];
  let hasMore = false;
  for (const kind of QUEUE_KINDS) {
    const ledger = ledgerOf(idempotency, kind);
    let cursor: string | undefined;
    for (let pages = 0; pages < PAGES_MAX; pages++) {
      const page = await ledger.list({
        ...{ operation, limit: OF_OPERATION_MAX },
        ...(cursor !== undefined && { cursor }),
      });
      items.push(...page.items.map((item) => ({ kind, ...item })));
      cursor = page.cursor;
      if (cursor === undefined || items.length >= OF_OPERATION_MAX) break;
    }
    hasMore ||= cursor !== undefined;
  }
  const order = ({ kind }: QueuedRow) => QUEUE_KINDS.indexOf(kind);
  items.sort((one, other) => order(one) - order(other) || one.place - other.place);
  return { items, hasMore };
}

/** One item of whichever kind, or of this one. */
export async function queuedItem(
  idempotency: Idempotency,
  id: string,
  kinds: readonly QueueKind[] = QUEUE_KINDS,
): Promise<QueuedView | undefined> {
  for (const kind of kinds) {
    const ledger = ledgerOf(idempotency, kind);
    try {
      const found = await ledger.get(id);
      if (found === undefined) continue;
      const { payload, ...item } = found;
      return { item: { kind, ...item }, payload: { value: payload } };
    } catch (error) {
      if (!isSemelError(error) || error.code !== "record-unreadable") throw error;
      const item = await ledger.find(id);
      if (item) return { item: { kind, ...item }, payload: { unreadable: error.message } };
    }
  }
  return undefined;
}
