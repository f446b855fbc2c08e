// What can be wrong with a MySQL or MariaDB server that keeps records.

import type { RowDataPacket } from "mysql2/promise";
import type { OpenMysql } from "../stores/servers.ts";
import { clockFinding, type Diagnosis, type Finding, mend, note, ok } from "./finding.ts";

interface Settings extends RowDataPacket {
  version: string;
  read_only: number;
  flush: number;
  doublewrite: string | number;
  log_bin: number;
  sync_binlog: number;
  format: string;
  packet: number;
}

const SETTINGS = `SELECT @@version AS version, @@read_only AS read_only,
  @@innodb_flush_log_at_trx_commit AS flush, @@innodb_doublewrite AS doublewrite,
  @@log_bin AS log_bin, @@sync_binlog AS sync_binlog, @@binlog_format AS format,
  @@max_allowed_packet AS packet`;

/** Twice the default of `maxResultBytes`, and room for the rest of the statement. */
const PACKET_BYTES_MIN = 2 * 2 ** 20 + 2 ** 16;

export async function diagnoseMysql({ client }: OpenMysql): Promise<Diagnosis> {
  const [rows] = await client.query<Settings[]>(SETTINGS);
  const settings = rows[0]!;
  const { finding: clock } = await clockFinding(async () => {
    const sql = "SELECT CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS UNSIGNED) AS now";
    return Number((await client.query<(RowDataPacket & { now: number })[]>(sql))[0][0]!.now);
  });
  const findings = [
    Number(settings.read_only) === 0
      ? ok("role", "takes writes")
      : mend("role", "read_only is on", "Give the address of the primary"),
    ok("version", settings.version),
    ...durability(settings),
    Number(settings.packet) < PACKET_BYTES_MIN
      ? note(
          "max_allowed_packet",
          `${settings.packet} bytes`,
          "Make it more than twice `maxResultBytes`, 1 MiB by default: larger results are refused",
        )
      : ok("max_allowed_packet", `${settings.packet} bytes`),
    clock,
  ];
  return { findings, windows: windowsOf(settings) };
}

function durability({ flush, doublewrite, log_bin, sync_binlog, format }: Settings): Finding[] {
  const findings = [
    Number(flush) === 1
      ? ok("innodb_flush_log_at_trx_commit", "1")
      : mend(
          "innodb_flush_log_at_trx_commit",
          String(flush),
          "Set it to 1: what was answered may be forgotten, and run again",
        ),
    /^(0|OFF)$/i.test(String(doublewrite))
      ? note(
          "innodb_doublewrite",
          "off",
          "Turn it on, unless the file system never writes half a page",
        )
      : ok("innodb_doublewrite", "on"),
  ];
  if (Number(log_bin) === 0) return findings;
  return [
    ...findings,
    Number(sync_binlog) === 1
      ? ok("sync_binlog", "1")
      : note(
          "sync_binlog",
          String(sync_binlog),
          "Set it to 1: replicas may lack the last writes after a crash of the machine",
        ),
    format === "STATEMENT"
      ? note("binlog_format", format, "Set ROW or MIXED: transaction() is refused with STATEMENT")
      : ok("binlog_format", format),
  ];
}

function windowsOf({ flush, log_bin, sync_binlog }: Settings): string[] {
  const windows = [
    "MySQL: a failover to an asynchronous replica may forget claims and results that were acknowledged in the last moments; those operations run again when they are retried.",
    "MySQL: restoring a backup forgets what came after it; those operations run again when they are retried.",
  ];
  if (Number(flush) !== 1) {
    const what = Number(flush) === 0 ? "the server or its machine" : "the server's machine";
    windows.unshift(
      `MySQL with innodb_flush_log_at_trx_commit = ${flush}: a crash of ${what} may forget about the last second of claims and results.`,
    );
  }
  if (Number(log_bin) !== 0 && Number(sync_binlog) !== 1) {
    windows.push(
      `MySQL with sync_binlog = ${sync_binlog}: after a crash of the machine, replicas may lack what the server has.`,
    );
  }
  return windows;
}
