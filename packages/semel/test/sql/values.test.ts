// SQL-1: every kind of value reaches a column and is found there again, alone and as a key; what a client
// would turn into another value on its way is refused.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  insertOnce,
  insertOnceAll,
  type SqlExecutor,
  updateVersion,
  upsert,
  upsertAll,
} from "../../src/sql/index.ts";
import {
  type Connection,
  closeServers,
  databaseKinds,
  failureOf,
  type TestDatabase,
} from "./databases.ts";

afterAll(closeServers);

const TYPES = {
  postgres: { bytes: "bytea", real: "double precision", flag: "boolean", json: "jsonb" },
  mysql: { bytes: "VARBINARY(100)", real: "DOUBLE", flag: "BOOLEAN", json: "JSON" },
  sqlite: { bytes: "BLOB", real: "REAL", flag: "INTEGER", json: "TEXT" },
};

const BYTES = Uint8Array.from({ length: 64 }, (_, index) => index * 4);
const AT = new Date("2024-02-29T23:59:59.123Z");
const DOCUMENT = { text: "é ' \" \\ ` ? $1 :a \u{1F600}", list: [1, null, { deep: true }] };

interface Thing {
  id: string;
  text: string | null;
  count: number | string | bigint | null;
  real: number | null;
  bytes: Uint8Array | null;
  flag: boolean | number | null;
  at: Date | string | null;
  document: unknown;
  version: number | string;
}

