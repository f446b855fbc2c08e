// Duplicates that come at once, after expiry, and from the dead (SM-3, SM-8, SM-15, EN-3).

import assert from "node:assert/strict";
import { field, json, type Reply } from "../client.ts";
import { assertExecuted, assertProblem, assertReplayOf } from "../expectations.ts";
import { frameworkCase } from "../harness.ts";
import { withScene } from "../scene.ts";
import { until } from "../waiting.ts";

const BUSY = {
  status: 409,
  code: "operation-in-progress",
  state: "in-progress",
  retryAfter: true,
} as const;

const states = (replies: readonly Reply[], state: string) =>
  replies.filter((reply) => field(reply, "idempotency-status") === state);

export const concurrencyCases = [
  frameworkCase(
    "SM-3: of 50 requests at once one runs; with `wait` all get its answer",
    (harness) =>
      withScene(harness, { http: () => ({ wait: "10s" }) }, async (scene) => {
        const gate = scene.stage.hold("slow");
        const post = { key: "k", body: '{"amount":1}' };
        const replies = Array.from({ length: 50 }, () => scene.post("slow", post));
        await gate.reached;
        gate.open();
        const answers = await Promise.all(replies);
        const [first, ...others] = states(answers, "executed");
        assert.equal(others.length, 0);
        for (const reply of states(answers, "replayed")) assertReplayOf(reply, first!);
        assert.equal(states(answers, "replayed").length, 49);
        assert.equal(scene.runs("slow"), 1);
      }),
  ),

  frameworkCase(
    "HTTP-6: without `wait`, duplicates of a running request get 409 and Retry-After",
    (harness) =>
      withScene(harness, {}, async (scene) => {
        const gate = scene.stage.hold("slow");
        const first = scene.post("slow", { key: "k" });
        await gate.reached;
        const duplicates = await Promise.all(
          Array.from({ length: 49 }, () => scene.post("slow", { key: "k" })),
        );
        for (const duplicate of duplicates) assertProblem(duplicate, BUSY);
        const other = await scene.another();
        assertProblem(await other.post("slow", { key: "k" }), BUSY);
        assertProblem(await scene.post("slow", { key: "k", body: "other" }), {
          status: 422,
          code: "key-reused",
          state: "mismatch",
        });
        gate.open();
        assertExecuted(await first);
        assertReplayOf(await other.post("slow", { key: "k" }), await first);
        assert.equal(scene.runs("slow") + other.runs("slow"), 1);
      }),
  ),

  frameworkCase("EN-3: a wait that ends too early is 409 as well", (harness) =>
    withScene(harness, { http: () => ({ wait: "20ms" }) }, async (scene) => {
      const gate = scene.stage.hold("slow");
      const first = scene.post("slow", { key: "k" });
      await gate.reached;
      assertProblem(await scene.post("slow", { key: "k" }), BUSY);
      gate.open();
      assertExecuted(await first);
    }),
  ),

  frameworkCase("SM-3: waiting in another process ends with the same answer", (harness) =>
    withScene(harness, { http: () => ({ wait: "10s" }) }, async (scene) => {
      const other = await scene.another();
      const gate = scene.stage.hold("slow");
      const first = scene.post("slow", { key: "k" });
      await gate.reached;
      const duplicate = other.post("slow", { key: "k" });
      const begun = scene.store.calls.begin;
      await until(() => other.store.calls.begin > 0 || scene.store.calls.begin > begun, "a begin");
      gate.open();
      assertReplayOf(await duplicate, await first);
      assert.equal(other.runs("slow"), 0);
    }),
  ),

  frameworkCase(
    "SM-15: of 20 requests just after expiry one runs",
    (harness) =>
      withScene(harness, { http: () => ({ retention: "1h", wait: "10s" }) }, async (scene) => {
        const first = await scene.post("slow", { key: "k" });
        assert.deepEqual(json(first), { run: 1 });
        scene.elapse(3_000_000);
        assertReplayOf(await scene.post("slow", { key: "k" }), first);
        scene.elapse(700_000);
        const replies = await Promise.all(
          Array.from({ length: 20 }, () => scene.post("slow", { key: "k" })),
        );
        assert.equal(states(replies, "executed").length, 1);
        for (const reply of replies) assert.deepEqual(json(reply), { run: 2 });
        assert.equal(scene.runs("slow"), 2);
      }),
    ["moving-clock"],
  ),

  frameworkCase(
    "SM-20: a zombie is fenced, and its caller gets its successor's answer",
    (harness) =>
      withScene(
        harness,
        {
          http: () => ({ onCrash: "rerun" }),
          faults: [{ method: "renew", effect: "fail-before" }],
        },
        async (scene) => {
          const gate = scene.stage.hold("slow");
          const zombie = scene.post("slow", { key: "k" });
          await gate.reached;
          scene.elapse(31_000);
          const other = await scene.another();
          // So that the successor's answer can be told from the zombie's.
          other.stage.enter("slow");
          const winner = await other.post("slow", { key: "k" });
          assertExecuted(winner);
          assert.deepEqual(json(winner), { run: 2 });
          gate.open();
          assertReplayOf(await zombie, winner);
          assertReplayOf(await scene.post("slow", { key: "k" }), winner);
        },
      ),
    ["moving-clock"],
  ),

  frameworkCase(
    "SM-20: a zombie's stream is broken off rather than ended",
    (harness) =>
      withScene(
        harness,
        {
          http: () => ({ onCrash: "rerun" }),
          faults: [{ method: "renew", effect: "fail-before" }],
        },
        async (scene) => {
          const gate = scene.stage.hold("drip");
          const zombie = scene.post("drip", { key: "k" });
          const broken = assert.rejects(zombie);
          await gate.reached;
          scene.elapse(31_000);
          const other = await scene.another();
          const winner = await other.post("drip", { key: "k" });
          assertExecuted(winner);
          gate.open();
          await broken;
          assertReplayOf(await scene.post("drip", { key: "k" }), winner);
        },
      ),
    ["moving-clock"],
  ),
];
