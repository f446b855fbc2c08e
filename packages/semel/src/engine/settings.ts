// What the constructor takes, checked once.

import { type Clock, systemClock } from "../clock.ts";
import { type Codec, isolated, jsonCodec } from "../codec.ts";
import { type Duration, durationMs } from "../duration.ts";
import { InvalidOption } from "../errors.ts";
import { assertInteger, assertKnownOptions, assertMethods } from "../options.ts";
import type { Store, StoreTransactions } from "../store.ts";
import { Cipher, type EncryptionOptions, Names } from "./at-rest.ts";
import { OPERATION_OPTIONS, type OperationOptions, policyOf } from "./policy.ts";

export interface IdempotencyOptions<Transaction = unknown> extends OperationOptions {
  /** Where records are kept. */
  store: Store & { readonly transactions?: StoreTransactions<Transaction> };
  /**
   * Finished results kept in this process, so that repeated replays need no store. What an
   * administrator removes elsewhere may be seen for `lifetime` more. `false` switches it off.
   * @default { entries: 1000, bytes: 8 MiB, lifetime: "60s" }
   */
  cache?:
    | false
    | { entries?: number | undefined; bytes?: number | undefined; lifetime?: Duration | undefined }
    | undefined;
  /** Larger results are not kept: duplicates get `result-not-stored` (ST-10). @default 1 MiB */
  maxResultBytes?: number | undefined;
  /** How long the store may take to answer before an operation begins. @default "2s" */
  storeTimeout?: Duration | undefined;
  /** How long the write that ends an attempt is retried. @default "5s" */
  completionRetry?: Duration | undefined;
  /** Collection of expired records; `false` leaves it to other processes. @default every 60 s, 1,000 a batch */
  sweep?: false | { every?: Duration | undefined; batch?: number | undefined } | undefined;
  /** How values become bytes. @default {@link jsonCodec} */
  codec?: Codec | undefined;
  /** Encrypts results, inputs and payloads at rest (ST-11). @default off */
  encryption?: EncryptionOptions | undefined;
  /**
   * A secret of at least 16 bytes, under which scopes, keys and fingerprints are stored as keyed
   * hashes (ST-11). It must stay the same: with another one, no record is found. @default off
   */
  hashKeys?: Uint8Array | undefined;
  /** Time and timers, for tests. */
  clock?: Clock | undefined;
  /** Chance, for tests: a number from 0 up to 1, as `Math.random` gives. */
  random?: (() => number) | undefined;
}

const OPTIONS = [
  ...OPERATION_OPTIONS,
  "store",
  "cache",
  "maxResultBytes",
  "storeTimeout",
  "completionRetry",
  "sweep",
  "codec",
  "encryption",
  "hashKeys",
  "clock",
  "random",
];
const STORE_METHODS = [
  "begin",
  "settle",
  "renew",
  "read",
  "sweep",
  "resolve",
  "void",
  "delete",
  "list",
  "stats",
];

export type Settings = ReturnType<typeof settingsOf>;

/** @throws {InvalidOption} for an option that is unknown or out of bounds */
export function settingsOf<Transaction>(options: IdempotencyOptions<Transaction>) {
  assertKnownOptions(options, OPTIONS, "new Idempotency()");
  assertStore(options.store);
  const { clock = systemClock, random = Math.random, maxResultBytes = 2 ** 20 } = options;
  const names = new Names(options.hashKeys);
  const cipher = options.encryption && new Cipher(options.encryption);
  assertMethods(clock, "clock", ["now", "schedule"]);
  assertMethods({ random }, "random", ["random"]);
  assertMethods(options.codec ?? jsonCodec, "codec", ["encode", "decode"]);
  assertInteger(maxResultBytes, "maxResultBytes", 0, 2 ** 30);
  return {
    clock,
    random,
    names,
    cipher,
    maxResultBytes,
    codec: isolated(options.codec ?? jsonCodec),
    cache: cacheBounds(options.cache),
    sweep: sweeperSettings(options.sweep),
    policy: policyOf(options),
    storeTimeoutMs: durationMs(options.storeTimeout ?? "2s", "storeTimeout", { minMs: 1 }),
    completionRetryMs: durationMs(options.completionRetry ?? "5s", "completionRetry"),
  };
}

/** @throws {InvalidOption} when it is something else, such as a store */
export function assertIdempotency(idempotency: unknown): void {
  const methods = ["run", "begin", "policy"];
  const what = "must be an Idempotency, as `new Idempotency({ store })` makes it";
  assertMethods(idempotency, "idempotency", methods, what);
}

function assertStore(store: unknown): asserts store is Store {
  const methods = store as Record<string, unknown> | null | undefined;
  const missing = STORE_METHODS.filter((name) => typeof methods?.[name] !== "function");
  if (missing.length === 0) return;
  throw new InvalidOption(
    `\`store\` must be a store, such as memoryStore() or sqliteStore(database); it lacks ${missing.join(", ")}`,
  );
}

function cacheBounds(cache: IdempotencyOptions["cache"]) {
  if (cache === false) return { entriesMax: 0, bytesMax: 0, lifetimeMs: 0 };
  const { entries = 1_000, bytes = 8 * 2 ** 20, lifetime = "60s" } = cache ?? {};
  if (cache) assertKnownOptions(cache, ["entries", "bytes", "lifetime"], "`cache`");
  assertInteger(entries, "cache.entries", 0, 2 ** 24);
  assertInteger(bytes, "cache.bytes", 0, 2 ** 32);
  const lifetimeMs = durationMs(lifetime, "cache.lifetime");
  return { entriesMax: entries, bytesMax: bytes, lifetimeMs };
}

function sweeperSettings(sweep: IdempotencyOptions["sweep"]) {
  if (sweep === false) return undefined;
  const { every = "60s", batch = 1_000 } = sweep ?? {};
  if (sweep) assertKnownOptions(sweep, ["every", "batch"], "`sweep`");
  assertInteger(batch, "sweep.batch", 1, 100_000);
  return { everyMs: durationMs(every, "sweep.every", { minMs: 10 }), batch };
}
