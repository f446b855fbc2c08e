// A durable store for truth, and something fast in front of it that answers replays (ST-6). Claims and
// endings go to the truth and nowhere else, so losing the front loses speed, never safety.

import { systemClock } from "../clock.ts";
import { type Duration, durationMs } from "../duration.ts";
import { InvalidOption, StoreUnavailable } from "../errors.ts";
import { publish } from "../events.ts";
import { assertKnownOptions } from "../options.ts";
import { bounded } from "../retry.ts";
import type {
  BeginAnswer,
  Claim,
  DeleteAnswer,
  Ending,
  RecordId,
  SettleAnswer,
  Store,
  UnusedAttempt,
  VoidAnswer,
  VoidRequest,
} from "../store.ts";

export { type RedisFrontOptions, redisFront } from "./redis/front.ts";

/** Keeps copies of finished results for a while: `memoryFront()`, `redisFront(client)`. */
export interface Front {
  /** The bytes under an id and how long they stay, or nothing. */
  get(id: RecordId): Promise<{ bytes: Uint8Array; remainingMs: number } | undefined>;
  set(id: RecordId, bytes: Uint8Array, lifeMs: number): Promise<void>;
  delete(id: RecordId): Promise<void>;
}

export interface TieredStoreOptions<Truth extends Store = Store> {
  /** Where records are kept: Postgres, MySQL, SQLite, … */
  truth: Truth;
  /** What answers replays. */
  front: Front;
  /** How long the front may take before the truth is asked instead. @default "50ms" */
  frontTimeout?: Duration | undefined;
  /** After a failure, how long the front is left alone. @default "1s" */
  frontPause?: Duration | undefined;
}

/**
 * Puts a front before a durable store. A new operation costs one look into the front more, a replay
 * nothing but that look.
 *
 * @throws {InvalidOption} when an option is unknown, missing or out of bounds
 * @example const store = tieredStore({ truth: postgresStore(pool), front: redisFront(redis) });
 */
export function tieredStore<Truth extends Store>(options: TieredStoreOptions<Truth>): Truth {
  const known = ["truth", "front", "frontTimeout", "frontPause"];
  assertKnownOptions(options, known, "tieredStore()");
  const { truth, front } = options;
  if (typeof truth?.begin !== "function") throw new InvalidOption("`truth` must be a store");
  if (typeof front?.get !== "function") {
    throw new InvalidOption("`front` must be a front, such as redisFront(client) or memoryFront()");
  }
  const guarded = new GuardedFront(
    front,
    durationMs(options.frontTimeout ?? "50ms", "frontTimeout", { minMs: 1 }),
    durationMs(options.frontPause ?? "1s", "frontPause"),
  );
  const overrides = transitions(truth, guarded);
  // Everything that is not about finished results, its transactions too, is the truth's own.
  return new Proxy(truth, {
    get: (target, name) => {
      if (name in overrides) return overrides[name as keyof typeof overrides];
      const member: unknown = Reflect.get(target, name, target);
      return typeof member === "function" ? member.bind(target) : member;
    },
  });
}

/**
 * Claims whose fingerprints are remembered until they end, or are the oldest of more: then a replay fills
 * the front.
 */
const CLAIMS_MAX = 10_000;
/** A deletion has no one else to ask, so it waits longer than others. */
const FORGET_TIMEOUTS = 20;

function transitions(truth: Store, front: GuardedFront) {
  const running = new Map<string, string>();
  return {
    name: `tiered ${truth.name}`,

    async begin(claim: Claim): Promise<BeginAnswer> {
      const copy = await front.get(claim.id);
      if (copy !== undefined) {
        const { fingerprint, attempt, result, remainingMs } = copy;
        if (fingerprint !== claim.fingerprint) return { kind: "mismatch", fingerprint };
        return { kind: "done", attempt, result, expiresInMs: remainingMs };
      }
      const answer = await truth.begin(claim);
      if (answer.kind === "done") {
        const { attempt, result, expiresInMs } = answer;
        front.fill(claim.id, { fingerprint: claim.fingerprint, attempt, result }, expiresInMs);
      } else if (answer.kind === "acquired") {
        running.set(claim.owner, claim.fingerprint);
        const [oldest] = running.size > CLAIMS_MAX ? running.keys() : [];
        if (oldest !== undefined) running.delete(oldest);
      }
      return answer;
    },

    async settle(ending: Ending): Promise<SettleAnswer> {
      const answer = await truth.settle(ending);
      const fingerprint = running.get(ending.owner);
      running.delete(ending.owner);
      if (ending.kind === "complete" && answer.kind === "settled" && fingerprint !== undefined) {
        const { id, attempt, result, retentionMs } = ending;
        front.fill(id, { fingerprint, attempt, result }, retentionMs);
      }
      return answer;
    },

    ...(truth.giveBack && {
      giveBack(unused: UnusedAttempt): Promise<SettleAnswer> {
        running.delete(unused.owner);
        return truth.giveBack!(unused);
      },
    }),

    async void(request: VoidRequest): Promise<VoidAnswer> {
      const answer = await truth.void(request);
      // An earlier deletion may have left a copy, which would be replayed.
      if (answer.kind === "voided") await front.forget(request.id);
      return answer;
    },

    async delete(id: RecordId): Promise<DeleteAnswer> {
      const answer = await truth.delete(id);
      // Also when it was absent: an earlier deletion may have failed between the two.
      if (answer.kind !== "busy") await front.forget(id);
      return answer;
    },
  };
}

