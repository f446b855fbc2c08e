// What adapters of brokers share about one delivery: which handler it is for, what an outcome means for
// the broker, and who is told. An adapter itself only translates.

import type { Operation } from "../engine/attempt.ts";
import { messageOf } from "../engine/execution.ts";
import type { Delivery, Inbox, InboxMessage } from "../engine/inbox/inbox.ts";
import { InvalidOption, KeyInvalid } from "../errors.ts";
import { Gathering } from "../gathering.ts";
import { assertKnownOptions, assertMethods } from "../options.ts";
import { isAmbiguous } from "./message-id.ts";

/** What an adapter needs besides the inbox and the broker. */
export interface DeliveryOptions<Message> {
  /**
   * The message's id, where the adapter's own choice does not fit; `undefined` leaves it to the
   * inbox's `withoutId`. A message for which it throws is a dead letter. @default the adapter's page says
   */
  id?: ((message: Message) => string | undefined) | undefined;
  /**
   * What the id stands for, where not all of the body does: the same id with another payload is a dead
   * letter, and so is a message for which this throws. `undefined` compares nothing.
   * @default the body, byte by byte
   */
  payload?: ((message: Message) => unknown) | undefined;
  /** Told what became of each delivery, for logs and metrics; nobody waits for what it does. */
  onDelivery?: ((report: DeliveryReport<Message>) => unknown) | undefined;
}

interface HandlersOf<Message, Transaction> {
  /** Handles a message ({@link Inbox.process}). */
  handler: (message: Message, operation: Operation) => unknown;
  /** Handles a message with its mark in one transaction ({@link Inbox.transaction}). */
  transaction: (transaction: Transaction, message: Message, operation: Operation) => unknown;
  /**
   * Handles what is there together, at most `concurrency` messages ({@link Inbox.processBatch}). Those
   * that failed are handled again one by one, so that their order is not kept.
   */
  batch: (messages: readonly Message[]) => unknown;
  /** The same with their marks in one transaction ({@link Inbox.transactionBatch}). */
  transactionBatch: (transaction: Transaction, messages: readonly Message[]) => unknown;
}

/** Exactly one of them. */
export type MessageHandler<Message, Transaction> = OneOf<HandlersOf<Message, Transaction>>;

/** Those of {@link MessageHandler} that handle messages together. */
export type BatchHandler<Message, Transaction> = OneOf<
  Pick<HandlersOf<Message, Transaction>, "batch" | "transactionBatch">
>;

/** One of the members, and none of the others. */
type OneOf<Members> = {
  [Name in keyof Members]: Pick<Members, Name> & {
    [Other in Exclude<keyof Members, Name>]?: never;
  };
}[keyof Members];

/** What became of one delivery. */
export interface DeliveryReport<Message> {
  message: Message;
  delivery: Delivery;
  /**
   * Why the broker could not be told, if it could not: it will deliver the message again, and the
   * inbox will know it.
   */
  unsettled?: unknown;
}

/** How a broker is told what to do with a delivery. */
export interface Settling {
  ack(): unknown;
  /** Deliver it again, not before `delayMs`. */
  retry(delayMs: number): unknown;
  /** Never deliver it again; put it where dead letters go. */
  reject(reason: string): unknown;
  /** Keeps the broker from delivering it again while it is handled. */
  heartbeat?: { everyMs: number; beat(): unknown };
}

/** One of the messages that are handled together. */
interface Gathered<Message> {
  id: string | undefined;
  payload: unknown;
  message: Message;
}

/** A message as the inbox is to know it. */
export interface Named {
  id: string | undefined;
  payload: unknown;
}

const HANDLERS = ["handler", "transaction", "batch", "transactionBatch"] as const;
const OPTIONS = ["id", "payload", "onDelivery"];
/** When a dead letter could not be kept, or no redelivery can mend it. */
const RETRY_LATER_MS = 5_000;
/** Brokers deliver at once what is given back without a delay: never spin. */
const RETRY_MS_MIN = 50;

/** What messages are handled by. */
interface Handling {
  handlers?: readonly (typeof HANDLERS)[number][];
  /** How many are handled together at most. @default the inbox's concurrency */
  size?: number;
}

