// Every kind of response is answered once and replayed exactly (HTTP-13, HTTP-14).

import assert from "node:assert/strict";
import type { ServerResponse } from "node:http";
import { gunzipSync } from "node:zlib";
import type { StoredHeaders } from "../../../http/response.ts";
import {
  ANSWER_ROUTES,
  DRIP,
  EVERY_BYTE,
  patterned,
  type Route,
  SENT_HEADERS,
} from "../catalogue.ts";
import { field, json, type Reply } from "../client.ts";
import { assertAnswer, assertExecuted, assertProblem, assertReplayOf } from "../expectations.ts";
import { type FrameworkHarness, frameworkCase } from "../harness.ts";
import { freshKey, type Scene, type SceneSetup, withScene } from "../scene.ts";

/** Sends a request and two retries; all must be one. */
async function repeated(scene: Scene, route: Route, body = "{}"): Promise<Reply> {
  const before = scene.runs(route);
  const post = { key: freshKey(), body, headers: { "content-type": "application/json" } };
  const first = await scene.post(route, post);
  assertExecuted(first);
  assertReplayOf(await scene.post(route, post), first);
  assertReplayOf(await scene.post(route, post), first);
  assert.equal(scene.runs(route), before + 1);
  return first;
}

/** With the cache of this process and, without it, from the store. */
const CACHES: readonly SceneSetup[] = [{}, { engine: { cache: false } }];

const answers = ANSWER_ROUTES.map((route) =>
  frameworkCase(
    `HTTP-14: \`${route}\` is answered, runs once, is replayed exactly`,
    async (harness) => {
      for (const setup of CACHES) {
        await withScene(harness, setup, async (scene) => {
          assertAnswer(await repeated(scene, route), route);
        });
      }
    },
  ),
);

const FILE_ROUTES = ["pipe", "pipeline", "file"] as const;

const files = FILE_ROUTES.map((route) =>
  frameworkCase(`HTTP-14: a file through \`${route}\` is replayed exactly`, (harness) =>
    withScene(harness, { engine: { cache: false } }, async (scene) => {
      const first = await repeated(scene, route);
      assert.equal(first.status, 200);
      assert.ok(first.body.equals(scene.stage.file.bytes));
    }),
  ),
);

const STREAM_ROUTES = ["drip", "drip-pipe", "drip-pipeline", "drip-declared"] as const;

const streams = STREAM_ROUTES.map((route) =>
  frameworkCase(`HTTP-14: a stream through \`${route}\` is replayed exactly`, (harness) =>
    withScene(harness, {}, async (scene) => {
      assert.equal((await repeated(scene, route)).body.toString(), DRIP.join(""));
    }),
  ),
);

/** A result of as many bytes, and what its duplicate gets. */
async function sized(harness: FrameworkHarness, route: "large" | "large-stream", bytes: number) {
  let outcome: { first: Reply; second: Reply; runs: number } | undefined;
  await withScene(harness, {}, async (scene) => {
    scene.stage.settings.bytes = bytes;
    const key = freshKey();
    const first = await scene.post(route, { key });
    assert.ok(first.body.equals(patterned(bytes)), "the first answer passes through whole");
    const second = await scene.post(route, { key });
    outcome = { first, second, runs: scene.runs(route) };
  });
  return outcome!;
}

const BOUND = 2 ** 20;

const sizes = (["large", "large-stream"] as const).flatMap((route) => [
  frameworkCase(`ST-10: \`${route}\` just below 1 MiB is stored and replayed`, async (harness) => {
    const { first, second, runs } = await sized(harness, route, BOUND - 1_024);
    assertReplayOf(second, first);
    assert.equal(runs, 1);
  }),
  frameworkCase(
    `ST-10: \`${route}\` above 1 MiB passes through, and its duplicate gets result-not-stored`,
    async (harness) => {
      for (const bytes of [BOUND + 1, 3 * BOUND]) {
        const { first, second, runs } = await sized(harness, route, bytes);
        assert.equal(first.status, 200);
        const problem = assertProblem(second, {
          status: 409,
          code: "result-not-stored",
          state: "replayed",
        });
        assert.equal(problem["originalStatus"], 200);
        assert.equal(runs, 1);
      }
    },
  ),
]);

