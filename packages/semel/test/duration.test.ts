// Durations as people write them (EN-13).

import fc from "fast-check";
import { describe, expect, expectTypeOf, test } from "vitest";
import { type Duration, durationMs } from "../src/duration.ts";

const UNIT_MS = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;

describe("durations (EN-13)", () => {
  test("are milliseconds, or a number with its unit", () => {
    fc.assert(
      fc.property(fc.nat(30_000), fc.constantFrom("ms", "s", "m", "h", "d"), (amount, unit) => {
        expect(durationMs(`${amount}${unit}` as Duration, "wait")).toBe(amount * UNIT_MS[unit]);
        expect(durationMs(amount, "wait")).toBe(amount);
      }),
    );
    expect(durationMs("1.5s", "wait")).toBe(1_500);
    expect(durationMs("0.4ms", "wait")).toBe(0);
    expect(durationMs(1.6, "wait")).toBe(2);
  });

  test("of any other form are refused, and the error names the option and the forms", () => {
    const wrong = [
      "",
      "5",
      "s",
      "-5s",
      "+5s",
      "5 s",
      "5S",
      "1e3ms",
      ".5s",
      "5.s",
      "5s ",
      "0x5s",
      "1h30m",
    ];
    const others = [
      null,
      undefined,
      true,
      {},
      [],
      5n,
      Number.NaN,
      Number.POSITIVE_INFINITY,
      () => 1,
    ];
    for (const value of [...wrong, ...others]) {
      expect(() => durationMs(value as never, "lease")).toThrow(
        expect.objectContaining({
          code: "option-invalid",
          message: expect.stringMatching(
            /`lease` must be milliseconds or a string such as "250ms"/,
          ),
        }),
      );
    }
    fc.assert(
      fc.property(fc.string(), (text) => {
        fc.pre(!/^\d+(\.\d+)?(ms|s|m|h|d)$/.test(text));
        expect(() => durationMs(text as never, "lease")).toThrow("`lease`");
      }),
    );
  });

  test("are bounded on both sides", () => {
    expect(durationMs(10, "lease", { minMs: 10, maxMs: 20 })).toBe(10);
    expect(durationMs(20, "lease", { minMs: 10, maxMs: 20 })).toBe(20);
    for (const value of [9, 21, "1s"] as const) {
      expect(() => durationMs(value, "lease", { minMs: 10, maxMs: 20 })).toThrow(
        "`lease` must be between 10 ms and 20 ms",
      );
    }
    expect(() => durationMs(-1, "wait")).toThrow("between 0 ms");
    expect(durationMs("36600d", "retention")).toBe(36_600 * UNIT_MS.d);
    expect(() => durationMs("36601d", "retention")).toThrow("between");
  });

  test("are checked by the compiler as well", () => {
    expectTypeOf<"5s">().toExtend<Duration>();
    expectTypeOf<"250ms">().toExtend<Duration>();
    expectTypeOf<"5 minutes">().not.toExtend<Duration>();
    expectTypeOf<"soon">().not.toExtend<Duration>();
  });
});
