// Rows of the MySQL store as the records that the contract speaks of.

import { StoreFull } from "../../errors.ts";
import type { AttemptToken, RecordId, SettleAnswer, StoredRecord } from "../../store.ts";
import { type RecordRow, type SqlInteger, storedRecord } from "../sql-record.ts";
import type { StatementRunner } from "./connection.ts";

/** Text may come as bytes: from a column of bytes, or from a connection without a character set. */
export type Text = string | Uint8Array;

/** What `statements.ts` selects of a record. */
export type MysqlRow = Omit<
  RecordRow,
  "id" | "scope" | "key" | "fingerprint" | "owner" | "reason"
> & {
  /** By the server's clock, where it was asked for. */
  instant?: SqlInteger;
  id: Text | null;
  scope: Text;
  key: Text;
  fingerprint: Text;
  owner: Text;
  reason: Text | null;
  finished: SqlInteger;
  receipt: SqlInteger | null;
};

/** A row of a record, with the receipt of what settled it. */
export interface FoundRow extends RecordRow {
  receipt: number | null;
}

/** Records as they stand, whether expired or not. */
export interface Found {
  /** By the server's clock, where the statement asked for it. */
  now: number | undefined;
  rows: ReadonlyMap<RecordId, FoundRow>;
}

/** Looks records up in one round trip. */
export async function find(run: StatementRunner, sql: string): Promise<Found> {
  const rows = await run.rows<MysqlRow>(sql);
  const found = rows.filter((row) => row.id !== null).map(recordRow);
  const instant = rows[0]?.instant;
  return {
    now: instant === undefined ? undefined : Number(instant),
    rows: new Map(found.map((row) => [row.id, row])),
  };
}

/** A row with its bytes as text where they are text. */
export function recordRow(row: MysqlRow): FoundRow {
  return {
    ...row,
    id: textOf(row.id!),
    scope: textOf(row.scope),
    key: textOf(row.key),
    fingerprint: textOf(row.fingerprint),
    owner: textOf(row.owner),
    reason: row.reason === null ? null : textOf(row.reason),
    finished: Number(row.finished),
    receipt: row.receipt === null ? null : Number(row.receipt),
  };
}

/** The live record of a row. @throws {RecordUnreadable} when it is damaged */
export function liveRecord(row: FoundRow | undefined): StoredRecord | undefined {
  return row === undefined || isExpired(row) ? undefined : storedRecord(row);
}

function isExpired({ expires }: FoundRow): boolean {
  return expires !== null && Number(expires) <= 0;
}

/**
 * What became of an append that was not counted (SM-14).
 *
 * @param isWritten whether the row has the receipt of the statement
 * @throws {StoreFull} when the record still runs this attempt: its journal has no room
 */
export function appendAnswer(
  row: FoundRow | undefined,
  { attempt, owner }: AttemptToken,
  isWritten: boolean,
): SettleAnswer {
  if (isWritten) return { kind: "settled" };
  const record = liveRecord(row);
  const isOwn = record?.attempt === attempt && record.owner === owner;
  if (!isOwn || record?.state !== "running") return { kind: "stale" };
  throw new StoreFull(
    "The results of the operation's steps take more than MySQL accepts at once; raise `max_allowed_packet`, or let steps return less",
  );
}

export function textOf(value: Text): string {
  return typeof value === "string" ? value : Buffer.from(value).toString();
}
