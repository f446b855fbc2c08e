// Finished results of this process, bounded in entries, bytes and age. Results are immutable, so a
// hit needs no store; what an administrator removes elsewhere may be seen for `lifetimeMs` more
// (EN-4).

import { Chain, type Link } from "../chain.ts";
import type { Clock } from "../clock.ts";
import { IdTable, type Row } from "../id-table.ts";
import type { RecordId } from "../store.ts";
import type { StoredResult } from "./envelope.ts";

export interface CachedResult {
  fingerprint: string;
  attempt: number;
  result: StoredResult;
  /** When the record itself ends, by the engine's monotonic clock. */
  expiresAt: number;
}

export interface ResultCacheBounds {
  entriesMax: number;
  bytesMax: number;
  lifetimeMs: number;
}

/** What an entry takes beside its bytes, roughly. */
const ENTRY_BYTES = 500;

interface Entry extends Link<Entry>, Row<Entry> {
  readonly fingerprint: string;
  readonly attempt: number;
  readonly expiresAt: number;
  readonly staleAt: number;
  readonly size: number;
  readonly kind: StoredResult["kind"];
  readonly omitted: boolean;
  /** The bytes of the result, one in each character, until it is asked for. */
  readonly text: string;
  /** Made once: what is decoded of a result is remembered by its identity. */
  result: StoredResult | undefined;
}

export class ResultCache {
  readonly #bounds: ResultCacheBounds;
  readonly #entries = new IdTable<Entry>();
  /** In order of use: a hit moves its entry to the end. */
  readonly #byUse = new Chain<Entry>();
  #bytes = 0;
  #forgotten = 0;

  constructor(bounds: ResultCacheBounds) {
    this.#bounds = bounds;
  }

  get(id: RecordId, clock: Pick<Clock, "now">): CachedResult | undefined {
    const entry = this.#entries.get(id);
    if (entry === undefined) return undefined;
    if (entry.staleAt <= clock.now()) {
      this.#remove(entry);
      return undefined;
    }
    this.#byUse.toEnd(entry);
    const { fingerprint, attempt, expiresAt } = entry;
    entry.result ??= resultOf(entry);
    return { fingerprint, attempt, result: entry.result, expiresAt };
  }

  set(id: RecordId, cached: CachedResult, now: number): void {
    const { entriesMax, bytesMax, lifetimeMs } = this.#bounds;
    const { fingerprint, attempt, result, expiresAt } = cached;
    const { kind, omitted, bytes } = result;
    const size = ENTRY_BYTES + bytes.byteLength;
    if (entriesMax === 0 || size > bytesMax) return;
    this.delete(id);
    const isOwn = bytes.byteLength === bytes.buffer.byteLength;
    const entry: Entry = {
      id,
      fingerprint,
      attempt,
      expiresAt,
      staleAt: Math.min(expiresAt, now + lifetimeMs),
      size,
      kind,
      omitted,
      // A view would keep the whole buffer behind it in memory, such as a socket's or a pool's. Most
      // entries are never asked for, and text is several times as cheap to make as another buffer.
      text: isOwn ? "" : textOf(bytes),
      result: isOwn ? { kind, omitted, bytes } : undefined,
      before: undefined,
      after: undefined,
      next: undefined,
    };
    this.#entries.add(entry);
    this.#byUse.add(entry);
    this.#bytes += size;
    while (this.#entries.size > entriesMax || this.#bytes > bytesMax) {
      this.#remove(this.#byUse.first!);
    }
  }

  /**
   * How often something was to be forgotten: what was asked of the store before that must not be
   * remembered after it.
   */
  get forgotten(): number {
    return this.#forgotten;
  }

  /** An administrator has decided about it. */
  forget(id: RecordId): void {
    this.#forgotten++;
    this.delete(id);
  }

  delete(id: RecordId): void {
    const entry = this.#entries.get(id);
    if (entry !== undefined) this.#remove(entry);
  }

  #remove(entry: Entry): void {
    this.#entries.delete(entry);
    this.#byUse.delete(entry);
    this.#bytes -= entry.size;
  }
}

function textOf(bytes: Uint8Array): string {
  const { buffer, byteOffset, byteLength } = bytes;
  const view = bytes instanceof Buffer ? bytes : Buffer.from(buffer, byteOffset, byteLength);
  return view.toString("latin1");
}

function resultOf({ kind, omitted, text }: Entry): StoredResult {
  return { kind, omitted, bytes: new Uint8Array(Buffer.from(text, "latin1")) };
}
