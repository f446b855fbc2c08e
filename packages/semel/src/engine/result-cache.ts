// Finished results of this process, bounded in entries, bytes and age. Results are immutable, so a
// hit needs no store; what an administrator removes elsewhere may be seen for `lifetimeMs` more
// (EN-4).

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

export class ResultCache {
  readonly #bounds: ResultCacheBounds;
  /** In order of use: a hit moves its entry to the end. */
  readonly #entries = new Map<RecordId, CachedResult & { staleAt: number }>();
  /** Goes on where it stopped: from the start it would pass by all that was deleted before. */
  #oldest = this.#entries.keys();
  #bytes = 0;

  constructor(bounds: ResultCacheBounds) {
    this.#bounds = bounds;
  }

  get(id: RecordId, now: number): CachedResult | undefined {
    const entry = this.#entries.get(id);
    if (entry === undefined) return undefined;
    if (entry.staleAt <= now) {
      this.delete(id);
      return undefined;
    }
    this.#entries.delete(id);
    this.#entries.set(id, entry);
    return entry;
  }

  set(id: RecordId, entry: CachedResult, now: number): void {
    const { entriesMax, bytesMax, lifetimeMs } = this.#bounds;
    if (entriesMax === 0 || bytesOf(entry) > bytesMax) return;
    this.delete(id);
    const { fingerprint, attempt, expiresAt } = entry;
    const { kind, omitted, bytes } = entry.result;
    const result = { kind, omitted, bytes: ownBytes(bytes) };
    const staleAt = Math.min(expiresAt, now + lifetimeMs);
    this.#entries.set(id, { fingerprint, attempt, result, expiresAt, staleAt });
    this.#bytes += bytesOf(entry);
    while (this.#entries.size > entriesMax || this.#bytes > bytesMax) {
      const { done, value } = this.#oldest.next();
      if (done) this.#oldest = this.#entries.keys();
      else this.delete(value);
    }
  }

  delete(id: RecordId): void {
    const entry = this.#entries.get(id);
    if (entry === undefined) return;
    this.#entries.delete(id);
    this.#bytes -= bytesOf(entry);
  }
}

/** A view would keep the whole buffer behind it in memory, such as a socket's or a pool's. */
function ownBytes(bytes: Uint8Array): Uint8Array {
  return bytes.byteLength === bytes.buffer.byteLength ? bytes : new Uint8Array(bytes);
}

function bytesOf(entry: CachedResult): number {
  return ENTRY_BYTES + entry.result.bytes.byteLength;
}