const narrow = (["large", "large-stream"] as const).map((route) =>
  frameworkCase(
    `ST-10: a route's own \`maxResultBytes\` bounds what is kept of \`${route}\``,
    (harness) =>
      withScene(harness, { http: () => ({ maxResultBytes: 1_000 }) }, async (scene) => {
        for (const [bytes, state] of [
          [1_000, "replayed"],
          [1_001, "not stored"],
        ] as const) {
          scene.stage.settings.bytes = bytes;
          const post = { key: `k-${bytes}` };
          const first = await scene.post(route, post);
          assertExecuted(first);
          assert.equal(first.body.length, bytes);
          const second = await scene.post(route, post);
          if (state === "replayed") assertReplayOf(second, first);
          else assert.equal(json(second)["code"], "result-not-stored");
        }
        assert.equal(scene.runs(route), 2);
      }),
  ),
);

const CONTENT_TYPES = [
  "application/octet-stream",
  "image/png",
  "application/pdf",
  "text/plain; charset=utf-8",
  "text/html",
  "application/json",
  "application/x-www-form-urlencoded",
];

const HEADER_SCENES: readonly [string, "*" | readonly string[], readonly string[]][] = [
  ["the allow-list", [], []],
  ["a header named", ["X-Request-Cost"], ["x-request-cost"]],
  ['"*"', "*", ["x-request-cost", "x-ratelimit-remaining"]],
];

const headers = HEADER_SCENES.map(([what, storedHeaders, kept]) =>
  frameworkCase(`HTTP-13: with ${what}, a replay has these headers and never cookies`, (harness) =>
    withScene(harness, { http: () => ({ storedHeaders }) }, async (scene) => {
      const key = freshKey();
      const first = await scene.post("headers", { key });
      assert.deepEqual(first.headers["set-cookie"], SENT_HEADERS.cookies);
      const replay = await scene.post("headers", { key });
      assertReplayOf(replay, first);
      for (const [name, value] of Object.entries(SENT_HEADERS.stored)) {
        assert.equal(field(first, name), value);
        assert.equal(field(replay, name), value);
      }
      for (const [name, value] of Object.entries(SENT_HEADERS.optional)) {
        assert.equal(field(first, name), value);
        assert.equal(field(replay, name), kept.includes(name) ? value : undefined);
      }
      for (const name of [...Object.keys(SENT_HEADERS.never), "set-cookie"]) {
        assert.ok(name in first.headers);
        assert.equal(replay.headers[name], undefined, name);
      }
      const length = field(replay, "content-length") ?? String(replay.body.length);
      assert.equal(length, String(replay.body.length));
    }),
  ),
);

/** Options for stored headers, and headers of the route `headers` that a replay has and has not. */
const CHOSEN_HEADERS: readonly [StoredHeaders, string[], string[]][] = [
  [{ deny: ["ETag", "content-language"] }, ["cache-control"], ["etag", "content-language"]],
  [
    { allow: "*", deny: ["X-Request-Cost"] },
    ["x-ratelimit-remaining", "etag"],
    ["x-request-cost", "set-cookie", "access-control-allow-origin"],
  ],
  [{ cors: true }, ["access-control-allow-origin", "etag"], ["x-request-cost"]],
];

const chosenHeaders = CHOSEN_HEADERS.map(([storedHeaders, kept, dropped]) =>
  frameworkCase(
    `HTTP-13: \`storedHeaders: ${JSON.stringify(storedHeaders)}\` says what a replay has`,
    (harness) =>
      withScene(harness, { http: () => ({ storedHeaders }) }, async (scene) => {
        const first = await scene.post("headers", { key: "k" });
        const { headers } = await scene.post("headers", { key: "k" });
        for (const name of kept) assert.deepEqual(headers[name], first.headers[name], name);
        for (const name of dropped) {
          assert.ok(name in first.headers, name);
          assert.equal(headers[name], undefined, name);
        }
      }),
  ),
);

