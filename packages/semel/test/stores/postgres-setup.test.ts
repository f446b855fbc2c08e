// How the Postgres store is set up, and what it says of a server that cannot serve.

import { randomBytes } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import pg from "pg";
import type postgres from "postgres";
import { afterEach, beforeEach, describe, expect, expectTypeOf, it } from "vitest";
import {
  type PgPool,
  type PostgresJs,
  type PostgresStoreOptions,
  postgresMigrations,
  postgresStore,
  type TransactionOf,
} from "../../src/stores/postgres.ts";
import { acquire, claimOf, complete, completion } from "../../src/testing/claims.ts";
import { startPostgres } from "../servers/postgres.ts";
import { Fixture, missing, pgDriver, postgresJsDriver, url } from "./postgres-fixture.ts";

const unusable = (remedy: RegExp) => ({
  code: "store-unusable",
  message: expect.stringMatching(remedy),
  cause: expect.anything(),
});
const drivers = [pgDriver, postgresJsDriver];

describe.skipIf(missing)(`postgresStore as it is set up${missing}`, () => {
  let fixture: Fixture;

  beforeEach(() => {
    fixture = new Fixture();
  });

  afterEach(() => fixture.close());

  it("takes what the drivers are, and gives handlers what the drivers give", () => {
    expectTypeOf<pg.Pool>().toExtend<PgPool>();
    expectTypeOf<postgres.Sql>().toExtend<PostgresJs>();
    expectTypeOf<TransactionOf<pg.Pool>>().toEqualTypeOf<pg.PoolClient>();
    expectTypeOf<TransactionOf<postgres.Sql>>().toEqualTypeOf<postgres.TransactionSql>();
  });

  it.each([
    [{ tabel: "x" }, /did you mean `table`/],
    [{ table: "" }, /`table`/],
    [{ table: "a\0b" }, /`table`/],
    [{ table: "x".repeat(49) }, /at most 48 bytes/],
    [{ table: "é".repeat(25) }, /at most 48 bytes/],
    [{ schema: "" }, /`schema`/],
    [{ listen: "yes" }, /`listen` must be true or false/],
    [{ prepare: 1 }, /`prepare` must be true or false/],
  ])("refuses the options %j", (options, message) => {
    const pool = fixture.pool();
    expect(() => postgresStore(pool, options as PostgresStoreOptions)).toThrow(message);
  });

  it("refuses what is no client, and to listen on the only connection", () => {
    expect(() => postgresStore({} as PgPool)).toThrow(/`pool` must have the methods/);
    expect(() => postgresStore(null as unknown as PgPool)).toThrow(/`pool`/);
    const alone = fixture.pool({ max: 1 });
    expect(() => postgresStore(alone, { listen: true })).toThrow(/at least 2/);
  });

  it.each(drivers)("does no I/O before it is asked, on $name", async (driver) => {
    const client = driver.open("postgres://postgres@127.0.0.1:1/nowhere");
    const store = postgresStore(client);
    await expect(store.read(claimOf().id)).rejects.toMatchObject({
      code: "store-unavailable",
      cause: expect.objectContaining({ code: "ECONNREFUSED" }),
    });
    await client.end();
  });

  it.each(["semel", "größe 🎉", "a.b; DROP TABLE x; --", "Upper", "'", '"', "\\"])(
    "keeps tables named %j, in a schema named so as well, apart from others",
    async (name) => {
      const named = (part: string) => `"${`${name}${part}`.replaceAll('"', '""')}"`;
      const schema = `${name} ${fixture.table}`;
      const quoted = `"${schema.replaceAll('"', '""')}"`;
      await fixture.admin.query(`CREATE SCHEMA ${quoted}`);
      try {
        const store = await fixture.store(undefined, { table: name, schema });
        const other = await fixture.store();
        const claim = claimOf();
        await complete(store, claim);
        await acquire(other, claim);
        const { rows } = await fixture.admin.query(
          `SELECT count(*) FROM ${quoted}.${named("_records")}`,
        );
        expect(rows).toEqual([{ count: "1" }]);
        expect((await store.stats()).bytes).toBeGreaterThan(0);
      } finally {
        await fixture.admin.query(`DROP SCHEMA ${quoted} CASCADE`);
      }
    },
  );

  it("is what its printed migrations make of a database", async () => {
    for (const sql of postgresMigrations(fixture.table)) await fixture.admin.query(sql);
    const store = postgresStore(fixture.pool(), { table: fixture.table });
    const claim = claimOf();
    await complete(store, claim);
    await store.migrate();
    expect(await store.begin(claim)).toMatchObject({ kind: "done" });
  });

  it.each(drivers)("migrates once, however many do so at once, on $name", async (driver) => {
    const clients = Array.from({ length: 4 }, () => fixture.client(driver));
    const stores = clients.map((client) => postgresStore(client, { table: fixture.table }));
    await Promise.all([...stores, ...stores].map((store) => store.migrate()));
    const { rows } = await fixture.admin.query(`SELECT version FROM ${fixture.schema}`);
    expect(rows).toEqual([{ version: 1 }, { version: 2 }, { version: 3 }]);
    await acquire(stores[0]!, claimOf());
  });

  it("says to migrate a database without tables, and forgets that once it is done", async () => {
    const store = postgresStore(fixture.pool(), { table: fixture.table });
    const remedy = unusable(/store\.migrate\(\)/);
    await expect(store.begin(claimOf())).rejects.toMatchObject(remedy);
    await expect(store.sweep(1)).rejects.toMatchObject(remedy);
    await fixture.store();
    await acquire(store, claimOf());
  });

  it("says to migrate an older schema, and refuses a newer one", async () => {
    await fixture.store();
    const { admin, schema, table } = fixture;
    await admin.query(`DELETE FROM ${schema} WHERE version > 1`);
    await expect(postgresStore(fixture.pool(), { table }).stats()).rejects.toMatchObject({
      code: "store-unusable",
      message: expect.stringMatching(/schema 1 of 3.*store\.migrate\(\)/),
    });
    await admin.query(`INSERT INTO ${schema} VALUES (4)`);
    const newer = { code: "store-unusable", message: expect.stringMatching(/newer.*upgrade/) };
    const store = postgresStore(fixture.pool(), { table });
    await expect(store.begin(claimOf())).rejects.toMatchObject(newer);
    await expect(store.migrate()).rejects.toMatchObject(newer);
  });

  it.each(drivers)("brings older tables with records to this schema, on $name", async (driver) => {
    const { admin, records, table } = fixture;
    await admin.query(postgresMigrations(table)[0]!);
    const claim = claimOf();
    await admin.query(
      `INSERT INTO ${records} (created_at, updated_at, lease_until, attempt, crashes, format, state,
         on_crash, id, owner, scope, key, fingerprint)
       VALUES (now(), now(), now() + interval '1 h', 1, 0, 1, 0, 1, $1, $2, $3, $4, $5)`,
      [claim.id, claim.owner, claim.scope, claim.key, claim.fingerprint],
    );
    const stores = [fixture.client(driver), fixture.client(driver)].map((client) =>
      postgresStore(client, { table }),
    );
    await Promise.all(stores.map((store) => store.migrate()));
    const token = { id: claim.id, attempt: 1, owner: claim.owner };
    const entry = { ...token, bytes: Buffer.from("done") };
    expect(await stores[0]!.append!(entry)).toEqual({ kind: "settled" });
    const record = await stores[1]!.read(claim.id);
    expect(Buffer.from(record!.journal!).toString()).toBe("done");
  });

  it("says to migrate when the tables were dropped under it", async () => {
    const store = await fixture.store();
    await acquire(store, claimOf());
    await fixture.admin.query(`DROP TABLE ${fixture.records}`);
    await expect(store.begin(claimOf())).rejects.toMatchObject(unusable(/migrate/));
  });

  it("names the schema that does not exist", async () => {
    const store = postgresStore(fixture.pool(), { schema: "nowhere to be found" });
    await expect(store.migrate()).rejects.toMatchObject(unusable(/create it/));
    await expect(store.begin(claimOf())).rejects.toMatchObject(unusable(/migrate/));
  });

  it("counts time by the server's clock, to the millisecond", async () => {
    const store = await fixture.store();
    const serverNow = async () => {
      const sql = "SELECT extract(epoch FROM clock_timestamp()) * 1000 AS now";
      return Number((await fixture.admin.query(sql)).rows[0].now);
    };
    const before = await serverNow();
    const claim = claimOf();
    await acquire(store, claim);
    const record = await store.read(claim.id);
    expect(record?.createdAt).toBeGreaterThanOrEqual(before - 1);
    expect(record?.createdAt).toBeLessThanOrEqual((await serverNow()) + 1);
  });

  it("reads whatever types the client makes of Postgres' own, and whatever it calls columns", async () => {
    const types = {
      getTypeParser: (oid: number, format: "text" | "binary") =>
        oid === 20 ? BigInt : pg.types.getTypeParser(oid, format),
    };
    const pool = fixture.pool({ types: types as pg.CustomTypesConfig });
    const { default: open, camel } = await import("postgres");
    const js = fixture.keep(open(url, { max: 2, onnotice: () => {}, transform: camel }));
    for (const client of [pool, js]) {
      const store = await fixture.store(client);
      const claim = claimOf();
      const token = await complete(store, claim);
      const record = await store.read(claim.id);
      expect(record).toMatchObject({ ...token, state: "completed", crashes: 0 });
      expect(await store.begin(claim)).toMatchObject({ kind: "done", attempt: 1 });
      expect((await store.list({ limit: 1 })).records[0]?.createdAt).toBe(record?.createdAt);
      expect((await store.stats()).states.completed).toBeGreaterThan(0);
    }
  });
});

