// SQL-1: optimistic locking. Of updates made from one version one is written, and the others learn of it.

import { afterAll, beforeAll, describe, expect, expectTypeOf, test } from "vitest";
import {
  type SqlExecutor,
  updateVersion,
  updateVersionAll,
  type Version,
  type VersionComputed,
  type VersionUpdate,
} from "../../src/sql/index.ts";
import {
  type Connection,
  closeServers,
  databaseKinds,
  failureOf,
  storm,
  type TestDatabase,
} from "./databases.ts";

interface Document {
  id: string;
  body: string | null;
  hits: number | string;
  version: number | string;
}

interface Note {
  id: string;
  body: string | null;
  changed_at: Date | string;
}

afterAll(closeServers);

for (const { name, reason, open } of databaseKinds) {
  const label = reason ? `${name} (skipped: ${reason})` : name;
  describe.skipIf(reason)(`updating versions on ${label} (SQL-1)`, () => {
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
        "CREATE TABLE documents (id varchar(50) PRIMARY KEY, body varchar(100), hits bigint NOT NULL DEFAULT 0, version bigint)",
      );
      await run(
        `CREATE TABLE notes (id varchar(50) PRIMARY KEY, body varchar(100), changed_at ${database.time} NOT NULL)`,
      );
    });
    afterAll(() => database?.close());

    const begin = async ({ run: command }: Connection) => {
      const words = { postgres: "BEGIN", mysql: "START TRANSACTION", sqlite: "BEGIN IMMEDIATE" };
      await command(words[database.dialect]);
    };
    /** MySQL reads what it wrote in a second statement, and so needs a transaction. */
    const inTransaction = async <Value>(connection: Connection, work: () => Promise<Value>) => {
      if (database.dialect !== "mysql") return work();
      await begin(connection);
      try {
        return await work();
      } finally {
        await connection.run("COMMIT");
      }
    };
    const create = (id: string, version: number | string = 1) =>
      run(`INSERT INTO documents (id, body, version) VALUES ('${id}', 'first', ${version})`);
    const write = (on: SqlExecutor, id: string, expected: Version, body = "next") =>
      updateVersion<Document>(on, {
        table: "documents",
        key: { id },
        version: "version",
        expected,
        set: { body },
      });

    test("writes from the current version, refuses from another, and tells an absent row apart", async () => {
      await create("A", 7);
      const updated = await write(executor, "A", 7, "second");
      if (updated.kind !== "updated") throw new Error(updated.kind);
      expect(Number(updated.version)).toBe(8);
      expect(updated.row).toMatchObject({ id: "A", body: "second", version: updated.version });

      const late = await write(executor, "A", 7, "lost");
      if (late.kind !== "conflict") throw new Error(late.kind);
      expect(late.version).toEqual(updated.version);
      expect(late.row).toEqual(updated.row);

      expect(await write(executor, "nobody", 7)).toEqual({ kind: "absent" });
      expect((await write(executor, "A", updated.version)).kind).toBe("updated");
    });

    test("of 100 concurrent updates from one version one is written", async () => {
      await create("B");
      const updates = await storm(connections, 100, (connection, n) =>
        inTransaction(connection, () => write(connection.executor, "B", 1, `by ${n}`)),
      );
      const written = updates.filter(({ kind }) => kind === "updated");
      expect(written).toHaveLength(1);
      expect(updates.filter(({ kind }) => kind === "conflict")).toHaveLength(99);
      const [row] = await run("SELECT body, version FROM documents WHERE id = 'B'");
      expect(written[0]).toMatchObject({ row: { body: row!["body"] } });
      expect(Number(row!["version"])).toBe(2);
    });

    test("concurrent counters lose no update", async () => {
      await create("C");
      const versions = await storm(connections, 160, (connection) =>
        inTransaction(connection, async () => {
          const update = await updateVersion<Document>(connection.executor, {
            table: "documents",
            key: { id: "C" },
            version: "version",
            set: ({ hits }) => ({ hits: Number(hits) + 1 }),
            attemptsMax: 1_000,
          });
          return update.kind === "updated" ? Number(update.version) : update.kind;
        }),
      );
      expect(new Set(versions).size).toBe(160);
      const [row] = await run("SELECT hits, version FROM documents WHERE id = 'C'");
      expect([Number(row!["hits"]), Number(row!["version"])]).toEqual([160, 161]);
    });

    test("a function sees the current row, may leave it, and gives up after its attempts", async () => {
      await create("D");
      const options = { table: "documents", key: { id: "D" }, version: "version" } as const;
      const left = await updateVersion<Document>(executor, { ...options, set: () => undefined });
      expect(left).toMatchObject({ kind: "unchanged", row: { body: "first" } });

      let calls = 0;
      const outrun = await updateVersion<Document>(executor, {
        ...options,
        attemptsMax: 3,
        set: async () => {
          calls += 1;
          await connections[1]!.run("UPDATE documents SET version = version + 1 WHERE id = 'D'");
          return { body: "never" };
        },
      });
      expect(outrun).toMatchObject({ kind: "conflict", row: { body: "first" } });
      expect(calls).toBe(3);
      const absent = { ...options, key: { id: "nobody" }, set: () => ({ body: "x" }) };
      expect(await updateVersion<Document>(executor, absent)).toEqual({ kind: "absent" });
    });

    test("an aborted signal ends the tries with its reason", async () => {
      await create("E");
      const controller = new AbortController();
      const reason = new Error("enough");
      const tries = updateVersion<Document>(executor, {
        table: "documents",
        key: { id: "E" },
        version: "version",
        attemptsMax: 1_000_000,
        signal: controller.signal,
        set: async ({ version }) => {
          await connections[1]!.run("UPDATE documents SET version = version + 1 WHERE id = 'E'");
          if (Number(version) === 3) controller.abort(reason);
          return { body: "never" };
        },
      });
      await expect(tries).rejects.toBe(reason);
    });

    test("times are versions that never stand still, and no update from one is lost", async () => {
      const past = {
        postgres: "'2020-01-02 03:04:05.678901+00'",
        mysql: "'2020-01-02 03:04:05.678'",
      };
      const now =
        database.dialect === "sqlite" ? "'2020-01-02T03:04:05.678Z'" : past[database.dialect];
      await run(`INSERT INTO notes (id, body, changed_at) VALUES ('T', '', ${now})`);
      const [row] = await run("SELECT changed_at FROM notes WHERE id = 'T'");
      let version = row!["changed_at"] as Date | string;
      for (let n = 0; n < 20; n++) {
        const options = { table: "notes", key: { id: "T" }, version: "changed_at" } as const;
        const set = { body: `${n}` };
        const update = await updateVersion<Note>(executor, { ...options, expected: version, set });
        if (update.kind !== "updated") throw new Error(update.kind);
        const next = update.version as Date | string;
        expect(new Date(next).getTime()).toBeGreaterThan(new Date(version).getTime());
        const late = await updateVersion<Note>(executor, { ...options, expected: version, set });
        expect(late).toMatchObject({ kind: "conflict", version: next });
        version = next;
      }
    });

    test("a time that runs ahead of the database's clock still moves on by a millisecond", async () => {
      const ahead = {
        postgres: "'2999-01-01 00:00:00+00'",
        mysql: "'2999-01-01 00:00:00'",
        sqlite: "'2999-01-01T00:00:00.000Z'",
      };
      await run(`INSERT INTO notes VALUES ('U', '', ${ahead[database.dialect]})`);
      const update = () =>
        updateVersion<Note>(executor, {
          table: "notes",
          key: { id: "U" },
          version: "changed_at",
          set: ({ body }) => ({ body: `${body}x` }),
        });
      const [one, other] = [await update(), await update()];
      if (one.kind !== "updated" || other.kind !== "updated") throw new Error("not updated");
      const [before, after] = [one, other].map(({ version }) =>
        new Date(version as string).getTime(),
      );
      expect(after! - before!).toBe(1);
    });

    test("keys that name several rows, coarse times and NULL versions are refused", async () => {
      const connection = connections[2]!;
      await create("K-1", 1);
      await create("K-2", 1);
      await run("UPDATE documents SET body = 'same' WHERE id LIKE 'K-%'");
      await begin(connection);
      const several = await failureOf(
        updateVersion<Document>(connection.executor, {
          table: "documents",
          key: { body: "same" },
          version: "version",
          expected: 1,
          set: { hits: 1 },
        }),
      );
      expect(several.message).toMatch(/names 2 rows, and all were changed; roll back/);
      await connection.run("ROLLBACK");

      await create("K-3", "NULL");
      const nulled = await failureOf(
        updateVersion<Document>(executor, {
          table: "documents",
          key: { id: "K-3" },
          version: "version",
          set: () => ({ body: "x" }),
        }),
      );
      expect(nulled.message).toMatch(/the column has to be NOT NULL/);

      if (database.dialect === "sqlite") return;
      const coarse = database.dialect === "mysql" ? "DATETIME" : "timestamptz(0)";
      await run(`CREATE TABLE coarse (id int PRIMARY KEY, body varchar(9), at ${coarse} NOT NULL)`);
      await run("INSERT INTO coarse VALUES (1, '', '2999-01-01 00:00:00')");
      await begin(connection);
      const imprecise = await failureOf(
        updateVersion(connection.executor, {
          table: "coarse",
          key: { id: 1 },
          version: "at",
          set: () => ({ body: "x" }),
        }),
      );
      expect(imprecise.message).toMatch(/precision of milliseconds/);
      await connection.run("ROLLBACK");
    });

    test("neither key nor version can be set, and what is no version is refused", async () => {
      const refused = (more: object, message: RegExp) =>
        expect(
          (async () =>
            updateVersion(executor, {
              table: "documents",
              key: { id: "A" },
              version: "version",
              expected: 1,
              set: { body: "x" },
              ...more,
            } as never))(),
        ).rejects.toThrow(message);
      await refused({ set: { version: 9 } }, /version column "version"/);
      await refused({ set: { id: "B" } }, /key column "id"/);
      await refused({ key: {} }, /must name the columns/);
      await refused({ key: { id: null } }, /key column "id" is NULL/);
      for (const expected of [null, undefined, 1.5, Number.NaN, {}, "", new Date("no")]) {
        await refused({ expected }, /a version is a whole number/);
      }
      await refused({ set: () => ({}) }, /no option `expected`/);
      await refused({ set: { 'body" = 1; --': "x" } }, /updateVersion\(\) of .documents.: /);
    });

    test("a version from a request that tries to be SQL is a conflict or an error, and nothing is written", async () => {
      await create("L");
      const attack = "1 OR 1=1";
      const kind = await write(executor, "L", attack).then(
        (update) => update.kind,
        () => "conflict",
      );
      expect(kind).toBe("conflict");
      expect((await write(executor, "L' OR '1'='1", 1)).kind).toBe("absent");
      const [row] = await run("SELECT body FROM documents WHERE id = 'L'");
      expect(row).toEqual({ body: "first" });
    });

    test("many changes have each their outcome, in the order of the list", async () => {
      for (const id of ["M-1", "M-2", "M-3"]) await create(id);
      const updates = await updateVersionAll<Document>(executor, {
        table: "documents",
        version: "version",
        changes: [
          { key: { id: "M-3" }, expected: 1, set: { body: "3" } },
          { key: { id: "M-2" }, expected: 5, set: { body: "2" } },
          { key: { id: "M-0" }, expected: 1, set: { body: "0" } },
          { key: { id: "M-1" }, expected: 1, set: { body: "1" } },
          { key: { id: "M-3" }, expected: 2, set: { hits: 3 } },
          { key: { id: "M-3" }, expected: 2, set: { hits: 4 } },
        ],
      });
      expect(updates.map(({ kind }) => kind)).toEqual([
        "updated",
        "conflict",
        "absent",
        "updated",
        "updated",
        "conflict",
      ]);
      const [row] = await run("SELECT body, hits, version FROM documents WHERE id = 'M-3'");
      expect(Object.values(row!).map(String)).toEqual(["3", "3", "3"]);
    });

    // SQLite has one writer, and refuses a write from an old snapshot with BUSY.
    const testServers = name.startsWith("SQLite") ? test.skip : test;
    testServers(
      "a read snapshot that is older than the row does not keep a function from it",
      async () => {
        await create("N");
        const connection = connections[3]!;
        const level = "TRANSACTION ISOLATION LEVEL REPEATABLE READ";
        if (database.dialect === "postgres") await connection.run(`BEGIN ${level}`);
        else await begin(connection);
        await connection.run("SELECT * FROM documents");
        await run("UPDATE documents SET hits = 5, version = version + 1 WHERE id = 'N'");
        const update = updateVersion<Document>(connection.executor, {
          table: "documents",
          key: { id: "N" },
          version: "version",
          set: ({ hits }) => ({ hits: Number(hits) + 1 }),
        });
        if (database.dialect === "postgres") {
          await expect(update).rejects.toMatchObject({ code: "40001" });
          await connection.run("ROLLBACK");
        } else {
          await update;
          await connection.run("COMMIT");
          const [row] = await run("SELECT hits, version FROM documents WHERE id = 'N'");
          expect(Object.values(row!).map(Number)).toEqual([6, 3]);
        }
      },
    );
  });
}

test("columns are those of the row's type, and only a function can leave a row unchanged", () => {
  const where = { table: "documents", key: { id: "A" }, version: "version" } as const;
  const known = (executor: SqlExecutor) =>
    updateVersion<Document>(executor, {
      ...where,
      expected: 1,
      // @ts-expect-error no column of a document
      set: { colour: "red" },
    });
  expectTypeOf(known).returns.resolves.toEqualTypeOf<VersionUpdate<Document>>();
  const computed = (executor: SqlExecutor) =>
    updateVersion<Document>(executor, {
      ...where,
      set: (row) => {
        expectTypeOf(row).toEqualTypeOf<Document>();
        return { hits: Number(row.hits) + 1 };
      },
    });
  expectTypeOf(computed).returns.resolves.toEqualTypeOf<VersionComputed<Document>>();
});
