// The process's clock, and the one that tests move.

import { describe, expect, test } from "vitest";
import { systemClock } from "../src/clock.ts";
import { manualClock } from "../src/testing/manual-clock.ts";

describe("the system's clock", () => {
  test("counts milliseconds since the epoch, and never goes back", () => {
    let last = systemClock.now();
    expect(Math.abs(last - Date.now())).toBeLessThan(60_000);
    for (let n = 0; n < 1_000; n++) {
      const now = systemClock.now();
      expect(now).toBeGreaterThanOrEqual(last);
      last = now;
    }
  });

  test("fires, and does not fire what was cancelled", async () => {
    const fired: string[] = [];
    await new Promise<void>((resolve) => {
      systemClock.schedule(0, () => fired.push("cancelled"))();
      // A delay beyond what timers can hold must not fire at once.
      const cancel = systemClock.schedule(2 ** 40, () => fired.push("far"));
      const keepAlive = setTimeout(() => {}, 5_000);
      systemClock.schedule(20, () => {
        cancel();
        clearTimeout(keepAlive);
        resolve();
      });
    });
    expect(fired).toEqual([]);
  });
});

describe("a manual clock", () => {
  test("fires timers in the order of their times, then of their scheduling", async () => {
    const clock = manualClock(1_000);
    const fired: [string, number][] = [];
    const at = (name: string) => () => void fired.push([name, clock.now()]);
    clock.schedule(20, at("c"));
    clock.schedule(10, at("a"));
    clock.schedule(10, at("b"));
    clock.schedule(10, at("cancelled"))();
    clock.schedule(21, at("later"));
    await clock.advance(20);
    expect(fired).toEqual([
      ["a", 1_010],
      ["b", 1_010],
      ["c", 1_020],
    ]);
    expect([clock.now(), clock.pending]).toEqual([1_020, 1]);
  });

  test("lets what a timer sets off settle before the next one, and fires what that schedules", async () => {
    const clock = manualClock(0);
    const seen: number[] = [];
    const chain = async () => {
      await Promise.resolve();
      await Promise.resolve();
      seen.push(clock.now());
      clock.schedule(5, () => seen.push(clock.now()));
    };
    clock.schedule(10, () => void chain());
    clock.schedule(20, () => seen.push(clock.now()));
    await clock.advance(20);
    expect(seen).toEqual([10, 15, 20]);
  });
});
