// The functions of the Postgres store: that they are used where they are there, that nothing but time
// is lost where they are not, and that their plans, which are made once, stay good.

import { randomBytes } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import type pg from "pg";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import type { Claim } from "../../src/store.ts";
import { functionsFor } from "../../src/stores/postgres/functions.ts";
import { beginParameters, settleParameters } from "../../src/stores/postgres/parameters.ts";
import { tablesOf } from "../../src/stores/postgres/schema.ts";
import {
  type PostgresStore,
  postgresFunctions,
  postgresMigrations,
  postgresStore,
} from "../../src/stores/postgres.ts";
import {
  acquire,
  CRASH_POLICIES,
  claimOf,
  complete,
  completion,
  DRIFT_MS_MAX,
  duplicateOf,
  hold,
  LEASE_MS,
  release,
  SETTLED,
  voiding,
} from "../../src/testing/claims.ts";
import { Fixture, missing } from "./postgres-fixture.ts";

describe.skipIf(missing)(`postgresStore and its functions${missing}`, () => {
  let fixture: Fixture;

  beforeEach(() => {
    fixture = new Fixture();
  });

  afterEach(() => fixture.close());

  /** A pool that tells which statements were sent. */
  function watched(): { pool: pg.Pool; sent: string[] } {
    const pool = fixture.pool();
    const sent: string[] = [];
    const query = pool.query.bind(pool) as (...args: unknown[]) => unknown;
    pool.query = ((...args: [{ text?: string } | string]) => {
      sent.push(typeof args[0] === "string" ? args[0] : args[0].text!);
      return query(...args);
    }) as typeof pool.query;
    return { pool, sent };
  }

  const calls = (sent: readonly string[]) =>
    sent.filter((text) => /^SELECT \* FROM "it's .*_(begin|settle|end)_[0-9a-f]{6}"/.test(text));

  /** A new operation, its replay, and a stale end. */
  async function live(store: PostgresStore): Promise<void> {
    const claim = claimOf();
    const token = await acquire(store, claim);
    expect(await store.settle(completion(token))).toEqual({ kind: "settled" });
    expect(await store.begin(duplicateOf(claim))).toMatchObject({ kind: "done" });
    expect(await store.settle(completion(token))).toEqual({ kind: "stale" });
  }

  it.each([false, true])(
    "PF-1: begins and settles by them, a statement each (listen: %s)",
    async (listen) => {
      const { pool, sent } = watched();
      const store = await fixture.store(pool, { listen });
      sent.length = 0;
      await live(store);
      await Promise.all([live(store), live(store), live(store)]);
      expect(sent).toHaveLength(8);
      expect(calls(sent)).toEqual(sent);
    },
  );

  it("sends the same statements where they were dropped, or were never there", async () => {
    const { pool, sent } = watched();
    const store = await fixture.store(pool);
    await live(store);
    await fixture.dropFunctions();
    await Promise.all([live(store), live(store)]);
    sent.length = 0;
    await Promise.all([live(store), live(store)]);
    await live(postgresStore(pool, { table: fixture.table }));
    expect(calls(sent)).toEqual([]);
  });

  it("makes them again when it migrates, and gives nobody else's away", async () => {
    const store = await fixture.store();
    const made = await fixture.functions();
    expect(made).toHaveLength(7);
    await fixture.dropFunctions();
    await store.migrate();
    expect(await fixture.functions()).toEqual(made);
  });

  it("begins a transaction again whose function was dropped under it", async () => {
    const pool = fixture.pool();
    const store = await fixture.store(pool);
    const idempotency = new Idempotency({ store, cache: false, sweep: false });
    const pay = (key: string) => idempotency.transaction({ key }, async () => "paid");
    expect(await pay("one")).toMatchObject({ value: "paid", replayed: false });
    await fixture.dropFunctions();
    expect(await pay("two")).toMatchObject({ value: "paid", replayed: false });
    expect(await pay("two")).toMatchObject({ value: "paid", replayed: true });
    await idempotency.close();
  });

  it("does without them for a role that may not call them", async () => {
    await fixture.store();
    const { admin, records, schema, table } = fixture;
    const role = `semel_${randomBytes(6).toString("hex")}`;
    await admin.query(`CREATE ROLE ${role}; GRANT ALL ON ${records}, ${schema} TO ${role}`);
    try {
      for (const name of await fixture.functions()) {
        await admin.query(`REVOKE EXECUTE ON ROUTINE ${name} FROM PUBLIC`);
      }
      await live(postgresStore(fixture.pool({ options: `-c role=${role}` }), { table }));
    } finally {
      await admin.query(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
    }
  });

  it("SM-23b: takes a completed record without its result for damaged, alone and among others", async () => {
    const store = await fixture.store();
    const { admin, records } = fixture;
    const [damaged, whole] = [claimOf(), claimOf()];
    for (const claim of [damaged, whole])
      await store.settle(completion(await acquire(store, claim)));
    await admin.query(`UPDATE ${records} SET result = NULL WHERE id = $1`, [damaged.id]);
    const unreadable = { code: "record-unreadable" };
    await expect(store.begin(duplicateOf(damaged))).rejects.toMatchObject(unreadable);
    const [one, other] = await Promise.allSettled(
      [damaged, whole].map((claim) => store.begin(duplicateOf(claim))),
    );
    expect(one).toMatchObject({ status: "rejected", reason: unreadable });
    expect(other).toMatchObject({ value: { kind: "done" } });
  });

  it("are what is printed", async () => {
    const { admin, table } = fixture;
    for (const sql of postgresMigrations(table)) await admin.query(sql);
    await admin.query(postgresFunctions(table));
    const { pool, sent } = watched();
    await live(postgresStore(pool, { table }));
    expect(calls(sent)).toHaveLength(4);
  });

  it("PF-3: plans that were made for an empty table read a large one by its key", async () => {
    const store = await fixture.store();
    const { admin, records, table } = fixture;
    await admin.query(`VACUUM ANALYZE ${records}`);
    const sql = functionsFor(tablesOf(table), false).calls;
    const session = await admin.connect();
    try {
      const begin = (claims: ReturnType<typeof claimOf>[]) =>
        session.query(sql.begin, beginParameters(claims, null, "many"));
      const settle = (claims: ReturnType<typeof claimOf>[]) => {
        const endings = claims.map(({ id, owner }) => completion({ id, owner, attempt: 1 }));
        return session.query(sql.settle, settleParameters(endings, null, "many"));
      };
      const byId = (claims: ReturnType<typeof claimOf>[]) =>
        claims.sort((one, other) => (one.id < other.id ? -1 : 1));
      for (let times = 0; times < 8; times++) {
        const claims = byId([claimOf(), claimOf()]);
        await begin(claims);
        await settle(claims);
      }
      await admin.query(`INSERT INTO ${records} (created_at, updated_at, expires_at, attempt, crashes,
          format, state, on_crash, id, owner, scope, key, fingerprint, result)
        SELECT now(), now(), now() + interval '1 day', 1, 0, 1, 1, 0, gen_random_uuid(),
          gen_random_uuid(), 's', n::text, 'f', '' FROM generate_series(1, 20000) n`);
      await session.query("BEGIN");
      const claims = byId(Array.from({ length: 64 }, () => claimOf()));
      expect((await begin(claims)).rows).toMatchObject([{ kind: "acquired", answers: null }]);
      expect((await settle(claims)).rows).toEqual([{ id: null }]);
      const replays = await begin(claims.map((claim) => duplicateOf(claim)));
      expect(replays.rows).toMatchObject([{ kind: "completed" }]);
      const { rows } = await session.query(
        "SELECT seq_tup_read, idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = $1",
        [`${table}_records`],
      );
      await session.query("COMMIT");
      expect(Number(rows[0].seq_tup_read)).toBe(0);
      expect(Number(rows[0].idx_tup_fetch)).toBeLessThan(64 * 8);
      expect(await store.begin(duplicateOf(claims[0]!))).toMatchObject({ kind: "done" });
    } finally {
      session.release();
    }
  });

  it.each([true, false])(
    "ST-12: a batch is answered in its order, whatever each item comes to (by functions: %s)",
    async (byFunctions) => {
      const store = await fixture.store();
      if (!byFunctions) await fixture.dropFunctions();
      const long = randomBytes(100_000);
      /** What stands before the batch, what is asked, and what it is answered. */
      const cases: [(claim: Claim) => Promise<unknown>, Partial<Claim>, object][] = [
        [async () => {}, {}, { kind: "acquired", attempt: 1, probe: false }],
        [(claim) => complete(store, claim, claim.key), {}, { kind: "done", attempt: 1 }],
        [(claim) => complete(store, claim, ""), {}, { kind: "done", result: new Uint8Array() }],
        [(claim) => complete(store, claim, long), {}, { kind: "done" }],
        [(claim) => complete(store, claim), { fingerprint: "v1:o" }, { kind: "mismatch" }],
        [(claim) => acquire(store, claim), {}, { kind: "busy", attempt: 1 }],
        [(claim) => acquire(store, claim), { fingerprint: "v1:o" }, { kind: "mismatch" }],
        [
          async (claim) => store.settle(release(await acquire(store, claim))),
          {},
          { kind: "acquired", attempt: 2 },
        ],
        [
          async (claim) => store.settle(hold(await acquire(store, claim), 'a "\n" b')),
          {},
          { kind: "held", reason: 'a "\n" b' },
        ],
        [(claim) => store.void(voiding(claim)), {}, { kind: "void" }],
        [
          (claim) => complete(store, claim, "old", 1).then(() => delay(5)),
          {},
          { kind: "acquired", attempt: 1 },
        ],
        [
          (claim) => acquire(store, { ...claim, leaseMs: 1 }).then(() => delay(5)),
          {},
          { kind: "acquired", attempt: 2, probe: false },
        ],
        [
          (claim) =>
            acquire(store, { ...claim, onCrash: "probe", leaseMs: 1 }).then(() => delay(5)),
          {},
          { kind: "acquired", attempt: 2, probe: true },
        ],
        [
          (claim) => acquire(store, { ...claim, onCrash: "hold", leaseMs: 1 }).then(() => delay(5)),
          {},
          { kind: "held", reason: "lease-lapsed" },
        ],
        [async () => {}, { refuseLate: { sentAt: 0, ageMaxMs: 1 } }, { kind: "late" }],
      ];
      const prepared = await Promise.all(
        [...cases, ...cases].map(async ([before, parts, answer]) => {
          const claim = claimOf();
          await before(claim);
          return { claim: duplicateOf(claim, parts), key: claim.key, answer };
        }),
      );
      const answers = await Promise.all(prepared.map(({ claim }) => store.begin(claim)));
      for (const [index, answer] of answers.entries()) {
        expect(answer).toMatchObject(prepared[index]!.answer);
        const place = index % cases.length;
        if (answer.kind !== "done" || place === 2) continue;
        const result = place === 3 ? long : Buffer.from(prepared[index]!.key);
        expect(result.equals(answer.result)).toBe(true);
      }
    },
  );

  it("ST-12: keeps of each claim of a batch what is its own", async () => {
    const store = await fixture.store();
    const asked = CRASH_POLICIES.flatMap((onCrash, index) => [
      claimOf({ scope: `of ${index}`, onCrash, leaseMs: (index + 1) * LEASE_MS, attemptsMax: 2 }),
      claimOf({ scope: "NULL", onCrash, lapsedRetentionMs: 1_000, fingerprint: "v1:a\nb" }),
      claimOf({ scope: "", key: `"k,{}\\ ${index}`, lapsedRetentionMs: null }),
    ]);
    const tokens = await Promise.all(asked.map((claim) => acquire(store, claim)));
    const kept = await Promise.all(asked.map(({ id }) => store.read(id)));
    for (const [index, claim] of asked.entries()) {
      const { id, scope, key, fingerprint, owner, onCrash, leaseMs, lapsedRetentionMs } = claim;
      const record = kept[index]!;
      expect(record).toMatchObject({ id, scope, key, fingerprint, owner, onCrash, attempt: 1 });
      expect(Math.abs(record.leaseRemainingMs! - leaseMs)).toBeLessThan(DRIFT_MS_MAX);
      expect(record.expiresInMs === null).toBe(lapsedRetentionMs === null);
    }
    const ends = tokens.map((token, index) =>
      index % 3 === 0 ? completion(token, `r${index}`, index + 1e6) : release(token, index + 2e9),
    );
    expect(await Promise.all(ends.map((end) => store.settle(end)))).toEqual(
      ends.map(() => SETTLED),
    );
    const ended = await Promise.all(asked.map(({ id }) => store.read(id)));
    for (const [index, record] of ended.entries()) {
      expect(record!.state).toBe(index % 3 === 0 ? "completed" : "open");
      const far = Math.abs(record!.expiresInMs! - ends[index]!.retentionMs!);
      expect(far).toBeLessThan(DRIFT_MS_MAX);
    }
    const replays = await Promise.all(asked.map((claim) => store.begin(duplicateOf(claim))));
    expect(replays.map(({ kind }) => kind)).toEqual(
      ends.map(({ kind }) => (kind === "complete" ? "done" : "acquired")),
    );
  });

  it("writes once what is new in a batch, and nothing of what is not", async () => {
    await fixture.store();
    const sql = functionsFor(tablesOf(fixture.table), false).calls;
    const written = async (claims: Claim[]) => {
      const session = await fixture.pool({ max: 1 }).connect();
      await session.query("BEGIN");
      await session.query(sql.begin, beginParameters(claims, null, "many"));
      const { rows } = await session.query(
        "SELECT n_tup_ins, n_tup_upd FROM pg_stat_xact_user_tables WHERE relname = $1",
        [`${fixture.table}_records`],
      );
      await session.query("COMMIT");
      session.release();
      return [Number(rows[0].n_tup_ins), Number(rows[0].n_tup_upd)];
    };
    const running = Array.from({ length: 3 }, () => claimOf());
    expect(await written(running)).toEqual([3, 0]);
    const fresh = Array.from({ length: 5 }, () => claimOf());
    const mixed = [...running.map((claim) => duplicateOf(claim)), ...fresh];
    expect(await written(mixed.sort((one, other) => (one.id < other.id ? -1 : 1)))).toEqual([5, 0]);
  });
});
