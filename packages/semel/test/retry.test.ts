// Pauses and bounded waits, under a clock that stands still.

import { getEventListeners } from "node:events";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { backoffMs, bounded, pause } from "../src/retry.ts";
import { manualClock } from "../src/testing/manual-clock.ts";
import { deferred, failure, isSettled, turns } from "./engine/fixture.ts";

describe("a backoff", () => {
  test("is anywhere between nothing and the bound, which doubles up to the cap", () => {
    const chance = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
    fc.assert(
      fc.property(fc.nat(2_000), chance, (tries, random) => {
        const ms = backoffMs({ baseMs: 20, capMs: 500 }, tries, () => random);
        expect(ms).toBeGreaterThanOrEqual(0);
        expect(ms).toBeLessThanOrEqual(Math.min(500, 20 * 2 ** tries));
      }),
    );
    expect([0, 1, 2, 9].map((n) => backoffMs({ baseMs: 20, capMs: 500 }, n, () => 0.5))).toEqual([
      10, 20, 40, 250,
    ]);
  });
});

describe("a pause", () => {
  test("ends after its time, not before", async () => {
    const clock = manualClock();
    const waiting = pause(clock, 100);
    await clock.advance(99);
    expect(await isSettled(waiting)).toBe(false);
    await clock.advance(1);
    await waiting;
  });

  test("ends early when what it waits for does, well or badly", async () => {
    const clock = manualClock();
    const wake = deferred();
    const waiting = [pause(clock, 100, undefined, wake.promise)];
    waiting.push(pause(clock, 100, undefined, Promise.reject(new Error("no"))));
    wake.resolve();
    await Promise.all(waiting);
    expect(clock.pending).toBe(0);
  });

  test("ends with the signal's reason, and leaves neither timer nor listener", async () => {
    const clock = manualClock();
    const controller = new AbortController();
    const { signal } = controller;
    const listeners = () => getEventListeners(signal, "abort").length;
    const done = pause(clock, 10, signal);
    await clock.advance(10);
    await done;
    expect(listeners()).toBe(0);
    const aborted = failure(pause(clock, 10, signal));
    expect(listeners()).toBe(1);
    const reason = new Error("enough");
    controller.abort(reason);
    expect(await aborted).toBe(reason);
    expect(await failure(pause(clock, 10, signal))).toBe(reason);
    expect([listeners(), clock.pending]).toEqual([0, 0]);
  });
});

describe("bounded work", () => {
  test("is answered by the work, and leaves no timer", async () => {
    const clock = manualClock();
    const late = () => expect.unreachable();
    expect(await bounded(clock, Promise.resolve(1), 100, late)).toBe(1);
    const error = new Error("no");
    expect(await failure(bounded(clock, Promise.reject(error), 100, late))).toBe(error);
    expect(clock.pending).toBe(0);
  });

  test("is given up at the bound; what it fails with later is nobody's unhandled rejection", async () => {
    const clock = manualClock();
    const work = deferred<number>();
    const late = new Error("late");
    const outcome = failure(bounded(clock, work.promise, 100, () => late));
    await clock.advance(100);
    expect(await outcome).toBe(late);
    work.reject(new Error("much later"));
    await turns();
  });
});
