// Where the Redis store keeps what steps have done: in a key beside the record, which goes with it.

import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import type { AttemptToken, Claim, Store } from "../../src/store.ts";
import type { RedisClient } from "../../src/stores/redis/clients.ts";
import { redisStore } from "../../src/stores/redis.ts";
import { redisBinariesMissing } from "../servers/redis.ts";
import { titled } from "./redis-conformance.ts";
import {
  acquire,
  claimOf,
  complete,
  completion,
  DAY_MS,
  DURABLE,
  elapse,
  keyOf,
  RedisStage,
  send,
} from "./redis-fixture.ts";

const missing = await redisBinariesMissing();
const SETTLED = { kind: "settled" };
const unreadable = { code: "record-unreadable" };

describe.skipIf(missing)(titled("redisStore with steps", missing), () => {
  const stage = new RedisStage(DURABLE);

  beforeAll(() => stage.start());
  afterEach(() => stage.clear());
  afterAll(() => stage.close());

  const append = (store: Store, token: AttemptToken, text: string | Uint8Array) =>
    store.append!({ ...token, bytes: Buffer.from(text) });

  /** A record of a claim with an entry, and how it and its journal stand on the server. */
  async function begun(claim: Claim, options = {}) {
    const { client, store, prefix } = await stage.fresh(options);
    const token = await acquire(store, claim);
    expect(await append(store, token, "one")).toEqual(SETTLED);
    const record = keyOf(prefix, claim);
    const journal = `${record}:journal`;
    const ttl = async (key: string) => Number(await send(client, "pttl", key));
    const ttls = async () => [await ttl(record), await ttl(journal)] as const;
    return { client, store, prefix, token, journal, ttls };
  }

  async function textOf(store: Store, { id }: { id: string }): Promise<string | null> {
    const { journal } = (await store.read(id))!;
    return journal && Buffer.from(journal).toString();
  }

  const together = ([record, journal]: readonly [number, number]) =>
    expect(Math.abs(record - journal)).toBeLessThan(1_000);

  it("SM-15: a journal ends with its record, whatever becomes of that", async () => {
    const claim = claimOf("k");
    const { store, token, ttls } = await begun(claim);
    together(await ttls());
    await store.renew({ ...token, leaseMs: 60_000, lapsedRetentionMs: 5 * DAY_MS });
    const renewed = await ttls();
    expect(renewed[1]).toBeGreaterThan(4 * DAY_MS);
    together(renewed);
    await store.settle({ ...token, kind: "release", retentionMs: DAY_MS / 2 });
    const released = await ttls();
    expect(released[1]).toBeLessThanOrEqual(DAY_MS / 2);
    together(released);
    const next = await acquire(store, claimOf("k", { lapsedRetentionMs: null }));
    expect(await ttls()).toEqual([-1, -1]);
    expect(await append(store, next, " two")).toEqual(SETTLED);
    await store.settle({ ...next, kind: "hold", reason: "unsure", retentionMs: DAY_MS });
    together(await ttls());
    expect(await textOf(store, claim)).toBe("one two");
    await store.resolve({ id: claim.id, kind: "open", retentionMs: 2 * DAY_MS });
    const open = await ttls();
    expect(open[1]).toBeGreaterThan(DAY_MS);
    together(open);
  });

  const { id, key } = claimOf("k");
  const ends: [string, (store: Store, token: AttemptToken) => Promise<unknown>][] = [
    ["a completion", (store, token) => store.settle(completion(token))],
    [
      "a resolution",
      async (store, token) => {
        await store.settle({ ...token, kind: "hold", reason: "unsure", retentionMs: null });
        const result = Buffer.from("applied");
        await store.resolve({ id, kind: "complete", result, retentionMs: DAY_MS });
      },
    ],
    [
      "a void",
      async (store, token) => {
        await store.settle({ ...token, kind: "release", retentionMs: DAY_MS });
        await store.void({ id, scope: "tenant", key, retentionMs: DAY_MS });
      },
    ],
    [
      "a deletion",
      async (store, token) => {
        await store.settle({ ...token, kind: "release", retentionMs: DAY_MS });
        await store.delete(id);
      },
    ],
  ];

  it.each(ends)("%s takes the journal with it", async (_, end) => {
    const { store, token, ttls } = await begun(claimOf("k"));
    await end(store, token);
    expect((await ttls())[1]).toBe(-2);
    const record = await store.read(id);
    expect(record?.journal ?? null).toBeNull();
  });

  it("SM-14: what was left of an earlier record of that name is nobody's", async () => {
    const claim = claimOf("k");
    const { client, store, prefix, journal } = await begun(claim, {});
    await send(client, "persist", journal);
    await elapse(client, prefix, 3 * DAY_MS);
    expect(await store.read(claim.id)).toBeUndefined();
    expect(String(await send(client, "get", journal))).toBe("one");
    const anew = await acquire(store, claimOf("k"));
    expect(await textOf(store, claim)).toBeNull();
    expect(await append(store, anew, "new")).toEqual(SETTLED);
    expect(await textOf(store, claim)).toBe("new");
  });

  it.each([
    ["is gone", async (client: RedisClient, journal: string) => send(client, "del", journal)],
    [
      "is something else",
      async (client: RedisClient, journal: string) => {
        await send(client, "del", journal);
        await send(client, "lpush", journal, "mine");
      },
    ],
  ])("SM-23b: a record whose journal %s runs nothing, and fails alone", async (_, harm) => {
    const claim = claimOf("k");
    const { client, store, token, journal } = await begun(claim);
    await harm(client, journal);
    const other = await acquire(store, claimOf("other"));
    const [kept, refused, again] = await Promise.allSettled([
      append(store, other, "one"),
      append(store, token, "two"),
      append(store, other, " two"),
    ]);
    expect([kept, again]).toMatchObject([{ value: SETTLED }, { value: SETTLED }]);
    expect(refused).toMatchObject({ reason: unreadable });
    await expect(store.read(claim.id)).rejects.toMatchObject(unreadable);
    expect(await textOf(store, other)).toBe("one two");
    expect(await store.settle(completion(token))).toEqual(SETTLED);
    expect(await store.begin(claimOf("k"))).toMatchObject({ kind: "done" });
  });

  it("costs operations without steps no command", async () => {
    const { client, store } = await stage.fresh();
    await complete(store, claimOf("warm"));
    await send(client, "config", "resetstat");
    const claim = claimOf("k");
    const token = await acquire(store, claim);
    await store.renew({ ...token, leaseMs: 60_000, lapsedRetentionMs: null });
    await store.read(claim.id);
    await store.settle({ ...token, kind: "release", retentionMs: DAY_MS });
    await store.settle(completion(await acquire(store, claimOf("k"))));
    await store.begin(claimOf("k"));
    const stats = String(await send(client, "info", "commandstats"));
    const commands = [...stats.matchAll(/cmdstat_(\w+)/g)].map(([, name]) => name).sort();
    expect(commands).toEqual(["config", "evalsha", "get", "mget", "set", "time", "zadd"]);
  });

  it("ST-5: an entry counts once the replicas that were asked for have it", async () => {
    const { store, prefix, client } = await stage.fresh();
    const token = await acquire(store, claimOf("k"));
    const careful = redisStore(client, { prefix, wait: { replicas: 1, timeout: 10 } });
    await expect(append(careful, token, "one")).rejects.toMatchObject({
      code: "store-unavailable",
      message: expect.stringMatching(/wait\.replicas/),
    });
  });

  it("says that it is full, and keeps what was saved", async () => {
    const { client, store } = await stage.fresh();
    const claim = claimOf("k");
    const token = await acquire(store, claim);
    expect(await append(store, token, "one")).toEqual(SETTLED);
    await send(client, "config", "set", "maxmemory", "1mb");
    try {
      await expect(append(store, token, Buffer.alloc(500_000))).rejects.toMatchObject({
        code: "store-full",
      });
    } finally {
      await send(client, "config", "set", "maxmemory", "0");
    }
    expect(await textOf(store, claim)).toBe("one");
    expect(await append(store, token, " two")).toEqual(SETTLED);
    expect(await textOf(store, claim)).toBe("one two");
  });

  it("asks again, in parts, for journals that are too large for one reply", async () => {
    const { store } = await stage.fresh();
    const claims = Array.from({ length: 8 }, (_, n) => claimOf(`k${n}`));
    const tokens = await Promise.all(claims.map((claim) => acquire(store, claim)));
    const bytes = (n: number) => Buffer.alloc(400_000, n);
    await Promise.all(tokens.map((token, n) => append(store, token, bytes(n))));
    const records = await Promise.all(claims.map(({ id }) => store.read(id)));
    for (const [n, record] of records.entries()) {
      expect(bytes(n).equals(record!.journal!)).toBe(true);
      expect(record!.journal!.buffer.byteLength).toBe(400_000);
    }
  });
});
