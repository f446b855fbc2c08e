// Wakes those who wait for an operation by LISTEN and NOTIFY (EN-3). One connection listens, and only
// while somebody waits.

import { setTimeout as delay } from "node:timers/promises";
import type { RecordId } from "../../store.ts";
import type { PostgresClient } from "./client.ts";

const PAUSE_MS_MIN = 100;
const PAUSE_MS_MAX = 5_000;

export class PostgresNotifications {
  readonly #client: PostgresClient;
  readonly #channel: string;
  readonly #waiting = new Map<RecordId, Set<() => void>>();
  #isListening = false;
  /** Ends the wait of the connection: it is lost, or nobody waits any more. */
  #finish = () => {};

  constructor(client: PostgresClient, channel: string) {
    this.#client = client;
    this.#channel = channel;
  }

  /** @returns ends it */
  subscribe(id: RecordId, wake: () => void): () => void {
    // A function of its own for each call, so that one caller may subscribe twice.
    const own = () => wake();
    const wakes = this.#waiting.get(id) ?? new Set();
    this.#waiting.set(id, wakes.add(own));
    if (!this.#isListening) void this.#listen();
    return () => {
      wakes.delete(own);
      if (wakes.size > 0 || this.#waiting.get(id) !== wakes) return;
      this.#waiting.delete(id);
      if (this.#waiting.size === 0) this.#finish();
    };
  }

  /** Listens, and listens again when the connection is lost, until nobody waits. Never rejects. */
  async #listen(): Promise<void> {
    this.#isListening = true;
    let pauseMs = PAUSE_MS_MIN;
    while (this.#waiting.size > 0) {
      try {
        await this.#untilFinished();
        pauseMs = PAUSE_MS_MIN;
      } catch {
        // Those who wait also ask from time to time by themselves.
        await delay(Math.random() * pauseMs, undefined, { ref: false });
        pauseMs = Math.min(2 * pauseMs, PAUSE_MS_MAX);
      }
    }
    this.#isListening = false;
  }

  async #untilFinished(): Promise<void> {
    const finished = new Promise<void>((resolve) => {
      this.#finish = resolve;
    });
    const stop = await this.#client.listen(this.#channel, {
      onNotify: (payload) => {
        for (const id of payload.split(",")) this.#wake(id.replaceAll("-", ""));
      },
      // What ended before there was a connection has not been heard.
      onListen: () => {
        for (const id of this.#waiting.keys()) this.#wake(id);
      },
      onLost: () => this.#finish(),
    });
    if (this.#waiting.size > 0) await finished;
    await stop();
  }

  #wake(id: RecordId): void {
    for (const wake of this.#waiting.get(id) ?? []) wake();
  }
}
