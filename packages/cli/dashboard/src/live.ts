// What happens now: the overview as it was when this page came, and everything since. A connection that
// breaks is made again, and the overview asked for anew.

import { useEffect, useState } from "preact/hooks";
import type { LiveMessages, Overview, Sighting } from "../../src/admin/contract.ts";
import { api } from "./api.ts";

const SAMPLES_MAX = 1_800;
const SIGHTINGS_MAX = 200;
const AGAIN_MS = 2_000;

export interface LiveState {
  overview: Overview | undefined;
  isConnected: boolean;
}

export function useLive(isAdmitted: boolean): LiveState {
  const [overview, setOverview] = useState<Overview>();
  const [isConnected, setConnected] = useState(true);
  useEffect(() => {
    if (!isAdmitted) return undefined;
    const connection = new Connection({
      onOverview: setOverview,
      onMessage: (change) => setOverview((known) => known && change(known)),
      onConnected: setConnected,
    });
    return () => connection.close();
  }, [isAdmitted]);
  return { overview, isConnected };
}

interface Listeners {
  onOverview(overview: Overview): void;
  onMessage(change: (known: Overview) => Overview): void;
  onConnected(isConnected: boolean): void;
}

class Connection {
  readonly #listeners: Listeners;
  #source: EventSource | undefined;
  #timer: number | undefined;

  constructor(listeners: Listeners) {
    this.#listeners = listeners;
    this.#open();
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#source?.close();
  }

  #open(): void {
    const source = api.events();
    this.#source = source;
    source.onopen = () => void this.#begin();
    source.onerror = () => {
      this.#listeners.onConnected(false);
      // A browser tries again by itself, but not after an answer that was no stream.
      if (source.readyState !== EventSource.CLOSED) return;
      this.#later(() => this.#open());
    };
    this.#on("sample", (sample) => (known) => ({
      ...known,
      samples: [...known.samples, sample].slice(-SAMPLES_MAX),
    }));
    this.#on("census", (census) => (known) => ({ ...known, census }));
    this.#on("sightings", (news) => (known) => ({
      ...known,
      sightings: merged(news, known.sightings),
    }));
  }

  async #begin(): Promise<void> {
    try {
      this.#listeners.onOverview(await api.overview());
      this.#listeners.onConnected(true);
    } catch {
      this.#later(() => void this.#begin());
    }
  }

  #later(again: () => void): void {
    clearTimeout(this.#timer);
    this.#timer = window.setTimeout(again, AGAIN_MS);
  }

  #on<Name extends keyof LiveMessages>(
    name: Name,
    change: (message: LiveMessages[Name]) => (known: Overview) => Overview,
  ): void {
    this.#source?.addEventListener(name, (event) => {
      this.#listeners.onMessage(change(JSON.parse((event as MessageEvent<string>).data)));
    });
  }
}

/** The newest first; what was told twice, once. */
function merged(news: readonly Sighting[], known: readonly Sighting[]): Sighting[] {
  const newest = known[0]?.number ?? 0;
  return [...news.filter(({ number }) => number > newest), ...known].slice(0, SIGHTINGS_MAX);
}
