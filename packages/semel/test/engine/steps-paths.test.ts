// Which steps the next attempt may call, and in which order, where steps run beside or within each other
// (EN-6).

import { describe, expect, test } from "vitest";
import { NotApplied } from "../../src/errors.ts";
import { deferred, failure, fixture, turns } from "./fixture.ts";

const named = { key: "ride-7", scope: "acme" } as const;
const request = { ...named, onCrash: "rerun" } as const;

describe("steps that run beside each other", () => {
  test.each([
    ["of which one was saved", ["x", "y"], "y"],
    ["of which the other was saved", ["x", "y"], "x"],
    ["of which none was saved", ["x", "y"], "both"],
  ])("EN-6: may begin in another order in the next attempt, %s", async (_which, order, fails) => {
    const { idempotency } = fixture();
    let attempts = 0;
    const run = () => {
      const isFirst = ++attempts === 1;
      return idempotency.run(request, async ({ step }) => {
        const leg = async (name: string) => {
          if (isFirst && (fails === "both" || fails === name)) throw new Error("blip");
          return name;
        };
        await step("before", () => 1);
        const names = isFirst ? order : order.toReversed();
        const legs = await Promise.allSettled(names.map((name) => step(name, () => leg(name))));
        for (const each of legs) if (each.status === "rejected") throw each.reason;
        return step("after", () => "done");
      });
    };
    expect(await failure(run())).toMatchObject({ message: "blip" });
    expect((await run()).value).toBe("done");
  });

  test("EN-6: do not excuse that a step before them is left out", async () => {
    const { idempotency } = fixture();
    let attempts = 0;
    const run = () =>
      idempotency.run(request, async ({ step }) => {
        const isFirst = ++attempts === 1;
        if (isFirst) await step("before", () => 1);
        await Promise.all(["x", "y"].map((name) => step(name, () => name)));
        if (isFirst) throw new Error("once more");
      });
    await failure(run());
    expect(await failure(run())).toMatchObject({
      code: "steps-diverged",
      message: expect.stringMatching(/"before" was not called/),
    });
  });
});

describe("a step in another one's work", () => {
  test("EN-6: is refused, with what to do instead", async () => {
    const { idempotency, store } = fixture();
    const error = await failure(
      idempotency.run(request, ({ step }) =>
        step("outer", async () => {
          await step("inner", () => expect.unreachable("it ran"));
        }),
      ),
    );
    expect(error).toMatchObject({
      code: "step-invalid",
      message: expect.stringMatching(/"inner" was called in the work of step "outer".*before or/),
    });
    expect(store.calls.append ?? 0).toBe(0);
  });

  test("EN-6: is none that the handler calls while the other one runs", async () => {
    const { idempotency } = fixture();
    const { value } = await idempotency.run(request, async ({ step }) => {
      const begun = deferred();
      const first = step("first", async () => begun.resolve());
      const second = begun.promise.then(() => step("second", () => 2));
      await first;
      return second;
    });
    expect(value).toBe(2);
  });

  /** An inner step that nobody can tell from one that runs beside the outer one; then an attempt after that. */
  async function unseen(undo: (() => unknown) | undefined, end: () => unknown) {
    const { idempotency, clock } = fixture();
    let attempts = 0;
    const run = () =>
      idempotency.run({ ...request, onError: "store" }, async ({ step }) => {
        await step("outer", async () => {
          await turns();
          return step("inner", () => 1, undo && { undo });
        });
        if (++attempts === 1) throw new NotApplied(new Error("once more"));
        return end();
      });
    await failure(run());
    const outcome = run().catch((error) => error);
    for (let n = 0; n < 12; n++) await clock.advance(100);
    return { outcome: await outcome, record: await idempotency.get(named) };
  }

  test("EN-6: after its first `await`, it is not demanded where the outer one is replayed", async () => {
    expect((await unseen(undefined, () => "done")).outcome.value).toBe("done");
  });

  test("EN-6: and an operation that fails for good is held, as nobody knows how to undo it", async () => {
    const { record } = await unseen(
      () => expect.unreachable("it was undone"),
      () => {
        throw new Error("for good");
      },
    );
    expect(record).toMatchObject({
      state: "held",
      reason: expect.stringMatching(/^undo-unknown: .*"inner"/),
    });
  });
});
