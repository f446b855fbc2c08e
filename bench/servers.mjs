// Where the servers are that the benches measure.

export const POSTGRES_URL = process.env.BENCH_POSTGRES ?? "postgres://root@127.0.0.1:5432/test";
export const MYSQL_URL = process.env.BENCH_MYSQL ?? "mysql://root@127.0.0.1:3306/test";
export const REDIS_URL = process.env.BENCH_REDIS ?? "redis://127.0.0.1:6379";

/** Removes the tables and functions whose names begin with this from Postgres. */
export async function dropAll(pool, prefix) {
  const like = [`${prefix.replaceAll("_", "\\_")}%`];
  const tables = await pool.query("SELECT tablename FROM pg_tables WHERE tablename LIKE $1", like);
  for (const { tablename } of tables.rows) await pool.query(`DROP TABLE "${tablename}"`);
  const functions = await pool.query("SELECT proname FROM pg_proc WHERE proname LIKE $1", like);
  for (const { proname } of functions.rows) await pool.query(`DROP ROUTINE "${proname}"`);
}
