// Batches as statements that the server accepts: bounded in bytes, and with one item's fault kept
// from the others.

import { StoreFull, StoreUnavailable, StoreUnusable } from "../../errors.ts";
import { isOfItem } from "./errors.ts";

/** Beyond it, one statement more costs less than the wait of all others for a long one. */
const STATEMENT_BYTES_MAX = 1024 * 1024;
/** What a statement has besides its items. */
const FRAME_BYTES = 2048;

export interface BatchBounds<Item> {
  /** How much of a statement an item takes, or somewhat less than that. */
  bytesOf(item: Item): number;
  /** The server's `max_allowed_packet`. */
  packetBytesMax: number;
}

/**
 * Sends a batch in as many statements as its bytes need, one after the other, and answers item by
 * item.
 */
export async function inStatements<Item, Answer>(
  items: readonly Item[],
  bounds: BatchBounds<Item>,
  send: (items: readonly Item[]) => Promise<readonly (Answer | Error)[]>,
): Promise<(Answer | Error)[]> {
  const answers = new Map<Item, Answer | Error>();
  let failure: Error | undefined;
  for (const part of partsOf(items, bounds)) {
    if (failure === undefined) failure = await sendPart(part, bounds, send, answers);
    if (failure !== undefined) {
      for (const item of part) if (!answers.has(item)) answers.set(item, failure);
    }
  }
  return items.map((item) => answers.get(item)!);
}

/** @returns why the store can answer no item at all */
async function sendPart<Item, Answer>(
  part: readonly Item[],
  bounds: BatchBounds<Item>,
  send: (items: readonly Item[]) => Promise<readonly (Answer | Error)[]>,
  answers: Map<Item, Answer | Error>,
): Promise<Error | undefined> {
  try {
    assertFits(part, bounds);
    const given = await send(part);
    for (const [index, item] of part.entries()) answers.set(item, given[index]!);
  } catch (cause) {
    const error = cause as Error;
    if (isOfStore(error)) return error;
    if (part.length === 1) answers.set(part[0]!, error);
    else {
      // Finds the item that the server refuses.
      for (const item of part) {
        const failure = await sendPart([item], bounds, send, answers);
        if (failure !== undefined) return failure;
      }
    }
  }
  return undefined;
}

function isOfStore(error: unknown): boolean {
  return (error instanceof StoreUnavailable || error instanceof StoreUnusable) && !isOfItem(error);
}

function* partsOf<Item>(
  items: readonly Item[],
  { bytesOf, packetBytesMax }: BatchBounds<Item>,
): Generator<Item[]> {
  const bytesMax = Math.min(STATEMENT_BYTES_MAX, packetBytesMax - FRAME_BYTES);
  let part: Item[] = [];
  let bytes = 0;
  for (const item of items) {
    const itemBytes = bytesOf(item);
    if (part.length > 0 && bytes + itemBytes > bytesMax) {
      yield part;
      [part, bytes] = [[], 0];
    }
    part.push(item);
    bytes += itemBytes;
  }
  if (part.length > 0) yield part;
}

/** A statement that is too long would cost the connection, too. */
function assertFits<Item>(
  part: readonly Item[],
  { bytesOf, packetBytesMax }: BatchBounds<Item>,
): void {
  if (part.length === 1) assertFit(bytesOf(part[0]!), packetBytesMax);
}

/** {@link assertFits} for so many bytes. @throws {StoreFull} */
export function assertFit(bytes: number, packetBytesMax: number): void {
  if (bytes + FRAME_BYTES <= packetBytesMax) return;
  throw new StoreFull(
    `The record takes more than the ${packetBytesMax} bytes that MySQL accepts at once, at two for each byte of its result or of a step's; raise \`max_allowed_packet\`, or lower \`maxResultBytes\``,
  );
}
