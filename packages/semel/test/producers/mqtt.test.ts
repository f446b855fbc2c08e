import { randomBytes } from "node:crypto";
import { connectAsync } from "mqtt";
import { afterAll } from "vitest";
import { startMosquitto } from "../servers/mosquitto.ts";
import { exactlyOnce } from "./exactly-once.ts";

const server = await startMosquitto();
if (!server && process.env["SEMEL_REQUIRE_SERVICES"]) throw new Error("no mosquitto binary");
afterAll(() => server?.close());

exactlyOnce({
  broker: "mqtt",
  missing: server ? undefined : "no mosquitto binary on this machine",
  async open() {
    const { url } = server!;
    const topic = `semel/${randomBytes(6).toString("hex")}`;
    const clientId = `${topic}/ledger`;
    const session = { clean: false, properties: { sessionExpiryInterval: 600 } };
    // The broker keeps messages for a session from its subscription on.
    const first = await connectAsync(url, { protocolVersion: 5, clientId, ...session });
    await first.subscribeAsync(topic, { qos: 1 });
    await first.endAsync();
    return {
      address: { url, topic, clientId },
      async close() {
        const last = await connectAsync(url, { protocolVersion: 5, clientId, clean: true });
        await last.endAsync();
      },
    };
  },
});
