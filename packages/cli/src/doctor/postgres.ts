// What can be wrong with a Postgres server that keeps records.

import type { OpenPostgres } from "../stores/servers.ts";
import { clockFinding, type Diagnosis, type Finding, mend, note, ok } from "./finding.ts";

interface Settings {
  version: number;
  replica: boolean;
  read_only: string;
  fsync: string;
  full_page_writes: string;
  commit: string;
  standbys: string;
  autovacuum: string;
}

const SETTINGS = `SELECT current_setting('server_version_num')::int AS version,
  pg_is_in_recovery() AS replica,
  current_setting('default_transaction_read_only') AS read_only,
  current_setting('fsync') AS fsync,
  current_setting('full_page_writes') AS full_page_writes,
  current_setting('synchronous_commit') AS commit,
  current_setting('synchronous_standby_names') AS standbys,
  current_setting('autovacuum') AS autovacuum`;

const VERSION_MIN = 120_000;

export async function diagnosePostgres({ client }: OpenPostgres): Promise<Diagnosis> {
  const { rows } = await client.query<Settings>(SETTINGS);
  const settings = rows[0]!;
  const { finding: clock } = await clockFinding(async () => {
    const sql = "SELECT extract(epoch FROM clock_timestamp()) * 1000 AS now";
    return Number((await client.query<{ now: string }>(sql)).rows[0]!.now);
  });
  const findings = [
    roleOf(settings),
    settings.version < VERSION_MIN
      ? mend("version", `Postgres ${settings.version / 10_000}`, "Semel needs version 12 or newer")
      : ok("version", `Postgres ${Math.floor(settings.version / 10_000)}`),
    ...durability(settings),
    settings.autovacuum === "on"
      ? ok("autovacuum", "on")
      : note("autovacuum", "off", "Turn it on: swept records leave their room unused without it"),
    clock,
  ];
  return { findings, windows: windowsOf(settings) };
}

function roleOf({ replica, read_only }: Settings): Finding {
  if (replica) return mend("role", "a replica in recovery", "Give the address of the primary");
  if (read_only === "off") return ok("role", "primary, takes writes");
  return mend(
    "role",
    "default_transaction_read_only is on",
    "Turn it off for this role or database",
  );
}

function durability({ fsync, full_page_writes, commit }: Settings): Finding[] {
  return [
    fsync === "on"
      ? ok("fsync", "on")
      : mend("fsync", "off", "Turn it on: a crash of the machine can lose or damage everything"),
    full_page_writes === "on"
      ? ok("full_page_writes", "on")
      : note(
          "full_page_writes",
          "off",
          "Turn it on, unless the file system never writes half a page",
        ),
    ["off", "local", "remote_write"].includes(commit)
      ? ok("synchronous_commit", `${commit}; Semel raises it to on for what carries a claim`)
      : ok("synchronous_commit", commit),
  ];
}

function windowsOf({ standbys, fsync }: Settings): string[] {
  return [
    ...(fsync === "on"
      ? []
      : [
          "Postgres with fsync = off: a crash of its machine may forget any record, or damage the database.",
        ]),
    standbys === ""
      ? "Postgres without synchronous_standby_names: a failover to a replica may forget claims and results that were acknowledged in the last moments; those operations run again when they are retried."
      : `Postgres with synchronous_standby_names = '${standbys}': a failover to another replica than those may forget claims and results that were acknowledged in the last moments.`,
    "Postgres: restoring a backup forgets what came after it; those operations run again when they are retried.",
  ];
}
