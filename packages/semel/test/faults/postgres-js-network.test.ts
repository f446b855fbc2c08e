import postgres from "postgres";
import { type PostgresJs, postgresStore } from "../../src/stores/postgres.ts";
import { describeFaults, LOUD, PHASES } from "./enumeration.ts";
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
    name: "postgres (postgres.js)",
    protocol: "postgres",
    target,
    phases: PHASES,
    // It has no time-out for an answer, so that a transaction waits for a silent server.
    kinds: LOUD,
    async open(port, timeoutMs): Promise<OpenedPostgres> {
      const sql = postgres(urlThrough(port), {
        max: 2,
        connect_timeout: timeoutMs / 1_000,
        // Its own query for them is awaited by nobody: when it fails, the process ends.
        fetch_types: false,
        onnotice: () => {},
      });
      return {
        store: postgresStore(sql as PostgresJs, { table }),
        ping: async () => void (await sql`SELECT 1`),
        close: () => sql.end({ timeout: 1 }),
      };
    },
    orders: ordersOf(async (transaction, sku) => {
      const sql = transaction as postgres.TransactionSql;
      await sql`INSERT INTO ${sql(`${table}_orders`)} VALUES (${sku})`;
    }),
  },
  missing,
  setUp,
);
