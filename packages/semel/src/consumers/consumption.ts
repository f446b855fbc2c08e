// How a source of messages is consumed: which deliveries are in flight, and how consuming ends.

import { messageOf } from "../engine/execution.ts";
import type { Inbox } from "../engine/inbox/inbox.ts";
import { assertMethods } from "../options.ts";
import {
  Deliveries,
  type DeliveryOptions,
  type MessageHandler,
  type Named,
  paused,
  type Settling,
  telling,
} from "./deliveries.ts";

/** What an adapter that takes messages by itself needs besides the inbox and the broker. */
export interface ConsumeOptions<Message> extends DeliveryOptions<Message> {
  /** Stops consuming, as `close()` does. */
  signal?: AbortSignal | undefined;
  /**
   * Told why the broker could not be asked for messages; it is asked again, and nobody waits for what
   * this does. @default a warning of the process, when the reason changes
   */
  onTrouble?: ((error: unknown) => unknown) | undefined;
}

/** A consumer at work. */
export interface Consumption {
  /**
   * Resolves once consuming has stopped and nothing is in flight; rejects when the source ended by
   * itself: a closed connection, a deleted queue. Wait for it, to know that nothing is consumed any
   * more.
   */
  readonly closed: Promise<void>;
  /** Takes no more messages, and waits for those in flight and their acknowledgements. */
  close(): Promise<void>;
}

/** How long a source in trouble is left alone. */
const TROUBLE_MS = 250;

/** The deliveries of one consumer, from the broker to its acknowledgement. */
export class Intake<Message, Transaction> implements Consumption {
  readonly #inbox: Inbox<Transaction>;
  readonly #options: ConsumeOptions<Message>;
  readonly #deliveries: Deliveries<Message, Transaction>;
  readonly #stop = new AbortController();
  #inFlight = 0;
  #changed: (() => void)[] = [];
  #lastTrouble: string | undefined;
  closed: Promise<void> = Promise.resolve();

  /**
   * @param where the adapter's function, for messages
   * @param names the adapter's own options
   * @throws {InvalidOption}
   */
  constructor(
    inbox: Inbox<Transaction>,
    options: ConsumeOptions<Message> & MessageHandler<Message, Transaction>,
    where: string,
    names: readonly string[] = [],
  ) {
    const own = ["signal", "onTrouble", ...names];
    this.#deliveries = new Deliveries(inbox, options, where, own);
    const { signal } = options;
    if (signal !== undefined) assertMethods(signal, "signal", ["addEventListener"]);
    this.#inbox = inbox;
    this.#options = options;
  }

  /** Aborts when no more messages are to be taken. */
  get stopping(): AbortSignal {
    return this.#stop.signal;
  }

  /**
   * Takes messages until the source ends or consuming is stopped.
   *
   * @param take returns once no more messages come; throws when the source has failed
   * @param flush resolves once the broker has what it was told, after the last delivery
   */
  start(take: () => Promise<void>, flush: () => Promise<unknown> = async () => {}): this {
    const { signal } = this.#options;
    const stop = () => this.#stop.abort();
    if (signal?.aborted) stop();
    signal?.addEventListener("abort", stop, { once: true });
    this.closed = this.#consume(take, flush).finally(() =>
      signal?.removeEventListener("abort", stop),
    );
    return this;
  }

  async #consume(take: () => Promise<void>, flush: () => Promise<unknown>): Promise<void> {
    if (this.stopping.aborted) return;
    try {
      await take();
    } finally {
      this.#stop.abort();
      while (this.#inFlight > 0) await this.#change();
    }
    await flush();
  }

  async close(): Promise<void> {
    this.#stop.abort();
    // How the source ended is told by `closed`.
    await this.closed.catch(() => {});
  }

  /** How many more messages may be in flight, once there is at least one; 0 when stopping. */
  async #room(): Promise<number> {
    while (this.#inFlight >= this.#inbox.concurrency && !this.stopping.aborted) {
      await this.#change();
    }
    return this.stopping.aborted ? 0 : this.#inbox.concurrency - this.#inFlight;
  }

  /**
   * Asks for messages while there is room for them, until consuming is stopped. When that fails it is
   * done again, after a while.
   *
   * @param ask is told how many messages may come
   * @param isOver whether the source has ended by what it failed with @default it never has
   */
  async poll(
    ask: (room: number) => Promise<void>,
    isOver: (error: unknown) => boolean = () => false,
  ): Promise<void> {
    for (let room = await this.#room(); room > 0; room = await this.#room()) {
      try {
        await ask(room);
      } catch (error) {
        if (isOver(error)) throw error;
        await this.#trouble(error);
      }
    }
  }

  /** Waits, or until consuming is stopped. Never keeps the process alive. */
  pause(ms: number): Promise<void> {
    return paused(ms, this.stopping);
  }

  /** The source cannot be asked now: says so, and waits before it is asked again. */
  async #trouble(error: unknown): Promise<void> {
    // Closing a connection to stop consuming is no trouble.
    if (this.stopping.aborted) return;
    const { onTrouble } = this.#options;
    const message = messageOf(error);
    if (onTrouble) void telling("onTrouble", "SEMEL_ON_TROUBLE", () => onTrouble(error));
    else if (message !== this.#lastTrouble) {
      process.emitWarning(`The inbox of "${this.#inbox.consumer}" gets no messages: ${message}`, {
        code: "SEMEL_NO_MESSAGES",
      });
    }
    this.#lastTrouble = message;
    await this.pause(TROUBLE_MS);
  }

  /** {@link Deliveries.settle}, with the delivery in flight meanwhile. */
  receive(
    message: Message,
    named: Named,
    settling: Settling,
    after?: Promise<boolean>,
  ): Promise<boolean> {
    return this.#inFlightWhile(this.#deliveries.settle(message, named, settling, after));
  }

  /** {@link Deliveries.insist}, until consuming is stopped, with the delivery in flight meanwhile. */
  keep(
    message: Message,
    named: Named,
    settling: Pick<Settling, "heartbeat" | "reject">,
  ): Promise<boolean> {
    const stopping = { signal: this.stopping };
    return this.#inFlightWhile(this.#deliveries.insist(message, named, settling, stopping));
  }

  async #inFlightWhile(settled: Promise<boolean>): Promise<boolean> {
    this.#inFlight++;
    try {
      return await settled;
    } finally {
      this.#inFlight--;
      this.#wake();
    }
  }

  #change(): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        this.stopping.removeEventListener("abort", wake);
        resolve();
      };
      this.#changed.push(wake);
      this.stopping.addEventListener("abort", wake, { once: true });
    });
  }

  #wake(): void {
    for (const wake of this.#changed.splice(0)) wake();
  }
}

/**
 * The end of a source: wanted, which resolves, or not, which rejects.
 *
 * @param stopping of the intake
 */
export function endOf(stopping: AbortSignal): {
  promise: Promise<void>;
  fail(error: unknown): void;
} {
  let fail: (error: unknown) => void = () => {};
  const promise = new Promise<void>((resolve, reject) => {
    fail = reject;
    if (stopping.aborted) resolve();
    stopping.addEventListener("abort", () => resolve(), { once: true });
  });
  // It may end before anybody waits.
  promise.catch(() => {});
  return { promise, fail };
}
