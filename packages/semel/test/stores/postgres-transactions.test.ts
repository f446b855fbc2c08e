// The Postgres store's part in transactions (EN-5) and in waiting (EN-3).

import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import type pg from "pg";
import { afterEach, beforeEach, describe, expect, it, test } from "vitest";
import type { Claim, SqlExecutor } from "../../src/store.ts";
import { type PostgresStore, postgresStore } from "../../src/stores/postgres.ts";
import {
  acquire,
  bytesOf,
  claimOf,
  complete,
  completion,
  duplicateOf,
  hold,
  RETENTION_MS,
  reach,
  release,
  voiding,
} from "../../src/testing/claims.ts";
import { Fixture, missing, pgDriver, postgresJsDriver, url } from "./postgres-fixture.ts";

const RESULT = Buffer.from("result");

describe.skipIf(missing).each([pgDriver, postgresJsDriver])(
  `postgresStore's transactions on $name${missing}`,
  (driver) => {
    let fixture: Fixture;
    let store: PostgresStore;
    let business: string;

    beforeEach(async () => {
      fixture = new Fixture();
      store = await fixture.store(fixture.client(driver));
      business = `"business of ${fixture.table.replaceAll('"', '""')}"`;
      await fixture.admin.query(`CREATE TABLE ${business} (id uuid, by text)`);
    });

    afterEach(async () => {
      await fixture.admin.query(`DROP TABLE ${business}`);
      await fixture.close();
    });

    const transactions = () => store.transactions;

    function book(executor: SqlExecutor, claim: Claim, by = "one") {
      return executor.query(`INSERT INTO ${business} VALUES ($1, $2)`, [claim.id, by]);
    }

    async function booked(claim: Claim): Promise<string[]> {
      const sql = `SELECT by FROM ${business} WHERE id = $1`;
      return (await fixture.admin.query(sql, [claim.id])).rows.map(({ by }) => by);
    }

    function run(claim: Claim, work: (executor: SqlExecutor) => Promise<unknown> = async () => {}) {
      return transactions().run(async (_, executor) => {
        await book(executor, claim);
        await work(executor);
        return transactions().complete(executor, claim, RESULT, RETENTION_MS);
      });
    }

    it("commits the handler's writes and the result together", async () => {
      const claim = claimOf();
      const answer = await transactions().run(async (transaction, executor) => {
        expect(executor.dialect).toBe("postgres");
        const name = driver === pgDriver ? "query" : "savepoint";
        expect(transaction).toHaveProperty(name, expect.any(Function));
        expect(await book(executor, claim)).toEqual({ rows: [], changes: 1 });
        const { rows } = await executor.query(`SELECT by FROM ${business}`, []);
        expect(rows).toEqual([{ by: "one" }]);
        expect(await store.read(claim.id)).toBeUndefined();
        return transactions().complete(executor, claim, RESULT, RETENTION_MS);
      });
      expect(answer).toEqual({ kind: "settled" });
      expect(await booked(claim)).toEqual(["one"]);
      expect(await store.begin(duplicateOf(claim))).toMatchObject({ kind: "done", attempt: 1 });
      expect(await store.read(claim.id)).toMatchObject({ owner: claim.owner, crashes: 0 });
    });

    it("leaves nothing when the work throws, and passes its error on", async () => {
      const claim = claimOf();
      const failure = new Error("mine");
      const failed = run(claim, async (executor) => {
        await transactions().complete(executor, claimOf(), RESULT, RETENTION_MS);
        throw failure;
      });
      await expect(failed).rejects.toBe(failure);
      expect(await booked(claim)).toEqual([]);
      expect((await store.stats()).states.completed).toBe(0);
      expect(await run(claim)).toEqual({ kind: "settled" });
    });

    it("of many transactions at once with one key, exactly one commits", async () => {
      const claim = claimOf();
      const other = await fixture.store(fixture.client(driver));
      const tries = Array.from({ length: 6 }, async (_, index) => {
        const { transactions: own } = index % 2 === 0 ? store : other;
        return own.run(async (_transaction, executor) => {
          await book(executor, claim, `transaction ${index}`);
          const mine = duplicateOf(claim);
          const answer = await own.complete(executor, mine, RESULT, RETENTION_MS);
          if (answer.kind === "stale") throw new Error("stale");
          return answer;
        });
      });
      const ends = await Promise.allSettled(tries);
      expect(ends.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
      expect(await booked(claim)).toHaveLength(1);
      for (const end of ends) {
        if (end.status === "rejected") expect(end.reason.message).toBe("stale");
      }
    });

    it.each(["serializable", "repeatable read"])(
      "at the isolation level %s, a conflict may be tried again, and one commits",
      async (level) => {
        const claim = claimOf();
        const conflicts: unknown[] = [];
        let ready = 0;
        const attempt = async () => {
          for (;;) {
            try {
              return await transactions().run(async (_, executor) => {
                await executor.query(`SET TRANSACTION ISOLATION LEVEL ${level}`, []);
                await executor.query(`SELECT count(*) FROM ${business}`, []);
                // All of the first tries know the same of the database.
                for (ready++; ready < 3; ) await delay(1);
                await book(executor, claim);
                const mine = duplicateOf(claim);
                const answer = await transactions().complete(executor, mine, RESULT, RETENTION_MS);
                if (answer.kind === "stale") throw new Error("stale");
                return "settled";
              });
            } catch (error) {
              if (!transactions().isRetryable(error)) return (error as Error).message;
              conflicts.push(error);
            }
          }
        };
        const ends = await Promise.all([attempt(), attempt(), attempt()]);
        expect(ends.toSorted()).toEqual(["settled", "stale", "stale"]);
        expect(conflicts.length).toBeGreaterThan(0);
        expect(await booked(claim)).toEqual(["one"]);
      },
    );

    it("says so when a statement failed and its error was caught, for nothing is committed", async () => {
      const claim = claimOf();
      const swallowed = transactions().run(async (_, executor) => {
        await book(executor, claim);
        await executor.query("SELECT 1 / 0", []).catch(() => {});
        return "done";
      });
      await expect(swallowed).rejects.toThrow(/Nothing was committed|division by zero/);
      expect(await booked(claim)).toEqual([]);
    });

    it("may be tried again when its connection was lost before the commit", async () => {
      const claim = claimOf();
      const lost = run(claim, async (executor) => {
        const { rows } = await executor.query("SELECT pg_backend_pid() AS pid", []);
        await fixture.admin.query("SELECT pg_terminate_backend($1)", [rows[0]!["pid"]]);
      });
      const error = await lost.catch((reason: unknown) => reason);
      expect(causesOf(error).some((cause) => transactions().isRetryable(cause))).toBe(true);
      expect(await booked(claim)).toEqual([]);
      expect(await run(claim)).toEqual({ kind: "settled" });
    });

    it.each(["complete", "completeAndCommit"] as const)(
      "%s: has committed, or not, when the connection is lost during the commit: the record tells",
      async (method) => {
        const proxy = await commitEater(url);
        const client = fixture.keep(driver.open(proxy.url));
        const cut = postgresStore(client, { table: fixture.table });
        const claim = claimOf();
        try {
          const lost = cut.transactions.run(async (_, executor) => {
            await book(executor, claim);
            return cut.transactions[method]!(executor, claim, RESULT, RETENTION_MS);
          });
          const error = await lost.catch((reason: unknown) => reason);
          expect(proxy.eaten()).toBe(1);
          expect(causesOf(error).some((cause) => cut.transactions.isRetryable(cause))).toBe(true);
          expect(await store.read(claim.id)).toMatchObject({
            state: "completed",
            owner: claim.owner,
          });
          expect(await booked(claim)).toEqual(["one"]);
          expect(await run(duplicateOf(claim))).toEqual({ kind: "stale" });
        } finally {
          await proxy.close();
        }
      },
    );

    it("completes and commits at once, and says so where another record stands", async () => {
      const commit = (claim: Claim, by: string, result: Uint8Array = RESULT) =>
        transactions().run(async (_, executor) => {
          await book(executor, claim, by);
          const { completeAndCommit } = transactions();
          const answer = await completeAndCommit!(executor, claim, result, RETENTION_MS);
          if (answer.kind === "stale") throw new Error("stale");
          return answer;
        });
      const [claim, large] = [claimOf(), claimOf()];
      expect(await commit(claim, "one")).toEqual({ kind: "settled" });
      expect(await commit(large, "one", new Uint8Array(100_000))).toEqual({ kind: "settled" });
      expect(await booked(claim)).toEqual(["one"]);
      await expect(commit(duplicateOf(claim), "two")).rejects.toThrow("stale");
      expect(await booked(claim)).toEqual(["one"]);
      expect(await store.begin(duplicateOf(claim))).toMatchObject({ kind: "done", attempt: 1 });
      const replay = await store.begin(duplicateOf(large));
      expect(replay.kind === "done" && replay.result.byteLength).toBe(100_000);
      const open = claimOf();
      await store.settle(release(await acquire(store, open)));
      expect(await commit(duplicateOf(open), "three")).toEqual({ kind: "settled" });
      expect(await store.read(open.id)).toMatchObject({ state: "completed", attempt: 2 });
      const late = claimOf({ refuseLate: { sentAt: 0, ageMaxMs: 1 } });
      await expect(commit(late, "four")).rejects.toThrow("stale");
      expect(await booked(late)).toEqual([]);
    });

    it.each(["on", "off"])(
      "keeps every character of what it commits at once (standard_conforming_strings: %s)",
      async (setting) => {
        const text = `a'b"c\\d$$e\n%s;COMMIT--é🎉`;
        const claim = claimOf({ scope: text, key: `${text}1`, fingerprint: `v1:${text}` });
        const result = Uint8Array.from({ length: 256 }, (_, byte) => byte);
        await transactions().run(async (_, executor) => {
          await executor.query(`SET LOCAL standard_conforming_strings = ${setting}`, []);
          return transactions().completeAndCommit!(executor, claim, result, RETENTION_MS);
        });
        const { scope, key, fingerprint, owner } = claim;
        expect(await store.read(claim.id)).toMatchObject({
          scope,
          key,
          fingerprint,
          owner,
          result,
        });
      },
    );

    it("passes on what was deferred until the commit, of which nothing is left", async () => {
      const claim = claimOf();
      await fixture.admin.query(
        `ALTER TABLE ${business} ADD CONSTRAINT once UNIQUE (id) DEFERRABLE INITIALLY DEFERRED`,
      );
      const failed = transactions().run(async (_, executor) => {
        await book(executor, claim);
        await book(executor, claim, "two");
        return transactions().completeAndCommit!(executor, claim, RESULT, RETENTION_MS);
      });
      await expect(failed).rejects.toMatchObject({ code: "23505" });
      expect(await booked(claim)).toEqual([]);
      expect(await store.read(claim.id)).toBeUndefined();
      expect(await run(claim)).toEqual({ kind: "settled" });
    });

    it("commits nothing where a statement had failed and its error was caught", async () => {
      const claim = claimOf();
      const swallowed = transactions().run(async (_, executor) => {
        await book(executor, claim);
        await executor.query("SELECT 1 / 0", []).catch(() => {});
        return transactions().completeAndCommit!(executor, claim, RESULT, RETENTION_MS);
      });
      await expect(swallowed).rejects.toThrow();
      expect(await booked(claim)).toEqual([]);
      expect(await store.read(claim.id)).toBeUndefined();
    });

    it("serves also through the only connection, on its first call", async () => {
      const alone = postgresStore(fixture.client(driver, 1), { table: fixture.table });
      expect(alone.transactions.concurrencyMax).toBe(1);
      const claim = claimOf();
      const answer = await alone.transactions.run((_, executor) =>
        alone.transactions.complete(executor, claim, RESULT, RETENTION_MS),
      );
      expect(answer).toEqual({ kind: "settled" });
    });

    it("leaves a connection for handlers, and one for what it listens with", () => {
      const open = (max: number, listen: boolean) =>
        postgresStore(fixture.client(driver, max), { listen }).transactions.concurrencyMax;
      expect([open(4, false), open(4, true), open(2, true)]).toEqual([3, 2, 1]);
    });

    it("complete is stale for whatever stands, and takes what is open, lapsed or expired", async () => {
      const completed = (claim: Claim) =>
        transactions().run((_, executor) =>
          transactions().complete(executor, claim, RESULT, RETENTION_MS),
        );
      const harness = { store, elapse: (ms: number) => fixture.elapse(ms) };
      const stale = { kind: "stale" };
      const lapsed = [claimOf(), claimOf({ onCrash: "hold" }), claimOf({ onCrash: "probe" })];
      const exhausted = claimOf({ attemptsMax: 1 });
      for (const claim of [...lapsed, exhausted]) await acquire(store, claim);
      const expired = claimOf();
      await complete(store, expired, "old", 1_000);
      await fixture.elapse(60_000);
      for (const situation of ["running", "completed", "held", "void"] as const) {
        const claim = claimOf();
        await reach(harness, situation, claim);
        expect(await completed(duplicateOf(claim))).toEqual(stale);
      }
      const open = claimOf();
      await reach(harness, "open", open);
      const other = duplicateOf(open, { fingerprint: "v1:other" });
      const late = claimOf({ refuseLate: { sentAt: 0, ageMaxMs: 1 } });
      for (const claim of [other, late, lapsed[1]!, lapsed[2]!, exhausted]) {
        expect(await completed(duplicateOf(claim))).toEqual(stale);
      }
      const taken = [
        [open, 2, 0],
        [lapsed[0]!, 2, 1],
        [expired, 1, 0],
      ] as const;
      for (const [claim, attempt, crashes] of taken) {
        expect(await completed(duplicateOf(claim))).toEqual({ kind: "settled" });
        const record = await store.read(claim.id);
        expect(record).toMatchObject({ state: "completed", attempt, crashes, reason: null });
      }
    });

    it("begin and settle are part of the caller's transaction", async () => {
      const claim = claimOf();
      const within = (commits: boolean) =>
        transactions().run(async (_, executor) => {
          const begun = await transactions().begin(executor, claim);
          expect(begun).toEqual({ kind: "acquired", attempt: 1, probe: false });
          expect((await transactions().begin(executor, duplicateOf(claim))).kind).toBe("busy");
          const answer = await transactions().settle(
            executor,
            completion({ ...claim, attempt: 1 }),
          );
          expect(answer).toEqual({ kind: "settled" });
          expect((await transactions().begin(executor, claim)).kind).toBe("done");
          const again = await transactions().settle(executor, hold({ ...claim, attempt: 1 }));
          expect(again).toEqual({ kind: "stale" });
          if (!commits) throw new Error("rolled back");
        });
      await expect(within(false)).rejects.toThrow("rolled back");
      expect(await store.read(claim.id)).toBeUndefined();
      await within(true);
      expect(await store.begin(duplicateOf(claim))).toMatchObject({ kind: "done" });
    });

    it("SM-14: append is part of the caller's transaction", async () => {
      const claim = claimOf();
      const token = await acquire(store, claim);
      const entry = { ...token, bytes: bytesOf("done") };
      const within = (commits: boolean) =>
        transactions().run(async (_, executor) => {
          await book(executor, claim);
          expect(await transactions().append!(executor, entry)).toEqual({ kind: "settled" });
          if (!commits) throw new Error("rolled back");
        });
      await expect(within(false)).rejects.toThrow("rolled back");
      expect(await store.read(claim.id)).toMatchObject({ journal: null });
      await within(true);
      expect(await store.read(claim.id)).toMatchObject({ journal: bytesOf("done") });
      await store.settle(completion(token));
      const late = transactions().run((_, executor) => transactions().append!(executor, entry));
      expect(await late).toEqual({ kind: "stale" });
    });

    it("SM-14: a completion over what expired forgets what its steps did", async () => {
      const claim = claimOf();
      const token = await acquire(store, claim);
      await store.append!({ ...token, bytes: bytesOf("done") });
      await fixture.elapse(365 * 86_400_000);
      await run(duplicateOf(claim));
      expect(await store.read(claim.id)).toMatchObject({ state: "completed", journal: null });
    });

    it("begin waits for a transaction that has the same key, and then knows its result", async () => {
      const claim = claimOf();
      let waiting: Promise<unknown> = Promise.resolve();
      await run(claim, async (executor) => {
        await transactions().complete(executor, claim, RESULT, RETENTION_MS);
        waiting = transactions().run((_, own) => transactions().begin(own, duplicateOf(claim)));
        waiting.catch(() => {});
        const { rows } = await executor.query("SELECT pg_backend_pid() AS pid", []);
        const blocked = "SELECT FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid))";
        while ((await fixture.admin.query(blocked, [rows[0]!["pid"]])).rows.length === 0) {
          await delay(5);
        }
      });
      expect(await waiting).toMatchObject({ kind: "done" });
    });

    it("holds a lapsed record that is not to run again, within the transaction", async () => {
      const harness = { store, elapse: (ms: number) => fixture.elapse(ms) };
      const claim = claimOf({ onCrash: "hold" });
      await reach(harness, "lapsed", claim);
      const answer = await transactions().run((_, executor) =>
        transactions().begin(executor, duplicateOf(claim)),
      );
      expect(answer).toEqual({ kind: "held", attempt: 1, reason: "lease-lapsed" });
      expect(await store.read(claim.id)).toMatchObject({ state: "held" });
    });

    it("knows which errors a retry may help", () => {
      const { isRetryable } = transactions();
      const codes = [
        "40001",
        "40P01",
        "08006",
        "57P01",
        "57P03",
        "ECONNRESET",
        "CONNECTION_CLOSED",
      ];
      for (const code of codes)
        expect(isRetryable(Object.assign(new Error(), { code }))).toBe(true);
      for (const code of ["23505", "42P01", "25P02", "CONNECTION_ENDED", undefined]) {
        expect(isRetryable(Object.assign(new Error(), { code }))).toBe(false);
      }
      expect(isRetryable(new Error("Connection terminated unexpectedly"))).toBe(true);
      expect(isRetryable(undefined)).toBe(false);
    });
  },
);

describe.skipIf(missing).each([pgDriver, postgresJsDriver])(
  `postgresStore's subscription on $name${missing}`,
  (driver) => {
    let fixture: Fixture;
    let store: PostgresStore;
    let other: PostgresStore;

    beforeEach(async () => {
      fixture = new Fixture();
      store = await fixture.store(fixture.client(driver), { listen: true });
      other = await fixture.store(fixture.client(pgDriver), { listen: true });
    });

    afterEach(() => fixture.close());

    /** Subscribes, and counts how often it was woken. */
    function waiter(id: string) {
      let woken = 0;
      let next = () => {};
      const end = store.subscribe!(id, () => {
        woken++;
        next();
      });
      const until = async (count: number) => {
        while (woken < count) {
          await new Promise<void>((resolve) => {
            next = resolve;
          });
        }
      };
      return { woken: () => woken, until, end };
    }

    /** The backends that listen for this store. */
    async function listeners(): Promise<number[]> {
      const sql = "SELECT pid FROM pg_stat_activity WHERE query ILIKE 'listen %' AND query LIKE $1";
      const like = `%${fixture.table.replaceAll('"', '""')}%`;
      return (await fixture.admin.query(sql, [like])).rows.map(({ pid }) => pid);
    }

    it("EN-3: wakes whoever waits for an operation that another process ends", async () => {
      const claim = claimOf();
      const token = await acquire(other, claim);
      const [one, another, unrelated] = [waiter(claim.id), waiter(claim.id), waiter(claimOf().id)];
      // Everybody is woken once as soon as the connection listens.
      await Promise.all([one.until(1), another.until(1), unrelated.until(1)]);
      await other.settle(completion(token));
      await Promise.all([one.until(2), another.until(2)]);
      expect(unrelated.woken()).toBe(1);
      for (const { end } of [one, another, unrelated]) end();
    });

    it("wakes for a whole batch, a hold, a decision and a void, and a transaction's completion", async () => {
      const claims = Array.from({ length: 100 }, () => claimOf());
      const tokens = await Promise.all(claims.map((claim) => acquire(other, claim)));
      const waiters = claims.map(({ id }) => waiter(id));
      await Promise.all(waiters.map(({ until }) => until(1)));
      await Promise.all(tokens.map((token) => other.settle(hold(token))));
      await Promise.all(waiters.map(({ until }) => until(2)));
      const { id } = claims[0]!;
      await other.resolve({ id, kind: "complete", result: RESULT, retentionMs: RETENTION_MS });
      await waiters[0]!.until(3);
      await other.void(voiding(claims[1]!));
      await waiters[1]!.until(3);
      const fresh = claimOf();
      const waiting = waiter(fresh.id);
      await other.transactions.run((_, executor) =>
        other.transactions.complete(executor, fresh, RESULT, RETENTION_MS),
      );
      await waiting.until(1);
      const another = claimOf();
      const waitingToo = waiter(another.id);
      await other.transactions.run((_, executor) =>
        other.transactions.completeAndCommit!(executor, another, RESULT, RETENTION_MS),
      );
      await waitingToo.until(1);
      waitingToo.end();
      for (const { end } of [...waiters, waiting]) end();
    });

    it("listens while somebody waits, on one connection, and again when it was lost", async () => {
      const claim = claimOf();
      const token = await acquire(other, claim);
      expect(await listeners()).toEqual([]);
      const [one, another] = [waiter(claim.id), waiter(claim.id)];
      await one.until(1);
      const [pid, ...rest] = await listeners();
      expect(rest).toEqual([]);
      await fixture.admin.query("SELECT pg_terminate_backend($1)", [pid]);
      await other.settle(completion(token));
      await Promise.all([one.until(2), another.until(2)]);
      one.end();
      another.end();
    });

    it("offers no subscription unless it was asked to listen", async () => {
      expect((await fixture.store(fixture.client(driver))).subscribe).toBeUndefined();
    });
  },
);

test.skipIf(missing)(
  "a pool's connection that listened is given back, and listens no more",
  async () => {
    const fixture = new Fixture();
    const pool = fixture.pool({ max: 2 });
    const listening = await fixture.store(pool, { listen: true });
    for (let round = 0; round < 3; round++) {
      await new Promise<void>((resolve) => {
        const end = listening.subscribe!(claimOf().id, () => {
          end();
          resolve();
        });
      });
      while (pool.idleCount < pool.totalCount) await delay(5);
      const channels = await Promise.all([1, 2].map(() => channelsOf(pool)));
      expect(channels.flat()).toEqual([]);
    }
    await fixture.close();
  },
);

async function channelsOf(pool: pg.Pool): Promise<unknown[]> {
  return (await pool.query("SELECT pg_listening_channels(), pg_sleep(0.05)")).rows;
}

function causesOf(error: unknown): unknown[] {
  const causes: unknown[] = [];
  for (let cause = error; cause instanceof Error; cause = cause.cause) causes.push(cause);
  return causes;
}

/** A proxy that cuts the connection when the server says that it has committed. */
async function commitEater(target: string) {
  const { hostname, port, username, pathname } = new URL(target);
  const sockets = new Set<Socket>();
  let eaten = 0;
  const server = createServer((client) => {
    const upstream = connect(Number(port || 5432), hostname);
    for (const socket of [client, upstream]) sockets.add(socket.on("error", () => {}));
    client.pipe(upstream);
    upstream.on("data", (data) => {
      if (!data.includes("COMMIT\0")) return void client.write(data);
      eaten++;
      client.resetAndDestroy();
      upstream.destroy();
    });
    upstream.on("close", () => client.destroy());
    client.on("close", () => upstream.destroy());
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port: own } = server.address() as { port: number };
  return {
    url: `postgres://${username}@127.0.0.1:${own}${pathname}`,
    eaten: () => eaten,
    async close() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, "close");
    },
  };
}
