// Delivers effects (EN-8): each at least once, with an id that stays the same, those of one operation
// in their order. A delivery that fails is tried again; one that goes on failing, or kills the process
// that makes it, is given up and kept for somebody to look at.

import { type Duration, durationMs } from "../../duration.ts";
import { InvalidOption } from "../../errors.ts";
import { publish } from "../../events.ts";
import { assertKnownOptions } from "../../options.ts";
import { bounded } from "../../retry.ts";
import type { QueueItem, Store, StoredItem } from "../../store.ts";
import { messageOf } from "../execution.ts";
import type { Contents } from "../queue/contents.ts";
import { type ItemEnd, Poller, type PollerHost } from "../queue/poller.ts";
import {
  isWorthRetrying,
  RETRY_OPTIONS,
  type Retrying,
  type RetryOptions,
  retryAfterMs,
  retryingOf,
} from "../queue/retrying.ts";
import {
  SERVICE_OPTIONS,
  type Service,
  type ServiceOptions,
  serviceOf,
  serviceSettings,
} from "../queue/service.ts";
import { uuidOf } from "../uuid.ts";
import { assertEffectName, withoutQueue } from "./effects.ts";

/** An effect that is to be delivered. */
export interface Effect<Payload = unknown> {
  /**
   * The same at every delivery, and no other effect's: a UUID, by which whoever is told can tell a
   * repetition.
   */
  readonly id: string;
  readonly name: string;
  readonly payload: Payload;
  /** Of this effect's deliveries, from 1. */
  readonly attempt: number;
  /** Of the operation that it belongs to. */
  readonly scope: string;
  readonly key: string;
  /** Aborts when the delivery takes longer than its `timeout`, or is somebody else's by now. */
  readonly signal: AbortSignal;
}

/** Delivers an effect. When it returns, the effect is delivered; when it throws, it was not. */
// biome-ignore lint/suspicious/noExplicitAny: whatever the payload is that the name stands for
export type Deliver = (effect: Effect<any>) => unknown;

export interface DeliveryOptions extends RetryOptions {
  deliver: Deliver;
  /** @default 20 */
  attemptsMax?: number;
  /** How old an effect may be that is still delivered. @default for ever */
  deadline?: Duration;
  /** How long one delivery may take. @default "1m" */
  timeout?: Duration;
}

/** An effect that was given up. */
export interface DeadLetter {
  readonly id: string;
  readonly name: string;
  readonly scope: string;
  readonly key: string;
  readonly attempts: number;
  readonly error: string;
}

export interface RelayOptions extends ServiceOptions {
  /** @default 16 */
  concurrency?: number;
  /**
   * How long it is remembered that an effect was delivered. An operation that runs again after that
   * records it anew. @default "7d"
   */
  retention?: Duration;
  /** How long a dead letter is kept. @default until somebody decides */
  deadRetention?: Duration;
  /** Called when an effect was given up; nobody waits for what it does. */
  onDeadLetter?: (letter: DeadLetter) => unknown;
}

/** Who delivers what, by the names of effects. */
export type RelayHandlers = Readonly<Record<string, Deliver | DeliveryOptions>>;

/** Delivers effects until it is closed. */
export type Relay = Service;

export interface RelayHost extends PollerHost {
  readonly store: Store;
  readonly contents: Contents;
  readonly codec: { decode(bytes: Uint8Array): unknown };
}

interface Delivery {
  readonly deliver: Deliver;
  readonly retrying: Retrying;
  readonly deadlineMs: number | undefined;
  readonly timeoutMs: number;
}

const ATTEMPTS_MAX = 20;
const NAMES_MAX = 100;
const DELIVERY_OPTIONS = [...RETRY_OPTIONS, "deliver", "deadline", "timeout"];
const OPTIONS = [...SERVICE_OPTIONS, "retention", "deadRetention", "onDeadLetter"];

/** @throws {InvalidOption} */
export function createRelay(
  host: RelayHost,
  handlers: RelayHandlers,
  options: RelayOptions = {},
): Relay {
  assertKnownOptions(options, OPTIONS, "relay()");
  const { queue } = host.store;
  if (queue === undefined) throw withoutQueue(host.store);
  host.contents.assertUsable("An effect");
  const { onDeadLetter } = options;
  if (onDeadLetter !== undefined && typeof onDeadLetter !== "function") {
    throw new InvalidOption("`onDeadLetter` must be a function");
  }
  const deliveries = deliveriesOf(handlers);
  const relaying = new Relaying(host, deliveries, {
    retentionMs: durationMs(options.retention ?? "7d", "retention", { minMs: 1 }),
    deadRetentionMs:
      options.deadRetention === undefined
        ? null
        : durationMs(options.deadRetention, "deadRetention", { minMs: 1 }),
  });
  const poller = new Poller(host, queue, {
    ...serviceSettings(options, 16),
    kind: "effect",
    names: [...deliveries.keys()],
    work: (item, controller) => relaying.deliver(item, controller),
    onDead: onDeadLetter && ((item, error) => void relaying.report(item, error, onDeadLetter)),
  });
  return serviceOf(poller);
}

