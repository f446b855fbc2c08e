// A process that does rides and delivers their receipts, until it is told to stop. Any number of them
// may run. DATABASE says where the database is, PROVIDER where the provider is.

import { Idempotency } from "semel";
import { openDatabase } from "./database.mjs";
import { rocketRides } from "./rides.mjs";

const { store, rides, close } = await openDatabase(process.env.DATABASE ?? "sqlite:rides.db");
const idempotency = new Idempotency({ store });
const { ride, deliveries } = rocketRides({
  idempotency,
  rides,
  provider: process.env.PROVIDER ?? "",
});

const worker = idempotency.worker({ operations: [ride], lease: "2s", pollInterval: "200ms" });
const relay = idempotency.relay(deliveries, { lease: "2s", pollInterval: "200ms" });
console.log(`worker ${process.pid}: ready`);

// What runs is finished, what is claimed and not begun is handed back.
for (const signal of ["SIGINT", "SIGTERM"]) {
  process.once(signal, () => void idempotency.close({ deadline: "5s" }));
}
await Promise.all([worker.closed, relay.closed]);
await close();
