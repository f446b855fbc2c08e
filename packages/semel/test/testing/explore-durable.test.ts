// The explorer over durable operations and effects: rocket rides, with a provider that remembers keys, a
// compensation, and a relay that delivers the receipt.

import { expect, test } from "vitest";
import { OperationFailed } from "../../src/errors.ts";
import { type ExploredProcess, explore } from "../../src/testing/index.ts";

function rocketRides({ idempotency, effect }: ExploredProcess, hasRockets: boolean) {
  const ride = idempotency.operation("ride", {
    handler: async (input: { to: string }, { step, effect: record }) => {
      await step("book", ({ idempotencyKey }) => effect("book", { idempotencyKey }), {
        undo: (_, { idempotencyKey }) => effect("cancel", { idempotencyKey }),
      });
      const charge = await step(
        "charge",
        ({ idempotencyKey }) => effect("charge", { idempotencyKey }),
        { undo: (_, { idempotencyKey }) => effect("refund", { idempotencyKey }) },
      );
      if (!hasRockets) throw new OperationFailed(new Error(`no rocket to ${input.to}`));
      await record("receipt", { charge });
      return charge;
    },
  });
  const relay = () =>
    idempotency.relay({ receipt: ({ id }) => effect("receipt", { idempotencyKey: id }) });
  return { ride, relay };
}

function explored(hasRockets: boolean, expected?: Record<string, number>) {
  return explore(
    (process) =>
      rocketRides(process, hasRockets).ride.run({
        key: "ride-7",
        input: { to: "the moon" },
        wait: "10m",
      }),
    {
      background: async (process) => {
        const relay = rocketRides(process, hasRockets).relay();
        await relay.drain();
        await relay.close();
      },
      ...(expected && { expected }),
    },
  );
}

test("a ride is booked, charged and has its receipt once, under every fault at every point", async () => {
  const report = await explored(true);
  expect(report.ok, String(report)).toBe(true);
  expect(report.points).toBeGreaterThan(15);
  expect(report.endings).toEqual({ completed: report.runs, held: 0 });
});

test("a ride without a rocket is undone once, and has no receipt", async () => {
  const report = await explored(false, { book: 1, charge: 1, refund: 1, cancel: 1, receipt: 0 });
  expect(report.ok, String(report)).toBe(true);
});
