// A process of its own that races others over one MySQL database: opens a store of the built package,
// says that it is ready, and on each message does what is asked of it many times at once.

import { createHash, randomBytes } from "node:crypto";
import { createPool } from "mysql2/promise";
import { mysqlStore } from "../../dist/stores/mysql.js";

const [uri, database] = process.argv.slice(2);
const store = mysqlStore(createPool({ uri, database, connectionLimit: 8 }), { lockTimeout: "25s" });

function claimOf(key) {
  return {
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
  };
}

/** Every caller of this process begins the same key. */
async function race({ key, callers }) {
  await store.migrate();
  const begun = Array.from({ length: callers }, () => store.begin(claimOf(key)));
  return (await Promise.all(begun)).map(({ kind }) => kind);
}

/** Begins and settles few keys again and again, out of order, while it sweeps. */
async function storm({ keys, callers }) {
  const kinds = [];
  const call = async () => {
    for (const key of [...keys].sort(() => Math.random() - 0.5)) {
      const claim = claimOf(key);
      const { kind, attempt } = await store.begin(claim);
      kinds.push(kind);
      if (kind !== "acquired") continue;
      const token = { id: claim.id, owner: claim.owner, attempt };
      await store.renew({ ...token, leaseMs: 600_000, lapsedRetentionMs: null });
      // A life of no length: the key is absent at once, and the next caller's.
      const ending = { kind: "complete", result: Buffer.from(key), retentionMs: 0 };
      kinds.push((await store.settle({ ...token, ...ending })).kind);
      await store.sweep(5);
    }
  };
  await Promise.all(Array.from({ length: callers }, call));
  return kinds;
}

process.on("message", async (message) => {
  try {
    process.send({ kinds: await (message.keys ? storm(message) : race(message)) });
  } catch (error) {
    process.send({ error: String(error) });
  }
});
process.send("ready");
