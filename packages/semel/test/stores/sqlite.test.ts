import { type ChildProcess, fork } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { InvalidOption } from "../../src/errors.ts";
import { recordId } from "../../src/key.ts";
import type { AttemptToken, Claim, Ending, Store } from "../../src/store.ts";
import { tablesOf } from "../../src/stores/sqlite/schema.ts";
import { statementsFor } from "../../src/stores/sqlite/statements.ts";
import {
  type SqliteDatabase,
  type SqliteStoreOptions,
  sqliteMigrations,
  sqliteStore,
} from "../../src/stores/sqlite.ts";
import { enqueueCases, queueCases, storeCases } from "../../src/testing/index.ts";
import { type OpenDatabase, sqliteDrivers } from "../sqlite-drivers.ts";

const DAY_MS = 86_400_000;
const RACE = fileURLToPath(new URL("sqlite-race.mjs", import.meta.url));

function claimOf(key: string, parts: Partial<Claim> = {}): Claim {
  const scope = parts.scope ?? "tenant";
  return {
    id: recordId(scope, key),
    scope,
    key,
    fingerprint: "v1:payload",
    owner: randomBytes(16).toString("hex"),
    leaseMs: 60_000,
    onCrash: "rerun",
    attemptsMax: 10,
    lapsedRetentionMs: DAY_MS,
    heldRetentionMs: null,
    ...parts,
  };
}

function completion(token: AttemptToken, result: Uint8Array = Buffer.from("result")): Ending {
  const { id, attempt, owner } = token;
  return { id, attempt, owner, kind: "complete", result, retentionMs: DAY_MS };
}

async function acquire(store: Store, claim: Claim): Promise<AttemptToken> {
  const answer = await store.begin(claim);
  expect(answer.kind).toBe("acquired");
  return { id: claim.id, attempt: 1, owner: claim.owner };
}

async function complete(store: Store, claim: Claim): Promise<void> {
  expect(await store.settle(completion(await acquire(store, claim)))).toEqual({ kind: "settled" });
}

const unusable = (remedy: RegExp) => ({
  code: "store-unusable",
  message: expect.stringMatching(remedy),
  cause: expect.anything(),
});

