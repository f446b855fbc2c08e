// SM-19: processes whose clocks are an hour ahead or behind, beside one whose clock is right, on the
// same records. Only the store's clock counts.

import { type ChildProcess, fork } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import Database from "libsql";
import { createPool } from "mysql2/promise";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Store } from "../../src/store.ts";
import { mysqlStore } from "../../src/stores/mysql.ts";
import { type PgPool, postgresStore } from "../../src/stores/postgres.ts";
import { redisStore } from "../../src/stores/redis.ts";
import { sqliteStore } from "../../src/stores/sqlite.ts";
import {
  acquire,
  assertReplay,
  claimOf,
  complete,
  completion,
  duplicateOf,
  SETTLED,
  STALE,
} from "../../src/testing/claims.ts";
import { mysqlSource } from "../servers/mysql.ts";
import { postgresSource } from "../servers/postgres.ts";
import { redisSource } from "../servers/redis.ts";
import { findServer, type ServerSource } from "../servers/server.ts";
import { newPrefix, wipe } from "../stores/redis-fixture.ts";

const SCRIPT = join(import.meta.dirname, "skewed-process.mjs");
const HOUR_MS = 3_600_000;
const MINUTE_MS = 60_000;

/** The library that gives a process another clock (Debian: `libfaketime`). */
function libfaketime(): string | undefined {
  const folders = existsSync("/usr/lib") ? readdirSync("/usr/lib") : [];
  const files = folders.map((folder) => `/usr/lib/${folder}/faketime/libfaketime.so.1`);
  return files.find((file) => existsSync(file));
}

const library = libfaketime();
const missing = library ? "" : " (skipped: libfaketime is not installed)";
if (missing && process.env["SEMEL_REQUIRE_SERVICES"]) throw new Error("libfaketime is required");

/** A process with a store, whose clock is off by so much. */
class Skewed {
  readonly #child: ChildProcess;
  readonly #calls = new Map<
    number,
    { resolve(answer: unknown): void; reject(error: Error): void }
  >();
  #asked = 0;

  private constructor(child: ChildProcess) {
    this.#child = child;
    child.on(
      "message",
      ({ call, answer, error }: { call: number; answer: unknown; error?: string }) => {
        const waiting = this.#calls.get(call);
        if (error === undefined) waiting?.resolve(answer);
        else waiting?.reject(new Error(error));
      },
    );
  }

  static async start(offset: "+1h" | "-1h", settings: object): Promise<Skewed> {
    const child = fork(SCRIPT, [JSON.stringify(settings)], {
      serialization: "advanced",
      execArgv: ["--no-warnings"],
      env: {
        ...process.env,
        LD_PRELOAD: library,
        FAKETIME: offset,
        // Timers go on as they do.
        FAKETIME_DONT_FAKE_MONOTONIC: "1",
      },
    });
    const [{ now }] = (await once(child, "message")) as [{ now: number }];
    const aheadMs = offset === "+1h" ? HOUR_MS : -HOUR_MS;
    expect(Math.abs(now - Date.now() - aheadMs)).toBeLessThan(5 * MINUTE_MS);
    return new Skewed(child);
  }

  #call(method: string, args: unknown[]): Promise<unknown> {
    return new Promise((resolve, reject) => {
      this.#calls.set(++this.#asked, { resolve, reject });
      this.#child.send({ call: this.#asked, method, args });
    });
  }

  readonly store = new Proxy({} as Store, {
    get: (_target, method: string) =>
      // It is no promise itself.
      method === "then" ? undefined : (...args: unknown[]) => this.#call(method, args),
  });

  async end(): Promise<void> {
    const exited = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    await exited;
  }
}

interface Kind {
  readonly name: string;
  /** A store with the right clock, and what another process needs to open the same. */
  open(url: string): Promise<{ store: Store; name: string; close(): Promise<void> }>;
  readonly source: ServerSource;
}

const tableName = () => `skew${randomBytes(6).toString("hex")}`;

const kinds: readonly Kind[] = [
  {
    name: "postgres",
    source: postgresSource,
    async open(url) {
      const pool = new pg.Pool({ connectionString: url, max: 2 });
      const name = tableName();
      const store = postgresStore(pool as PgPool, { table: name });
      await store.migrate();
      const close = async () => {
        await pool.query(`DROP TABLE ${name}_records, ${name}_schema`);
        await pool.end();
      };
      return { store, name, close };
    },
  },
  {
    name: "mysql",
    source: mysqlSource,
    async open(url) {
      const pool = createPool({ uri: url, connectionLimit: 2 });
      const name = tableName();
      const store = mysqlStore(pool, { table: name });
      await store.migrate();
      const close = async () => {
        await pool.query(`DROP TABLE ${name}_records, ${name}_schema`);
        await pool.end();
      };
      return { store, name, close };
    },
  },
  {
    name: "redis",
    source: redisSource,
    async open(url) {
      const client = new Redis(url);
      const name = newPrefix();
      const close = async () => {
        await wipe(client, name);
        client.disconnect();
      };
      return { store: redisStore(client, { prefix: name }), name, close };
    },
  },
];

