// SQL-1: names of tables and columns as people and attackers write them, and as databases and clients
// give them back.

import postgres from "postgres";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  fromPostgresJs,
  insertOnceAll,
  type SqlExecutor,
  updateVersion,
  upsertAll,
} from "../../src/sql/index.ts";
import { postgresSource } from "../servers/postgres.ts";
import { findServer } from "../servers/server.ts";
import {
  type Connection,
  closeServers,
  databaseKinds,
  failureOf,
  type TestDatabase,
} from "./databases.ts";

afterAll(closeServers);

const HOSTILE = [
  "order",
  'a"b',
  'a""; DROP TABLE victims; --',
  "a`b",
  "a``; DROP TABLE victims; -- x",
  "a'b",
  "a;b",
  "a--b",
  "a/*b",
  "a\\b",
  "a b\n\tc",
  "$1",
  ":name",
  "@name",
  "%s",
  "#a",
  "[a]",
  "é",
  "constructor",
];

/** Inserts two rows and one of them again, writes over one, and raises its version. */
async function exercise(executor: SqlExecutor, table: string | [string], name: string) {
  const key = `k ${name}`;
  const valuesOf = (id: string, body: string, version = 1) =>
    Object.fromEntries([
      [key, id],
      [name, body],
      [`v ${name}`, version],
    ]);
  const options = { table, key: [key] };
  const inserted = await insertOnceAll(executor, {
    ...options,
    values: [valuesOf("1", "one"), valuesOf("2", "two"), valuesOf("1", "one")],
    compare: true,
  });
  const upserted = await upsertAll(executor, {
    ...options,
    values: [valuesOf("3", "three"), valuesOf("2", "2", 5)],
    onlyIfNewer: `v ${name}`,
  });
  const updated = await updateVersion(executor, {
    table,
    key: { [key]: "2" },
    version: `v ${name}`,
    set: () => Object.fromEntries([[name, "second"]]),
  });
  return {
    inserted: inserted.map((outcome) => outcome.inserted),
    upserted: upserted.map(({ kind }) => kind),
    updated: updated.kind,
    version: "version" in updated ? Number(updated.version) : undefined,
  };
}

const EXERCISED = {
  inserted: [true, true, false],
  upserted: ["inserted", "updated"],
  updated: "updated",
  version: 6,
};

for (const { name, reason, open } of databaseKinds) {
  const label = reason ? `${name} (skipped: ${reason})` : name;
  describe.skipIf(reason)(`names on ${label} (SQL-1)`, () => {
    let database: TestDatabase;
    let connection: Connection;

    beforeAll(async () => {
      database = await open();
      connection = await database.connect();
      await connection.run("CREATE TABLE victims (id int)");
      await connection.run("INSERT INTO victims VALUES (1)");
    });
    afterAll(() => database?.close());

    const quote = (text: string) =>
      database.dialect === "mysql"
        ? `\`${text.replaceAll("`", "``")}\``
        : `"${text.replaceAll('"', '""')}"`;
    const create = (table: string, column: string) =>
      connection.run(
        `CREATE TABLE ${quote(table)} (${quote(`k ${column}`)} varchar(20) PRIMARY KEY, ${quote(column)} varchar(20), ${quote(`v ${column}`)} bigint)`,
      );
    const exists = async () =>
      expect(await connection.run("SELECT * FROM victims")).toHaveLength(1);

    test.each(HOSTILE)("a table and its columns may be named %j", async (hostile) => {
      await create(`t ${hostile}`, hostile);
      expect(await exercise(connection.executor, `t ${hostile}`, hostile)).toEqual(EXERCISED);
      await exists();
    });

    test("dots are part of a name within a list, and of columns anywhere", async () => {
      await create("shop.orders", "a.b");
      expect(await exercise(connection.executor, ["shop.orders"], "a.b")).toEqual(EXERCISED);
      const dotted = await failureOf(exercise(connection.executor, "shop.orders", "a.b"));
      expect(dotted).toMatchObject({ code: "option-invalid" });
    });

    test("question marks are names where clients do not take them for parameters", async () => {
      const work = (async () => {
        await create("really?", "is it?");
        return exercise(connection.executor, "really?", "is it?");
      })();
      if (database.dialect !== "mysql") return expect(await work).toEqual(EXERCISED);
      expect(await failureOf(work)).toMatchObject({ code: "option-invalid" });
    });

    test.each([
      ["empty", ""],
      ["with NUL", "a\0b"],
      ["half a character", "a\udfff"],
      ["no text", 7 as never],
    ])("a name that is %s is refused wherever one stands", async (_, bad) => {
      const row = { id: "1", version: 1 };
      const on = connection.executor;
      const calls = [
        () => insertOnceAll(on, { table: bad, values: [row], key: ["id"] }),
        () => insertOnceAll(on, { table: ["main", bad], values: [row], key: ["id"] }),
        () => insertOnceAll(on, { table: "t", values: [row], key: [bad] }),
        () => upsertAll(on, { table: bad, values: [row], key: ["id"] }),
        () => upsertAll(on, { table: "t", values: [row], key: ["id"], onlyIfNewer: bad }),
        () =>
          updateVersion(on, { table: bad, key: { id: "1" }, version: "v", expected: 1, set: {} }),
        () =>
          updateVersion(on, { table: "t", key: { id: "1" }, version: bad, expected: 1, set: {} }),
      ];
      for (const call of calls) {
        expect(await failureOf((async () => call())())).toMatchObject({ code: "option-invalid" });
      }
    });

    test("a name longer than the database keeps is an error, and never another name", async () => {
      // Together with the prefix of `create()`: 63 bytes, the longest that Postgres keeps.
      const longest = "x".repeat(61);
      await create("long", longest);
      expect(await exercise(connection.executor, "long", longest)).toEqual(EXERCISED);
      const longer = `${longest}${"y".repeat(100)}`;
      const failed = failureOf(exercise(connection.executor, "long", longer));
      const messages = {
        postgres: /cuts off/,
        mysql: /insertOnceAll\(\) into `long`: .*(too long|Unknown column)/,
        sqlite: /insertOnceAll\(\) into "long": .*no column named/,
      };
      expect((await failed).message).toMatch(messages[database.dialect]);
      // Bytes count, not characters.
      const accented = await failureOf(exercise(connection.executor, "é".repeat(33), "a"));
      expect(accented.message).toMatch(
        database.dialect === "postgres" ? /cuts off/ : /exist|no such table/,
      );
    });

    const testLax = name === "Postgres" ? test.skip : test;
    testLax(
      "a column may be written in other case than the table has it, as the database allows",
      async () => {
        await create("lax", "Body");
        expect(await exercise(connection.executor, "lax", "bODY")).toEqual(EXERCISED);
      },
    );
  });
}

const found = await findServer(postgresSource);
describe.skipIf("reason" in found)("a client that renames columns (SQL-1)", () => {
  test("has the outcome of each row, and versions", async () => {
    const url = "url" in found ? found.url : "";
    const client = postgres(url, { transform: postgres.camel, max: 1, onnotice: () => {} });
    try {
      await client.begin(async (tx) => {
        await tx.unsafe(
          'CREATE TEMPORARY TABLE renamed ("k a_b" varchar(20) PRIMARY KEY, a_b text, "v a_b" bigint)',
        );
        expect(await exercise(fromPostgresJs(tx), "renamed", "a_b")).toEqual(EXERCISED);
      });
    } finally {
      await client.end();
    }
  });
});
