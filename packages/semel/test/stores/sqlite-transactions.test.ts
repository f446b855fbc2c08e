// What is SQLite's own about transactions: one writer, synchronous drivers, asynchronous handlers.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, expectTypeOf, it } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { fromPg, fromSqlite } from "../../src/sql/index.ts";
import { type SqliteStoreOptions, sqliteStore } from "../../src/stores/sqlite.ts";
import { deferred, failure } from "../engine/fixture.ts";
import { type OpenDatabase, sqliteDrivers } from "../sqlite-drivers.ts";

describe.each(sqliteDrivers)("transactions of sqliteStore on $name", (driver) => {
  let folder: string;
  let databases: OpenDatabase[];

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "semel-sqlite-transactions-"));
    databases = [];
  });

  afterEach(async () => {
    for (const database of databases) database.close();
    await rm(folder, { recursive: true });
  });

  function open(path = join(folder, "shop.db")): OpenDatabase {
    const database = driver.open(path);
    databases.push(database);
    return database;
  }

  async function shop(options: SqliteStoreOptions<OpenDatabase> = {}) {
    const [database, transactions] = [open(), open()];
    const store = sqliteStore(database, { transactions, ...options });
    await store.migrate();
    database.exec("CREATE TABLE IF NOT EXISTS orders (sku TEXT NOT NULL)");
    const skus = () => database.prepare("SELECT sku FROM orders ORDER BY sku").all();
    const idempotency = new Idempotency({ store, sweep: false });
    return { store, idempotency, transactions, skus };
  }

  const insert = (database: { prepare: OpenDatabase["prepare"] }, sku: string) =>
    database.prepare("INSERT INTO orders VALUES (?)").run(sku);

  it("hands the handler the user's own connection, by its own type", async () => {
    const { idempotency, transactions } = await shop();
    await idempotency.transaction({ key: "k" }, (database) => {
      expectTypeOf(database).toEqualTypeOf<OpenDatabase>();
      expect(database).toBe(transactions);
    });
  });

  it("keeps other operations out of an open transaction: they read, and write when it ends", async () => {
    const { idempotency, store, skus } = await shop();
    await idempotency.run({ key: "old" }, () => "old");
    const [entered, gate] = [deferred(), deferred()];
    const failed = idempotency.transaction({ key: "k" }, async (database) => {
      insert(database, "a");
      entered.resolve();
      await gate.promise;
      throw new Error("boom");
    });
    await entered.promise;
    const other = new Idempotency({ store, sweep: false });
    expect(await other.run({ key: "old" }, () => "new")).toMatchObject({ value: "old" });
    expect(skus()).toEqual([]);
    let isAnswered = false;
    const writing = other
      .run({ key: "meanwhile" }, () => "ran")
      .then((outcome) => {
        isAnswered = true;
        return outcome;
      });
    await delay(50);
    expect(isAnswered).toBe(false);
    gate.resolve();
    expect(await failure(failed)).toMatchObject({ message: "boom" });
    // What was rolled back is the transaction's alone.
    expect(await writing).toMatchObject({ value: "ran", replayed: false });
    expect(await other.get({ key: "meanwhile" })).toMatchObject({ state: "completed" });
    expect(skus()).toEqual([]);
  });

  it("lets other operations through between the transactions of a long queue", async () => {
    const { idempotency } = await shop();
    let done = 0;
    const queue = Array.from({ length: 300 }, (_, index) =>
      idempotency.transaction({ key: `queued ${index}` }, async (database) => {
        insert(database, "a");
        await delay(1);
        done++;
      }),
    );
    await expect.poll(() => done).toBeGreaterThan(10);
    await idempotency.run({ key: "k" }, () => "ran");
    expect(done).toBeLessThan(300);
    await Promise.all(queue);
  });

  it("is unavailable to others within its patience while a handler does not end", async () => {
    const { idempotency, store } = await shop({ busyTimeout: "200ms" });
    const [entered, gate] = [deferred(), deferred()];
    const open = idempotency.transaction({ key: "k" }, async () => {
      entered.resolve();
      await gate.promise;
    });
    await entered.promise;
    const error = await failure(new Idempotency({ store, sweep: false }).void({ key: "other" }));
    expect(error).toMatchObject({
      code: "store-unavailable",
      message: expect.stringContaining("longer than `busyTimeout`"),
    });
    gate.resolve();
    await open;
    expect(await idempotency.void({ key: "other" })).toMatchObject({ kind: "voided" });
  });

  it("refuses a run() in the handler at once, instead of waiting for itself", async () => {
    const { idempotency } = await shop();
    const nested = idempotency.transaction({ key: "outer" }, () =>
      idempotency.run({ key: "inner" }, () => 1),
    );
    expect(await failure(nested)).toMatchObject({
      code: "store-unusable",
      message: expect.stringContaining("within(fromSqlite(database)"),
    });
    // What a handler started and its transaction did not wait for is not in its way later.
    const gate = deferred();
    let left: Promise<unknown> = Promise.resolve();
    await idempotency.transaction({ key: "outer" }, () => {
      left = gate.promise.then(() => idempotency.run({ key: "inner" }, () => "later"));
    });
    gate.resolve();
    expect(await left).toMatchObject({ value: "later" });
  });

  it("waits for another process's transaction, and takes its lock at once", async () => {
    const { idempotency, skus } = await shop();
    const other = open();
    other.exec("BEGIN IMMEDIATE");
    insert(other, "theirs");
    let runs = 0;
    const asked = idempotency.transaction({ key: "k" }, (database) => {
      runs++;
      insert(database, "ours");
    });
    await delay(60);
    expect(runs).toBe(0);
    other.exec("COMMIT");
    await asked;
    expect(runs).toBe(1);
    expect(skus()).toHaveLength(2);
  });

  it("records nothing when SQLite or the handler ended the transaction before", async () => {
    const { idempotency, skus } = await shop();
    for (const statement of ["ROLLBACK", "COMMIT"]) {
      const ended = idempotency.transaction({ key: statement }, (database) => {
        database.exec(statement);
      });
      expect(await failure(ended)).toMatchObject({
        code: "store-unusable",
        message: expect.stringContaining("ended before its result was recorded"),
      });
      expect(await idempotency.get({ key: statement })).toBeUndefined();
    }
    expect(skus()).toEqual([]);
  });

  it("shows the caller a constraint that was deferred to the commit", async () => {
    const { idempotency, transactions } = await shop();
    transactions.exec(`CREATE TABLE items (
      sku TEXT REFERENCES products (sku) DEFERRABLE INITIALLY DEFERRED)`);
    transactions.exec("CREATE TABLE products (sku TEXT PRIMARY KEY)");
    transactions.exec("PRAGMA foreign_keys = ON");
    const failed = idempotency.transaction({ key: "k" }, (database) => {
      database.prepare("INSERT INTO items VALUES (?)").run("unknown");
    });
    expect(await failure(failed)).toMatchObject({
      message: expect.stringMatching(/FOREIGN KEY constraint failed/),
    });
    expect(await idempotency.get({ key: "k" })).toBeUndefined();
    expect(await idempotency.transaction({ key: "k" }, () => "ran")).toMatchObject({
      value: "ran",
    });
  });

  it("says what to do when it has no connection for transactions, or the wrong one", async () => {
    const database = open();
    const alone = sqliteStore(database);
    await alone.migrate();
    const asked = new Idempotency({ store: alone, sweep: false }).transaction(
      { key: "k" },
      () => 1,
    );
    expect(await failure(asked)).toMatchObject({
      code: "store-unusable",
      message: expect.stringContaining("transactions: another"),
    });
    expect(() => sqliteStore(database, { transactions: database })).toThrow(/other than/);
    for (const path of [join(folder, "other.db"), ":memory:"]) {
      const store = sqliteStore(database, { transactions: open(path) });
      const wrong = new Idempotency({ store, sweep: false }).transaction({ key: "k" }, () => 1);
      expect(await failure(wrong)).toMatchObject({
        code: "store-unusable",
        message: expect.stringContaining("one file on disk"),
      });
    }
  });

  it("says so when the tables are not there", async () => {
    const store = sqliteStore(open(), { transactions: open() });
    const asked = store.transactions.run(async () => 1);
    expect(await failure(asked)).toMatchObject({ message: expect.stringContaining("migrate") });
  });

  it("joins a transaction on the user's own connection, and needs none of its own for that", async () => {
    const [database, own] = [open(), open()];
    const store = sqliteStore(database);
    await store.migrate();
    database.exec("CREATE TABLE orders (sku TEXT NOT NULL)");
    const idempotency = new Idempotency({ store, sweep: false });
    const ask = () =>
      idempotency.within(fromSqlite(own), { key: "k" }, () => {
        insert(own, "a");
        return "done";
      });
    own.exec("BEGIN IMMEDIATE");
    expect(await ask()).toMatchObject({ value: "done", replayed: false });
    own.exec("ROLLBACK");
    expect(await idempotency.get({ key: "k" })).toBeUndefined();
    own.exec("BEGIN IMMEDIATE");
    expect(await ask()).toMatchObject({ replayed: false });
    own.exec("COMMIT");
    own.exec("BEGIN IMMEDIATE");
    expect(await ask()).toMatchObject({ value: "done", replayed: true });
    own.exec("COMMIT");
    expect(own.prepare("SELECT sku FROM orders").all()).toHaveLength(1);
  });

  it("refuses a transaction of another database", async () => {
    const { idempotency } = await shop();
    const client = fromPg({ query: async () => ({ rows: [], rowCount: 0 }) });
    const error = await failure(idempotency.within(client, { key: "k" }, () => 1));
    expect(error).toMatchObject({
      code: "store-unusable",
      message: expect.stringContaining("cannot commit together"),
    });
  });

  it("is as durable in a transaction as outside of one", async () => {
    for (const [synchronous, level] of [
      ["full", 2],
      ["normal", 1],
    ] as const) {
      const { idempotency } = await shop({ synchronous });
      const { value } = await idempotency.transaction({ key: synchronous }, (database) => {
        const [row] = database.prepare("PRAGMA synchronous").all();
        return Number((row as { synchronous: number }).synchronous);
      });
      expect(value).toBe(level);
    }
  });
});