for (const { name, source, open } of kinds) {
  const found = await findServer(source);
  const reason = missing || ("reason" in found ? ` (skipped: ${found.reason})` : "");

  describe.skipIf(reason)(`SM-19: ${name}, asked by processes with wrong clocks${reason}`, () => {
    let right: Awaited<ReturnType<Kind["open"]>>;
    let ahead: Skewed;
    let behind: Skewed;

    beforeAll(async () => {
      const { url } = found as { url: string };
      right = await open(url);
      const settings = { store: name, url, name: right.name };
      [ahead, behind] = await Promise.all([
        Skewed.start("+1h", settings),
        Skewed.start("-1h", settings),
      ]);
    });

    afterAll(async () => {
      await Promise.all([ahead?.end(), behind?.end()]);
      await right?.close();
      if ("close" in found) await found.close();
    });

    const everybody = () => [right.store, ahead.store, behind.store];

    it("a live lease is nobody else's, whoever took it", async () => {
      for (const owner of everybody()) {
        const claim = claimOf({ leaseMs: 30 * MINUTE_MS });
        const token = await acquire(owner, claim);
        for (const other of everybody()) {
          const answer = await other.begin(duplicateOf(claim));
          if (answer.kind !== "busy") throw new Error(`not busy, but ${answer.kind}`);
          expect(answer.leaseRemainingMs).toBeGreaterThan(25 * MINUTE_MS);
          expect(answer.leaseRemainingMs).toBeLessThanOrEqual(30 * MINUTE_MS);
        }
        expect(await owner.settle(completion(token))).toEqual(SETTLED);
      }
    });

    it("a lapsed lease is taken over by whoever asks, and its owner is fenced off", async () => {
      for (const owner of everybody()) {
        for (const other of everybody()) {
          const claim = claimOf({ leaseMs: 50 });
          const token = await acquire(owner, claim);
          const next = duplicateOf(claim, { leaseMs: HOUR_MS });
          await expect
            .poll(() => other.begin(next), { interval: 10, timeout: 20_000 })
            .toMatchObject({ kind: "acquired", attempt: 2 });
          expect(await owner.settle(completion(token))).toEqual(STALE);
        }
      }
    });

    it("a renewed lease lasts as long for everybody", async () => {
      for (const owner of everybody()) {
        const claim = claimOf({ leaseMs: 5 * MINUTE_MS });
        const token = await acquire(owner, claim);
        await owner.renew({ ...token, leaseMs: 40 * MINUTE_MS, lapsedRetentionMs: HOUR_MS });
        for (const other of everybody()) {
          const { leaseRemainingMs } = (await other.read(claim.id))!;
          expect(leaseRemainingMs).toBeGreaterThan(35 * MINUTE_MS);
          expect(leaseRemainingMs).toBeLessThanOrEqual(40 * MINUTE_MS);
        }
      }
    });

    it("a record is kept for its retention, whoever looks or sweeps, and no longer", async () => {
      for (const owner of everybody()) {
        const [kept, forgotten] = [claimOf(), claimOf()];
        await complete(owner, kept, "kept", 30 * MINUTE_MS);
        await complete(owner, forgotten, "forgotten", 50);
        for (const other of everybody()) {
          await expect
            .poll(() => other.read(forgotten.id), { interval: 10, timeout: 20_000 })
            .toBeUndefined();
          await other.sweep(1_000);
          assertReplay(await other.begin(duplicateOf(kept)), "kept");
        }
      }
    });

    it("EN-11: how late a request is, the store's clock says", async () => {
      const ageMaxMs = 90 * MINUTE_MS;
      for (const store of everybody()) {
        const sent = (agoMs: number) =>
          claimOf({ refuseLate: { sentAt: Date.now() - agoMs, ageMaxMs } });
        // An hour ahead, it would be late; an hour behind, it would not.
        expect(await store.begin(sent(HOUR_MS))).toMatchObject({ kind: "acquired" });
        expect(await store.begin(sent(2 * HOUR_MS))).toEqual({ kind: "late" });
      }
    });
  });
}

describe.skipIf(missing)(`SQLite, whose clock is the machine's${missing}`, () => {
  let folder: string;
  let store: Store;
  let database: Database.Database;
  let ahead: Skewed;
  let behind: Skewed;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "semel-skew-"));
    const url = join(folder, "semel.db");
    database = new Database(url);
    const right = sqliteStore(database);
    await right.migrate();
    store = right;
    const settings = { store: "sqlite", url, name: "semel" };
    [ahead, behind] = await Promise.all([
      Skewed.start("+1h", settings),
      Skewed.start("-1h", settings),
    ]);
  });

  afterAll(async () => {
    await Promise.all([ahead?.end(), behind?.end()]);
    database?.close();
    if (folder) await rm(folder, { recursive: true });
  });

  it("a process with a clock of its own that is ahead takes live leases, one that is behind keeps lapsed ones, as is documented", async () => {
    const live = claimOf({ leaseMs: 30 * MINUTE_MS });
    await acquire(store, live);
    expect(await ahead.store.begin(duplicateOf(live))).toMatchObject({
      kind: "acquired",
      attempt: 2,
    });
    const lapsed = claimOf({ leaseMs: 1 });
    await acquire(store, lapsed);
    expect(await behind.store.begin(duplicateOf(lapsed))).toMatchObject({ kind: "busy" });
    const guarantees = readFileSync(
      join(import.meta.dirname, "../../../../docs/guarantees.md"),
      "utf8",
    );
    expect(guarantees).toMatch(
      /whose wall clock judges leases: set back by an hour, it keeps leases for an hour longer; set forward, leases lapse early/,
    );
  });

  it("an attempt whose lease was so taken is fenced off all the same", async () => {
    const claim = claimOf({ leaseMs: 30 * MINUTE_MS });
    const token = await acquire(store, claim);
    const successor = await acquire(ahead.store, duplicateOf(claim));
    expect(await store.settle(completion(token))).toEqual(STALE);
    expect(await ahead.store.settle(completion(successor))).toEqual(SETTLED);
  });
});
