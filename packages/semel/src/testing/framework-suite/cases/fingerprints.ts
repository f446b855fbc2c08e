// What makes two requests the same request (HTTP-5), and how large a body may be (HTTP-10).

import assert from "node:assert/strict";
import { Agent } from "node:http";
import type { Reply } from "../client.ts";
import { assertExecuted, assertProblem, assertReplayOf } from "../expectations.ts";
import { frameworkCase, type SuiteOptions } from "../harness.ts";
import { type Post, type Scene, withScene } from "../scene.ts";

const JSON_TYPE = { "content-type": "application/json" };

function assertMismatch(reply: Reply): void {
  assertProblem(reply, { status: 422, code: "key-reused", state: "mismatch" });
}

/** The first body's request, bodies that count as the same, and bodies that do not. */
interface Comparison {
  what: string;
  fingerprint?:
    | "bytes"
    | "json"
    | { include: string[] }
    | { exclude: string[] }
    | ((body: never) => unknown);
  type?: string;
  first: string;
  same: readonly string[];
  other: readonly string[];
}

const COMPARISONS: readonly Comparison[] = [
  {
    what: "the exact bytes by default",
    first: '{"a":1,"b":2}',
    same: ['{"a":1,"b":2}'],
    other: ['{"b":2,"a":1}', '{"a":1, "b":2}', "", "\0"],
  },
  {
    what: "canonical JSON, numbers as written",
    fingerprint: "json",
    first: '{"id":9007199254740993,"text":"ü","list":[1,{"x":null}]}',
    same: [
      '{"text":"\\u00fc", "list":[ 1,{"x":null}],\n"id":9007199254740993}',
      '{ "id": 9007199254740993, "text": "ü", "list": [1, {"x": null}] }',
    ],
    other: [
      '{"id":9007199254740992,"text":"ü","list":[1,{"x":null}]}',
      '{"id":"9007199254740993","text":"ü","list":[1,{"x":null}]}',
      '{"id":{"$number":"9007199254740993"},"text":"ü","list":[1,{"x":null}]}',
      '{"id":{"\\u0024number":"9007199254740993"},"text":"ü","list":[1,{"x":null}]}',
      '{"id":9007199254740993,"text":"ü","list":[{"x":null},1]}',
      '{"id":9007199254740993,"text":"ü","list":[1,{"x":null}]',
    ],
  },
  {
    what: "the exact bytes of what only claims to be JSON",
    fingerprint: "json",
    first: '{"a":01}',
    same: ['{"a":01}'],
    other: ['{"a": 01}', '{"a":1}'],
  },
  {
    what: "what is included",
    fingerprint: { include: ["/amount", "/to/iban"] },
    first: '{"amount":5,"to":{"iban":"X","name":"A"},"sentAt":1}',
    same: ['{"sentAt":2,"to":{"name":"B","iban":"X"},"amount":5}'],
    other: [
      '{"amount":6,"to":{"iban":"X"}}',
      '{"amount":5,"to":{}}',
      '{"amount":"5","to":{"iban":"X"}}',
    ],
  },
  {
    what: "all but what is excluded",
    fingerprint: { exclude: ["/envelope/id"] },
    first: '{"amount":5,"envelope":{"id":"1","v":2}}',
    same: ['{"amount":5,"envelope":{"id":"2","v":2}}', '{"envelope":{"v":2},"amount":5}'],
    other: ['{"amount":5,"envelope":{"id":"1","v":3}}', '{"amount":5}'],
  },
  {
    what: "what a function returns",
    fingerprint: (body: { amount: number }) => body.amount * 2,
    first: '{"amount":100.50,"at":1}',
    same: ['{"amount":100.5,"at":2}', '{"at":3,"amount":1005e-1}'],
    other: ['{"amount":100.51}'],
  },
  {
    what: "the fields of a form",
    fingerprint: { include: ["/amount"] },
    type: "application/x-www-form-urlencoded",
    first: "amount=5&at=1",
    same: ["at=2&amount=5"],
    other: ["amount=6&at=1", "at=1", "amount=5&amount=5"],
  },
];