for (const { name, reason, open } of databaseKinds) {
  const label = reason ? `${name} (skipped: ${reason})` : name;
  describe.skipIf(reason)(`values on ${label} (SQL-1)`, () => {
    let database: TestDatabase;
    let connection: Connection;
    let executor: SqlExecutor;
    let run: Connection["run"];

    beforeAll(async () => {
      database = await open();
      connection = await database.connect();
      ({ executor, run } = connection);
      const { bytes, real, flag, json } = TYPES[database.dialect];
      await run(
        `CREATE TABLE things (id varchar(50) PRIMARY KEY, text varchar(200), count bigint, real_ ${real}, bytes ${bytes}, flag ${flag}, at ${database.time}, document ${json}, version bigint)`.replaceAll(
          "real_",
          database.dialect === "mysql" ? "`real`" : '"real"',
        ),
      );
    });
    afterAll(() => database?.close());

    const values = {
      text: `' " \\ \` ? ?? $1 :name %s -- /* é \u{1F600} \n`,
      count: 9_007_199_254_740_991n,
      real: 0.1,
      bytes: BYTES,
      flag: true,
      at: AT,
      document: JSON.stringify(DOCUMENT),
      version: 1,
    };
    const nulls = { text: null, count: null, real: null, bytes: null, flag: null, at: null };

    const expectStored = (row: Thing) => {
      expect(row).toMatchObject({ text: values.text, real: 0.1 });
      expect([BigInt(row.count!), Number(row.flag)]).toEqual([values.count, 1]);
      expect(Buffer.from(row.bytes!).equals(BYTES)).toBe(true);
      expect(new Date(row.at!).getTime()).toBe(AT.getTime());
      const document = typeof row.document === "string" ? JSON.parse(row.document) : row.document;
      expect(document).toEqual(DOCUMENT);
    };

    test("text, numbers, 64 bits, bytes, booleans, times and JSON come back as they went", async () => {
      const options = { table: "things", key: ["id"] as const };
      const first = await insertOnce<Thing>(executor, {
        ...options,
        values: { id: "A", ...values },
      });
      expectStored(first.row);
      // As text, a document of JSON differs from itself on MySQL.
      const compare = ["text", "count", "real", "bytes", "flag", "at"] as const;
      const again = await insertOnce<Thing>(executor, {
        ...options,
        values: { id: "A", ...values },
        compare: database.dialect === "mysql" ? compare : true,
      });
      expect(again).toEqual({ row: first.row, inserted: false });
      for (const [column, other] of Object.entries({
        bytes: BYTES.slice(1),
        at: new Date(AT.getTime() + 1),
        count: values.count - 1n,
        flag: false,
        real: 0.2,
      })) {
        const changed = { id: "A", ...values, [column]: other };
        const error = await failureOf(
          insertOnce<Thing>(executor, { ...options, values: changed, compare }),
        );
        expect(error).toMatchObject({ code: "key-reused", columns: [column] });
      }
    });

    test("upserting and updating write every kind of value, NULL among them", async () => {
      const options = { table: "things", key: ["id"] as const };
      await upsert<Thing>(executor, { ...options, values: { id: "B", ...nulls, version: 1 } });
      const { kind, row } = await upsert<Thing>(executor, {
        ...options,
        values: { id: "B", ...values },
      });
      expect(kind).toBe("updated");
      expectStored(row);
      const where = { table: "things", key: { id: "B" }, version: "version" } as const;
      const cleared = await updateVersion<Thing>(executor, { ...where, expected: 1, set: nulls });
      if (cleared.kind !== "updated") throw new Error(cleared.kind);
      expect(cleared.row).toMatchObject(nulls);
      const { version: _, ...set } = values;
      const filled = await updateVersion<Thing>(executor, { ...where, expected: 2, set });
      if (filled.kind !== "updated") throw new Error(filled.kind);
      expectStored(filled.row);
    });

    const KEYS: [string, keyof (typeof TYPES)["sqlite"] | "time" | "bigint", unknown, unknown][] = [
      ["bytes", "bytes", BYTES, BYTES.slice(0, -1)],
      ["times", "time", AT, new Date(AT.getTime() + 1)],
      ["64 bits", "bigint", 2n ** 53n - 1n, 2n ** 53n - 2n],
      ["booleans", "flag", true, false],
    ];
    test.each(KEYS)(
      "%s name rows, alone and in a list with repetitions",
      async (title, type, one, other) => {
        const table = `keyed by ${title}`;
        const types: Record<string, string> = { ...TYPES[database.dialect], time: database.time };
        const mark = database.dialect === "mysql" ? "`" : '"';
        await run(
          `CREATE TABLE ${mark}${table}${mark} (tenant bigint, name ${types[type] ?? type}, body varchar(20), version bigint, PRIMARY KEY (tenant, name))`,
        );
        const key = ["tenant", "name"];
        const valuesOf = (name: unknown, body: string, version = 1) =>
          ({ tenant: 1, name, body, version }) as {
            tenant: number;
            name: Date;
            body: string;
            version: number;
          };
        const first = await insertOnce(executor, { table, values: valuesOf(one, "first"), key });
        expect(first.inserted).toBe(true);
        const all = await insertOnceAll(executor, {
          table,
          values: [valuesOf(other, "second"), valuesOf(one, "third"), valuesOf(other, "fourth")],
          key,
        });
        expect(all.map(({ inserted }) => inserted)).toEqual([true, false, false]);
        expect(all.map(({ row }) => row["body"])).toEqual(["second", "first", "second"]);
        const upserted = await upsertAll(executor, {
          table,
          values: [valuesOf(other, "fifth"), valuesOf(one, "sixth"), valuesOf(other, "seventh")],
          key,
        });
        expect(upserted.map(({ row }) => row["body"])).toEqual(["fifth", "sixth", "seventh"]);
        const update = await updateVersion(executor, {
          table,
          key: { tenant: 1, name: one as Date },
          version: "version",
          expected: 1,
          set: { body: "eighth" },
        });
        expect(update).toMatchObject({ kind: "updated", row: { body: "eighth" } });
        expect(await run(`SELECT * FROM ${mark}${table}${mark}`)).toHaveLength(2);
      },
    );

    const TAMPERED: [string, unknown][] = [
      ["undefined", undefined],
      ["an object", { toSqlString: () => "1" }],
      ["a list", [1, 2]],
      ["a function", () => 1],
      ["a symbol", Symbol("x")],
      ["no number", Number.NaN],
      ["a date that is none", new Date("yesterday-ish")],
      ["text with half a character", "a\ud800"],
    ];
    test.each(TAMPERED)("%s is refused, as a value and in a key", async (_, value) => {
      const row = { id: "refused", text: "x", version: 1 };
      const options = { table: "things", key: ["id"] as const };
      const where = { table: "things", key: { id: "refused" }, version: "version" } as const;
      const bad = value as string;
      const calls = [
        () => insertOnce<Thing>(executor, { ...options, values: { ...row, text: bad } }),
        () => insertOnce<Thing>(executor, { ...options, values: { ...row, id: bad } }),
        () => insertOnceAll<Thing>(executor, { ...options, values: [row, { ...row, text: bad }] }),
        () => upsert<Thing>(executor, { ...options, values: { ...row, text: bad } }),
        () => upsert<Thing>(executor, { ...options, values: { ...row, id: bad } }),
        () => upsertAll<Thing>(executor, { ...options, values: [{ ...row, text: bad }] }),
        () => updateVersion<Thing>(executor, { ...where, expected: 1, set: { text: bad } }),
        () =>
          updateVersion<Thing>(executor, {
            ...where,
            key: { id: bad },
            expected: 1,
            set: { text: "y" },
          }),
      ];
      for (const call of calls) {
        expect(await failureOf((async () => call())())).toMatchObject({ code: "option-invalid" });
      }
      expect(await run("SELECT * FROM things WHERE id = 'refused' OR text = 'x'")).toEqual([]);
    });

    // Times of Postgres have microseconds, those of its client milliseconds.
    const testPostgres = name === "Postgres" ? test : test.skip;
    testPostgres("keys that the client rounds stay apart in a list", async () => {
      await run("CREATE TABLE rounded (name timestamptz PRIMARY KEY)");
      const values = ["2024-01-01T00:00:00.000001Z", "2024-01-01T00:00:00.000002Z"].map((one) => ({
        name: one,
      }));
      const outcomes = await insertOnceAll(executor, { table: "rounded", values, key: ["name"] });
      expect(outcomes.map(({ inserted }) => inserted)).toEqual([true, true]);
    });

    test("rows, keys and changes that are no columns with values are refused", async () => {
      const where = { table: "things", key: { id: "A" }, version: "version", expected: 1 } as const;
      for (const bad of [null, undefined, 7, "id"] as never[]) {
        const options = { table: "things", key: ["id"], values: bad };
        const calls = [
          () => insertOnce(executor, options),
          () => insertOnceAll(executor, options),
          () => insertOnceAll(executor, { ...options, values: [bad] }),
          () => upsert(executor, options),
          () => upsertAll(executor, options),
          () => upsertAll(executor, { ...options, values: [bad] }),
          () => updateVersion(executor, { ...where, set: bad }),
          () => updateVersion(executor, { ...where, key: bad, set: {} }),
        ];
        for (const call of calls) {
          expect(await failureOf((async () => call())())).toMatchObject({ code: "option-invalid" });
        }
      }
    });

    test("what only the database takes for equal is inserted once, in a list as well", async () => {
      const type = { postgres: "numeric", mysql: "varchar(20)", sqlite: "text COLLATE NOCASE" };
      await run(
        `CREATE TABLE equals (name ${type[database.dialect]} PRIMARY KEY, body varchar(9))`,
      );
      const names =
        database.dialect === "postgres" ? ["1", "01", "1.0", "2"] : ["a", "A", "a", "b"];
      const outcomes = await insertOnceAll(executor, {
        table: "equals",
        values: names.map((one) => ({ name: one, body: "x" })),
        key: ["name"],
      });
      expect(outcomes.filter(({ inserted }) => inserted)).toHaveLength(2);
      expect(outcomes[3]!.inserted).toBe(true);
      expect(await run("SELECT * FROM equals")).toHaveLength(2);
    });
  });
}
