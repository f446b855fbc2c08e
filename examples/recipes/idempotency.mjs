// The one `Idempotency` of a process. Routes import it, because a framework's route module may export
// its handlers only. SQLite keeps the recipes free of a database server; with more than one machine,
// use `semel/postgres`, `semel/mysql` or `semel/redis`.

import { mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { Idempotency } from "semel";
import { sqliteStore } from "semel/sqlite";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const DATABASE = process.env.SEMEL_DATABASE ?? join(ROOT, ".semel", "recipes.db");

mkdirSync(dirname(DATABASE), { recursive: true });
const store = sqliteStore(await open(DATABASE));
await store.migrate();

export const idempotency = new Idempotency({
  store,
  // What a crash or an error leaves unknown is not charged again: somebody finds out and resolves it.
  onCrash: "hold",
  onError: "hold",
  lease: /** @type {import("semel").Duration} */ (process.env.SEMEL_LEASE ?? "30s"),
});

/**
 * @param {string} path
 * @returns {Promise<import("semel/sqlite").SqliteDatabase>}
 */
async function open(path) {
  const builtin = /** @type {any} */ (process.getBuiltinModule?.("node:sqlite"));
  if (builtin) return new builtin.DatabaseSync(path);
  const { default: Database } = await import("libsql");
  return new Database(path);
}
