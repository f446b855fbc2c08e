// Many messages, one call of the handler.

import { AttemptSuperseded } from "../../errors.ts";
import type { Admission, OperationRequest } from "../admission.ts";
import type { Attempt } from "../attempt.ts";
import type { Delivery } from "./delivery.ts";
import type { InboxMessage } from "./inbox.ts";
import type { Identity } from "./message-id.ts";

interface LeasedBatch<Message> {
  readonly attemptsMax: number;
  identify(message: InboxMessage): Identity;
  /** What the engine is asked about a message. */
  requestOf(key: string, fingerprint: string): OperationRequest;
  /** Asks the engine about all of them at once. */
  admit(requests: readonly OperationRequest[]): Promise<PromiseSettledResult<Admission>[]>;
  /** Ends a message that is not to be handled, or whose handler failed, and says what became of it. */
  end(request: OperationRequest, admission: Admitted, failure?: Failure): Promise<Delivery>;
  /** Ends a message that was handled. */
  complete(request: OperationRequest, attempt: Attempt): Promise<Delivery>;
  handler(fresh: readonly Message[]): unknown;
}

type Admitted = PromiseSettledResult<Admission>;

/** What the handler threw. */
interface Failure {
  error: unknown;
}

const TAKEN: Failure = { error: new AttemptSuperseded() };

/** A message that the engine was asked about. */
interface Asked<Message> {
  place: number;
  message: Message;
  request: OperationRequest;
  admission: Admitted;
}

/** One that is to be handled, as this attempt. */
interface Fresh<Message> extends Asked<Message> {
  attempt: Attempt;
}

/**
 * Claims messages at once, hands the fresh ones to the handler together, and ends them at once.
 * Stores combine what is asked in one turn, so that this is one statement to claim and one to end.
 *
 * @throws for a mistake of the program's, once the others have been handled
 */
export async function claimTogether<Message extends InboxMessage>(
  messages: readonly Message[],
  batch: LeasedBatch<Message>,
): Promise<Delivery[]> {
  const { first, again } = withoutRepeats(messages, batch.identify);
  const settled: PromiseSettledResult<Delivery>[] = [];
  const ends: Promise<void>[] = [];
  const end = <One extends Asked<Message>>(
    group: readonly One[],
    one: (asked: One) => Promise<Delivery>,
  ) => {
    ends.push(
      Promise.allSettled(group.map(one)).then((ended) => {
        for (const [index, { place }] of group.entries()) settled[place] = ended[index]!;
      }),
    );
  };
  const asked = await ask(messages, first, batch, settled);
  const fresh: Fresh<Message>[] = [];
  const others: Asked<Message>[] = [];
  for (const one of asked) {
    const attempt = attemptOf(one.admission);
    if (attempt && attempt.attempt <= batch.attemptsMax) fresh.push({ ...one, attempt });
    else others.push(one);
  }
  end(others, ({ request, admission }) => batch.end(request, admission));
  for (const claimed of groupsOf(fresh)) {
    // It may have been waited for others, while its lease was lost.
    const group = claimed.filter(({ attempt }) => !attempt.isSuperseded);
    const taken = claimed.filter(({ attempt }) => attempt.isSuperseded);
    end(taken, ({ request, admission }) => batch.end(request, admission, TAKEN));
    if (group.length === 0) continue;
    try {
      await batch.handler(group.map(({ message }) => message));
    } catch (error) {
      end(group, ({ request, admission }) => batch.end(request, admission, { error }));
      continue;
    }
    end(group, ({ request, attempt }) => batch.complete(request, attempt));
  }
  await Promise.all(ends);
  if (again.length > 0) {
    const repeats = again.map((place) => messages[place]!);
    for (const [index, value] of (await claimTogether(repeats, batch)).entries()) {
      settled[again[index]!] = { status: "fulfilled", value };
    }
  }
  return settled.map(deliveryOf);
}

/** Asks the engine about the messages at these places; what it cannot be asked about is settled. */
async function ask<Message extends InboxMessage>(
  messages: readonly Message[],
  places: readonly number[],
  batch: LeasedBatch<Message>,
  settled: PromiseSettledResult<Delivery>[],
): Promise<Asked<Message>[]> {
  const asked: Omit<Asked<Message>, "admission">[] = [];
  for (const place of places) {
    const message = messages[place]!;
    const identity = batch.identify(message);
    if (identity.key === undefined) {
      const value: Delivery = { kind: "unidentified", error: identity.error };
      settled[place] = { status: "fulfilled", value };
      continue;
    }
    const request = batch.requestOf(identity.key, identity.fingerprint);
    asked.push({ place, message, request });
  }
  const admissions = await batch.admit(asked.map(({ request }) => request));
  return asked.map(({ place, message, request }, index) => {
    return { place, message, request, admission: admissions[index]! };
  });
}

function attemptOf(admission: Admitted): Attempt | undefined {
  if (admission.status === "rejected" || admission.value.kind !== "run") return undefined;
  return admission.value.attempt;
}

/** Those that have not been tried before together, the others each alone. */
function groupsOf<Message>(fresh: readonly Fresh<Message>[]): (readonly Fresh<Message>[])[] {
  const untried = fresh.filter(({ attempt }) => attempt.attempt === 1);
  const suspects = fresh.filter(({ attempt }) => attempt.attempt > 1);
  return [...(untried.length > 0 ? [untried] : []), ...suspects.map((one) => [one])];
}

/** Places of the messages, those whose key came before apart: a claim cannot wait for its own batch. */
export function withoutRepeats<Message extends InboxMessage>(
  messages: readonly Message[],
  identify: (message: InboxMessage) => Identity,
): { first: number[]; again: number[] } {
  const keys = new Set<string>();
  const first: number[] = [];
  const again: number[] = [];
  for (const [index, message] of messages.entries()) {
    const { key } = identify(message);
    const isRepeat = key !== undefined && keys.has(key);
    (isRepeat ? again : first).push(index);
    if (key !== undefined) keys.add(key);
  }
  return { first, again };
}

function deliveryOf(settled: PromiseSettledResult<Delivery>): Delivery {
  if (settled.status === "fulfilled") return settled.value;
  throw settled.reason;
}
