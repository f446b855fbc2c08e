// The records of the memory store that are not completed: few, and changing, so that they are plain
// objects.

import { IdTable, type Row } from "../id-table.ts";
import type { CrashPolicy, RecordId, RecordState } from "../store.ts";
import { ExpiryQueue } from "./memory-column.ts";

export interface ActiveRecord extends Row<ActiveRecord> {
  readonly id: RecordId;
  readonly scope: string;
  readonly key: string;
  readonly createdAt: number;
  fingerprint: string;
  state: Exclude<RecordState, "completed">;
  attempt: number;
  owner: string;
  onCrash: CrashPolicy;
  crashes: number;
  leaseUntil: number;
  reason: string | null;
  /** What attempts have appended. */
  journal: Uint8Array[];
  updatedAt: number;
  /** `null`: kept until resolved. */
  expiresAt: number | null;
  /** What the queue knows it by. */
  readonly number: number;
  next: ActiveRecord | undefined;
}

/**
 * What a record takes beside its scope and key, as measured. Never less than it takes once completed
 * with a small result, so that there is always room for that.
 */
const RECORD_BYTES = 800;

export class ActiveRecords {
  readonly #records = new IdTable<ActiveRecord>();
  readonly #expiry = new ExpiryQueue();
  readonly #numbered: (ActiveRecord | undefined)[] = [];
  readonly #unusedNumbers: number[] = [];
  #bytes = 0;

  get size(): number {
    return this.#records.size;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** What a record of this name takes. */
  static bytesFor({ scope, key }: { scope: string; key: string }): number {
    return RECORD_BYTES + Buffer.byteLength(scope) + Buffer.byteLength(key);
  }

  get(id: RecordId): ActiveRecord | undefined {
    return this.#records.get(id);
  }

  /** Those that are there from first to last, whatever else comes and goes meanwhile. */
  *values(): Iterable<ActiveRecord> {
    for (let number = 0; number < this.#numbered.length; number++) {
      const record = this.#numbered[number];
      if (record) yield record;
    }
  }

  add(
    name: { id: RecordId; scope: string; key: string },
    fingerprint: string,
    onCrash: CrashPolicy,
    now: number,
  ): ActiveRecord {
    const { id, scope, key } = name;
    const record: ActiveRecord = {
      id,
      scope,
      key,
      createdAt: now,
      fingerprint,
      state: "running",
      attempt: 0,
      owner: "",
      onCrash,
      crashes: 0,
      leaseUntil: 0,
      reason: null,
      journal: [],
      updatedAt: now,
      expiresAt: null,
      number: this.#unusedNumbers.pop() ?? this.#numbered.length,
      next: undefined,
    };
    this.#numbered[record.number] = record;
    this.#records.add(record);
    this.#bytes += ActiveRecords.bytesFor(record);
    return record;
  }

  delete(record: ActiveRecord): void {
    this.#expiry.delete(record.number);
    this.#numbered[record.number] = undefined;
    this.#unusedNumbers.push(record.number);
    this.#records.delete(record);
    this.#bytes -= ActiveRecords.bytesFor(record);
    for (const bytes of record.journal) this.#bytes -= bytes.byteLength;
  }

  append(record: ActiveRecord, bytes: Uint8Array): void {
    record.journal.push(bytes.slice());
    this.#bytes += bytes.byteLength;
  }

  expireAt(record: ActiveRecord, expiresAt: number | null): void {
    record.expiresAt = expiresAt;
    if (expiresAt === null) this.#expiry.delete(record.number);
    else this.#expiry.set(record.number, expiresAt);
  }

  /** The record that ends first, if it has ended. */
  expired(now: number): ActiveRecord | undefined {
    const number = this.#expiry.expired(now);
    return number === undefined ? undefined : this.#numbered[number];
  }
}
