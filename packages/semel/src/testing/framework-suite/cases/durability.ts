// A result is durable before it is visible (SM-21): nothing of an answer, and of a stream not its
// last byte, leaves before the record is completed.

import assert from "node:assert/strict";
import { DRIP, EVENTS, type Route } from "../catalogue.ts";
import { RawClient, requestText } from "../client.ts";
import { assertReplayOf } from "../expectations.ts";
import { type FrameworkHarness, frameworkCase } from "../harness.ts";
import { type Scene, withScene } from "../scene.ts";
import { until } from "../waiting.ts";

/** Runs a case whose first settle is held back until `confirm` is called. */
async function withHeldSettle(
  harness: FrameworkHarness,
  run: (scene: Scene, confirm: () => void) => Promise<void>,
): Promise<void> {
  for (const effect of ["delay", "delay-reply"] as const) {
    let confirm = () => {};
    const held = new Promise<void>((resolve) => {
      confirm = resolve;
    });
    const faults = [{ method: "settle", call: 1, effect, until: held }] as const;
    await withScene(harness, { faults, engine: { cache: false } }, (scene) => run(scene, confirm));
  }
}

/** Round trips on the same server: whatever could have been sent meanwhile has been. */
async function roundTrips(scene: Scene): Promise<void> {
  for (let n = 0; n < 5; n++) await scene.post("json");
}

async function ask(scene: Scene, route: Route): Promise<RawClient> {
  const client = await RawClient.connect(scene.port);
  const headers = { "Idempotency-Key": "k", Connection: "close" };
  client.write(requestText(`/${route}`, headers));
  return client;
}

const WHOLE: readonly Route[] = [
  "json",
  "created",
  "no-content",
  "see-other",
  "empty",
  "bare",
  "binary",
];

const whole = WHOLE.map((route) =>
  frameworkCase(`SM-21: nothing of \`${route}\` leaves before the record is completed`, (harness) =>
    withHeldSettle(harness, async (scene, confirm) => {
      const client = await ask(scene, route);
      await until(() => scene.store.calls.settle === 1, "the end of the attempt");
      await roundTrips(scene);
      assert.equal(client.text, "");
      confirm();
      await client.ended();
      assert.match(client.text, /^HTTP\/1\.1 \d{3} /);
      assert.match(client.text, /idempotency-status: executed/i);
    }),
  ),
);

/** Streams, and whether their length is declared. */
const STREAMS: readonly Route[] = [
  "drip",
  "drip-pipe",
  "drip-pipeline",
  "drip-declared",
  "declared-late-end",
];

const streams = STREAMS.map((route) =>
  frameworkCase(`SM-21: the last byte of \`${route}\` waits for the record`, (harness) =>
    withHeldSettle(harness, async (scene, confirm) => {
      const isDeclared = route === "drip-declared" || route === "declared-late-end";
      const gate = scene.stage.hold("drip");
      const client = await ask(scene, route);
      if (route !== "declared-late-end") await client.receives(DRIP[0]);
      else await gate.reached;
      await roundTrips(scene);
      assertUnfinished(client, isDeclared);
      gate.open();
      await until(() => scene.store.calls.settle === 1, "the end of the attempt");
      await roundTrips(scene);
      assertUnfinished(client, isDeclared);
      confirm();
      await client.ended();
      assert.ok(client.text.includes(DRIP[1]));
      const replay = await scene.post(route, { key: "k" });
      assertReplayOf(replay, { ...replay, body: Buffer.from(DRIP.join("")) });
    }),
  ),
);

/** The client cannot take what it has for the whole. */
function assertUnfinished(client: RawClient, isDeclared: boolean): void {
  assert.ok(!client.text.endsWith("0\r\n\r\n"), "the last chunk has left");
  if (isDeclared) assert.ok(!client.text.includes(DRIP[1]), "the last declared byte has left");
}

export const durabilityCases = [
  ...whole,
  ...streams,

  frameworkCase("HTTP-14: server-sent events arrive while the handler still runs", (harness) =>
    withScene(harness, {}, async (scene) => {
      const gate = scene.stage.hold("events");
      const client = await ask(scene, "events");
      await gate.reached;
      await client.receives(EVENTS[0]);
      assert.match(client.text, /idempotency-status: executed/i);
      assert.ok(!client.text.includes(EVENTS[1]));
      gate.open();
      await client.ended();
      const replay = await scene.post("events", { key: "k" });
      assert.equal(replay.body.toString(), EVENTS.join(""));
      assert.equal(scene.runs("events"), 1);
    }),
  ),
];
