// What can be wrong with a SQLite file, and with where it lies.

import { statfsSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { shownBytes } from "../output.ts";
import { flagsNaming } from "../stores/address.ts";
import type { OpenSqlite } from "../stores/sqlite.ts";
import { type Diagnosis, type Finding, mend, note, ok } from "./finding.ts";

/** Magic numbers of statfs(2) where locks, or what was written, may not hold. */
const REMOTE: ReadonlyMap<number, string> = new Map([
  [0x6969, "NFS"],
  [0xff534d42, "CIFS"],
  [0xfe534d42, "SMB"],
  [0x517b, "SMB"],
  [0x01021997, "9P"],
  [0x65735546, "FUSE"],
]);
const TMPFS = 0x01021994;
const FREE_BYTES_MIN = 100 * 2 ** 20;

export async function diagnoseSqlite({ database, path, table }: OpenSqlite): Promise<Diagnosis> {
  const pragma = (name: string) => Object.values(database.prepare(`PRAGMA ${name}`).all()[0]!)[0];
  const mode = String(pragma("journal_mode"));
  const migrate = `semel migrate ${flagsNaming(`sqlite:${path}`, { table })}`;
  const isFull = Number(pragma("synchronous")) >= 2;
  const findings = [
    mode === "wal"
      ? ok("journal", "write-ahead log")
      : mend("journal", `journal_mode is ${mode}`, `Run \`${migrate}\`, which sets WAL`),
    isFull
      ? ok("durability", "synchronous = FULL, as the gateway opens the file")
      : note("durability", "synchronous is below FULL"),
    ok("clock", "the file's users share this machine's clock"),
  ];
  const place = path.startsWith("file:") ? [] : placeOf(path);
  return { findings: [...findings, ...place], windows: WINDOWS };
}

/** Of the store itself, whatever is set. */
const WINDOWS = [
  "SQLite: the loss or the restoring of the file forgets what it held; those operations run again when they are retried.",
  'SQLite: an application that opens the file with `synchronous: "normal"` may forget the last moments at a power cut; this command cannot see that.',
  "SQLite: this machine's wall clock judges leases; set forward by more than a lease, it ends leases early.",
];

function placeOf(path: string): Finding[] {
  const folder = dirname(resolve(path));
  const { type, bavail, bsize } = statfsSync(folder);
  const remote = REMOTE.get(type >>> 0);
  const freeBytes = bavail * bsize;
  return [
    remote !== undefined
      ? mend(
          "place",
          `the file is on ${remote}`,
          "Keep it on a disk of this machine: over a network, SQLite's locks may not hold",
        )
      : type === TMPFS
        ? mend(
            "place",
            "the file is in memory (tmpfs)",
            "Keep it on a disk: a restart of the machine forgets it",
          )
        : ok("place", "a file system of this machine"),
    freeBytes < FREE_BYTES_MIN
      ? mend(
          "room",
          `${shownBytes(freeBytes)} free`,
          "Make room: without it, nothing runs (store-full)",
        )
      : ok("room", `${shownBytes(freeBytes)} free`),
  ];
}
