// A process of its own that, once told to begin, does jobs and delivers their effects until it is killed or
// told to stop. Both are asked of a downstream that counts.
//
//   fork("worker-process.mjs", ['{ "backend": …, "url": …, "table": …, "downstream": … }'])

import { once } from "node:events";
import { Idempotency } from "../../dist/engine/idempotency.js";
import { openStore } from "./store-of-process.mjs";

const { downstream, ...address } = JSON.parse(process.argv[2]);
const store = await openStore(address);
const idempotency = new Idempotency({ store, sweep: false, storeTimeout: "20s" });

const ask = async (what, job, key) => {
  const body = JSON.stringify({ what, job, key, process: process.pid });
  const response = await fetch(downstream, { method: "POST", body });
  return response.text();
};

const job = idempotency.operation("job", {
  lease: "3s",
  handler: async (job, { step, effect }) => {
    const answer = await step("work", ({ idempotencyKey }) => ask("work", job, idempotencyKey));
    await effect("report", job);
    return answer;
  },
});
// One that comes late might find everything done.
process.send("ready");
await once(process, "message");

const service = { lease: "3s", pollInterval: "200ms", concurrency: 8 };
const worker = idempotency.worker({ operations: [job], ...service });
const relay = idempotency.relay(
  { report: ({ id, payload }) => ask("report", payload, id) },
  service,
);

process.on("message", () => void idempotency.close({ deadline: "20s" }));
await Promise.all([worker.closed, relay.closed]);
process.exit();
