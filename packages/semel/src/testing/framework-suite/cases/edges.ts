// Answers at the edges of what HTTP can say, and handlers that say it wrongly (HTTP-13, HTTP-14).

import assert from "node:assert/strict";
import { GIVEN } from "../catalogue.ts";
import { field, RawClient, requestText } from "../client.ts";
import {
  assertExecuted,
  assertProblem,
  assertReleasedFailure,
  assertReplayOf,
} from "../expectations.ts";
import { frameworkCase } from "../harness.ts";
import { type Scene, withScene } from "../scene.ts";
import { until } from "../waiting.ts";

/** A keyed request on a connection of its own, and all that comes back, one character a byte. */
async function rawAnswer(scene: Scene, path: string): Promise<string> {
  const client = await RawClient.connect(scene.port);
  client.write(requestText(path, { "Idempotency-Key": "k", Connection: "close" }));
  await client.ended();
  return client.text;
}

/** The lines of a raw answer's head. */
function headLines(text: string): string[] {
  return text.slice(0, text.indexOf("\r\n\r\n")).split("\r\n");
}

const MANY = Object.fromEntries(
  Array.from({ length: 150 }, (_, n) => [`x-line-${n}`, `${n} of many header lines of an answer`]),
);

export const edgeCases = [
  frameworkCase(
    "HTTP-14: 204, 205 and 304 are replayed, whatever body they were given",
    (harness) =>
      withScene(harness, { engine: { cache: false } }, async (scene) => {
        scene.stage.settings.headers = { etag: '"v1"' };
        for (const status of [204, 205, 304]) {
          scene.stage.settings.status = status;
          const post = { key: `k-${status}` };
          const first = await scene.post("given", post);
          assert.equal(first.status, status);
          assertExecuted(first);
          assertReplayOf(await scene.post("given", post), first);
        }
        assert.equal(scene.runs("given"), 3);
      }),
  ),

  frameworkCase("HTTP-13: many header lines, and a long one, are replayed", (harness) =>
    withScene(
      harness,
      { http: () => ({ storedHeaders: "*" }), engine: { cache: false } },
      async (scene) => {
        for (const headers of [MANY, { "x-long": "long ".repeat(1_600).trim() }]) {
          scene.stage.settings.headers = headers;
          const post = { key: `k-${Object.keys(headers).length}` };
          const first = await scene.post("given", post);
          const replay = await scene.post("given", post);
          assertReplayOf(replay, first);
          for (const [name, value] of Object.entries(headers)) {
            assert.deepEqual(first.headers[name], [value]);
            assert.deepEqual(replay.headers[name], [value]);
          }
        }
      },
    ),
  ),

  frameworkCase("HTTP-13: a header of several lines is replayed with all of them", (harness) =>
    withScene(harness, {}, async (scene) => {
      scene.stage.settings.headers = {
        link: ['</a>; rel="next"', '</b>; rel="prev"'],
        vary: ["Origin", "Accept"],
        "set-cookie": ["a=1; Path=/", "b=2, with a comma", "c=3"],
      };
      const first = await scene.post("given", { key: "k" });
      assert.deepEqual(first.headers["set-cookie"], ["a=1; Path=/", "b=2, with a comma", "c=3"]);
      assert.equal(first.headers["link"]?.join(", "), '</a>; rel="next", </b>; rel="prev"');
      const replay = await scene.post("given", { key: "k" });
      assertReplayOf(replay, first);
      assert.deepEqual(replay.headers["link"], first.headers["link"]);
      assert.deepEqual(replay.headers["vary"], first.headers["vary"]);
      assert.equal(replay.headers["set-cookie"], undefined);
    }),
  ),

  frameworkCase("HTTP-13: a header beyond ASCII is replayed byte for byte", (harness) =>
    withScene(harness, { engine: { cache: false } }, async (scene) => {
      scene.stage.settings.headers = { "content-disposition": 'attachment; filename="é.txt"' };
      const line = async () =>
        headLines(await rawAnswer(scene, "/given")).find((text) =>
          text.toLowerCase().startsWith("content-disposition"),
        );
      const first = await line();
      assert.match(first ?? "", /filename=/);
      assert.equal((await line())?.toLowerCase(), first?.toLowerCase());
      assert.equal(scene.runs("given"), 1);
    }),
  ),

  frameworkCase(
    "HTTP-13: a handler's reason phrase is sent, and its replay has the usual one",
    (harness) =>
      withScene(harness, {}, async (scene) => {
        Object.assign(scene.stage.settings, { status: 201, reason: "Made by hand" });
        assert.match(await rawAnswer(scene, "/given"), /^HTTP\/1.1 201 Made by hand\r\n/);
        const replay = await rawAnswer(scene, "/given");
        assert.match(replay, /^HTTP\/1.1 201 Created\r\n/);
        assert.match(replay, /idempotency-status: replayed/i);
      }),
    ["reason"],
  ),

  frameworkCase(
    "HTTP-13: a reason phrase that cannot be sent fails the handler, and is no result",
    (harness) =>
      withScene(harness, {}, async (scene) => {
        scene.stage.settings.reason = "OK\r\nSet-Cookie: stolen=1";
        for (let run = 1; run <= 2; run++) {
          const reply = await scene.post("given", { key: "k" });
          assertReleasedFailure(reply);
          assert.equal(reply.headers["set-cookie"], undefined);
          assert.equal(scene.runs("given"), run);
        }
      }),
    ["reason"],
  ),

  frameworkCase(
    "HTTP-13: a Content-Length that is wrong is not replayed; the body is, whole",
    (harness) =>
      withScene(harness, { http: () => ({ storedHeaders: "*" }) }, async (scene) => {
        for (const length of [GIVEN.length - 2, GIVEN.length + 2]) {
          scene.stage.settings.headers = { "content-length": String(length) };
          const key = `k-${length}`;
          const client = await RawClient.connect(scene.port);
          client.write(requestText("/given", { "Idempotency-Key": key }));
          await client.receives(/\r\n\r\ng/);
          await client.leave();
          const replay = await scene.settled("given", { key });
          assert.equal(replay.body.toString(), GIVEN);
          assert.equal(field(replay, "idempotency-status"), "replayed");
        }
        assert.equal(scene.runs("given"), 2);
      }),
  ),

  frameworkCase(
    "HTTP-14: 103 Early Hints pass at once, and are not replayed",
    (harness) =>
      withScene(harness, {}, async (scene) => {
        const first = await rawAnswer(scene, "/early-hints");
        assert.match(
          first,
          /^HTTP\/1.1 103 Early Hints\r\nLink: <\/style.css>; rel=preload\r\n\r\nHTTP\/1.1 200 /i,
        );
        assert.match(first, /idempotency-status: executed/i);
        const replay = await rawAnswer(scene, "/early-hints");
        assert.match(replay, /^HTTP\/1.1 200 OK\r\n/);
        assert.match(replay, /idempotency-status: replayed/i);
        assert.match(replay, /after hints/);
      }),
    ["informational"],
  ),

  frameworkCase(
    "HTTP-14: of a handler that ends twice, the first answer counts",
    (harness) =>
      withScene(harness, {}, async (scene) => {
        const first = await scene.post("ends-twice", { key: "k" });
        assert.equal(first.status, 201);
        assert.equal(first.body.toString(), "whole");
        assertExecuted(first);
        assertReplayOf(await scene.post("ends-twice", { key: "k" }), first);
        assert.equal(scene.runs("ends-twice"), 1);
      }),
    ["failing-after-answer"],
  ),

  frameworkCase(
    "SM-23: a handler that destroys its connection and goes on is finished and recorded",
    (harness) =>
      withScene(harness, {}, async (scene) => {
        const gate = scene.stage.hold("slow");
        const first = assert.rejects(scene.post("destroys-connection", { key: "k" }));
        await gate.reached;
        await first;
        assertProblem(await scene.post("destroys-connection", { key: "k" }), {
          status: 409,
          code: "operation-in-progress",
          state: "in-progress",
          retryAfter: true,
        });
        gate.open();
        const replay = await scene.settled("destroys-connection", { key: "k" });
        assert.equal(replay.body.toString(), '{"run":1}');
        assert.equal(field(replay, "idempotency-status"), "replayed");
      }),
    ["connections"],
  ),

  frameworkCase("HTTP-14: keys on HEAD and OPTIONS are ignored, malformed ones too", (harness) =>
    withScene(harness, { http: () => ({ required: true }) }, async (scene) => {
      let runs = 0;
      for (const method of ["HEAD", "OPTIONS", "GET"]) {
        for (const key of ["k", "k", "not a key", ""]) {
          const reply = await scene.post("json", { key, method });
          assert.equal(reply.status, 200);
          assert.equal(reply.headers["idempotency-status"], undefined);
          assert.equal(scene.runs("json"), ++runs);
        }
      }
      assert.equal(scene.store.calls.total, 0);
    }),
  ),

  frameworkCase(
    "SM-20: an attempt that lost its lease is told by its signal, and its caller gets the successor's answer",
    async (harness) => {
      let taken = () => {};
      const succeeded = new Promise<void>((resolve) => {
        taken = resolve;
      });
      await withScene(
        harness,
        {
          http: () => ({ onCrash: "rerun", lease: "30ms" }),
          faults: [{ method: "renew", effect: "delay", until: succeeded }],
        },
        async (scene) => {
          const first = scene.post("heeds-signal", { key: "k" });
          await until(() => scene.store.calls.renew > 0, "a renewal");
          scene.elapse(31_000);
          const other = await scene.another();
          const winner = await other.post("heeds-signal", { key: "k" });
          assertExecuted(winner);
          taken();
          assertReplayOf(await first, winner);
          assert.deepEqual(scene.stage.notes, [{ aborted: "attempt-superseded" }]);
        },
      );
    },
    ["moving-clock"],
  ),
];
