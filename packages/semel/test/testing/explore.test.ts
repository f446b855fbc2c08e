// The explorer (TK-1): it finds what happens twice, or not at all, in code that is wrong, and nothing in
// code that is right.

import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { idempotent } from "../../src/frameworks/fetch.ts";
import type { Store } from "../../src/store.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import {
  type ExploredProcess,
  explore,
  exploreProcesses,
  type Violation,
} from "../../src/testing/index.ts";

function kindsOf(violations: readonly Violation[]): string[] {
  return violations.map(({ kind, effect }) => (effect ? `${kind} ${effect}` : kind)).sort();
}

/** Two steps whose downstream remembers their keys. */
function ride({ idempotency, effect }: ExploredProcess) {
  return idempotency.run({ key: "ride-7", onCrash: "rerun" }, async ({ step }) => {
    const ride = await step("ride", ({ idempotencyKey }) => effect("ride", { idempotencyKey }));
    await step("charge", ({ idempotencyKey }) => effect("charge", { idempotencyKey }));
    return ride;
  });
}

describe("operations that are right", () => {
  test("steps whose downstream remembers their keys, under every fault at every point", async () => {
    const report = await explore(ride);
    expect(report.ok, String(report)).toBe(true);
    // begin, two effects, two saves, settle, and the look of a second caller.
    expect(report.points).toBe(7);
    expect(report.runs).toBe(1 + 7 * 8);
    expect(report.endings).toEqual({ completed: report.runs, held: 0 });
  });

  test("the same under every two faults", async () => {
    const report = await explore(ride, {
      depth: 2,
      faults: ["crash-before", "crash-after", "lost-reply", "pause-after"],
    });
    expect(report.ok, String(report)).toBe(true);
    expect(report.runs).toBeGreaterThan(400);
    expect(report.endings.completed).toBe(report.runs);
  });

  test("an operation that is held when nobody knows", async () => {
    const report = await explore(({ idempotency, effect }) =>
      idempotency.run({ key: "order-1", onError: "hold" }, () => effect("charge")),
    );
    expect(report.ok, String(report)).toBe(true);
    expect(report.endings.held).toBeGreaterThan(0);
    expect(report.endings.completed).toBeGreaterThan(0);
  });

  test("an operation whose probe asks the downstream", async () => {
    const report = await explore(
      ({ idempotency, effect }) => {
        // The downstream remembers the key, and is asked whether it knows it.
        const known = { idempotencyKey: "order-1" };
        let asked = 0;
        const charge = () => effect("charge", { ...known, work: () => ++asked });
        return idempotency.run<number>(
          {
            key: "order-1",
            onError: "hold",
            onCrash: async () => ({ outcome: "applied", value: await charge() }),
          },
          charge,
        );
      },
      { expected: { charge: 1 } },
    );
    expect(report.ok, String(report)).toBe(true);
    expect(report.endings.completed).toBeGreaterThan(report.endings.held);
  });

  test("an HTTP handler", async () => {
    const report = await explore(async ({ idempotency, effect }) => {
      const handler = idempotent(
        idempotency,
        { scope: "shared", onError: "hold", wait: "1m" },
        async () => Response.json({ charge: await effect("charge") }, { status: 201 }),
      );
      return handler(
        new Request("http://shop.example/charges", {
          method: "POST",
          headers: { "idempotency-key": "order-42" },
          body: "amount=7",
        }),
      );
    });
    expect(report.ok, String(report)).toBe(true);
    expect(report.endings.held).toBeGreaterThan(0);
  });
});

