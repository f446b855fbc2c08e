// Requests that do not run, and what they are told (HTTP-6 to HTTP-11, SM-22).

import assert from "node:assert/strict";
import { InvalidOption } from "../../../errors.ts";
import { field, json } from "../client.ts";
import { assertExecuted, assertProblem, assertReplayOf } from "../expectations.ts";
import { frameworkCase, type SuiteOptions } from "../harness.ts";
import { type SceneSetup, withScene } from "../scene.ts";

const DOCUMENTATION = "https://example.com/docs/idempotency?lang=en#keys";

/** Options that must be refused when the route is set up, and what the message must name. */
const BAD_OPTIONS: readonly [SuiteOptions, RegExp][] = [
  [() => ({ retentoin: "1h" }) as never, /retentoin.*did you mean `retention`/],
  [() => ({ scopes: "shared" }) as never, /`scopes`.*`scope`/],
  [() => ({ scope: "tenant" }) as never, /`scope` must be given/],
  [() => ({ scope: undefined }) as never, /`scope` must be given/],
  [() => ({ methods: ["POST", "GET"] }), /GET/],
  [() => ({ methods: "POST" }) as never, /`methods`/],
  [() => ({ header: "Idempotency Key" }), /`header`/],
  [() => ({ key: "k" }) as never, /`key`/],
  [() => ({ syntax: "strikt" }) as never, /"strict"/],
  [() => ({ keyFormat: "uid" }) as never, /`keyFormat`/],
  [() => ({ fingerprint: "body" }) as never, /`fingerprint`/],
  [() => ({ fingerprint: { include: ["amount"] } }), /JSON Pointer/],
  [() => ({ maxBodyBytes: -1 }), /`maxBodyBytes`/],
  [() => ({ shouldStore: true }) as never, /`shouldStore`/],
  [() => ({ semantics: "strype" }) as never, /"stripe"/],
  [() => ({ semantics: "stripe", shouldStore: () => true }), /not both/],
  [() => ({ storedHeaders: ["X-A", "Set-Cookie"] }), /set-cookie/],
  [() => ({ storedHeaders: ["Access-Control-Allow-Origin"] }), /access-control/],
  [() => ({ storedHeaders: "all" }) as never, /`storedHeaders`/],
  [() => ({ documentation: "/docs" }), /`documentation`/],
  [() => ({ onError: "ignore" }) as never, /`onError`/],
  [() => ({ lease: "1ms" }), /`?lease/],
  [() => ({ header: 7 }) as never, /`header`/],
  [() => ({ required: "no" }) as never, /`required`/],
  [() => ({ maxResultBytes: -1 }), /`maxResultBytes`/],
  [() => ({ maxResultBytes: 2 ** 30 }), /`maxResultBytes`/],
  [() => ({ storedHeaders: { alow: ["X-A"] } }) as never, /`alow`.*did you mean `allow`/],
  [() => ({ storedHeaders: ["X A"] }), /`storedHeaders`.*X A/i],
  [() => ({ storedHeaders: { deny: ["X A"] } }), /`storedHeaders.deny`.*X A/i],
  [() => ({ refuseLate: { skw: "1m" } }) as never, /`skw`.*did you mean `skew`/],
  [() => ({ refuseLate: true, retention: "1m" }), /`refuseLate`/],
  [() => ({ fingerprint: { inclde: ["/a"] } }) as never, /`inclde`.*`include`/],
  [() => ({ wait: "5 parsecs" }) as never, /`wait`/],
  [() => ({ retention: 0 }), /`retention`/],
  [() => ({ heldRetention: -1 }), /`heldRetention`/],
  [() => ({ onCrash: "ignore" }) as never, /`onCrash`/],
  [() => ({ attemptsMax: 0 }), /`attemptsMax`/],
  [() => ({ idempotencyKey: "k" }) as never, /`idempotencyKey`/],
];

const UNAVAILABLE = { status: 503, code: "store-unavailable", retryAfter: true } as const;

const STORE_DOWN: readonly [string, SceneSetup][] = [
  ["refuses", { faults: [{ method: "begin", effect: "fail-before" }] }],
  [
    "fails with an error of its driver's",
    { faults: [{ method: "begin", effect: "fail-before", error: new TypeError("ECONNREFUSED") }] },
  ],
  [
    "never answers",
    {
      faults: [{ method: "begin", effect: "delay", until: new Promise(() => {}) }],
      engine: { storeTimeout: "50ms" },
    },
  ],
];

const storeDown = STORE_DOWN.map(([what, setup]) =>
  frameworkCase(
    `SM-22: a store that ${what} means 503, nothing runs, the rest is served`,
    (harness) =>
      withScene(harness, setup, async (scene) => {
        for (let n = 0; n < 2; n++) {
          const problem = assertProblem(
            await scene.post("json", { key: "k", body: "x" }),
            UNAVAILABLE,
          );
          assert.doesNotMatch(JSON.stringify(problem), /ECONNREFUSED/);
        }
        assert.equal(scene.runs("json"), 0);
        assert.equal((await scene.post("json")).status, 200);
      }),
  ),
);

export const refusalCases = [
  ...storeDown,

  frameworkCase("SM-22: a store that fails at the end does not hide the true outcome", (harness) =>
    withScene(
      harness,
      {
        faults: [{ method: "settle", effect: "fail-before" }],
        engine: { completionRetry: "1ms" },
      },
      async (scene) => {
        for (const route of ["created", "drip"] as const) {
          const reply = await scene.post(route, { key: route });
          assert.ok(reply.status === 201 || reply.body.toString() === "first half, second half");
          assert.equal(reply.headers["idempotent-replayed"], undefined);
          if (route === "created") {
            assert.equal(field(reply, "idempotency-status"), "unrecorded");
            assert.equal(field(reply, "idempotency-expires"), undefined);
          }
          assertProblem(await scene.post(route, { key: route }), {
            status: 409,
            code: "operation-in-progress",
            state: "in-progress",
            retryAfter: true,
          });
          assert.equal(scene.runs(route), 1);
        }
      },
    ),
  ),

  frameworkCase(
    "SM-17: a lost acknowledgement of the end is found out by reading back",
    (harness) =>
      withScene(
        harness,
        { faults: [{ method: "settle", call: 1, effect: "fail-after" }], engine: { cache: false } },
        async (scene) => {
          const first = await scene.post("json", { key: "k" });
          assertExecuted(first);
          assertReplayOf(await scene.post("json", { key: "k" }), first);
        },
      ),
  ),

  frameworkCase("HTTP-9: a voided operation is 409 operation-void and never runs", (harness) =>
    withScene(harness, {}, async (scene) => {
      await scene.idempotency.void({ key: "k", scope: "" });
      assertProblem(await scene.post("json", { key: "k" }), {
        status: 409,
        code: "operation-void",
        state: "void",
      });
      assert.equal(scene.runs("json"), 0);
    }),
  ),

  frameworkCase("HTTP-10: a request first sent too long ago is 412 key-expired", (harness) =>
    withScene(
      harness,
      { http: () => ({ retention: "1h", refuseLate: { skew: "1m" } }) },
      async (scene) => {
        const sent = (agoMs: number) => ({
          "repeatability-first-sent": new Date(Date.now() - agoMs).toUTCString(),
        });
        const late = { status: 412, code: "key-expired", state: "expired" } as const;
        assertProblem(await scene.post("json", { key: "a", headers: sent(3_600_000) }), late);
        const hourOldUuid = uuidV7(Date.now() - 3_600_000);
        assertProblem(await scene.post("json", { key: hourOldUuid }), late);
        assert.equal(scene.runs("json"), 0);
        assertExecuted(await scene.post("json", { key: "b", headers: sent(3_000_000) }));
        assertExecuted(await scene.post("json", { key: uuidV7(Date.now()) }));
        const unreadable = { "repeatability-first-sent": "yesterday" };
        assertExecuted(await scene.post("json", { key: "c", headers: unreadable }));
        // A record that is still there answers, however old the request says it is.
        const replay = await scene.post("json", { key: "b", headers: sent(3_600_000) });
        assert.equal(field(replay, "idempotency-status"), "replayed");
      },
    ),
  ),

  frameworkCase("HTTP-11: problems link to the documentation that is set", (harness) =>
    withScene(
      harness,
      { http: () => ({ required: true, documentation: DOCUMENTATION }) },
      async (scene) => {
        const reply = await scene.post("json");
        assertProblem(reply, { status: 400, code: "key-missing" });
        assert.equal(field(reply, "link"), `<${DOCUMENTATION}>; rel="describedby"`);
        const answered = await scene.post("json", { key: "k" });
        assert.equal(answered.headers["link"], undefined);
      },
    ),
  ),

  frameworkCase("HTTP-11: an engine that is closing answers 503 and runs nothing", (harness) =>
    withScene(harness, {}, async (scene) => {
      await scene.idempotency.close({ deadline: "1ms" });
      assertProblem(await scene.post("json", { key: "k" }), {
        status: 503,
        code: "closed",
        retryAfter: true,
      });
      assert.equal(scene.runs("json"), 0);
    }),
  ),

  frameworkCase(
    "a wrong option is refused when the route is set up, by its name",
    async (harness) => {
      for (const [http, message] of BAD_OPTIONS) {
        await assert.rejects(
          withScene(harness, { http }, async () => {}),
          (error: Error) => error instanceof InvalidOption && message.test(error.message),
          String(message),
        );
      }
    },
  ),

  frameworkCase(
    "HTTP-8: a crashed attempt is held after its lease, by default",
    (harness) =>
      withScene(
        harness,
        { faults: [{ method: "renew", effect: "fail-before" }] },
        async (scene) => {
          const gate = scene.stage.hold("slow");
          const first = scene.post("slow", { key: "k" });
          await gate.reached;
          scene.elapse(31_000);
          const other = await scene.another();
          assertProblem(await other.post("slow", { key: "k" }), {
            status: 409,
            code: "outcome-unknown",
            state: "unknown",
          });
          gate.open();
          // The first attempt comes too late: what stands is the hold.
          assert.equal(json(await first)["code"], "outcome-unknown");
          assert.equal(other.runs("slow"), 0);
        },
      ),
    ["moving-clock"],
  ),
];

function uuidV7(at: number): string {
  const time = at.toString(16).padStart(12, "0");
  return `${time.slice(0, 8)}-${time.slice(8)}-7abc-8def-0123456789ab`;
}
