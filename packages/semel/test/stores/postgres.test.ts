import { randomBytes } from "node:crypto";
import pg from "pg";
import postgres from "postgres";
import { afterAll, beforeAll, describe, it } from "vitest";
import { type PgPool, type PostgresJs, postgresStore } from "../../src/stores/postgres.ts";
import { storeCases } from "../../src/testing/index.ts";
import { postgresSource } from "../servers/postgres.ts";
import { findServer } from "../servers/server.ts";

const server = await findServer(postgresSource);
const url = "url" in server ? server.url : "";
const reason = "reason" in server ? ` (skipped: ${server.reason})` : "";

interface Driver {
  name: string;
  open(): (PgPool | PostgresJs) & { end(): Promise<void> };
  prepare: boolean;
}

const drivers: readonly Driver[] = [
  { name: "pg", open: () => new pg.Pool({ connectionString: url, max: 4 }), prepare: false },
  {
    name: "postgres.js, prepared",
    open: () => postgres(url, { max: 4, onnotice: () => {} }),
    prepare: true,
  },
];

describe.skipIf(reason !== "").each(drivers)(`postgresStore on $name${reason}`, (driver) => {
  const table = `semel_${randomBytes(6).toString("hex")}`;
  const records = `"${table}_records"`;
  const admin = new pg.Pool({ connectionString: url, max: 1 });
  const clients = [driver.open(), driver.open()] as const;
  const [store, other] = clients.map((client) =>
    postgresStore(client, { table, prepare: driver.prepare }),
  ) as [ReturnType<typeof postgresStore>, ReturnType<typeof postgresStore>];

  beforeAll(() => store.migrate());

  afterAll(async () => {
    await admin.query(`DROP TABLE ${records}, "${table}_schema"`);
    await Promise.all([...clients, admin].map((client) => client.end()));
  });

  for (const storeCase of storeCases) {
    it(storeCase.name, async () => {
      await admin.query(`TRUNCATE ${records}`);
      await storeCase.run({
        store,
        elapse: async (ms) => {
          const back = ["lease_until", "expires_at", "created_at", "updated_at"];
          const moved = back.map((column) => `${column} = ${column} - ${ms} * interval '1 ms'`);
          await admin.query(`UPDATE ${records} SET ${moved.join()}`);
        },
        another: async () => other,
        damage: async (id, how) => {
          const damage = how === "newer" ? "format = format + 1" : "state = 99";
          await admin.query(`UPDATE ${records} SET ${damage} WHERE id = '${id}'`);
        },
      });
    });
  }
});