describe("operations that are wrong", () => {
  test("running again after a crash charges twice, and the shortest trace shows where", async () => {
    const report = await explore(
      ({ idempotency, effect }) =>
        idempotency.run({ key: "order-1", onCrash: "rerun" }, () => effect("charge")),
      { faults: ["crash-before", "crash-after"] },
    );
    expect(report.ok).toBe(false);
    expect(kindsOf(report.violations)).toEqual(["twice charge"]);
    const [violation] = report.violations;
    expect(violation!.faults).toEqual([{ point: 'effect "charge" #1', fault: "crash-after" }]);
    expect(violation!.times).toBe(2);
    expect(violation!.trace).toContain('process 1  ✗ dies before the reply of effect "charge"');
    expect(String(report)).toContain('"charge" happened 2 times instead of 1');
  });

  test("SM-20: a process that stood still answers what its successor's callers got", async () => {
    const report = await explore(
      ({ idempotency, effect }) =>
        idempotency.run({ key: "order-1", onCrash: "rerun" }, () => effect("charge")),
      { faults: ["pause-before", "pause-after"] },
    );
    expect(kindsOf(report.violations)).toEqual(["twice charge"]);
  });

  test("a step without a key charges twice", async () => {
    const report = await explore(({ idempotency, effect }) =>
      idempotency.run({ key: "order-1", onCrash: "rerun" }, ({ step }) =>
        step("charge", () => effect("charge")),
      ),
    );
    expect(kindsOf(report.violations)).toEqual(["twice charge"]);
  });

  test("a failure that is swallowed leaves an effect out", async () => {
    const report = await explore(({ idempotency, effect }) =>
      idempotency.run({ key: "order-1" }, async () => {
        await effect("mail").catch(() => {});
        return "sent";
      }),
    );
    expect(kindsOf(report.violations)).toEqual(["missing mail"]);
  });

  test("two callers that are told different things", async () => {
    const report = await explore(
      async (process) => {
        await ride(process);
        return process.effect("look");
      },
      { expected: { ride: 1, charge: 1 }, faults: ["crash-before"] },
    );
    expect(kindsOf(report.violations)).toContain("different-answers");
  });

  test("a handler that never ends in time is stuck", async () => {
    const report = await explore(
      ({ idempotency, effect, store }) =>
        idempotency.run({ key: "order-1", onCrash: "rerun" }, async ({ attempt }) => {
          await effect("charge");
          if (attempt > 1) await store.read("0".repeat(32)).then(() => new Promise(() => {}));
        }),
      { faults: ["crash-after"] },
    );
    expect(kindsOf(report.violations)).toContain("stuck");
  });

  test("a store without fencing is found out", async () => {
    const blind = (store: Store): Store =>
      new Proxy(store, {
        get: (target, name) => {
          const member = Reflect.get(target, name) as unknown;
          if (name === "begin") {
            return (claim: Parameters<Store["begin"]>[0]) =>
              target.delete(claim.id).then(() => target.begin({ ...claim, leaseMs: 1 }));
          }
          return typeof member === "function" ? member.bind(target) : member;
        },
      });
    const report = await explore(
      ({ idempotency, effect }) =>
        idempotency.run({ key: "order-1", onError: "hold" }, () => effect("charge")),
      { store: (clock) => blind(memoryStore({ clock })), expected: { charge: 1 } },
    );
    expect(kindsOf(report.violations)).toContain("twice charge");
  });
});

describe("with real processes and SIGKILL", () => {
  const SCRIPT = join(import.meta.dirname, "explore-process.mjs");

  test("steps with keys happen once, wherever the process is killed", async () => {
    const report = await exploreProcesses(SCRIPT, { arguments: ["right"] });
    expect(report.ok, String(report)).toBe(true);
    // Before and after: begin, two effects, two saves, settle.
    expect(report.points).toBe(12);
    expect(report.endings).toEqual({ completed: 13, held: 0 });
  });

  test("a step without a key happens twice when it is killed after its effect", async () => {
    const report = await exploreProcesses(SCRIPT, { arguments: ["wrong"] });
    expect(kindsOf(report.violations)).toEqual(["twice charge"]);
    expect(report.violations[0]!.faults).toEqual([
      { point: 'after effect "charge"', fault: "crash-after" },
    ]);
  });

  test("a script that fails by itself is told of, with what it printed", async () => {
    await expect(exploreProcesses(SCRIPT.replace("-process", "-absent"))).rejects.toThrow(
      /Cannot find module/,
    );
  });
});

test.each([
  [{ depth: 3 }, /depth/],
  [{ faults: ["earthquake"] }, /faults/],
  [{ expected: { charge: -1 } }, /expected\.charge/],
  [{ fault: [] }, /faults/],
])("options that make no sense are refused: %j", async (options, message) => {
  await expect(explore(ride, options as never)).rejects.toThrow(message);
});

test("an operation that fails without any fault is told of, with its trace", async () => {
  const failing = explore(({ idempotency }) =>
    idempotency.run({ key: "order-1" }, () => {
      throw new Error("no paper");
    }),
  );
  await expect(failing).rejects.toThrow(/Without any fault/);
});
