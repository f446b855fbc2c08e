// Postgres that is stopped without warning, or stalled, in a storm of operations.

import pg from "pg";
import postgres from "postgres";
import { afterAll, beforeAll, describe, it } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { type PgPool, type PostgresJs, postgresStore } from "../../src/stores/postgres.ts";
import { startPostgres } from "../servers/postgres.ts";
import { leaseMode, type Mode, Storm } from "./storm.ts";

const server = await startPostgres();
const missing = server ? "" : " (skipped: no binaries of Postgres to start a server from)";
if (missing && process.env["SEMEL_REQUIRE_SERVICES"]) throw new Error(missing);

const drivers = [
  {
    name: "pg",
    open() {
      const pool = new pg.Pool({
        connectionString: server!.url,
        max: 8,
        query_timeout: 2_000,
        connectionTimeoutMillis: 2_000,
      });
      pool.on("error", () => {});
      const insert = async (transaction: unknown, sku: string) =>
        void (await (transaction as pg.PoolClient).query("INSERT INTO orders VALUES ($1)", [sku]));
      return { store: postgresStore(pool as PgPool), insert, end: () => pool.end() };
    },
  },
  {
    name: "postgres.js",
    open() {
      const sql = postgres(server!.url, {
        max: 8,
        connect_timeout: 2,
        // By default it waits up to 20 s before it connects again.
        backoff: () => 0.1,
        fetch_types: false,
        onnotice: () => {},
      });
      const insert = async (transaction: unknown, sku: string) =>
        void (await (transaction as postgres.TransactionSql)`INSERT INTO orders VALUES (${sku})`);
      const end = () => sql.end({ timeout: 2 });
      return { store: postgresStore(sql as PostgresJs), insert, end };
    },
  },
];

describe.skipIf(missing)(`Postgres in a storm${missing}`, () => {
  let admin: pg.Pool;

  beforeAll(async () => {
    admin = new pg.Pool({ connectionString: server!.url, max: 4 }).on("error", () => {});
    await postgresStore(admin as PgPool).migrate();
    await admin.query("CREATE TABLE orders (sku text NOT NULL)");
  });

  afterAll(async () => {
    await admin?.end();
    await server?.close();
  });

  const transactionMode = (insert: (transaction: unknown, sku: string) => Promise<void>): Mode => ({
    name: "transaction()",
    run: (idempotency, key) =>
      idempotency.transaction({ key }, async (transaction) => {
        await insert(transaction, key);
        return { by: key };
      }),
    async effects() {
      const sql = "SELECT sku, count(*)::int AS n FROM orders GROUP BY sku";
      return new Map((await admin.query(sql)).rows.map(({ sku, n }) => [sku, n]));
    },
  });

  describe.each(drivers)("through $name", ({ name, open }) => {
    it.each(["run()", "transaction()"])(
      "SM-21, EN-5: %s keeps what it acknowledged through an immediate stop, has no second effect, and goes on",
      async (modeName) => {
        const client = open();
        const mode = modeName === "run()" ? leaseMode() : transactionMode(client.insert);
        const idempotency = new Idempotency({
          store: client.store,
          sweep: false,
          cache: false,
          completionRetry: "30s",
        });
        const storm = new Storm(idempotency, mode);
        for (let stops = 0; stops < 3; stops++) {
          await storm.more(100);
          await server!.stopImmediately();
          await server!.start();
        }
        await storm.more(200);
        await storm.end();
        const witness = new Idempotency({ store: client.store, sweep: false, cache: false });
        // What a handler's own statement fails with is the handler's.
        const answers = await storm.audit(witness, () => modeName === "transaction()");
        console.log(
          `postgres (${name}), ${modeName}, 3 immediate stops: ${JSON.stringify(answers)}`,
        );
        await client.end();
      },
      300_000,
    );
  });

  it("refuses newcomers within a bound while the server is stalled, and goes on when it is not", async () => {
    const client = drivers[0]!.open();
    const idempotency = new Idempotency({
      store: client.store,
      sweep: false,
      cache: false,
      storeTimeout: "1s",
      completionRetry: "60s",
    });
    const storm = new Storm(idempotency, leaseMode());
    await storm.more(100);
    await server!.signal("SIGSTOP");
    try {
      await storm.refusesNewcomers(idempotency);
    } finally {
      await server!.signal("SIGCONT");
    }
    await storm.more(100);
    await storm.end();
    const witness = new Idempotency({ store: client.store, sweep: false, cache: false });
    console.log(`postgres (pg), a stall: ${JSON.stringify(await storm.audit(witness))}`);
    await client.end();
  });
});
