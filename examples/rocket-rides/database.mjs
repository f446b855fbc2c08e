// Our own database, which holds the rides and Semel's records: SQLite in a file, or Postgres.

/**
 * @typedef {object} Rides
 * @property {(transaction: any, id: string, ride: import("./rides.mjs").RideInput) => unknown} book
 * @property {(transaction: any, id: string, charge: string, rocket: string) => unknown} confirm
 * @property {(id: string, state: string) => unknown} change outside of a transaction
 * @property {() => Promise<{ id: string, state: string, charge: string | null }[]>} all
 */

const TABLE = `CREATE TABLE IF NOT EXISTS rides (
  id TEXT PRIMARY KEY, rider TEXT NOT NULL, destination TEXT NOT NULL,
  state TEXT NOT NULL, charge TEXT, rocket TEXT)`;
const BOOK = "INSERT INTO rides (id, rider, destination, state) VALUES ";
const CONFIRM = "UPDATE rides SET state = 'confirmed', charge = ";

/** @param {string} url `sqlite:FILE` or `postgres://…` */
export function openDatabase(url) {
  return url.startsWith("sqlite:") ? openSqlite(url.slice("sqlite:".length)) : openPostgres(url);
}

/** @param {string} file */
async function openSqlite(file) {
  const { sqliteStore } = await import("semel/sqlite");
  const open = await sqliteDriver();
  // Transactions have a connection of their own.
  const [database, transactions] = [open(file), open(file)];
  const store = sqliteStore(database, { transactions, busyTimeout: "10s" });
  await store.migrate();
  database.exec("PRAGMA busy_timeout = 5000");
  database.exec(TABLE);
  /** @type {Rides} */
  const rides = {
    book: (transaction, id, { rider, to }) => {
      transaction.prepare(`${BOOK} (?, ?, ?, 'booked')`).run(id, rider, to);
    },
    confirm: (transaction, id, charge, rocket) => {
      transaction.prepare(`${CONFIRM} ?, rocket = ? WHERE id = ?`).run(charge, rocket, id);
    },
    change: (id, state) => {
      database.prepare("UPDATE rides SET state = ? WHERE id = ?").run(state, id);
    },
    all: async () => database.prepare("SELECT id, state, charge FROM rides ORDER BY id").all(),
  };
  const close = async () => {
    database.close();
    transactions.close();
  };
  return { store, rides, close };
}

/** The one of Node, where it has one. */
async function sqliteDriver() {
  const builtin = process.getBuiltinModule?.("node:sqlite");
  if (builtin) return (file) => new builtin.DatabaseSync(file);
  const { default: Database } = await import("libsql");
  return (file) => new Database(file);
}

/** @param {string} connectionString */
async function openPostgres(connectionString) {
  const { default: pg } = await import("pg");
  const { postgresStore } = await import("semel/postgres");
  const pool = new pg.Pool({ connectionString });
  pool.on("error", (error) => console.error(`Postgres: ${error.message}`));
  const store = postgresStore(pool);
  await store.migrate();
  await pool.query(TABLE);
  /** @type {Rides} */
  const rides = {
    book: (transaction, id, { rider, to }) =>
      transaction.query(`${BOOK} ($1, $2, $3, 'booked')`, [id, rider, to]),
    confirm: (transaction, id, charge, rocket) =>
      transaction.query(`${CONFIRM} $1, rocket = $2 WHERE id = $3`, [charge, rocket, id]),
    change: (id, state) => pool.query("UPDATE rides SET state = $1 WHERE id = $2", [state, id]),
    all: async () => (await pool.query("SELECT id, state, charge FROM rides ORDER BY id")).rows,
  };
  return { store, rides, close: () => pool.end() };
}
