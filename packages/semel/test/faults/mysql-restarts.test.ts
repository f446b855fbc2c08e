// MariaDB that is killed, or stalled, in a storm of operations.

import { createPool, type Pool, type PoolConnection, type RowDataPacket } from "mysql2/promise";
import { afterAll, beforeAll, describe, it } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { mysqlStore } from "../../src/stores/mysql.ts";
import { startMysql } from "../servers/mysql.ts";
import { leaseMode, type Mode, Storm } from "./storm.ts";

const server = await startMysql();
const missing = server ? "" : " (skipped: no binaries of MariaDB to start a server from)";
if (missing && process.env["SEMEL_REQUIRE_SERVICES"]) throw new Error(missing);

describe.skipIf(missing)(`MariaDB in a storm${missing}`, () => {
  let admin: Pool;
  let pool: Pool;

  beforeAll(async () => {
    admin = createPool({ uri: server!.url, connectionLimit: 4 });
    pool = createPool({ uri: server!.url, connectionLimit: 8, connectTimeout: 2_000 });
    await mysqlStore(admin).migrate();
    await admin.query("CREATE TABLE orders (sku varchar(100) NOT NULL) ENGINE = InnoDB");
  });

  afterAll(async () => {
    // What was broken while it was idle has already said so.
    for (const one of [pool, admin]) await one?.end().catch(() => {});
    await server?.close();
  });

  const transactionMode: Mode = {
    name: "transaction()",
    run: (idempotency, key) =>
      idempotency.transaction({ key }, async (transaction) => {
        const insert = { sql: "INSERT INTO orders VALUES (?)", timeout: 2_000 };
        await (transaction as PoolConnection).query(insert, [key]);
        return { by: key };
      }),
    async effects() {
      const sql = "SELECT sku, count(*) AS n FROM orders GROUP BY sku";
      const [rows] = await admin.query<RowDataPacket[]>(sql);
      return new Map(rows.map(({ sku, n }) => [sku, Number(n)]));
    },
  };

  const witness = () => new Idempotency({ store: mysqlStore(pool), sweep: false, cache: false });

  it.each(["run()", "transaction()"])(
    "SM-21, EN-5: %s keeps what it acknowledged through kill -9, has no second effect, and goes on",
    async (modeName) => {
      const mode = modeName === "run()" ? leaseMode() : transactionMode;
      const idempotency = new Idempotency({
        store: mysqlStore(pool, { queryTimeout: "2s" }),
        sweep: false,
        cache: false,
        completionRetry: "60s",
      });
      const storm = new Storm(idempotency, mode);
      for (let kills = 0; kills < 2; kills++) {
        await storm.more(100);
        await server!.kill();
        await server!.start();
      }
      await storm.more(200);
      await storm.end();
      const answers = await storm.audit(witness(), () => modeName === "transaction()");
      console.log(`mysql (mysql2), ${modeName}, 2 times kill -9: ${JSON.stringify(answers)}`);
    },
    300_000,
  );

  it("refuses newcomers within a bound while the server is stalled, and goes on when it is not", async () => {
    const idempotency = new Idempotency({
      store: mysqlStore(pool, { queryTimeout: "1s" }),
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
    console.log(`mysql (mysql2), a stall: ${JSON.stringify(await storm.audit(witness()))}`);
  });
});
