// What a user is told by: it may fail in any way, and neither a delivery, a consumer nor the process ends.

import { setImmediate as turn } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { Intake } from "../../src/consumers/consumption.ts";
import { eachMessage } from "../../src/consumers/kafka.ts";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { createInbox } from "../../src/engine/inbox/inbox.ts";
import { memoryStore } from "../../src/stores/memory.ts";

const inboxOf = () => createInbox(new Idempotency({ store: memoryStore() }), "billing");
const down = new Error("statsd is down");
const failing: [how: string, callback: () => unknown][] = [
  [
    "throws",
    () => {
      throw down;
    },
  ],
  ["rejects", async () => Promise.reject(down)],
  [
    "throws what cannot be read",
    () => {
      throw Object.create(null);
    },
  ],
];

describe.each(failing)("one that %s", (how, callback) => {
  const warnings: { code?: string; message: string }[] = [];
  const unhandled = vi.fn();
  const onWarning = (warning: Error) => void warnings.push(warning);

  beforeEach(() => {
    warnings.length = 0;
    unhandled.mockClear();
    process.on("warning", onWarning).on("unhandledRejection", unhandled);
  });
  afterEach(() => {
    process.off("warning", onWarning).off("unhandledRejection", unhandled);
  });

  const why = how.endsWith("read") ? "an error without a message" : "statsd is down";
  const assertWarned = async (name: string, code: string) => {
    await turn();
    await turn();
    expect(unhandled).not.toHaveBeenCalled();
    expect(warnings[0]).toMatchObject({ code, message: `\`${name}\` threw: ${why}` });
  };

  test("as onDelivery leaves the delivery as it is", async () => {
    const handler = vi.fn();
    const inbox = inboxOf();
    const consume = eachMessage(inbox, { handler, onDelivery: callback });
    const message = { offset: "1", key: null, value: Buffer.from("x") };
    await consume({ topic: "t", partition: 0, message, heartbeat: async () => {} });
    await assertWarned("onDelivery", "SEMEL_ON_DELIVERY");
    expect(handler).toHaveBeenCalledOnce();
    expect(inbox.counts.processed).toBe(1);
  });

  test("as onTrouble leaves the consumer asking", async () => {
    const intake = new Intake(inboxOf(), { handler: () => {}, onTrouble: callback }, "consume()");
    let asked = 0;
    intake.start(() =>
      intake.poll(async () => {
        if (++asked === 1) throw new Error("no connection");
        void intake.close();
      }),
    );
    await intake.closed;
    expect(asked).toBe(2);
    await assertWarned("onTrouble", "SEMEL_ON_TROUBLE");
  });
});
