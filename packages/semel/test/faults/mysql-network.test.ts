import { randomBytes } from "node:crypto";
import { createPool, type PoolConnection, type RowDataPacket } from "mysql2/promise";
import { mysqlStore } from "../../src/stores/mysql.ts";
import { PROXY_FAULTS } from "../../src/testing/fault-proxy.ts";
import { mysqlSource } from "../servers/mysql.ts";
import { findServer } from "../servers/server.ts";
import { describeFaults, type Opened, PHASES } from "./enumeration.ts";

const found = await findServer(mysqlSource);
const url = new URL("url" in found ? found.url : "mysql://root@127.0.0.1:1/nowhere");
const missing = "reason" in found ? ` (skipped: ${found.reason})` : "";
const table = `faults${randomBytes(6).toString("hex")}`;
const admin = createPool({ uri: url.href, connectionLimit: 4 });

type OpenedMysql = Opened & { ping(): Promise<void> };

describeFaults(
  {
    name: "mysql (mysql2)",
    protocol: "mysql",
    target: { host: url.hostname, port: Number(url.port || 3306) },
    phases: PHASES,
    kinds: PROXY_FAULTS,
    async open(port, timeoutMs): Promise<OpenedMysql> {
      const through = new URL(url);
      through.hostname = "127.0.0.1";
      through.port = String(port);
      const pool = createPool({ uri: through.href, connectionLimit: 2, connectTimeout: timeoutMs });
      return {
        store: mysqlStore(pool, { table, queryTimeout: timeoutMs }),
        ping: async () => void (await pool.query("SELECT 1")),
        // What was broken while it was idle has already said so.
        close: () => pool.end().catch(() => {}),
      };
    },
    orders: {
      async insert(transaction, sku) {
        const sql = `INSERT INTO ${table}_orders VALUES (?)`;
        await (transaction as PoolConnection).query({ sql, timeout: 1_000 }, [sku]);
      },
      ping: (opened) => (opened as OpenedMysql).ping(),
      async count(sku) {
        const sql = `SELECT count(*) AS n FROM ${table}_orders WHERE sku = ?`;
        const [rows] = await admin.query<RowDataPacket[]>(sql, [sku]);
        return Number(rows[0]!["n"]);
      },
    },
  },
  missing,
  async () => {
    await admin.query(`CREATE TABLE ${table}_orders (sku varchar(100) NOT NULL) ENGINE = InnoDB`);
    await mysqlStore(admin, { table }).migrate();
    return async () => {
      await admin.query(`DROP TABLE ${table}_orders, ${table}_records, ${table}_schema`);
      await admin.end();
      if ("close" in found) await found.close();
    };
  },
);
