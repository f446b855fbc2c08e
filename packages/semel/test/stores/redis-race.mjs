// A process of its own that races others over one Redis: opens a store of the built package, says
// that it is ready, and on each message begins that key many times at once.

import { createHash, randomBytes } from "node:crypto";
import { Redis } from "ioredis";
import { redisStore } from "../../dist/stores/redis.js";

const [url, prefix] = process.argv.slice(2);
const store = redisStore(new Redis(url), { prefix });

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

process.on("message", async ({ key, callers }) => {
  try {
    const answers = await Promise.all(Array.from({ length: callers }, () => begin(key)));
    process.send({ kinds: answers.map(({ kind }) => kind) });
  } catch (error) {
    process.send({ error: String(error) });
  }
});
process.send("ready");
