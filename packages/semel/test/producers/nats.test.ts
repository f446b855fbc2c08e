import { randomBytes } from "node:crypto";
import { AckPolicy, jetstreamManager } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";
import { afterAll } from "vitest";
import { natsSource } from "../servers/nats.ts";
import { findServer } from "../servers/server.ts";
import { exactlyOnce } from "./exactly-once.ts";

const found = await findServer(natsSource);
afterAll(() => ("url" in found ? found.close() : undefined));
const SECOND = 1_000_000_000;

exactlyOnce({
  broker: "nats",
  missing: "reason" in found ? found.reason : undefined,
  async open() {
    const servers = "url" in found ? found.url : "";
    const connection = await connect({ servers });
    const manager = await jetstreamManager(connection);
    const stream = `SEMEL_${randomBytes(6).toString("hex")}`;
    // Shorter than a relay needs to come back, so that the stream has duplicates.
    await manager.streams.add({ name: stream, subjects: [stream], duplicate_window: SECOND / 10 });
    await manager.consumers.add(stream, {
      durable_name: "ledger",
      ack_policy: AckPolicy.Explicit,
      ack_wait: 2 * SECOND,
    });
    return {
      address: { servers, stream },
      async close() {
        await manager.streams.delete(stream);
        await connection.close();
      },
    };
  },
});
