// How the Postgres store shares statements (ST-12, PF-1), what they cost, and what happens when many
// connections and processes want the same records.

import { type ChildProcess, fork } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { tablesOf } from "../../src/stores/postgres/schema.ts";
import { statementsFor } from "../../src/stores/postgres/statements.ts";
import type { PgPool, PostgresJs, PostgresStore } from "../../src/stores/postgres.ts";
import {
  acquire,
  bytesOf,
  claimOf,
  complete,
  completion,
  duplicateOf,
  LEASE_MS,
  release,
  renewal,
  SETTLED,
} from "../../src/testing/claims.ts";
import { Fixture, missing, pgDriver, postgresJsDriver, url } from "./postgres-fixture.ts";

const RACE = fileURLToPath(new URL("postgres-race.mjs", import.meta.url));
const drivers = [pgDriver, postgresJsDriver];

describe.skipIf(missing)(`postgresStore and its statements${missing}`, () => {
  let fixture: Fixture;

  beforeEach(() => {
    fixture = new Fixture();
  });

  afterEach(() => fixture.close());

  const claims = (count: number) => Array.from({ length: count }, () => claimOf());

  /** A client that counts what is sent through it. */
  function counting<Client extends PgPool | PostgresJs>(client: Client) {
    const sent: string[] = [];
    const counted = new Proxy(client, {
      get(target, name) {
        const value: unknown = Reflect.get(target, name);
        if (typeof value !== "function" || (name !== "query" && name !== "unsafe")) return value;
        return (query: string | { text: string }, ...rest: unknown[]) => {
          sent.push(typeof query === "string" ? query : query.text);
          return value.call(target, query, ...rest);
        };
      },
    });
    return { counted, sent };
  }

  describe.each(drivers)("on $name", (driver) => {
    it("PF-1: a new operation costs two round trips, everything else one", async () => {
      const { counted, sent } = counting(fixture.client(driver));
      const store = await fixture.store(counted);
      const costs = async (work: () => Promise<unknown>) => {
        const before = sent.length;
        await work();
        return sent.length - before;
      };
      const claim = claimOf();
      const token = { ...claim, attempt: 1 };
      expect(await costs(() => store.begin(claim))).toBe(1);
      expect(await costs(() => store.renew(renewal(token)))).toBe(1);
      expect(await costs(() => store.append!({ ...token, bytes: bytesOf("done") }))).toBe(1);
      expect(await costs(() => store.settle(completion(token)))).toBe(1);
      expect(await costs(() => store.begin(duplicateOf(claim)))).toBe(1);
      expect(await costs(() => store.read(claim.id))).toBe(1);
      expect(await costs(() => store.sweep(10))).toBe(1);
      const [open, expired] = [claimOf(), claimOf()];
      await store.settle(release(await acquire(store, open)));
      expect(await costs(() => acquire(store, duplicateOf(open)))).toBe(1);
      await complete(store, expired);
      await fixture.elapse(365 * 86_400_000);
      expect(await costs(() => acquire(store, duplicateOf(expired)))).toBe(1);
    });

    it.each([
      [20, 1],
      [100, 2],
    ])(
      "ST-12: %i that one turn of the event loop asks share %i statements",
      async (count, statements) => {
        const { counted, sent } = counting(fixture.client(driver));
        const store = await fixture.store(counted);
        await store.stats();
        const inStatements = async <Answer>(asked: readonly Promise<Answer>[]) => {
          const before = sent.length;
          const answers = await Promise.all(asked);
          expect(sent.length - before).toBe(statements);
          return answers;
        };
        const asked = claims(count);
        const tokens = await inStatements(asked.map((claim) => acquire(store, claim)));
        await inStatements(tokens.map((token) => store.renew(renewal(token))));
        const entries = tokens.map((token) => ({ ...token, bytes: bytesOf(token.id) }));
        await inStatements(entries.map((entry) => store.append!(entry)));
        const running = await inStatements(asked.map(({ id }) => store.read(id)));
        expect(running.map((record) => record?.journal)).toEqual(entries.map(({ bytes }) => bytes));
        await inStatements(tokens.map((token) => store.settle(completion(token, token.id))));
        const replays = await inStatements(asked.map((claim) => store.begin(duplicateOf(claim))));
        const records = await inStatements(asked.map(({ id }) => store.read(id)));
        for (const [index, { id }] of asked.entries()) {
          const replay = replays[index]!;
          expect(replay.kind === "done" && Buffer.from(replay.result).toString()).toBe(id);
          expect(records[index]?.id).toBe(id);
        }
      },
    );

    it("large results travel alone, there and back", async () => {
      const store = await fixture.store(fixture.client(driver));
      const asked = claims(20);
      const results = asked.map((_, index) => randomBytes(index % 2 === 0 ? 200_000 : 100));
      const tokens = await Promise.all(asked.map((claim) => acquire(store, claim)));
      await Promise.all(
        tokens.map((token, index) => store.settle(completion(token, results[index]))),
      );
      const [replays, records] = await Promise.all([
        Promise.all(asked.map((claim) => store.begin(duplicateOf(claim)))),
        Promise.all(asked.map(({ id }) => store.read(id))),
      ]);
      for (const [index, result] of results.entries()) {
        const replay = replays[index]!;
        expect(replay.kind === "done" && result.equals(replay.result)).toBe(true);
        expect(result.equals(records[index]!.result!)).toBe(true);
      }
      const other = duplicateOf(asked[0]!, { fingerprint: "v1:other" });
      const [mismatch] = await Promise.all([store.begin(other), store.begin(claimOf())]);
      expect(mismatch.kind).toBe("mismatch");
    });

    it("SM-14: what is appended to one record at once stays in its order, large and small", async () => {
      const { counted, sent } = counting(fixture.client(driver));
      const store = await fixture.store(counted);
      const tokens = await Promise.all(claims(3).map((claim) => acquire(store, claim)));
      const pieces = Array.from({ length: 9 }, (_, n) =>
        randomBytes(n % 3 === 1 ? 200_000 : n + 1),
      );
      const before = sent.length;
      const appended = tokens.flatMap((token) =>
        pieces.map((bytes) => store.append!({ ...token, bytes })),
      );
      expect(await Promise.all(appended)).toEqual(appended.map(() => SETTLED));
      // Six times small ones of all records together, three times a large one of each.
      expect(sent.length - before).toBe(6 + 3 * tokens.length);
      const records = await Promise.all(tokens.map(({ id }) => store.read(id)));
      for (const record of records) {
        expect(Buffer.concat(pieces).equals(record!.journal!)).toBe(true);
      }
    });

    it("SM-14: tells in one batch whose entry was appended", async () => {
      const store = await fixture.store(fixture.client(driver));
      const tokens = await Promise.all(claims(40).map((claim) => acquire(store, claim)));
      const ended = tokens.filter((_, index) => index % 2 === 0);
      await Promise.all(ended.map((token) => store.settle(release(token))));
      const bytes = (index: number) => randomBytes(index % 3 === 0 ? 100_000 : 10);
      const answers = await Promise.all(
        tokens.map((token, index) => store.append!({ ...token, bytes: bytes(index) })),
      );
      const expected = tokens.map((_, index) => (index % 2 === 0 ? { kind: "stale" } : SETTLED));
      expect(answers).toEqual(expected);
      for (const { id } of ended) expect(await store.read(id)).toMatchObject({ journal: null });
    });

    it("gives results as plain bytes of their own", async () => {
      const store = await fixture.store(fixture.client(driver));
      for (const length of [0, 1, 70_000]) {
        const claim = claimOf();
        await complete(store, claim, randomBytes(length));
        const answer = await store.begin(duplicateOf(claim));
        const read = await store.read(claim.id);
        for (const bytes of [answer.kind === "done" ? answer.result : null, read?.result]) {
          expect(bytes?.constructor).toBe(Uint8Array);
          expect(bytes?.buffer.byteLength).toBe(length);
        }
      }
    });

    it("one item that the database refuses fails alone", async () => {
      const store = await fixture.store(fixture.client(driver));
      const name = `"poison of ${fixture.table.replaceAll('"', '""')}"`;
      const { admin, records } = fixture;
      await admin.query(`CREATE FUNCTION ${name}() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN IF NEW.key = 'poison' THEN RAISE 'poisoned'; END IF; RETURN NEW; END $$`);
      try {
        await admin.query(`CREATE TRIGGER poison BEFORE INSERT ON ${records}
          FOR EACH ROW EXECUTE FUNCTION ${name}()`);
        const asked = [...claims(10), claimOf({ key: "poison" }), ...claims(10)];
        const answers = await Promise.allSettled(asked.map((claim) => store.begin(claim)));
        const refused = answers.filter(({ status }) => status === "rejected");
        expect(refused).toMatchObject([{ reason: { code: "store-unusable" } }]);
        expect(answers[10]).toMatchObject({ reason: { message: /poisoned/ } });
        await acquire(store, claimOf());
      } finally {
        await admin.query(`DROP FUNCTION ${name} CASCADE`);
      }
    });

    it("refuses a NUL character by itself, which Postgres cannot keep", async () => {
      const store = await fixture.store(fixture.client(driver));
      const bad = claimOf({ scope: "a\0b" });
      const answers = await Promise.allSettled([store.begin(claimOf()), store.begin(bad)]);
      expect(answers).toMatchObject([
        { value: { kind: "acquired" } },
        { reason: { code: "key-invalid" } },
      ]);
      await expect(store.void({ ...bad, retentionMs: 1 })).rejects.toMatchObject({
        code: "key-invalid",
      });
    });

    it("keeps every character of scopes and reasons", async () => {
      const store = await fixture.store(fixture.client(driver));
      const text = 'a b "quoted" \'\\ {},NULL \n é 🎉';
      const asked = [
        claimOf({ scope: text }),
        claimOf({ scope: "NULL" }),
        claimOf({ scope: "{}" }),
      ];
      const tokens = await Promise.all(asked.map((claim) => acquire(store, claim)));
      const ends = tokens.map((token, index) =>
        store.settle({ ...token, kind: "hold", reason: asked[index]!.scope, retentionMs: null }),
      );
      await Promise.all(ends);
      for (const claim of asked) {
        const { scope, id } = claim;
        expect(await store.begin(duplicateOf(claim))).toMatchObject({ reason: scope });
        expect(await store.read(id)).toMatchObject({ scope, reason: scope });
        expect((await store.list({ scope, limit: 9 })).records.map((record) => record.id)).toEqual([
          id,
        ]);
      }
    });

    it("leaves no statement behind on a connection, unless it may", async () => {
      for (const prepare of [false, true]) {
        const client = fixture.client(driver, 1);
        const store = await fixture.store(client, { prepare });
        await Promise.all(claims(3).map((claim) => complete(store, claim)));
        const sql =
          "SELECT count(*) AS left FROM pg_prepared_statements WHERE statement LIKE '%settle%'";
        const rows =
          "unsafe" in client ? [...(await client.unsafe(sql))] : (await client.query(sql)).rows;
        const [{ left }] = rows as [{ left: string }];
        expect(Number(left) > 0).toBe(prepare);
      }
    });
  });

  it("SM-5: replays, and duplicates of what runs, write nothing and lock nothing", async () => {
    const store = await fixture.store();
    const [finished, running] = [claimOf(), claimOf()];
    await complete(store, finished);
    await acquire(store, running);
    const sql = `SELECT id, xmin, xmax, ctid FROM ${fixture.records} ORDER BY id`;
    const before = (await fixture.admin.query(sql)).rows;
    await Promise.all([finished, running].map((claim) => store.begin(duplicateOf(claim))));
    await store.begin(duplicateOf(finished));
    await store.begin(duplicateOf(running, { fingerprint: "v1:other" }));
    expect((await fixture.admin.query(sql)).rows).toEqual(before);
  });

  it("a record that an open transaction has holds up nobody else", async () => {
    const store = await fixture.store();
    const [blocked, settling] = [claimOf(), claimOf()];
    const token = await acquire(store, settling);
    const holder = await fixture.admin.connect();
    try {
      await holder.query("BEGIN");
      const executor = {
        dialect: "postgres" as const,
        query: async (text: string, values: readonly unknown[]) => {
          const { rows, rowCount } = await holder.query(text, [...values]);
          return { rows, changes: rowCount ?? 0 };
        },
      };
      expect(await store.transactions.begin(executor, duplicateOf(blocked))).toMatchObject({
        kind: "acquired",
      });
      await holder.query(`SELECT FROM ${fixture.records} WHERE id = $1 FOR UPDATE`, [settling.id]);
      const answers = await Promise.allSettled([
        ...claims(20).map((claim) => store.begin(claim)),
        store.begin(blocked),
        store.settle(completion(token)),
      ]);
      const unavailable = { reason: { code: "store-unavailable", message: /still open/ } };
      expect(answers.slice(-2)).toMatchObject([unavailable, unavailable]);
      for (const answer of answers.slice(0, -2)) {
        expect(answer).toMatchObject({ value: { kind: "acquired" } });
      }
      await holder.query("ROLLBACK");
    } finally {
      holder.release();
    }
    expect(await store.settle(completion(token))).toEqual({ kind: "settled" });
    await acquire(store, blocked);
  });

  it("batches that want the same records in opposite orders do not deadlock", async () => {
    const stores = [await fixture.store(), await fixture.store(), await fixture.store()];
    const asked = claims(100).map((claim) => ({ ...claim, attemptsMax: 1_000 }));
    await Promise.all(asked.map((claim) => acquire(stores[0]!, claim)));
    for (let round = 2; round < 8; round++) {
      await fixture.elapse(LEASE_MS);
      const waves = stores.map((store, index) => {
        const order = index % 2 === 0 ? asked : asked.toReversed();
        return Promise.all(order.map((claim) => store.begin(duplicateOf(claim))));
      });
      const kinds = (await Promise.all(waves)).flat().map(({ kind }) => kind);
      expect(kinds.filter((kind) => kind === "acquired")).toHaveLength(asked.length);
      expect(kinds.filter((kind) => kind === "busy")).toHaveLength(2 * asked.length);
    }
  });

  it("ST-11a: what carries a claim is durable, whatever the default", async () => {
    const { admin, records } = fixture;
    const settings = async (setting: string, work: (store: PostgresStore) => Promise<unknown>) => {
      const pool = fixture.pool({ options: `-c synchronous_commit=${setting}` });
      const store = await fixture.store(pool);
      const suffix = fixture.table.replaceAll('"', '""');
      await admin.query(`CREATE TABLE "seen ${suffix}" (setting text);
        CREATE FUNCTION "see ${suffix}"() RETURNS trigger LANGUAGE plpgsql AS
          $$ BEGIN INSERT INTO "seen ${suffix}" VALUES (current_setting('synchronous_commit'));
          RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER see AFTER INSERT OR UPDATE ON ${records} DEFERRABLE
          INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION "see ${suffix}"()`);
      try {
        await work(store);
        const { rows } = await admin.query(`SELECT DISTINCT setting FROM "seen ${suffix}"`);
        return rows.map((row) => row.setting);
      } finally {
        await admin.query(`DROP FUNCTION "see ${suffix}" CASCADE; DROP TABLE "seen ${suffix}"`);
      }
    };
    const lease = async (store: PostgresStore) => {
      await Promise.all(claims(3).map((claim) => complete(store, claim)));
      const tokens = await Promise.all(claims(3).map((claim) => acquire(store, claim)));
      const entries = tokens.map((token) => ({ ...token, bytes: bytesOf("done") }));
      await Promise.all(entries.map((entry) => store.append!(entry)));
      await store.append!(entries[0]!);
      await store.void({ ...claimOf(), retentionMs: 1_000 });
    };
    const transaction = (store: PostgresStore) =>
      store.transactions.run((_, executor) =>
        store.transactions.complete(executor, claimOf(), Buffer.from("x"), 1_000),
      );
    const atOnce = (store: PostgresStore) =>
      store.transactions.run((_, executor) =>
        store.transactions.completeAndCommit!(executor, claimOf(), Buffer.from("x"), 1_000),
      );
    for (const work of [lease, transaction, atOnce]) {
      expect(await settings("off", work)).toEqual(["on"]);
      expect(await settings("local", work)).toEqual(["on"]);
      expect(await settings("remote_apply", work)).toEqual(["remote_apply"]);
    }
  });

  it("ST-9: finds what to sweep, count, list and settle by index alone", async () => {
    await fixture.store();
    const { admin, records } = fixture;
    await admin.query(`INSERT INTO ${records} (created_at, updated_at, expires_at, attempt, crashes,
        format, state, on_crash, id, owner, scope, key, fingerprint, result)
      SELECT now() - n * interval '1 s', now(), now() + interval '1 day', 1, 0, 1, 1, 0,
        gen_random_uuid(), gen_random_uuid(), 's', n::text, 'f', '' FROM generate_series(1, 20000) n`);
    // Only what nobody's open transaction could miss is marked as visible to all, and read by index.
    for (let visible = 0; visible < 1; ) {
      await admin.query(`VACUUM ANALYZE ${records}`);
      const { rows } = await admin.query(
        "SELECT relallvisible / greatest(relpages, 1) AS visible FROM pg_class WHERE relname = $1",
        [`${fixture.table}_records`],
      );
      visible = Number(rows[0].visible);
    }
    const sql = statementsFor(tablesOf(fixture.table), false);
    const planOf = async (statement: string, parameters: unknown[]) => {
      const { rows } = await admin.query(`EXPLAIN (COSTS OFF) ${statement}`, parameters);
      return rows.map((row) => row["QUERY PLAN"]).join("\n");
    };
    const [byState, byCreation] = ["_state", "_creation"].map(
      (part) => `"${`${fixture.table}${part}`.replaceAll('"', '""')}"`,
    );
    const page = [null, null, null, null, 10];
    const plans = [
      [await planOf(sql.sweep, [1_000]), byState],
      [await planOf(sql.countByState, []), `Index Only Scan using ${byState}`],
      [await planOf(sql.list("held"), page), byState],
      [await planOf(sql.list(undefined), page), byCreation],
      [await planOf(sql.list("completed"), [1e15, claimOf().id, null, null, 10]), byCreation],
    ] as const;
    for (const [plan, index] of plans) {
      expect(plan).toContain(index);
      expect(plan).not.toContain("Seq Scan");
    }
    const ids = `{${claims(20).map(({ id }) => id)}}`;
    const column = (value: unknown) => `{${Array(20).fill(value)}}`;
    const renewals = [ids, ids, column(1), column(1), column(1), "1s"];
    const plan = await planOf(sql.renewMany, renewals);
    expect(plan).toMatch(/Index Cond: \(id = each\.id\)/);
    const entries = [ids, ids, column(1), column(1), column(1), "bytes", "1s"];
    expect(await planOf(sql.appendMany, entries)).toMatch(/Index Cond: \(id = each\.id\)/);
    expect(plan).not.toContain(byState);
  });

  it("ST-9: sweepers on many connections remove all that expired, and nothing live", async () => {
    const store = await fixture.store();
    const asked = claims(400);
    await Promise.all(asked.map((claim) => acquire(store, claim)));
    const half = asked.slice(200).map(({ id }) => id);
    const sql = `UPDATE ${fixture.records} SET expires_at = now() WHERE id = ANY ($1)`;
    await fixture.admin.query(sql, [half]);
    const swept = await Promise.all(Array.from({ length: 15 }, () => store.sweep(30)));
    expect(Math.max(...swept)).toBe(30);
    const rest = await store.sweep(1_000);
    expect(swept.reduce((sum, count) => sum + count, rest)).toBe(200);
    expect((await store.stats()).states.running).toBe(200);
  });

  it("lists what is readable around a damaged record, which may be deleted", async () => {
    const store = await fixture.store();
    const [one, damaged, other] = [claimOf(), claimOf(), claimOf()];
    for (const claim of [one, damaged, other]) await complete(store, claim);
    const { id } = damaged;
    await fixture.admin.query(`UPDATE ${fixture.records} SET on_crash = 9 WHERE id = $1`, [id]);
    const { records } = await store.list({ limit: 10 });
    expect(records.map((record) => record.id)).toEqual([other.id, one.id]);
    await expect(store.read(id)).rejects.toMatchObject({ code: "record-unreadable" });
    expect(await store.delete(id)).toEqual({ kind: "deleted" });
    await acquire(store, damaged);
  });

  it("lists records of one microsecond, across pages, each once", async () => {
    const store = await fixture.store();
    const asked = claims(25);
    await Promise.all(asked.map((claim) => acquire(store, claim)));
    const seen: string[] = [];
    let cursor: string | undefined;
    do {
      const page = await store.list({ limit: 4, ...(cursor !== undefined && { cursor }) });
      seen.push(...page.records.map(({ id }) => id));
      cursor = page.cursor;
    } while (cursor !== undefined);
    expect(seen.toSorted()).toEqual(asked.map(({ id }) => id).toSorted());
    expect(seen).toEqual(seen.toSorted().toReversed());
  });

  it.each(["", "0", "-1", "1e3", "1-2", `${"9".repeat(30)}-${"a".repeat(32)}`])(
    "refuses the cursor %j",
    async (cursor) => {
      const store = await fixture.store();
      await expect(store.list({ limit: 1, cursor })).rejects.toMatchObject({
        code: "option-invalid",
      });
    },
  );

  it("lists a key that expired and was begun again as the newest", async () => {
    const store = await fixture.store();
    const [one, other] = [claimOf(), claimOf()];
    for (const claim of [one, other]) await complete(store, claim);
    await fixture.admin.query(`UPDATE ${fixture.records} SET expires_at = now() WHERE id = $1`, [
      one.id,
    ]);
    await acquire(store, one);
    const { records } = await store.list({ limit: 10 });
    expect(records.map(({ id }) => id)).toEqual([one.id, other.id]);
  });

  it("gives each key to one of a hundred callers in four processes, which migrate at once", async () => {
    const children = Array.from({ length: 4 }, () => fork(RACE, [url, fixture.table]));
    try {
      await Promise.all(children.map((child) => once(child, "message")));
      for (let round = 0; round < 5; round++) {
        const kinds = await Promise.all(
          children.map((child) => answerOf(child, { key: `k${round}`, callers: 25 })),
        );
        const acquired = kinds.flat().filter((kind) => kind === "acquired");
        const busy = kinds.flat().filter((kind) => kind === "busy");
        expect([acquired.length, busy.length]).toEqual([1, 99]);
      }
    } finally {
      await Promise.all(children.map(end));
    }
  });
});

async function answerOf(child: ChildProcess, question: object): Promise<string[]> {
  child.send(question);
  const [answer] = (await once(child, "message")) as [{ kinds?: string[]; error?: string }];
  if (answer.kinds === undefined) throw new Error(answer.error);
  return answer.kinds;
}

async function end(child: ChildProcess): Promise<void> {
  const exited = once(child, "exit");
  child.kill("SIGKILL");
  await exited;
}
