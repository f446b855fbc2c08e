// SQL-1 through every library that has an executor: what their clients make of `RETURNING`, of counts
// and of errors.

import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import { insertOnce, insertOnceAll, updateVersion, upsert } from "../../src/sql/index.ts";
import { closeServers, type Stage } from "../engine/transaction-backends.ts";
import { libraries, type OpenLibrary } from "./libraries.ts";

afterAll(closeServers);

for (const { name, backend, open } of libraries) {
  const { reason } = backend;
  const label = reason ? `${name} (skipped: ${reason})` : name;
  describe.skipIf(reason)(`repeatable SQL through ${label} (SQL-1)`, () => {
    let stage: Stage;
    let library: OpenLibrary;
    let table: string;

    beforeEach(async () => {
      stage = await backend.open();
      library = await open(stage);
      table = `${stage.address.table}_orders`;
      await stage.admin(`CREATE UNIQUE INDEX ${table}_sku ON ${table} (sku)`);
      await stage.admin(`ALTER TABLE ${table} ADD COLUMN version integer NOT NULL DEFAULT 1`);
    });
    afterEach(async () => {
      await library?.end();
      await stage?.close();
    });

    test("inserts once, upserts, and compares and sets", async () => {
      await library.transaction(async ({ executor }) => {
        const options = { table, key: ["sku"] };
        const values = { sku: "a ? b" };
        expect(await insertOnce(executor, { ...options, values })).toMatchObject({
          row: values,
          inserted: true,
        });
        const again = await insertOnce(executor, { ...options, values });
        expect(again).toMatchObject({ row: values, inserted: false });
        const many = [values, { sku: "second" }, { sku: "second" }];
        const all = await insertOnceAll(executor, { ...options, values: many });
        expect(all.map(({ inserted }) => inserted)).toEqual([false, true, false]);

        const versioned = { sku: "second", version: 5 };
        const write = () =>
          upsert(executor, { ...options, values: versioned, onlyIfNewer: "version" });
        expect((await write()).kind).toBe("updated");
        expect((await write()).kind).toBe("unchanged");

        const update = () =>
          updateVersion(executor, {
            table,
            key: { sku: "second" },
            version: "version",
            expected: 5,
            set: {},
          });
        const updated = await update();
        expect(updated).toMatchObject({ kind: "updated", row: { sku: "second" } });
        expect(updated.kind === "updated" && Number(updated.version)).toBe(6);
        expect((await update()).kind).toBe("conflict");
      });
      expect(await stage.skus()).toEqual(["a ? b", "second"]);
    });
  });
}
