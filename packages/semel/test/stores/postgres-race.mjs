// A process of its own that races others in one Postgres: opens a store of the built package, says
// that it is ready, and on each message begins that key many times at once.

import { createHash, randomBytes } from "node:crypto";
import pg from "pg";
import { postgresStore } from "../../dist/stores/postgres.js";

const [url, table] = process.argv.slice(2);
const store = postgresStore(new pg.Pool({ connectionString: url, max: 4 }), { table });

function begin(key) {
  return store.begin({
    id: createHash("sha256").update(key).digest("hex").slice(0, 32),
    scope: "tenant",
    key,
    fingerprint: "v1:payload",
    owner: randomBytes(16).toString("hex"),
    leaseMs: 600_000,
    onCrash: "hold",
    attemptsMax: 10,
    lapsedRetentionMs: null,
    heldRetentionMs: null,
  });
}

async function race({ key, callers }) {
  await store.migrate();
  const answers = await Promise.all(Array.from({ length: callers }, () => begin(key)));
  return answers.map(({ kind }) => kind);
}

process.on("message", async (message) => {
  try {
    process.send({ kinds: await race(message) });
  } catch (error) {
    process.send({ error: String(error) });
  }
});
process.send("ready");