export const answerCases = [
  ...chosenHeaders,
  ...answers,
  ...files,
  ...streams,
  ...sizes,
  ...narrow,
  ...headers,

  frameworkCase("HTTP-14: binary bodies are byte-exact under every content type", (harness) =>
    withScene(harness, { engine: { cache: false } }, async (scene) => {
      for (const type of CONTENT_TYPES) {
        scene.stage.settings.contentType = type;
        const first = await repeated(scene, "binary");
        assert.ok(first.body.equals(EVERY_BYTE), type);
        assert.equal(field(first, "content-type")?.split(";")[0], type.split(";")[0]);
      }
    }),
  ),

  frameworkCase(
    "HTTP-14: a body compressed by its handler is stored with its encoding",
    (harness) =>
      withScene(harness, {}, async (scene) => {
        const first = await repeated(scene, "gzip");
        assert.equal(gunzipSync(first.body).toString(), '{"compressed":true}');
      }),
  ),

  frameworkCase(
    "HTTP-14: trailers pass on the first answer and are dropped from its replay",
    (harness) =>
      withScene(harness, {}, async (scene) => {
        const key = freshKey();
        const first = await scene.post("trailers", { key });
        assert.deepEqual(first.trailers, { "x-checksum": "abc" });
        const replay = await scene.post("trailers", { key });
        assertReplayOf(replay, first);
        assert.deepEqual(replay.trailers, {});
        assert.equal(replay.headers["trailer"], undefined);
      }),
    ["trailers"],
  ),

  frameworkCase("HTTP-14: requests without a key, and HEAD, are left alone", (harness) =>
    withScene(harness, {}, async (scene) => {
      for (const route of ["json", "drip"] as const) {
        const first = await scene.post(route);
        await scene.post(route);
        assert.equal(scene.runs(route), 2);
        assert.equal(first.headers["idempotency-status"], undefined);
      }
      const head = await scene.post("json", { key: freshKey(), method: "HEAD" });
      assert.equal(head.status, 200);
      assert.equal(head.body.length, 0);
      assert.equal(head.headers["idempotency-status"], undefined);
      assert.equal(scene.store.calls.total, 0);
    }),
  ),

  frameworkCase(
    "HTTP-15: the handler can read its operation, and only where there is one",
    (harness) =>
      withScene(
        harness,
        { http: (field) => ({ scope: (it) => field(it, "x-tenant") }) },
        async (scene) => {
          const key = freshKey();
          const reply = await scene.post("operation", { key, headers: { "x-tenant": "acme" } });
          assert.deepEqual(JSON.parse(reply.body.toString()), {
            key,
            scope: "acme",
            attempt: 1,
            aborted: false,
          });
          const plain = await scene.post("operation");
          assert.equal(plain.body.toString(), "{}");
        },
      ),
  ),

  frameworkCase(
    "HTTP-14: an answer that middleware outside compresses is stored before that",
    (harness) =>
      withScene(harness, { outside: rot13Outside }, async (scene) => {
        for (const [route, text] of OUTSIDE) {
          const key = `key-${route}`;
          const first = await scene.post(route, { key });
          assert.equal(first.body.toString(), rot13(text));
          assert.equal(field(first, "content-encoding"), "rot13");
          assertReplayOf(await scene.post(route, { key }), first);
          assert.equal(scene.runs(route), 1);
        }
      }),
    ["outer-middleware"],
  ),
];

/** Whole answers and streams, and what they say. */
const OUTSIDE = [
  ["text", "héllo wörld"],
  ["chunks", "onetwothree"],
  ["drip", DRIP.join("")],
  ["drip-pipe", DRIP.join("")],
] as const;

/** A stand-in for compression whose result can be told from its input. */
function rot13(text: string): string {
  return text.replace(/[a-z]/g, (letter) =>
    String.fromCharCode(((letter.charCodeAt(0) - 97 + 13) % 26) + 97),
  );
}

/** Middleware outside that rewrites what is written, as compression does: once, and says so. */
function rot13Outside(_request: object, response: object): void {
  const target = response as ServerResponse;
  const writeHead = target.writeHead.bind(target) as (...given: unknown[]) => ServerResponse;
  const write = target.write.bind(target) as (chunk: unknown) => boolean;
  const end = target.end.bind(target) as (chunk: unknown) => ServerResponse;
  let turns: boolean | undefined;
  const turned = (chunk: unknown) => {
    if (!target.headersSent) target.removeHeader("content-length");
    // What is encoded already is left alone.
    turns ??= !target.hasHeader("content-encoding");
    if (!turns || chunk === undefined || chunk === null) return chunk;
    return rot13(Buffer.from(chunk as Uint8Array).toString());
  };
  target.writeHead = (...given: unknown[]) => {
    turns ??= !target.hasHeader("content-encoding");
    if (turns) target.setHeader("content-encoding", "rot13");
    return writeHead(...given);
  };
  target.write = (chunk: unknown) => write(turned(chunk));
  target.end = (chunk?: unknown) => end(turned(chunk));
}
