import pg from "pg";
import { type PgPool, postgresStore } from "../../src/stores/postgres.ts";
import { PROXY_FAULTS } from "../../src/testing/fault-proxy.ts";
import { describeFaults, PHASES } from "./enumeration.ts";
import {
  missing,
  type OpenedPostgres,
  ordersOf,
  setUp,
  table,
  target,
  urlThrough,
} from "./postgres-stage.ts";

describeFaults(
  {
    name: "postgres (pg)",
    protocol: "postgres",
    target,
    phases: PHASES,
    kinds: PROXY_FAULTS,
    async open(port, timeoutMs): Promise<OpenedPostgres> {
      const pool = new pg.Pool({
        connectionString: urlThrough(port),
        max: 2,
        query_timeout: timeoutMs,
        connectionTimeoutMillis: timeoutMs,
      });
      pool.on("error", () => {});
      return {
        store: postgresStore(pool as PgPool, { table }),
        ping: async () => void (await pool.query("SELECT 1")),
        // What was broken while it was idle has already said so.
        close: () => pool.end().catch(() => {}),
      };
    },
    orders: ordersOf(async (transaction, sku) => {
      const sql = `INSERT INTO ${table}_orders VALUES ($1)`;
      await (transaction as pg.PoolClient).query(sql, [sku]);
    }),
  },
  missing,
  setUp,
);
