// Databases whose disk is full: a tmpfs of their own, of which a file takes the rest.

import { randomBytes } from "node:crypto";
import { createPool } from "mysql2/promise";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Idempotency } from "../../src/engine/idempotency.ts";
import { isSemelError } from "../../src/errors.ts";
import type { Store } from "../../src/store.ts";
import { mysqlStore } from "../../src/stores/mysql.ts";
import { type PgPool, postgresStore } from "../../src/stores/postgres.ts";
import { startMysql } from "../servers/mysql.ts";
import { startPostgres } from "../servers/postgres.ts";
import type { PrivateServer } from "../servers/server.ts";
import { type SmallDisk, smallDisk } from "../servers/small-disk.ts";

interface Database {
  readonly name: string;
  readonly sizeMiB: number;
  start(folder: string): Promise<PrivateServer | undefined>;
  open(url: string): { store: Store & { migrate(): Promise<void> }; end(): Promise<unknown> };
}

const databases: readonly Database[] = [
  {
    name: "Postgres",
    sizeMiB: 160,
    start: (folder) => startPostgres({ min_wal_size: "32MB", max_wal_size: "48MB" }, folder),
    open(url) {
      const pool = new pg.Pool({ connectionString: url, query_timeout: 5_000 });
      pool.on("error", () => {});
      return { store: postgresStore(pool as PgPool), end: () => pool.end() };
    },
  },
  {
    name: "MariaDB",
    sizeMiB: 256,
    start: (folder) =>
      startMysql(
        [
          // A tmpfs has neither direct nor asynchronous writes.
          "--innodb-flush-method=fsync",
          "--innodb-use-native-aio=0",
          "--innodb-log-file-size=16M",
          "--innodb-buffer-pool-size=32M",
        ],
        folder,
      ),
    open(url) {
      const pool = createPool({ uri: url, connectTimeout: 5_000 });
      return {
        store: mysqlStore(pool, { queryTimeout: "5s" }),
        end: () => pool.end().catch(() => {}),
      };
    },
  },
];

const OPERATIONS_MAX = 4_000;
const ROOM_LEFT = 512 * 1024;
const FULL = ["store-full", "store-unavailable", "store-unusable"];

for (const { name, sizeMiB, start, open } of databases) {
  const mounted = await smallDisk(sizeMiB);
  const disk = "folder" in mounted ? (mounted as SmallDisk) : undefined;
  const server = disk && (await start(disk.folder).catch(() => undefined));
  if (server === undefined) await disk?.close();
  let missing = "";
  if ("reason" in mounted) missing = ` (skipped: ${mounted.reason})`;
  else if (server === undefined) missing = ` (skipped: ${name} cannot be started on it)`;
  if (disk && missing && process.env["SEMEL_REQUIRE_SERVICES"]) throw new Error(missing);

  describe.skipIf(missing)(`${name} whose disk is full${missing}`, () => {
    const { store, end } = open(server?.url ?? "http://127.0.0.1:1");

    beforeAll(() => store.migrate());

    afterAll(async () => {
      await end();
      await server?.close();
      await disk?.close();
    });

    it("SM-22: says so, runs nothing without a record, and works again when there is room", async () => {
      const idempotency = new Idempotency({
        store,
        sweep: false,
        cache: false,
        storeTimeout: "10s",
        completionRetry: "1s",
      });
      const runs = new Map<string, number>();
      const result = randomBytes(48 * 1024);
      const ask = (key: string) =>
        idempotency.run({ key }, () => {
          runs.set(key, (runs.get(key) ?? 0) + 1);
          return result;
        });
      const early = Array.from({ length: 20 }, (_, n) => `early-${n}`);
      for (const key of early) await ask(key);

      await disk!.fill(ROOM_LEFT);
      const { kept, refused, errors } = await untilFull(ask, runs);
      expect(refused.length).toBeGreaterThanOrEqual(10);
      for (const error of errors) {
        expect(isSemelError(error) && FULL.includes(error.code), String(error)).toBe(true);
        expect((error as Error).message).not.toBe("");
      }
      // Whoever was refused at the beginning was not run.
      expect(refused.filter((key) => runs.has(key))).toEqual([]);

      await disk!.free();
      await expect
        .poll(
          () =>
            ask("late").then(
              () => true,
              () => restarted(server!),
            ),
          { timeout: 60_000 },
        )
        .toBe(true);
      for (const key of [...early, ...kept]) {
        const outcome = await ask(key).catch((error: unknown) => error);
        // What could not be recorded is held, or still leased; it is not run again.
        if (isSemelError(outcome)) {
          expect(["operation-in-progress", "outcome-unknown", "result-not-stored"]).toContain(
            outcome.code,
          );
        } else expect(outcome).toMatchObject({ replayed: true, value: result });
        expect(runs.get(key)).toBe(1);
      }
      for (const key of early) expect(await ask(key)).toMatchObject({ replayed: true });
      for (const key of refused) await ask(key).catch(() => {});
      expect([...runs.values()].every((times) => times === 1)).toBe(true);
      const codes = [...new Set(errors.map((error) => (error as { code: string }).code))];
      console.log(
        `${name}, full disk: ${kept.length} operations kept, then ${refused.length} refused with ${codes.join(", ")}`,
      );
    }, 300_000);
  });
}

/** Asks until ten in a row have been refused. */
async function untilFull(
  ask: (key: string) => Promise<unknown>,
  runs: ReadonlyMap<string, number>,
): Promise<{ kept: string[]; refused: string[]; errors: unknown[] }> {
  const kept: string[] = [];
  const refused: string[] = [];
  const errors: unknown[] = [];
  let inARow = 0;
  for (let n = 0; n < OPERATIONS_MAX && inARow < 10; n++) {
    const key = `k${n}`;
    try {
      await ask(key);
      kept.push(key);
      inARow = 0;
    } catch (error) {
      errors.push(error);
      (runs.has(key) ? kept : refused).push(key);
      inARow++;
    }
  }
  return { kept, refused, errors };
}

/** A server may have ended itself for want of room: then its administrator starts it again. */
async function restarted(server: PrivateServer): Promise<boolean> {
  await server.kill();
  await server.start();
  return false;
}