function deliveriesOf(handlers: unknown): Map<string, Delivery> {
  if (typeof handlers !== "object" || handlers === null || Array.isArray(handlers)) {
    throw new InvalidOption("relay() takes an object of handlers by the names of effects");
  }
  const names = Object.entries(handlers);
  if (names.length < 1 || names.length > NAMES_MAX) {
    throw new InvalidOption(
      `relay() takes 1 to ${NAMES_MAX} handlers, got ${names.length}; more relays may run at once`,
    );
  }
  return new Map(names.map(([name, handler]) => [name, deliveryOf(name, handler)]));
}

function deliveryOf(name: string, handler: unknown): Delivery {
  assertEffectName(name);
  const options = typeof handler === "function" ? { deliver: handler as Deliver } : handler;
  assertKnownOptions(options, DELIVERY_OPTIONS, `The handler of "${name}"`);
  const { deliver, deadline, timeout = "1m", ...retry } = options as DeliveryOptions;
  if (typeof deliver !== "function") {
    throw new InvalidOption(
      `The handler of "${name}" must be a function, or have one: \`deliver\``,
    );
  }
  return {
    deliver,
    retrying: retryingOf(retry, { attemptsMax: ATTEMPTS_MAX }, `${name}.`),
    deadlineMs:
      deadline === undefined ? undefined : durationMs(deadline, `${name}.deadline`, { minMs: 1 }),
    timeoutMs: durationMs(timeout, `${name}.timeout`, { minMs: 1 }),
  };
}

class Relaying {
  readonly #host: RelayHost;
  readonly #deliveries: ReadonlyMap<string, Delivery>;
  readonly #retention: { retentionMs: number; deadRetentionMs: number | null };

  constructor(
    host: RelayHost,
    deliveries: ReadonlyMap<string, Delivery>,
    retention: { retentionMs: number; deadRetentionMs: number | null },
  ) {
    this.#host = host;
    this.#deliveries = deliveries;
    this.#retention = retention;
  }

  /** Delivers an effect and says what became of it. */
  async deliver(item: StoredItem, controller: AbortController): Promise<ItemEnd> {
    const delivery = this.#deliveries.get(item.name)!;
    const { retrying } = delivery;
    const { attemptsMax } = retrying;
    const crashes = item.started - 1 - item.finished;
    if (crashes >= attemptsMax) {
      return this.#dead(`attempts-exhausted: ${crashes} deliveries ended with their process`);
    }
    const leftMs = (delivery.deadlineMs ?? Number.POSITIVE_INFINITY) - item.ageMs;
    if (leftMs <= 0) return this.#dead(`deadline: it is ${item.ageMs} ms old`);
    let effect: Effect;
    try {
      effect = this.#effectOf(item, controller.signal);
    } catch (error) {
      return this.#dead(`payload-unreadable: ${messageOf(error)}`);
    }
    try {
      await this.#within(delivery.timeoutMs, delivery.deliver, effect, controller);
      return { kind: "done", retentionMs: this.#retention.retentionMs };
    } catch (error) {
      const why = messageOf(error);
      if (item.started >= attemptsMax) return this.#dead(`attempts-exhausted: ${why}`);
      if (!isWorthRetrying(retrying, error, item.operation))
        return this.#dead(`not-retryable: ${why}`);
      const dueInMs = retryAfterMs(retrying, item.started, this.#host.random);
      if (dueInMs >= leftMs) return this.#dead(`deadline: ${why}`);
      return { kind: "retry", dueInMs, error: why };
    }
  }

  /** Tells of an effect that was given up. Never rejects. */
  async report(
    item: StoredItem,
    error: string,
    onDeadLetter: (letter: DeadLetter) => unknown,
  ): Promise<void> {
    const { name, started: attempts, operation } = item;
    try {
      const { scope, key } = shownNames(this.#host.contents, item);
      await onDeadLetter({ id: uuidOf(item.id), name, scope, key, attempts, error });
    } catch (thrown) {
      const message = `onDeadLetter() threw: ${messageOf(thrown)}`;
      publish(() => ({ type: "misuse", id: operation, message }));
    }
  }

  #effectOf(item: StoredItem, signal: AbortSignal): Effect {
    const { scope, key, value } = this.#host.contents.unseal(item);
    const payload = this.#host.codec.decode(value);
    const { name, started: attempt } = item;
    return { id: uuidOf(item.id), name, payload, attempt, scope, key, signal };
  }

  async #within(
    timeoutMs: number,
    deliver: Deliver,
    effect: Effect,
    controller: AbortController,
  ): Promise<void> {
    const late = () => {
      const error = new Error(`timeout: the delivery took longer than ${timeoutMs} ms`);
      controller.abort(error);
      return error;
    };
    const delivered = (async () => void (await deliver(effect)))();
    await bounded(this.#host.clock, delivered, timeoutMs, late);
  }

  #dead(error: string): ItemEnd {
    return { kind: "dead", error, retentionMs: this.#retention.deadRetentionMs };
  }
}

/** Scope and key as callers know them; as they are kept, where they cannot be read. */
export function shownNames(contents: Contents, item: QueueItem): { scope: string; key: string } {
  try {
    return contents.unseal(item);
  } catch {
    return item;
  }
}