describe.skipIf(missing)(`postgresStore on a server that cannot serve${missing}`, () => {
  let fixture: Fixture;

  beforeEach(() => {
    fixture = new Fixture();
  });

  afterEach(() => fixture.close());

  it.each(drivers)("says that the client was closed, on $name", async (driver) => {
    const client = driver.open();
    const store = await fixture.store(client);
    await acquire(store, claimOf());
    await client.end();
    await expect(store.begin(claimOf())).rejects.toMatchObject(unusable(/closed/));
    await expect(store.stats()).rejects.toMatchObject(unusable(/closed/));
    await expect(store.migrate()).rejects.toMatchObject(unusable(/closed/));
  });

  it("names the permission that a role lacks", async () => {
    const role = `reader_${randomBytes(6).toString("hex")}`;
    const { admin, records, schema, table } = fixture;
    await fixture.store();
    await admin.query(`CREATE ROLE ${role}`);
    try {
      await admin.query(`GRANT SELECT ON ${records}, ${schema} TO ${role}`);
      const pool = fixture.pool({ options: `-c role=${role}` });
      const store = postgresStore(pool, { table });
      expect(await store.read(claimOf().id)).toBeUndefined();
      await expect(store.begin(claimOf())).rejects.toMatchObject(unusable(/grant it/));
      await expect(store.sweep(1)).rejects.toMatchObject(unusable(/grant it/));
      const elsewhere = postgresStore(pool, { table, schema: "pg_catalog" });
      await expect(elsewhere.migrate()).rejects.toMatchObject(unusable(/grant it/));
      await pool.end();
    } finally {
      await admin.query(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
    }
  });

  it("says of a read-only session that it takes no writes", async () => {
    await fixture.store();
    const pool = fixture.pool({ options: "-c default_transaction_read_only=on" });
    const store = postgresStore(pool, { table: fixture.table });
    await expect(store.begin(claimOf())).rejects.toMatchObject(unusable(/no writes.*primary/));
    await expect(store.sweep(1)).rejects.toMatchObject(unusable(/no writes/));
    await store.stats();
  });

  it("says which password or database it is", async () => {
    const nowhere = postgresStore(
      fixture.pool({ connectionString: url.replace(/[^/]+$/, "nope") }),
    );
    await expect(nowhere.stats()).rejects.toMatchObject(unusable(/database does not exist/));
    const nobody = fixture.pool({ connectionString: url.replace("postgres@", "nobody-here@") });
    await expect(postgresStore(nobody).stats()).rejects.toMatchObject(
      unusable(/let the client in/),
    );
  });

  it("goes on after the server was killed and has recovered, and has kept what it answered", async (test) => {
    const server = await startPostgres();
    if (!server) return withoutBinaries(test);
    const own = new Fixture(server.url);
    try {
      for (const driver of drivers) {
        const store = await own.store(own.client(driver));
        const [finished, running] = [claimOf(), claimOf()];
        await complete(store, finished);
        const token = await acquire(store, running);
        await server.kill();
        await expect(store.begin(claimOf())).rejects.toMatchObject({
          code: "store-unavailable",
          cause: expect.anything(),
        });
        await server.start();
        expect(await untilServed(() => store.begin(finished))).toMatchObject({ kind: "done" });
        expect(await store.settle(completion(token))).toEqual({ kind: "settled" });
      }
    } finally {
      await own.close().catch(() => {});
      await server.close();
    }
  });

  it("refuses a replica, where even reads may be over", async (test) => {
    const server = await startPostgres();
    if (!server) return withoutBinaries(test);
    const own = new Fixture(server.url);
    try {
      await own.store();
      await server.kill();
      await writeFile(join(server.folder, "standby.signal"), "");
      await server.start();
      const store = postgresStore(own.pool(), { table: own.table });
      const replica = { code: "store-unusable", message: expect.stringMatching(/primary/) };
      await expect(store.read(claimOf().id)).rejects.toMatchObject(replica);
      await expect(store.begin(claimOf())).rejects.toMatchObject(replica);
      await expect(store.migrate()).rejects.toMatchObject(replica);
    } finally {
      await Promise.all([own.admin.end(), server.close()]);
    }
  });
});

/** Connections of before the server was killed may each fail once. */
async function untilServed<Answer>(ask: () => Promise<Answer>): Promise<Answer> {
  for (let tries = 1; ; tries++) {
    try {
      return await ask();
    } catch (error) {
      if (tries === 10) throw error;
    }
  }
}

/** Where services are required, that they are missing is a failure. */
function withoutBinaries(test: { skip(reason: string): void }): void {
  if (process.env["SEMEL_REQUIRE_SERVICES"]) throw new Error("no Postgres binaries");
  test.skip("no Postgres binaries");
}
