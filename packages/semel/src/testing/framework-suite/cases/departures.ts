// Clients that leave: before their request is whole, while the handler runs, in the middle of the
// answer. What has begun is finished and recorded (SM-23); what is not whole never begins.

import assert from "node:assert/strict";
import { DRIP, patterned, type Route } from "../catalogue.ts";
import { field, RawClient, type Reply, requestText } from "../client.ts";
import { assertProblem, assertReplayOf } from "../expectations.ts";
import { frameworkCase } from "../harness.ts";
import { type Scene, withScene } from "../scene.ts";
import { inTime, until } from "../waiting.ts";

const KEY = { "Idempotency-Key": "k" };

async function start(scene: Scene, route: Route, body = ""): Promise<RawClient> {
  const client = await RawClient.connect(scene.port);
  client.write(requestText(`/${route}`, KEY, body));
  return client;
}

/** Lets the server notice that a client has left. */
async function noticed(scene: Scene): Promise<void> {
  for (let n = 0; n < 5; n++) await scene.post("json");
}

function assertWholeReplay(reply: Reply, body: Buffer): void {
  assertReplayOf(reply, { ...reply, status: 200, body });
}

/** Routes, the gate they wait at, and their whole answer. */
const WAITING: readonly [Route, string, string][] = [
  ["slow", "slow", '{"run":1}'],
  ["drip", "drip", DRIP.join("")],
  ["drip-pipe", "drip", DRIP.join("")],
  ["drip-pipeline", "drip", DRIP.join("")],
  ["drip-declared", "drip", DRIP.join("")],
  ["late-pipe", "drip", DRIP.join("")],
  ["declared-late-end", "drip", DRIP.join("")],
];

/** How a client leaves; Node takes one that closes its own half for one that has left. */
const WAYS = {
  leaves: (client: RawClient) => client.leave(),
  "closes its half of": (client: RawClient) => {
    client.socket.end();
    return client.ended();
  },
};

const leaving = WAITING.flatMap(([route, gateName, body]) =>
  Object.entries(WAYS).map(([how, leave]) =>
    frameworkCase(
      `SM-23: a client that ${how} \`${route}\` half-way finds its answer on retry`,
      (harness) =>
        withScene(harness, {}, async (scene) => {
          const gate = scene.stage.hold(gateName);
          const client = await start(scene, route);
          await gate.reached;
          if (route.startsWith("drip")) await client.receives(DRIP[0]);
          await leave(client);
          await noticed(scene);
          const duplicate = await scene.post(route, { key: "k" });
          assertProblem(duplicate, {
            status: 409,
            code: "operation-in-progress",
            state: "in-progress",
            retryAfter: true,
          });
          gate.open();
          assertWholeReplay(await scene.settled(route, { key: "k" }), Buffer.from(body));
          assert.equal(scene.runs(route), 1);
        }),
    ),
  ),
);

const FLOOD_BYTES = 24 * 2 ** 20;

/** Streams over which a client stops reading, and then leaves. */
const stalled = (["large-stream", "pipe"] as const).map((route) =>
  frameworkCase(
    `SM-23: \`${route}\` to a client that stops reading and leaves is finished`,
    (harness) =>
      withScene(harness, { engine: { maxResultBytes: 2 * FLOOD_BYTES } }, async (scene) => {
        scene.stage.settings.bytes = FLOOD_BYTES;
        const client = await RawClient.connect(scene.port);
        client.socket.pause();
        client.write(requestText(`/${route}`, KEY));
        await until(() => scene.runs(route) === 1, "the handler's start");
        await noticed(scene);
        await client.leave();
        const whole =
          route === "pipe" ? Buffer.from(scene.stage.file.bytes) : patterned(FLOOD_BYTES);
        assertWholeReplay(await scene.settled(route, { key: "k" }), whole);
        assert.equal(scene.runs(route), 1);
      }),
  ),
);

/** Routes whose answer waits behind another one on their connection, and their whole answer. */
const QUEUED = ["created", "drip", "drip-pipe", "large-stream", "pipe"] as const;

const queued = QUEUED.map((route) =>
  frameworkCase(
    `SM-23: \`${route}\` is finished when its client leaves, also behind an answer that is not`,
    (harness) =>
      withScene(harness, { engine: { maxResultBytes: 2 * FLOOD_BYTES } }, async (scene) => {
        scene.stage.settings.bytes = FLOOD_BYTES / 4;
        const gate = scene.stage.hold("slow");
        const client = await RawClient.connect(scene.port);
        client.write(requestText("/slow", { "Idempotency-Key": "first" }));
        client.write(requestText(`/${route}`, KEY));
        await until(() => scene.runs(route) === 1, "the second handler's start");
        await noticed(scene);
        await client.leave();
        await noticed(scene);
        const replay = await inTime(scene.settled(route, { key: "k" }), "the second answer");
        assert.equal(field(replay, "idempotency-status"), "replayed");
        if (route === "large-stream") {
          assert.ok(replay.body.equals(patterned(FLOOD_BYTES / 4)));
        }
        assert.equal(scene.runs(route), 1);
        gate.open();
        const first = await scene.settled("slow", { key: "first" });
        assert.equal(field(first, "idempotency-status"), "replayed");
        assert.equal(scene.runs("slow"), 1);
      }),
  ),
);

