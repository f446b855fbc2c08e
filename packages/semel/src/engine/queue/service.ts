// What workers and relays have in common for those who run them: their options, and how they end.

import { type Duration, durationMs } from "../../duration.ts";
import { assertInteger, assertKnownOptions, assertMethods } from "../../options.ts";
import type { Poller } from "./poller.ts";

export interface ServiceOptions {
  /** How many are worked on at once in this process. */
  concurrency?: number | undefined;
  /**
   * How often to look for what other processes have added, give or take half of it. What this process
   * adds is seen at once. @default "1s"
   */
  pollInterval?: Duration | undefined;
  /** How long a claim lasts without being renewed: so long after a crash somebody else goes on. @default "30s" */
  lease?: Duration | undefined;
  /** Closes it. */
  signal?: AbortSignal | undefined;
}

export const SERVICE_OPTIONS = ["concurrency", "pollInterval", "lease", "signal"];
const SIGNAL_METHODS = ["addEventListener", "removeEventListener"];

/**
 * Does what is due, until it is closed. It keeps its process alive: to have it done is what the process
 * is for.
 */
export interface Service {
  /** Resolves when it is closed. */
  readonly closed: Promise<void>;
  /**
   * Claims no more, hands back what was not begun, and waits for what was. What still runs at the
   * deadline goes on, but is left to lapse: another process then finds out what became of it.
   *
   * @param options.deadline how long to wait. @default "10s"
   * @returns how many still ran
   */
  close(options?: { deadline?: Duration }): Promise<number>;
  /**
   * Waits until nothing is due and nothing is worked on here, for scripts and tests. What failed and is
   * to be tried again later is not due.
   *
   * @throws `Closed`; `StoreUnavailable` and its kin, when the store could not be asked
   */
  drain(options?: { signal?: AbortSignal }): Promise<void>;
}

/** @throws {InvalidOption} */
export function serviceSettings(options: ServiceOptions, concurrencyDefault: number) {
  const { concurrency = concurrencyDefault, pollInterval = "1s", lease = "30s" } = options;
  const { signal } = options;
  assertInteger(concurrency, "concurrency", 1, 10_000);
  if (signal !== undefined) assertMethods(signal, "signal", SIGNAL_METHODS);
  return {
    concurrency,
    pollMs: durationMs(pollInterval, "pollInterval", { minMs: 10 }),
    leaseMs: durationMs(lease, "lease", { minMs: 100 }),
    signal,
  };
}

export function serviceOf(poller: Poller): Service {
  return {
    closed: poller.closed,
    async close(options = {}) {
      assertKnownOptions(options, ["deadline"], "close()");
      return poller.close(durationMs(options.deadline ?? "10s", "deadline"));
    },
    async drain(options = {}) {
      assertKnownOptions(options, ["signal"], "drain()");
      return poller.drain(options.signal);
    },
  };
}
