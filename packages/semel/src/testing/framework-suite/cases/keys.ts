// Which requests carry a key that counts, how it is written, and whose it is (HTTP-1 to HTTP-4).

import assert from "node:assert/strict";
import { field, type Reply } from "../client.ts";
import { assertExecuted, assertProblem, assertReplayOf } from "../expectations.ts";
import { type FrameworkHarness, frameworkCase, type SuiteOptions } from "../harness.ts";
import { freshKey, type Scene, withScene } from "../scene.ts";

const UUID = "8e03978e-40d5-43dd-bc93-6894a57f9324";

function header(value: string | readonly string[]): {
  headers: Record<string, string | readonly string[]>;
} {
  return { headers: { "idempotency-key": value } };
}

function assertKeyInvalid(reply: Reply): void {
  assertProblem(reply, { status: 400, code: "key-invalid" });
}

/** Spellings of a key under given options: those that pass, and those that are refused. */
interface Spellings {
  what: string;
  http?: SuiteOptions;
  good: readonly (string | readonly string[])[];
  bad: readonly (string | readonly string[])[];
}

const LONGEST = "k".repeat(255);

const SPELLINGS: readonly Spellings[] = [
  {
    what: "bare or as a String",
    good: [
      "k",
      '"k"',
      LONGEST,
      `"${LONGEST}"`,
      '"a b"',
      '"a,b"',
      '"k";v=1;w="x"',
      '"q\\"q"',
      "a/b:c=d",
    ],
    bad: [
      "",
      '""',
      `${LONGEST}k`,
      `"${LONGEST}k"`,
      "a b",
      "a,b",
      '"a", "b"',
      ["a", "b"],
      ["a", "a"],
      ['"a"', '"a"'],
      "ké",
      '"ké"',
      "\u00a0k\u00a0",
      '"unterminated',
      'k"',
      '"k" x',
      '"k";',
      '"bad\\escape"',
    ],
  },
  {
    what: "as a String only, when strict",
    http: () => ({ syntax: "strict" }),
    good: ['"k"', `"${UUID}"`, '"k";v=1'],
    bad: ["k", UUID, "?1", "12", ":YQ==:", '%"k"', "", '("k")', ['"a"', '"a"']],
  },
  {
    what: "as a UUID",
    http: () => ({ keyFormat: "uuid" }),
    good: [UUID, `"${UUID}"`, UUID.toUpperCase()],
    bad: ["k", `${UUID}0`, UUID.slice(1), UUID.replaceAll("-", "")],
  },
  {
    what: "as a RegExp with flags has it",
    http: () => ({ keyFormat: /^[a-z]{3}-\d+$/gi }),
    good: ["abc-1", "abc-2", "ABC-3", "abc-4"],
    bad: ["abc", "abc-x", "-1"],
  },
  {
    what: "as a function of the key has it",
    http: () => ({ keyFormat: (key) => key.startsWith("ok") }),
    good: ["ok1", '"ok2"'],
    bad: ["no1"],
  },
];

const spellings = SPELLINGS.map(({ what, http, good, bad }) =>
  frameworkCase(`HTTP-1: a key is written ${what}, anything else is 400 key-invalid`, (harness) =>
    withScene(harness, http ? { http } : {}, async (scene) => {
      for (const spelling of bad) assertKeyInvalid(await scene.post("json", header(spelling)));
      assert.equal(scene.runs("json"), 0);
      assert.equal(scene.store.calls.total, 0);
      for (const [index, spelling] of good.entries()) {
        // Another target for each, so that no two of these are the same request.
        const reply = await scene.post("json", { ...header(spelling), query: `?${index}` });
        assert.ok(reply.status === 200 || reply.status === 422, `${spelling}: ${reply.body}`);
      }
      assert.ok(scene.runs("json") > 0);
    }),
  ),
);

/** Two requests with the same key and all else equal: the second must be a replay. */
async function assertCounts(scene: Scene, method: string): Promise<void> {
  const post = { key: freshKey(), method };
  const first = await scene.post("json", post);
  assertExecuted(first);
  assertReplayOf(await scene.post("json", post), first);
}

async function assertIgnored(scene: Scene, method: string): Promise<void> {
  const before = scene.runs("json");
  const post = { key: freshKey(), method };
  for (let n = 0; n < 2; n++) {
    const reply = await scene.post("json", post);
    assert.equal(field(reply, "idempotency-status"), undefined);
  }
  assert.equal(scene.runs("json"), before + 2);
}

function methodsCase(methods: readonly string[] | undefined, count: string[], ignore: string[]) {
  const what = methods ? methods.join(", ") : "POST and PATCH by default";
  return frameworkCase(`HTTP-2: keys count on ${what}, and on no other method`, (harness) =>
    withScene(harness, { http: () => (methods ? { methods } : {}) }, async (scene) => {
      for (const method of count) await assertCounts(scene, method);
      for (const method of ignore) await assertIgnored(scene, method);
    }),
  );
}

