// Tells everybody who watches what happens, by server-sent events: a sample every two seconds, what was
// seen since, and the store's numbers when they were counted anew.

import type { ServerResponse } from "node:http";
import type { ReadingStore } from "../stores/sqlite-reader.ts";
import { type Activity, SAMPLE_MS } from "./activity.ts";
import type { StoreCensus } from "./census.ts";
import type { LiveMessages, Overview, Sighting } from "./contract.ts";

const WATCHERS_MAX = 100;
/** What a watcher may leave unread: it is given up then, and comes back by itself. */
const UNREAD_BYTES_MAX = 2 ** 20;
const SIGHTINGS_SHOWN = 40;
/** Names of operations that are looked up for one message. */
const NAMES_MAX = 20;
const NAMES_KEPT = 2_000;

export class Live {
  readonly #activity: Activity;
  readonly #census: StoreCensus;
  readonly #names: Names;
  readonly #watchers = new Set<ServerResponse>();
  #seen = 0;
  #countedAt: number | null = null;
  #timer: NodeJS.Timeout | undefined;

  constructor(activity: Activity, census: StoreCensus, store: ReadingStore) {
    this.#activity = activity;
    this.#census = census;
    this.#names = new Names(store);
  }

  /** Begins to take samples. @returns the end of it, which ends everybody's stream */
  start(): () => void {
    const timer = setInterval(() => void this.#tick(), SAMPLE_MS);
    this.#timer = timer.unref();
    return () => {
      clearInterval(this.#timer);
      for (const watcher of this.#watchers) watcher.end();
    };
  }

  async overview(): Promise<Overview> {
    const [census, sightings] = await Promise.all([
      this.#census.upToDate(true),
      this.#names.named(this.#activity.latest(SIGHTINGS_SHOWN)),
    ]);
    return { samples: [...this.#activity.samples], census, sightings };
  }

  /** The same with the names of their operations, as far as they are known or found. */
  named(sightings: Sighting[]): Promise<Sighting[]> {
    return this.#names.named(sightings);
  }

  /** @returns false: there are too many */
  watch(response: ServerResponse): boolean {
    if (this.#watchers.size >= WATCHERS_MAX) return false;
    response.writeHead(200, {
      "Content-Type": "text/event-stream",
      // Proxies would keep events back until there are enough of them.
      "X-Accel-Buffering": "no",
    });
    response.write("retry: 2000\n\n");
    this.#watchers.add(response);
    response.once("close", () => this.#watchers.delete(response));
    return true;
  }

  async #tick(): Promise<void> {
    const isWatched = this.#watchers.size > 0;
    // Not waited for: a store that hangs must not hang what this process itself sees.
    void this.#census.upToDate(isWatched);
    const census = this.#census.latest;
    const { stats } = census;
    const sample = this.#activity.sample({
      states: stats?.states ?? null,
      oldestHeldMs: stats?.oldestHeldMs ?? null,
      bytes: stats?.bytes ?? null,
    });
    const sightings = this.#activity.latest(SIGHTINGS_SHOWN, this.#seen);
    this.#seen = sightings[0]?.number ?? this.#seen;
    if (!isWatched) return;
    this.#tell("sample", sample);
    if (census.at !== this.#countedAt || census.error !== null) {
      this.#countedAt = census.at;
      this.#tell("census", census);
    }
    if (sightings.length > 0) this.#tell("sightings", await this.#names.named(sightings));
  }

  #tell<Name extends keyof LiveMessages>(name: Name, message: LiveMessages[Name]): void {
    const text = `event: ${name}\ndata: ${JSON.stringify(message)}\n\n`;
    for (const watcher of this.#watchers) {
      if (watcher.writableLength > UNREAD_BYTES_MAX) watcher.destroy();
      else watcher.write(text);
    }
  }
}

/** Events have ids only; people think in names. */
class Names {
  readonly #store: ReadingStore;
  readonly #known = new Map<string, Sighting["name"]>();

  constructor(store: ReadingStore) {
    this.#store = store;
  }

  async named(sightings: readonly Sighting[]): Promise<Sighting[]> {
    const ids = new Set(sightings.map(({ id }) => id));
    const unknown = [...ids].filter((id) => !this.#known.has(id)).slice(0, NAMES_MAX);
    await Promise.all(unknown.map((id) => this.#find(id)));
    return sightings.map((sighting) => {
      const name = this.#known.get(sighting.id);
      return name ? { ...sighting, name } : sighting;
    });
  }

  async #find(id: string): Promise<void> {
    // A record that is gone, or a store that cannot be asked: the id has to do.
    const record = await this.#store.read(id).catch(() => undefined);
    if (record) this.#known.set(id, { scope: record.scope, key: record.key });
    const [oldest] = this.#known.keys();
    if (this.#known.size > NAMES_KEPT && oldest !== undefined) this.#known.delete(oldest);
  }
}
