// A process of its own that races others over one SQLite file: opens a store of the built package,
// says that it is ready, and on each message begins that key many times at once.

import { createHash, randomBytes } from "node:crypto";
import { sqliteStore } from "../../dist/stores/sqlite.js";

const [driver, path] = process.argv.slice(2);

async function open() {
  if (driver === "libsql") {
    const { default: Database } = await import("libsql");
    return new Database(path);
  }
  const { DatabaseSync } = process.getBuiltinModule("node:sqlite");
  return new DatabaseSync(path);
}

const store = sqliteStore(await open(), { busyTimeout: "30s" });

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
