// An HTTP API in front of a durable engine, DBOS Transact: Semel decides whether a request is new, DBOS
// runs the workflow to its end. Both keep what they know in one Postgres.
//
//   DATABASE_URL=postgres://… BANK_URL=http://… PORT=8090 node dbos.mjs

import { createServer } from "node:http";
import { text } from "node:stream/consumers";
import { DBOS } from "@dbos-inc/dbos-sdk";
import pg from "pg";
import { Idempotency } from "semel";
import { idempotent, operationOf } from "semel/node";
import { postgresStore } from "semel/postgres";

const { DATABASE_URL, BANK_URL, PORT = "8090" } = process.env;

const bookRide = DBOS.registerWorkflow(
  async (ride) => {
    const booking = await DBOS.runStep(() => ask("reservations", ride), { name: "reserve" });
    const charge = await DBOS.runStep(() => ask("charges", ride), { name: "charge" });
    return { booking, charge };
  },
  { name: "bookRide" },
);

/** A step may run again after a crash, so that whoever it asks is given a key to remember. */
async function ask(what, ride) {
  const response = await fetch(`${BANK_URL}/${what}`, {
    method: "POST",
    headers: { "idempotency-key": `${DBOS.workflowID}/${what}` },
    body: JSON.stringify(ride),
  });
  if (!response.ok) throw new Error(`${what}: ${response.status}`);
  return response.text();
}

const pool = new pg.Pool({ connectionString: DATABASE_URL });
const store = postgresStore(pool);
await store.migrate();
const idempotency = new Idempotency({ store, lease: "2s" });

const server = createServer(
  idempotent(
    idempotency,
    {
      scope: (request) => request.headers["x-account"],
      required: true,
      // Safe here: the handler does nothing but start a workflow under a name, and that name is the
      // same in every attempt. Whoever starts it again finds the one that runs.
      onCrash: "rerun",
      wait: "30s",
    },
    async (request, response) => {
      const ride = JSON.parse(await text(request));
      const { step } = operationOf(request);
      const workflowID = await step("book-ride", async ({ idempotencyKey }) => {
        await DBOS.startWorkflow(bookRide, { workflowID: idempotencyKey })(ride);
        return idempotencyKey;
      });
      const booked = await DBOS.retrieveWorkflow(workflowID).getResult();
      response.writeHead(201, { "content-type": "application/json" });
      response.end(JSON.stringify({ workflow: workflowID, ...booked }));
    },
  ),
);

DBOS.setConfig({ name: "rides", systemDatabaseUrl: DATABASE_URL, logLevel: "error" });
// Workflows that a crashed process began go on from here.
await DBOS.launch();
server.listen(Number(PORT), "127.0.0.1", () => {
  const address = `http://127.0.0.1:${server.address().port}`;
  console.log(`Booking rides on ${address}. Try, and try again:

   curl -i ${address}/rides -H 'Idempotency-Key: ride-7' -H 'X-Account: alice' -d '{"to":"the moon"}'
`);
});
process.once("SIGTERM", async () => {
  server.close();
  await idempotency.close();
  await DBOS.shutdown();
  await pool.end();
});
