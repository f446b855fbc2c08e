// Suggestions for names that do not exist.

import { describe, expect, test } from "vitest";
import { assertInteger, assertKnownOptions, assertOneOf, nearestName } from "../src/options.ts";

const KNOWN = ["retention", "lease", "wait", "onError", "onCrash"];

describe("the nearest name", () => {
  test("is the one most likely meant, whatever its case", () => {
    expect(nearestName("retentoin", KNOWN)).toBe("retention");
    expect(nearestName("Lease", KNOWN)).toBe("lease");
    expect(nearestName("onerror", KNOWN)).toBe("onError");
    expect(nearestName("waits", KNOWN)).toBe("wait");
  });

  test("is none when nothing is near", () => {
    expect(nearestName("compression", KNOWN)).toBeUndefined();
    expect(nearestName("x", [])).toBeUndefined();
  });
});

test("messages show what was given, whatever it is", () => {
  const cycle: { self?: unknown } = {};
  cycle.self = cycle;
  for (const [value, shown] of [
    [5n, "5"],
    [Symbol("s"), "Symbol(s)"],
    [cycle, "object"],
    [Object.create(null), "object"],
    [() => 1, "function"],
    [undefined, "undefined"],
    [null, "null"],
    ["text", '"text"'],
  ]) {
    expect(() => assertInteger(value, "batch", 1, 5)).toThrow(`from 1 to 5, got ${String(shown)}`);
    expect(() => assertOneOf(value, ["a", "b"], "mode")).toThrow(`got ${String(shown)}`);
  }
  expect(() => assertKnownOptions(5, KNOWN, "run()")).toThrow(
    "run() takes an object of options, got number",
  );
});
