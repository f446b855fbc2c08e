// The conformance suite itself is tested: every store that is wrong in one way fails at least one
// case, and the honest ones fail none.

import { AssertionError } from "node:assert";
import { describe, expect, test } from "vitest";
import {
  queueCases,
  type StoreCase,
  type StoreHarness,
  storeCases,
} from "../../src/testing/index.ts";
import { openMemoryQueue, queueSaboteurs } from "./queue-saboteurs.ts";
import { openMemory } from "./saboteur.ts";
import { memorySaboteurs } from "./saboteurs.ts";
import { openSqlite, sqlSaboteurs } from "./sql-saboteurs.ts";

function isRunnable({ needs }: StoreCase, harness: StoreHarness): boolean {
  return needs.every((member) => harness[member] !== undefined);
}

/** What the suite has against a store: the first case that fails, and how. */
async function verdictOn(
  open: () => StoreHarness | Promise<StoreHarness>,
  cases: readonly StoreCase[] = storeCases,
) {
  for (const storeCase of cases) {
    const harness = await open();
    try {
      if (isRunnable(storeCase, harness)) await storeCase.run(harness);
    } catch (error) {
      return { storeCase: storeCase.name, error };
    } finally {
      await harness.close?.();
    }
  }
  return undefined;
}

/** A saboteur that merely breaks down proves nothing: an assertion must have found it out. */
function assertFoundOut(name: string, verdict: { error: unknown } | undefined): void {
  if (verdict === undefined) throw new Error(`"${name}" passed all cases`);
  const { error } = verdict;
  const isFinding =
    error instanceof AssertionError || (error as Error).cause instanceof AssertionError;
  if (!isFinding) throw error;
}

test("every case has a name of its own", () => {
  const names = [...storeCases, ...queueCases].map((storeCase) => storeCase.name);
  expect(new Set(names).size).toBe(names.length);
});

describe("the memory store", () => {
  test("honestly wrapped, it passes", async () => {
    expect(await verdictOn(() => openMemory())).toBeUndefined();
  });

  for (const { name, open } of memorySaboteurs) {
    test(`is found out when ${name}`, async () => assertFoundOut(name, await verdictOn(open)));
  }
});

describe("the memory store's queue", () => {
  test("honestly wrapped, it passes", async () => {
    expect(await verdictOn(() => openMemoryQueue(), queueCases)).toBeUndefined();
  });

  for (const { name, open } of queueSaboteurs) {
    test(`is found out when ${name}`, async () =>
      assertFoundOut(name, await verdictOn(open, queueCases)));
  }
});

describe("the SQLite store", () => {
  test("with its own SQL, it passes", async () => {
    expect(await verdictOn(() => openSqlite())).toBeUndefined();
  });

  for (const { name, open, changed } of sqlSaboteurs) {
    test(`is found out when ${name}`, async () => {
      const verdict = await verdictOn(open);
      expect(changed(), "statements that the saboteur changed").toBeGreaterThan(0);
      assertFoundOut(name, verdict);
    });
  }
});