const comparisons = COMPARISONS.map(({ what, fingerprint, type, first, same, other }) => {
  const http: SuiteOptions = () => (fingerprint ? { fingerprint: fingerprint as "json" } : {});
  return frameworkCase(`HTTP-5: of a body counts ${what}`, (harness) =>
    withScene(harness, { http }, async (scene) => {
      const headers = { "content-type": type ?? "application/json" };
      const send = (body: string) => scene.post("json", { key: "k", headers, body });
      const original = await send(first);
      assertExecuted(original);
      for (const body of other) assertMismatch(await send(body));
      for (const body of same) assertReplayOf(await send(body), original);
      assert.equal(scene.runs("json"), 1);
    }),
  );
});

/** Requests that differ from `POST /json` with the body `x` in one thing other than the body. */
const DIFFERENT: readonly [string, Post][] = [
  ["the method", { method: "PATCH" }],
  ["the query", { query: "?a=1" }],
  ["the media type", { headers: { "content-type": "text/html" } }],
];

/** Sends bodies of given sizes, one chunk or many. */
async function sendSized(
  scene: Scene,
  bytes: number,
  chunked: boolean,
  agent: Agent,
): Promise<Reply> {
  const body = Buffer.alloc(bytes, "x");
  const pieces = [body.subarray(0, bytes >> 1), body.subarray(bytes >> 1)];
  const key = `k-${bytes}-${chunked}`;
  return scene.post("echo", { key, agent, body: chunked ? pieces : body });
}

const bounds = [1_000, 2 ** 20].map((bound) =>
  frameworkCase(
    `HTTP-10: a body of ${bound} bytes may be sent, one more is 413, and the connection goes on`,
    (harness) =>
      withScene(harness, { http: () => ({ maxBodyBytes: bound }) }, async (scene) => {
        const agent = new Agent({ keepAlive: true, maxSockets: 1 });
        try {
          for (const chunked of [false, true]) {
            for (const bytes of [bound + 1, bound, 3 * bound, bound - 1]) {
              const reply = await sendSized(scene, bytes, chunked, agent);
              if (bytes > bound) assertProblem(reply, { status: 413, code: "body-too-large" });
              else assert.equal(reply.body.length, bytes);
            }
          }
          assert.equal(scene.runs("echo"), 4);
        } finally {
          agent.destroy();
        }
      }),
  ),
);

export const fingerprintCases = [
  ...comparisons,
  ...bounds,

  frameworkCase(
    "HTTP-5: method, query and media type count, parameters of the type do not",
    (harness) =>
      withScene(harness, {}, async (scene) => {
        const post = { key: "k", body: "x", headers: { "content-type": "text/plain" } };
        const first = await scene.post("json", post);
        for (const [what, difference] of DIFFERENT) {
          const reply = await scene.post("json", { ...post, ...difference });
          assert.equal(reply.status, 422, what);
        }
        const sameType = { "content-type": "Text/Plain; charset=utf-8" };
        assertReplayOf(await scene.post("json", { ...post, headers: sameType }), first);
      }),
  ),

  frameworkCase(
    "HTTP-5: two mounts with the same inner path never replay each other",
    (harness) =>
      withScene(harness, {}, async (scene) => {
        const first = await scene.post("json", { key: "k", prefix: "/one" });
        assertExecuted(first);
        assertMismatch(await scene.post("json", { key: "k", prefix: "/two" }));
        assertReplayOf(await scene.post("json", { key: "k", prefix: "/one" }), first);
        assert.equal(scene.runs("json"), 1);
      }),
    ["mounting"],
  ),

  frameworkCase("HTTP-7: a misused key gets 422 and the original still replays", (harness) =>
    withScene(harness, { engine: { cache: false } }, async (scene) => {
      const first = await scene.post("json", { key: "k", body: "one" });
      for (let n = 0; n < 3; n++) {
        assertMismatch(await scene.post("json", { key: "k", body: `other ${n}` }));
        assertReplayOf(await scene.post("json", { key: "k", body: "one" }), first);
      }
      assert.equal(scene.runs("json"), 1);
    }),
  ),

  frameworkCase("HTTP-5: no number of quotes makes canonical JSON slow", (harness) =>
    withScene(harness, { http: () => ({ fingerprint: "json" }) }, async (scene) => {
      // 900 kB that a backtracking tokenizer reads for minutes; the suite's patience is 10 s.
      const body = `"${'\\"'.repeat(450_000)}`;
      assertExecuted(await scene.post("json", { key: "k", headers: JSON_TYPE, body }));
    }),
  ),
];
