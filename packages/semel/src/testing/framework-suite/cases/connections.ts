// What happens on a connection over several requests, and with clients that speak HTTP in other ways.

import assert from "node:assert/strict";
import { Agent } from "node:http";
import { DRIP } from "../catalogue.ts";
import { RawClient, requestText } from "../client.ts";
import { assertExecuted, assertProblem, assertReplayOf } from "../expectations.ts";
import { frameworkCase } from "../harness.ts";
import { withScene } from "../scene.ts";
import { until } from "../waiting.ts";

function keyed(key: string, more: Record<string, string> = {}): Record<string, string> {
  return { "Idempotency-Key": key, ...more };
}

/** How many responses a raw client has. */
function responses(client: RawClient): number {
  return client.text.split("HTTP/1.1 ").length - 1;
}

export const connectionCases = [
  frameworkCase(
    "a connection serves keyed requests, replays and refusals one after the other",
    (harness) =>
      withScene(harness, { http: () => ({ maxBodyBytes: 100 }) }, async (scene) => {
        const agent = new Agent({ keepAlive: true, maxSockets: 1 });
        try {
          for (let n = 0; n < 15; n++) {
            const post = { key: `k${n}`, agent, body: "x".repeat(80) };
            const first = await scene.post("created", post);
            assertExecuted(first);
            assertReplayOf(await scene.post("created", post), first);
            assert.equal((await scene.post("created", { ...post, body: "y" })).status, 422);
            const large = { ...post, body: ["x".repeat(80), "x".repeat(80)].map(Buffer.from) };
            assertProblem(await scene.post("created", large), {
              status: 413,
              code: "body-too-large",
            });
            assert.equal((await scene.post("drip", post)).status, 422);
            assert.equal((await scene.post("no-content", { agent, key: `n${n}` })).status, 204);
          }
          assert.equal(Object.values(agent.sockets).flat().length <= 1, true);
        } finally {
          agent.destroy();
        }
      }),
  ),

  frameworkCase("a connection goes on after 409 to a duplicate with an unread body", (harness) =>
    withScene(harness, {}, async (scene) => {
      const gate = scene.stage.hold("slow");
      const first = scene.post("slow", { key: "k", body: "x".repeat(200_000) });
      await gate.reached;
      const client = await RawClient.connect(scene.port);
      for (let n = 1; n <= 3; n++) {
        client.write(requestText("/slow", keyed("k"), "x".repeat(200_000)));
        await client.receives(new RegExp(`(HTTP/1.1 409 [\\s\\S]*){${n}}`));
      }
      client.write(requestText("/json", { Connection: "close" }));
      await client.ended();
      assert.equal(responses(client), 4);
      gate.open();
      assertExecuted(await first);
    }),
  ),

  frameworkCase("pipelined requests are answered in order, each once", (harness) =>
    withScene(harness, {}, async (scene) => {
      const client = await RawClient.connect(scene.port);
      client.write(
        requestText("/status", keyed("a"), "1") +
          requestText("/echo", keyed("b"), "second") +
          requestText("/drip", keyed("c")) +
          requestText("/status", keyed("a"), "1") +
          requestText("/echo", keyed("d", { Connection: "close" }), "last"),
      );
      await client.ended();
      assert.equal(responses(client), 5);
      assert.match(
        client.text,
        /"run":1[\s\S]*second[\s\S]*first half[\s\S]*replayed[\s\S]*"run":1[\s\S]*last/,
      );
      assert.equal(scene.runs("status"), 1);
    }),
  ),

  ...([undefined, "10s"] as const).map((wait) =>
    frameworkCase(
      `HTTP-6: duplicates pipelined behind their first ${wait ? "wait for its answer" : "get 409"}, in order`,
      (harness) =>
        withScene(harness, wait ? { http: () => ({ wait }) } : {}, async (scene) => {
          const gate = scene.stage.hold("slow");
          const client = await RawClient.connect(scene.port);
          const duplicate = requestText("/slow", keyed("k"), "body");
          client.write(duplicate.repeat(3));
          client.write(requestText("/json", { Connection: "close" }));
          await gate.reached;
          // Every one of them has come by now, and the first one still runs.
          await until(() => scene.runs("json") === 1, "the last request");
          for (let n = 0; n < 5; n++) await scene.post("json");
          gate.open();
          await client.ended();
          const states = [...client.text.matchAll(/idempotency-status: (\S+)/gi)].map(
            (it) => it[1],
          );
          const others = wait ? "replayed" : "in-progress";
          assert.deepEqual(states, ["executed", others, others]);
          assert.equal(responses(client), 4);
          assert.equal(scene.runs("slow"), 1);
        }),
    ),
  ),

  frameworkCase(
    "HTTP-3: trailers behind a body reach the handler, and hold no key",
    (harness) =>
      withScene(harness, {}, async (scene) => {
        const request = (lines: string) =>
          `POST /received-trailers HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n${lines}` +
          "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n" +
          "X-Checksum: abc\r\nIdempotency-Key: trailing\r\n\r\n";
        for (const [lines, state] of [
          ["Idempotency-Key: k\r\n", "executed"],
          ["Idempotency-Key: k\r\n", "replayed"],
          ["", undefined],
        ] as const) {
          const client = await RawClient.connect(scene.port);
          client.write(request(lines));
          await client.ended();
          assert.match(client.text, /"x-checksum":"abc"/);
          assert.equal(/idempotency-status: (\S+)/i.exec(client.text)?.[1], state);
        }
        assert.equal(scene.runs("received-trailers"), 2);
      }),
    ["trailers"],
  ),

  frameworkCase("an HTTP/1.0 client gets answers, streams and replays", (harness) =>
    withScene(harness, {}, async (scene) => {
      for (const [route, body] of [
        ["status", '{"run":1}'],
        ["drip", DRIP.join("")],
      ] as const) {
        for (const state of ["executed", "replayed"]) {
          const client = await RawClient.connect(scene.port);
          client.write(requestText(`/${route}`, keyed(route), "", "1.0"));
          await client.ended();
          assert.ok(client.text.endsWith(body), client.text);
          assert.match(client.text, new RegExp(`idempotency-status: ${state}`, "i"));
        }
        assert.equal(scene.runs(route), 1);
      }
    }),
  ),

  frameworkCase("a client that expects 100-continue sends its body after it", (harness) =>
    withScene(harness, {}, async (scene) => {
      const headers = keyed("k", {
        Expect: "100-continue",
        Connection: "close",
        "Content-Length": "4",
      });
      const client = await RawClient.connect(scene.port);
      client.write(requestText("/echo", headers));
      await client.receives("100 Continue");
      client.write("body");
      await client.ended();
      assert.match(client.text, /200 OK[\s\S]*body/);
    }),
  ),
];
