// What is combining worth on Redis? At 64 concurrent callers, with `ioredis` and with `redis`, against
// the same scripts called once for each claim and each completion. Both clients send what one turn of
// the event loop asks as one write, so that what is saved is commands, not round trips. Besides, for
// comparison: scripts as short as they can be, which keep an owner and a result, and no lease by the
// server's clock, no fingerprint, no listing.

import { randomBytes } from "node:crypto";
import { Redis } from "ioredis";
import { createClient } from "redis";
import { Idempotency } from "../packages/semel/dist/index.js";
import { RedisBatches } from "../packages/semel/dist/stores/redis/batches.js";
import { connectionOf } from "../packages/semel/dist/stores/redis/clients.js";
import { Keyspace } from "../packages/semel/dist/stores/redis/keyspace.js";
import { ADVANCE } from "../packages/semel/dist/stores/redis/questions.js";
import { redisStore } from "../packages/semel/dist/stores/redis.js";
import {
  atLeast,
  CALLERS,
  completeNew,
  inRounds,
  inTurn,
  METHOD,
  nextKey,
  RESULT,
  RETENTION_MS,
  replayed,
  rowOf,
} from "./callers.mjs";
import { report } from "./report.mjs";
import { REDIS_URL } from "./servers.mjs";

const PREFIX = `bench-${randomBytes(4).toString("hex")}:`;
const BODY = RESULT.toString();

/** As short as a claim and a completion with a fencing token can be. */
const CLAIM = `local found = redis.call('GET', KEYS[1])
if found then return found end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1`;
const COMPLETE = `local found = redis.call('GET', KEYS[1])
if not found or string.sub(found, 1, 32) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1`;

const ioredis = new Redis(REDIS_URL);
const redis = await createClient({ url: REDIS_URL }).connect();
try {
  await main();
} finally {
  for await (const keys of ioredis.scanStream({ match: `${PREFIX}*`, count: 1_000 })) {
    if (keys.length > 0) await ioredis.unlink(keys);
  }
  await Promise.all([ioredis.quit(), redis.quit()]);
}

async function main() {
  const rows = {};
  const targets = [];
  const clients = [
    {
      name: "ioredis",
      client: ioredis,
      short: ioredisShort(`${PREFIX}ioredis-single:`),
      ratios: [2.2, 2.3],
    },
    {
      name: "redis",
      client: redis,
      short: await nodeRedisShort(`${PREFIX}redis-short:`),
      ratios: [2.8, 4.2],
    },
  ];
  for (const { name, client, short, ratios } of clients) {
    const store = redisStore(client, { prefix: `${PREFIX}${name}:` });
    const single = uncombined(client, `${PREFIX}${name}-single:`);
    const engine = new Idempotency({ store, cache: false, sweep: false });
    const run = async (key) => {
      await engine.run({ key, payload: { key } }, async () => BODY);
      return key;
    };
    const subjects = {
      new: {
        [`${name}: Semel, engine, new`]: () => run(nextKey()),
        [`${name}: Semel, store, new`]: () => completeNew(store),
        [`${name}: a script per call, new`]: () => completeNew(single),
        [`${name}: a short script per call, new`]: () => short.complete(nextKey()),
      },
      replays: {
        [`${name}: Semel, engine, replays`]: await inTurn(run, run),
        [`${name}: Semel, store, replays`]: await inTurn(
          (key) => completeNew(store, key),
          (key) => replayed(store, key),
        ),
        [`${name}: a script per call, replays`]: await inTurn(
          (key) => completeNew(single, key),
          (key) => replayed(single, key),
        ),
        [`${name}: a short script per call, replays`]: await inTurn(short.complete, short.replay),
      },
    };
    for (const [index, kind] of ["new", "replays"].entries()) {
      const samples = await inRounds(subjects[kind]);
      const baseline = `${name}: a script per call, ${kind}`;
      for (const one of samples.keys()) rows[one] = rowOf(samples, one, baseline);
      targets.push(atLeast(samples, `${name}: Semel, store, ${kind}`, baseline, ratios[index]));
    }
  }
  report("redis-combining", {
    question: `what is combining worth on Redis, at ${CALLERS} concurrent callers?`,
    rows,
    targets,
    notes: [METHOD],
  });
}

/** What a store would be without the combiner. */
function uncombined(client, prefix) {
  const options = { publish: false, wait: undefined };
  const keyspace = new Keyspace(prefix, false);
  const batches = new RedisBatches(connectionOf(client), keyspace, async () => {}, options);
  return {
    begin: (claim) => batches.askOne(ADVANCE, claim),
    settle: (ending) => batches.askOne(ADVANCE, ending),
  };
}

function ioredisShort(prefix) {
  ioredis.defineCommand("benchClaim", { numberOfKeys: 1, lua: CLAIM });
  ioredis.defineCommand("benchComplete", { numberOfKeys: 1, lua: COMPLETE });
  return shortly(
    prefix,
    (key, args) => ioredis.benchClaimBuffer(key, ...args),
    (key, args) => ioredis.benchComplete(key, ...args),
  );
}

async function nodeRedisShort(prefix) {
  const [claim, complete] = [await redis.scriptLoad(CLAIM), await redis.scriptLoad(COMPLETE)];
  return shortly(
    prefix,
    (key, args) => redis.evalSha(claim, { keys: [key], arguments: args }),
    (key, args) => redis.evalSha(complete, { keys: [key], arguments: args }),
  );
}

function shortly(prefix, claim, complete) {
  return {
    async complete(name) {
      const key = prefix + name;
      const owner = randomBytes(16).toString("hex");
      const claimed = await claim(key, [owner, "30000"]);
      if (claimed !== 1) throw new Error(`${key} was there`);
      const completed = await complete(key, [owner, owner + BODY, String(RETENTION_MS)]);
      if (completed !== 1) throw new Error(`${key} was lost`);
      return name;
    },
    async replay(name) {
      const found = await claim(prefix + name, ["", "30000"]);
      if (found.length !== 32 + BODY.length) throw new Error(`${name} is not there`);
    },
  };
}