/** What a scope function does, and the answer to a keyed request. */
async function withScope(
  harness: FrameworkHarness,
  scope: () => string | null | undefined | Promise<string | null | undefined>,
): Promise<{ reply: Reply; runs: number; asked: number }> {
  let outcome: { reply: Reply; runs: number; asked: number } | undefined;
  await withScene(harness, { http: () => ({ scope }) }, async (scene) => {
    const reply = await scene.post("json", { key: "k", body: "x" });
    outcome = { reply, runs: scene.runs("json"), asked: scene.store.calls.total };
  });
  return outcome!;
}

const NOBODY: readonly [string, () => string | null | undefined | Promise<undefined>][] = [
  ["undefined", () => undefined],
  ["null", () => null],
  ["an empty string", () => ""],
  ["a promise of nothing", async () => undefined],
];

const scopes = [
  ...NOBODY.map(([what, scope]) =>
    frameworkCase(
      `HTTP-4: a scope function that returns ${what} means 401, nothing runs`,
      async (harness) => {
        const { reply, runs, asked } = await withScope(harness, scope);
        assertProblem(reply, { status: 401, code: "scope-missing" });
        assert.equal(runs, 0);
        assert.equal(asked, 0);
      },
    ),
  ),

  frameworkCase(
    "HTTP-4: a scope function that throws or rejects is the framework's to answer",
    async (harness) => {
      const broken = () => {
        throw new Error("no such session");
      };
      for (const scope of [broken, async () => broken()]) {
        const { reply, runs } = await withScope(harness, scope);
        assert.equal(reply.status, 500);
        assert.equal(runs, 0);
      }
    },
  ),

  frameworkCase("HTTP-4: two tenants with one key never see each other", (harness) =>
    withScene(
      harness,
      { http: (field) => ({ scope: async (it) => field(it, "x-tenant") }) },
      async (scene) => {
        for (const [index, tenant] of ["acme", "globex", "acme", "globex"].entries()) {
          const reply = await scene.post("status", { key: "k", headers: { "x-tenant": tenant } });
          assert.equal(reply.body.toString(), `{"run":${(index % 2) + 1}}`);
          assert.equal(field(reply, "idempotency-status"), index < 2 ? "executed" : "replayed");
        }
        assert.equal(scene.runs("status"), 2);
      },
    ),
  ),
];

export const keyCases = [
  ...spellings,
  ...scopes,

  frameworkCase('HTTP-1: `"k"` and `k` are one key', (harness) =>
    withScene(harness, {}, async (scene) => {
      const first = await scene.post("json", header("k-1"));
      assertReplayOf(await scene.post("json", header('"k-1"')), first);
      assertReplayOf(await scene.post("json", header("  k-1\t")), first);
      assertReplayOf(await scene.post("json", header('"k-1";attempt=2')), first);
      assert.equal(scene.runs("json"), 1);
    }),
  ),

  frameworkCase("HTTP-1: the header's name can be chosen", (harness) =>
    withScene(
      harness,
      { http: () => ({ header: "X-Request-Id", required: true }) },
      async (scene) => {
        const keyed = { headers: { "x-request-id": "k" } };
        const first = await scene.post("json", keyed);
        assertReplayOf(await scene.post("json", keyed), first);
        const missing = assertProblem(await scene.post("json", { key: "k" }), {
          status: 400,
          code: "key-missing",
        });
        assert.match(String(missing["detail"]), /X-Request-Id/);
      },
    ),
  ),

  frameworkCase("HTTP-1: an extractor takes the key from elsewhere", (harness) =>
    withScene(
      harness,
      { http: (field) => ({ key: (it) => field(it, "x-order") }) },
      async (scene) => {
        const first = await scene.post("json", { headers: { "x-order": "a b, c" } });
        assertExecuted(first);
        assertReplayOf(await scene.post("json", { headers: { "x-order": "a b, c" } }), first);
        assertKeyInvalid(await scene.post("json", { headers: { "x-order": "k".repeat(256) } }));
        const unkeyed = await scene.post("json", { key: "ignored" });
        assert.equal(field(unkeyed, "idempotency-status"), undefined);
        assert.equal(scene.runs("json"), 2);
      },
    ),
  ),

  methodsCase(undefined, ["POST", "PATCH"], ["PUT", "DELETE", "GET", "OPTIONS"]),
  methodsCase(["put", "DELETE"], ["PUT", "DELETE"], ["POST", "PATCH", "GET"]),

  frameworkCase("HTTP-3: where a key is required, a request without one is refused", (harness) =>
    withScene(harness, { http: () => ({ required: true }) }, async (scene) => {
      const problem = assertProblem(await scene.post("json"), { status: 400, code: "key-missing" });
      assert.match(String(problem["detail"]), /Idempotency-Key/);
      assert.equal(scene.runs("json"), 0);
      assert.equal((await scene.post("json", { method: "GET" })).status, 200);
    }),
  ),
];