export const departureCases = [
  ...queued,
  ...leaving,
  ...stalled,

  frameworkCase(
    "SM-23: a client that leaves while the end is being recorded changes nothing",
    async (harness) => {
      let confirm = () => {};
      const held = new Promise<void>((resolve) => {
        confirm = resolve;
      });
      const faults = [{ method: "settle", call: 1, effect: "delay", until: held }] as const;
      await withScene(harness, { faults }, async (scene) => {
        const client = await start(scene, "created");
        await until(() => scene.store.calls.settle === 1, "the end of the attempt");
        await client.leave();
        await noticed(scene);
        confirm();
        const reply = await scene.settled("created", { key: "k" });
        assertReplayOf(reply, { ...reply, status: 201 });
        assert.equal(scene.runs("created"), 1);
      });
    },
  ),

  frameworkCase(
    "SM-23: a client that leaves before the handler began starts nothing, and may retry",
    async (harness) => {
      let answer = () => {};
      const held = new Promise<void>((resolve) => {
        answer = resolve;
      });
      const faults = [{ method: "begin", call: 1, effect: "delay-reply", until: held }] as const;
      await withScene(harness, { faults }, async (scene) => {
        const client = await start(scene, "echo", "the whole body");
        await until(() => scene.store.calls.begin === 1, "the begin");
        await client.leave();
        await noticed(scene);
        answer();
        const reply = await scene.settled("echo", { key: "k", body: "the whole body" });
        assert.equal(reply.status, 200, reply.body.toString());
        assert.equal(reply.body.toString(), "the whole body");
        assert.equal(scene.runs("echo"), 1);
      });
    },
  ),

  frameworkCase("SM-24: a handler that fails after its client left is released", (harness) =>
    withScene(harness, {}, async (scene) => {
      const gate = scene.stage.hold("rejects");
      const client = await start(scene, "rejects");
      await gate.reached;
      await client.leave();
      await noticed(scene);
      gate.open();
      const retry = await scene.settled("rejects", { key: "k" });
      assert.equal(retry.status, 500);
      assert.equal(scene.runs("rejects"), 2);
    }),
  ),

  frameworkCase("SM-24: a stream that breaks after its client left is released", (harness) =>
    withScene(harness, {}, async (scene) => {
      const gate = scene.stage.hold("drip");
      const client = await start(scene, "throws-midstream");
      await client.receives(DRIP[0]);
      await gate.reached;
      await client.leave();
      await noticed(scene);
      gate.open();
      const again = scene.stage.hold("drip");
      const retry = scene.settled("throws-midstream", { key: "k" }).catch((error: Error) => error);
      await again.reached;
      again.open();
      assert.ok((await retry) instanceof Error);
      assert.equal(scene.runs("throws-midstream"), 2);
    }),
  ),

  frameworkCase("HTTP-5: half a request body runs nothing", (harness) =>
    withScene(harness, {}, async (scene) => {
      const body = "x".repeat(1_000);
      const length = requestText("/json", KEY, body);
      const chunked = `POST /json HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: k\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n${body}\r\n`;
      for (const text of [length.slice(0, -1), chunked, `${chunked}0\r\n`]) {
        for (const how of ["leave", "finish"] as const) {
          const client = await RawClient.connect(scene.port);
          client.write(text);
          await noticed(scene);
          if (how === "leave") await client.leave();
          else {
            client.socket.end();
            await client.ended();
          }
          await noticed(scene);
        }
      }
      assert.equal(scene.store.calls.begin, 0);
      const whole = await scene.post("json", { key: "k", body });
      assert.equal(whole.status, 200);
    }),
  ),

  frameworkCase(
    "EN-3: a client that leaves while it waits for another's result changes nothing",
    (harness) =>
      withScene(harness, { http: () => ({ wait: "10s" }) }, async (scene) => {
        const gate = scene.stage.hold("slow");
        const first = scene.post("slow", { key: "k" });
        await gate.reached;
        const waiting = await start(scene, "slow");
        await noticed(scene);
        await waiting.leave();
        await noticed(scene);
        gate.open();
        assert.equal((await first).status, 200);
        assertReplayOf(await scene.post("slow", { key: "k" }), await first);
        assert.equal(scene.runs("slow"), 1);
      }),
  ),
];
