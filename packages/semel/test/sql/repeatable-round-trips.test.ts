// SQL-1: how many statements docs/sql.md says that each function takes.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  insertOnce,
  insertOnceAll,
  type SqlExecutor,
  updateVersion,
  upsert,
} from "../../src/sql/index.ts";
import { closeServers, databaseKinds, type TestDatabase } from "./databases.ts";

afterAll(closeServers);

for (const { name, reason, open } of databaseKinds) {
  const label = reason ? `${name} (skipped: ${reason})` : name;
  describe.skipIf(reason)(`statements on ${label} (SQL-1)`, () => {
    let database: TestDatabase;
    let executor: SqlExecutor;
    let statements: string[];

    beforeAll(async () => {
      database = await open();
      const connection = await database.connect();
      await connection.run("CREATE TABLE stock (sku varchar(50) PRIMARY KEY, version bigint)");
      executor = {
        dialect: database.dialect,
        query: (sql, parameters) => {
          statements.push(sql);
          return connection.executor.query(sql, parameters);
        },
      };
    });
    afterAll(() => database?.close());

    const counted = async (work: () => Promise<unknown>) => {
      statements = [];
      await work();
      return statements.length;
    };

    test("are as many as the documents say", async () => {
      const options = { table: "stock", key: ["sku"] };
      const insert = (sku: string) => () =>
        insertOnce(executor, { ...options, values: { sku, version: 1 } });
      const insertAll = (prefix: string, rows: number) => () => {
        const values = Array.from({ length: rows }, (_, n) => ({
          sku: `${prefix}${n}`,
          version: 1,
        }));
        return insertOnceAll(executor, { ...options, values });
      };
      const write = (sku: string, version: number) => () =>
        upsert(executor, { ...options, values: { sku, version }, onlyIfNewer: "version" });
      const update = (expected: number) => () =>
        updateVersion(executor, {
          table: "stock",
          key: { sku: "A" },
          version: "version",
          expected,
          set: {},
        });
      const counts = {
        inserted: await counted(insert("A")),
        there: await counted(insert("A")),
        allInserted: await counted(insertAll("many-", 100)),
        allThere: await counted(insertAll("many-", 100)),
        twoHundred: await counted(insertAll("more-", 200)),
        upsertInserted: await counted(write("B", 1)),
        upsertUpdated: await counted(write("B", 2)),
        upsertUnchanged: await counted(write("B", 2)),
        updated: await counted(update(1)),
        conflict: await counted(update(1)),
      };
      const returning = {
        inserted: 1,
        there: 2,
        allInserted: 2,
        allThere: 2,
        twoHundred: 4,
        upsertInserted: 2,
        upsertUpdated: 2,
        upsertUnchanged: 3,
        updated: 1,
        conflict: 2,
      };
      const mysql = {
        inserted: 2,
        there: 2,
        allInserted: 3,
        allThere: 1,
        twoHundred: 6,
        upsertInserted: 3,
        upsertUpdated: 3,
        upsertUnchanged: 3,
        updated: 2,
        conflict: 2,
      };
      expect(counts).toEqual(database.dialect === "mysql" ? mysql : returning);
    });
  });
}