describe.each(sqliteDrivers)("sqliteStore on $name", (driver) => {
  let folder: string;
  let path: string;
  let databases: OpenDatabase[];

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "semel-sqlite-"));
    path = join(folder, "semel.db");
    databases = [];
  });

  afterEach(async () => {
    for (const database of databases) database.close();
    await rm(folder, { recursive: true });
  });

  function open(file = path): OpenDatabase {
    const database = driver.open(file);
    databases.push(database);
    return database;
  }

  function close(database: OpenDatabase): void {
    database.close();
    databases.splice(databases.indexOf(database), 1);
  }

  async function migrated(options: SqliteStoreOptions = {}) {
    const database = open();
    const store = sqliteStore(database, options);
    await store.migrate();
    return { database, store };
  }

  /** How many transactions wrote to the file: frames of its log that end one have a size. */
  function commits(): number {
    const log = readFileSync(`${path}-wal`);
    const frameBytes = 24 + log.readUInt32BE(8);
    let count = 0;
    for (let at = 32; at + frameBytes <= log.byteLength; at += frameBytes) {
      if (log.readUInt32BE(at + 4) > 0) count++;
    }
    return count;
  }

  describe("conformance", () => {
    for (const storeCase of [...storeCases, ...queueCases, ...enqueueCases]) {
      it(storeCase.name, async () => {
        const { database, store } = await migrated({ transactions: open() });
        await storeCase.run({
          store,
          elapse: async (ms) => {
            const back = ["lease_until", "expires_at", "created_at", "updated_at"];
            const moved = back.map((column) => `${column} = ${column} - ${ms}`).join();
            database.exec(`UPDATE semel_records SET ${moved}`);
            database.exec(`UPDATE semel_queue SET due_at = due_at - ${ms},
              expires_at = expires_at - ${ms}, created_at = created_at - ${ms}`);
          },
          another: async () => sqliteStore(open()),
          damage: async (id, how) => {
            const damage = how === "newer" ? "format = format + 1" : "state = 99";
            database.exec(`UPDATE semel_records SET ${damage} WHERE id = x'${id}'`);
          },
        });
      });
    }
  });

  describe("as it is set up", () => {
    it("does no I/O before it is asked", async () => {
      const database = open();
      close(database);
      const store = sqliteStore(database);
      await expect(store.read(recordId("", "k"))).rejects.toMatchObject({
        code: "store-unusable",
      });
    });

    it.each([
      [{ tabel: "x" }, /did you mean `table`/],
      [{ table: "" }, /`table`/],
      [{ table: "a\0b" }, /`table`/],
      [{ table: "sqlite_mine" }, /reserves/],
      [{ synchronous: "off" }, /`synchronous`/],
      [{ busyTimeout: "soon" }, /`busyTimeout`/],
    ])("refuses the options %j", (options, message) => {
      const database = open();
      expect(() => sqliteStore(database, options as SqliteStoreOptions)).toThrow(message);
    });

    it.each([undefined, null, "app.db", {}])(
      "refuses %j for a database, and says to pass an opened one",
      (wrong) => {
        const opened = "must be an opened database, such as `new DatabaseSync";
        const make = (database: unknown, options?: object) => () =>
          sqliteStore(database as SqliteDatabase, options as SqliteStoreOptions);
        expect(make(wrong)).toThrow(InvalidOption);
        expect(make(wrong)).toThrow(`\`database\` ${opened}`);
        if (wrong === undefined) return;
        expect(make(open(), { transactions: wrong })).toThrow(`\`transactions\` ${opened}`);
      },
    );

    it("sets what a connection forgets: durability and a short wait that blocks", async () => {
      const pragma = (database: OpenDatabase, name: string) =>
        Object.values(database.prepare(`PRAGMA ${name}`).all()[0] as object)[0];
      const { database, store } = await migrated();
      expect(pragma(database, "journal_mode")).toBe("wal");
      expect(pragma(database, "synchronous")).toBe(2);
      expect(pragma(database, "busy_timeout")).toBe(5);
      const fast = open();
      await sqliteStore(fast, { synchronous: "normal" }).read(recordId("", "k"));
      expect(pragma(fast, "synchronous")).toBe(1);
      await store.stats();
    });

    it("keeps tables of any name apart", async () => {
      const names = ["semel", `it's "quoted"; DROP TABLE x; --`, "größe 🎉", "a.b"];
      const database = open();
      const stores = names.map((table) => sqliteStore(database, { table }));
      for (const store of stores) await store.migrate();
      for (const store of stores) await acquire(store, claimOf("k"));
      for (const store of stores) expect((await store.list({ limit: 10 })).records).toHaveLength(1);
    });

    it("is what its printed migrations make of a file", async () => {
      const database = open();
      for (const sql of sqliteMigrations("mine")) database.exec(`BEGIN; ${sql}; COMMIT`);
      const store = sqliteStore(database, { table: "mine" });
      await complete(store, claimOf("k"));
      await store.migrate();
      expect(await store.begin(claimOf("k"))).toMatchObject({ kind: "done" });
    });

    it("says to migrate a file without tables, and forgets that once it is done", async () => {
      const store = sqliteStore(open());
      const remedy = {
        code: "store-unusable",
        message: expect.stringMatching(/store\.migrate\(\)/),
      };
      await expect(store.begin(claimOf("k"))).rejects.toMatchObject(remedy);
      await expect(store.sweep(1)).rejects.toMatchObject(remedy);
      await sqliteStore(open()).migrate();
      await acquire(store, claimOf("k"));
    });

    it("says to migrate an older schema, and refuses a newer one", async () => {
      const { database } = await migrated();
      database.exec("UPDATE semel_schema SET version = 0");
      await expect(sqliteStore(database).read(recordId("", "k"))).rejects.toMatchObject({
        code: "store-unusable",
        message: expect.stringMatching(/schema 0 of 3.*store\.migrate\(\)/),
      });
      database.exec("UPDATE semel_schema SET version = 4");
      const newer = { code: "store-unusable", message: expect.stringMatching(/newer.*upgrade/) };
      const store = sqliteStore(database);
      await expect(store.begin(claimOf("k"))).rejects.toMatchObject(newer);
      await expect(store.migrate()).rejects.toMatchObject(newer);
    });

    it("says to migrate when the tables were dropped under it", async () => {
      const { database, store } = await migrated();
      await acquire(store, claimOf("k"));
      database.exec("DROP TABLE semel_records");
      await expect(store.begin(claimOf("k"))).rejects.toMatchObject(unusable(/migrate/));
    });

    it("counts time by SQLite's clock, to the millisecond", async () => {
      const { store } = await migrated();
      const before = Date.now();
      const claim = claimOf("k");
      await acquire(store, claim);
      const record = await store.read(claim.id);
      expect(record?.createdAt).toBeGreaterThanOrEqual(before - 1);
      expect(record?.createdAt).toBeLessThanOrEqual(Date.now() + 1);
    });
  });

  describe("when the file cannot serve", () => {
    it.each(["begin", "read", "migrate"] as const)(
      "%s says that a file is not a database",
      async (method) => {
        writeFileSync(path, "This is not a database, and no key makes it one. ".repeat(100));
        const store = sqliteStore(open());
        const calls = {
          begin: () => store.begin(claimOf("k")),
          read: () => store.read(recordId("", "k")),
          migrate: () => store.migrate(),
        };
        await expect(calls[method]()).rejects.toMatchObject(unusable(/not a SQLite database/));
      },
    );

    it("reads a read-only file, replays from it, and says why it cannot write", async () => {
      const { store } = await migrated();
      await complete(store, claimOf("finished"));
      const readOnly = driver.openReadOnly(path);
      databases.push(readOnly);
      const reader = sqliteStore(readOnly);
      await reader.migrate();
      expect(await reader.begin(claimOf("finished"))).toMatchObject({ kind: "done" });
      await expect(reader.begin(claimOf("fresh"))).rejects.toMatchObject(unusable(/read-only/));
      await expect(reader.sweep(10)).rejects.toMatchObject(unusable(/read-only/));
      await acquire(store, claimOf("fresh"));
    });

    it("says that a read-only file without tables cannot be migrated", async () => {
      open().exec("CREATE TABLE other (x)");
      const readOnly = driver.openReadOnly(path);
      databases.push(readOnly);
      const store = sqliteStore(readOnly);
      await expect(store.migrate()).rejects.toMatchObject(unusable(/read-only/));
    });

    it("refuses what does not fit a full disk, and only that", async () => {
      const { database, store } = await migrated();
      const [small, large] = [claimOf("small"), claimOf("large")];
      const tokens = [await acquire(store, small), await acquire(store, large)] as const;
      const [size] = database.prepare("PRAGMA page_count").all() as { page_count: number }[];
      database.exec(`PRAGMA max_page_count = ${size!.page_count + 5}`);
      const [settledSmall, settledLarge, fresh] = await Promise.allSettled([
        store.settle(completion(tokens[0])),
        store.settle(completion(tokens[1], new Uint8Array(100_000))),
        store.begin(claimOf("fresh")),
      ]);
      expect(settledSmall).toMatchObject({ value: { kind: "settled" } });
      expect(settledLarge).toMatchObject({ reason: { code: "store-full" } });
      expect(fresh).toMatchObject({ value: { kind: "acquired" } });
      expect(await store.begin(claimOf("small"))).toMatchObject({ kind: "done" });
      database.exec("PRAGMA max_page_count = 100000");
      expect(await store.settle(completion(tokens[1], new Uint8Array(100_000)))).toEqual({
        kind: "settled",
      });
    });

    it("says that the database was closed, for reads and writes", async () => {
      const { database, store } = await migrated();
      await complete(store, claimOf("k"));
      close(database);
      await expect(store.read(recordId("", "k"))).rejects.toMatchObject(unusable(/closed/));
      await expect(store.begin(claimOf("k"))).rejects.toMatchObject(unusable(/closed/));
      await expect(store.sweep(1)).rejects.toMatchObject(unusable(/closed/));
      await expect(store.migrate()).rejects.toMatchObject(unusable(/closed/));
    });

    it("asks for a connection of its own, and leaves another's transaction alone", async () => {
      const { database, store } = await migrated();
      await store.stats();
      database.exec("CREATE TABLE mine (x); BEGIN; INSERT INTO mine VALUES (1)");
      await expect(store.begin(claimOf("k"))).rejects.toMatchObject(unusable(/connection/));
      await expect(sqliteStore(database).stats()).rejects.toMatchObject(unusable(/connection/));
      database.exec("COMMIT");
      expect(database.prepare("SELECT x FROM mine").all()).toHaveLength(1);
      await acquire(store, claimOf("k"));
    });

    it("waits for another connection's lock while the event loop is free", async () => {
      const { store } = await migrated();
      await store.stats();
      const other = open();
      other.exec("BEGIN IMMEDIATE");
      const begun = store.begin(claimOf("k"));
      // Only a free event loop gets here, and the lock goes nowhere otherwise.
      await delay(20);
      other.exec("COMMIT");
      expect(await begun).toMatchObject({ kind: "acquired" });
    });

    it("is unavailable when a lock outlasts its patience, and serves afterwards", async () => {
      const { store } = await migrated({ busyTimeout: "20ms" });
      const other = open();
      other.exec("BEGIN IMMEDIATE");
      const asked = Array.from({ length: 300 }, (_, index) => store.begin(claimOf(`k${index}`)));
      for (const answer of await Promise.allSettled(asked)) {
        expect(answer).toMatchObject({
          reason: { code: "store-unavailable", cause: expect.anything() },
        });
      }
      other.exec("ROLLBACK");
      await acquire(store, claimOf("k0"));
    });
  });

  describe("as it combines writes (ST-12)", () => {
    it("commits once for what one turn of the event loop asks", async () => {
      const { store } = await migrated();
      const claims = Array.from({ length: 64 }, (_, index) => claimOf(`k${index}`));
      const before = commits();
      const tokens = await Promise.all(claims.map((claim) => acquire(store, claim)));
      expect(commits() - before).toBe(1);
      const mixed = [
        ...tokens.slice(0, 60).map((token) => store.settle(completion(token))),
        store.renew({ ...tokens[60]!, leaseMs: 1_000, lapsedRetentionMs: null }),
        store.void({ id: recordId("", "v"), scope: "", key: "v", retentionMs: 1_000 }),
        store.sweep(10),
      ];
      await Promise.all(mixed);
      expect(commits() - before).toBe(2);
    });

    it("runs the writes about one record in the order asked, in one commit", async () => {
      const { store } = await migrated();
      const claim = claimOf("k");
      const token = await acquire(store, claim);
      const before = commits();
      const answers = await Promise.all([
        store.settle({ ...token, kind: "release", retentionMs: DAY_MS }),
        store.settle(completion(token)),
        store.void({ id: claim.id, scope: "tenant", key: "k", retentionMs: DAY_MS }),
      ]);
      expect(answers.map(({ kind }) => kind)).toEqual(["settled", "stale", "voided"]);
      expect(commits() - before).toBe(1);
    });

    it("writes nothing, and waits for no lock, to answer a duplicate", async () => {
      const { store } = await migrated();
      await complete(store, claimOf("done"));
      await acquire(store, claimOf("busy"));
      const before = commits();
      const other = open();
      other.exec("BEGIN IMMEDIATE");
      const answers = await Promise.all([
        store.begin(claimOf("done")),
        store.begin(claimOf("busy")),
        store.begin(claimOf("done", { fingerprint: "v1:other" })),
      ]);
      other.exec("ROLLBACK");
      expect(answers.map(({ kind }) => kind)).toEqual(["done", "busy", "mismatch"]);
      expect(commits()).toBe(before);
    });

    it("refuses the write that SQLite refuses, and no other of its turn", async () => {
      const { database, store } = await migrated();
      database.exec(`CREATE TRIGGER poison BEFORE INSERT ON semel_records
        WHEN NEW.key = 'poison' BEGIN SELECT RAISE(ABORT, 'poisoned'); END`);
      const [one, poison, other] = await Promise.allSettled([
        store.begin(claimOf("one")),
        store.begin(claimOf("poison")),
        store.begin(claimOf("other")),
      ]);
      expect([one, other]).toMatchObject([
        { value: { kind: "acquired" } },
        { value: { kind: "acquired" } },
      ]);
      expect(poison).toMatchObject({ reason: unusable(/poisoned/) });
    });

    it("never goes on outside a transaction that an error has ended", async () => {
      const { database, store } = await migrated();
      database.exec(`CREATE TRIGGER poison BEFORE INSERT ON semel_records
        WHEN NEW.key = 'poison' BEGIN SELECT RAISE(ROLLBACK, 'poisoned'); END`);
      const claims = ["a", "b", "poison", "c", "d"].map((key) => claimOf(key));
      const answers = await Promise.allSettled(claims.map((claim) => store.begin(claim)));
      for (const [index, answer] of answers.entries()) {
        const record = await store.read(claims[index]!.id);
        expect(record !== undefined).toBe(answer.status === "fulfilled");
      }
      database.exec("DROP TRIGGER poison");
      await acquire(store, claimOf("later"));
    });
  });

  describe("as it keeps records", () => {
    it("gives results as plain bytes of their own", async () => {
      const { store } = await migrated();
      for (const length of [0, 1, 70_000]) {
        const result = randomBytes(length);
        const claim = claimOf(`k${length}`);
        await store.settle(completion(await acquire(store, claim), result));
        const answer = await store.begin(claimOf(`k${length}`));
        const read = await store.read(claim.id);
        for (const bytes of [answer.kind === "done" ? answer.result : null, read?.result]) {
          expect(bytes?.constructor).toBe(Uint8Array);
          expect(bytes?.buffer.byteLength).toBe(length);
          expect(Buffer.from(bytes!).equals(result)).toBe(true);
        }
      }
    });

    it("keeps every character of scopes and reasons", async () => {
      const { store } = await migrated();
      const text = 'a b "quoted" \\ \n é 🎉';
      const claim = claimOf("k", { scope: text });
      const token = await acquire(store, claim);
      await store.settle({ ...token, kind: "hold", reason: text, retentionMs: null });
      expect(await store.begin(claimOf("k", { scope: text }))).toMatchObject({ reason: text });
      expect(await store.read(claim.id)).toMatchObject({ scope: text, reason: text });
      expect((await store.list({ scope: text, limit: 1 })).records).toHaveLength(1);
      expect((await store.list({ scope: "a", limit: 1 })).records).toHaveLength(0);
    });

    it("lists what is readable around a damaged record, which may be deleted", async () => {
      const { database, store } = await migrated();
      for (const key of ["a", "b", "c"]) await complete(store, claimOf(key));
      const { id } = claimOf("b");
      database.exec(`UPDATE semel_records SET owner = x'00' WHERE id = x'${id}'`);
      const { records } = await store.list({ limit: 10 });
      expect(records.map(({ key }) => key)).toEqual(["c", "a"]);
      await expect(store.read(id)).rejects.toMatchObject({ code: "record-unreadable" });
      expect(await store.delete(id)).toEqual({ kind: "deleted" });
      await acquire(store, claimOf("b"));
    });

    it.each(["", "0", "-1", "1e3", "9".repeat(30), "1; DROP TABLE x"])(
      "refuses the cursor %j",
      async (cursor) => {
        const { store } = await migrated();
        await expect(store.list({ limit: 1, cursor })).rejects.toMatchObject({
          code: "option-invalid",
        });
      },
    );

    it.each([0, 1_001, 1.5])("refuses pages of %d", async (limit) => {
      const { store } = await migrated();
      await expect(store.list({ limit })).rejects.toMatchObject({ code: "option-invalid" });
    });

    it("lists a key that expired and was begun again as the newest", async () => {
      const { database, store } = await migrated();
      for (const key of ["a", "b"]) await complete(store, claimOf(key));
      database.exec(`UPDATE semel_records SET expires_at = 1 WHERE key = 'a'`);
      await acquire(store, claimOf("a"));
      const { records } = await store.list({ limit: 10 });
      expect(records.map(({ key }) => key)).toEqual(["a", "b"]);
    });

    it("ST-9: finds what to sweep, to count and to resolve by index alone", async () => {
      const { database } = await migrated();
      const sql = statementsFor(tablesOf("semel"));
      const planOf = (statement: string) => {
        const parameters = statement.split("?").length - 1;
        const rows = database
          .prepare(`EXPLAIN QUERY PLAN ${statement}`)
          .all(...Array(parameters).fill(1)) as { detail: string }[];
        return rows.map(({ detail }) => detail).join("; ");
      };
      expect(planOf(sql.sweep)).toContain("COVERING INDEX semel_expiry (expires_at<?)");
      expect(planOf(sql.countByState)).toContain("COVERING INDEX semel_expiry (expires_at>?)");
      for (const statement of [sql.list("held"), sql.list("running"), sql.countByState]) {
        expect(planOf(statement)).toContain("INDEX semel_active");
      }
      expect(planOf(sql.list("held"))).not.toContain("TEMP B-TREE");
      expect(planOf(sql.list(undefined))).toContain("INTEGER PRIMARY KEY");
    });

    it("ST-9: sweepers on many connections remove all that expired, and nothing live", async () => {
      const { database, store } = await migrated();
      const keys = Array.from({ length: 400 }, (_, index) => `k${index}`);
      await Promise.all(keys.map((key) => acquire(store, claimOf(key))));
      database.exec("UPDATE semel_records SET expires_at = 1 WHERE position % 2 = 0");
      const sweepers = [store, sqliteStore(open()), sqliteStore(open())];
      const swept = await Promise.all(
        sweepers.flatMap((sweeper) => Array.from({ length: 5 }, () => sweeper.sweep(30))),
      );
      expect(Math.max(...swept)).toBe(30);
      expect(swept.reduce((sum, count) => sum + count)).toBe(200);
      expect((await store.stats()).states.running).toBe(200);
    });
  });

  describe("as processes race", () => {
    it("gives each key to one of two connections", async () => {
      const { store } = await migrated();
      const other = sqliteStore(open());
      const keys = Array.from({ length: 50 }, (_, index) => `k${index}`);
      const both = keys.map((key) =>
        Promise.all([store.begin(claimOf(key)), other.begin(claimOf(key))]),
      );
      for (const answers of await Promise.all(both)) {
        expect(answers.map(({ kind }) => kind).sort()).toEqual(["acquired", "busy"]);
      }
    });

    it("gives each key to one of a hundred callers in four processes, which migrate at once", async () => {
      const children = Array.from({ length: 4 }, () => fork(RACE, [driver.name, path]));
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
