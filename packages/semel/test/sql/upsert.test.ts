// SQL-1: a row is written whether it is there or not, and the caller learns which it was.

import { afterAll, beforeAll, describe, expect, expectTypeOf, test } from "vitest";
import { type SqlExecutor, type Upserted, upsert, upsertAll } from "../../src/sql/index.ts";
import {
  type Connection,
  closeServers,
  databaseKinds,
  storm,
  type TestDatabase,
} from "./databases.ts";

interface Price {
  sku: string;
  cents: number | string | null;
  revision: number | string | null;
  note: string | null;
}

afterAll(closeServers);

for (const { name, reason, open } of databaseKinds) {
  const label = reason ? `${name} (skipped: ${reason})` : name;
  describe.skipIf(reason)(`upserting on ${label} (SQL-1)`, () => {
    let database: TestDatabase;
    let connections: Connection[];
    let executor: SqlExecutor;
    let run: Connection["run"];

    beforeAll(async () => {
      database = await open();
      connections = [];
      for (let n = 0; n < 16; n++) connections.push(await database.connect());
      ({ executor, run } = connections[0]!);
      await run(
        "CREATE TABLE prices (sku varchar(50) PRIMARY KEY, cents bigint, revision bigint, note varchar(50))",
      );
    });
    afterAll(() => database?.close());

    const options = { table: "prices", key: ["sku"] } as const;
    const read = async (sku: string) => {
      const [row] = await run(`SELECT * FROM prices WHERE sku = '${sku}'`);
      return row && { ...row, cents: Number(row["cents"]), revision: Number(row["revision"]) };
    };

    test("tells inserted from updated, and returns the row that is there then", async () => {
      const values = { sku: "A", cents: 1, revision: 1, note: "first" };
      const first = await upsert<Price>(executor, { ...options, values });
      expect(first.kind).toBe("inserted");
      const second = await upsert<Price>(executor, { ...options, values: { ...values, cents: 2 } });
      expect(second.kind).toBe("updated");
      expect([Number(second.row.cents), second.row.note]).toEqual([2, "first"]);
      const same = await upsert<Price>(executor, { ...options, values: { ...values, cents: 2 } });
      expect(same).toEqual(second);
    });

    test("updates the chosen columns only", async () => {
      const values = { sku: "B", cents: 1, revision: 1, note: "first" };
      await upsert<Price>(executor, { ...options, values });
      const changed = { sku: "B", cents: 2, revision: 2, note: "second" };
      await upsert<Price>(executor, { ...options, values: changed, update: ["cents"] });
      expect(await read("B")).toEqual({ sku: "B", cents: 2, revision: 1, note: "first" });
    });

    test("a version that is not newer changes nothing; a NULL is older than any", async () => {
      const write = (revision: number, cents: number) =>
        upsert<Price>(executor, {
          ...options,
          values: { sku: "C", cents, revision },
          onlyIfNewer: "revision",
        });
      expect((await write(5, 5)).kind).toBe("inserted");
      for (const late of [4, 5]) {
        const { kind, row } = await write(late, 99);
        expect([kind, Number(row.cents), Number(row.revision)]).toEqual(["unchanged", 5, 5]);
      }
      expect((await write(10, 10)).kind).toBe("updated");
      expect(await read("C")).toMatchObject({ cents: 10, revision: 10 });
      await run("UPDATE prices SET revision = NULL WHERE sku = 'C'");
      expect((await write(1, 1)).kind).toBe("updated");
      await expect(write(null as never, 1)).rejects.toThrow(/"revision", which is NULL/);
    });

    test("concurrent messages in any order end with the newest, and one inserted", async () => {
      const outcomes = await storm(connections, 100, async ({ executor: on }, n) => {
        // Every number below 101 once: 37 has no factor in common with it.
        const revision = ((n + 1) * 37) % 101;
        const values = { sku: "D", cents: revision * 10, revision };
        return upsert<Price>(on, { ...options, values, onlyIfNewer: "revision" });
      });
      expect(await read("D")).toMatchObject({ cents: 1_000, revision: 100 });
      expect(outcomes.filter(({ kind }) => kind === "inserted")).toHaveLength(1);
    });

    test("concurrent transactions on one row that is there do not lock each other out", async () => {
      await upsert<Price>(executor, { ...options, values: { sku: "E", cents: 0 } });
      const begin = { postgres: "BEGIN", mysql: "START TRANSACTION", sqlite: "BEGIN IMMEDIATE" };
      // Handles of one process would block it while they wait.
      const lines = database.dialect === "sqlite" ? connections.slice(0, 1) : connections;
      const outcomes = await storm(lines, 64, async ({ executor: on, run: command }, n) => {
        await command(begin[database.dialect]);
        const { kind } = await upsert<Price>(on, { ...options, values: { sku: "E", cents: n } });
        await command("COMMIT");
        return kind;
      });
      expect(new Set(outcomes)).toEqual(new Set(["updated"]));
    });

    test("many rows: inserted, updated and unchanged, and a key that comes twice", async () => {
      await upsert<Price>(executor, { ...options, values: { sku: "F-2", cents: 1, revision: 9 } });
      await upsert<Price>(executor, { ...options, values: { sku: "F-3", cents: 1, revision: 1 } });
      const values = [
        { sku: "F-4", cents: 4, revision: 1 },
        { sku: "F-3", cents: 3, revision: 2 },
        { sku: "F-2", cents: 2, revision: 2 },
        { sku: "F-1", cents: 1, revision: 1 },
        { sku: "F-4", cents: 44, revision: 2 },
      ];
      const outcomes = await upsertAll<Price>(executor, {
        ...options,
        values,
        onlyIfNewer: "revision",
      });
      expect(outcomes.map(({ kind }) => kind)).toEqual([
        "inserted",
        "updated",
        "unchanged",
        "inserted",
        "updated",
      ]);
      expect(outcomes.map(({ row }) => Number(row.cents))).toEqual([4, 3, 1, 1, 44]);
      expect(await upsertAll<Price>(executor, { ...options, values: [] })).toEqual([]);
    });

    test("overlapping lists in different orders at once end with whole rows", async () => {
      const skus = Array.from({ length: 30 }, (_, n) => `G-${n}`);
      await storm(connections, 32, ({ executor: on }, n) => {
        const values = skus.map((sku) => ({ sku, cents: n, revision: n }));
        return upsertAll<Price>(on, { ...options, values: n % 2 ? values : values.reverse() });
      });
      const rows = await run("SELECT * FROM prices WHERE sku LIKE 'G-%'");
      expect(rows).toHaveLength(30);
      for (const { cents, revision } of rows) expect(cents).toEqual(revision);
    });

    test("updates of the key, of columns that are not given and of none are refused", async () => {
      const values = { sku: "H", cents: 1 };
      const refused = (more: object, message: RegExp) =>
        expect(upsert(executor, { ...options, values, ...more } as never)).rejects.toThrow(message);
      await refused({ update: ["sku"] }, /key column "sku" cannot be updated/);
      await refused({ update: ["note"] }, /"note" is to be updated and not in `values`/);
      await refused({ onlyIfNewer: "revision" }, /"revision" is to be updated and not in `values`/);
      await refused({ values: { sku: "H" } }, /use insertOnce\(\)/);
      await refused({ values: { sku: null, cents: 1 } }, /key column "sku" is NULL/);
      await refused({ compare: true }, /no option `compare`/);
      expect(await read("H")).toBeUndefined();
    });
  });
}

test("values, keys and updated columns are those of the row's type", () => {
  const call = (executor: SqlExecutor) =>
    upsert<Price>(executor, {
      table: "prices",
      // @ts-expect-error a list is no value of SQL's
      values: { sku: ["A"] },
      // @ts-expect-error no column of a price
      key: ["colour"],
      // @ts-expect-error nor is this
      onlyIfNewer: "rev",
    });
  expectTypeOf(call).returns.resolves.toEqualTypeOf<Upserted<Price>>();
});