/** When a source takes back what it has delivered. */
export interface Stopping {
  signal: AbortSignal | undefined;
  /** Whether it has taken it back by itself. */
  isOver?: () => boolean;
}

/** Hands messages to an inbox, and tells the broker what became of them. */
export class Deliveries<Message, Transaction> {
  readonly #inbox: Inbox<Transaction>;
  readonly #options: DeliveryOptions<Message> & MessageHandler<Message, Transaction>;
  readonly #gathering: Gathering<Gathered<Message>, Delivery>;

  /**
   * @param where the adapter's function, for messages
   * @param names the adapter's own options
   * @throws {InvalidOption}
   */
  constructor(
    inbox: Inbox<Transaction>,
    options: DeliveryOptions<Message> & MessageHandler<Message, Transaction>,
    where: string,
    names: readonly string[] = [],
    { handlers = HANDLERS, size = inbox?.concurrency }: Handling = {},
  ) {
    assertDeliveryOptions(inbox, options, where, names, handlers);
    this.#inbox = inbox;
    this.#options = options;
    this.#gathering = new Gathering(
      (items) => this.#deliverTogether(items),
      () => size,
    );
  }

  /**
   * Handles one delivery, and tells the broker what became of it. Never rejects.
   *
   * @param after of the message before it, where order is kept: unless that was done with, this one
   * is given back without being handled
   * @returns whether the broker was told that it is done with: handled, or a dead letter
   */
  async settle(
    message: Message,
    named: Named,
    settling: Settling,
    after?: Promise<boolean>,
  ): Promise<boolean> {
    const stopBeating = beating(settling.heartbeat);
    if (after && !(await after)) {
      stopBeating();
      await giveBack(settling, RETRY_MS_MIN);
      return false;
    }
    const delivery = await this.#deliver(message, named).finally(stopBeating);
    try {
      await tell(settling, delivery);
      reported(this.#options, { message, delivery });
      return delivery.kind !== "busy" && delivery.kind !== "failed";
    } catch (unsettled) {
      // What could not be put to the dead letters is not lost.
      const isHandled = delivery.kind === "processed" || delivery.kind === "duplicate";
      if (!isHandled) await giveBack(settling, RETRY_LATER_MS);
      reported(this.#options, { message, delivery, unsettled });
      return false;
    }
  }

  /**
   * For sources that deliver nothing again while they are connected: keeps the message, and delivers it
   * again here, until it is done with.
   *
   * @returns `false` when it was stopped before: the source will deliver it again
   */
  async insist(
    message: Message,
    named: Named,
    { heartbeat, reject }: Pick<Settling, "heartbeat" | "reject">,
    { signal, isOver = () => false }: Stopping,
  ): Promise<boolean> {
    const stopBeating = beating(heartbeat);
    try {
      for (;;) {
        if (signal?.aborted || isOver()) return false;
        let delayMs = 0;
        const retry = (ms: number) => {
          delayMs = ms;
        };
        if (await this.settle(message, named, { ack: () => {}, retry, reject })) return true;
        await paused(delayMs, signal);
      }
    } finally {
      stopBeating();
    }
  }

  async #deliver(message: Message, byAdapter: Named): Promise<Delivery> {
    const { handler, transaction } = this.#options;
    const named = namedBy(this.#options, message, byAdapter);
    if (named instanceof KeyInvalid) return this.#inbox.unidentified(named);
    try {
      if (handler) {
        return await this.#inbox.deliver(named, (operation) => handler(message, operation));
      }
      if (transaction) {
        return await this.#inbox.deliverTransaction(named, (tx, operation) =>
          transaction(tx, message, operation),
        );
      }
      return await this.#gathering.ask({ id: named.id, payload: named.payload, message });
    } catch (error) {
      // What no redelivery can mend is a mistake of the program: it is reported, and nothing is lost.
      return { kind: "failed", attempt: 0, error, retryAfterMs: RETRY_LATER_MS };
    }
  }

  #deliverTogether(items: readonly Gathered<Message>[]): Promise<Delivery[]> {
    const { batch, transactionBatch } = this.#options;
    const messagesOf = (fresh: readonly Gathered<Message>[]) => fresh.map(({ message }) => message);
    return batch
      ? this.#inbox.processBatch(items, (fresh) => batch(messagesOf(fresh)))
      : this.#inbox.transactionBatch(items, (tx, fresh) =>
          transactionBatch!(tx, messagesOf(fresh)),
        );
  }
}

