// `semel doctor` on servers that are set up badly, and well (CLI-1).

import { join } from "node:path";
import { afterAll, afterEach, describe, expect, test } from "vitest";
import { startMysql } from "../../../semel/test/servers/mysql.ts";
import { startPostgres } from "../../../semel/test/servers/postgres.ts";
import { redisBinariesMissing, startRedis } from "../../../semel/test/servers/redis.ts";
import { freePort, type PrivateServer } from "../../../semel/test/servers/server.ts";
import { cleanUp, folder, later, semel } from "../processes.ts";

afterEach(cleanUp);

interface Report {
  code: number | null;
  store: string;
  sound: boolean;
  windows: string[];
  /** By check. */
  findings: Record<string, { verdict: string; found: string; remedy?: string }>;
}

async function doctor(store: string): Promise<Report> {
  const { code, stdout, stderr } = await semel("doctor", "--json", "--store", store);
  expect(stderr).toBe("");
  const { findings, ...report } = JSON.parse(stdout) as Omit<Report, "findings"> & {
    findings: { check: string; verdict: string; found: string }[];
  };
  expect(code).toBe(report.sound ? 0 : 1);
  return { ...report, code, findings: Object.fromEntries(findings.map((one) => [one.check, one])) };
}

test("memory: forgets everything, and that has to be mended", async () => {
  const { sound, windows } = await doctor("memory:");
  expect(sound).toBe(false);
  expect(windows[0]).toMatch(/^Memory: the end of the process forgets everything/);
});

test("SQLite: a migrated file is sound; the windows are told all the same", async () => {
  const store = `sqlite:${join(await folder(), "semel.db")}`;
  const before = await doctor(store);
  expect(before).toMatchObject({ code: 1, findings: { reach: { verdict: "mend" } } });
  await semel("migrate", "--store", store);
  const { code, findings, windows } = await doctor(store);
  expect(code).toBe(0);
  expect(findings).toMatchObject({
    journal: { verdict: "ok" },
    durability: { verdict: "ok" },
    room: { verdict: "ok" },
    retention: { verdict: "note" },
  });
  expect(windows.join(" ")).toMatch(/synchronous: "normal".*wall clock.*Retention:.*Crash:/);
});

test("a server that is not reached is one finding, without the password", async () => {
  const port = await freePort();
  for (const scheme of ["postgres", "mysql", "redis"]) {
    const address = `${scheme}://me:s3cr3t@127.0.0.1:${port}/1`;
    const { code, stdout, stderr } = await semel("doctor", "--store", address);
    expect([scheme, code, stderr]).toEqual([scheme, 1, ""]);
    expect(stdout).toMatch(/^mend\t(store|reach)\t.*ECONNREFUSED/);
    expect(stdout).not.toContain("s3cr3t");
    const stats = await semel("stats", "--store", address);
    expect(stats).toMatchObject({ code: 1, stdout: "" });
    expect(stats.stderr).toMatch(/^error: --store [^\n]*ECONNREFUSED[^\n]*\n$/);
    expect(stats.stderr).not.toContain("s3cr3t");
  }
});

const noRedis = await redisBinariesMissing();

describe.skipIf(noRedis)(`Redis${noRedis ? ` (skipped: ${noRedis})` : ""}`, () => {
  async function redis(...args: string[]): Promise<PrivateServer> {
    const server = await startRedis(args);
    later(() => server!.close());
    return server!;
  }

  test("without persistence, and evicting: both have to be mended", async () => {
    const server = await redis("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru");
    const { findings, windows } = await doctor(server.url);
    expect(findings).toMatchObject({
      store: { verdict: "mend" },
      persistence: { verdict: "mend", found: "no append-only file" },
      eviction: { verdict: "mend", remedy: expect.stringContaining("noeviction") },
    });
    expect(windows.join("\n")).toMatch(/without an append-only file: a restart forgets/);
    expect(windows.join("\n")).toMatch(/maxmemory-policy allkeys-lru/);
  });

  test("everysec is noted with its window; always has none of its own", async () => {
    const everysec = await redis("--appendonly", "yes");
    const noted = await doctor(everysec.url);
    expect(noted).toMatchObject({ code: 0, findings: { persistence: { verdict: "note" } } });
    expect(noted.windows.join("\n")).toMatch(/appendfsync everysec:.*last second/);
    const always = await redis("--appendonly", "yes", "--appendfsync", "always");
    const sound = await doctor(always.url);
    expect(sound).toMatchObject({ code: 0, findings: { persistence: { verdict: "ok" } } });
    expect(sound.windows.join("\n")).not.toMatch(/appendfsync/);
    expect(sound.windows.join("\n")).toMatch(
      /Redis without WAIT: a failover may forget claims and results that were acknowledged in the last moments/,
    );
  });

  test("a replica has to be mended", async () => {
    const primary = await redis("--appendonly", "yes");
    const replica = await redis("--appendonly", "yes", "--replicaof", `127.0.0.1 ${primary.port}`);
    expect((await doctor(replica.url)).findings["role"]).toMatchObject({ verdict: "mend" });
  });
});

const postgres = await startPostgres({ fsync: "off", synchronous_commit: "off" });
afterAll(() => postgres?.close());

test.skipIf(!postgres)(
  "Postgres: fsync = off has to be mended; synchronous_commit is ours",
  async () => {
    const before = await doctor(postgres!.url);
    expect(before.findings["store"]).toMatchObject({
      verdict: "mend",
      found: expect.stringContaining("semel migrate --store postgres://127.0.0.1"),
    });
    await semel("migrate", "--store", postgres!.url);
    const { code, findings, windows } = await doctor(postgres!.url);
    expect(code).toBe(1);
    expect(findings).toMatchObject({
      store: { verdict: "ok" },
      fsync: { verdict: "mend", found: "off" },
      synchronous_commit: { verdict: "ok", found: expect.stringContaining("raises it to on") },
    });
    expect(windows.join(" ")).toMatch(/fsync = off.*synchronous_standby_names/);
  },
);

const mysql = await startMysql([
  "--innodb-flush-log-at-trx-commit=2",
  "--log-bin",
  "--sync-binlog=0",
]);
afterAll(() => mysql?.close());

test.skipIf(!mysql)(
  "MySQL: a log that is not flushed has to be mended, with its window",
  async () => {
    await semel("migrate", "--store", mysql!.url);
    const { code, findings, windows } = await doctor(mysql!.url);
    expect(code).toBe(1);
    expect(findings).toMatchObject({
      store: { verdict: "ok" },
      innodb_flush_log_at_trx_commit: { verdict: "mend", found: "2" },
      sync_binlog: { verdict: "note" },
    });
    expect(windows[0]).toMatch(
      /innodb_flush_log_at_trx_commit = 2: a crash of the server's machine/,
    );
  },
);
