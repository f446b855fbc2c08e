// What becomes of responses and of failures: which are stored, and what follows for the key (SM-24,
// HTTP-12).

import assert from "node:assert/strict";
import { field, json, type Reply } from "../client.ts";
import {
  assertExecuted,
  assertProblem,
  assertReleasedFailure,
  assertReplayOf,
} from "../expectations.ts";
import { type FrameworkHarness, frameworkCase, type SuiteOptions } from "../harness.ts";
import { type Scene, type SceneSetup, withScene } from "../scene.ts";

const VERDICTS = [
  200, 201, 202, 206, 301, 302, 400, 402, 404, 405, 406, 410, 411, 412, 413, 415, 422, 451,
];
const PASSING = [401, 403, 408, 409, 421, 423, 425, 429, 500, 501, 502, 503, 504];

async function answersTwice(scene: Scene, status: number): Promise<[Reply, Reply]> {
  scene.stage.settings.status = status;
  const post = { key: `k-${status}` };
  return [await scene.post("status", post), await scene.post("status", post)];
}

/** Answers that are stored, and answers that are not, under given options. */
function storingCase(name: string, http: SuiteOptions, stored: number[], passing: number[]) {
  return frameworkCase(name, (harness) =>
    withScene(harness, { http }, async (scene) => {
      for (const status of stored) {
        const [first, second] = await answersTwice(scene, status);
        assert.equal(first.status, status);
        assertExecuted(first);
        assertReplayOf(second, first);
      }
      for (const status of passing) {
        const [first, second] = await answersTwice(scene, status);
        for (const reply of [first, second]) {
          assert.equal(reply.status, status);
          assert.equal(field(reply, "idempotency-status"), "released");
          assert.equal(field(reply, "idempotency-expires"), undefined);
        }
        assert.notDeepEqual(first.body, second.body, "it ran again");
      }
    }),
  );
}

const HELD = { status: 409, code: "outcome-unknown", state: "unknown" } as const;

/** Runs a failing route twice under `onError`. */
async function failsTwice(
  harness: FrameworkHarness,
  route: "throws" | "rejects" | "not-applied",
  setup: SceneSetup,
): Promise<{ first: Reply; second: Reply; runs: number }> {
  let outcome: { first: Reply; second: Reply; runs: number } | undefined;
  await withScene(harness, setup, async (scene) => {
    const first = await scene.post(route, { key: "k" });
    const second = await scene.post(route, { key: "k" });
    outcome = { first, second, runs: scene.runs(route) };
  });
  return outcome!;
}

const failures = (["throws", "rejects"] as const).flatMap((route) => [
  frameworkCase(
    `SM-24: a handler that ${route} is released by default, and runs again`,
    async (harness) => {
      const { first, second, runs } = await failsTwice(harness, route, {});
      assertReleasedFailure(first);
      assertReleasedFailure(second);
      assert.equal(runs, 2);
    },
  ),

  frameworkCase(`SM-24: onError "hold": a handler that ${route} runs no more`, async (harness) => {
    const { first, second, runs } = await failsTwice(harness, route, {
      http: () => ({ onError: "hold" }),
    });
    assert.equal(first.status, 500);
    assertProblem(second, HELD);
    assert.equal(runs, 1);
  }),

  frameworkCase(
    `SM-24: onError "store": the failure of a handler that ${route} is its result`,
    async (harness) => {
      const { first, second, runs } = await failsTwice(harness, route, {
        http: () => ({ onError: "store" }),
      });
      assert.equal(first.status, 500);
      assert.equal(second.status, 500);
      assert.equal(field(second, "idempotency-status"), "replayed");
      assert.equal(runs, 1);
    },
  ),
]);

const notApplied = (["release", "hold", "store"] as const).map((onError) =>
  frameworkCase(
    `SM-24: NotApplied always releases, also under onError "${onError}"`,
    async (harness) => {
      const { first, second, runs } = await failsTwice(harness, "not-applied", {
        http: () => ({ onError }),
      });
      assertReleasedFailure(first);
      assertReleasedFailure(second);
      assert.equal(runs, 2);
    },
  ),
);

const stripe = (["throws", "rejects"] as const).map((route) =>
  frameworkCase(
    `HTTP-12: semantics "stripe" stores the failure of a handler that ${route} as well`,
    async (harness) => {
      const { first, second, runs } = await failsTwice(harness, route, {
        http: () => ({ semantics: "stripe" }),
      });
      assert.equal(first.status, 500);
      assert.equal(second.status, 500);
      assert.equal(field(second, "idempotency-status"), "replayed");
      assert.equal(runs, 1);
    },
  ),
);

/** A stream whose source breaks after its first half has left. */
async function breaksMidstream(harness: FrameworkHarness, onError: "release" | "hold" | "store") {
  let outcome: { second: Reply | Error; runs: number } | undefined;
  await withScene(harness, { http: () => ({ onError }) }, async (scene) => {
    const route = "throws-midstream";
    await assert.rejects(scene.post(route, { key: "k" }), "half an answer is no answer");
    const gate = scene.stage.hold("drip");
    const second = scene.settled(route, { key: "k" }).catch((error: Error) => error);
    if (onError === "release") await gate.reached;
    gate.open();
    outcome = { second: await second, runs: scene.runs(route) };
  });
  return outcome!;
}

