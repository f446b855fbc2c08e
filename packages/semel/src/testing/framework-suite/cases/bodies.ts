// Request bodies that are read for the fingerprint and then again by whoever comes after (HTTP-5).

import assert from "node:assert/strict";
import { patterned } from "../catalogue.ts";
import { json, RawClient, requestText } from "../client.ts";
import { assertExecuted, assertProblem, assertReplayOf } from "../expectations.ts";
import { frameworkCase } from "../harness.ts";
import { freshKey, type Post, withScene } from "../scene.ts";

const BINARY = patterned(300_000);

const MULTIPART = [
  "--boundary",
  'Content-Disposition: form-data; name="file"; filename="a.bin"',
  "Content-Type: application/octet-stream",
  "",
  "\0\u0001\r\n--not the boundary",
  "--boundary--",
  "",
].join("\r\n");

/** Bodies, and the bytes that the handler must read. */
const BODIES: readonly [string, Post, Buffer][] = [
  ["no body", {}, Buffer.alloc(0)],
  [
    "an empty body of declared length",
    { body: "", headers: { "content-length": "0" } },
    Buffer.alloc(0),
  ],
  [
    "an empty chunked body",
    { body: [], headers: { "transfer-encoding": "chunked" } },
    Buffer.alloc(0),
  ],
  ["one byte", { body: "x" }, Buffer.from("x")],
  ["300 kB at once", { body: BINARY }, BINARY],
  [
    "300 kB chunked",
    { body: [BINARY.subarray(0, 1), BINARY.subarray(1, 200_000), BINARY.subarray(200_000)] },
    BINARY,
  ],
  [
    "multipart",
    { body: MULTIPART, headers: { "content-type": "multipart/form-data; boundary=boundary" } },
    Buffer.from(MULTIPART),
  ],
];

const echoes = BODIES.map(([what, post, expected]) =>
  frameworkCase(`HTTP-5: the handler reads ${what} as if nobody had before`, (harness) =>
    withScene(harness, {}, async (scene) => {
      const key = freshKey();
      const first = await scene.post("echo", { ...post, key });
      assertExecuted(first);
      assert.ok(first.body.equals(expected));
      assertReplayOf(await scene.post("echo", { ...post, key }), first);
      const other = await scene.post("echo", { ...post, key, body: "something else", headers: {} });
      assert.equal(other.status, 422);
      const unkeyed = await scene.post("echo", post);
      assert.ok(unkeyed.body.equals(expected));
      assert.equal(scene.runs("echo"), 2);
    }),
  ),
);

const JSON_TYPE = { "content-type": "application/json" };
const FORM_TYPE = { "content-type": "application/x-www-form-urlencoded" };

const parsed = (["before", "after"] as const).flatMap((parsers) => [
  frameworkCase(
    `HTTP-5: with the framework's parsers ${parsers} Semel, bodies are parsed and told apart`,
    (harness) =>
      withScene(harness, { parsers }, async (scene) => {
        const bodies = [
          { body: '{"a":1,"b":[true]}', headers: JSON_TYPE, seen: { a: 1, b: [true] } },
          { body: "a=1&b=x%20y", headers: FORM_TYPE, seen: { a: "1", b: "x y" } },
          { body: "plain", headers: { "content-type": "text/plain" }, seen: "plain" },
          {
            body: ['{"chunked":', "true}"].map(Buffer.from),
            headers: JSON_TYPE,
            seen: { chunked: true },
          },
        ];
        for (const { seen, ...post } of bodies) {
          const key = freshKey();
          const first = await scene.post("parsed", { ...post, key });
          assertExecuted(first);
          assert.deepEqual(json(first), seen);
          assertReplayOf(await scene.post("parsed", { ...post, key }), first);
          const other = { ...post, key, body: post.headers === FORM_TYPE ? "a=2" : '{"a":2}' };
          assertProblem(await scene.post("parsed", other), {
            status: 422,
            code: "key-reused",
            state: "mismatch",
          });
        }
        assert.equal(scene.runs("parsed"), bodies.length);
      }),
    ["parsers"],
  ),

  frameworkCase(
    `HTTP-5: with parsers ${parsers} Semel, a handler that edits its body changes nothing`,
    (harness) =>
      withScene(harness, { parsers, engine: { cache: false } }, async (scene) => {
        const post = { key: "k", body: '{"a":1}', headers: JSON_TYPE };
        const first = await scene.post("edits", post);
        assertReplayOf(await scene.post("edits", post), first);
        assert.equal((await scene.post("edits", { ...post, body: '{"edited":true}' })).status, 422);
        assert.equal(scene.runs("edits"), 1);
      }),
    ["parsers"],
  ),

  frameworkCase(
    `HTTP-5: with parsers ${parsers} Semel, requests without a body are served`,
    (harness) =>
      withScene(harness, { parsers }, async (scene) => {
        const first = await scene.post("json", { key: "k" });
        assertExecuted(first);
        assertReplayOf(await scene.post("json", { key: "k" }), first);
      }),
    ["parsers"],
  ),
]);

export const bodyCases = [
  ...echoes,
  ...parsed,

  frameworkCase("HTTP-5: the handler sees one end of its request body", (harness) =>
    withScene(harness, {}, async (scene) => {
      await scene.post("echo", { key: "k", body: BINARY });
      assert.deepEqual(scene.stage.notes, [{ ends: 1, bytes: BINARY.length }]);
    }),
  ),

  frameworkCase(
    "HTTP-5: a body that a parser refuses is answered by the framework, and not stored as a verdict on nothing",
    (harness) =>
      withScene(harness, { parsers: "after" }, async (scene) => {
        const reply = await scene.post("parsed", { key: "k", body: "{broken", headers: JSON_TYPE });
        assert.equal(reply.status, 400);
        assert.equal(scene.runs("parsed"), 0);
        const again = await scene.post("parsed", { key: "k", body: "{broken", headers: JSON_TYPE });
        assertReplayOf(again, reply);
      }),
    ["parsers"],
  ),

  frameworkCase("HTTP-5: a body that arrives in pieces over time is read whole", (harness) =>
    withScene(harness, {}, async (scene) => {
      const text = requestText(
        "/echo",
        { "Idempotency-Key": "k", Connection: "close" },
        "a".repeat(50),
      );
      const client = await RawClient.connect(scene.port);
      for (const at of [0, 30, 90, 120, text.length - 1]) {
        const rest = [30, 90, 120, text.length - 1, text.length].find((end) => end > at)!;
        client.write(text.slice(at, rest));
        await scene.post("json");
      }
      await client.ended();
      assert.ok(client.text.includes("a".repeat(50)));
    }),
  ),
];
