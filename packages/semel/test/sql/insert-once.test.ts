// SQL-1: a row is inserted once, and whoever comes second gets the row that is there.

import { afterAll, beforeAll, describe, expect, expectTypeOf, test } from "vitest";
import { insertOnce, insertOnceAll, RowMismatch, type SqlExecutor } from "../../src/sql/index.ts";
import {
  type Connection,
  closeServers,
  databaseKinds,
  failureOf,
  type Observer,
  observe,
  storm,
  type TestDatabase,
} from "./databases.ts";

interface Order {
  id: number | string;
  shop: number | string;
  number: string;
  total: number | string | null;
}

afterAll(closeServers);

for (const { name, reason, open } of databaseKinds) {
  const label = reason ? `${name} (skipped: ${reason})` : name;
  describe.skipIf(reason)(`inserting once on ${label} (SQL-1)`, () => {
    let database: TestDatabase;
    let connections: Connection[];
    let executor: SqlExecutor;
    let run: Connection["run"];

    beforeAll(async () => {
      database = await open();
      connections = [];
      for (let n = 0; n < 25; n++) connections.push(await database.connect());
      ({ executor, run } = connections[0]!);
      await run(
        `CREATE TABLE orders (id ${database.serial}, shop bigint NOT NULL, number varchar(100) NOT NULL, total bigint, note varchar(100) UNIQUE, UNIQUE (shop, number))`,
      );
      const isMysql = database.dialect === "mysql";
      const [table, key, column] = isMysql
        ? ["`select`", "`order`", "`it's; a \"na--me`"]
        : ['"select"', '"order"', '"it\'s; a ""na--me"'];
      await run(`CREATE TABLE ${table} (${key} varchar(50) PRIMARY KEY, ${column} varchar(50))`);
    });

    afterAll(() => database?.close());

    const place = (on: SqlExecutor, number: string, total = 1, shop = 1) =>
      insertOnce<Order>(on, {
        table: "orders",
        values: { shop, number, total },
        key: ["shop", "number"],
      });

    const count = async (number: string) => {
      const [row] = await run(`SELECT count(*) AS n FROM orders WHERE number = '${number}'`);
      return Number(row!["n"]);
    };

    test("the first call inserts, the second gets the row of the first, defaults included", async () => {
      const first = await place(executor, "A-1", 4200);
      expect(first.inserted).toBe(true);
      expect(first.row.id).toBeDefined();
      const second = await place(executor, "A-1", 9900);
      expect(second).toEqual({ row: first.row, inserted: false });
      expect(Number(second.row.total)).toBe(4200);
    });

    test("of 100 concurrent calls one inserts, and all get the same row", async () => {
      for (const round of ["storm-1", "storm-2", "storm-3"]) {
        const outcomes = await storm(connections, 100, ({ executor: on }, n) =>
          place(on, round, n),
        );
        expect(outcomes.filter(({ inserted }) => inserted)).toHaveLength(1);
        expect(new Set(outcomes.map(({ row }) => String(row.id))).size).toBe(1);
        expect(await count(round)).toBe(1);
      }
    });

    test("a part of a composite key in common is no duplicate", async () => {
      const one = await place(executor, "A-2", 1, 1);
      const other = await place(executor, "A-2", 1, 2);
      expect([one.inserted, other.inserted]).toEqual([true, true]);
      expect(other.row.id).not.toEqual(one.row.id);
    });

    test("a duplicate within a transaction leaves the transaction usable", async () => {
      await place(executor, "A-3");
      const { executor: on, run: command } = connections[1]!;
      await command(database.dialect === "mysql" ? "START TRANSACTION" : "BEGIN");
      expect((await place(on, "A-3")).inserted).toBe(false);
      expect((await place(on, "A-4")).inserted).toBe(true);
      await command("ROLLBACK");
      expect(await count("A-4")).toBe(0);
    });

    test("what differs from the row that is there is an error that names the columns and not their values", async () => {
      const options = { table: "orders", key: ["shop", "number"] as const };
      const values = { shop: 1, number: "A-5", total: 4200 };
      await insertOnce<Order>(executor, { ...options, values });
      const again = await insertOnce<Order>(executor, { ...options, values, compare: true });
      expect(again.inserted).toBe(false);
      expect(Object.keys(again.row).sort()).toEqual(["id", "note", "number", "shop", "total"]);

      const changed = { ...values, total: 9917 };
      const error = await failureOf(
        insertOnce<Order>(executor, { ...options, values: changed, compare: true }),
      );
      expect(error).toBeInstanceOf(RowMismatch);
      expect(error).toMatchObject({ code: "key-reused", retry: "new-key", columns: ["total"] });
      expect(error.message).not.toMatch(/4200|9917/);
      const nulled = { ...values, total: null };
      await expect(
        insertOnce<Order>(executor, { ...options, values: nulled, compare: ["total"] }),
      ).rejects.toBeInstanceOf(RowMismatch);
      expect((await place(executor, "A-5")).row).toEqual(again.row);
    });

    test("NULL equals NULL where payloads are compared", async () => {
      const options = { table: "orders", key: ["shop", "number"] as const, compare: true };
      const values = { shop: 1, number: "A-6", total: null };
      await insertOnce<Order>(executor, { ...options, values });
      expect((await insertOnce<Order>(executor, { ...options, values })).inserted).toBe(false);
    });

    test("a NULL in the key is refused, because NULLs never conflict", async () => {
      for (const shop of [null, undefined]) {
        const values = { shop, number: "A-7" } as never;
        const error = await failureOf(
          insertOnce(executor, { table: "orders", values, key: ["shop", "number"] }),
        );
        expect(error).toMatchObject({ code: "option-invalid" });
        expect(error.message).toMatch(/"shop"/);
      }
      expect(await count("A-7")).toBe(0);
    });

    test("a duplicate by another unique index is the database's error and not an existing row", async () => {
      const insert = (number: string) =>
        insertOnce(executor, {
          table: "orders",
          values: { shop: 1, number, note: "only one" },
          key: ["shop", "number"],
        });
      await insert("A-8");
      const error = (await failureOf(insert("A-9"))) as Error & { code: string };
      expect(error.message).toMatch(/insertOnce\(\) into .orders.: .*(unique|duplicate)/i);
      const codes = { postgres: "23505", mysql: "ER_DUP_ENTRY", sqlite: error.code };
      expect(error.code).toBe(codes[database.dialect]);
      expect(await count("A-9")).toBe(0);
    });

    test("tables, columns and indexes that are not there are the database's errors, in context", async () => {
      const values = { shop: 1, number: "A-10" };
      const missing = await failureOf(
        insertOnce(executor, { table: "nowhere", values, key: ["shop"] }),
      );
      expect(missing.message).toMatch(/insertOnce\(\) into .nowhere.: .*(exist|no such table)/i);
      const column = await failureOf(
        insertOnce(executor, {
          table: "orders",
          values: { ...values, colour: "red" },
          key: ["shop", "number"],
        }),
      );
      expect(column.message).toMatch(/insertOnce\(\) into .orders.: .*colour/);
      if (database.dialect !== "mysql") {
        const index = await failureOf(
          insertOnce(executor, { table: "orders", values, key: ["number"] }),
        );
        expect(index.message).toMatch(/ON CONFLICT/);
      }
    });

    test("names are quoted: reserved words, quotes, semicolons, and a schema in front", async () => {
      const values = { order: "x", "it's; a \"na--me": "v" };
      const options = { values, key: ["order"] };
      const table = [database.schema, "select"] as const;
      expect((await insertOnce(executor, { ...options, table })).inserted).toBe(true);
      const again = await insertOnce(executor, { ...options, table: "select", compare: true });
      expect(again).toEqual({ row: values, inserted: false });
    });

    test("names and values that try to be SQL do nothing but fail or be stored", async () => {
      const attacks = [
        'shop") VALUES (1); DROP TABLE orders; --',
        "shop`) VALUES (1); DROP TABLE orders; -- ",
        "shop'; DROP TABLE orders; --",
        "shop\\",
        "shop --",
      ];
      for (const attack of attacks) {
        await expect(
          insertOnce(executor, {
            table: "orders",
            values: { shop: 1, number: "A-11", [attack]: 1 },
            key: ["shop", "number"],
          }),
        ).rejects.toThrow();
        await expect(
          insertOnce(executor, { table: attack, values: { shop: 1 }, key: ["shop"] }),
        ).rejects.toThrow();
        const stored = await place(executor, attack);
        expect(stored.row.number).toBe(attack);
      }
      expect(await count("A-11")).toBe(0);
      expect((await place(executor, "A-1")).inserted).toBe(false);
    });

    test("names with NUL, empty names and dotted names are refused, as are values that are no values", async () => {
      const values = { shop: 1, number: "A-12" };
      const refused = (options: object, message: RegExp) =>
        expect(
          insertOnce(executor, { table: "orders", values, key: ["shop"], ...options } as never),
        ).rejects.toThrow(message);
      await refused({ table: "or\0ders" }, /no name in SQL can/);
      await refused({ table: "" }, /not empty/);
      await refused({ table: ["a", "b", "c"] }, /\[schema, name\]/);
      await refused({ table: "shop.orders" }, /write \["shop","orders"\] for a table of a schema/);
      await refused({ values: { ...values, "a\0": 1 } }, /no name in SQL can/);
      await refused({ values: { ...values, total: { toSqlString: () => "1" } } }, /"total"/);
      await refused({ values: { ...values, total: [1, 2] } }, /JSON\.stringify/);
      await refused({ values: { ...values, total: undefined } }, /"total" is undefined/);
      await refused({ key: [] }, /must name the columns/);
      await refused({ compare: ["colour"] }, /"colour"/);
      await refused({ keys: ["shop"] }, /did you mean `key`/);
    });

    test("a number as the key of a text column finds that text and no other", async () => {
      await run("CREATE TABLE codes (code varchar(20) PRIMARY KEY, body varchar(20))");
      await run("INSERT INTO codes VALUES ('abc', 'other'), ('0.0', 'other'), ('00', 'other')");
      const insert = () =>
        insertOnce(executor, { table: "codes", values: { code: "0", body: "x" }, key: ["code"] });
      const byNumber = () =>
        insertOnce(executor, { table: "codes", values: { code: 0, body: "x" }, key: ["code"] });
      expect(await insert()).toEqual({ row: { code: "0", body: "x" }, inserted: true });
      const { row, inserted } = await byNumber();
      // Drivers of SQLite bind numbers as floating point, of which it makes this text.
      const expected = database.dialect === "sqlite" ? "0.0" : "0";
      expect([row["code"], inserted]).toEqual([expected, false]);
    });

    // Drivers of SQLite refuse or round them, unless told otherwise.
    const testServers = name.startsWith("SQLite") ? test.skip : test;
    testServers("keys beyond 2^53 stay apart", async () => {
      const key = 9_007_199_254_740_992n;
      await run("CREATE TABLE big (id bigint PRIMARY KEY, body varchar(20))");
      const insert = (id: bigint) =>
        insertOnce(executor, { table: "big", values: { id, body: String(id) }, key: ["id"] });
      for (const id of [key, key + 1n, key + 2n]) expect((await insert(id)).inserted).toBe(true);
      for (const id of [key, key + 1n, key + 2n]) {
        const { row, inserted } = await insert(id);
        expect([row["body"], inserted]).toEqual([String(id), false]);
      }
    });

    describe("many rows", () => {
      const placeAll = (on: SqlExecutor, numbers: readonly string[], compare = false) =>
        insertOnceAll<Order>(on, {
          table: "orders",
          values: numbers.map((number) => ({ shop: 3, number, total: number.length })),
          key: ["shop", "number"],
          compare,
        });

      test("each row has its outcome, in the order of the list", async () => {
        await placeAll(executor, ["b-2", "b-4"]);
        const numbers = ["b-5", "b-4", "b-3", "b-2", "b-1"];
        const outcomes = await placeAll(executor, numbers);
        expect(outcomes.map(({ row }) => row.number)).toEqual(numbers);
        expect(outcomes.map(({ inserted }) => inserted)).toEqual([true, false, true, false, true]);
      });

      test("a key that comes twice is inserted once, for the first of them", async () => {
        const outcomes = await placeAll(executor, ["c-1", "c-2", "c-1"]);
        expect(outcomes.map(({ inserted }) => inserted)).toEqual([true, true, false]);
        expect(outcomes[2]!.row).toEqual(outcomes[0]!.row);
        const error = await failureOf(
          insertOnceAll<Order>(executor, {
            table: "orders",
            values: [
              { shop: 3, number: "c-3", total: 1 },
              { shop: 3, number: "c-3", total: 2 },
            ],
            key: ["shop", "number"],
            compare: true,
          }),
        );
        expect(error).toMatchObject({ columns: ["total"], index: 1 });
      });

      test("more rows than one statement takes are inserted by several", async () => {
        const numbers = Array.from({ length: 1_250 }, (_, n) => `d-${n}`);
        const first = await placeAll(executor, numbers);
        expect(first.every(({ inserted }) => inserted)).toBe(true);
        const again = await placeAll(executor, numbers, true);
        expect(again.some(({ inserted }) => inserted)).toBe(false);
        expect(again.map(({ row }) => row.number)).toEqual(numbers);
        const [row] = await run("SELECT count(*) AS n FROM orders WHERE number LIKE 'd-%'");
        expect(Number(row!["n"])).toBe(1_250);
      });

      test("overlapping lists in different orders at once insert each row once", async () => {
        const numbers = Array.from({ length: 60 }, (_, n) => `e-${n}`);
        const lists = await storm(connections, 50, ({ executor: on }, n) => {
          const rotated = [...numbers.slice(n), ...numbers.slice(0, n)];
          return placeAll(on, n % 2 ? rotated : rotated.reverse());
        });
        const inserted = lists.flat().filter((outcome) => outcome.inserted);
        expect(inserted.map(({ row }) => row.number).sort()).toEqual([...numbers].sort());
      });

      test("no rows are no work, and rows of different shapes are refused", async () => {
        expect(await placeAll(executor, [])).toEqual([]);
        const values = [
          { shop: 3, number: "f-1" },
          { shop: 3, number: "f-2", total: 1 },
        ];
        await expect(
          insertOnceAll(executor, { table: "orders", values, key: ["shop", "number"] }),
        ).rejects.toThrow(/row 1 has other columns than row 0/);
      });
    });
  });
}

