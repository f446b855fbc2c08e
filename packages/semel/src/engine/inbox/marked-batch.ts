// Many messages in one transaction with the handler's writes: their marks are one statement.

import type { MarkedWork } from "../marking.ts";
import { withoutRepeats } from "./batch.ts";
import type { Delivery } from "./delivery.ts";
import type { InboxMessage } from "./inbox.ts";
import type { Identity } from "./message-id.ts";

/** How messages are marked in a transaction. */
export interface Marking {
  identify(message: InboxMessage): Identity;
  /** Marks messages, then does the work with what they are; when it throws, none is marked. */
  mark(messages: readonly InboxMessage[], work: MarkedWork): Promise<void>;
  /** Throws what the engine's refusal of a message means. */
  refuse(error: unknown): void;
}

/**
 * Marks messages in a transaction and has the fresh ones handled, all of them or, when one of them can be
 * neither handled nor skipped, none.
 *
 * @param handle is given the fresh messages, and with each how often it was begun
 */
export async function markBatch<Message extends InboxMessage>(
  messages: readonly Message[],
  batch: Marking,
  handle: (fresh: readonly Message[], attempts: readonly number[]) => unknown,
): Promise<("processed" | "duplicate")[]> {
  const { first, again } = withoutRepeats(messages, batch.identify);
  const fresh = new Set<number>();
  await batch.mark(picked(messages, first), async (marks) => {
    const attempts: number[] = [];
    for (const [place, mark] of marks.entries()) {
      if (mark.kind === "refused") batch.refuse(mark.error);
      if (mark.kind !== "fresh") continue;
      fresh.add(first[place]!);
      attempts.push(mark.attempt);
    }
    // Theirs are the records that were just made: duplicates, or mismatches.
    if (again.length > 0) await markBatch(picked(messages, again), batch, () => {});
    if (fresh.size > 0) await handle(picked(messages, [...fresh]), attempts);
  });
  return messages.map((_, index) => (fresh.has(index) ? "processed" : "duplicate"));
}

export interface TransactedBatch<Message> {
  identify(message: InboxMessage): Identity;
  /** Does work in a transaction, and commits. */
  transact(
    work: (marking: Marking, handle: (fresh: readonly Message[]) => unknown) => Promise<void>,
  ): Promise<void>;
  /** Handles a message in a transaction of its own. */
  alone(message: Message): Promise<Delivery>;
  /** What a failure comes to; `attempt` 0: not the handler's. */
  failed(message: Message, attempt: number, error: unknown): Promise<Delivery>;
  /** What a refusal of the engine's comes to. */
  refused(error: unknown): Delivery;
}

/**
 * Marks messages and has them handled in one transaction; those that have failed before in one of their
 * own each.
 */
export async function transactTogether<Message extends InboxMessage>(
  messages: readonly Message[],
  batch: TransactedBatch<Message>,
): Promise<Delivery[]> {
  const deliveries = messages.map((message): Delivery | undefined => {
    const identity = batch.identify(message);
    return identity.key === undefined ? { kind: "unidentified", error: identity.error } : undefined;
  });
  const { first, again } = withoutRepeats(messages, batch.identify);
  const suspects = await transact(
    messages,
    first.filter((place) => deliveries[place] === undefined),
    batch,
    deliveries,
  );
  for (const place of suspects) deliveries[place] = await batch.alone(messages[place]!);
  const repeats = again.length > 0 ? await transactTogether(picked(messages, again), batch) : [];
  for (const [index, place] of again.entries()) deliveries[place] = repeats[index]!;
  return deliveries.map((delivery) => delivery!);
}

/**
 * Handles what is fresh among the messages at these places, and notes what became of each.
 *
 * @returns places of those that have failed before, which were left alone
 */
async function transact<Message extends InboxMessage>(
  messages: readonly Message[],
  places: readonly number[],
  batch: TransactedBatch<Message>,
  deliveries: (Delivery | undefined)[],
): Promise<number[]> {
  if (places.length === 0) return [];
  const attempts = new Map<number, number>();
  let failure: { error: unknown } | undefined;
  const suspects: number[] = [];
  try {
    await batch.transact(({ mark }, handle) =>
      mark(picked(messages, places), async (marks) => {
        for (const [index, one] of marks.entries()) {
          const place = places[index]!;
          if (one.kind === "refused") deliveries[place] = batch.refused(one.error);
          else if (one.kind === "duplicate") deliveries[place] = { kind: "duplicate" };
          else if (one.attempt > 1) suspects.push(place);
          else attempts.set(place, one.attempt);
        }
        if (suspects.length > 0) throw new FailedBefore();
        if (attempts.size === 0) return;
        try {
          await handle(picked(messages, [...attempts.keys()]));
        } catch (error) {
          failure = { error };
          throw error;
        }
      }),
    );
    for (const place of attempts.keys()) deliveries[place] = { kind: "processed" };
  } catch (error) {
    if (error instanceof FailedBefore) {
      // Of the others, some may have failed elsewhere meanwhile.
      const more = await transact(messages, [...attempts.keys()], batch, deliveries);
      return [...suspects, ...more];
    }
    const unanswered = places.filter((place) => deliveries[place] === undefined);
    await Promise.all(
      unanswered.map(async (place) => {
        const attempt = failure?.error === error ? (attempts.get(place) ?? 0) : 0;
        deliveries[place] = await batch.failed(messages[place]!, attempt, error);
      }),
    );
  }
  return suspects;
}

/** Rolls a transaction back in which there is what is to be handled alone. */
class FailedBefore extends Error {}

function picked<Item>(items: readonly Item[], places: readonly number[]): Item[] {
  return places.map((place) => items[place]!);
}
