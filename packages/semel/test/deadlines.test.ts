// Many waits of one length, bounded by one timer, under a clock that stands still.

import { describe, expect, test } from "vitest";
import { Deadlines } from "../src/deadlines.ts";
import { manualClock } from "../src/testing/manual-clock.ts";
import { deferred, failure, isSettled, turns } from "./engine/fixture.ts";

const late = new Error("late");

describe("deadlines", () => {
  test("pass on what the work comes to", async () => {
    const deadlines = new Deadlines(manualClock(), 100);
    const error = new Error("no");
    expect(await deadlines.within(Promise.resolve(1), () => late)).toBe(1);
    expect(await failure(deadlines.within(Promise.reject(error), () => late))).toBe(error);
  });

  test("give work up at its own time, in the order in which it began, and not before", async () => {
    const clock = manualClock();
    const deadlines = new Deadlines(clock, 100);
    const waits = [];
    for (let n = 0; n < 3; n++) {
      waits.push(failure(deadlines.within(new Promise(() => {}), () => new Error(`late ${n}`))));
      await clock.advance(30);
    }
    await clock.advance(9);
    expect(await Promise.all(waits.map(isSettled))).toEqual([false, false, false]);
    for (const [n, wait] of waits.entries()) {
      await clock.advance(n === 0 ? 1 : 30);
      expect(await Promise.all(waits.map(isSettled))).toEqual([true, n > 0, n > 1]);
      expect(await wait).toEqual(new Error(`late ${n}`));
    }
    expect(clock.pending).toBe(0);
  });

  test("have one timer, which is over when nobody waits any more", async () => {
    const clock = manualClock();
    const deadlines = new Deadlines(clock, 100);
    const work = deferred<number>();
    const waits = Array.from({ length: 50 }, () => deadlines.within(work.promise, () => late));
    expect(clock.pending).toBe(1);
    work.resolve(1);
    expect(await Promise.all(waits)).toEqual(Array(50).fill(1));
    await clock.advance(100);
    expect(clock.pending).toBe(0);
    // And another one when somebody waits again.
    const outcome = failure(deadlines.within(new Promise(() => {}), () => late));
    await clock.advance(100);
    expect(await outcome).toBe(late);
  });

  test("that have passed leave the work alone: its failure is nobody's unhandled rejection", async () => {
    const clock = manualClock();
    const work = deferred<number>();
    const outcome = failure(new Deadlines(clock, 100).within(work.promise, () => late));
    await clock.advance(100);
    expect(await outcome).toBe(late);
    work.reject(new Error("much later"));
    await turns();
  });
});
