import { randomBytes } from "node:crypto";
import type { Pool, PoolConnection } from "mysql2/promise";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import type { SqlExecutor } from "../../src/store.ts";
import { type MysqlStore, mysqlStore } from "../../src/stores/mysql.ts";
import {
  acquire,
  assertReplay,
  bytesOf,
  claimOf,
  completion,
  duplicateOf,
  mustRead,
  RETENTION_MS,
  reach,
  SETTLED,
  type Situation,
  STALE,
} from "../../src/testing/claims.ts";
import type { StoreHarness } from "../../src/testing/index.ts";
import { counted, MysqlFixture, reason } from "./mysql-fixture.ts";

const skipped = reason === undefined ? "" : ` (skipped: ${reason})`;
const RESULT = bytesOf("of the transaction");

describe.skipIf(reason)(`transactions of mysqlStore${skipped}`, () => {
  let fixture: MysqlFixture;
  let pool: Pool;
  let store: MysqlStore<PoolConnection>;
  let harness: StoreHarness;

  beforeAll(async () => {
    fixture = await MysqlFixture.open();
    pool = fixture.pool();
    store = mysqlStore(pool);
    await store.migrate();
    await pool.query("CREATE TABLE orders (id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(99))");
    await pool.query("CREATE TABLE stock (id INT PRIMARY KEY, count INT)");
    await pool.query("INSERT INTO stock VALUES (1, 0), (2, 0)");
  });
  beforeEach(async () => {
    harness = await fixture.harness(pool, pool);
    await pool.query("DELETE FROM orders");
  });
  afterAll(() => fixture.close());

  const order = (connection: PoolConnection, name: string) =>
    connection.query("INSERT INTO orders (name) VALUES (?)", [name]);

  async function orders(): Promise<string[]> {
    const [rows] = await pool.query("SELECT name FROM orders ORDER BY id");
    return (rows as { name: string }[]).map(({ name }) => name);
  }

  it("EN-5: commits the handler's writes together with the result", async () => {
    const claim = claimOf();
    const answer = await store.transactions.run(async (connection, executor) => {
      await order(connection, "book");
      expect(await store.read(claim.id)).toBeUndefined();
      return store.transactions.complete(executor, claim, RESULT, RETENTION_MS);
    });
    expect(answer).toEqual(SETTLED);
    expect(await orders()).toEqual(["book"]);
    const record = await mustRead(store, claim.id);
    expect(record).toMatchObject({
      state: "completed",
      attempt: 1,
      crashes: 0,
      owner: claim.owner,
    });
    assertReplay(await store.begin(duplicateOf(claim)), RESULT);
  });

  it("EN-5: a handler that throws leaves nothing behind, and a clean connection", async () => {
    const client = fixture.pool({ connectionLimit: 1 });
    const single = mysqlStore(client);
    const claim = claimOf();
    const failure = new Error("out of stock");
    const failed = single.transactions.run(async (connection, executor) => {
      await order(connection, "book");
      await single.transactions.complete(executor, claim, RESULT, RETENTION_MS);
      throw failure;
    });
    await expect(failed).rejects.toBe(failure);
    expect(await orders()).toEqual([]);
    expect(await single.read(claim.id)).toBeUndefined();
    expect(await acquire(single, claim)).toMatchObject({ attempt: 1 });
  });

  it("PF-1: claim and completion are one statement of the transaction", async () => {
    const client = counted(pool);
    const mine = mysqlStore(client);
    await mine.stats();
    client.statements.length = 0;
    await mine.transactions.run((_connection, executor) =>
      mine.transactions.complete(executor, claimOf(), RESULT, RETENTION_MS),
    );
    expect(client.statements.map((sql) => sql.split(" ", 2).join(" "))).toEqual([
      "SET TRANSACTION",
      "START TRANSACTION",
      "DO 0",
      "INSERT IGNORE",
      "COMMIT",
    ]);
  });

  it("ST-11a: runs at READ COMMITTED, and leaves the session as it was", async () => {
    const client = fixture.pool({ connectionLimit: 1 });
    await client.query("SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE");
    const level = async () => {
      const [[row]] = (await client.query("SELECT @@tx_isolation AS level")) as never as [
        [{ level: string }],
      ];
      return row.level;
    };
    const mine = mysqlStore(client);
    await fixture.admin.query(`INSERT INTO ${fixture.name}.orders (name) VALUES ('before')`);
    await mine.transactions.run(async (connection) => {
      const count = async () => {
        const [[row]] = (await connection.query("SELECT COUNT(*) AS n FROM orders")) as never as [
          [{ n: number }],
        ];
        return row.n;
      };
      expect(await count()).toBe(1);
      await fixture.admin.query(`INSERT INTO ${fixture.name}.orders (name) VALUES ('between')`);
      expect(await count()).toBe(2);
    });
    expect(await level()).toBe("SERIALIZABLE");
  });

  it("EN-5: of two transactions about one key the second waits, and is stale", async () => {
    const claim = claimOf();
    const rival = duplicateOf(claim);
    let second: Promise<unknown> | undefined;
    const first = await store.transactions.run(async (_connection, executor) => {
      const answer = await store.transactions.complete(executor, claim, RESULT, RETENTION_MS);
      second = store.transactions.run((_other, others) =>
        store.transactions.complete(others, rival, bytesOf("of the rival"), RETENTION_MS),
      );
      await waiting();
      return answer;
    });
    expect([first, await second]).toEqual([SETTLED, STALE]);
    assertReplay(await store.begin(duplicateOf(claim)), RESULT);
  });

  it("EN-5: where the first rolls back, the second settles", async () => {
    const claim = claimOf();
    let second: Promise<unknown> | undefined;
    const first = store.transactions.run(async (_connection, executor) => {
      await store.transactions.complete(executor, claim, RESULT, RETENTION_MS);
      second = store.transactions.run((_other, others) =>
        store.transactions.complete(others, duplicateOf(claim), RESULT, RETENTION_MS),
      );
      await waiting();
      throw new Error("rolled back");
    });
    await expect(first).rejects.toThrow("rolled back");
    expect(await second).toEqual(SETTLED);
  });

  /** Resolves when a claim is under way, and so waits for the other one. */
  async function waiting(): Promise<void> {
    for (;;) {
      const [rows] = await fixture.admin.query(
        `SELECT 1 FROM information_schema.processlist
          WHERE db = '${fixture.name}' AND info LIKE 'INSERT IGNORE%'`,
      );
      if ((rows as unknown[]).length > 0) return;
    }
  }

  it.each<[Situation, { onCrash?: "hold" | "probe"; attemptsMax?: number; fingerprint?: string }]>([
    ["running", {}],
    ["completed", {}],
    ["held", {}],
    ["void", {}],
    ["lapsed", { onCrash: "hold" }],
    ["lapsed", { onCrash: "probe" }],
    ["lapsed", { attemptsMax: 1 }],
    ["lapsed", { fingerprint: "v1:other" }],
    ["open", { fingerprint: "v1:other" }],
  ])("EN-5: a completion over a record that is %s is stale (%j)", async (situation, parts) => {
    const { fingerprint, ...claimed } = parts;
    const claim = claimOf(claimed);
    await reach(harness, situation, claim);
    const before = await mustRead(store, claim.id);
    const next = duplicateOf(claim, fingerprint ? { fingerprint } : {});
    const answer = await store.transactions.run((_connection, executor) =>
      store.transactions.complete(executor, next, RESULT, RETENTION_MS),
    );
    expect(answer).toEqual(STALE);
    const { owner, state, attempt, updatedAt } = before;
    expect(await store.read(claim.id)).toMatchObject({ owner, state, attempt, updatedAt });
  });

  it.each<[Situation, number, number]>([
    ["open", 2, 0],
    ["lapsed", 2, 1],
  ])("EN-5: a completion takes over a record that is %s", async (situation, attempt, crashes) => {
    const claim = claimOf();
    await reach(harness, situation, claim);
    const next = duplicateOf(claim, { onCrash: "hold" });
    await store.transactions.run((_connection, executor) =>
      store.transactions.complete(executor, next, RESULT, RETENTION_MS),
    );
    const record = await mustRead(store, claim.id);
    expect(record).toMatchObject({ state: "completed", owner: next.owner, attempt, crashes });
    expect(record.onCrash).toBe(situation === "open" ? "hold" : "rerun");
    assertReplay(await store.begin(duplicateOf(claim)), RESULT);
  });

  it("EN-5: a completion over an expired record is its first", async () => {
    const claim = claimOf({ fingerprint: "v1:old" });
    await reach(harness, "completed", claim);
    await harness.elapse(RETENTION_MS);
    const next = duplicateOf(claim, { fingerprint: "v1:new" });
    await store.transactions.run((_connection, executor) =>
      store.transactions.complete(executor, next, RESULT, RETENTION_MS),
    );
    const record = await mustRead(store, claim.id);
    expect(record).toMatchObject({ attempt: 1, crashes: 0, fingerprint: "v1:new" });
    expect(record.updatedAt - record.createdAt).toBe(0);
  });

  it("EN-5: a commit that is asked for twice is stale the second time", async () => {
    const claim = claimOf();
    const commit = () =>
      store.transactions.run((_connection, executor) =>
        store.transactions.complete(executor, claim, RESULT, RETENTION_MS),
      );
    expect([await commit(), await commit()]).toEqual([SETTLED, STALE]);
  });

  describe.each(["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])(
    "in a transaction of the caller's at %s",
    (level) => {
      async function transaction<Answer>(
        work: (executor: SqlExecutor) => Promise<Answer>,
      ): Promise<Answer> {
        const connection = await pool.getConnection();
        try {
          await connection.query(`SET TRANSACTION ISOLATION LEVEL ${level}`);
          await connection.beginTransaction();
          // A snapshot of the time before whatever comes.
          await connection.query("SELECT COUNT(*) FROM stock");
          const answer = await work({
            dialect: "mysql",
            async query(sql, parameters) {
              const [result] = await connection.query(sql, [...parameters]);
              if (Array.isArray(result)) return { rows: result as never, changes: 0 };
              return { rows: [], changes: result.affectedRows };
            },
          });
          await connection.commit();
          return answer;
        } catch (error) {
          await connection.rollback();
          throw error;
        } finally {
          connection.release();
        }
      }

      it("begins and settles a new operation", async () => {
        const claim = claimOf();
        await transaction(async (executor) => {
          const begun = await store.transactions.begin(executor, claim);
          expect(begun).toEqual({ kind: "acquired", attempt: 1, probe: false });
          const again = await store.transactions.begin(executor, claim);
          expect(again).toEqual({ kind: "acquired", attempt: 1, probe: false });
          const ending = completion({ ...claim, attempt: 1 });
          expect(await store.transactions.settle(executor, ending)).toEqual(SETTLED);
          expect(await store.transactions.settle(executor, ending)).toEqual(STALE);
        });
        assertReplay(await store.begin(duplicateOf(claim)), "result");
      });

      it("SM-14: appends to a record, also to one that was begun after its snapshot", async () => {
        const claim = claimOf();
        const token = { ...claim, attempt: 1 };
        const entry = { ...token, bytes: bytesOf("done") };
        const append = (executor: SqlExecutor) => store.transactions.append!(executor, entry);
        const rolledBack = transaction(async (executor) => {
          await acquire(store, claim);
          expect(await append(executor)).toEqual(SETTLED);
          throw new Error("rolled back");
        });
        await expect(rolledBack).rejects.toThrow("rolled back");
        expect(await store.read(claim.id)).toMatchObject({ journal: null });
        expect(await transaction(append)).toEqual(SETTLED);
        expect(await store.read(claim.id)).toMatchObject({ journal: bytesOf("done") });
        await store.settle(completion(token));
        expect(await transaction(append)).toEqual(STALE);
      });

      it("sees what others committed after its snapshot", async () => {
        const claim = claimOf();
        const begun = await transaction(async (executor) => {
          await acquire(store, claim);
          await store.settle(completion({ ...claim, attempt: 1 }, "theirs"));
          return store.transactions.begin(executor, duplicateOf(claim));
        });
        assertReplay(begun, "theirs");
      });

      it("takes over what lapsed, and is late where it must be", async () => {
        const claim = claimOf();
        await reach(harness, "lapsed", claim);
        const refuseLate = { sentAt: 0, ageMaxMs: 1 };
        const answers = await transaction(async (executor) => [
          await store.transactions.begin(executor, duplicateOf(claim, { refuseLate })),
          await store.transactions.begin(executor, claimOf({ refuseLate })),
        ]);
        expect(answers).toEqual([{ kind: "acquired", attempt: 2, probe: false }, { kind: "late" }]);
      });
    },
  );

  it("EN-5: a connection that dies before the commit leaves nothing, one after it everything", async () => {
    for (const moment of ["before", "after"] as const) {
      const claim = claimOf();
      let killed: Promise<unknown> | undefined;
      const lost = store.transactions.run(async (connection, executor) => {
        await store.transactions.complete(executor, claim, RESULT, RETENTION_MS);
        if (moment === "after") await connection.query("COMMIT");
        killed = fixture.admin.query(`KILL ${connection.threadId}`);
        await killed;
      });
      const error: unknown = await lost.catch((caught: unknown) => caught);
      expect(error).toBeInstanceOf(Error);
      expect(store.transactions.isRetryable(error)).toBe(true);
      expect((await store.read(claim.id))?.state).toBe(
        moment === "after" ? "completed" : undefined,
      );
    }
    await acquire(store, claimOf());
  });

  it("EN-5: a deadlock may be retried, a handler's own error may not", async () => {
    const isRetryable = (error: unknown) => store.transactions.isRetryable(error);
    let arrived = 0;
    const cross = (mine: number) =>
      store.transactions.run(async (connection) => {
        await connection.query(`UPDATE stock SET count = count + 1 WHERE id = ${mine + 1}`);
        arrived++;
        while (arrived < 2) await new Promise(setImmediate);
        await connection.query(`UPDATE stock SET count = count + 1 WHERE id = ${2 - mine}`);
      });
    const outcomes = await Promise.allSettled([cross(0), cross(1)]);
    const failures = outcomes.flatMap((outcome) =>
      outcome.status === "rejected" ? [outcome.reason as unknown] : [],
    );
    expect(failures).toHaveLength(1);
    expect(isRetryable(failures[0])).toBe(true);
    expect(isRetryable(new Error("wrapped", { cause: failures[0] }))).toBe(true);
    expect(isRetryable(Object.assign(new Error("typeorm"), { driverError: failures[0] }))).toBe(
      true,
    );
    for (const other of [
      new Error("no"),
      new TypeError("no"),
      undefined,
      "1213",
      { errno: 1213 },
    ]) {
      expect(isRetryable(other)).toBe(false);
    }
    const duplicate = await pool
      .query("INSERT INTO stock VALUES (1, 1)")
      .catch((caught: unknown) => caught);
    expect(isRetryable(duplicate)).toBe(false);
  });

  it("leaves a connection of the pool for the handlers' own queries", () => {
    const max = (connectionLimit: number) =>
      mysqlStore(fixture.pool({ connectionLimit })).transactions.concurrencyMax;
    expect([max(10), max(3), max(1)]).toEqual([9, 2, 1]);
    expect(mysqlStore(counted(pool)).transactions.concurrencyMax).toBe(9);
  });

  it("EN-5: a hundred requests in two processes' worth of pools have one effect each", async () => {
    const engines = [pool, fixture.pool(), fixture.pool({ connectionLimit: 2 })].map(
      (client) => new Idempotency({ store: mysqlStore(client), retention: "1h" }),
    );
    const keys = Array.from({ length: 10 }, () => randomBytes(8).toString("hex"));
    try {
      const runs = Array.from({ length: 120 }, (_, n) =>
        engines[n % 3]!.transaction(
          { key: keys[n % 10]!, scope: "shop", wait: "20s" },
          async (tx) => {
            const connection = tx as PoolConnection;
            await connection.query("UPDATE stock SET count = count + 1 WHERE id = 1");
            await order(connection, keys[n % 10]!);
            return keys[n % 10]!;
          },
        ),
      );
      const values = (await Promise.all(runs)).map(({ value }) => value);
      expect(values).toEqual(runs.map((_, n) => keys[n % 10]));
    } finally {
      await Promise.all(engines.map((engine) => engine.close()));
    }
    expect((await orders()).sort()).toEqual(keys.toSorted());
  });
});
