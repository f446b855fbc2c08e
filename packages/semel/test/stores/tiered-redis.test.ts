// Redis in front of a durable store, by both clients and on a Cluster: what it answers, and that losing
// it costs nothing but time (ST-6).

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Store } from "../../src/store.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { redisFront, tieredStore } from "../../src/stores/tiered.ts";
import { claimOf, completion, duplicateOf } from "../../src/testing/claims.ts";
import { faultyStore } from "../../src/testing/index.ts";
import {
  type PrivateCluster,
  redisBinariesMissing,
  startRedis,
  startRedisCluster,
} from "../servers/redis.ts";
import type { PrivateServer } from "../servers/server.ts";
import { titled } from "./redis-conformance.ts";
import {
  type ClientKind,
  ioredisClusterKind,
  ioredisKind,
  newPrefix,
  nodeRedisClusterKind,
  nodeRedisKind,
  type OpenClient,
} from "./redis-fixture.ts";

const missing = await redisBinariesMissing();

describe.skipIf(missing)(titled("redisFront", missing), () => {
  let server: PrivateServer;
  let cluster: PrivateCluster;
  const opened: OpenClient[] = [];
  beforeAll(async () => {
    [server, cluster] = [(await startRedis())!, (await startRedisCluster())!];
  });
  afterAll(async () => {
    for (const { close } of opened) await close();
    await Promise.all([server.close(), cluster.close()]);
  });

  async function frontOf(kind: ClientKind) {
    const open = await kind.open(kind.isCluster ? cluster.ports : [server.port]);
    opened.push(open);
    return { client: open.client, front: redisFront(open.client, { prefix: newPrefix() }) };
  }

  async function completed(store: Store, retentionMs = 60_000) {
    const claim = claimOf();
    const begun = await store.begin(claim);
    if (begun.kind !== "acquired") throw new Error(begun.kind);
    const token = { id: claim.id, attempt: begun.attempt, owner: claim.owner };
    await store.settle({ ...completion(token), retentionMs });
    return claim;
  }

  const kinds = [ioredisKind, nodeRedisKind, ioredisClusterKind, nodeRedisClusterKind];

  test.each(kinds)("a replay is answered by the front alone, by $name", async (kind) => {
    const { front } = await frontOf(kind);
    const truth = faultyStore(memoryStore());
    const store = tieredStore({ truth, front, frontTimeout: "5s" });
    const claim = await completed(store);
    await expect.poll(() => front.get(claim.id)).toBeDefined();
    const before = truth.calls.total;
    const replay = await store.begin(duplicateOf(claim));
    expect(replay).toMatchObject({ kind: "done", attempt: 1 });
    expect(replay.kind === "done" && replay.expiresInMs).toBeGreaterThan(50_000);
    expect(truth.calls.total).toBe(before);
    expect(await store.delete(claim.id)).toEqual({ kind: "deleted" });
    expect(await front.get(claim.id)).toBeUndefined();
  });

  test.each(kinds)(
    "every byte of a copy comes back, and it ends when it is said to, by $name",
    async (kind) => {
      const { front } = await frontOf(kind);
      const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
      await front.set("a".repeat(32), bytes, 60_000);
      const copy = await front.get("a".repeat(32));
      expect(Buffer.from(copy!.bytes)).toEqual(Buffer.from(bytes));
      await front.set("b".repeat(32), bytes, 0.5);
      await expect.poll(() => front.get("b".repeat(32))).toBeUndefined();
      expect(await front.get("c".repeat(32))).toBeUndefined();
    },
  );

  test.each([ioredisKind, nodeRedisKind])(
    "a copy that the queue of $name held back does not outlive its record",
    async (kind) => {
      const own = (await startRedis())!;
      const { client, close } = await kind.open([own.port]);
      const front = redisFront(client);
      const store = tieredStore({ truth: memoryStore(), front, frontTimeout: 50, frontPause: 0 });
      await completed(store);
      own.signal("SIGSTOP");
      const claim = await completed(store);
      await expect.poll(() => store.begin(duplicateOf(claim))).toMatchObject({ kind: "done" });
      own.signal("SIGCONT");
      const later = await completed(store);
      const copyOfLater = async () => {
        await store.begin(duplicateOf(later));
        return front.get(later.id);
      };
      await expect.poll(copyOfLater, { timeout: 20_000 }).toBeDefined();
      await expect.poll(() => front.get(claim.id), { timeout: 20_000 }).toBeUndefined();
      await close();
      await own.close();
    },
  );

  test("a front that is killed, flushed or stalled loses speed and nothing else", async () => {
    const own = (await startRedis())!;
    const { client, close } = await ioredisKind.open([own.port]);
    const store = tieredStore({
      truth: memoryStore(),
      front: redisFront(client),
      frontTimeout: 100,
      frontPause: 1,
    });
    const claim = await completed(store);
    const replays = async () => {
      for (let i = 0; i < 5; i++) {
        expect(await store.begin(duplicateOf(claim))).toMatchObject({ kind: "done", attempt: 1 });
      }
    };
    await replays();
    await own.signal("SIGSTOP");
    await replays();
    await own.signal("SIGCONT");
    await replays();
    await own.kill();
    await replays();
    expect((await completed(store)).id).toHaveLength(32);
    // It keeps nothing on disk, so that it comes back empty.
    await own.start();
    await replays();
    await close();
    await own.close();
  });
});

test("what is no Redis client, and unknown options, are refused", () => {
  expect(() => redisFront({} as never)).toThrow("`client` must be a client of `ioredis`");
  expect(() => redisFront({ callBuffer() {} } as never, { prefx: "a" } as never)).toThrow(
    "`prefix`",
  );
});
