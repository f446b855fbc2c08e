// Tells those who wait for an operation that its record has changed (EN-3): the scripts publish on
// the record's key, and a second client, which can do nothing else while it listens, hears it.

import { InvalidOption } from "../../errors.ts";

/** A second client of `ioredis` or `redis`, or of a cluster, for subscriptions alone. */
export interface RedisSubscriber {
  subscribe(...args: never[]): unknown;
  unsubscribe(...args: never[]): unknown;
}

interface IoredisSubscriber {
  on(event: "message", listener: (channel: string) => void): unknown;
  subscribe(channel: string): Promise<unknown>;
  unsubscribe(channel: string): Promise<unknown>;
}

interface NodeRedisSubscriber {
  subscribe(channel: string, listener: () => void): Promise<unknown>;
  unsubscribe(channel: string, listener: () => void): Promise<unknown>;
}

export class RedisNotifications {
  readonly #listen: (channel: string) => Promise<unknown>;
  readonly #leave: (channel: string) => Promise<unknown>;
  readonly #wakes = new Map<string, Set<() => void>>();

  /** @throws {InvalidOption} when it is no client */
  constructor(subscriber: RedisSubscriber) {
    const methods = subscriber as unknown as Record<string, unknown>;
    if (typeof methods["subscribe"] !== "function" || typeof methods["on"] !== "function") {
      throw new InvalidOption(
        "`subscriber` must be a second client of `ioredis` or `redis`, such as `client.duplicate()`",
      );
    }
    if (typeof methods["callBuffer"] === "function") {
      const client = subscriber as unknown as IoredisSubscriber;
      let isHeard = false;
      this.#listen = (channel) => {
        if (!isHeard) client.on("message", (heard) => this.#wake(heard));
        isHeard = true;
        return client.subscribe(channel);
      };
      this.#leave = (channel) => client.unsubscribe(channel);
    } else {
      const client = subscriber as unknown as NodeRedisSubscriber;
      const listeners = new Map<string, () => void>();
      this.#listen = (channel) => {
        const listener = () => this.#wake(channel);
        listeners.set(channel, listener);
        return client.subscribe(channel, listener);
      };
      this.#leave = (channel) => {
        const listener = listeners.get(channel)!;
        listeners.delete(channel);
        return client.unsubscribe(channel, listener);
      };
    }
  }

  /** Calls `wake` after every change that is heard of, until the function returned is called. */
  subscribe(channel: string, wake: () => void): () => void {
    const wakes = this.#wakes.get(channel) ?? new Set();
    if (wakes.size === 0) {
      this.#wakes.set(channel, wakes);
      // What changed before the subscription stood was not heard. A failure costs time only: those
      // who wait also look by themselves.
      void this.#quietly(() => this.#listen(channel)).then(() => this.#wake(channel));
    }
    // The same function twice is two subscriptions.
    const own = () => wake();
    wakes.add(own);
    return () => {
      if (!wakes.delete(own) || wakes.size > 0) return;
      this.#wakes.delete(channel);
      void this.#quietly(() => this.#leave(channel));
    };
  }

  #wake(channel: string): void {
    for (const wake of [...(this.#wakes.get(channel) ?? [])]) wake();
  }

  async #quietly(call: () => Promise<unknown>): Promise<void> {
    try {
      await call();
    } catch {
      // The client says so itself, by its own "error" event.
    }
  }
}
