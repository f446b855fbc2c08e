// SQLite stores that are wrong on purpose: the real store, whose statements lose or change one
// condition on their way to the database.

import { type SqliteDatabase, sqliteStore } from "../../src/stores/sqlite.ts";
import type { StoreHarness } from "../../src/testing/index.ts";
import { sqliteDrivers } from "../sqlite-drivers.ts";

export interface SqlSaboteur {
  readonly name: string;
  /** Counts the statements that it changed, to prove that it did anything. */
  readonly changed: () => number;
  open(): Promise<StoreHarness>;
}

/** Statements are rewritten in one line, with the clock as `@now`. */
const CLOCK = "CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)";

type Rewrite = readonly [from: RegExp, to: string];

export async function openSqlite(rewrite?: Rewrite, onChange = () => {}): Promise<StoreHarness> {
  const database = sqliteDrivers[0]!.open(":memory:");
  const store = sqliteStore(rewrite ? rewriting(database, rewrite, onChange) : database);
  await store.migrate();
  return {
    store,
    async elapse(ms) {
      database.exec(`UPDATE semel_records SET created_at = created_at - ${ms},
        updated_at = updated_at - ${ms}, lease_until = lease_until - ${ms},
        expires_at = expires_at - ${ms}`);
    },
    async damage(id, how) {
      const damage = how === "newer" ? "format = format + 1" : "state = 99";
      database.exec(`UPDATE semel_records SET ${damage} WHERE id = x'${id}'`);
    },
    async close() {
      database.close();
    },
  };
}

function rewriting(
  database: SqliteDatabase,
  [from, to]: Rewrite,
  onChange: () => void,
): SqliteDatabase {
  return {
    exec: (sql) => database.exec(sql),
    prepare(sql) {
      const plain = sql.replace(/\s+/g, " ").replaceAll(CLOCK, "@now");
      const rewritten = plain.replace(from, to);
      if (rewritten !== plain) onChange();
      return database.prepare(rewritten.replaceAll("@now", CLOCK));
    },
  };
}

function saboteur(name: string, from: RegExp, to: string): SqlSaboteur {
  let changed = 0;
  const open = () => openSqlite([from, to], () => changed++);
  return { name, changed: () => changed, open };
}

const LAPSED = "\\(state = 0 AND lease_until <= @now\\)";
const LIVE = "\\(expires_at IS NULL OR expires_at > @now\\)";

export const sqlSaboteurs: readonly SqlSaboteur[] = [
  saboteur("writes do not test the owner", / AND owner = unhex\(\?\)/g, " AND ? IS NOT NULL"),
  saboteur("writes do not test the attempt", / AND attempt = \?/g, " AND ? IS NOT NULL"),
  saboteur("writes do not test the state", / AND state = 0 AND attempt = /g, " AND attempt = "),
  saboteur("writes do not test the expiry", new RegExp(`(^UPDATE.*) AND ${LIVE}`), "$1"),
  saboteur("writes do not test the format", /(^UPDATE.*)format = 1 AND /, "$1"),
  saboteur("reads do not test the expiry", new RegExp(`(^SELECT.*) AND ${LIVE}`), "$1"),
  saboteur("a resent begin is a new attempt", /NOT owner = excluded\.owner/, "NOT false"),
  saboteur("a live lease is taken over", new RegExp(`OR \\(${LAPSED} AND`), "OR (true AND"),
  saboteur("a takeover ignores the policy to hold", / AND on_crash <> 0 AND /, " AND "),
  saboteur("crashes are not counted", /crashes = crashes \+/, "crashes = crashes + 0 *"),
  saboteur("crash loops do not end", /crashes \+ 1 < \?/, "? > 0"),
  saboteur("one crash more than allowed", /crashes \+ 1 < \?/, "crashes < ?"),
  saboteur(
    "the finder's policy rules",
    /iif\(state = 3, excluded\.on_crash,/,
    "iif(true, excluded.on_crash,",
  ),
  saboteur(
    "an open record keeps its policy",
    /iif\(state = 3, excluded\.on_crash,/,
    "iif(false, 0,",
  ),
  saboteur(
    "attempts do not rise after a release",
    /\(state = 3 OR NOT owner = excluded\.owner\)/,
    "(state = 0 AND NOT owner = excluded.owner)",
  ),
  saboteur("requests are never late", /<= \? OR EXISTS/, "<= ? OR true OR EXISTS"),
  saboteur(
    "retention is counted from creation",
    /(^UPDATE.*result = \?.*)expires_at = @now \+ \?/,
    "$1expires_at = created_at + ?",
  ),
  saboteur(
    "held records have a bound",
    /(^UPDATE.*)expires_at = @now \+ \?/,
    "$1expires_at = @now + coalesce(?, 1000)",
  ),
  saboteur(
    "renew leaves the record's end",
    /(^UPDATE.*SET lease_until = @now \+ \?,) expires_at = @now \+ \?/,
    "$1 expires_at = iif(? > 0, expires_at, expires_at)",
  ),
  saboteur(
    "a sweep removes what lives",
    /expires_at <= @now ORDER BY/,
    "expires_at IS NOT NULL ORDER BY",
  ),
  saboteur("a sweep ignores its limit", /LIMIT \?\)/, "LIMIT 1000 * ?)"),
  saboteur(
    "whatever is in the way of a claim is forgotten",
    /(^DELETE.*WHERE id = unhex\(\?\)) AND expires_at <= @now/,
    "$1",
  ),
  saboteur("a void replaces a result", /state IN \(3, 2\)/, "state IN (1, 2, 3)"),
  saboteur(
    "a void ends a live attempt",
    new RegExp(`state IN \\(3, 2\\) OR ${LAPSED}`),
    "state IN (0, 2, 3)",
  ),
  saboteur("a delete ends a live attempt", /OR state <> 0 OR/, "OR true OR"),
  saboteur(
    "a resolution ends a live attempt",
    /\(state = 2 OR \(\(state = 0.*\)$/,
    "state IN (0, 2)",
  ),
  saboteur("a listing repeats the last of a page", /position < coalesce/, "position <= coalesce"),
  saboteur(
    "scopes are listed whatever their case",
    /\(scope = \?\) IS NOT FALSE/,
    "(scope = ? COLLATE NOCASE) IS NOT FALSE",
  ),
  saboteur(
    "ages are those of the last change",
    /@now - created_at >= \?/,
    "@now - updated_at >= ?",
  ),
  saboteur(
    "statistics count lapsed records as running",
    /SELECT iif\(.*?, 2, state\) AS counted/,
    "SELECT state AS counted",
  ),
];