const midstream = [
  frameworkCase(
    "HTTP-14: a stream that breaks is no result: released, it runs again",
    async (harness) => {
      const { second, runs } = await breaksMidstream(harness, "release");
      assert.ok(second instanceof Error);
      assert.equal(runs, 2);
    },
  ),
  frameworkCase(
    'HTTP-14: a stream that breaks is no result: under onError "hold" it is held',
    async (harness) => {
      const { second, runs } = await breaksMidstream(harness, "hold");
      assertProblem(second as Reply, HELD);
      assert.equal(runs, 1);
    },
  ),
  frameworkCase(
    'HTTP-14: a stream that breaks under onError "store" replays a failure, no half',
    async (harness) => {
      const { second, runs } = await breaksMidstream(harness, "store");
      assertProblem(second as Reply, { status: 500, code: "operation-failed", state: "replayed" });
      assert.equal(runs, 1);
    },
  ),
];

export const policyCases = [
  ...failures,
  ...notApplied,
  ...stripe,
  ...midstream,

  storingCase(
    "HTTP-12: 2xx, 3xx and verdicts are stored; passing answers are released",
    () => ({}),
    VERDICTS,
    PASSING,
  ),
  storingCase(
    'HTTP-12: semantics "stripe" stores whatever a handler answered',
    () => ({ semantics: "stripe" }),
    [200, 401, 429, 500, 503],
    [],
  ),
  storingCase(
    "HTTP-12: shouldStore decides by status and headers",
    () => ({
      shouldStore: ({ status, headers }) =>
        status === 503 && headers["content-type"] === "application/json",
    }),
    [503],
    [200, 404],
  ),

  frameworkCase("HTTP-12: a shouldStore that throws falls back to the default rule", (harness) =>
    withScene(
      harness,
      {
        http: () => ({
          shouldStore: () => {
            throw new Error("a bug in the rule");
          },
        }),
      },
      async (scene) => {
        for (const route of ["json", "drip"] as const) {
          const post = { key: route };
          const first = await scene.post(route, post);
          assertExecuted(first);
          assertReplayOf(await scene.post(route, post), first);
        }
        scene.stage.settings.status = 500;
        const failed = await scene.post("status", { key: "k" });
        assert.equal(field(failed, "idempotency-status"), "released");
      },
    ),
  ),

  frameworkCase('HTTP-12: under onError "hold", an answer that is not stored is held', (harness) =>
    withScene(harness, { http: () => ({ onError: "hold" }) }, async (scene) => {
      scene.stage.settings.status = 503;
      const first = await scene.post("status", { key: "k" });
      assert.equal(first.status, 503);
      assert.equal(field(first, "idempotency-status"), "unknown");
      assertProblem(await scene.post("status", { key: "k" }), HELD);
    }),
  ),

  storingCase(
    'HTTP-12: under onError "store", whatever was answered is the result',
    () => ({ onError: "store" }),
    [200, 429, 500, 503],
    [],
  ),

  frameworkCase("SM-12: a hold ends by what an administrator found out", (harness) =>
    withScene(harness, { http: () => ({ onError: "hold" }) }, async (scene) => {
      scene.stage.settings.status = 500;
      await scene.post("status", { key: "k" });
      assertProblem(await scene.post("status", { key: "k" }), HELD);
      await scene.idempotency.resolve({ key: "k", scope: "" }, { outcome: "not-applied" });
      scene.stage.settings.status = 200;
      const reply = await scene.post("status", { key: "k" });
      assertExecuted(reply);
      assert.deepEqual(json(reply), { run: 2 });
    }),
  ),

  frameworkCase("HTTP-15: notApplied() releases whatever was answered", (harness) =>
    withScene(harness, {}, async (scene) => {
      for (let run = 1; run <= 2; run++) {
        const reply = await scene.post("declares-not-applied", { key: "k" });
        assert.equal(reply.status, 200);
        assert.equal(field(reply, "idempotency-status"), "released");
        assert.equal(scene.runs("declares-not-applied"), run);
      }
    }),
  ),

  frameworkCase("HTTP-15: hold() holds whatever was answered", (harness) =>
    withScene(harness, {}, async (scene) => {
      const reply = await scene.post("declares-hold", { key: "k" });
      assert.equal(reply.body.toString(), "who knows");
      assert.equal(field(reply, "idempotency-status"), "unknown");
      assertProblem(await scene.post("declares-hold", { key: "k" }), HELD);
      const record = await scene.idempotency.get({ key: "k", scope: "" });
      assert.equal(record?.reason, "unsure");
    }),
  ),

  frameworkCase(
    'HTTP-12: semantics "stripe" lets NotApplied release all the same',
    async (harness) => {
      const { first, second, runs } = await failsTwice(harness, "not-applied", {
        http: () => ({ semantics: "stripe" }),
      });
      assertReleasedFailure(first);
      assertReleasedFailure(second);
      assert.equal(runs, 2);
    },
  ),

  frameworkCase("HTTP-12: shouldStore decides about streams as well", (harness) =>
    withScene(harness, { http: () => ({ shouldStore: () => false }) }, async (scene) => {
      for (let run = 1; run <= 2; run++) {
        const reply = await scene.post("drip", { key: "k" });
        assert.equal(field(reply, "idempotency-status"), "released");
        assert.equal(field(reply, "idempotency-expires"), undefined);
        assert.equal(scene.runs("drip"), run);
      }
    }),
  ),

  frameworkCase("HTTP-15: unknown() holds whatever was answered", (harness) =>
    withScene(harness, {}, async (scene) => {
      const reply = await scene.post("declares-unknown", { key: "k" });
      assert.equal(reply.status, 200);
      assert.equal(field(reply, "idempotency-status"), "unknown");
      assertProblem(await scene.post("declares-unknown", { key: "k" }), HELD);
    }),
  ),

  frameworkCase(
    "SM-4: a probe finds out what unknown() left open, and its answer is replayed",
    (harness) => {
      const found = {
        status: 201,
        headers: [["content-type", "text/plain"]],
        body: Buffer.from("found"),
      };
      const onCrash = async () => ({ outcome: "applied", value: found }) as const;
      return withScene(harness, { http: () => ({ onCrash }) as never }, async (scene) => {
        const first = await scene.post("declares-unknown", { key: "k" });
        assert.equal(field(first, "idempotency-status"), "unknown");
        scene.elapse(31_000);
        const second = await scene.post("declares-unknown", { key: "k" });
        assert.equal(second.status, 201, second.body.toString());
        assert.equal(second.body.toString(), "found");
        assert.equal(field(second, "content-type")?.split(";")[0], "text/plain");
        assertReplayOf(await scene.post("declares-unknown", { key: "k" }), second);
        assert.equal(scene.runs("declares-unknown"), 1);
      });
    },
    ["moving-clock"],
  ),

  frameworkCase(
    "SM-23a: after `attemptsMax` crashes an operation is held, whatever its policy",
    (harness) =>
      withScene(
        harness,
        {
          http: () => ({ onCrash: "rerun", attemptsMax: 2 }),
          faults: [{ method: "renew", effect: "fail-before" }],
        },
        async (scene) => {
          const crashed = [];
          let latest = scene;
          for (let attempt = 1; attempt <= 2; attempt++) {
            const gate = latest.stage.hold("slow");
            const reply = latest.post("slow", { key: "k" });
            await gate.reached;
            crashed.push({ gate, reply });
            scene.elapse(31_000);
            latest = await scene.another();
          }
          assertProblem(await latest.post("slow", { key: "k" }), HELD);
          assert.equal(latest.runs("slow"), 0);
          for (const { gate, reply } of crashed) {
            gate.open();
            assertProblem(await reply, HELD);
          }
        },
      ),
    ["moving-clock"],
  ),

  frameworkCase(
    "EN-10: what a closed engine leaves running is held when its lease has lapsed",
    (harness) =>
      withScene(harness, {}, async (scene) => {
        const gate = scene.stage.hold("slow");
        const first = scene.post("slow", { key: "k" });
        await gate.reached;
        const other = await scene.another();
        const busy = await other.post("slow", { key: "k" });
        assert.equal(field(busy, "idempotency-status"), "in-progress");
        await scene.idempotency.close({ deadline: "1ms" });
        scene.elapse(31_000);
        assertProblem(await other.post("slow", { key: "k" }), HELD);
        gate.open();
        assertProblem(await first, HELD);
        assert.equal(scene.runs("slow") + other.runs("slow"), 1);
      }),
    ["moving-clock"],
  ),

  frameworkCase(
    "SM-14: a hold with `heldRetention` ends by itself, and the key runs again",
    (harness) =>
      withScene(
        harness,
        { http: () => ({ onError: "hold", heldRetention: "1h" }) },
        async (scene) => {
          await scene.post("throws", { key: "k" });
          assertProblem(await scene.post("throws", { key: "k" }), HELD);
          scene.elapse(3_700_000);
          assert.equal((await scene.post("throws", { key: "k" })).status, 500);
          assert.equal(scene.runs("throws"), 2);
        },
      ),
    ["moving-clock"],
  ),

  frameworkCase(
    "SM-24: a handler that fails after its answer changes nothing about it",
    (harness) =>
      withScene(harness, {}, async (scene) => {
        const first = await scene.post("throws-after-answer", { key: "k" });
        assert.equal(first.status, 201);
        assert.equal(first.body.toString(), "answered");
        assert.equal(field(first, "content-type")?.split(";")[0], "text/plain");
        assert.equal(field(first, "x-before"), "kept");
        assertExecuted(first);
        assertReplayOf(await scene.post("throws-after-answer", { key: "k" }), first);
        assert.equal(scene.runs("throws-after-answer"), 1);
      }),
    ["failing-after-answer"],
  ),
];