interface Copy {
  fingerprint: string;
  attempt: number;
  result: Uint8Array;
}

/** A front that may fail, be slow or be gone, and is then passed over. */
class GuardedFront {
  readonly #front: Front;
  readonly #timeoutMs: number;
  readonly #pauseMs: number;
  #pausedUntil = 0;

  constructor(front: Front, timeoutMs: number, pauseMs: number) {
    this.#front = front;
    this.#timeoutMs = timeoutMs;
    this.#pauseMs = pauseMs;
  }

  async get(id: RecordId): Promise<(Copy & { remainingMs: number }) | undefined> {
    if (systemClock.now() < this.#pausedUntil) return undefined;
    try {
      const found = await this.#bounded(this.#front.get(id));
      return found && found.remainingMs > 0
        ? { ...unpacked(found.bytes), remainingMs: found.remainingMs }
        : undefined;
    } catch (error) {
      this.#rest(error);
      return undefined;
    }
  }

  /** In the background: nobody waits for the front to have its copy. */
  fill(id: RecordId, copy: Copy, lifeMs: number): void {
    if (systemClock.now() < this.#pausedUntil) return;
    const lateAt = systemClock.now() + this.#timeoutMs;
    const fill = async () => {
      await this.#front.set(id, packed(copy), lifeMs);
      // As from the queue of a client that was disconnected: it would outlive its record by as much.
      if (systemClock.now() > lateAt) await this.#front.delete(id);
    };
    this.#bounded(fill()).catch((error) => this.#rest(error));
  }

  /** @throws what the front throws, or that it is late: a copy that is still there would be replayed */
  forget(id: RecordId): Promise<void> {
    const forgotten = (async () => this.#front.delete(id))();
    return bounded(systemClock, forgotten, FORGET_TIMEOUTS * this.#timeoutMs, () => {
      return new StoreUnavailable("The front did not confirm that its copy is gone; ask again");
    });
  }

  #bounded<T>(work: Promise<T>): Promise<T> {
    return bounded(systemClock, work, this.#timeoutMs, () => new Error("the front did not answer"));
  }

  #rest(error: unknown): void {
    this.#pausedUntil = systemClock.now() + this.#pauseMs;
    publish(() => ({ type: "background-failure", during: "front", error }));
  }
}

// format (1) · length of the fingerprint (1) · attempt (4, big endian) · fingerprint · result
const FORMAT = 1;
const HEAD_BYTES = 6;

function packed({ fingerprint, attempt, result }: Copy): Uint8Array {
  const bytes = Buffer.allocUnsafe(HEAD_BYTES + fingerprint.length + result.byteLength);
  bytes[0] = FORMAT;
  bytes[1] = fingerprint.length;
  bytes.writeUInt32BE(attempt, 2);
  bytes.write(fingerprint, HEAD_BYTES, "latin1");
  bytes.set(result, HEAD_BYTES + fingerprint.length);
  return bytes;
}

function unpacked(data: Uint8Array): Copy {
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  const resultAt = HEAD_BYTES + (bytes[1] ?? 0);
  if (bytes[0] !== FORMAT || bytes.length < resultAt)
    throw new Error("the front's copy is damaged");
  return {
    fingerprint: bytes.toString("latin1", HEAD_BYTES, resultAt),
    attempt: bytes.readUInt32BE(2),
    // A copy: the front may hand out the same bytes again.
    result: new Uint8Array(bytes.subarray(resultAt)),
  };
}

export interface MemoryFrontOptions {
  /** @default 10_000 */
  entriesMax?: number | undefined;
  /** @default 64 MiB */
  bytesMax?: number | undefined;
  /**
   * How long a copy is answered with; then the truth is asked. For as long, other processes replay what
   * an administrator has deleted or voided in one. @default "60s"
   */
  lifetime?: Duration | undefined;
  /** A monotonic clock in milliseconds, for tests. */
  clock?: { now(): number } | undefined;
}

/** A front in this process. @example tieredStore({ truth, front: memoryFront() }) */
export function memoryFront(options: MemoryFrontOptions = {}): Front {
  assertKnownOptions(options, ["entriesMax", "bytesMax", "lifetime", "clock"], "memoryFront()");
  const { entriesMax = 10_000, bytesMax = 64 * 2 ** 20, clock = systemClock } = options;
  const lifetimeMs = durationMs(options.lifetime ?? "60s", "lifetime", { minMs: 1 });
  const copies = new Map<RecordId, { bytes: Uint8Array; until: number; staleAt: number }>();
  let total = 0;
  const drop = (id: RecordId) => {
    total -= copies.get(id)?.bytes.byteLength ?? 0;
    copies.delete(id);
  };
  return {
    async get(id) {
      const copy = copies.get(id);
      if (copy === undefined) return undefined;
      const now = clock.now();
      const remainingMs = copy.until - now;
      if (remainingMs > 0 && now < copy.staleAt) return { bytes: copy.bytes, remainingMs };
      drop(id);
      return undefined;
    },
    async set(id, bytes, lifeMs) {
      drop(id);
      if (bytes.byteLength > bytesMax) return;
      const now = clock.now();
      copies.set(id, { bytes, until: now + lifeMs, staleAt: now + lifetimeMs });
      total += bytes.byteLength;
      for (const oldest of copies.keys()) {
        if (copies.size <= entriesMax && total <= bytesMax) return;
        drop(oldest);
      }
    },
    async delete(id) {
      drop(id);
    },
  };
}
