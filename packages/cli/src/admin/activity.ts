// What this process saw happen to operations, from the library's diagnostics channel: the last of it one
// by one, and an hour of it in samples.

import { type OperationOutcome, outcomeOfEvent, type SemelEvent } from "semel";
import type { Flow, Sample, Sighting } from "./contract.ts";
import { hear } from "./hearing.ts";

export const SAMPLE_MS = 2_000;
const SAMPLES_MAX = 1_800;
const SIGHTINGS_MAX = 5_000;
/** Of each sample: what is above it is as good as random, and costs no more. */
const DURATIONS_MAX = 1_000;

const FLOW_OF: Record<OperationOutcome, Flow> = {
  executed: "executed",
  replayed: "replayed",
  busy: "refused",
  mismatch: "refused",
  "outcome-unknown": "refused",
  void: "refused",
  late: "refused",
  released: "failed",
  held: "failed",
  superseded: "failed",
  unrecorded: "failed",
  failed: "failed",
};

/** What became of something in the queue, as people read it after its name. */
const QUEUE_WORDS = {
  recorded: "recorded",
  done: "done",
  retry: "failed, tried again later",
  "handed-on": "left to another process",
  dead: "given up",
  lost: "taken over by another process",
} as const;

/** What a sample has besides what was seen. */
export type Counted = Pick<Sample, "states" | "oldestHeldMs" | "bytes">;

export class Activity {
  readonly #sightings: Sighting[] = [];
  readonly #samples: Sample[] = [];
  readonly #running = new Set<string>();
  #number = 0;
  #sampledAt = Date.now();
  #flows = noFlows();
  #executed = new Durations();
  #replayed = new Durations();

  /** Begins to listen. @returns the end of it */
  start(): () => void {
    return hear((event) => this.#onEvent(event));
  }

  get samples(): readonly Sample[] {
    return this.#samples;
  }

  /** The newest first. @param after only what has a higher number */
  latest(limit: number, after = 0): Sighting[] {
    const found: Sighting[] = [];
    for (let at = this.#sightings.length - 1; at >= 0 && found.length < limit; at--) {
      const sighting = this.#sightings[at]!;
      if (sighting.number <= after) break;
      found.push(sighting);
    }
    return found;
  }

  /** Of one operation, the oldest first. */
  of(id: string): Sighting[] {
    return this.#sightings.filter((sighting) => sighting.id === id);
  }

  /** Ends the sample that is under way. */
  sample(counted: Counted): Sample {
    const at = Date.now();
    const sample: Sample = {
      at,
      lengthMs: Math.max(1, at - this.#sampledAt),
      flows: this.#flows,
      executedMs: this.#executed.summary(),
      replayedMs: this.#replayed.summary(),
      active: this.#running.size,
      ...counted,
    };
    this.#samples.push(sample);
    if (this.#samples.length > SAMPLES_MAX) this.#samples.shift();
    this.#sampledAt = at;
    this.#flows = noFlows();
    this.#executed = new Durations();
    this.#replayed = new Durations();
    return sample;
  }

  #onEvent(event: SemelEvent): void {
    switch (event.type) {
      case "admitted":
      case "settled":
        this.#onOperation(event);
        break;
      case "step": {
        const { id, attempt, durationMs, name, outcome } = event;
        this.#see({ id, what: "step", attempt, durationMs, detail: `${name} ${outcome}` });
        break;
      }
      case "task":
      case "effect": {
        const { id, type, name, outcome, error } = event;
        const why = error === undefined ? "" : `: ${error}`;
        this.#see({ id, what: type, detail: `${name} ${QUEUE_WORDS[outcome]}${why}` });
        break;
      }
      case "lease-lost":
        this.#see({ id: event.id, what: "lease-lost", attempt: event.attempt });
        break;
      case "decided":
        this.#see({ id: event.id, what: "decided", detail: `${event.decision}: ${event.answer}` });
        break;
    }
  }

  #onOperation(event: Extract<SemelEvent, { type: "admitted" | "settled" }>): void {
    const { id, attempt, durationMs } = event;
    const running = `${id}/${attempt}`;
    const outcome = outcomeOfEvent(event);
    if (event.type === "settled") this.#running.delete(running);
    else if (outcome === undefined) this.#running.add(running);
    if (outcome !== undefined) {
      this.#flows[FLOW_OF[outcome]]++;
      if (outcome === "executed") this.#executed.add(durationMs);
      if (outcome === "replayed") this.#replayed.add(durationMs);
    }
    this.#see({
      ...{ id, durationMs, what: outcome ?? "begun" },
      ...(attempt !== undefined && { attempt }),
      ...("cached" in event && event.cached && { cached: true }),
      ...("code" in event && event.code !== undefined && { detail: event.code }),
    });
  }

  #see(seen: Omit<Sighting, "number" | "at">): void {
    this.#number++;
    this.#sightings.push({ number: this.#number, at: Date.now(), ...seen });
    // In large steps: taking one from the front moves all of them.
    if (this.#sightings.length > 2 * SIGHTINGS_MAX) this.#sightings.splice(0, SIGHTINGS_MAX);
  }
}

class Durations {
  readonly #kept: number[] = [];
  #seen = 0;

  add(ms: number): void {
    this.#seen++;
    if (this.#kept.length < DURATIONS_MAX) this.#kept.push(ms);
    else {
      const place = Math.floor(Math.random() * this.#seen);
      if (place < DURATIONS_MAX) this.#kept[place] = ms;
    }
  }

  summary(): { median: number; high: number } | null {
    if (this.#kept.length === 0) return null;
    const sorted = this.#kept.sort((one, other) => one - other);
    const at = (share: number) =>
      sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]!;
    return { median: at(0.5), high: at(0.95) };
  }
}

function noFlows(): Record<Flow, number> {
  return { executed: 0, replayed: 0, refused: 0, failed: 0 };
}
