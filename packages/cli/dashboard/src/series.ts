// From samples of two seconds to as many points as a chart can show.

import { FLOWS, type Flow, type Sample } from "../../src/admin/contract.ts";

export interface Point {
  at: number;
  /** Requests a second. */
  flows: Record<Flow, number>;
  executedMs: Sample["executedMs"];
  replayedMs: Sample["replayedMs"];
  states: Sample["states"];
  active: number;
}

export const RANGES: readonly [label: string, ms: number, samples: number][] = [
  ["5 min", 300_000, 1],
  ["15 min", 900_000, 3],
  ["1 h", 3_600_000, 10],
];

/** Puts so many samples at a time together, always the same ones, so that points stay where they are. */
export function pointsOf(samples: readonly Sample[], rangeMs: number, together: number): Point[] {
  const last = samples.at(-1);
  if (!last) return [];
  const groups = new Map<number, Sample[]>();
  for (const sample of samples) {
    if (sample.at < last.at - rangeMs) continue;
    const place = Math.floor(sample.at / (2_000 * together));
    const group = groups.get(place);
    if (group) group.push(sample);
    else groups.set(place, [sample]);
  }
  return [...groups.values()].map(pointOf);
}

function pointOf(samples: Sample[]): Point {
  const last = samples.at(-1)!;
  const seconds = samples.reduce((sum, { lengthMs }) => sum + lengthMs, 0) / 1_000;
  const flows = Object.fromEntries(
    FLOWS.map((flow) => [flow, samples.reduce((sum, one) => sum + one.flows[flow], 0) / seconds]),
  ) as Record<Flow, number>;
  return {
    ...{ at: last.at, flows, states: last.states },
    executedMs: together(
      samples.flatMap(({ executedMs, flows }) =>
        executedMs ? [{ ...executedMs, weight: flows.executed }] : [],
      ),
    ),
    replayedMs: together(
      samples.flatMap(({ replayedMs, flows }) =>
        replayedMs ? [{ ...replayedMs, weight: flows.replayed }] : [],
      ),
    ),
    active: Math.max(...samples.map(({ active }) => active)),
  };
}

/** Medians by their weights; of the high ones, the highest. */
function together(
  parts: { median: number; high: number; weight: number }[],
): { median: number; high: number } | null {
  const weight = parts.reduce((sum, part) => sum + part.weight, 0);
  if (weight === 0) return null;
  return {
    median: parts.reduce((sum, part) => sum + part.median * part.weight, 0) / weight,
    high: Math.max(...parts.map(({ high }) => high)),
  };
}

/** Requests a second over the last stretch of time, and how many of them were replayed, from 0 to 1. */
export function lately(samples: readonly Sample[], stretchMs = 60_000) {
  const since = (samples.at(-1)?.at ?? 0) - stretchMs;
  let [requests, replayed, lengthMs] = [0, 0, 0];
  for (const { at, flows, lengthMs: length } of samples) {
    if (at <= since) continue;
    lengthMs += length;
    replayed += flows.replayed;
    for (const flow of FLOWS) requests += flows[flow];
  }
  return {
    perSecond: lengthMs === 0 ? 0 : requests / (lengthMs / 1_000),
    replayedShare: requests === 0 ? 0 : replayed / requests,
    requests,
  };
}