/**
 * A message as the options say that it is to be known. What they throw is about this message, and no
 * redelivery would mend it.
 */
function namedBy<Message>(
  { id: idOf, payload: payloadOf }: DeliveryOptions<Message>,
  message: Message,
  { id, payload }: Named,
): InboxMessage | KeyInvalid {
  try {
    // `null` is what JSON says of what there is not.
    const given: unknown = (idOf ? idOf(message) : id) ?? undefined;
    if (given !== undefined && typeof given !== "string") {
      return new KeyInvalid(`A message's id must be a string, got ${typeof given}`);
    }
    if (given !== undefined && isAmbiguous(given)) return ambiguous();
    return { id: given, payload: payloadOf ? payloadOf(message) : payload };
  } catch (cause) {
    return new KeyInvalid(`The message could not be named: ${messageOf(cause)}`, { cause });
  }
}

function ambiguous(): KeyInvalid {
  return new KeyInvalid(
    "The message's id was bytes that are no text, and reads like other ids now (it holds U+FFFD or a lone surrogate); name it with `id`, bytes in hexadecimal",
  );
}

/** @throws {InvalidOption} */
function assertDeliveryOptions(
  inbox: unknown,
  options: Partial<Record<(typeof HANDLERS)[number], unknown>>,
  where: string,
  names: readonly string[],
  handlers: readonly (typeof HANDLERS)[number][],
): void {
  assertKnownOptions(options, [...handlers, ...OPTIONS, ...names], where);
  assertMethods(inbox, "inbox", ["deliver", "deliverTransaction"]);
  const given = handlers.filter((name) => typeof options[name] === "function");
  if (given.length === 1) return;
  throw new InvalidOption(
    `${where} takes one function of ${handlers.join(", ")}; got ${given.length === 0 ? "none" : given.join(" and ")}`,
  );
}

/** Tells whoever wants to know. */
function reported<Message>(
  { onDelivery }: DeliveryOptions<Message>,
  report: DeliveryReport<Message>,
): void {
  if (onDelivery) void telling("onDelivery", "SEMEL_ON_DELIVERY", () => onDelivery(report));
}

/**
 * Calls what somebody is told by. Nobody waits for what it does; what it throws or rejects with is a
 * warning of the process, and harms nothing. Never rejects.
 */
export async function telling(name: string, code: string, tell: () => unknown): Promise<void> {
  try {
    await tell();
  } catch (error) {
    process.emitWarning(`\`${name}\` threw: ${messageOf(error)}`, { code });
  }
}

function tell(settling: Settling, delivery: Delivery): unknown {
  switch (delivery.kind) {
    case "processed":
    case "duplicate":
      return settling.ack();
    case "busy":
    case "failed":
      return settling.retry(Math.max(RETRY_MS_MIN, Math.ceil(delivery.retryAfterMs)));
    case "poison":
    case "mismatch":
    case "unidentified":
      return settling.reject(`${delivery.kind}: ${messageOf(delivery.error)}`);
  }
}

/** Has a message delivered again, if that can be said. */
async function giveBack(settling: Settling, delayMs: number): Promise<void> {
  try {
    await settling.retry(delayMs);
  } catch {
    // The connection is gone, and with it the delivery.
  }
}

/** Waits, or until the signal aborts. Never keeps the process alive. */
export function paused(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    timer.unref();
    signal?.addEventListener("abort", done, { once: true });
  });
}

/** Beats until what it returns is called. A beat that is lost ends as a redelivery, which is busy. */
export function beating(heartbeat: Settling["heartbeat"]): () => void {
  if (heartbeat === undefined) return () => {};
  const beat = async () => {
    try {
      await heartbeat.beat();
    } catch {
      // The next one may arrive.
    }
  };
  const timer = setInterval(beat, heartbeat.everyMs);
  timer.unref();
  return () => clearInterval(timer);
}
