// The store that a process of its own is told of, by its address.

/** @param {{ backend: string, url: string, table: string }} address */
export async function openStore({ backend, url, table }) {
  switch (backend) {
    case "pg": {
      const { default: pg } = await import("pg");
      const { postgresStore } = await import("../../dist/stores/postgres.js");
      return postgresStore(new pg.Pool({ connectionString: url }), { table });
    }
    case "mysql2": {
      const { createPool } = await import("mysql2/promise");
      const { mysqlStore } = await import("../../dist/stores/mysql.js");
      return mysqlStore(createPool({ uri: url }), { table });
    }
    case "redis": {
      const { Redis } = await import("ioredis");
      const { redisStore } = await import("../../dist/stores/redis.js");
      return redisStore(new Redis(url), { prefix: table, evictionPolicy: "warn" });
    }
    default: {
      const { sqliteStore } = await import("../../dist/stores/sqlite.js");
      const builtin = process.getBuiltinModule?.("node:sqlite");
      if (backend === "node:sqlite") return sqliteStore(new builtin.DatabaseSync(url), { table });
      const { default: Database } = await import("libsql");
      return sqliteStore(new Database(url), { table });
    }
  }
}
