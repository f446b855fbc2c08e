// Publishes the rows of an outbox, at least once each, until all are published; to be killed and started
// again at any time.
//
//   node relay-process.mjs '{ "broker": …, "address": …, "database": …, "isRelay": … }'
//
// The outbox is a table of the test's own, or with `isRelay` the effects that operations have recorded.

import { Idempotency } from "../../dist/index.js";
import { sqliteStore } from "../../dist/stores/sqlite.js";
import { databaseAt, PUBLISHERS } from "./brokers.mjs";

const { broker, address, database, isRelay } = JSON.parse(process.argv[2]);
/** So many at once, and then one write that they are published. */
const BATCH = 250;

const outbox = await databaseAt(database);
const publish = await PUBLISHERS[broker](address);
console.log("ready");
if (isRelay) await relayed();
const next = outbox.prepare(
  "SELECT id, operation, body FROM outbox WHERE published = 0 ORDER BY position LIMIT ?",
);
const published = outbox.prepare("UPDATE outbox SET published = 1 WHERE id = ?");
for (;;) {
  const rows = next.all(BATCH);
  if (rows.length === 0) break;
  await Promise.all(
    rows.map(({ id, operation, body }) =>
      publish({ id, name: "order-placed", payload: { body }, scope: "shop", key: operation }),
    ),
  );
  outbox.exec("BEGIN IMMEDIATE");
  for (const { id } of rows) published.run(id);
  outbox.exec("COMMIT");
  console.log(`published ${rows.length}`);
}
process.exit(0);

async function relayed() {
  const idempotency = new Idempotency({ store: sqliteStore(outbox, { synchronous: "normal" }) });
  let count = 0;
  const deliver = async (effect) => {
    await publish(effect);
    count++;
    if (count % 100 === 0) console.log(`published ${count}`);
  };
  const options = { concurrency: 100, lease: "1s", pollInterval: "100ms" };
  await idempotency.relay({ "order-placed": deliver }, options).closed;
}