const isolated = databaseKinds.filter(({ name }) => !name.startsWith("SQLite"));
for (const { name, reason, open } of isolated) {
  describe.skipIf(reason)(`a row of an open transaction on ${name} (SQL-1)`, () => {
    let database: TestDatabase;
    let first: Connection;
    let second: Connection;
    let observer: Observer;
    const begin = (isolation: string) => [
      `SET ${database.dialect === "mysql" ? "" : "SESSION CHARACTERISTICS AS "}TRANSACTION ISOLATION LEVEL ${isolation}`,
      "START TRANSACTION",
    ];
    const place = ({ executor }: Connection, number: string) =>
      insertOnce(executor, { table: "orders", values: { number }, key: ["number"] });

    beforeAll(async () => {
      database = await open();
      first = await database.connect();
      second = await database.connect();
      observer = await observe(database);
      await first.run("CREATE TABLE orders (number varchar(100) PRIMARY KEY)");
    });
    afterAll(() => database?.close());

    async function beginBoth(isolation: string): Promise<void> {
      for (const connection of [first, second]) {
        for (const sql of begin(isolation)) await connection.run(sql);
      }
    }

    test("is waited for and returned when that commits, at READ COMMITTED", async () => {
      await beginBoth("READ COMMITTED");
      await place(first, "w-1");
      const outcome = place(second, "w-1");
      await observer.waits(second);
      await first.run("COMMIT");
      expect(await outcome).toEqual({ row: { number: "w-1" }, inserted: false });
      await second.run("COMMIT");
    });

    test("is waited for and inserted when that rolls back", async () => {
      await beginBoth("READ COMMITTED");
      await place(first, "w-2");
      const outcome = place(second, "w-2");
      await observer.waits(second);
      await first.run("ROLLBACK");
      expect((await outcome).inserted).toBe(true);
      await second.run("COMMIT");
    });

    test("lists that overlap in other orders wait for each other, and never in a circle", async () => {
      const placeAll = ({ executor }: Connection, numbers: string[]) =>
        insertOnceAll(executor, {
          table: "orders",
          values: numbers.map((number) => ({ number })),
          key: ["number"],
        });
      const holder = await database.connect();
      await holder.run("START TRANSACTION");
      await place(holder, "m-1");
      await beginBoth("READ COMMITTED");
      // The first has its first row and waits in the middle of its list.
      const firsts = placeAll(first, ["m-0", "m-1", "m-2"]);
      await observer.waits(first);
      const seconds = placeAll(second, ["m-2", "m-0"]);
      await observer.waits(second);
      await holder.run("ROLLBACK");
      expect((await firsts).map(({ inserted }) => inserted)).toEqual([true, true, true]);
      await first.run("COMMIT");
      expect((await seconds).map(({ inserted }) => inserted)).toEqual([false, false]);
      await second.run("COMMIT");
    });

    const isPostgres = name === "Postgres";
    test.each(isPostgres ? ["REPEATABLE READ", "SERIALIZABLE"] : ["REPEATABLE READ"])(
      `that committed after the snapshot is ${isPostgres ? "an error" : "found by a locking read"}, at %s`,
      async (isolation) => {
        await beginBoth(isolation);
        await second.run("SELECT * FROM orders");
        const late = `late at ${isolation}`;
        await place(first, late);
        await first.run("COMMIT");
        const outcome = place(second, late);
        if (isPostgres) {
          await expect(outcome).rejects.toMatchObject({ code: "40001" });
        } else {
          expect(await outcome).toEqual({ row: { number: late }, inserted: false });
          const all = await insertOnceAll(second.executor, {
            table: "orders",
            values: [{ number: late }, { number: "w-4" }, { number: late }],
            key: ["number"],
          });
          expect(all.map(({ inserted }) => inserted)).toEqual([false, true, false]);
        }
        await second.run("ROLLBACK");
      },
    );
  });
}

test("values, keys and compared columns are those of the row's type", () => {
  const call = (executor: SqlExecutor) =>
    insertOnce<Order>(executor, {
      table: "orders",
      values: { shop: 1, number: "A" },
      // @ts-expect-error no column of an order
      key: ["shop", "colour"],
    });
  expectTypeOf(call).returns.resolves.toEqualTypeOf<{ row: Order; inserted: boolean }>();
  const untyped = (executor: SqlExecutor) =>
    insertOnce(executor, { table: "orders", values: { shop: 1 }, key: ["shop"] });
  expectTypeOf(untyped)
    .returns.resolves.toHaveProperty("row")
    .toEqualTypeOf<Record<string, unknown>>();
});
